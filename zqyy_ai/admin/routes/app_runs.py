"""One application asked anew for one target, with its answer: a forced job, waited for."""

from collections.abc import Sequence
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from zqyy_ai.admin.access import Access, OperatorAccess
from zqyy_ai.admin.fields import Id, Text, invalid_field
from zqyy_ai.admin.job_waiting import ended_job
from zqyy_ai.admin.known_sites import open_site
from zqyy_ai.admin.problems import CONFLICT, MEDIA_TYPE, Problem, ProblemDetails
from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.business_clock import SHANGHAI
from zqyy_ai.domain.events import ASSISTANT_APPS
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.domain.windows import Area, TimeDimension, WindowKey
from zqyy_ai.engine.call_pauses import describe
from zqyy_ai.engine.member_requests import JobReport, add_app_job, add_window_job, add_window_jobs
from zqyy_ai.guards.call_pauses import pause_in_force
from zqyy_ai.store import audit
from zqyy_ai.store.database import Connection

router = APIRouter(prefix="/admin/ai/run", tags=["单应用执行"])

# The queue, the run's looks and the answer's writing, on top of the step itself.
_MARGIN_SECONDS = 30.0
_TIMED_OUT: dict[int | str, dict[str, Any]] = {
    504: {"model": ProblemDetails, "description": "任务仍在执行，`trigger_job_id` 是它的编号", "content": {MEDIA_TYPE: {}}}
}


class RunAppRequest(BaseModel):
    """What to ask about. Which fields are needed depends on the application."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {"site_id": 1001, "time_dimension": "this_month", "area": "all"},
                {"site_id": 1001, "member_id": 1001000001},
                {"site_id": 1001, "member_id": 1001000001, "assistant_id": 100103},
            ]
        },
    )

    site_id: Id
    member_id: Id | None = Field(None, description="app3 至 app8 需要")
    assistant_id: Id | None = Field(None, description="app4、app5 需要")
    time_dimension: TimeDimension | None = Field(None, description="app2、app2a 需要")
    area: Area | None = Field(None, description="app2a 需要，不能是 all；app2 只能是 all（默认）")
    note_content: Annotated[Text, Field(max_length=20_000)] | None = Field(None, description="app6 需要")
    noted_by_name: Annotated[Text, Field(max_length=200)] | None = None
    noted_by_created_at: Annotated[Text, Field(max_length=64)] | None = Field(None, examples=["2026-04-20T10:00:00+08:00"])


class RunAppResponse(BaseModel):
    """`result` is the answer where `success`; else `error` says what happened. `status` is the job's."""

    app_type: AppType
    success: bool
    result: dict[str, Any] | None
    error: str | None
    trigger_job_id: int = Field(examples=[108])
    status: JobStatus = Field(examples=[JobStatus.COMPLETED])

    @classmethod
    def of(cls, app_type: AppType, report: JobReport) -> Self:
        job = report.job
        result = next((step.result_json for step in reversed(report.steps) if step.result_json is not None), None)
        is_done = job.status is JobStatus.COMPLETED
        return cls(
            app_type=app_type,
            success=is_done and result is not None,
            result=result if is_done else None,
            error=None if is_done and result is not None else _why(report),
            trigger_job_id=job.id,
            status=job.status,
        )


def _why(report: JobReport) -> str:
    job = report.job
    if job.status is JobStatus.COMPLETED:
        return "没有可询问的内容（没有到店、备注或未完成任务），未调用模型"
    said = job.error_message or f"任务以 {job.status.value} 结束"
    if job.status is JobStatus.PENDING and job.not_before is not None:
        return f"{said}；任务将在 {job.not_before.astimezone(SHANGHAI):%m-%d %H:%M} 之后自动继续"
    return said


@router.post("/{app_type}", summary="立即执行一个应用", responses={**CONFLICT, **_TIMED_OUT})
async def run_app(app_type: AppType, body: RunAppRequest, request: Request, access: OperatorAccess) -> RunAppResponse:
    """登记一个优先于队列的任务并等待它结束；会重新调用模型（产生费用）。客户端断开时任务照常执行。"""
    job_id = await run_in_threadpool(start_app_run, app_type, body, access)
    seconds = access.services.settings.step_timeout_seconds + _MARGIN_SECONDS
    report = await ended_job(request, access, job_id, seconds=seconds)
    if report is None:
        raise Problem(504, f"{seconds:.0f} 秒内没有结束，任务 {job_id} 继续执行，稍后可查看它的结果", trigger_job_id=job_id)
    return RunAppResponse.of(app_type, report)


