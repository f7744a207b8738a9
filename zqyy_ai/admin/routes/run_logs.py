"""Run logs: each call of the model, each refusal and each reuse."""

from dataclasses import asdict
from datetime import date, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from zqyy_ai.admin.access import ViewerAccess
from zqyy_ai.admin.parameters import LARGEST_ID, MemberId, SiteId, TheDayRange, ThePage
from zqyy_ai.admin.problems import not_found
from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.runtime_context import RuntimeMode
from zqyy_ai.engine.prices import cost_cny
from zqyy_ai.settings import Settings
from zqyy_ai.store import run_log_pages
from zqyy_ai.store.run_log_pages import RunLogFilter, RunLogRow
from zqyy_ai.store.run_logs import RunStatus

router = APIRouter(prefix="/admin/ai/run-logs", tags=["调用记录"])

TriggerType = Annotated[str | None, Query(max_length=50, pattern=r"^[\w.-]+$", description="event、cron 或 manual", examples=["event"])]


class RunLogItem(BaseModel):
    id: int = Field(examples=[345])
    app_type: str = Field(examples=["app3_clue"])
    trigger_type: str = Field(description="event、cron 或 manual", examples=["event"])
    member_id: int | None = Field(examples=[7])
    tokens_used: int = Field(description="计入预算的 token", examples=[3_200])
    latency_ms: int | None = Field(examples=[8_300])
    status: str = Field(description="pending、running、success、failed、timeout 或 reused", examples=["success"])
    site_id: int = Field(examples=[1001])
    created_at: datetime
    outcome: str = Field(description="与 status 相同；被熔断、限流、预算或暂停拦下、没有发出的为 refused", examples=["success"])
    error_code: str | None = Field(examples=["circuit_open"])
    trigger_job_id: int | None = Field(examples=[88])
    assistant_id: int | None = Field(examples=[3])
    target_id: str | None = Field(description="对应缓存的 target_id", examples=["7"])
    input_tokens: int | None = Field(description="百炼报告的输入 token；未报告为 null", examples=[2_700])
    output_tokens: int | None = Field(examples=[500])
    cost_cny: float = Field(description="按设置中的单价估算，元", examples=[0.003])
    finished_at: datetime | None
    runtime_mode: str = Field(description="live 或 sandbox", examples=["live"])
    sandbox_date: date | None = Field(description="沙箱的业务日；live 为 null", examples=[None])


class RunLogDetailResponse(RunLogItem):
    request_prompt: str | None = Field(description="已屏蔽个人号码；超过保留期后为 null")
    response_text: str | None
    error_message: str | None
    session_id: str | None
    request_id: str | None = Field(description="百炼的请求编号")
    dagster_run_id: str | None
    model_ids: list[str] = Field(description="百炼报告的模型", examples=[["qwen-plus"]])
    usage_reported: bool | None = Field(description="百炼是否报告了用量；否则按预估计费")
    redacted_at: datetime | None = Field(description="提示词与回复何时因保留期被删除")
    cache_id: int | None = Field(description="这次调用写入或复用的缓存行", examples=[901])
    number_check: dict[str, Any] | None = Field(
        description="回答中的数字核对；未核对为 null", examples=[{"checked": 12, "unexplained": []}]
    )


class RunLogListResponse(BaseModel):
    items: list[RunLogItem]
    total: int = Field(examples=[1])
    page: int = Field(examples=[1])
    page_size: int = Field(examples=[20])


@router.get("", summary="调用记录列表")
def list_run_logs(
    access: ViewerAccess,
    page: ThePage,
    days: TheDayRange,
    app_type: Annotated[AppType | None, Query(description="应用")] = None,
    status: Annotated[RunStatus | None, Query(description="状态；failed 包含被拦下的")] = None,
    trigger_type: TriggerType = None,
    site_id: SiteId = None,
    member_id: MemberId = None,
    trigger_job_id: Annotated[int | None, Query(ge=1, le=LARGEST_ID, description="所属任务", examples=[88])] = None,
    runtime_mode: Annotated[
        RuntimeMode | None, Query(description="live 或 sandbox；默认 live，按任务查询时默认不限。沙箱的调用不计入看板与用量")
    ] = None,
) -> RunLogListResponse:
    """最新的在前。"""
    wanted = RunLogFilter(
        access.scope.narrowed_to(site_id),
        app_type=app_type.value if app_type else None,
        status=status.value if status else None,
        trigger_type=trigger_type,
        member_id=member_id,
        trigger_job_id=trigger_job_id,
        runtime_mode=runtime_mode or (RuntimeMode.LIVE if trigger_job_id is None else None),
        date_from=days.date_from,
        date_to=days.date_to,
    )
    with access.database.transaction() as connection:
        rows, total = run_log_pages.find_page(connection, wanted, offset=page.offset, rows=page.page_size)
    settings = access.services.settings
    return RunLogListResponse(items=[run_log_item(row, settings) for row in rows], total=total, page=page.page, page_size=page.page_size)


@router.get("/{log_id}", summary="调用记录详情")
def get_run_log(access: ViewerAccess, log_id: Annotated[int, Path(ge=1, le=LARGEST_ID)]) -> RunLogDetailResponse:
    with access.database.transaction() as connection:
        found = run_log_pages.get(connection, access.scope, log_id)
    if found is None:
        raise not_found(f"调用记录 {log_id}")
    more = {name: getattr(found, name) for name in found.__slots__ if name != "row"}
    return RunLogDetailResponse(**run_log_item(found.row, access.services.settings).model_dump(), **more)


def run_log_item(row: RunLogRow, settings: Settings) -> RunLogItem:
    cost = cost_cny(settings, tokens=row.tokens_used, input_tokens=row.input_tokens or 0, output_tokens=row.output_tokens or 0)
    return RunLogItem(**asdict(row), cost_cny=round(cost, 6))
