"""批量运行: applications for many members at once: chosen, estimated, confirmed, watched, cancelled."""

from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Form, Request, Response

from zqyy_ai.admin.access import Access
from zqyy_ai.admin.console.queries import choice_of, id_of, ids_of, needed_id, request_of
from zqyy_ai.admin.console.rendering import done, render
from zqyy_ai.admin.console.visits import OperatorVisit, TheVisit
from zqyy_ai.admin.known_sites import open_site
from zqyy_ai.admin.problems import Problem
from zqyy_ai.admin.routes import batch_runs
from zqyy_ai.admin.routes.batch_runs import BatchRunConfirmRequest, BatchRunProgress, BatchRunRequest
from zqyy_ai.domain.apps import APPS, AppType
from zqyy_ai.domain.business_clock import business_date_at
from zqyy_ai.domain.events import ASSISTANT_APPS, MEMBER_APPS
from zqyy_ai.engine.prices import cost_cny
from zqyy_ai.store import batches, cache, runtime_contexts
from zqyy_ai.store.database import Connection
from zqyy_ai.store.sites import Site
from zqyy_ai.warehouse.members import members_of_site

router = APIRouter(prefix="/batches")

_BATCHES_SHOWN = 10
_MOST_MEMBERS = 5_000
_MOST_DAYS = 3_650


@router.get("")
def show(request: Request, visit: TheVisit) -> Response:
    access, site = visit.access, visit.chosen_site()
    with access.database.transaction() as connection:
        newest = batches.newest(connection, access.scope.narrowed_to(visit.site_id), rows=_BATCHES_SHOWN)
    settings = access.services.settings
    found = [batch_runs.progress(batch.id, access) for batch in newest]
    now = access.services.clock.now()
    return render(
        request,
        visit,
        "batches.html",
        site=site,
        batches=[
            (one, cost_cny(settings, tokens=one.tokens, input_tokens=0, output_tokens=0), _eta_seconds(one, now.timestamp()))
            for one in found
        ],
        apps=[APPS[app] for app in AppType],
        assistant_apps={app.value for app in ASSISTANT_APPS},
        active_days=settings.active_member_days,
        now=now,
    )


def _eta_seconds(batch: BatchRunProgress, now_seconds: float) -> float | None:
    """As fast as since the confirmation; None where nothing tells."""
    if batch.confirmed_at is None or not batch.ended_count or batch.status != "running":
        return None
    return (now_seconds - batch.confirmed_at.timestamp()) / batch.ended_count * (batch.job_count - batch.ended_count)


@router.post("/estimate")
def estimate(
    request: Request,
    visit: OperatorVisit,
    batch_site_id: Annotated[str, Form(max_length=20)],
    app_types: Annotated[list[str], Form(max_length=20)] = [],  # noqa: B006 - FastAPI copies it
    members: Annotated[str, Form(max_length=20)] = "active",
    pasted_ids: Annotated[str, Form(max_length=200_000)] = "",
    visited_within_days: Annotated[str, Form(max_length=10)] = "",
    only_missing: Annotated[bool, Form()] = False,
) -> Response:
    """What it may cost at most, with the button that starts it."""
    apps = [app for app in (choice_of(AppType, text, "应用") for text in app_types) if app]
    if not apps:
        raise Problem(422, "请至少选择一个应用")
    site_id = needed_id(batch_site_id, "门店编号")
    has_member_apps = any(app in MEMBER_APPS for app in apps)
    member_ids = _members(visit.access, site_id, apps, members, pasted_ids, visited_within_days, only_missing) if has_member_apps else []
    if len(member_ids) > _MOST_MEMBERS:
        raise Problem(422, f"选中了 {len(member_ids):,} 名会员，一个批次最多 {_MOST_MEMBERS:,} 名：请缩小范围，分批执行")
    body = request_of(BatchRunRequest, site_id=site_id, app_types=apps, member_ids=member_ids)
    found = batch_runs.estimate(body, visit.access)
    return render(request, visit, "batch_estimate.html", found=found, site_id=site_id)


def _members(
    access: Access, site_id: int, apps: list[AppType], members: str, pasted_ids: str, visited_within_days: str, only_missing: bool
) -> list[int]:
    """Empty for the active ones; never empty where something else was asked for."""
    match members:
        case "active":
            return []
        case "pasted":
            found = ids_of(pasted_ids, "会员编号")
            if not found:
                raise Problem(422, "请粘贴会员编号，以逗号、空格或换行分隔")
            return found
        case "filtered":
            return _filtered(access, site_id, apps, visited_within_days, only_missing)
        case _:
            raise Problem(422, "会员范围应为 active、filtered 或 pasted 之一")


def _filtered(access: Access, site_id: int, apps: list[AppType], visited_within_days: str, only_missing: bool) -> list[int]:
    days, now = id_of(visited_within_days, "天数"), access.services.clock.now()
    since = business_date_at(now) - timedelta(days=min(days, _MOST_DAYS)) if days else None
    with access.database.transaction() as connection:
        site = open_site(access, connection, site_id)
        found = members_of_site(connection, site_id, since=since)
        if only_missing:
            whole = _with_all_answers(connection, site, apps, now)
            found = [member_id for member_id in found if str(member_id) not in whole]
    if not found:
        raise Problem(422, "没有符合条件的会员：请放宽筛选条件")
    return found


def _with_all_answers(connection: Connection, site: Site, apps: list[AppType], now: datetime) -> set[str]:
    """Members who have a valid answer of each of the chosen applications, of the sandbox where the site is in one."""
    if any(app in ASSISTANT_APPS for app in apps):
        raise Problem(422, "「只要缺少有效回答的」不适用于助教关系、话术：它们按助教生成，请分开执行")
    context = runtime_contexts.context_of(connection, site.site_id)
    moment = context.moment(now, site.business_day_cutoff)
    wanted = [APPS[app].cache_type for app in apps if app in MEMBER_APPS]
    return set.intersection(
        *(cache.valid_target_ids(connection, cache_type, site.site_id, now=moment, context=context) for cache_type in wanted)
    )


@router.post("/confirm")
def confirm(visit: OperatorVisit, batch_id: Annotated[UUID, Form()]) -> Response:
    started = batch_runs.confirm(BatchRunConfirmRequest(batch_id=batch_id), visit.access)
    return done(f"批次已开始：{started.job_count:,} 个任务，进度在下方")


@router.post("/{batch_id}/cancel")
def cancel(visit: OperatorVisit, batch_id: UUID) -> Response:
    ended = batch_runs.cancel(batch_id, visit.access)
    return done(f"已取消：{ended.cancelled_jobs:,} 个尚未开始的任务不再执行，已完成的保留，执行中的会做完")
