"""`biz.ai_trigger_jobs`: the work. States and transitions are drawn in `domain/jobs.py`.

A worker claims a job with a lease and a fencing token, both of which it must still hold when it ends the job.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from zqyy_ai.domain.events import EventType
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.domain.runtime_context import RuntimeContext, RuntimeMode
from zqyy_ai.store import live_events
from zqyy_ai.store.database import Connection
from zqyy_ai.store.events import WORK_CHANNEL
from zqyy_ai.store.queries import named_queries
from zqyy_ai.store.storable_text import storable

# How long a site counts as asked for after the sensor asked for its run; afterwards, with no run in sight, it is asked for again. The
# sensor's next tick begins when Dagster has made the runs of the last one: only a tick that a dead daemon left behind asks in vain.
REQUEST_LEASE = timedelta(seconds=15)

_ANY_ATTEMPT = range(1_000_000)


@dataclass(frozen=True, slots=True)
class NewJob:
    event_type: EventType
    site_id: int
    business_date: date
    dedup_key: str
    app_chain: str
    payload: dict[str, Any]
    # Whoever makes a job looks up its site's: a job that takes the default would be live in a site's sandbox.
    context: RuntimeContext
    is_forced: bool = False
    member_id: int | None = None
    connector_type: str = "feiqiu"
    priority: int = 0
    retry_of: int | None = None
    batch_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class TriggerJob:
    """A row, as far as we decide by it."""

    id: int
    event_type: str
    site_id: int
    member_id: int | None
    status: JobStatus
    payload: dict[str, Any]
    app_chain: str | None
    is_forced: bool
    is_own_run: bool
    priority: int
    retry_of: int | None
    batch_id: UUID | None
    business_date: date | None
    dedup_key: str | None
    attempt: int
    fencing_token: int
    duplicate_count: int
    sent_back_count: int
    failed_rounds: int
    not_before: datetime | None
    run_id: str | None
    progress: dict[str, int]
    error_message: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    runtime_mode: str = RuntimeMode.LIVE.value
    sandbox_date: date | None = None

    @property
    def context(self) -> RuntimeContext:
        """In which the job was made, and runs whatever its site's is by now."""
        return RuntimeContext(RuntimeMode(self.runtime_mode), self.sandbox_date)

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
    [job_id] = add_all(connection, [job])
    return job_id


def add_all(connection: Connection, jobs: Sequence[NewJob]) -> list[int]:
    """The same for several, in a few round trips; ids in the order of the jobs."""
    if not jobs:
        return []
    job_ids = []
    with connection.cursor() as cursor:
        cursor.executemany(named_queries("trigger_jobs")["add"], [_new_row(job) for job in jobs], returning=True)
        for _ in jobs:
            row = cursor.fetchone()
            assert row is not None
            job_ids.append(int(row["id"]))
            cursor.nextset()
    wake_workers(connection)
    live_events.publish_all(
        connection,
        "job_updated",
        [(job.site_id, {"trigger_job_id": job_id, "status": JobStatus.PENDING.value}) for job, job_id in zip(jobs, job_ids, strict=True)],
    )
    return job_ids


def _new_row(job: NewJob) -> dict[str, Any]:
    return {
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
        "retry_of": job.retry_of,
        "batch_id": job.batch_id,
        "runtime_mode": job.context.mode.value,
        "sandbox_date": job.context.sandbox_date,
    }


def add_running(connection: Connection, job: NewJob, *, run_id: str, worker_id: UUID, lease: timedelta) -> TriggerJob:
    """Adds the job row of a run that a person started, already claimed by that run."""
    row = connection.execute(
        named_queries("trigger_jobs")["add_running"],
        {
            **_new_row(job),
            "run_id": run_id,
            "worker_id": worker_id,
            "lease": lease,
        },
    ).fetchone()
    assert row is not None
    added = _job(row)
    _announce(connection, added.site_id, added.id, added.status)
    return added


