"""The pause switch: all model calls of the whole chain, stopped and let go on by a person."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from zqyy_ai.admin.access import AdminAccess
from zqyy_ai.admin.fields import Reason
from zqyy_ai.admin.problems import CONFLICT
from zqyy_ai.engine.call_pauses import begin_pause, end_pause
from zqyy_ai.guards.call_pauses import CallPause, calls_in_flight, pause_in_force
from zqyy_ai.store import audit

router = APIRouter(prefix="/admin/ai/pause", tags=["暂停开关"])


class PauseRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: Reason = Field(min_length=1, description="为什么暂停；会显示在告警与任务里", examples=["核对账单"])


class PauseItem(BaseModel):
    id: int
    reason: str
    paused_by: str
    paused_at: datetime

    @classmethod
    def of(cls, pause: CallPause) -> "PauseItem":
        return cls(id=pause.id, reason=pause.reason, paused_by=pause.paused_by, paused_at=pause.paused_at)


class PauseResponse(BaseModel):
    """`calls_in_flight` are paid already: they end, and their answers are written."""

    is_paused: bool
    pause: PauseItem | None = Field(description="生效中的暂停；恢复时为刚刚结束的那一个")
    calls_in_flight: int = Field(examples=[3])


@router.get("", summary="暂停开关的状态")
def show(access: AdminAccess) -> PauseResponse:
    access.require_all_sites()
    with access.database.transaction() as connection:
        pause = pause_in_force(connection)
        return PauseResponse(
            is_paused=pause is not None, pause=PauseItem.of(pause) if pause else None, calls_in_flight=calls_in_flight(connection)
        )


@router.post("", summary="暂停全部模型调用", responses=CONFLICT)
def pause_all(body: PauseRequest, access: AdminAccess) -> PauseResponse:
    """立即不再发起新的调用，直到恢复；任务留在队列里，不会丢失。"""
    access.require_all_sites()
    with access.database.transaction() as connection:
        begun = begin_pause(connection, reason=body.reason, by=access.caller.name)
        audit.record(
            connection,
            access.caller,
            "calls.pause",
            site_id=None,
            subject=str(begun.pause.id),
            before={"is_paused": False},
            after={"is_paused": True, "reason": begun.pause.reason},
            request_id=access.request_id,
        )
    return PauseResponse(is_paused=True, pause=PauseItem.of(begun.pause), calls_in_flight=begun.calls_in_flight)


@router.delete("", summary="恢复模型调用", responses=CONFLICT)
def resume_all(access: AdminAccess) -> PauseResponse:
    """等待中的任务随即继续。"""
    access.require_all_sites()
    with access.database.transaction() as connection:
        ended = end_pause(connection, by=access.caller.name)
        audit.record(
            connection,
            access.caller,
            "calls.resume",
            site_id=None,
            subject=str(ended.id),
            before={"is_paused": True, "reason": ended.reason},
            after={"is_paused": False},
            request_id=access.request_id,
        )
        return PauseResponse(is_paused=False, pause=PauseItem.of(ended), calls_in_flight=calls_in_flight(connection))
