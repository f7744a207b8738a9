"""Runs the plain `.sql` file beside a migration."""

from pathlib import Path

from alembic import op


def execute_beside(migration_file: str) -> None:
    """Runs `<migration>.sql` on the driver's own cursor: many statements, and no `%` or `:` that would be taken for a parameter."""
    connection = op.get_bind().connection.dbapi_connection
    assert connection is not None
    cursor = connection.cursor()
    cursor.execute(Path(migration_file).with_suffix(".sql").read_text(encoding="utf-8"))
    cursor.close()
