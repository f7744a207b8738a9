"""Dealing with an alert: seen, or no trouble."""

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from zqyy_ai.admin.access import Access, OperatorAccess
from zqyy_ai.admin.fields import LARGEST_ID, Reason
from zqyy_ai.admin.problems import CONFLICT
from zqyy_ai.domain.errors import NotFound
from zqyy_ai.store import alerts, audit
from zqyy_ai.store.alerts import AlertStatus

router = APIRouter(prefix="/admin/ai/alerts", tags=["告警"])

AlertId = Annotated[int, Path(ge=1, le=LARGEST_ID)]


class AlertActionRequest(BaseModel):
    """Why; shown beside the alert. Optional."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason = Field("", examples=["已联系百炼，限流额度明天提高"])


class AlertActionResponse(BaseModel):
    id: int = Field(examples=[7])
    alert_status: AlertStatus = Field(examples=[AlertStatus.ACKED])


@router.post("/{alert_id}/ack", summary="确认告警", responses=CONFLICT)
def ack(alert_id: AlertId, access: OperatorAccess, body: AlertActionRequest | None = None) -> AlertActionResponse:
    """有人看到并在处理；同样的问题再次出现时只计次数。"""
    return _set_status(access, alert_id, AlertStatus.ACKED, body)


@router.post("/{alert_id}/ignore", summary="忽略告警", responses=CONFLICT)
def ignore(alert_id: AlertId, access: OperatorAccess, body: AlertActionRequest | None = None) -> AlertActionResponse:
    """不是问题：在解决之前不再通知任何人。"""
    return _set_status(access, alert_id, AlertStatus.IGNORED, body)


def _set_status(access: Access, alert_id: int, wanted: AlertStatus, body: AlertActionRequest | None) -> AlertActionResponse:
    reason = body.reason.strip() if body else ""
    with access.database.transaction() as connection:
        before = alerts.get(connection, alert_id)
        if before is None or not access.scope.sees(before.site_id):
            raise NotFound(f"告警 {alert_id} 不存在")
        after = alerts.set_status_by_hand(connection, alert_id, wanted, by=access.caller.name, reason=reason, scope=access.scope)
        audit.record(
            connection,
            access.caller,
            "alert.ack" if wanted is AlertStatus.ACKED else "alert.ignore",
            site_id=after.site_id,
            subject=str(alert_id),
            before={"alert_status": before.status.value, "reason": before.status_reason},
            after={"alert_status": after.status.value, "reason": after.status_reason},
            request_id=access.request_id,
        )
    return AlertActionResponse(id=alert_id, alert_status=after.status)
