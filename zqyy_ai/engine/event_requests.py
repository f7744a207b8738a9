"""Firing events for callers who want to know at once what became of them: an inbox row, the intake, the job that stands for it.

The caller fires in a transaction of its own, together with whatever else belongs to the deed; `settle_events` follows after its commit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zqyy_ai.domain.business_clock import Clock
from zqyy_ai.domain.errors import InvalidRequest, TransientError
from zqyy_ai.domain.events import Event, EventName, parse_event
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.domain.runtime_context import LIVE, RuntimeContext
from zqyy_ai.engine.intake import take_in
from zqyy_ai.store import events
from zqyy_ai.store.database import Connection, Database


@dataclass(frozen=True, slots=True)
class SettledEvent:
    """What became of an event. Either a job stands for it (`is_duplicate`: it did before), or `rejected_reason` says why none does."""

    event_id: int
    trigger_job_id: int | None
    status: JobStatus | None
    is_duplicate: bool
    rejected_reason: str | None


def understood(name: EventName, payload: dict[str, Any]) -> Event:
    """What the intake will read out of it. Raises InvalidRequest, in words for a caller, for what it would refuse."""
    try:
        return parse_event(name, payload)
    except ValueError as invalid:
        raise InvalidRequest(str(invalid)) from None


def fire(connection: Connection, name: EventName, payload: dict[str, Any]) -> int:
    """Raises TransientError when the database could not record it."""
    event_id = events.fire(connection, name, payload)
    if event_id is None:
        raise TransientError("事件没有写入 biz.ai_events，请稍后重试")
    return event_id


def settle_events(
    database: Database, clock: Clock, event_ids: Sequence[int], *, runtime_context: RuntimeContext = LIVE
) -> list[SettledEvent]:
    """Takes the inbox in and tells what became of these events, in their order. `database` must see all sites: the inbox is everybody's."""
    take_in(database, clock, runtime_context)
    with database.transaction() as connection:
        found = {row.event_id: row for row in events.outcomes(connection, event_ids)}
    settled = []
    for event_id in event_ids:
        row = found.get(event_id)
        if row is None or not row.is_handled:
            raise TransientError(f"事件 {event_id} 已写入，但还没有处理；稍后会自动处理")
        status = JobStatus(row.job_status) if row.job_status else None
        settled.append(SettledEvent(event_id, row.trigger_job_id, status, row.is_duplicate, row.rejected_reason))
    return settled
