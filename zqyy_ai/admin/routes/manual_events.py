"""An event fired by a person: past the deduplication, unless asked otherwise."""

from enum import StrEnum
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from zqyy_ai.admin.access import OperatorAccess
from zqyy_ai.admin.fields import Id, invalid_field, refuse_unstorable
from zqyy_ai.admin.known_sites import open_site
from zqyy_ai.admin.problems import CONFLICT, Problem
from zqyy_ai.domain.errors import InvalidRequest
from zqyy_ai.domain.events import EVENT_NAMES
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.engine.event_requests import fire, settle_events, understood
from zqyy_ai.engine.intake import LARGEST_PAYLOAD_BYTES
from zqyy_ai.store import audit

router = APIRouter(prefix="/admin/ai/trigger-event", tags=["手动触发"])


class ManualEventType(StrEnum):
    CONSUMPTION = "consumption"
    NOTE_CREATED = "note_created"
    TASK_ASSIGNED = "task_assigned"
    DWS_COMPLETED = "dws_completed"


class ManualTriggerRequest(BaseModel):
    """`payload` holds the event's other fields, such as a note's; the ids beside it count before those within it."""

    model_config = ConfigDict(extra="forbid")

    event_type: ManualEventType
    site_id: Id
    member_id: Id | None = Field(None, description="dws_completed 以外都需要", examples=[1001000001])
    assistant_id: Id | None = Field(None, description="task_assigned 需要；consumption 给出时执行 App4、App5", examples=[100103])
    payload: dict[str, Any] | None = Field(None, examples=[{"note_content": "客人喜欢安静的台", "noted_by_name": "小王"}])
    is_forced: bool = Field(True, description="true：跳过去重")


class ManualTriggerResponse(BaseModel):
    """The job that stands for the event; `is_duplicate` where it stood there before (only without `is_forced`)."""

    trigger_job_id: int = Field(examples=[108])
    status: JobStatus = Field(examples=[JobStatus.PENDING])
    event_id: int
    is_duplicate: bool


@router.post("", summary="手动触发事件链", responses=CONFLICT)
def trigger(body: ManualTriggerRequest, access: OperatorAccess) -> ManualTriggerResponse:
    """写入事件并立即接收；默认跳过去重。参数不全时返回 422，不写入任何内容。"""
    services = access.services
    payload = _payload(body)
    refuse_unstorable(payload, "body.payload", LARGEST_PAYLOAD_BYTES)
    name = EVENT_NAMES[body.event_type]
    try:
        understood(name, payload)
    except InvalidRequest as invalid:
        raise invalid_field("body", str(invalid)) from None
    with access.database.transaction() as connection:
        open_site(access, connection, body.site_id)
        event_id = fire(connection, name, payload)
        audit.record(
            connection,
            access.caller,
            "event.fire",
            site_id=body.site_id,
            subject=str(event_id),
            # A note's words are in the inbox; the audit outlives them.
            after={"event_name": name.value, **body.model_dump(mode="json", exclude_none=True, exclude={"payload"})},
            request_id=access.request_id,
        )
    [settled] = settle_events(services.chain_database, services.clock, [event_id])
    if settled.trigger_job_id is None or settled.status is None:
        raise Problem(422, f"事件没有成为任务：{settled.rejected_reason or '任务已不存在'}", code="event_rejected", event_id=event_id)
    return ManualTriggerResponse(
        trigger_job_id=settled.trigger_job_id, status=settled.status, event_id=event_id, is_duplicate=settled.is_duplicate
    )


def _payload(body: ManualTriggerRequest) -> dict[str, Any]:
    payload: dict[str, Any] = {"source": "api", **(body.payload or {}), "site_id": body.site_id, "is_forced": body.is_forced}
    if body.member_id is not None:
        payload["member_id"] = body.member_id
    if body.assistant_id is not None:
        payload["assistant_id"] = body.assistant_id
        if body.event_type is ManualEventType.CONSUMPTION:
            payload["has_assistant"] = True
    return payload
