"""Run logs for people to look through, page by page.

How many rows match, and on which days they are, is read from the sums (`run_log_sums.py`): neither a total nor a far page reads millions
of rows.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from psycopg.types.json import Jsonb

from zqyy_ai.domain.access import SiteScope
from zqyy_ai.domain.apps import APPS
from zqyy_ai.domain.business_clock import start_of_day
from zqyy_ai.domain.runtime_context import RuntimeMode
from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries
from zqyy_ai.store.run_log_sums import OUTCOMES_OF_STATUS


@dataclass(frozen=True, slots=True)
class RunLogFilter:
    """None: any. `runtime_mode`: `live` or `sandbox`. Days are those of Asia/Shanghai, both included."""

    scope: SiteScope
    app_type: str | None = None
    status: str | None = None
    trigger_type: str | None = None
    member_id: int | None = None
    trigger_job_id: int | None = None
    runtime_mode: str | None = None
    date_from: date | None = None
    date_to: date | None = None

    def parameters(self) -> dict[str, Any]:
        return {
            "site_ids": self.scope.ids,
            "app_type": self.app_type,
            "status": self.status,
            "outcomes": None if self.status is None else list(OUTCOMES_OF_STATUS.get(self.status, (self.status,))),
            "trigger_type": self.trigger_type,
            "member_id": self.member_id,
            "trigger_job_id": self.trigger_job_id,
            "runtime_mode": self.runtime_mode,
            "day_from": self.date_from,
            "day_to": self.date_to,
            "begins_at": start_of_day(self.date_from) if self.date_from else None,
            "ends_at": start_of_day(self.date_to + timedelta(days=1)) if self.date_to else None,
        }


@dataclass(frozen=True, slots=True)
class RunLogRow:
    """`outcome` is the status, but `refused` for what a guard refused. Tokens that DashScope did not report are None."""

    id: int
    app_type: str
    trigger_type: str
    trigger_job_id: int | None
    site_id: int
    member_id: int | None
    assistant_id: int | None
    target_id: str | None
    tokens_used: int
    input_tokens: int | None
    output_tokens: int | None
    latency_ms: int | None
    status: str
    outcome: str
    error_code: str | None
    runtime_mode: str
    sandbox_date: date | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class RunLogDetail:
    """A row with its texts (None where retention took them out) and the answer that it brought or reused, while that is in the cache."""

    row: RunLogRow
    request_prompt: str | None
    response_text: str | None
    error_message: str | None
    session_id: str | None
    request_id: str | None
    dagster_run_id: str | None
    model_ids: list[str]
    usage_reported: bool | None
    redacted_at: datetime | None
    cache_id: int | None
    number_check: dict[str, Any] | None


def find_page(connection: Connection, wanted: RunLogFilter, *, offset: int, rows: int) -> tuple[list[RunLogRow], int]:
    """The newest rows after `offset` of them, at most `rows`, and how many match in all."""
    parameters = wanted.parameters()
    # The sums hold what was live. Of a sandbox, a member or a job there are few.
    if wanted.runtime_mode != RuntimeMode.LIVE or wanted.member_id is not None or wanted.trigger_job_id is not None:
        counted = connection.execute(named_queries("run_log_pages")["count"], parameters).fetchone()
        assert counted is not None
        total = int(counted["logs"])
    else:
        days = [(row["day"], row["logs"]) for row in connection.execute(named_queries("run_log_pages")["count_by_day"], parameters)]
        total = sum(logs for _, logs in days)
        offset, newest, oldest = _days_of_page(days, offset, rows)
        if newest is not None and oldest is not None:
            parameters |= {"begins_at": start_of_day(oldest), "ends_at": start_of_day(newest + timedelta(days=1))}
    if offset >= total:
        return [], total
    found = connection.execute(named_queries("run_log_pages")["page"], {**parameters, "offset": offset, "rows": rows})
    return [RunLogRow(**row) for row in found], total


def _days_of_page(days: list[tuple[date, int]], offset: int, rows: int) -> tuple[int, date | None, date | None]:
    """Of days with their rows, the newest first: the newest and the oldest day of a page, and the offset within them."""
    newest: date | None = None
    skipped = reached = 0
    for day, logs in days:
        if newest is None and reached + logs > offset:
            newest, skipped = day, reached
        reached += logs
        if newest is not None and reached >= offset + rows:
            return offset - skipped, newest, day
    return offset - skipped, newest, days[-1][0] if newest is not None else None


def get(connection: Connection, scope: SiteScope, log_id: int) -> RunLogDetail | None:
    """None for one that is not there, or not the scope's to see."""
    cache_types = Jsonb({app.value: row.cache_type for app, row in APPS.items()})
    row = connection.execute(
        named_queries("run_log_pages")["get"], {"site_ids": scope.ids, "log_id": log_id, "cache_types": cache_types}
    ).fetchone()
    return None if row is None else _detail(row)


def of_job(connection: Connection, scope: SiteScope, job_id: int, *, rows: int) -> list[RunLogRow]:
    """A job's rows, oldest first."""
    found = connection.execute(named_queries("run_log_pages")["of_job"], {"site_ids": scope.ids, "job_id": job_id, "rows": rows})
    return [RunLogRow(**row) for row in found]


def _detail(row: dict[str, Any]) -> RunLogDetail:
    more = {name: row.pop(name) for name in RunLogDetail.__slots__ if name != "row"}
    check = more["number_check"]
    more["number_check"] = check if isinstance(check, dict) else None
    more["model_ids"] = more["model_ids"] or []
    return RunLogDetail(row=RunLogRow(**row), **more)
