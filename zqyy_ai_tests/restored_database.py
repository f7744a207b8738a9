"""A database that the tests of one module share, put back before each test: a tenth of the price of a fresh one each.

For tests that only change rows. Whoever changes the schema, or needs two databases, asks for `database_url`.
"""

from zqyy_ai.store.database import Database

_REMEMBER = """
CREATE SCHEMA before_tests;
DO $$
DECLARE
    name text;
    statements text := '';
BEGIN
    FOR name IN SELECT relname FROM pg_class WHERE relnamespace = 'biz'::regnamespace AND relkind = 'r' AND relname <> 'zqyy_ai_version' LOOP
        EXECUTE format('CREATE TABLE before_tests.%1$I AS TABLE biz.%1$I', name);
        statements := statements || format('DELETE FROM biz.%1$I; INSERT INTO biz.%1$I SELECT * FROM before_tests.%1$I;', name);
    END LOOP;
    EXECUTE format('CREATE FUNCTION before_tests.restore() RETURNS void LANGUAGE sql AS %L', statements);
END
$$;
"""


def remember(database: Database) -> None:
    """Keeps the rows of all our tables, for `restore`."""
    with database.transaction() as connection:
        connection.execute(_REMEMBER)


def restore(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("SELECT before_tests.restore()")
