"""Waiting for a job's end without holding anything: no thread, no connection; the job goes on whoever stops waiting."""

import time

import anyio
from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from zqyy_ai.admin.access import Access
from zqyy_ai.engine.member_requests import JobReport, job_report
from zqyy_ai.store.trigger_jobs import TriggerJob

_LOOK_INTERVAL_SECONDS = 0.3


async def ended_job(request: Request, access: Access, job_id: int, *, seconds: float) -> JobReport | None:
    """The job once it has ended, or was sent back for longer than is left of `seconds`; None when it has not by then, or nobody waits."""
    deadline = time.monotonic() + seconds
    while True:
        report = await run_in_threadpool(job_report, access.database, job_id)
        left_seconds = deadline - time.monotonic()
        if report.job.status.is_final or _waits_longer_than(report.job, left_seconds, access):
            return report
        if left_seconds <= 0 or await request.is_disconnected():
            return None
        await anyio.sleep(min(_LOOK_INTERVAL_SECONDS, left_seconds))


def _waits_longer_than(job: TriggerJob, seconds: float, access: Access) -> bool:
    return job.not_before is not None and (job.not_before - access.services.clock.now()).total_seconds() > seconds
