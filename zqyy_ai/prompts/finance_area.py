"""App2a, the finance insights of one area: its task, and the facts that set the area beside the whole site."""

from zqyy_ai.domain import finance_columns as figures
from zqyy_ai.domain.windows import Area, Period
from zqyy_ai.prompts.finance_facts import Facts, FinanceCube, change_percentage, difference_in_points, percentage

TASK = (
    "你是台球连锁门店的财务分析师。请只依据 <facts> 中的数据,为店长写出该门店一个区域在“数据期间”的财务洞察,"
    "并至少用一条把该区域与全店对比(占比、利用率、增速)。"
)


def site_comparison(cube: FinanceCube, area: Area, data: Period, comparison: Period) -> Facts:
    """The area beside the whole site: shares now and before, utilisation and growth of both."""
    area_now, area_before = cube.totals(area, data), cube.totals(area, comparison)
    site_now, site_before = cube.totals(Area.ALL, data), cube.totals(Area.ALL, comparison)
    has_comparison = bool(area_before.days and site_before.days)
    area_growth = change_percentage(area_now[figures.NET_REVENUE], area_before[figures.NET_REVENUE]) if has_comparison else None
    site_growth = change_percentage(site_now[figures.NET_REVENUE], site_before[figures.NET_REVENUE]) if has_comparison else None
    return {
        "占全店净收入_%": percentage(area_now[figures.NET_REVENUE], site_now[figures.NET_REVENUE]),
        "对比期占全店净收入_%": percentage(area_before[figures.NET_REVENUE], site_before[figures.NET_REVENUE]) if has_comparison else None,
        "占全店订单数_%": percentage(area_now[figures.ORDER_COUNT], site_now[figures.ORDER_COUNT]),
        "区域台时利用率_%": area_now.utilisation,
        "全店台时利用率_%": site_now.utilisation,
        "利用率差_百分点": difference_in_points(area_now.utilisation, site_now.utilisation),
        "区域净收入变化_%": area_growth,
        "全店净收入变化_%": site_growth,
        "增速差_百分点": difference_in_points(area_growth, site_growth),
    }
