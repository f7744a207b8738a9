"""The facts against figures computed once more, the slow and plain way: row by row, in decimals, by names instead of columns."""

import json
import random
from collections.abc import Iterable
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zqyy_ai.domain.windows import AREA_TITLES, BASE_AREAS, HALL_PARTS, WINDOW_KEYS, Area, Period, TimeDimension, WindowKey, data_window
from zqyy_ai.prompts.finance import FinancePrompts
from zqyy_ai.prompts.finance_facts import change_percentage, percentage, rounded_ratio, shown
from zqyy_ai_tests.prompts.finance_days import SITE_ID, SITE_NAME, Days, Row, frame_of, made_up_days, prompts_of

FIRST_DAY, LAST_DAY = date(2024, 6, 1), date(2026, 4, 30)

MONEY = {
    "毛收入_元": "gross_revenue_fen",
    "台费_元": "table_fee_fen",
    "助教费_元": "assistant_fee_fen",
    "商品_元": "goods_fen",
    "其他收入_元": "other_revenue_fen",
    "会员优惠_元": "member_discount_fen",
    "团购券优惠_元": "coupon_discount_fen",
    "活动优惠_元": "promotion_discount_fen",
    "手动优惠_元": "manual_discount_fen",
    "抹零_元": "rounding_discount_fen",
    "退款_元": "refund_fen",
    "净收入_元": "net_revenue_fen",
    "充值_元": "recharge_fen",
    "储值卡消费_元": "card_spending_fen",
    "台时使用_小时": "table_centihours_used",
    "台时可用_小时": "table_centihours_available",
}
COUNTS = {"订单数_单": "order_count", "客人数_人": "guest_count"}
DISCOUNTS = [name for key, name in MONEY.items() if "优惠" in key or key == "抹零_元"]
CHANGES = {
    "净收入": "net_revenue_fen",
    "毛收入": "gross_revenue_fen",
    "台费": "table_fee_fen",
    "助教费": "assistant_fee_fen",
    "商品": "goods_fen",
    "其他收入": "other_revenue_fen",
    "退款": "refund_fen",
    "充值": "recharge_fen",
    "储值卡消费": "card_spending_fen",
    "订单数": "order_count",
    "客人数": "guest_count",
    "台时使用": "table_centihours_used",
}


def facts_of(text: str | None) -> dict[str, Any]:
    assert text is not None
    lines = text.split("\n")
    facts = json.loads(lines[lines.index("<facts>") + 1], parse_float=Decimal, parse_int=Decimal)
    assert isinstance(facts, dict)
    return facts


def rounded(value: Fraction, places: int) -> Decimal:
    step = Decimal(1).scaleb(-places)
    return (Decimal(value.numerator) / Decimal(value.denominator)).quantize(step, ROUND_HALF_UP)


def share(part: int | None, whole: int | None) -> Decimal | None:
    return None if part is None or not whole or whole < 0 else rounded(Fraction(part * 100, whole), 1)


def growth(now: int | None, before: int | None) -> Decimal | None:
    return None if now is None or before is None else share(now - before, before)


def rows_of(days: Days, area: Area, period: Period) -> dict[date, Row]:
    return {day: row for (day, of_area), row in days.items() if of_area is area and period.start <= day <= period.end}


def total(rows: Iterable[Row], name: str) -> int | None:
    values = [row[name] for row in rows]
    return None if None in values else sum(value for value in values if value is not None)


