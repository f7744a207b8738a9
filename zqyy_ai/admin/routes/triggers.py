"""The five triggers: which events start work, and when the daily prewarm runs."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from zqyy_ai.admin.access import Access
from zqyy_ai.store.triggers import Trigger


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
    last_error: str | None


def trigger_item(trigger: Trigger, access: Access) -> TriggerItem:
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
    )
