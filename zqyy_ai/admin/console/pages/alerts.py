"""告警中心: what an operator must know, and dealing with it, one by one or many at once."""

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response

from zqyy_ai.admin.console.queries import choice_of, last_page_at_most, page_of, request_of
from zqyy_ai.admin.console.rendering import done, render
from zqyy_ai.admin.console.runbook import RUNBOOK
from zqyy_ai.admin.console.visits import OperatorVisit, TheVisit
from zqyy_ai.admin.fields import LARGEST_ID
from zqyy_ai.admin.problems import Problem, not_found
from zqyy_ai.admin.routes import alert_actions, alerts
from zqyy_ai.domain.errors import NotFound, StateConflict
from zqyy_ai.store.alerts import AlertStatus, AlertType

router = APIRouter(prefix="/alerts")

_ACTIONS = {"ack": (alert_actions.ack, "确认"), "ignore": (alert_actions.ignore, "忽略")}
_MOST_AT_ONCE = 200


@router.get("")
def show(
    request: Request,
    visit: TheVisit,
    status: Annotated[str, Query(max_length=20)] = AlertStatus.OPEN.value,
    page: Annotated[str, Query(max_length=10)] = "",
) -> Response:
    """`status` empty: all of them."""
    wanted = choice_of(AlertStatus, status, "状态")
    found = last_page_at_most(lambda one: alerts.list_alerts(visit.access, one, wanted, visit.site_id), page_of(page))
    return render(request, visit, "alerts.html", found=found, status=status, statuses=tuple(AlertStatus))


@router.get("/runbook/{alert_type}")
def runbook(request: Request, visit: TheVisit, alert_type: str) -> Response:
    known = choice_of(AlertType, alert_type, "告警类型")
    if known is None:
        raise not_found("告警类型")
    return render(request, visit, "runbook.html", alert_type=known.value, entry=RUNBOOK[known])


@router.post("/act")
def act(
    visit: OperatorVisit,
    action: Annotated[str, Form(max_length=10)],
    alert_id: Annotated[list[int], Form(max_length=_MOST_AT_ONCE)] = [],  # noqa: B006 - FastAPI copies it
    reason: Annotated[str, Form(max_length=500)] = "",
) -> Response:
    """Each for itself: one that somebody else has dealt with meanwhile keeps no other back."""
    if action not in _ACTIONS:
        raise Problem(422, f"操作应为 {'、'.join(_ACTIONS)} 之一")
    if not alert_id:
        raise Problem(422, "请先勾选告警")
    run, title = _ACTIONS[action]
    body = request_of(alert_actions.AlertActionRequest, reason=reason)
    refused = []
    for one in alert_id:
        if not 0 < one <= LARGEST_ID:
            raise Problem(422, f"告警编号 {one} 无效")
        try:
            run(one, visit.access, body)
        except (NotFound, StateConflict) as told:
            refused.append(str(told))
    finished = len(alert_id) - len(refused)
    if not finished:
        raise Problem(409, "；".join(refused[:3]))
    return done(f"已{title} {finished} 条告警" + (f"；{len(refused)} 条未改动：{refused[0]}" if refused else ""))