def figures(rows: dict[date, Row]) -> dict[str, Decimal | None]:
    def sum_of(name: str) -> int | None:
        return total(rows.values(), name)

    net, orders = sum_of("net_revenue_fen"), sum_of("order_count")
    discounts = sum(sum_of(name) or 0 for name in DISCOUNTS)
    assert net is not None
    assert orders is not None
    money = {key: None if (value := sum_of(name)) is None else rounded(Fraction(value, 100), 2) for key, name in MONEY.items()}
    counts = {key: None if (value := sum_of(name)) is None else Decimal(value) for key, name in COUNTS.items()}
    return (
        money
        | counts
        | {
            "优惠合计_元": rounded(Fraction(discounts, 100), 2),
            "优惠率_%": share(discounts, sum_of("gross_revenue_fen")),
            "台时利用率_%": share(sum_of("table_centihours_used"), sum_of("table_centihours_available")),
            "单均净收入_元": rounded(Fraction(net, orders * 100), 2) if orders else None,
            "日均净收入_元": rounded(Fraction(net, len(rows) * 100), 2),
            "有数据天数": Decimal(len(rows)),
        }
    )


def changes(now: dict[date, Row], before: dict[date, Row]) -> dict[str, Decimal | None]:
    expected = {key: growth(total(now.values(), name), total(before.values(), name)) for key, name in CHANGES.items()}
    expected["优惠合计"] = growth(*(sum(total(rows.values(), name) or 0 for name in DISCOUNTS) for rows in (now, before)))
    nets = [Fraction(total(rows.values(), "net_revenue_fen") or 0, len(rows)) for rows in (now, before)]
    expected["日均净收入"] = rounded((nets[0] - nets[1]) / nets[1] * 100, 1) if nets[1] > 0 else None
    used = [figures(rows)["台时利用率_%"] for rows in (now, before)]
    expected["台时利用率_百分点"] = None if used[0] is None or used[1] is None else used[0] - used[1]
    return expected


def random_windows(count: int) -> list[tuple[date, date, WindowKey]]:
    draw = random.Random(7)
    windows = []
    for _ in range(count):
        business_date = LAST_DAY - timedelta(days=draw.randrange(0, 300))
        days_behind = draw.choice((0, 1, 1, 1, draw.randrange(2, 40)))
        windows.append((business_date, business_date - timedelta(days=days_behind), draw.choice(WINDOW_KEYS)))
    return windows


@pytest.fixture(scope="module", params=["all_measured", "with_gaps", "not_measured_by_area"])
def days(request: pytest.FixtureRequest) -> Days:
    match request.param:
        case "with_gaps":
            return made_up_days(FIRST_DAY, LAST_DAY, seed=2, missing_share=0.3)
        case "not_measured_by_area":
            return made_up_days(FIRST_DAY, LAST_DAY, seed=3, unmeasured=True)
        case _:
            return made_up_days(FIRST_DAY, LAST_DAY, seed=1)


def test_the_facts_of_random_windows_equal_those_computed_row_by_row(days: Days) -> None:
    checked, frame = 0, frame_of(days)
    for business_date, loaded_through, key in random_windows(25):
        prompts = FinancePrompts(frame, site_id=SITE_ID, site_name=SITE_NAME, business_date=business_date, loaded_through=loaded_through)
        prompt = prompts.for_window(key)
        window = data_window(key.time_dimension, business_date, loaded_through)
        if window.data is None:
            assert prompt.text is None
            continue
        facts = facts_of(prompt.text)
        now, before = rows_of(days, key.area, window.data), rows_of(days, key.area, window.comparison)
        case = (business_date, loaded_through, str(key))

        assert facts["区域"] == AREA_TITLES[key.area], case
        assert facts["数据期间"] == _period(window.data), case
        assert facts["对比期间"] == _period(window.comparison), case
        assert facts["本期"] == figures(now), case
        assert facts["对比期"] == figures(before), case
        assert facts["变化_%"] == changes(now, before), case
        gross = total(now.values(), "gross_revenue_fen")
        assert facts["收入构成_%"] == {key[:-2]: share(total(now.values(), MONEY[key]), gross) for key in list(MONEY)[1:5]}, case
        _assert_parts(facts, days, key.area, window.data, window.comparison)
        _assert_days(facts, now)
        _assert_gaps(facts, days, key.area, window.data, window.comparison)
        if key.area is Area.ALL:
            assert "与全店对比" not in facts
        else:
            _assert_beside_the_site(facts, days, key.area, window.data, window.comparison)
        checked += 1
    assert checked > 15


