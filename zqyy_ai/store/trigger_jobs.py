"""`biz.ai_trigger_jobs`: the work. States and transitions are drawn in `domain/jobs.py`.

A worker claims a job with a lease and a fencing token, both of which it must still hold when it ends the job.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from zqyy_ai.domain.events import EventType
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.store import live_events
from zqyy_ai.store.database import Connection
from zqyy_ai.store.events import WORK_CHANNEL
from zqyy_ai.store.queries import named_queries

# How long a site counts as asked for after the sensor asked for its run; afterwards, with no run in sight, it is asked for again. The
# sensor's next tick begins when Dagster has made the runs of the last one: only a tick that a dead daemon left behind asks in vain.
REQUEST_LEASE = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class NewJob:
    event_type: EventType
    site_id: int
    business_date: date
    dedup_key: str
    app_chain: str
    payload: dict[str, Any]
    is_forced: bool = False
    member_id: int | None = None
    connector_type: str = "feiqiu"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class TriggerJob:
    """A row, as far as we decide by it."""

    id: int
    event_type: str
    site_id: int
    status: JobStatus
    payload: dict[str, Any]
    is_forced: bool
    business_date: date | None
    dedup_key: str | None
    attempt: int
    fencing_token: int
    duplicate_count: int
    sent_back_count: int
    not_before: datetime | None
    run_id: str | None
    progress: dict[str, int]
    error_message: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def regenerate(self) -> bool:
        """Whether answers older than the job may not be reused."""
        return bool(self.payload.get("regenerate"))

    @property
    def given_up(self) -> dict[str, str]:
        """Targets that failed for good in an earlier round of this job, with their error codes."""
        given_up: dict[str, str] = self.payload.get("given_up") or {}
        return given_up

    @property
    def only_missing(self) -> bool:
        """Whether windows that still have a valid answer are left as they are."""
        return bool(self.payload.get("only_missing"))


def add(connection: Connection, job: NewJob) -> int:
    """Adds a pending job, wakes those who wait for work, and returns its id."""
    row = connection.execute(
        named_queries("trigger_jobs")["add"],
        {
            "event_type": job.event_type.value,
            "site_id": job.site_id,
            "member_id": job.member_id,
            "connector_type": job.connector_type,
            "payload": Jsonb(job.payload),
            "is_forced": job.is_forced,
            "app_chain": job.app_chain,
            "dedup_key": job.dedup_key,
            "business_date": job.business_date,
            "priority": job.priority,
        },
    ).fetchone()
    assert row is not None
    job_id = int(row["id"])
    wake_workers(connection)
    _announce(connection, job.site_id, job_id, JobStatus.PENDING)
    return job_id


def add_running(connection: Connection, job: NewJob, *, run_id: str, worker_id: UUID, lease: timedelta) -> TriggerJob:
    """Adds the job row of a run that a person started, already claimed by that run."""
    row = connection.execute(
        named_queries("trigger_jobs")["add_running"],
        {
            "event_type": job.event_type.value,
            "site_id": job.site_id,
            "payload": Jsonb(job.payload),
            "app_chain": job.app_chain,
            "dedup_key": job.dedup_key,
            "business_date": job.business_date,
            "run_id": run_id,
            "worker_id": worker_id,
            "lease": lease,
        },
    ).fetchone()
    assert row is not None
    return _job(row)


def wake_workers(connection: Connection) -> None:
    """Wakes those who listen for work, when the transaction commits."""
    connection.execute("SELECT pg_notify(%s, '')", [WORK_CHANNEL])


def get(connection: Connection, job_id: int) -> TriggerJob | None:
    row = connection.execute(named_queries("trigger_jobs")["get"], {"job_id": job_id}).fetchone()
    return _job(row) if row else None


def blocking_jobs(connection: Connection, event_type: EventType, site_id: int, business_date: date, mode: str) -> list[TriggerJob]:
    """Jobs of a site and business date that can stand for a new event: pending, running or completed ones, oldest first."""
    rows = connection.execute(
        named_queries("trigger_jobs")["open_of_site"],
        {"event_type": event_type.value, "site_id": site_id, "business_date": business_date, "mode": mode},
    )
    return [_job(row) for row in rows]


def count_duplicate(connection: Connection, job_id: int, etl_run_id: str | None) -> None:
    """Counts an event on the job that stands for it, and notes the load that it named."""
    connection.execute(named_queries("trigger_jobs")["count_duplicate"], {"job_id": job_id, "etl_run_id": etl_run_id})


def supersede_past(connection: Connection, site_id: int, business_date: date) -> int:
    """Completes pending finished-load jobs of business dates before `business_date`; returns how many."""
    return connection.execute(named_queries("trigger_jobs")["supersede"], {"site_id": site_id, "business_date": business_date}).rowcount


def claim_dws_job(connection: Connection, site_id: int, *, run_id: str, worker_id: UUID, lease: timedelta) -> TriggerJob | None:
    """Claims the site's next pending finished-load job for a run; None when there is none that may start now."""
    row = connection.execute(
        named_queries("trigger_jobs")["claim_of_site"],
        {"site_id": site_id, "run_id": run_id, "worker_id": worker_id, "lease": lease},
    ).fetchone()
    if row is None:
        return None
    job = _job(row)
    _announce(connection, job.site_id, job.id, JobStatus.RUNNING)
    return job


