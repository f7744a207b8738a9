"""Pausing and resuming all calls: what the command line and the console do, and what they tell.

While a pause is in force no run is asked for, running runs are refused their next call, and jobs wait in the queue with everything that
was done for them. Resuming wakes the sensor, which asks for their runs.
"""

from dataclasses import dataclass

from zqyy_ai.domain.business_clock import SHANGHAI
from zqyy_ai.domain.errors import InvalidRequest, StateConflict
from zqyy_ai.guards import call_pauses
from zqyy_ai.guards.call_pauses import CallPause
from zqyy_ai.store import alerts, trigger_jobs
from zqyy_ai.store.alerts import Alert, AlertType
from zqyy_ai.store.database import Connection, Database


@dataclass(frozen=True, slots=True)
class PauseBegun:
    """`calls_in_flight` are paid already: they end, and their answers are written."""

    pause: CallPause
    calls_in_flight: int


def pause_calls(database: Database, *, reason: str, by: str) -> PauseBegun:
    """`begin_pause` in a transaction of its own."""
    with database.transaction() as connection:
        return begin_pause(connection, reason=reason, by=by)


def begin_pause(connection: Connection, *, reason: str, by: str) -> PauseBegun:
    """No call starts from the commit on. Raises StateConflict when a pause is in force already, InvalidRequest without a reason.

    Late in a transaction: it raises an alert.
    """
    if not reason.strip():
        raise InvalidRequest("请说明暂停的原因")
    pause = call_pauses.pause(connection, reason=reason.strip()[:500], paused_by=by)
    if pause is None:
        in_force = call_pauses.pause_in_force(connection)
        raise StateConflict(f"已处于暂停状态:{describe(in_force)}" if in_force else "暂停刚刚被解除,请重试")
    alerts.raise_alert(connection, Alert(AlertType.PAUSED, describe(pause)))
    return PauseBegun(pause, call_pauses.calls_in_flight(connection))


def resume_calls(database: Database, *, by: str) -> CallPause:
    """`end_pause` in a transaction of its own."""
    with database.transaction() as connection:
        return end_pause(connection, by=by)


def end_pause(connection: Connection, *, by: str) -> CallPause:
    """Ends the pause and wakes what waits for it. Raises StateConflict when there is none. Late in a transaction."""
    pause = call_pauses.resume(connection, resumed_by=by)
    if pause is None:
        raise StateConflict("当前没有暂停,无需恢复")
    trigger_jobs.wake_workers(connection)
    alerts.resolve(connection, alerts.fingerprint_of(AlertType.PAUSED), f"由 {by} 恢复")
    return pause


def pause_in_force(database: Database) -> CallPause | None:
    with database.autocommit() as connection:
        return call_pauses.pause_in_force(connection)


def describe(pause: CallPause) -> str:
    """For operators: since when, by whom and why."""
    return f"{pause.paused_at.astimezone(SHANGHAI):%Y-%m-%d %H:%M:%S} 由 {pause.paused_by} 暂停全部模型调用,原因:{pause.reason}"


def why_held(pause: CallPause) -> str:
    """What holds a job, and how to let it go on."""
    return f"{describe(pause)};恢复:zqyy-ai resume"
