"""The daily prewarm's schedule: the cron rows of `biz.trigger_jobs`, obeyed from one minute to the next.

A row is due when its `next_run_at` has come; a fire that was missed while nothing ran happens once. An edited expression is noticed by
the expression that `next_run_at` was worked out for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cronsim import CronSim, CronSimError

from zqyy_ai.domain.business_clock import SHANGHAI, Clock
from zqyy_ai.store import triggers
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.triggers import PREWARM_JOB_TYPE, Trigger


@dataclass(frozen=True, slots=True)
class ScheduleCheck:
    """Whether a trigger is due now, and when one will be next (None: no enabled row with a readable cron)."""

    is_due: bool
    next_run_at: datetime | None
    error: str | None = None


def next_fire(expression: str, after: datetime) -> datetime:
    """The first moment after `after` that the expression names, in Asia/Shanghai. Raises ValueError for an unreadable one."""
    try:
        return next(CronSim(expression, after.astimezone(SHANGHAI)))
    except (CronSimError, StopIteration) as invalid:
        raise ValueError(f"cron 表达式 {expression!r} 无效:{invalid}") from None


def next_fires(expression: object, after: datetime, number: int) -> list[datetime]:
    """The first `number` moments after `after`, fewer where the expression names fewer; none for what is no readable expression."""
    fires: list[datetime] = []
    while isinstance(expression, str) and len(fires) < number:
        try:
            after = next_fire(expression, after)
        except ValueError:
            break
        fires.append(after)
    return fires


def check_schedule(database: Database, clock: Clock, on_due: Callable[[Connection], object]) -> ScheduleCheck:
    """Looks at the prewarm's cron rows once, does `on_due` if one is due, and moves it on to its next moment."""
    now = clock.now()
    is_due, upcoming, error = False, [], None
    with database.transaction() as connection:
        for trigger in triggers.cron_triggers(connection, PREWARM_JOB_TYPE):
            if not trigger.is_enabled:
                if trigger.next_run_at is not None:
                    # Disabled is not down: what would have been due meanwhile is not made up for.
                    triggers.schedule_next(connection, trigger, None)
                continue
            try:
                due, next_run_at = _look_at(trigger, now)
            except ValueError as invalid:
                error = str(invalid)
                triggers.record_error(connection, trigger.id, error)
                continue
            if due:
                is_due = True
                triggers.record_run(connection, trigger.id, now)
            if next_run_at != trigger.next_run_at or trigger.scheduled_expression != trigger.cron_expression:
                triggers.schedule_next(connection, trigger, next_run_at)
            upcoming.append(next_run_at)
        if is_due:
            # In the transaction that moves the rows on: a fire is neither lost nor made twice.
            on_due(connection)
    return ScheduleCheck(is_due, min(upcoming, default=None), error)


def _look_at(trigger: Trigger, now: datetime) -> tuple[bool, datetime]:
    expression = trigger.cron_expression
    if not isinstance(expression, str):
        raise ValueError("trigger_config 缺少 cron_expression")  # noqa: TRY004 - a bad value in a row, not in a call
    following = next_fire(expression, now)
    if trigger.next_run_at is None or trigger.scheduled_expression not in (None, expression):
        return False, following
    return (True, following) if trigger.next_run_at <= now else (False, trigger.next_run_at)


def change_trigger(
    connection: Connection,
    trigger: Trigger,
    *,
    now: datetime,
    status: str | None = None,
    description: str | None = None,
    cron_expression: str | None = None,
) -> Trigger:
    """Writes what a person wants of a trigger, and works out a cron's next moment; returns the row as it is then.

    Raises ValueError, in Chinese, for an expression that can't be read or never comes true.
    """
    if cron_expression is not None:
        next_fire(cron_expression, now)
    triggers.change(connection, trigger, status=status, description=description, cron_expression=cron_expression)
    changed = triggers.get_locked(connection, trigger.id)
    assert changed is not None
    if changed.trigger_condition != "cron" or (cron_expression is None and status is None):
        return changed
    # A disabled one is due never; enabled again, what would have been due meanwhile is not made up for.
    expression = changed.cron_expression
    triggers.schedule_next(connection, changed, next_fire(expression, now) if changed.is_enabled and isinstance(expression, str) else None)
    scheduled = triggers.get_locked(connection, trigger.id)
    assert scheduled is not None
    return scheduled