def claimed_by(connection: Connection, site_id: int, *, run_id: str, worker_id: UUID) -> TriggerJob | None:
    """The site's job that this worker claimed for this run and has not ended."""
    row = connection.execute(
        named_queries("trigger_jobs")["claimed_by"], {"site_id": site_id, "run_id": run_id, "worker_id": worker_id}
    ).fetchone()
    return _job(row) if row else None


def finish(connection: Connection, job: TriggerJob, status: JobStatus, error_message: str | None = None) -> bool:
    """Ends a claimed job. False when its lease was lost to somebody else; nothing was changed then."""
    row = connection.execute(
        named_queries("trigger_jobs")["finish"],
        {
            "job_id": job.id,
            "fencing_token": job.fencing_token,
            "status": status.value,
            "error_message": error_message[:1000] if error_message else None,
        },
    ).fetchone()
    if row:
        _announce(connection, job.site_id, job.id, status)
    return row is not None


def finish_covered(connection: Connection, job: TriggerJob, data_read_at: datetime) -> list[int]:
    """Completes the site's waiting finished-load jobs that asked before `data_read_at`: the completed `job` did their work too."""
    rows = connection.execute(
        named_queries("trigger_jobs")["finish_covered"],
        {"job_id": job.id, "site_id": job.site_id, "run_id": job.run_id, "data_read_at": data_read_at},
    ).fetchall()
    for row in rows:
        _announce(connection, job.site_id, row["id"], JobStatus.COMPLETED)
    return [row["id"] for row in rows]


def send_back(connection: Connection, job: TriggerJob, not_before: datetime, reason: str, given_up: dict[str, str]) -> bool:
    """Returns a claimed job to the queue until `not_before`, without spending an attempt. False when the lease was lost.

    `given_up`: targets, with their error codes, that failed for good; the job's next round does not pay for them again.
    """
    row = connection.execute(
        named_queries("trigger_jobs")["send_back"],
        {
            "job_id": job.id,
            "fencing_token": job.fencing_token,
            "not_before": not_before,
            "error_message": reason[:1000],
            "given_up": Jsonb(given_up),
        },
    ).fetchone()
    if row:
        _announce(connection, job.site_id, job.id, JobStatus.PENDING)
    return row is not None


def hasten(connection: Connection) -> int:
    """Prewarms that were sent back need not wait out their pause: what held calls is over. Returns how many."""
    hastened = connection.execute(named_queries("trigger_jobs")["hasten"]).rowcount
    if hastened:
        wake_workers(connection)
    return hastened


