"""Trigger jobs for people to look through, page by page, and one job with all that belongs to it."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from zqyy_ai.domain.access import SiteScope
from zqyy_ai.domain.business_clock import start_of_day
from zqyy_ai.domain.json_text import read_json
from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries


@dataclass(frozen=True, slots=True)
class JobFilter:
    """None: any. Days, those of Asia/Shanghai, are of the job's creation, both included."""

    scope: SiteScope
    event_type: str | None = None
    status: str | None = None
    member_id: int | None = None
    date_from: date | None = None
    date_to: date | None = None

    def parameters(self) -> dict[str, Any]:
        return {
            "site_ids": self.scope.ids,
            "event_type": self.event_type,
            "status": self.status,
            "member_id": self.member_id,
            "begins_at": start_of_day(self.date_from) if self.date_from else None,
            "ends_at": start_of_day(self.date_to + timedelta(days=1)) if self.date_to else None,
        }


@dataclass(frozen=True, slots=True)
class JobRow:
    id: int
    event_type: str
    site_id: int
    member_id: int | None
    status: str
    app_chain: str | None
    is_forced: bool
    duplicate_count: int
    attempt: int
    retry_of: int | None
    run_id: str | None
    batch_id: UUID | None
    business_date: date | None
    runtime_mode: str
    not_before: datetime | None
    progress: dict[str, Any]
    error_message: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobDetail:
    """`payload` is None for one that can't be shown. `retry_ids`: jobs that retry this one."""

    row: JobRow
    payload: dict[str, Any] | None
    connector_type: str
    retry_ids: list[int]
    merged_events: int


@dataclass(frozen=True, slots=True)
class MergedEvent:
    """An inbox event that the job stands for."""

    id: int
    event_name: str | None
    created_at: datetime
    handled_at: datetime | None


def find_page(connection: Connection, wanted: JobFilter, *, offset: int, rows: int) -> tuple[list[JobRow], int]:
    """The newest jobs after `offset` of them, at most `rows`, and how many match in all."""
    parameters = wanted.parameters()
    counted = connection.execute(named_queries("job_pages")["count"], parameters).fetchone()
    assert counted is not None
    total = int(counted["jobs"])
    if offset >= total:
        return [], total
    found = connection.execute(named_queries("job_pages")["page"], {**parameters, "offset": offset, "rows": rows})
    return [JobRow(**row) for row in found], total


def duplicates_since(connection: Connection, scope: SiteScope, since: datetime) -> int:
    """Events that were merged into jobs whose last event came since then."""
    counted = connection.execute(named_queries("job_pages")["duplicates"], {"site_ids": scope.ids, "since": since}).fetchone()
    assert counted is not None
    return int(counted["duplicates"])


def waiting_jobs(connection: Connection, scope: SiteScope) -> int:
    """Jobs in the queue, those that wait for a later moment too."""
    counted = connection.execute(named_queries("job_pages")["waiting"], {"site_ids": scope.ids}).fetchone()
    assert counted is not None
    return int(counted["jobs"])


def get(connection: Connection, scope: SiteScope, job_id: int) -> JobDetail | None:
    """None for one that is not there, or not the scope's to see."""
    row = connection.execute(named_queries("job_pages")["get"], {"site_ids": scope.ids, "job_id": job_id}).fetchone()
    if row is None:
        return None
    payload = read_json(row.pop("payload_text"))
    return JobDetail(
        payload=payload if isinstance(payload, dict) else None,
        connector_type=row.pop("connector_type"),
        retry_ids=row.pop("retry_ids"),
        merged_events=row.pop("merged_events"),
        row=JobRow(**row),
    )


def merged_events(connection: Connection, scope: SiteScope, job_id: int, *, rows: int) -> list[MergedEvent]:
    """The inbox events that the job stands for, the one that it began with first."""
    found = connection.execute(named_queries("job_pages")["events"], {"site_ids": scope.ids, "job_id": job_id, "rows": rows})
    return [MergedEvent(**row) for row in found]


@dataclass(frozen=True, slots=True)
class QueueState:
    """A site's unfinished jobs. `oldest_due_at`: since when the longest waiting one may start; None when none is due."""

    site_id: int
    pending: int
    running: int
    oldest_due_at: datetime | None


def queue_states(connection: Connection, scope: SiteScope) -> list[QueueState]:
    """Of each site that has any."""
    return [QueueState(**row) for row in connection.execute(named_queries("job_pages")["queue"], {"site_ids": scope.ids})]


@dataclass(frozen=True, slots=True)
class QueueMovement:
    """Over all sites. `oldest_due_age_seconds` is None when nothing is due; `has_moved`: some job has gone on lately."""

    oldest_due_age_seconds: float | None
    has_moved: bool


def queue_movement(connection: Connection, *, lately: timedelta) -> QueueMovement:
    row = connection.execute(named_queries("job_pages")["movement"], {"lately": lately}).fetchone()
    assert row is not None
    return QueueMovement(**row)


def newest_prewarm(connection: Connection, scope: SiteScope, site_id: int) -> JobRow | None:
    """The site's finished-load job that runs, else the one that waits, else the newest."""
    found = connection.execute(named_queries("job_pages")["newest_prewarm"], {"site_ids": scope.ids, "site_id": site_id}).fetchone()
    return JobRow(**found) if found else None
