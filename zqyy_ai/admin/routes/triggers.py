"""The five triggers: which events start work, and when the daily prewarm runs."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from zqyy_ai.admin.access import Access, ViewerAccess
from zqyy_ai.engine.prewarm_schedule import next_fires
from zqyy_ai.store import triggers
from zqyy_ai.store.triggers import Trigger

router = APIRouter(prefix="/admin/ai/triggers", tags=["触发器"])

_FIRES_SHOWN = 5


class TriggerItem(BaseModel):
    id: int = Field(examples=[5])
    job_name: str = Field(examples=["ai_dws_prewarm_0830"])
    job_type: str = Field(examples=["ai_dws_prewarm"])
    trigger_condition: str = Field(description="event、cron 或 interval", examples=["cron"])
    trigger_config: dict[str, Any] = Field(examples=[{"cron_expression": "30 8 * * *"}])
    status: str = Field(description="enabled 或 disabled", examples=["enabled"])
    description: str | None = Field(examples=["每日 08:30 兜底触发，对所有门店预热 App2"])
    last_run_at: datetime | None
    next_run_at: datetime | None
    last_error: str | None = Field(description="可能涉及任一门店，因此只对可访问全部门店的调用者显示")
    next_fire_times: list[datetime] = Field(description="启用的 cron 触发器接下来的五次；其余为空")
    dedup_policy: str = Field(description="business_day 或 coalesce", examples=["business_day"])


@router.get("", summary="触发器列表")
def list_triggers(access: ViewerAccess) -> list[TriggerItem]:
    with access.database.transaction() as connection:
        found = triggers.all_triggers(connection)
    return [trigger_item(trigger, access) for trigger in found]


def trigger_item(trigger: Trigger, access: Access) -> TriggerItem:
    fires = next_fires(trigger.cron_expression, access.services.clock.now(), _FIRES_SHOWN) if trigger.is_enabled else []
    return TriggerItem(
        id=trigger.id,
        job_name=trigger.job_name or "",
        job_type=trigger.job_type or "",
        trigger_condition=trigger.trigger_condition or "",
        trigger_config=trigger.trigger_config,
        status=trigger.status or "",
        description=trigger.description,
        last_run_at=trigger.last_run_at,
        next_run_at=trigger.next_run_at,
        last_error=trigger.last_error if access.scope.is_all else None,
        next_fire_times=fires,
        dedup_policy=trigger.dedup_policy.value,
    )
