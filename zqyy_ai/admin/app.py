"""The ASGI application: routes, problem details, bounds. `create_app` makes one over given services; `serve` runs it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

from zqyy_ai.admin.body_limit import BodyLimit
from zqyy_ai.admin.console.setup import add_console
from zqyy_ai.admin.hour_closer import closing_hours
from zqyy_ai.admin.live import LiveHub
from zqyy_ai.admin.problems import MEDIA_TYPE, ProblemDetails, add_problem_handlers
from zqyy_ai.admin.request_ids import RequestIds
from zqyy_ai.admin.routes import (
    alert_actions,
    alerts,
    app_runs,
    batch_runs,
    budget,
    cache_invalidation,
    cached_answers,
    dashboard,
    events,
    health,
    internal_events,
    job_retries,
    live_stream,
    manual_events,
    metrics,
    pauses,
    prewarm,
    run_logs,
    runtime_context,
    session,
    trigger_changes,
    trigger_jobs,
    triggers,
)
from zqyy_ai.admin.services import Services

_DESCRIPTION = """台球门店 AI 洞察的管理接口：查看与操作任务、调用记录、缓存、预算、告警与触发器。

所有启动都会登记为 `biz.ai_trigger_jobs` 中的一个任务，由 Dagster 执行。错误的格式见 RFC 9457，`code` 保持不变。"""

_ERRORS = {
    status: {"model": ProblemDetails, "description": description, "content": {MEDIA_TYPE: {}}}
    for status, description in (
        (400, "请求无法理解，如不是 UTF-8"),
        (401, "未登录或令牌无效"),
        (403, "没有权限"),
        (404, "不存在，或不可见"),
        (413, "请求体过大"),
        (422, "参数有误"),
        (429, "失败的登录过多"),
        (503, "数据库或业务数据暂时不可用"),
    )
}


def create_app(services: Services) -> FastAPI:
    """`services` are closed by whoever made them."""

    live = LiveHub(services.settings, services.database.url)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with live.running():
            with closing_hours(services.chain_database):
                yield

    app = FastAPI(
        title="zqyy_ai",
        description=_DESCRIPTION,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        separate_input_output_schemas=False,
    )
    app.state.services = services
    app.state.live = live
    add_problem_handlers(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestIds)
    app.include_router(_api())
    app.include_router(health.router)
    app.include_router(metrics.router, responses=_ERRORS)  # type: ignore[arg-type]  # its type wants `dict[int | str, …]`
    app.include_router(live_stream.websocket_router)
    add_console(app)
    return app


def _api() -> APIRouter:
    api = APIRouter(prefix="/api", responses=_ERRORS)  # type: ignore[arg-type]  # its type wants `dict[int | str, …]`
    api.include_router(alert_actions.router)
    api.include_router(alerts.router)
    api.include_router(app_runs.router)
    api.include_router(batch_runs.router)
    api.include_router(budget.router)
    api.include_router(cache_invalidation.router)
    api.include_router(cached_answers.router)
    api.include_router(dashboard.router)
    api.include_router(events.router)
    api.include_router(internal_events.router)
    api.include_router(job_retries.router)
    api.include_router(live_stream.router)
    api.include_router(manual_events.router)
    api.include_router(pauses.router)
    api.include_router(prewarm.router)
    api.include_router(run_logs.router)
    api.include_router(runtime_context.router)
    api.include_router(session.router)
    api.include_router(trigger_changes.router)
    api.include_router(trigger_jobs.router)
    api.include_router(triggers.router)
    return api
