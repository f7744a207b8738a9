"""Asking for prewarms: by people, by the schedule and by finished loads. Everything asked for is a job row; nothing is run here."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from zqyy_ai.domain.business_clock import SHANGHAI, Clock, SystemClock
from zqyy_ai.domain.errors import InvalidRequest
from zqyy_ai.domain.events import EventName
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.domain.runtime_context import LIVE, RuntimeContext
from zqyy_ai.engine.call_pauses import why_held
from zqyy_ai.engine.intake import take_in
from zqyy_ai.guards.call_pauses import CallPause, pause_in_force
from zqyy_ai.store import events, runtime_contexts, sites, trigger_jobs
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.warehouse.finance import finished_loads


@dataclass(frozen=True, slots=True)
class PrewarmProgress:
    """How far a prewarm job is. `done` counts good windows, `reused` those of them without a call."""

    status: JobStatus
    done: int
    failed: int
    reused: int
    total: int
    calls: int
    tokens: int
    run_id: str | None
    error_message: str | None
    not_before: datetime | None = None
    pause: CallPause | None = None

    @property
    def why_waiting(self) -> str | None:
        """Why the job waits in the queue, and until when; None when it is simply its turn to come."""
        if self.status is not JobStatus.PENDING:
            return None
        if self.pause is not None:
            return why_held(self.pause)
        if self.not_before is None:
            return None
        return f"{self.not_before.astimezone(SHANGHAI):%H:%M:%S} 之后重试:{self.error_message or ''}"

    @property
    def finished(self) -> bool:
        return self.status.is_final


def wanted_sites(database: Database, wanted: Iterable[str]) -> list[int]:
    """Site ids out of what a person typed: numbers, or `all` for every active site. Raises InvalidRequest for anything else."""
    found: list[int] = []
    for text in wanted:
        if text == "all":
            with database.autocommit() as connection:
                found += [site.site_id for site in sites.active_sites(connection)]
        elif text.isascii() and text.isdigit() and 0 < int(text) < 2**63:
            found.append(int(text))
        else:
            raise InvalidRequest(f"门店编号 {text!r} 无效:应为正整数(如 1001)或 all")
    return list(dict.fromkeys(found))


def request_prewarm(database: Database, site_id: int, *, only_missing: bool = False, regenerate: bool = False) -> int:
    """Makes a forced finished-load job for a site and returns its id. Raises InvalidRequest for an unknown or closed site."""
    payload = {"site_id": site_id, "is_forced": True, "only_missing": only_missing, "regenerate": regenerate, "source": "cli"}
    with database.transaction() as connection:
        sites.get_site(connection, site_id)
        event_id = events.fire(connection, EventName.DWS_COMPLETED, payload)
    take_in(database, SystemClock(), LIVE)
    with database.autocommit() as connection:
        row = connection.execute("SELECT trigger_job_id, rejected_reason FROM biz.ai_events WHERE id = %s", [event_id]).fetchone()
    if row is None or row["trigger_job_id"] is None:
        reason = row["rejected_reason"] if row else "事件未能写入 biz.ai_events"
        raise InvalidRequest(f"门店 {site_id} 的预热没有开始:{reason}")
    return int(row["trigger_job_id"])


def prewarm_progress(database: Database, job_id: int) -> PrewarmProgress:
    """Raises InvalidRequest for a job that does not exist."""
    with database.autocommit() as connection:
        job = trigger_jobs.get(connection, job_id)
        if job is None:
            raise InvalidRequest(f"任务 {job_id} 不存在")
        # A waiting job may have been done by the run of another one of its site.
        done_by = job.payload.get("done_by_job")
        worker = trigger_jobs.get(connection, done_by) if done_by else None
        pause = pause_in_force(connection)
    counts = (worker or job).progress
    return PrewarmProgress(
        status=job.status,
        done=counts.get("done", 0),
        failed=counts.get("failed", 0),
        reused=counts.get("reused", 0),
        total=counts.get("total", 72),
        calls=counts.get("calls", 0),
        tokens=counts.get("tokens", 0),
        run_id=job.run_id,
        error_message=job.error_message,
        not_before=job.not_before,
        pause=pause,
    )


def fire_finished_loads(database: Database, *, since: datetime) -> int:
    """Turns each finished load not yet seen into one event a site concerned; returns how many events.

    An anti-join, not a cursor: a load that committed late is older than one already seen, and still new.
    """
    with database.autocommit() as connection:
        # Before the lock: the view is the deployment's, and may be slow.
        loads = finished_loads(connection, since)
    with database.transaction() as connection:
        # The intake's lock also keeps two sensors from both finding a load new.
        events.lock_intake(connection)
        seen = events.seen_etl_runs(connection, {load.etl_run_id for load in loads})
        active = [site.site_id for site in sites.active_sites(connection)]
        fired = 0
        for load in loads:
            concerned = active if load.site_id is None else [load.site_id]
            for site_id in concerned:
                if (load.etl_run_id, site_id) in seen:
                    continue
                fired += _fire(connection, {"site_id": site_id, "etl_run_id": load.etl_run_id, "source": "etl_sensor"})
                seen.add((load.etl_run_id, site_id))
    return fired


def _fire(connection: Connection, payload: dict[str, Any]) -> int:
    event_id = events.fire(connection, EventName.DWS_COMPLETED, payload)
    if event_id is None:
        return 0
    events.see_etl_run(connection, payload["etl_run_id"], payload["site_id"], event_id)
    return 1


def fire_for_unprewarmed_sites(connection: Connection, clock: Clock, runtime_context: RuntimeContext) -> list[int]:
    """Fires `ai_dws_completed` for every active site without a prewarm of its business date; returns those sites."""
    fired = []
    for site in sites.active_sites(connection):
        context = runtime_contexts.context_of(connection, site.site_id, runtime_context)
        business_date = context.business_date(clock.now(), site.business_day_cutoff)
        if trigger_jobs.prewarmed_sites(connection, [site.site_id], business_date, context.mode):
            continue
        if events.fire(connection, EventName.DWS_COMPLETED, {"site_id": site.site_id, "source": "schedule"}) is not None:
            fired.append(site.site_id)
    return fired


def sites_wanting_a_run(database: Database, clock: Clock, runtime_context: RuntimeContext) -> list[int]:
    """Sites whose waiting jobs may start now. Jobs of a business date that is over are completed as superseded on the way."""
    with database.transaction() as connection:
        waiting = trigger_jobs.sites_wanting_a_run(connection)
        for site_id in waiting:
            site = sites.find_site(connection, site_id)
            if site is None:
                continue
            business_date = runtime_context.business_date(clock.now(), site.business_day_cutoff)
            trigger_jobs.supersede_past(connection, site_id, business_date)
        return trigger_jobs.sites_wanting_a_run(connection) if waiting else []


def etl_lookback(clock: Clock, days: int) -> datetime:
    """From when on finished loads are looked at: a late commit may come days later, years of history may not."""
    return clock.now() - timedelta(days=days)
