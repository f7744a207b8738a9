"""Alerts: what an operator must know."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from zqyy_ai.admin.access import ViewerAccess
from zqyy_ai.admin.parameters import SiteId, ThePage
from zqyy_ai.store import alerts
from zqyy_ai.store.alerts import AlertStatus, AlertType, StoredAlert

router = APIRouter(prefix="/admin/ai/alerts", tags=["告警"])

_TYPES = frozenset(AlertType)
_EPOCH = datetime.fromtimestamp(0, UTC)


class AlertItem(BaseModel):
    """One row a trouble: the same again is counted on it."""

    id: int = Field(examples=[12])
    app_type: str = Field(description="没有对应应用时为空字符串", examples=["app3_clue"])
    status: str = Field(description="告警类型", examples=["circuit_open"])
    alert_status: str | None = Field(description="open、acked、ignored 或 resolved", examples=["open"])
    error_message: str | None = Field(examples=["客户线索 的熔断器已打开：连续 5 次失败"])
    created_at: datetime = Field(description="首次发生")
    message: str = Field(description="与 error_message 相同", examples=["客户线索 的熔断器已打开：连续 5 次失败"])
    severity: str = Field(description="warning 或 critical", examples=["critical"])
    site_id: int | None = Field(description="影响全部门店时为 null", examples=[1001])
    log_id: int | None = Field(description="相关的调用记录", examples=[345])
    occurrences: int = Field(description="累计发生次数", examples=[3])
    fingerprint: str | None = Field(description="相同问题的标识", examples=["circuit_open|-|app3_clue|-"])
    last_seen_at: datetime | None = Field(description="最近一次发生")
    reason: str | None = Field(description="确认、忽略或解决时填写的原因")
    status_changed_by: str | None = Field(description="谁最后处理")
    status_changed_at: datetime | None
    runbook: str | None = Field(description="处理手册中的章节", examples=["docs/operations.md#circuit_open"])


class AlertListResponse(BaseModel):
    items: list[AlertItem]
    total: int = Field(examples=[1])
    page: int = Field(examples=[1])
    page_size: int = Field(examples=[20])


@router.get("", summary="告警列表")
def list_alerts(
    access: ViewerAccess,
    page: ThePage,
    alert_status: Annotated[AlertStatus | None, Query(description="不填为全部状态")] = None,
    site_id: SiteId = None,
) -> AlertListResponse:
    """最近发生的在前。影响全部门店的告警只有可访问全部门店的调用者可见。"""
    with access.database.transaction() as connection:
        found, total = alerts.find_page(
            connection, access.scope.narrowed_to(site_id), alert_status, offset=page.offset, rows=page.page_size
        )
    return AlertListResponse(items=[alert_item(alert) for alert in found], total=total, page=page.page, page_size=page.page_size)


def alert_item(alert: StoredAlert) -> AlertItem:
    return AlertItem(
        id=alert.id,
        app_type=alert.app_type or "",
        status=alert.alert_type,
        alert_status=alert.status.value,
        error_message=alert.message or None,
        # Another system's row may have no time at all.
        created_at=alert.created_at or alert.opened_at or alert.last_seen_at or _EPOCH,
        message=alert.message,
        severity=alert.severity,
        site_id=alert.site_id,
        log_id=alert.log_id,
        occurrences=alert.occurrences,
        fingerprint=alert.fingerprint,
        last_seen_at=alert.last_seen_at,
        reason=alert.status_reason,
        status_changed_by=alert.status_changed_by,
        status_changed_at=alert.status_changed_at,
        runbook=f"docs/operations.md#{alert.alert_type}" if alert.alert_type in _TYPES else None,
    )
