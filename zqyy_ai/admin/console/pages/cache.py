"""缓存与预算: taking answers back, what is spent and spoken for, and the pause switch."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response

from zqyy_ai.admin.console import names
from zqyy_ai.admin.console.queries import choice_of, days_of_form, id_of, needed_id, request_of
from zqyy_ai.admin.console.rendering import done, render
from zqyy_ai.admin.console.visits import AdministratorVisit, OperatorVisit, TheVisit, Visit
from zqyy_ai.admin.parameters import MOST_DAYS
from zqyy_ai.admin.problems import Problem
from zqyy_ai.admin.routes import pauses
from zqyy_ai.admin.routes.budget import budget
from zqyy_ai.admin.routes.cache_invalidation import CacheInvalidateRequest, invalidate
from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.business_clock import business_date_at
from zqyy_ai.engine.prices import cost_cny
from zqyy_ai.guards.call_pauses import calls_in_flight
from zqyy_ai.store import run_log_sums

router = APIRouter(prefix="/cache")


@dataclass(frozen=True, slots=True)
class Use:
    """Calls and what they cost: of a site, or of a site's application."""

    name: str
    calls: int
    tokens: int
    cost_cny: float


@router.get("")
def show(
    request: Request,
    visit: TheVisit,
    date_from: Annotated[str, Query(max_length=10)] = "",
    date_to: Annotated[str, Query(max_length=10)] = "",
) -> Response:
    """Use is of the month so far where no days are given."""
    days = days_of_form(date_from, date_to)
    today = business_date_at(visit.access.services.clock.now())
    last = days.date_to or today
    first = days.date_from or last.replace(day=1)
    if last - first >= timedelta(days=MOST_DAYS):
        raise Problem(422, f"最多 {MOST_DAYS} 天")
    found = budget(visit.access)
    with visit.access.database.transaction() as connection:
        in_flight = calls_in_flight(connection) if visit.access.scope.is_all else None
    return render(
        request,
        visit,
        "cache.html",
        budget=found,
        sites=[one for one in found.by_site if visit.site_id is None or one.site_id == visit.site_id],
        use=_use(visit, first, last),
        first=first,
        last=last,
        in_flight=in_flight,
    )


def _use(visit: Visit, first: date, last: date) -> list[tuple[Use, list[Use]]]:
    """By site, the dearest first, with its applications."""
    settings, scope = visit.access.services.settings, visit.access.scope.narrowed_to(visit.site_id)
    with visit.access.database.transaction() as connection:
        rows = run_log_sums.use_by_site(connection, scope, first, last)
    by_site: dict[int, list[Use]] = defaultdict(list)
    for row in rows:
        cost = cost_cny(settings, tokens=row.tokens, input_tokens=row.input_tokens, output_tokens=row.output_tokens)
        by_site[row.site_id].append(Use(row.app_type, row.calls, row.tokens, cost))
    found = [
        (
            Use(
                visit.site_name(site_id),
                sum(app.calls for app in apps),
                sum(app.tokens for app in apps),
                sum(app.cost_cny for app in apps),
            ),
            apps,
        )
        for site_id, apps in by_site.items()
    ]
    return sorted(found, key=lambda site: -site[0].tokens)


@router.post("/invalidate")
def take_back(
    request: Request,
    visit: OperatorVisit,
    cache_site_id: Annotated[str, Form(max_length=20)],
    app_type: Annotated[str, Form(max_length=40)] = "",
    member_id: Annotated[str, Form(max_length=20)] = "",
    target_id: Annotated[str, Form(max_length=200)] = "",
    is_confirmed: Annotated[bool, Form()] = False,
) -> Response:
    """First a count, with the button that does it."""
    body = request_of(
        CacheInvalidateRequest,
        site_id=needed_id(cache_site_id, "门店编号"),
        app_type=choice_of(AppType, app_type, "应用"),
        member_id=id_of(member_id, "会员编号"),
        target_id=target_id.strip() or None,
        preview=not is_confirmed,
    )
    found = invalidate(body, visit.access)
    if is_confirmed:
        return done(f"已使 {found.affected_count:,} 行缓存失效；下一次生成会重新调用模型")
    named = (
        visit.site_name(body.site_id),
        names.app_title(body.app_type) if body.app_type else "全部应用",
        f"会员 {body.member_id}" if body.member_id else "",
        names.window_title(body.target_id) if body.target_id else "",
    )
    return render(request, visit, "cache_preview.html", found=found, body=body, scope=" · ".join(filter(None, named)))


@router.post("/pause")
def pause(visit: AdministratorVisit, reason: Annotated[str, Form(max_length=500)] = "") -> Response:
    if not reason.strip():
        raise Problem(422, "请填写暂停的原因：会显示在告警与任务里")
    begun = pauses.pause_all(request_of(pauses.PauseRequest, reason=reason), visit.access)
    return done(f"已暂停全部模型调用；进行中的 {begun.calls_in_flight} 次会做完并写入")


@router.post("/resume")
def resume(visit: AdministratorVisit) -> Response:
    pauses.resume_all(visit.access)
    return done("已恢复，等待中的任务随即继续")
