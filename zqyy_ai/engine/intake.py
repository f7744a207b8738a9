"""Intake: the inbox's events become jobs, or keep their row with the reason why not.

One intake at a time (an advisory lock), so that two events never both find that they are the first. Run by the sensors' ticks, by the
runs that take events, by the ETL sensor and the schedule right after they fired, and by callers who want their job at once.

A batch is decided in memory and written in a few round trips: thousands of one site's events hold up another's for a moment only.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import psycopg

from zqyy_ai.domain.business_clock import Clock
from zqyy_ai.domain.events import DedupPolicy, Event, EventName, EventType, dedup_key, parse_event
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.domain.personal_numbers import mask_personal_numbers
from zqyy_ai.domain.runtime_context import RuntimeContext
from zqyy_ai.store import alerts, events, runtime_contexts, sites, trigger_jobs, triggers
from zqyy_ai.store.alerts import Alert, AlertType
from zqyy_ai.store.database import Connection, Database, is_connection_lost, what_is_only_shown
from zqyy_ai.store.events import InboxEvent
from zqyy_ai.store.sites import Site
from zqyy_ai.store.trigger_jobs import NewJob, TriggerJob
from zqyy_ai.store.triggers import Trigger

logger = logging.getLogger(__name__)

_BATCH = 500
# The sensors and schedules that take events in must end before Dagster's daemon gives them up, after 60 s.
_LONGEST_SECONDS = 30.0
LARGEST_PAYLOAD_BYTES = 256 * 1024
# An inbox that nobody has emptied for so long is not worked off behind people's backs, for money.
OLDEST_MEMBER_EVENT = timedelta(days=7)
# Kept in a job's payload by us; a caller's fields of these names are dropped.
OWN_PAYLOAD_FIELDS = ("etl_run_ids", "given_up", "done_by_job", "assistant_ids")


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

    def __add__(self, other: "IntakeCount") -> "IntakeCount":
        return IntakeCount(
            self.accepted + other.accepted,
            self.duplicates + other.duplicates,
            self.rejected + other.rejected,
            self.ignored + other.ignored,
        )


class _Rejected(Exception):
    """The event cannot become a job; the text is for an operator, `kind` tells rejections apart in alerts."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class _Ignored(Exception):
    """The event's trigger or site is switched off."""


def take_in(database: Database, clock: Clock, runtime_context: RuntimeContext) -> IntakeCount:
    """Handles waiting events, oldest first, until there are none or half a minute is over. Safe to call from anywhere at any time.

    A job is made in its site's context; `runtime_context` is that of sites for which nobody has set one.
    """
    count = IntakeCount()
    deadline = time.monotonic() + _LONGEST_SECONDS
    while True:
        handled, has_more = take_batch_in(database, clock, runtime_context)
        count += handled
        if not has_more or time.monotonic() > deadline:
            return count


def take_batch_in(database: Database, clock: Clock, runtime_context: RuntimeContext) -> tuple[IntakeCount, bool]:
    """The oldest 500 waiting events at most, for who has other things to do in between; and whether there may be more.

    A batch that a deadlock has chosen as its victim, or whose connection was lost, is handled again: what was handled is not waiting any more.
    """

    def take(connection: Connection) -> tuple[IntakeCount, bool]:
        events.lock_intake(connection)
        waiting = events.waiting_events(connection, _BATCH, largest_bytes=LARGEST_PAYLOAD_BYTES)
        intake = _Intake(connection, clock, runtime_context)
        handled = intake.handle_together(waiting)
        if handled is None:
            # The database refuses something of one of them. One by one: it must not hold up the others.
            handled = sum((intake.handle_alone(event) for event in waiting), IntakeCount())
        intake.tell()
        return handled, len(waiting) == _BATCH

    return database.patiently(take)


@dataclass(slots=True)
class _Wanted:
    """An accepted event of a member, on its way to a job: to `job`, or to one that stands for it."""

    event_id: int
    key: str
    job: NewJob
    policy: DedupPolicy


