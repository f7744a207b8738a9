"""调用日志: each call of the model, with what was asked, what came back, and what it cost."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from zqyy_ai.admin.console.dagster_links import run_url
from zqyy_ai.admin.console.numbers import numbers_told
from zqyy_ai.admin.console.prompt_parts import parts_of
from zqyy_ai.admin.console.queries import choice_of, days_of_form, id_of, last_page_at_most, needed_id, page_of
from zqyy_ai.admin.console.rendering import render
from zqyy_ai.admin.console.visits import TheVisit
from zqyy_ai.admin.problems import Problem
from zqyy_ai.admin.routes.run_logs import get_run_log, list_run_logs
from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.json_text import read_json
from zqyy_ai.domain.runtime_context import RuntimeMode
from zqyy_ai.store.run_logs import RunStatus

router = APIRouter(prefix="/logs")

_TRIGGER_TYPES = frozenset({"event", "cron", "manual"})


@router.get("")
def show(
    request: Request,
    visit: TheVisit,
    app_type: Annotated[str, Query(max_length=40)] = "",
    status: Annotated[str, Query(max_length=20)] = "",
    trigger_type: Annotated[str, Query(max_length=20)] = "",
    member_id: Annotated[str, Query(max_length=20)] = "",
    trigger_job_id: Annotated[str, Query(max_length=20)] = "",
    runtime_mode: Annotated[str, Query(max_length=20)] = "",
    date_from: Annotated[str, Query(max_length=10)] = "",
    date_to: Annotated[str, Query(max_length=10)] = "",
    page: Annotated[str, Query(max_length=10)] = "",
    log_id: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    """`log_id` opens that log beside the list."""
    if trigger_type and trigger_type not in _TRIGGER_TYPES:
        raise Problem(422, f"触发方式应为 {'、'.join(sorted(_TRIGGER_TYPES))} 之一")
    opened = id_of(log_id, "记录编号")
    list_page = partial(
        list_run_logs,
        visit.access,
        days=days_of_form(date_from, date_to),
        app_type=choice_of(AppType, app_type, "应用"),
        status=choice_of(RunStatus, status, "状态"),
        trigger_type=trigger_type or None,
        site_id=visit.site_id,
        member_id=id_of(member_id, "会员编号"),
        trigger_job_id=id_of(trigger_job_id, "任务编号"),
        runtime_mode=choice_of(RuntimeMode, runtime_mode, "模式"),
    )
    found = last_page_at_most(lambda one: list_page(page=one), page_of(page))
    filters = {
        "app_type": app_type,
        "status": status,
        "trigger_type": trigger_type,
        "member_id": member_id,
        "trigger_job_id": trigger_job_id,
        "runtime_mode": runtime_mode,
        "date_from": date_from,
        "date_to": date_to,
    }
    return render(
        request,
        visit,
        "logs.html",
        found=found,
        filters=filters,
        query={**filters, "site_id": visit.site_id},
        statuses={
            "success": "成功",
            "failed": "失败（含被拦下）",
            "timeout": "超时",
            "reused": "复用",
            "running": "调用中",
            "pending": "准备中",
        },
        opened=f"/logs/{opened}" if opened else None,
    )


@router.get("/{log_id}")
def detail(request: Request, visit: TheVisit, log_id: str) -> Response:
    log = get_run_log(visit.access, needed_id(log_id, "记录编号"))
    reply = read_json(log.response_text)
    return render(
        request,
        visit,
        "log_detail.html",
        log=log,
        prompt=parts_of(log.request_prompt) if log.request_prompt else [],
        reply=reply if isinstance(reply, dict) else None,
        check=numbers_told(log.number_check),
        run_url=run_url(request, visit.access.services.settings, log.dagster_run_id),
    )
