"""运营总览: today's figures, the trend, and what waits for somebody."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from zqyy_ai.admin.console import names
from zqyy_ai.admin.console.queries import days_of_form, id_of
from zqyy_ai.admin.console.rendering import render
from zqyy_ai.admin.console.visits import TheVisit
from zqyy_ai.admin.problems import Problem
from zqyy_ai.admin.routes.dashboard import RANGES, DashboardResponse, dashboard

router = APIRouter()

_USUAL_RANGE_DAYS = 7


@router.get("/")
def show(
    request: Request,
    visit: TheVisit,
    range_days: Annotated[str, Query(max_length=4)] = "",
    date_from: Annotated[str, Query(max_length=10)] = "",
    date_to: Annotated[str, Query(max_length=10)] = "",
) -> Response:
    days = days_of_form(date_from, date_to)
    wanted = id_of(range_days, "天数") or _USUAL_RANGE_DAYS
    if wanted not in RANGES:
        raise Problem(422, f"天数应为 {'、'.join(map(str, RANGES))} 之一")
    found = dashboard(visit.access, days, visit.site_id, wanted)
    return render(
        request,
        visit,
        "overview.html",
        found=found,
        ranges=RANGES,
        range_days=None if days.date_from else wanted,
        days=days,
        trend_chart=_trend_chart(found),
        share_chart=_share_chart(found),
        now=visit.access.services.clock.now(),
    )


def _trend_chart(found: DashboardResponse) -> dict[str, Any]:
    days = found.trend_7d
    succeeded = [round(day.calls * day.success_rate / 100) for day in days]
    return {
        "kind": "trend",
        "days": [f"{day.date:%m-%d}" for day in days],
        "bars": [
            {"name": "成功", "color": "#52c41a", "values": succeeded},
            {"name": "失败", "color": "#f5222d", "values": [day.calls - good for day, good in zip(days, succeeded, strict=True)]},
            {"name": "被拦下", "color": "#fa8c16", "values": [day.refused for day in days]},
            {"name": "复用", "color": "#13c2c2", "values": [day.reused for day in days]},
        ],
        "lines": [{"name": "费用", "color": "#722ed1", "values": [round(day.cost_cny, 2) for day in days]}],
    }


def _share_chart(found: DashboardResponse) -> dict[str, Any]:
    return {"kind": "shares", "items": [{"name": names.app_title(app.app_type), "value": app.count} for app in found.app_distribution]}