@dataclass(slots=True)
class _Standing:
    """A job of one key, there already (`job_id`) or made by this batch (`new`)."""

    is_mergeable: bool
    payload: dict[str, Any]
    app_chain: str
    job_id: int | None = None
    new: int | None = None

    def merge(self, job: NewJob) -> None:
        """The newest words count, and each assistant whom one of the events names is served: the job reads its payload when it begins."""
        served = [*_assistants_of(self.payload), *_assistants_of(job.payload)]
        self.payload = self.payload | job.payload
        if served:
            self.payload |= {"has_assistant": True, "assistant_id": served[-1], "assistant_ids": list(dict.fromkeys(served))}
        self.app_chain = max(self.app_chain, job.app_chain, key=len)


@dataclass(slots=True)
class _Intake:
    """One batch. What is the same for all of its events is read once."""

    connection: Connection
    clock: Clock
    runtime_context: RuntimeContext
    _sites: dict[int, Site | None] = field(default_factory=dict)
    _contexts: dict[int, RuntimeContext] = field(default_factory=dict)
    _triggers: dict[EventName, Trigger | None] = field(default_factory=dict)
    _fired: set[int] = field(default_factory=set)
    _told: list[Alert] = field(default_factory=list)
    _refused: str = ""

    def handle_together(self, waiting: list[InboxEvent]) -> IntakeCount | None:
        """All of them, or none and None when the database refuses to store one."""
        return self._handled(waiting)

    def handle_alone(self, event: InboxEvent) -> IntakeCount:
        handled = self._handled([event])
        if handled is not None:
            return handled
        self._reject(event, _Rejected("payload_unstorable", f"payload 无法保存({self._refused})"))
        return IntakeCount(rejected=1)

    def _handled(self, waiting: list[InboxEvent]) -> IntakeCount | None:
        """None when the database refuses; then nothing of them is left, neither there nor here."""
        told, fired = list(self._told), set(self._fired)
        try:
            with self.connection.transaction():
                return self._handle(waiting)
        except psycopg.Error as refused:
            if is_connection_lost(refused):
                raise
            self._told, self._fired, self._refused = told, fired, type(refused).__name__
            return None

    def tell(self) -> None:
        """What operators see of the batch; last in the transaction, as alerts want it."""
        for trigger_id in sorted(self._fired):
            triggers.record_run(self.connection, trigger_id, self.clock.now())
        for alert in self._told:
            with what_is_only_shown(self.connection, "intake.rejected"):
                alerts.raise_alert(self.connection, alert)

    def _handle(self, waiting: list[InboxEvent]) -> IntakeCount:
        count, wanted = IntakeCount(), []
        for inbox_event in waiting:
            try:
                event, payload, site, trigger = self._understood(inbox_event)
            except _Rejected as why:
                self._reject(inbox_event, why)
                count += IntakeCount(rejected=1)
                continue
            except _Ignored as why:
                events.mark_handled(self.connection, inbox_event.id, rejected_reason=str(why))
                count += IntakeCount(ignored=1)
                continue
            self._fired.add(trigger.id)
            job = self._new_job(event, payload, site)
            if event.event_type is EventType.DWS_COMPLETED:
                count += self._take_load(inbox_event, event, job, trigger.dedup_policy)
            else:
                wanted.append(_Wanted(inbox_event.id, job.dedup_key, job, trigger.dedup_policy))
        return count + self._take_members_events(wanted)

    def _understood(self, event: InboxEvent) -> tuple[Event, dict[str, Any], Site, Trigger]:
        """Raises _Rejected or _Ignored."""
        try:
            name = EventName(event.event_name or "")
        except ValueError:
            raise _Rejected("unknown_event", f"未知事件 {_shown_name(event.event_name)}") from None
        if event.payload_bytes is not None and event.payload_bytes > LARGEST_PAYLOAD_BYTES:
            raise _Rejected("payload_too_large", f"payload 超过 {LARGEST_PAYLOAD_BYTES // 1024} KiB")
        if not event.is_readable:
            raise _Rejected("payload_unreadable", "payload 无法读取:展开后超出数据库的上限")
        payload = _payload(event)
        try:
            parsed = parse_event(name, payload)
        except ValueError as invalid:
            raise _Rejected("payload_invalid", str(invalid)) from None
        site = self._site(parsed.site_id)
        if site is None:
            raise _Rejected("unknown_site", f"门店 {parsed.site_id} 不存在")
        if not site.is_active:
            raise _Ignored("门店已停用")
        trigger = self._trigger(name)
        if trigger is None or not trigger.is_enabled:
            raise _Ignored("触发器未启用")
        if parsed.member_id is not None and self.clock.now() - event.created_at > OLDEST_MEMBER_EVENT:
            raise _Rejected("too_old", f"事件已超过 {OLDEST_MEMBER_EVENT.days} 天未处理")
        return parsed, payload, site, trigger

    def _site(self, site_id: int) -> Site | None:
        if site_id not in self._sites:
            self._sites[site_id] = sites.find_site(self.connection, site_id)
        return self._sites[site_id]

    def _context(self, site_id: int) -> RuntimeContext:
        if site_id not in self._contexts:
            self._contexts[site_id] = runtime_contexts.context_of(self.connection, site_id, self.runtime_context)
        return self._contexts[site_id]

    def _trigger(self, name: EventName) -> Trigger | None:
        if name not in self._triggers:
            self._triggers[name] = triggers.trigger_for_event(self.connection, name)
        return self._triggers[name]

    def _new_job(self, event: Event, payload: dict[str, Any], site: Site) -> NewJob:
        context = self._context(site.site_id)
        business_date = context.business_date(self.clock.now(), site.business_day_cutoff)
        kept = {name: value for name, value in payload.items() if name not in OWN_PAYLOAD_FIELDS}
        if event.event_type is EventType.DWS_COMPLETED:
            kept["etl_run_ids"] = [event.etl_run_id] if event.etl_run_id is not None else []
        return NewJob(
            event_type=event.event_type,
            site_id=event.site_id,
            member_id=event.member_id,
            business_date=business_date,
            dedup_key=dedup_key(event.event_type, event.site_id, event.member_id, event.subject, business_date, context.mode.value),
            app_chain=event.app_chain,
            payload=kept,
            context=context,
            is_forced=event.is_forced,
            connector_type=event.connector_type,
        )

    def _take_load(self, inbox_event: InboxEvent, load: Event, job: NewJob, policy: DedupPolicy) -> IntakeCount:
        mode = job.context.mode.value
        present = trigger_jobs.blocking_jobs(self.connection, EventType.DWS_COMPLETED, load.site_id, job.business_date, mode)
        standing = None if load.is_forced else _job_standing_for(load, present, policy)
        if standing is not None:
            trigger_jobs.count_duplicate(self.connection, standing.id, load.etl_run_id)
            events.mark_handled(self.connection, inbox_event.id, trigger_job_id=standing.id)
            return IntakeCount(duplicates=1)
        events.mark_handled(self.connection, inbox_event.id, trigger_job_id=trigger_jobs.add(self.connection, job))
        return IntakeCount(accepted=1)

    def _take_members_events(self, wanted: list[_Wanted]) -> IntakeCount:
        """Deduplicates against what is there and against one another, then writes the jobs, the counts and the marks."""
        if not wanted:
            return IntakeCount()
        by_key: dict[str, list[_Standing]] = {}
        standing_jobs = trigger_jobs.standing_jobs(self.connection, {event.key for event in wanted})
        # One that was begun and sent back takes its own answers again, whatever the data say now.
        waiting = [job.id for job in standing_jobs if job.status is JobStatus.PENDING and job.attempt == 0 and job.sent_back_count == 0]
        # No run claims these before this transaction ends: what merges into a job is read when it begins.
        locked = trigger_jobs.lock_waiting(self.connection, waiting)
        for job in standing_jobs:
            mergeable = job.id in locked and not job.is_forced
            by_key.setdefault(job.dedup_key or "", []).append(_Standing(mergeable, job.payload, job.app_chain or "", job_id=job.id))
        new: list[NewJob] = []
        taken: list[tuple[int, _Standing]] = []
        duplicates: list[_Standing] = []
        merged: dict[str, _Standing] = {}
        for event in wanted:
            present = by_key.setdefault(event.key, [])
            standing = None if event.job.is_forced else _standing_for(present, event.policy)
            if standing is None:
                standing = _Standing(not event.job.is_forced, event.job.payload, event.job.app_chain, new=len(new))
                new.append(event.job)
                present.append(standing)
            else:
                duplicates.append(standing)
                if standing.is_mergeable:
                    standing.merge(event.job)
                    if standing.new is not None:
                        new[standing.new] = replace(new[standing.new], payload=standing.payload, app_chain=standing.app_chain)
                    else:
                        merged[event.key] = standing
            taken.append((event.event_id, standing))
        new_ids = trigger_jobs.add_all(self.connection, new)
        trigger_jobs.merge_events(
            self.connection, {_id_of(standing, []): (standing.payload, standing.app_chain) for standing in merged.values()}
        )
        trigger_jobs.count_duplicates(self.connection, Counter(_id_of(standing, new_ids) for standing in duplicates))
        events.mark_all_handled(self.connection, [(event_id, _id_of(standing, new_ids)) for event_id, standing in taken])
        return IntakeCount(accepted=len(new), duplicates=len(duplicates))

    def _reject(self, event: InboxEvent, why: _Rejected) -> None:
        """The alert is raised at the transaction's end: one for each event name and kind of reason."""
        events.mark_handled(self.connection, event.id, rejected_reason=str(why))
        name = _shown_name(event.event_name)
        logger.warning("intake.rejected event_id=%s reason=%s", event.id, why)
        self._told.append(Alert(AlertType.EVENT_REJECTED, f"事件 {name} 被拒绝:{why}", detail=f"{name}|{why.kind}"))


