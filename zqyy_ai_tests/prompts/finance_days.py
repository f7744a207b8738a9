"""Made-up days of a site, as plain rows and as the frame that the warehouse makes of them."""

import random
from datetime import date, timedelta

import pandas as pd

from zqyy_ai.domain.finance_columns import (
    CARD_SPENDING,
    DISCOUNT_KINDS,
    FINANCE_COLUMNS,
    GROSS_REVENUE,
    GUEST_COUNT,
    NET_REVENUE,
    ORDER_COUNT,
    RECHARGE,
    REFUND,
    REVENUE_KINDS,
    TABLE_HOURS_AVAILABLE,
    TABLE_HOURS_USED,
)
from zqyy_ai.domain.windows import BASE_AREAS, HALL_PARTS, Area
from zqyy_ai.prompts.finance import FinancePrompts

Row = dict[str, int | None]
Days = dict[tuple[date, Area], Row]

SITE_ID = 1001
SITE_NAME = "朝阳店"


def made_up_days(
    first_day: date,
    last_day: date,
    *,
    seed: int = 1,
    missing_share: float = 0.0,
    areas: tuple[Area, ...] = BASE_AREAS,
    unmeasured: bool = False,
) -> Days:
    """Rows in fen, hundredths of an hour and pieces. `unmeasured`: recharges, card spending and guests are known for `all` alone."""
    draw = random.Random(seed)
    days: Days = {}
    for ordinal in range(first_day.toordinal(), last_day.toordinal() + 1):
        day = date.fromordinal(ordinal)
        parts = {area: _row(draw) for area in areas if draw.random() >= missing_share}
        for whole, members in ((Area.HALL, HALL_PARTS), (Area.ALL, BASE_AREAS)):
            present = [parts[area] for area in members if area in parts]
            if present:
                days[day, whole] = {name: sum(row[name] or 0 for row in present) for name in present[0]}
        for area, row in parts.items():
            days[day, area] = row
        if unmeasured:
            for area in (*parts, Area.HALL):
                if (day, area) in days:
                    days[day, area] |= {RECHARGE.frame_name: None, CARD_SPENDING.frame_name: None, GUEST_COUNT.frame_name: None}
    return days


def frame_of(days: Days) -> pd.DataFrame:
    rows = [(day, area.value, *(row[column.frame_name] for column in FINANCE_COLUMNS)) for (day, area), row in days.items()]
    frame = pd.DataFrame(rows, columns=["business_date", "area", *(column.frame_name for column in FINANCE_COLUMNS)], dtype=object)
    return frame.astype({column.frame_name: "Int64" for column in FINANCE_COLUMNS} | {"business_date": "datetime64[s]", "area": "str"})


def prompts_of(days: Days, business_date: date, loaded_through: date | None = None) -> FinancePrompts:
    """`loaded_through` defaults to the day before the business date."""
    through = loaded_through or business_date - timedelta(days=1)
    return FinancePrompts(frame_of(days), site_id=SITE_ID, site_name=SITE_NAME, business_date=business_date, loaded_through=through)


def _row(draw: random.Random) -> Row:
    amounts = {column: draw.randrange(0, 300_000) for column in REVENUE_KINDS}
    gross = sum(amounts.values())
    discounts = {column: draw.randrange(0, gross // 12 + 1) for column in DISCOUNT_KINDS}
    refund = draw.choice((0, 0, 0, draw.randrange(0, gross // 20 + 1)))
    net = gross - sum(discounts.values()) - refund
    available = draw.choice((0, 6400, 9600, 19200))
    figures = (
        amounts
        | discounts
        | {GROSS_REVENUE: gross, REFUND: refund, NET_REVENUE: net, RECHARGE: draw.choice((0, 50_000, 100_000))}
        | {CARD_SPENDING: net // 3, ORDER_COUNT: draw.randrange(0, 90), GUEST_COUNT: draw.randrange(0, 300)}
        | {TABLE_HOURS_USED: draw.randrange(0, available + 1), TABLE_HOURS_AVAILABLE: available}
    )
    return {column.frame_name: figures[column] for column in FINANCE_COLUMNS}