def wake_workers(connection: Connection) -> None:
    """Wakes those who listen for work, when the transaction commits."""
    connection.execute("SELECT pg_notify(%s, '')", [WORK_CHANNEL])


def get(connection: Connection, job_id: int) -> TriggerJob | None:
    row = connection.execute(named_queries("trigger_jobs")["get"], {"job_id": job_id}).fetchone()
    return _job(row) if row else None


def get_locked(connection: Connection, job_id: int) -> TriggerJob | None:
    """The same, and nobody else decides about the row until the transaction ends."""
    row = connection.execute(named_queries("trigger_jobs")["get_locked"], {"job_id": job_id}).fetchone()
    return _job(row) if row else None


def blocking_jobs(connection: Connection, event_type: EventType, site_id: int, business_date: date, mode: str) -> list[TriggerJob]:
    """Jobs of a site and business date that can stand for a new event: pending, running or completed ones, oldest first."""
    rows = connection.execute(
        named_queries("trigger_jobs")["open_of_site"],
        {"event_type": event_type.value, "site_id": site_id, "business_date": business_date, "mode": mode},
    )
    return [_job(row) for row in rows]


def standing_jobs(connection: Connection, dedup_keys: Iterable[str]) -> list[TriggerJob]:
    """Jobs with these keys that can stand for a new event: pending, running or completed ones, oldest first."""
    return [_job(row) for row in connection.execute(named_queries("trigger_jobs")["standing"], {"dedup_keys": list(dedup_keys)})]


def lock_waiting(connection: Connection, job_ids: Iterable[int]) -> set[int]:
    """Those of the jobs that nobody has claimed; nobody does until the transaction ends."""
    wanted = list(job_ids)
    if not wanted:
        return set()
    return {row["id"] for row in connection.execute(named_queries("trigger_jobs")["lock_waiting"], {"job_ids": wanted})}


def count_duplicates(connection: Connection, events_by_job: dict[int, int]) -> None:
    """Counts events on the jobs that stand for them."""
    rows = [{"job_id": job_id, "events": events} for job_id, events in sorted(events_by_job.items())]
    connection.cursor().executemany(named_queries("trigger_jobs")["count_duplicates"], rows)


def merge_events(connection: Connection, merged: Mapping[int, tuple[dict[str, Any], str]]) -> None:
    """Gives jobs that have not begun the payload and the chain of what has been merged into them: by the job's id."""
    rows = [{"job_id": job_id, "payload": Jsonb(payload), "app_chain": chain} for job_id, (payload, chain) in sorted(merged.items())]
    connection.cursor().executemany(named_queries("trigger_jobs")["merge_events"], rows)


def count_duplicate(connection: Connection, job_id: int, etl_run_id: str | None) -> None:
    """Counts an event on the job that stands for it, and notes the load that it named."""
    connection.execute(named_queries("trigger_jobs")["count_duplicate"], {"job_id": job_id, "etl_run_id": etl_run_id})


def supersede_past(connection: Connection, site_id: int, business_date: date) -> int:
    """Completes pending live finished-load jobs of business dates before `business_date`; returns how many."""
    rows = connection.execute(named_queries("trigger_jobs")["supersede"], {"site_id": site_id, "business_date": business_date}).fetchall()
    for row in rows:
        _announce(connection, site_id, row["id"], JobStatus.COMPLETED)
    return len(rows)