def _assert_parts(facts: dict[str, Any], days: Days, area: Area, data: Period, comparison: Period) -> None:
    members = {Area.ALL: BASE_AREAS, Area.HALL: HALL_PARTS}.get(area)
    if members is None:
        assert "区域构成" not in facts
        return
    site_net = total(rows_of(days, area, data).values(), "net_revenue_fen")
    expected = []
    for member in members:
        now, before = rows_of(days, member, data), rows_of(days, member, comparison)
        if not now and not before:
            continue
        net = total(now.values(), "net_revenue_fen") or 0
        expected.append(
            {
                "区域": AREA_TITLES[member],
                "净收入_元": rounded(Fraction(net, 100), 2),
                "占比_%": share(net, site_net),
                "变化_%": growth(net, total(before.values(), "net_revenue_fen")),
                "台时利用率_%": share(total(now.values(), "table_centihours_used"), total(now.values(), "table_centihours_available")),
            }
        )
    assert facts["区域构成"] == expected


def _assert_days(facts: dict[str, Any], now: dict[date, Row]) -> None:
    def net(day: date) -> int:
        return now[day]["net_revenue_fen"] or 0

    listed = max(1, min(3, len(now) // 2))
    for name, order in (("净收入最高", sorted(sorted(now), key=net, reverse=True)), ("净收入最低", sorted(sorted(now), key=net))):
        expected = [{"日期": day.isoformat(), "净收入_元": rounded(Fraction(net(day), 100), 2)} for day in order[:listed]]
        assert facts["单日高低"][name] == expected
    used = {
        day: Fraction(row["table_centihours_used"] or 0, row["table_centihours_available"])
        for day, row in sorted(now.items())
        if row["table_centihours_available"]
    }
    for name, best in (("台时利用率最高", max), ("台时利用率最低", min)):
        if used:
            day = best(used, key=lambda day: used[day])
            assert facts["单日高低"][name] == {"日期": day.isoformat(), "台时利用率_%": rounded(used[day] * 100, 1)}

    for name, is_weekend in (("周一至周五", False), ("周六周日", True)):
        rows = [row for day, row in now.items() if (day.isoweekday() > 5) is is_weekend]
        net_fen, orders = total(rows, "net_revenue_fen") or 0, total(rows, "order_count") or 0
        assert facts["工作日与周末"][name] == {
            "有数据天数": Decimal(len(rows)),
            "日均净收入_元": rounded(Fraction(net_fen, len(rows) * 100), 2) if rows else None,
            "日均订单数_单": rounded(Fraction(orders, len(rows)), 1) if rows else None,
            "台时利用率_%": share(total(rows, "table_centihours_used"), total(rows, "table_centihours_available")),
        }

    for month in facts.get("分月", []):
        rows = [row for day, row in now.items() if day.isoformat().startswith(month["月份"])]
        assert month["净收入_元"] == (rounded(Fraction(total(rows, "net_revenue_fen") or 0, 100), 2) if rows else None)
        assert month["有数据天数"] == len(rows)


def _assert_gaps(facts: dict[str, Any], days: Days, area: Area, data: Period, comparison: Period) -> None:
    for name, period in (("本期", data), ("对比期", comparison)):
        every_day = [period.start + timedelta(days=offset) for offset in range(period.days)]
        missing = [day.isoformat() for day in every_day if (day, area) not in days]
        assert facts["数据缺口"][f"{name}缺数天数"] == len(missing)
        assert facts["数据缺口"][f"{name}缺数日期"] == missing[:10]
    if area in (Area.ALL, Area.HALL):
        members = BASE_AREAS if area is Area.ALL else HALL_PARTS
        whole = rows_of(days, area, data)
        counted = {AREA_TITLES[member]: sum((day, member) not in days for day in whole) for member in members}
        assert facts["数据缺口"]["部分区域缺数天数"] == {title: count for title, count in counted.items() if count}


def _assert_beside_the_site(facts: dict[str, Any], days: Days, area: Area, data: Period, comparison: Period) -> None:
    beside = facts["与全店对比"]
    own, site = rows_of(days, area, data), rows_of(days, Area.ALL, data)
    own_before, site_before = rows_of(days, area, comparison), rows_of(days, Area.ALL, comparison)
    net = "net_revenue_fen"
    assert beside["占全店净收入_%"] == share(total(own.values(), net), total(site.values(), net))
    assert beside["对比期占全店净收入_%"] == share(total(own_before.values(), net), total(site_before.values(), net))
    assert beside["占全店订单数_%"] == share(total(own.values(), "order_count"), total(site.values(), "order_count"))
    assert beside["区域台时利用率_%"] == facts["本期"]["台时利用率_%"]
    assert beside["全店台时利用率_%"] == figures(site)["台时利用率_%"]
    assert beside["利用率差_百分点"] == beside["区域台时利用率_%"] - beside["全店台时利用率_%"]
    assert beside["区域净收入变化_%"] == growth(total(own.values(), net), total(own_before.values(), net))
    assert beside["全店净收入变化_%"] == growth(total(site.values(), net), total(site_before.values(), net))
    assert beside["增速差_百分点"] == beside["区域净收入变化_%"] - beside["全店净收入变化_%"]


def _period(period: Period) -> dict[str, Any]:
    return {"起": period.start.isoformat(), "止": period.end.isoformat(), "天数": period.days}


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**12))
def test_percentages_round_half_away_from_zero(numerator: int, denominator: int) -> None:
    expected = rounded(Fraction(numerator * 100, denominator), 1) if numerator else Decimal(0)
    exact = Fraction(numerator * 1000, denominator)
    nearest = abs(exact) + Fraction(1, 2)
    assert rounded_ratio(numerator, denominator, 1000) == (-1 if numerator < 0 else 1) * (nearest.numerator // nearest.denominator)
    assert abs(Decimal(str(percentage(numerator, denominator))) - expected) < Decimal("0.1001")


@pytest.mark.parametrize(("numerator", "denominator", "tenths"), [(1, 2000, 1), (-1, 2000, -1), (1, 2001, 0), (-1, 2001, 0), (5, 2000, 3)])
def test_a_half_rounds_up_in_size(numerator: int, denominator: int, tenths: int) -> None:
    assert rounded_ratio(numerator, denominator, 1000) == tenths


def test_a_percentage_of_nothing_is_null_and_never_an_error() -> None:
    assert percentage(5, 0) is None
    assert percentage(5, -3) is None
    assert percentage(None, 3) is None
    assert change_percentage(5, 0) is None
    assert change_percentage(0, 5) == -100


@given(st.integers(-(10**15), 10**15))
def test_an_amount_is_shown_to_the_fen(fen: int) -> None:
    assert Decimal(json.dumps(shown(fen, 100))) == Decimal(fen) / 100
    assert json.dumps(shown(0, 100)) == "0"


def test_the_nominal_period_of_a_running_window_is_the_whole_calendar_period() -> None:
    days = made_up_days(date(2025, 10, 1), date(2026, 2, 10), areas=(Area.VIP,))
    prompts = prompts_of(days, date(2026, 2, 11))
    nominal = {
        dimension: facts_of(prompts.for_window(WindowKey(dimension, Area.VIP)).text)["名义期间"]
        for dimension in (TimeDimension.THIS_MONTH, TimeDimension.THIS_WEEK, TimeDimension.THIS_QUARTER)
    }
    assert {dimension: (period["起"], period["止"]) for dimension, period in nominal.items()} == {
        TimeDimension.THIS_MONTH: ("2026-02-01", "2026-02-28"),
        TimeDimension.THIS_WEEK: ("2026-02-09", "2026-02-15"),
        TimeDimension.THIS_QUARTER: ("2026-01-01", "2026-03-31"),
    }
