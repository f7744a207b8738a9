"""Alerts about jobs that came to nothing: raised when one ends `dead` or `failed`, resolved when a later one of its kind completes.

One alert for a site and event type, whichever job it was: `job_dead|1001|-|dws_completed`, `failed|1001|-|dws_completed`. A job that a
person cancelled raises none, and one of a sandbox neither raises nor resolves any: its end is nobody's alarm, and no sign that live ones do well.
"""

from collections.abc import Iterable

from zqyy_ai.domain.events import EventType
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.store import alerts
from zqyy_ai.store.alerts import Alert, AlertType, Severity, fingerprint_of
from zqyy_ai.store.database import Connection, what_is_only_shown
from zqyy_ai.store.trigger_jobs import TriggerJob

_ALERT_TYPES = {JobStatus.DEAD: AlertType.JOB_DEAD, JobStatus.FAILED: AlertType.FAILED}


def raise_for_job(connection: Connection, job: TriggerJob, status: JobStatus, why: str) -> None:
    """For a job that ended `dead` or `failed`; nothing for any other end. `why` never holds a prompt or a reply. Last in its transaction.

    An alert that can't be written takes nothing else of the transaction back.
    """
    alert_type = _ALERT_TYPES.get(status)
    if alert_type is None or job.context.is_sandbox:
        return
    # What a person started, that person sees fail.
    severity = Severity.CRITICAL if job.event_type == EventType.DWS_COMPLETED else Severity.WARNING
    message = f"任务 {job.id}(门店 {job.site_id},{job.event_type})失败:{why}"
    with what_is_only_shown(connection, "job_alerts.raised"):
        alerts.raise_alert(connection, Alert(alert_type, message, job.site_id, severity=severity, detail=job.event_type))


def resolve_by_job(connection: Connection, job: TriggerJob, *, is_whole: bool) -> None:
    """For a job that completed. `is_whole`: it did all that jobs of its site can ask for, so that others' failures are over too."""
    if job.context.is_sandbox:
        return
    over: Iterable[str] = (EventType.DWS_COMPLETED, EventType.RUN_APP, EventType.BACKFILL) if is_whole else (job.event_type,)
    with what_is_only_shown(connection, "job_alerts.resolved"):
        for event_type in over:
            for alert_type in _ALERT_TYPES.values():
                alerts.resolve(connection, fingerprint_of(alert_type, job.site_id, detail=event_type), f"任务 {job.id} 已完成")
