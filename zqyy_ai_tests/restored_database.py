"""A database that the tests of one module share, put back before each test: a tenth of the price of a fresh one each.

For tests that only change rows. Whoever changes the schema, or needs two databases, asks for `database_url`.
"""

from psycopg import sql

from zqyy_ai.store.database import Database

_REMEMBER = """
DO $$
DECLARE
    snapshot text := current_setting('zqyy_tests.snapshot');
    found record;
    statements text := '';
BEGIN
    EXECUTE format('CREATE SCHEMA %I', snapshot);
    FOR found IN
        SELECT nspname AS home, relname AS name FROM pg_class JOIN pg_namespace home ON home.oid = relnamespace
        WHERE relkind = 'r' AND (nspname IN ('biz', 'demo_dws') OR relname = 'member_retention_clue') AND relname <> 'zqyy_ai_version'
    LOOP
        EXECUTE format('CREATE TABLE %1$I.%2$I AS TABLE %3$I.%4$I', snapshot, found.home || '.' || found.name, found.home, found.name);
        statements := statements || format('DELETE FROM %3$I.%4$I; INSERT INTO %3$I.%4$I SELECT * FROM %1$I.%2$I;',
                                           snapshot, found.home || '.' || found.name, found.home, found.name);
    END LOOP;
    EXECUTE format('CREATE FUNCTION %I.restore() RETURNS void LANGUAGE sql AS %L', snapshot, statements);
END
$$;
"""


def remember(database: Database, snapshot: str = "before_tests") -> None:
    """Keeps the rows of all our tables, of the demo warehouse and of the clues under a name, for `restore`."""
    with database.transaction() as connection:
        connection.execute("SELECT set_config('zqyy_tests.snapshot', %s, true)", [snapshot])
        connection.execute(_REMEMBER)


def restore(database: Database, snapshot: str = "before_tests") -> None:
    with database.transaction() as connection:
        connection.execute(sql.SQL("SELECT {}.restore()").format(sql.Identifier(snapshot)))
