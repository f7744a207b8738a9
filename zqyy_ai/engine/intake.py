"""Intake: the inbox's events become jobs, or keep their row with the reason why not.

One intake at a time (an advisory lock), so that two events never both find that they are the first. Run by the sensors' ticks, by the
ETL sensor and the schedule right after they fired, and by callers who want their job at once.
"""

import json
import logging
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg

from zqyy_ai.domain.business_clock import Clock
from zqyy_ai.domain.events import APP_CHAINS, DedupPolicy, DwsCompleted, EventName, EventType, parse_dws_completed
from zqyy_ai.domain.runtime_context import RuntimeContext
from zqyy_ai.store import alerts, events, sites, trigger_jobs, triggers
from zqyy_ai.store.alerts import Alert, AlertType
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.events import InboxEvent
from zqyy_ai.store.trigger_jobs import NewJob, TriggerJob

logger = logging.getLogger(__name__)

_BATCH = 500
LARGEST_PAYLOAD_BYTES = 256 * 1024
# Kept in a job's payload by us; a caller's fields of these names are dropped.
OWN_PAYLOAD_FIELDS = ("etl_run_ids", "given_up", "done_by_job")


@dataclass(frozen=True, slots=True)
class IntakeCount:
    """What one intake did with the events it found."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    ignored: int = 0

    @property
    def total(self) -> int:
        return self.accepted + self.duplicates + self.rejected + self.ignored


class _Rejected(Exception):
    """The event cannot become a job; the text is for an operator, `kind` tells rejections apart in alerts."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def take_in(database: Database, clock: Clock, runtime_context: RuntimeContext) -> IntakeCount:
    """Handles all waiting events, oldest first. Safe to call from anywhere at any time."""
    accepted = duplicates = rejected = ignored = 0
    while True:
        with database.transaction() as connection:
            events.lock_intake(connection)
            waiting = events.waiting_events(connection, _BATCH, largest_bytes=LARGEST_PAYLOAD_BYTES)
            told: list[Alert] = []
            for event in waiting:
                try:
                    # A savepoint each: one event that the database refuses must not hold up those behind it.
                    with connection.transaction():
                        handled = _handle(connection, event, clock, runtime_context)
                    accepted += handled == "accepted"
                    duplicates += handled == "duplicate"
                    ignored += handled == "ignored"
                except psycopg.DataError as refused:
                    rejected += 1
                    why = _Rejected("payload_unstorable", f"payload 无法保存({type(refused).__name__})")
                    told.append(_reject(connection, event, why))
                except _Rejected as why:
                    rejected += 1
                    told.append(_reject(connection, event, why))
            for alert in told:
                alerts.raise_alert(connection, alert)
        if len(waiting) < _BATCH:
            return IntakeCount(accepted, duplicates, rejected, ignored)


def _handle(connection: Connection, event: InboxEvent, clock: Clock, runtime_context: RuntimeContext) -> str:
    if event.event_name != EventName.DWS_COMPLETED:
        raise _Rejected("unknown_event", f"未知事件 {event.event_name!r}"[:200])
    if event.payload_bytes is not None and event.payload_bytes > LARGEST_PAYLOAD_BYTES:
        raise _Rejected("payload_too_large", f"payload 超过 {LARGEST_PAYLOAD_BYTES // 1024} KiB")
    payload = _payload(event)
    try:
        load = parse_dws_completed(payload)
    except ValueError as invalid:
        raise _Rejected("payload_invalid", str(invalid)) from None
    site = sites.find_site(connection, load.site_id)
    if site is None:
        raise _Rejected("unknown_site", f"门店 {load.site_id} 不存在")
    trigger = triggers.trigger_for_event(connection, EventName.DWS_COMPLETED)
    if trigger is None or not trigger.is_enabled or not site.is_active:
        reason = "门店已停用" if not site.is_active else "触发器未启用"
        events.mark_handled(connection, event.id, rejected_reason=reason)
        return "ignored"
    triggers.record_run(connection, trigger.id, clock.now())
    business_date = runtime_context.business_date(clock.now(), site.business_day_cutoff)
    mode = runtime_context.mode.value
    present = trigger_jobs.blocking_jobs(connection, EventType.DWS_COMPLETED, load.site_id, business_date, mode)
    standing = None if load.is_forced else _job_standing_for(load, present, trigger.dedup_policy)
    if standing is not None:
        trigger_jobs.count_duplicate(connection, standing.id, load.etl_run_id)
        events.mark_handled(connection, event.id, trigger_job_id=standing.id)
        return "duplicate"
    job_id = trigger_jobs.add(connection, _new_job(load, payload, business_date, mode))
    events.mark_handled(connection, event.id, trigger_job_id=job_id)
    return "accepted"


def _payload(event: InboxEvent) -> Any:
    """The payload, as far as it can be read and stored again: jsonb takes numbers and depths that Python's JSON does not."""
    try:
        payload = json.loads(event.payload_text or "null")
        json.dumps(payload, allow_nan=False)
    except (ValueError, RecursionError):
        raise _Rejected("payload_unreadable", "payload 无法读取:嵌套过深或数值过大") from None
    return payload


def _job_standing_for(load: DwsCompleted, present: list[TriggerJob], policy: DedupPolicy) -> TriggerJob | None:
    """The job that already does what this load asks for, if there is one.

    A load that names its ETL run is done by the job that took that run in, whatever the policy. Otherwise `business_day` knows one job a
    day, while `coalesce` merges into a job that has not started: one that runs may have read the data before the load.
    """
    for job in present:
        if load.etl_run_id is not None and load.etl_run_id in job.payload.get("etl_run_ids", []):
            return job
    if policy is DedupPolicy.BUSINESS_DAY and load.etl_run_id is None:
        return present[0] if present else None
    return next((job for job in present if job.status == "pending" and not job.is_forced), None)


def _new_job(load: DwsCompleted, payload: dict[str, object], business_date: date, mode: str) -> NewJob:
    named = [load.etl_run_id] if load.etl_run_id is not None else []
    key = "|".join((EventType.DWS_COMPLETED.value, str(load.site_id), load.etl_run_id or "-", business_date.isoformat(), mode))
    return NewJob(
        event_type=EventType.DWS_COMPLETED,
        site_id=load.site_id,
        business_date=business_date,
        dedup_key=key,
        app_chain=APP_CHAINS[EventType.DWS_COMPLETED],
        payload={name: value for name, value in payload.items() if name not in OWN_PAYLOAD_FIELDS} | {"etl_run_ids": named},
        is_forced=load.is_forced,
        connector_type=load.connector_type,
    )


def _reject(connection: Connection, event: InboxEvent, why: _Rejected) -> Alert:
    """The alert to be raised at the transaction's end: one for each event name and kind of reason."""
    events.mark_handled(connection, event.id, rejected_reason=str(why))
    name = (event.event_name or "(空)")[:60]
    logger.warning("intake.rejected event_id=%s reason=%s", event.id, why)
    return Alert(AlertType.EVENT_REJECTED, f"事件 {name} 被拒绝:{why}", detail=f"{name}|{why.kind}")