def _shown_name(name: str | None) -> str:
    """An event's name as logs and alerts may show it: callers write anything there."""
    return mask_personal_numbers((name or "(空)")[:60])


def _id_of(standing: _Standing, new_ids: list[int]) -> int:
    if standing.job_id is not None:
        return standing.job_id
    assert standing.new is not None
    return new_ids[standing.new]


def _standing_for(present: Iterable[_Standing], policy: DedupPolicy) -> _Standing | None:
    """`business_day`: the first job of the day, whatever became of it. `coalesce`: one that has not started, and so has not read the data."""
    return next((standing for standing in present if standing.is_mergeable or policy is DedupPolicy.BUSINESS_DAY), None)


def _assistants_of(payload: dict[str, Any]) -> list[int]:
    """Whom a job's payload says that App4 and App5 serve; nobody, where a consumption names one without `has_assistant`."""
    if payload.get("has_assistant") is not True or payload.get("assistant_id") is None:
        return []
    return list(payload.get("assistant_ids") or [payload["assistant_id"]])


def _payload(event: InboxEvent) -> Any:
    """The payload, as far as it can be read and stored again: jsonb takes numbers and depths that Python's JSON does not."""
    try:
        payload = json.loads(event.payload_text or "null")
        json.dumps(payload, allow_nan=False)
    except (ValueError, RecursionError):
        raise _Rejected("payload_unreadable", "payload 无法读取:嵌套过深或数值过大") from None
    return payload


def _job_standing_for(load: Event, present: list[TriggerJob], policy: DedupPolicy) -> TriggerJob | None:
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
