"""Which rows may go, and taking them away: one `Disposal` a kind of rows, its statements in the noun's `.sql` file.

Each kind is counted, picked (keys only, oldest first, no locks) and removed (a batch of keys, with the condition checked again, passing
over rows that somebody has locked). How old is old, how large a batch and how long a run: `engine/retention.py`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries

# Any constant; one retention at a time in a database.
_LOCK = 720_410_100_203


@dataclass(frozen=True, slots=True)
class Disposal:
    """`noun` is the `.sql` file, the others are names of statements in it; `rows` counts the whole table."""

    noun: str
    rows: str
    count: str
    pick: str
    remove: str

    def statement(self, name: str) -> bytes:
        return named_queries(self.noun)[name]


CACHE_SURPLUS = Disposal("cache", "count_rows", "count_surplus", "pick_surplus", "delete_surplus")
CACHE_GENERATING = Disposal("cache", "count_rows", "count_generating", "pick_generating", "delete_generating")
RUN_LOGS = Disposal("run_logs", "count_rows", "count_old", "pick_old", "delete_old")
RUN_LOG_TEXTS = Disposal("run_logs", "count_rows", "count_old_texts", "pick_old_texts", "redact")
RUN_LOG_DAYS = Disposal("run_log_sums", "count_rows", "count_old_days", "pick_old_days", "delete_old_days")
LIVE_EVENTS = Disposal("live_events", "count_rows", "count_old", "pick_old", "delete_old")
TRIGGER_JOBS = Disposal("trigger_jobs", "count_rows", "count_old", "pick_old", "delete_old")
EVENTS = Disposal("events", "count_rows", "count_old", "pick_old", "delete_old")
SEEN_ETL_RUNS = Disposal("events", "count_etl_runs", "count_old_etl_runs", "pick_old_etl_runs", "delete_old_etl_runs")
ALERTS = Disposal("alerts", "count_rows", "count_resolved", "pick_resolved", "delete_resolved")
ALERT_DELIVERIES = Disposal("alerts", "count_delivery_rows", "count_ended_deliveries", "pick_ended_deliveries", "delete_ended_deliveries")
BATCHES = Disposal("batches", "count_rows", "count_old", "pick_old", "delete_old")
SANDBOX_ANSWERS = Disposal("sandbox_answers", "count_rows", "count_old", "pick_old", "delete_old")
BUDGET_WINDOWS = Disposal("budget_windows", "count_rows", "count_old", "pick_old", "delete_old")
EVENT_RUNS = Disposal("event_runs", "count_rows", "count_old", "pick_old", "delete_old")
RATE_LIMITS = Disposal("rate_limits", "count_rows", "count_idle", "pick_idle", "delete_idle")


@dataclass(frozen=True, slots=True)
class Picked:
    """A row that may go: its key, and the moment that it is ordered by."""

    key: int | str
    at: datetime


def try_lock(connection: Connection) -> bool:
    """Whether this session is now the one that cleans; until `unlock`, or the connection's end."""
    row = connection.execute("SELECT pg_try_advisory_lock(%s) AS locked", [_LOCK]).fetchone()
    return bool(row and row["locked"])


def unlock(connection: Connection) -> None:
    connection.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


def rows_now(connection: Connection, disposal: Disposal) -> int:
    """Rows of the whole table."""
    return _number(connection, disposal.statement(disposal.rows), {})


def due(connection: Connection, disposal: Disposal, parameters: dict[str, Any]) -> int:
    """How many rows may go."""
    return _number(connection, disposal.statement(disposal.count), parameters)


def crowded_caches(connection: Connection, keep: int) -> list[tuple[str, int]]:
    """(cache_type, site_id) that have more than `keep` rows at all: only there can be a surplus."""
    rows = connection.execute(named_queries("cache")["crowded"], {"keep": keep})
    return [(row["cache_type"], row["site_id"]) for row in rows]


def pick(connection: Connection, disposal: Disposal, parameters: dict[str, Any], *, after: Picked | None, rows: int) -> list[Picked]:
    """The oldest `rows` that may go, after `after` in order of age."""
    position = {"after_at": after.at if after else "-infinity", "after_key": str(after.key) if after else "0", "rows": rows}
    return [Picked(**row) for row in connection.execute(disposal.statement(disposal.pick), {**parameters, **position})]


def remove(connection: Connection, disposal: Disposal, parameters: dict[str, Any], keys: list[int | str]) -> int:
    """Deletes (or redacts) those of `keys` that may still go and that nobody has locked; returns how many. Inside a transaction."""
    return connection.execute(disposal.statement(disposal.remove), {**parameters, "keys": keys}).rowcount


def _number(connection: Connection, statement: bytes, parameters: dict[str, Any]) -> int:
    row = connection.execute(statement, parameters).fetchone()
    assert row is not None
    return int(row["rows"])
