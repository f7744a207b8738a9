"""The operators' overview."""

from datetime import date, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, Field

from zqyy_ai.admin.access import ViewerAccess
from zqyy_ai.admin.parameters import SiteId, TheDayRange, days_of, wrong_query
from zqyy_ai.admin.routes.alerts import AlertItem, alert_item
from zqyy_ai.admin.routes.budget import BudgetInfo, budget_info
from zqyy_ai.domain.business_clock import business_date_at
from zqyy_ai.engine.dashboard import Dashboard, build_dashboard

router = APIRouter(prefix="/admin/ai", tags=["运营总览"])

RANGES = (1, 3, 7, 10)


def _is_a_range(days: int) -> int:
    if days not in RANGES:
        raise ValueError(f"应为 {', '.join(map(str, RANGES))} 之一")
    return days


class DailyTrend(BaseModel):
    date: date
    calls: int = Field(description="到达模型的调用次数", examples=[420])
    success_rate: float = Field(description="成功率，0–100；没有调用时为 0", examples=[99.05])
    reused: int = Field(description="输入未变、复用而没有调用的次数", examples=[35])
    refused: int = Field(description="被熔断、限流、预算或暂停拦下而没有调用的次数", examples=[0])
    tokens: int = Field(examples=[1_260_000])
    cost_cny: float = Field(description="按设置中的单价估算，元", examples=[1.21])
    avg_latency_ms: int = Field(examples=[8_300])


class AppDistItem(BaseModel):
    app_type: str = Field(examples=["app3_clue"])
    count: int = Field(description="时间范围内的调用次数", examples=[120])
    percentage: float = Field(description="占全部调用的比例，0–100", examples=[28.57])


class AppHealthItem(BaseModel):
    app_type: str = Field(examples=["app3_clue"])
    last_status: str | None = Field(description="最近一次调用的结果：success、failed 或 timeout；从未调用为 null", examples=["success"])
    last_call_at: datetime | None


class DashboardResponse(BaseModel):
    """Today's figures are today's, whatever the range; trend and distribution are of the range."""

    today_calls: int = Field(description="今日到达模型的调用次数", examples=[420])
    today_success_rate: float = Field(description="今日成功率，0–100", examples=[99.05])
    today_tokens: int = Field(examples=[1_260_000])
    today_avg_latency_ms: int = Field(examples=[8_300])
    today_reused: int = Field(description="今日复用次数（没有调用）", examples=[35])
    today_refused: int = Field(description="今日被拦下的次数（没有调用）", examples=[0])
    today_cost_cny: float = Field(description="今日费用，按设置中的单价估算，元", examples=[1.21])
    trend_7d: list[DailyTrend] = Field(description="时间范围内每天一项，没有调用的日子也在内")
    app_distribution: list[AppDistItem]
    budget: BudgetInfo
    recent_alerts: list[AlertItem]
    app_health: list[AppHealthItem] = Field(description="八个应用各一项")
    waiting_jobs: int = Field(description="排队中的任务数", examples=[3])
    open_alerts: int = Field(description="待处理的告警数", examples=[1])


@router.get("/dashboard", summary="运营总览")
def dashboard(
    access: ViewerAccess,
    days_range: TheDayRange,
    site_id: SiteId = None,
    range_days: Annotated[
        int,
        Query(description="最近几天（含今天）：1、3、7 或 10", json_schema_extra={"enum": list(RANGES)}),
        AfterValidator(_is_a_range),
    ] = 7,
) -> DashboardResponse:
    """`date_from` 与 `date_to` 成对给出时代替 `range_days`，最多 400 天。"""
    today = business_date_at(access.services.clock.now())
    first, last = days_range.date_from, days_range.date_to
    if (first is None) != (last is None):
        raise wrong_query("date_to" if last is None else "date_from", "date_from 与 date_to 需成对给出")
    days = days_of(first, last) if first and last else days_of(today - timedelta(days=range_days - 1), today)
    scope = access.scope.narrowed_to(site_id)
    return _response(build_dashboard(access.database, access.services.settings, scope, today=today, days=days))


def _response(found: Dashboard) -> DashboardResponse:
    today = found.today
    return DashboardResponse(
        today_calls=today.calls,
        today_success_rate=today.success_rate,
        today_tokens=today.tokens,
        today_avg_latency_ms=today.average_latency_ms,
        today_reused=today.reused,
        today_refused=today.refused,
        today_cost_cny=today.cost_cny,
        trend_7d=[
            DailyTrend(
                date=day,
                calls=figures.calls,
                success_rate=figures.success_rate,
                reused=figures.reused,
                refused=figures.refused,
                tokens=figures.tokens,
                cost_cny=figures.cost_cny,
                avg_latency_ms=figures.average_latency_ms,
            )
            for day, figures in found.trend
        ],
        app_distribution=[AppDistItem(app_type=app.app_type, count=app.calls, percentage=app.percentage) for app in found.distribution],
        budget=budget_info(found.budget),
        recent_alerts=[alert_item(alert) for alert in found.recent_alerts],
        app_health=[
            AppHealthItem(app_type=app.app_type, last_status=app.last_status, last_call_at=app.last_call_at) for app in found.app_health
        ],
        waiting_jobs=found.waiting_jobs,
        open_alerts=found.open_alerts,
    )
