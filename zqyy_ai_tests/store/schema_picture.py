"""A database's schema as text lines, and its rows, for a comparison of before and after."""

from typing import Any

import psycopg

_SCHEMA = """
SELECT format('%s.%s.%s %s %s %s', n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
              CASE WHEN a.attnotnull THEN 'not null' ELSE '' END, coalesce(pg_get_expr(d.adbin, d.adrelid), a.attidentity::text)) AS line
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
UNION ALL
SELECT format('%s on %s: %s', conname, conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint WHERE conrelid <> 0
UNION ALL
SELECT format('function %s %s', p.oid::regprocedure, md5(p.prosrc))
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
UNION ALL
SELECT format('schema %s', nspname) FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'
ORDER BY 1
"""


def schema_of(database_url: str) -> list[str]:
    with psycopg.connect(database_url) as connection:
        return [line for (line,) in connection.execute(_SCHEMA)]


def rows_of(database_url: str, table: str) -> list[dict[str, Any]]:
    """All rows of a table as JSON objects, in no particular order."""
    with psycopg.connect(database_url) as connection:
        found = connection.execute(psycopg.sql.SQL("SELECT to_jsonb(t) FROM {} AS t").format(psycopg.sql.Identifier(*table.split("."))))
        return sorted((row for (row,) in found), key=str)
