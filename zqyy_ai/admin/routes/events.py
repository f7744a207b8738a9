"""The inbox: events as their senders fired them, with what became of each."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from zqyy_ai.admin.access import ViewerAccess
from zqyy_ai.admin.parameters import SiteId, ThePage
from zqyy_ai.store import events

router = APIRouter(prefix="/admin/ai/events", tags=["事件"])


class EventItem(BaseModel):
    id: int = Field(examples=[501])
    event_name: str | None = Field(examples=["ai_consumption_settled"])
    site_id: int | None = Field(description="payload 中的门店；读不出为 null", examples=[1001])
    payload: Any = Field(description="发送方给出的内容；过大或无法显示时为 null", examples=[{"site_id": 1001}])
    payload_bytes: int | None = Field(examples=[18])
    created_at: datetime
    handled_at: datetime | None = Field(description="尚未处理为 null")
    trigger_job_id: int | None = Field(description="代表它的任务", examples=[None])
    rejected_reason: str | None = Field(description="被拒绝的原因", examples=["缺少 member_id"])


class EventListResponse(BaseModel):
    items: list[EventItem]
    total: int = Field(examples=[1])
    page: int = Field(examples=[1])
    page_size: int = Field(examples=[20])


@router.get("", summary="事件列表")
def list_events(
    access: ViewerAccess,
    page: ThePage,
    rejected: Annotated[bool | None, Query(description="true：只看被拒绝的；false：只看其余的")] = None,
    site_id: SiteId = None,
) -> EventListResponse:
    """最新的在前。读不出门店的事件只有可访问全部门店的调用者可见。"""
    with access.database.transaction() as connection:
        rows, total = events.find_page(
            connection, access.scope.narrowed_to(site_id), is_rejected=rejected, offset=page.offset, rows=page.page_size
        )
    return EventListResponse(items=[EventItem(**asdict(row)) for row in rows], total=total, page=page.page, page_size=page.page_size)
