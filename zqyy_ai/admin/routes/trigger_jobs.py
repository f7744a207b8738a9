"""Trigger jobs: the work."""

from dataclasses import asdict
from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from zqyy_ai.admin.access import ViewerAccess
from zqyy_ai.admin.parameters import LARGEST_ID, MemberId, SiteId, TheDayRange, ThePage
from zqyy_ai.admin.problems import not_found
from zqyy_ai.admin.routes.run_logs import RunLogItem, run_log_item
from zqyy_ai.domain.business_clock import business_date_at, start_of_day
from zqyy_ai.domain.events import EventType
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.store import job_pages, run_log_pages
from zqyy_ai.store.job_pages import JobFilter

router = APIRouter(prefix="/admin/ai/trigger-jobs", tags=["触发任务"])

_MOST_STEPS = 500
_MOST_EVENTS = 100


class TriggerJobItem(BaseModel):
    id: int = Field(examples=[88])
    event_type: str = Field(examples=["consumption"])
    member_id: int | None = Field(examples=[7])
    status: str = Field(description="pending、running、completed、partial、failed 或 dead", examples=["completed"])
    app_chain: str | None = Field(examples=["app3→app8→app7"])
    is_forced: bool = Field(description="是否越过去重")
    site_id: int = Field(examples=[1001])
    started_at: datetime | None
    finished_at: datetime | None
    created_at: datetime
    business_date: date | None
    runtime_mode: str = Field(description="live 或 sandbox；沙箱的业务日见 business_date", examples=["live"])
    duplicate_count: int = Field(description="并入该任务的重复事件数", examples=[0])
    attempt: int = Field(description="已尝试次数", examples=[1])
    not_before: datetime | None = Field(description="在此之前不会开始")
    error_message: str | None
    retry_of: int | None = Field(description="重试的是哪个任务", examples=[None])
    run_id: str | None = Field(description="执行它的 Dagster 运行")
    batch_id: UUID | None
    progress: dict[str, Any] = Field(description="total、done、reused、failed、calls、tokens", examples=[{"total": 3, "done": 3}])


class MergedEventItem(BaseModel):
    """An inbox event that the job stands for."""

    id: int = Field(examples=[501])
    event_name: str | None = Field(examples=["ai_consumption_settled"])
    created_at: datetime
    handled_at: datetime | None


class TriggerJobDetailResponse(TriggerJobItem):
    payload: dict[str, Any] | None = Field(examples=[{"site_id": 1001, "member_id": 7}])
    connector_type: str = Field(examples=["feiqiu"])
    steps: list[RunLogItem] = Field(description=f"该任务的调用、复用与拦下，先发生的在前，最多 {_MOST_STEPS} 项")
    merged_events: list[MergedEventItem] = Field(description=f"由该任务代表的事件，最多 {_MOST_EVENTS} 项")
    merged_event_count: int = Field(examples=[1])
    retries: list[int] = Field(description="重试它的任务", examples=[[]])


class TriggerJobListResponse(BaseModel):
    items: list[TriggerJobItem]
    total: int = Field(examples=[1])
    page: int = Field(examples=[1])
    page_size: int = Field(examples=[20])
    today_skipped_duplicates: int = Field(description="今日并入已有任务的重复事件数", examples=[0])


@router.get("", summary="触发任务列表")
def list_trigger_jobs(
    access: ViewerAccess,
    page: ThePage,
    days: TheDayRange,
    event_type: Annotated[EventType | None, Query(description="任务类型")] = None,
    status: Annotated[JobStatus | None, Query(description="状态")] = None,
    site_id: SiteId = None,
    member_id: MemberId = None,
) -> TriggerJobListResponse:
    """最新的在前；日期按任务的创建时间。"""
    scope = access.scope.narrowed_to(site_id)
    wanted = JobFilter(
        scope,
        event_type=event_type.value if event_type else None,
        status=status.value if status else None,
        member_id=member_id,
        date_from=days.date_from,
        date_to=days.date_to,
    )
    today = start_of_day(business_date_at(access.services.clock.now()))
    with access.database.transaction() as connection:
        rows, total = job_pages.find_page(connection, wanted, offset=page.offset, rows=page.page_size)
        skipped = job_pages.duplicates_since(connection, scope, today)
    return TriggerJobListResponse(
        items=[TriggerJobItem(**asdict(row)) for row in rows],
        total=total,
        page=page.page,
        page_size=page.page_size,
        today_skipped_duplicates=skipped,
    )


@router.get("/{job_id}", summary="触发任务详情")
def get_trigger_job(access: ViewerAccess, job_id: Annotated[int, Path(ge=1, le=LARGEST_ID)]) -> TriggerJobDetailResponse:
    with access.database.transaction() as connection:
        found = job_pages.get(connection, access.scope, job_id)
        if found is None:
            raise not_found(f"任务 {job_id}")
        steps = run_log_pages.of_job(connection, access.scope, job_id, rows=_MOST_STEPS)
        merged = job_pages.merged_events(connection, access.scope, job_id, rows=_MOST_EVENTS)
    return TriggerJobDetailResponse(
        **asdict(found.row),
        payload=found.payload,
        connector_type=found.connector_type,
        steps=[run_log_item(row, access.services.settings) for row in steps],
        merged_events=[MergedEventItem(**asdict(event)) for event in merged],
        merged_event_count=found.merged_events,
        retries=found.retry_ids,
    )
