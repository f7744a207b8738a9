"""Sums of the run logs: `biz.ai_run_log_days` and `biz.ai_run_log_totals` for hours that are closed, the logs themselves for those after.

An hour is closed when it ended more than two hours ago and all its rows have ended too, or a week after that: what an old dispatcher left
running stays in its sums as it was. A closed hour is never opened again. Whoever reads adds both parts in one statement, so that a row is
counted once, whatever is being closed meanwhile.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from zqyy_ai.domain.access import SiteScope
from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries

# Upper bounds of the latency histogram, in milliseconds; beyond the last there is only the number of all calls.
LATENCY_BOUNDS_MS = (500, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 60_000, 120_000, 180_000)
_CLOSES_AFTER = timedelta(hours=2)
_GIVEN_UP_AFTER = timedelta(days=7)

CALL_OUTCOMES = ("success", "failed", "timeout")
REFUSED = "refused"
REUSED = "reused"
# A run log's status, as the sums have it: a refusal's is `failed`.
OUTCOMES_OF_STATUS = {"failed": ("failed", REFUSED)}


@dataclass(frozen=True, slots=True)
class DaySum:
    """Rows of one day, application and outcome, over the sites that were asked for. Tokens as in `RunSum`."""

    day: date
    app_type: str
    outcome: str
    logs: int
    tokens: int
    input_tokens: int
    output_tokens: int
    latency_ms: int


@dataclass(frozen=True, slots=True)
class RunSum:
    """Rows of a site, application and outcome since ever. `tokens` were charged; input and output are what DashScope reported of them.

    `latency_counts` are cumulative, by `LATENCY_BOUNDS_MS`. `refusal` is the guard's reason, '' for all but refused rows.
    """

    site_id: int | None
    app_type: str
    outcome: str
    refusal: str
    logs: int
    tokens: int
    input_tokens: int
    output_tokens: int
    latency_ms: int
    latency_counts: list[int]
    last_at: datetime


def close_next(connection: Connection) -> bool | None:
    """Closes the next hours that may be, of one day at most. False: none may be closed now; None: somebody else is at it.

    Inside a transaction, short enough to be repeated until False.
    """
    queries = named_queries("run_log_sums")
    locked = connection.execute(queries["try_lock"]).fetchone()
    if locked is None or not locked["locked"]:
        return None
    # A statement of its own: it sees what whoever had the lock before has closed.
    span = connection.execute(queries["next_span"], {"closes_after": _CLOSES_AFTER, "given_up_after": _GIVEN_UP_AFTER}).fetchone()
    if span is None:
        return False
    connection.execute(queries["close"], {**span, "bounds": list(LATENCY_BOUNDS_MS)})
    return True


def by_day(connection: Connection, scope: SiteScope, days: Iterable[date]) -> list[DaySum]:
    """In no order; nothing for a day, application or outcome without rows."""
    rows = connection.execute(named_queries("run_log_sums")["by_day"], {"site_ids": scope.ids, "days": list(days)})
    return [DaySum(**row) for row in rows]


def since_ever(connection: Connection, scope: SiteScope) -> list[RunSum]:
    """For counters: no number is ever smaller than it was, but for those of rows that have not ended. A key may come twice."""
    rows = connection.execute(named_queries("run_log_sums")["since_ever"], {"site_ids": scope.ids, "bounds": list(LATENCY_BOUNDS_MS)})
    return [RunSum(**row) for row in rows]


@dataclass(frozen=True, slots=True)
class LastCall:
    """The newest call of an application that has ended. `outcome` is one of `CALL_OUTCOMES`."""

    app_type: str
    outcome: str
    last_at: datetime


def last_calls(connection: Connection, scope: SiteScope) -> list[LastCall]:
    """One an application; none for an application that was never called."""
    rows = connection.execute(named_queries("run_log_sums")["last_calls"], {"site_ids": scope.ids, "outcomes": list(CALL_OUTCOMES)})
    return [LastCall(**row) for row in rows]


@dataclass(frozen=True, slots=True)
class SiteUse:
    """Calls of a site and application in a range of days, and what they cost. Tokens as in `RunSum`."""

    site_id: int
    app_type: str
    calls: int
    tokens: int
    input_tokens: int
    output_tokens: int


def use_by_site(connection: Connection, scope: SiteScope, first: date, last: date) -> list[SiteUse]:
    """Both days included; in the order of sites and applications, without those that called nothing."""
    wanted = {"site_ids": scope.ids, "first": first, "last": last, "outcomes": list(CALL_OUTCOMES)}
    return [SiteUse(**row) for row in connection.execute(named_queries("run_log_sums")["use_by_site"], wanted)]
