"""The token budget."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from zqyy_ai.admin.access import ViewerAccess
from zqyy_ai.engine.budget_status import BudgetStatus, budget_status

router = APIRouter(prefix="/admin/ai", tags=["Token 预算"])


class BudgetInfo(BaseModel):
    """In tokens. Percentages are 0–100, more where calls used more than their estimates."""

    daily_used: int = Field(examples=[1_260_000])
    daily_limit: int = Field(examples=[20_000_000])
    daily_pct: float = Field(description="0–100", examples=[6.3])
    monthly_used: int = Field(examples=[25_000_000])
    monthly_limit: int = Field(examples=[400_000_000])
    monthly_pct: float = Field(description="0–100", examples=[6.25])
    daily_reserved: int = Field(description="进行中的调用预留的 token", examples=[12_000])
    monthly_reserved: int = Field(examples=[12_000])
    daily_overshoot: int = Field(description="调用用量超出预估的部分", examples=[0])
    monthly_overshoot: int = Field(examples=[0])


class SiteBudgetInfo(BudgetInfo):
    site_id: int = Field(examples=[1001])
    site_name: str = Field(examples=["春熙路店"])


class BudgetResponse(BudgetInfo):
    by_site: list[SiteBudgetInfo] = Field(description="可见的每家门店")


@router.get("/budget", summary="Token 预算")
def budget(access: ViewerAccess) -> BudgetResponse:
    """可见全部门店时是全店群的今日与本月；否则是可见门店的合计。"""
    with access.database.transaction() as connection:
        found = budget_status(connection, access.services.settings, access.scope)
    by_site = [
        SiteBudgetInfo(
            site_id=one.site.site_id, site_name=one.site.site_name, **budget_info(BudgetStatus(one.day, one.month, [])).model_dump()
        )
        for one in found.by_site
    ]
    return BudgetResponse(**budget_info(found).model_dump(), by_site=by_site)


def budget_info(found: BudgetStatus) -> BudgetInfo:
    return BudgetInfo(
        daily_used=found.day.used,
        daily_limit=found.day.limit,
        daily_pct=found.day.percentage,
        monthly_used=found.month.used,
        monthly_limit=found.month.limit,
        monthly_pct=found.month.percentage,
        daily_reserved=found.day.reserved,
        monthly_reserved=found.month.reserved,
        daily_overshoot=found.day.overshoot,
        monthly_overshoot=found.month.overshoot,
    )
