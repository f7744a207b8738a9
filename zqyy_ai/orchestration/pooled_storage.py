"""Dagster's PostgreSQL storage on pooled connections, for every process that `dagster.yaml` configures.

Dagster opens a connection for each statement group, except in its webserver: 40-50 ms for each event, so that planning a run of 72
partitions held the daemon up for 4 s and writing its events cost the run as much again. The webserver's own way of pooling
(`optimize_for_webserver`, which every PostgreSQL storage has) is applied to all.
"""

from functools import cached_property
from typing import Any

from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from dagster_postgres.utils import pg_url_from_config

_STATEMENT_TIMEOUT_MS = 60_000
_POOL_RECYCLE_SECONDS = 3600
# One connection is kept; the threads of a busy daemon may open so many more for a while.
_MOST_EXTRA_CONNECTIONS = 20


class _EventLog(PostgresEventLogStorage):
    """Looks only once whether the table of checks is there: Dagster asks the database at each evaluation, 144 times a prewarm."""

    @cached_property
    def supports_asset_checks(self) -> bool:
        return bool(super().supports_asset_checks)


class PooledPostgresStorage(DagsterPostgresStorage):
    """`storage: custom:` in dagster.yaml, with the same config as `storage: postgres:`."""

    def __init__(self, postgres_url: str, should_autocreate_tables: bool = True, inst_data: Any = None) -> None:
        super().__init__(postgres_url, should_autocreate_tables, inst_data)
        self._event_log_storage = _EventLog(postgres_url, should_autocreate_tables)

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> "PooledPostgresStorage":
        storage = cls(
            postgres_url=pg_url_from_config(config_value),
            should_autocreate_tables=config_value.get("should_autocreate_tables", True),
            inst_data=inst_data,
        )
        for part in (storage.run_storage, storage.event_log_storage, storage.schedule_storage):
            part.optimize_for_webserver(
                statement_timeout=_STATEMENT_TIMEOUT_MS, pool_recycle=_POOL_RECYCLE_SECONDS, max_overflow=_MOST_EXTRA_CONNECTIONS
            )
        return storage
