"""`biz.ai_event_runs`: the runs that take member jobs as they come.

    (none) ── open ──→ open ── close, by itself or by who gives it up ──→ closed
                        └── the lease runs out (its process died)

A run that closes looks once more for work after the row says so: what comes later finds no open run, and the sensor asks for one. A run
that Dagster has given up, though its process may live on, is closed by recovery; the process sees it and ends.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries

_LONGEST_END = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class EventRunRow:
    """A run that is open by its lease. `age` is counted by the database's clock."""

    run_id: str
    opened_at: datetime
    age: timedelta


def open_run(connection: Connection, run_id: str, *, worker_id: UUID, lease: timedelta) -> None:
    """Says that the run takes jobs from now on, or again."""
    connection.execute(named_queries("event_runs")["open"], {"run_id": run_id, "worker_id": worker_id, "lease": lease})


def close_run(connection: Connection, run_id: str) -> None:
    connection.execute(named_queries("event_runs")["close"], {"run_id": run_id})


def is_open(connection: Connection, run_id: str) -> bool:
    """Whether nobody has closed the run."""
    row = connection.execute(named_queries("event_runs")["is_open"], {"run_id": run_id}).fetchone()
    return bool(row and row["is_open"])


def open_runs(connection: Connection) -> list[EventRunRow]:
    """Runs that take jobs, the oldest first."""
    return [EventRunRow(**row) for row in connection.execute(named_queries("event_runs")["open_runs"])]


def dead_runs(connection: Connection, run_ids: list[str]) -> set[str]:
    """Those of the runs that are open although their lease is over, or that have closed and not ended for a minute, with no job left."""
    parameters = {"run_ids": run_ids, "longest_end": _LONGEST_END}
    return {row["run_id"] for row in connection.execute(named_queries("event_runs")["dead"], parameters)}


def known_runs(connection: Connection, run_ids: list[str]) -> set[str]:
    """Those of the runs that were ever opened."""
    return {row["run_id"] for row in connection.execute(named_queries("event_runs")["known"], {"run_ids": run_ids})}