def claim_dws_job(
    connection: Connection, site_id: int, *, run_id: str, worker_id: UUID, lease: timedelta, only_live: bool = False
) -> TriggerJob | None:
    """Claims the site's next pending finished-load job for a run; None when there is none that may start now."""
    row = connection.execute(
        named_queries("trigger_jobs")["claim_of_site"],
        {"site_id": site_id, "run_id": run_id, "worker_id": worker_id, "lease": lease, "only_live": only_live},
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


def claim_member_jobs(
    connection: Connection,
    *,
    run_id: str,
    worker_id: UUID,
    lease: timedelta,
    most: int,
    most_of_site: int,
    least_priority: int,
    held: Mapping[int, int],
    attempts: range = _ANY_ATTEMPT,
) -> list[TriggerJob]:
    """Claims at most `most` waiting member jobs of `least_priority` or above, the sites in turn; only those that have spent so many `attempts`.

    A site that holds n chains already (`held`) gets at most `most_of_site` - n. Never two jobs of one member at a time.
    """
    rows = connection.execute(
        named_queries("trigger_jobs")["claim_member_jobs"],
        {
            "run_id": run_id,
            "worker_id": worker_id,
            "lease": lease,
            "most": most,
            "most_of_site": most_of_site,
            "least_priority": least_priority,
            "least_attempt": attempts.start,
            "most_attempt": attempts.stop - 1,
            "site_ids": list(held),
            "chains": list(held.values()),
        },
    ).fetchall()
    jobs = sorted((_job(row) for row in rows), key=lambda job: (-job.priority, job.id))
    live_events.publish_all(
        connection, "job_updated", [(job.site_id, {"trigger_job_id": job.id, "status": JobStatus.RUNNING.value}) for job in jobs]
    )
    return jobs


def held_by_worker(connection: Connection, *, run_id: str, worker_id: UUID, known: Iterable[int]) -> list[TriggerJob]:
    """Jobs that the worker claimed for this run and does not know of: the claim's confirmation got lost."""
    rows = connection.execute(
        named_queries("trigger_jobs")["held_by_worker"], {"run_id": run_id, "worker_id": worker_id, "known": list(known)}
    )
    return [_job(row) for row in rows]


def has_member_work(connection: Connection) -> bool:
    """Whether a member job of an active site may start now."""
    row = connection.execute(named_queries("trigger_jobs")["has_member_work"]).fetchone()
    return bool(row and row["waiting"])


def touch(connection: Connection, job_ids: Iterable[int], worker_id: UUID) -> None:
    """Jobs that wait for their next step within a worker are not stuck."""
    connection.execute(named_queries("trigger_jobs")["touch"], {"job_ids": list(job_ids), "worker_id": worker_id})


def members_with_jobs(connection: Connection, since: datetime) -> set[tuple[int, int]]:
    """(site id, member id) of the members whom a job of ours made since then names."""
    rows = connection.execute(named_queries("trigger_jobs")["members_with_jobs"], {"since": since})
    return {(row["site_id"], row["member_id"]) for row in rows}


@dataclass(frozen=True, slots=True)
class Ancestry:
    """A job and those that it retries, itself first. `first_created_at` is the oldest one's."""

    job_ids: tuple[int, ...]
    first_created_at: datetime


def ancestry(connection: Connection, job_id: int) -> Ancestry:
    rows = connection.execute(named_queries("trigger_jobs")["ancestry"], {"job_id": job_id}).fetchall()
    return Ancestry(tuple(row["id"] for row in rows), rows[-1]["created_at"])


def open_retry_of(connection: Connection, job_id: int) -> TriggerJob | None:
    """The job's retry that has not ended, if there is one."""
    row = connection.execute(named_queries("trigger_jobs")["open_retry"], {"job_id": job_id}).fetchone()
    return _job(row) if row else None


@dataclass(frozen=True, slots=True)
class BatchShare:
    """The jobs of a batch that have one status. `done`, `failed` and `reused` count steps."""

    status: JobStatus
    jobs: int
    calls: int
    tokens: int
    done: int
    failed: int
    reused: int
    not_before: datetime | None
    error_message: str | None


def batch_shares(connection: Connection, batch_id: UUID) -> list[BatchShare]:
    rows = connection.execute(named_queries("trigger_jobs")["batch_progress"], {"batch_id": batch_id})
    return [BatchShare(**{**row, "status": JobStatus(row["status"])}) for row in rows]


def cancel_of_batch(connection: Connection, batch_id: UUID, reason: str) -> int:
    """Ends the waiting jobs of a batch as `failed`, with this reason; returns how many. What runs is left alone."""
    rows = connection.execute(named_queries("trigger_jobs")["cancel_of_batch"], {"batch_id": batch_id, "reason": reason}).fetchall()
    live_events.publish_all(
        connection, "job_updated", [(row["site_id"], {"trigger_job_id": row["id"], "status": JobStatus.FAILED.value}) for row in rows]
    )
    return len(rows)


def newest(
    connection: Connection,
    *,
    statuses: Iterable[JobStatus] | None = None,
    site_id: int | None = None,
    member_id: int | None = None,
    limit: int,
) -> list[TriggerJob]:
    """The newest jobs of ours, with these statuses (None: any), of a site and a member where named."""
    wanted = None if statuses is None else [status.value for status in statuses]
    rows = connection.execute(
        named_queries("trigger_jobs")["newest"], {"statuses": wanted, "site_id": site_id, "member_id": member_id, "limit": limit}
    )
    return [_job(row) for row in rows]


def finish(connection: Connection, job: TriggerJob, status: JobStatus, error_message: str | None = None) -> bool:
    """Ends a claimed job. False when its lease was lost to somebody else; nothing was changed then."""
    row = connection.execute(
        named_queries("trigger_jobs")["finish"],
        {
            "job_id": job.id,
            "fencing_token": job.fencing_token,
            "status": status.value,
            "error_message": storable(error_message[:1000]) if error_message else None,
        },
    ).fetchone()
    if row:
        _announce(connection, job.site_id, job.id, status)
    return row is not None


def finish_covered(connection: Connection, job: TriggerJob, data_read_at: datetime) -> list[int]:
    """Completes the site's waiting finished-load jobs that asked before `data_read_at`, in the same context: the completed `job` did their work too."""
    rows = connection.execute(
        named_queries("trigger_jobs")["finish_covered"],
        {
            "job_id": job.id,
            "site_id": job.site_id,
            "run_id": job.run_id,
            "data_read_at": data_read_at,
            "runtime_mode": job.runtime_mode,
            "sandbox_date": job.sandbox_date,
        },
    ).fetchall()
    for row in rows:
        _announce(connection, job.site_id, row["id"], JobStatus.COMPLETED)
    return [row["id"] for row in rows]


def send_back(
    connection: Connection,
    job: TriggerJob,
    not_before: datetime,
    reason: str,
    given_up: dict[str, str],
    *,
    waits_for_budget: bool = False,
    has_failed: bool = False,
) -> bool:
    """Returns a claimed job to the queue until `not_before`, without spending an attempt. False when the lease was lost.

    `given_up`: further targets, with their error codes, that failed for good in this round; the job's next round does not pay for them again. `waits_for_budget`:
    `not_before` is the start of a budget window, and nothing but it lets the job go on. `has_failed`: steps failed, none was refused.
    """
    row = connection.execute(
        named_queries("trigger_jobs")["send_back"],
        {
            "job_id": job.id,
            "fencing_token": job.fencing_token,
            "not_before": not_before,
            "waits_for": "budget" if waits_for_budget else None,
            "failed_rounds": int(has_failed),
            "error_message": storable(reason[:1000]),
            "given_up": Jsonb({target: storable(code) for target, code in given_up.items()}),
        },
    ).fetchone()
    if row:
        _announce(connection, job.site_id, job.id, JobStatus.PENDING)
    return row is not None


def hasten(connection: Connection) -> int:
    """Jobs that were sent back need not wait out their pause: what held calls is over. Returns how many.

    Those that wait for a budget window stay.
    """
    hastened = connection.execute(named_queries("trigger_jobs")["hasten"]).rowcount
    if hastened:
        wake_workers(connection)
    return hastened


def record_progress(connection: Connection, job: TriggerJob, progress: dict[str, int]) -> bool:
    """Keeps the job's counters (total, done, reused, failed, calls, tokens) for those who watch, and the moment of this step.

    False when the job was lost to somebody else.
    """
    recorded = connection.execute(
        named_queries("trigger_jobs")["progressed"],
        {"job_id": job.id, "fencing_token": job.fencing_token, "progress": Jsonb(progress)},
    )
    return recorded.rowcount == 1


def tell_prewarm_progress(connection: Connection, job: TriggerJob, progress: dict[str, int]) -> None:
    """Says how far a site's prewarm is; the truth is in the job's row."""
    told = {name: progress[name] for name in ("total", "done", "reused", "failed")}
    live_events.publish(connection, "prewarm_progress", job.site_id, {"trigger_job_id": job.id, **told})


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
    return _given_up(connection, rows)


def give_up_stuck(connection: Connection, *, max_attempts: int, stuck_after: timedelta) -> list[TriggerJob]:
    """The same for running jobs without progress for `stuck_after` and without a call under way, though their lease is alive."""
    rows = connection.execute(
        named_queries("trigger_jobs")["give_up_stuck"], {"max_attempts": max_attempts, "stuck_after": stuck_after}
    ).fetchall()
    return _given_up(connection, rows)


def _given_up(connection: Connection, rows: Iterable[dict[str, Any]]) -> list[TriggerJob]:
    jobs = [_job(row) for row in rows]
    for job in jobs:
        _announce(connection, job.site_id, job.id, job.status)
    if any(job.status is JobStatus.PENDING for job in jobs):
        wake_workers(connection)
    return jobs


def cancel_of_run(connection: Connection, run_id: str) -> list[TriggerJob]:
    """Ends the prewarm, or the person's own job, of a run which a person cancelled: `partial` when some of it is done, else `failed`.

    Members' jobs that the run had taken go back to the queue, without an attempt spent.
    """
    queries = named_queries("trigger_jobs")
    ended = [_job(row) for row in connection.execute(queries["cancel_of_run"], {"run_id": run_id})]
    for job in ended:
        _announce(connection, job.site_id, job.id, job.status)
    return ended + _given_up(connection, connection.execute(queries["give_back_of_run"], {"run_id": run_id}).fetchall())


def runs_at_work(connection: Connection) -> list[str]:
    """The runs that hold a job, as far as we know."""
    rows = connection.execute(named_queries("trigger_jobs")["runs_at_work"])
    return [row["run_id"] for row in rows]


def runs_left_by_their_job(connection: Connection, run_ids: Iterable[str], lease: timedelta) -> set[str]:
    """Those of the runs whose job is no longer running, and has not moved for longer than a lease."""
    rows = connection.execute(named_queries("trigger_jobs")["runs_left"], {"run_ids": list(run_ids), "lease": lease})
    return {row["run_id"] for row in rows}


def prewarmed_sites(connection: Connection, site_ids: Iterable[int], business_date: date, mode: RuntimeMode = RuntimeMode.LIVE) -> set[int]:
    """Those of the sites that have a finished-load job of that date and mode which is pending, running or completed."""
    rows = connection.execute(
        named_queries("trigger_jobs")["prewarmed_sites"],
        {"site_ids": list(site_ids), "business_date": business_date, "mode": mode.value},
    )
    return {row["site_id"] for row in rows}


def _announce(connection: Connection, site_id: int, job_id: int, status: JobStatus) -> None:
    live_events.publish(connection, "job_updated", site_id, {"trigger_job_id": job_id, "status": status.value})


def _job(row: dict[str, Any]) -> TriggerJob:
    columns = {name: row[name] for name in TriggerJob.__slots__}
    # The old dispatcher's rows may have none, or one that we do not know: to us such a job is over.
    columns["status"] = JobStatus(row["status"]) if row["status"] in set(JobStatus) else JobStatus.FAILED
    columns["payload"] = row["payload"] or {}
    return TriggerJob(**columns)