def start_app_run(app_type: AppType, body: RunAppRequest, access: Access, *, needs_note: bool = True) -> int:
    """The job's id. Raises Problem 422 that names the field which is missing, 404 or 409 for the site, 409 while all calls are paused.

    `needs_note`: whether App6 must be given one; else it takes the member's newest.
    """
    window = _window(app_type, body) if app_type in (AppType.FINANCE, AppType.FINANCE_AREA) else None
    if window is None:
        _need(app_type, body, needs_note=needs_note)
    return _add_job(app_type, body, window, access)


def start_window_runs(windows: Sequence[WindowKey], site_id: int, access: Access, *, regenerate: bool) -> UUID:
    """Jobs for several windows of a site; returns the batch that they are. Raises Problem 404 or 409 for the site, 409 while paused."""
    with access.database.transaction() as connection:
        open_site(access, connection, site_id)
        refuse_while_paused(connection)
        batch_id = add_window_jobs(connection, windows, site_id, regenerate=regenerate, source="console", clock=access.services.clock)
        audit.record(
            connection,
            access.caller,
            "windows.run",
            site_id=site_id,
            subject=str(batch_id),
            after={"targets": [str(window) for window in windows], "regenerate": regenerate},
            request_id=access.request_id,
        )
    return batch_id


def refuse_while_paused(connection: Connection) -> None:
    """Raises Problem 409 while all calls are paused: nobody waits for what will not begin."""
    pause = pause_in_force(connection)
    if pause is not None:
        raise Problem(409, f"{describe(pause)}；恢复之后再试", code="paused")


def _window(app_type: AppType, body: RunAppRequest) -> WindowKey:
    if body.time_dimension is None:
        raise _missing(app_type, "time_dimension")
    if app_type is AppType.FINANCE_AREA and body.area is None:
        raise _missing(app_type, "area")
    area = body.area or Area.ALL
    if (area is Area.ALL) != (app_type is AppType.FINANCE):
        other = AppType.FINANCE if area is Area.ALL else AppType.FINANCE_AREA
        raise invalid_field("body.area", f"{app_type.value} 不做 area={area.value}，请用 {other.value}")
    return WindowKey(body.time_dimension, area)


def _need(app_type: AppType, body: RunAppRequest, *, needs_note: bool) -> None:
    """Raises Problem 422 that names the field which the application needs."""
    if body.member_id is None:
        raise _missing(app_type, "member_id")
    if app_type in ASSISTANT_APPS and body.assistant_id is None:
        raise _missing(app_type, "assistant_id")
    if app_type is AppType.NOTE and needs_note and not (body.note_content or "").strip():
        raise _missing(app_type, "note_content")


def _missing(app_type: AppType, field: str) -> Problem:
    return invalid_field(f"body.{field}", f"{app_type.value} 需要 {field}")


def _add_job(app_type: AppType, body: RunAppRequest, window: WindowKey | None, access: Access) -> int:
    clock = access.services.clock
    with access.database.transaction() as connection:
        open_site(access, connection, body.site_id)
        refuse_while_paused(connection)
        if window is not None:
            job_id = add_window_job(connection, window, body.site_id, source="api", clock=clock)
        else:
            assert body.member_id is not None
            note = {"note_content": body.note_content, "noted_by_name": body.noted_by_name, "noted_by_created_at": body.noted_by_created_at}
            job_id = add_app_job(
                connection,
                app_type,
                body.site_id,
                body.member_id,
                assistant_id=body.assistant_id if app_type in ASSISTANT_APPS else None,
                note={name: value for name, value in note.items() if value},
                source="api",
                clock=clock,
            )
        audit.record(
            connection,
            access.caller,
            "app.run",
            site_id=body.site_id,
            subject=str(job_id),
            # A note's words are in the job; the audit outlives them.
            after={
                "app_type": app_type.value,
                **body.model_dump(mode="json", exclude_none=True, exclude={"note_content", "noted_by_name"}),
            },
            request_id=access.request_id,
        )
    return job_id
