"""Dagster's PostgreSQL storage on pooled connections, patient with the database, for every process that `dagster.yaml` configures.

Dagster opens a connection for each statement group, except in its webserver: 40-50 ms for each event, so that planning a run of 72
partitions held the daemon up for 4 s and writing its events cost the run as much again. The webserver's own way of pooling
(`optimize_for_webserver`, which every PostgreSQL storage has) is applied to all.

A connection that is lost in the middle of a statement would end the run whose event was being written. Each method of the storages is
repeated instead, for half a minute; at worst an event is there twice.
"""

import functools
import inspect
import logging
import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import psycopg2  # type: ignore[import-untyped]
import sqlalchemy.exc
from dagster import AssetCheckEvaluation, EventLogEntry
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage
from dagster_postgres.utils import DagsterPostgresException, pg_url_from_config

logger = logging.getLogger(__name__)

_STATEMENT_TIMEOUT_MS = 60_000
_POOL_RECYCLE_SECONDS = 3600
# One connection is kept; the threads of a busy daemon may open so many more for a while.
_MOST_EXTRA_CONNECTIONS = 20
_PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.25
# Adding a run that is there already is an error of its own.
_NOT_REPEATED = ("optimize_for_webserver", "upgrade", "wipe", "dispose", "add_run")
# Set while a thread is inside a repeated method: what that one calls is repeated with it, and not by itself.
_inside = threading.local()

T = TypeVar("T")


def _is_lost_connection(error: Exception) -> bool:
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated:
        return True
    # Those of psycopg2 itself come from the statement that each new connection begins with.
    passing = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, psycopg2.OperationalError, psycopg2.InterfaceError)
    return isinstance(error, (*passing, DagsterPostgresException))


def _patient(method: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(method)
    def repeated(*arguments: Any, **named: Any) -> T:
        if getattr(_inside, "is_repeated", False):
            return method(*arguments, **named)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        _inside.is_repeated = True
        try:
            while True:
                try:
                    return method(*arguments, **named)
                except Exception as lost:
                    if not _is_lost_connection(lost) or time.monotonic() > deadline:
                        raise
                    logger.warning("dagster_storage.repeated method=%s cause=%s", method.__name__, type(lost).__name__)
                    time.sleep(_PAUSE_SECONDS)
        finally:
            _inside.is_repeated = False

    return repeated


def _all_patient(storage: type[T]) -> type[T]:
    """Wraps the public methods of a storage class, but for those that hand out connections."""
    for name, method in inspect.getmembers(storage, inspect.isfunction):
        if not name.startswith("_") and not inspect.isgeneratorfunction(inspect.unwrap(method)) and name not in _NOT_REPEATED:
            setattr(storage, name, _patient(method))
    return storage


@_all_patient
class _EventLog(PostgresEventLogStorage):
    """Check evaluations for less: a prewarm writes 216 of them, and they are most of what its events cost.

    Dagster asks the database at each evaluation whether the table of checks is there, serialises the event twice, and writes it in three
    statements; here it asks once and writes one. Rows are the same (tested), but for a NOTIFY that nothing of this version listens to.
    """

    @cached_property
    def supports_asset_checks(self) -> bool:
        return bool(super().supports_asset_checks)

    def store_event(self, event: EventLogEntry) -> None:
        evaluation = event.dagster_event.event_specific_data if event.dagster_event else None
        if not isinstance(evaluation, AssetCheckEvaluation) or not event.run_id or evaluation.partition is None:
            super().store_event(event)
            return
        target = evaluation.target_materialization_data
        row = self._event_to_row(event) | {
            "evaluated_asset_key": evaluation.asset_key.to_string(),
            "check_name": evaluation.check_name,
            "evaluated_partition": evaluation.partition,
            "status": "SUCCEEDED" if evaluation.passed else "FAILED",
            "materialization_id": target.storage_id if target else None,
        }
        with self._connect() as connection:
            stored = connection.exec_driver_sql(_STORE_EVALUATION, row).one()
        if not stored.updated:
            # A run that was not planned for this partition.
            self._update_asset_check_evaluation(event, stored.id)


_STORE_EVALUATION = """
WITH inserted AS (
    INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
    VALUES (%(run_id)s, %(event)s, %(dagster_event_type)s, %(timestamp)s, %(step_key)s, %(asset_key)s, %(partition)s)
    RETURNING id, event, timestamp
), updated AS (
    UPDATE asset_check_executions AS planned
    SET execution_status = %(status)s, evaluation_event = inserted.event, evaluation_event_timestamp = inserted.timestamp,
        evaluation_event_storage_id = inserted.id, materialization_event_storage_id = %(materialization_id)s
    FROM inserted
    WHERE planned.asset_key = %(evaluated_asset_key)s AND planned.check_name = %(check_name)s AND planned.run_id = %(run_id)s
        AND planned.partition = %(evaluated_partition)s
    RETURNING planned.id
)
SELECT inserted.id, (SELECT count(*) FROM updated) AS updated FROM inserted
"""


@_all_patient
class _Runs(PostgresRunStorage):
    pass


@_all_patient
class _Schedules(PostgresScheduleStorage):
    pass


class PooledPostgresStorage(DagsterPostgresStorage):
    """`storage: custom:` in dagster.yaml, with the same config as `storage: postgres:`."""

    def __init__(self, postgres_url: str, should_autocreate_tables: bool = True, inst_data: Any = None) -> None:
        super().__init__(postgres_url, should_autocreate_tables, inst_data)
        self._event_log_storage = _EventLog(postgres_url, should_autocreate_tables)
        self._run_storage = _Runs(postgres_url, should_autocreate_tables)
        self._schedule_storage = _Schedules(postgres_url, should_autocreate_tables)

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