def record_progress(connection: Connection, job: TriggerJob, progress: dict[str, int]) -> None:
    """Keeps the job's counters (total, done, reused, failed, calls, tokens) for those who watch, and the moment of this step."""
    connection.execute(
        named_queries("trigger_jobs")["progressed"],
        {"job_id": job.id, "fencing_token": job.fencing_token, "progress": Jsonb(progress)},
    )


def sites_wanting_a_run(connection: Connection) -> list[int]:
    """Active sites with a finished-load job that may start now, and no run that was just asked for or is at work."""
    rows = connection.execute(named_queries("trigger_jobs")["sites_wanting_a_run"], {"request_lease": REQUEST_LEASE})
    return [row["site_id"] for row in rows]


def mark_run_requested(connection: Connection, site_ids: Iterable[int]) -> set[int]:
    """Marks the sites' jobs as asked for; returns those sites that this call, and no other, marked. Call inside a transaction."""
    # A statement of its own: the next one then sees what whoever had the lock before has marked.
    connection.execute(named_queries("trigger_jobs")["lock_run_requests"])
    rows = connection.execute(
        named_queries("trigger_jobs")["mark_run_requested"], {"site_ids": list(site_ids), "request_lease": REQUEST_LEASE}
    )
    return {row["site_id"] for row in rows}


def give_up_lost(connection: Connection, *, max_attempts: int, dead_run_id: str | None = None) -> list[TriggerJob]:
    """Running jobs whose lease ran out, or that `dead_run_id` held: back to pending, or dead when their attempts are spent.

    A job that a person's run wrote for itself is failed: the person sees the run's end and repeats it.
    """
    rows = connection.execute(
        named_queries("trigger_jobs")["give_up_lost"], {"max_attempts": max_attempts, "run_id": dead_run_id}
    ).fetchall()
    jobs = [_job(row) for row in rows]
    for job in jobs:
        _announce(connection, job.site_id, job.id, job.status)
    if any(job.status is JobStatus.PENDING for job in jobs):
        wake_workers(connection)
    return jobs


def cancel_of_run(connection: Connection, run_id: str) -> list[TriggerJob]:
    """Ends the jobs that a run held which a person cancelled: `partial` when some of its work is done, else `failed`."""
    jobs = [_job(row) for row in connection.execute(named_queries("trigger_jobs")["cancel_of_run"], {"run_id": run_id})]
    for job in jobs:
        _announce(connection, job.site_id, job.id, job.status)
    return jobs


def runs_at_work(connection: Connection) -> list[str]:
    """The runs that hold a job, as far as we know."""
    rows = connection.execute(named_queries("trigger_jobs")["runs_at_work"])
    return [row["run_id"] for row in rows]


def runs_left_by_their_job(connection: Connection, run_ids: Iterable[str], lease: timedelta) -> set[str]:
    """Those of the runs whose job is no longer running, and has not moved for longer than a lease."""
    rows = connection.execute(named_queries("trigger_jobs")["runs_left"], {"run_ids": list(run_ids), "lease": lease})
    return {row["run_id"] for row in rows}


def prewarmed_sites(connection: Connection, site_ids: Iterable[int], business_date: date) -> set[int]:
    """Those of the sites that have a finished-load job of that date which is pending, running or completed."""
    rows = connection.execute(
        named_queries("trigger_jobs")["prewarmed_sites"], {"site_ids": list(site_ids), "business_date": business_date}
    )
    return {row["site_id"] for row in rows}


def _announce(connection: Connection, site_id: int, job_id: int, status: JobStatus) -> None:
    live_events.publish(connection, "job_updated", site_id, {"trigger_job_id": job_id, "status": status.value})


def _job(row: dict[str, Any]) -> TriggerJob:
    columns = {name: row[name] for name in TriggerJob.__slots__}
    columns["status"] = JobStatus(row["status"])
    columns["payload"] = row["payload"] or {}
    return TriggerJob(**columns)
