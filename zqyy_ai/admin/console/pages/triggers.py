"""触发器管理: which events start work, and when the daily prewarm runs."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from zqyy_ai.admin.console.queries import needed_id, request_of
from zqyy_ai.admin.console.rendering import done, render
from zqyy_ai.admin.console.visits import AdministratorVisit, TheVisit
from zqyy_ai.admin.routes.trigger_changes import TriggerUpdateRequest, update
from zqyy_ai.admin.routes.triggers import list_triggers

router = APIRouter(prefix="/triggers")


@router.get("")
def show(request: Request, visit: TheVisit) -> Response:
    return render(request, visit, "triggers.html", triggers=list_triggers(visit.access), now=visit.access.services.clock.now())


@router.post("/{trigger_id}")
def change(
    visit: AdministratorVisit,
    trigger_id: str,
    status: Annotated[str, Form(max_length=20)] = "",
    cron_expression: Annotated[str, Form(max_length=100)] = "",
    description: Annotated[str | None, Form(max_length=500)] = None,
) -> Response:
    """What is not given stays as it is."""
    fields: dict[str, object] = {}
    if status:
        fields["status"] = status
    if cron_expression.strip():
        fields["cron_expression"] = cron_expression
    if description is not None:
        fields["description"] = description
    changed = update(needed_id(trigger_id, "触发器编号"), request_of(TriggerUpdateRequest, **fields), visit.access)
    if status:
        return done(f"已{'启用' if changed.status == 'enabled' else '停用'} {changed.job_name}")
    return done(f"已保存 {changed.job_name}，下一分钟起生效")
