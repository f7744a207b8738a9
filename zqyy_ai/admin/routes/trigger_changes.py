"""Changing a trigger: on or off, when it runs, what it says. Holds for the whole chain, from the next minute on."""

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field, model_validator

from zqyy_ai.admin.access import AdminAccess
from zqyy_ai.admin.fields import LARGEST_ID, Text, invalid_field
from zqyy_ai.admin.problems import not_found
from zqyy_ai.admin.routes.triggers import TriggerItem, trigger_item
from zqyy_ai.engine.prewarm_schedule import change_trigger
from zqyy_ai.store import audit, triggers
from zqyy_ai.store.triggers import Trigger

router = APIRouter(prefix="/admin/ai/triggers", tags=["触发器"])

_CRON_FIELDS = 5


class TriggerStatus(StrEnum):
    ENABLED = "enabled"
    DISABLED = "disabled"


class TriggerUpdateRequest(BaseModel):
    """What is not given stays as it is."""

    model_config = ConfigDict(extra="forbid")

    status: TriggerStatus | None = None
    cron_expression: Annotated[Text, Field(max_length=100)] | None = Field(
        None, description="五段：分 时 日 月 周（Asia/Shanghai）", examples=["30 8 * * *"]
    )
    description: Annotated[Text, Field(max_length=500)] | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> "TriggerUpdateRequest":
        if self.status is None and self.cron_expression is None and self.description is None:
            raise ValueError("没有要修改的内容：给出 status、cron_expression 或 description")
        return self


@router.patch("/{trigger_id}", summary="修改触发器")
def update(trigger_id: Annotated[int, Path(ge=1, le=LARGEST_ID)], body: TriggerUpdateRequest, access: AdminAccess) -> TriggerItem:
    """启用、停用，或修改 cron 与说明；cron 从下一分钟起生效，`next_run_at` 随即重新计算。"""
    access.require_all_sites()
    with access.database.transaction() as connection:
        before = triggers.get_locked(connection, trigger_id)
        if before is None:
            raise not_found(f"触发器 {trigger_id}")
        cron_expression = _readable_cron(before, body.cron_expression)
        try:
            after = change_trigger(
                connection,
                before,
                now=access.services.clock.now(),
                status=body.status.value if body.status else None,
                description=body.description,
                cron_expression=cron_expression,
            )
        except ValueError as invalid:
            raise invalid_field("body.cron_expression", str(invalid)) from None
        audit.record(
            connection,
            access.caller,
            "trigger.update",
            site_id=None,
            subject=before.job_name,
            before=_told(before),
            after=_told(after),
            request_id=access.request_id,
        )
    return trigger_item(after, access)


def _readable_cron(trigger: Trigger, expression: str | None) -> str | None:
    if expression is None:
        return None
    if trigger.trigger_condition != "cron":
        raise invalid_field("body.cron_expression", "只有 cron 触发器可以修改 cron 表达式")
    fields = expression.split()
    if len(fields) != _CRON_FIELDS:
        raise invalid_field("body.cron_expression", f"应为五段（分 时 日 月 周），如 30 8 * * *；收到的是 {len(fields)} 段")
    return " ".join(fields)


def _told(trigger: Trigger) -> dict[str, Any]:
    return {
        "status": trigger.status,
        "cron_expression": trigger.cron_expression,
        "description": trigger.description,
        "next_run_at": trigger.next_run_at.isoformat() if trigger.next_run_at else None,
    }
