"""Migrations of our tables: Alembic that runs plain, numbered `.sql` files, never edited once landed.

A second run changes nothing. Two runs at once wait for each other on an advisory lock. A table that already exists is adopted, see
`versions/0001_foundation.sql`.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.rows import DictRow
from sqlalchemy import Connection, create_engine, pool, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from zqyy_ai.domain.errors import SchemaConflict

# Any constant will do; it only has to be the same in every process.
MIGRATION_LOCK = 7_204_101_001
SCHEMA_CONFLICT_SQLSTATE = "ZQ001"
TRIGGER_ROWS = ("ai_consumption_settled", "ai_note_created", "ai_task_assigned", "ai_dws_completed", "ai_dws_prewarm_0830")


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """`current` is None on a database that was never migrated."""

    current: str | None
    head: str

    @property
    def is_current(self) -> bool:
        return self.current == self.head


def migrate(database_url: str) -> SchemaVersion:
    """Brings the database to the newest schema and returns the version.

    Raises SchemaConflict when an existing table contradicts ours; nothing was changed then.
    """
    engine = create_engine(_driver_url(database_url), poolclass=pool.NullPool)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            connection.execute(text("CREATE SCHEMA IF NOT EXISTS biz"))
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            return _version(connection)
    except (DBAPIError, psycopg.Error) as failure:
        cause = failure.orig if isinstance(failure, DBAPIError) else failure
        if isinstance(cause, psycopg.Error) and cause.sqlstate == SCHEMA_CONFLICT_SQLSTATE:
            raise SchemaConflict(cause.diag.message_primary) from None
        raise
    finally:
        engine.dispose()


def schema_version(database_url: str) -> SchemaVersion:
    engine = create_engine(_driver_url(database_url), poolclass=pool.NullPool)
    try:
        with engine.connect() as connection:
            return _version(connection)
    finally:
        engine.dispose()


@cache
def newest_version() -> str:
    """The version that `migrate` brings a database to."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def applied_version(connection: psycopg.Connection[DictRow]) -> str | None:
    """The version of the database, as the API's role may read it. Raises psycopg.errors.UndefinedTable where nothing was ever migrated."""
    row = connection.execute("SELECT version_num FROM biz.zqyy_ai_version").fetchone()
    return row["version_num"] if row else None


def remove_trigger_rows(database_url: str) -> int:
    """Takes the five trigger rows back (the original manual's rollback) and returns how many there were.

    `migrate` does not bring them back; docs/operations.md has the statement that does.
    """
    with psycopg.connect(database_url) as connection:
        return connection.execute("DELETE FROM biz.trigger_jobs WHERE job_name = ANY(%s)", [list(TRIGGER_ROWS)]).rowcount


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def _version(connection: Connection) -> SchemaVersion:
    context = MigrationContext.configure(connection, opts={"version_table": "zqyy_ai_version", "version_table_schema": "biz"})
    return SchemaVersion(current=context.get_current_revision(), head=newest_version())


def _driver_url(database_url: str) -> str:
    return make_url(database_url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
