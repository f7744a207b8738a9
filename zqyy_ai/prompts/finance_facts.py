"""The facts of the 72 finance windows, computed from one frame of a site's days.

A dense day x area x column cube with running sums answers every period by one subtraction. No text for a model here (`finance.py`), and no
calendar rule (`domain/windows.py`). Invariants: sums are exact integers until the moment they are shown; a fact depends only on the days
of its window and of its comparison, so that a complete period's facts never change once its data don't.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np
from numpy.typing import NDArray

from zqyy_ai.domain import finance_columns as figures
from zqyy_ai.domain.finance_columns import DISCOUNT_KINDS, FINANCE_COLUMNS, REVENUE_KINDS, FinanceColumn
from zqyy_ai.domain.windows import (
    AREA_TITLES,
    BASE_AREAS,
    HALL_PARTS,
    TIME_DIMENSION_TITLES,
    Area,
    DataWindow,
    Period,
    TimeDimension,
    add_months,
    first_of_month,
    last_of_month,
)

if TYPE_CHECKING:
    import pandas as pd

Facts = dict[str, Any]

AREAS = tuple(Area)
PARTS_OF: dict[Area, tuple[Area, ...]] = {Area.ALL: BASE_AREAS, Area.HALL: HALL_PARTS}
_COLUMN_INDEX = {column.name: index for index, column in enumerate(FINANCE_COLUMNS)}
_AREA_INDEX = {area: index for index, area in enumerate(AREAS)}
_LISTED_GAP_DAYS = 10
_LISTED_EXTREME_DAYS = 3


def rounded_ratio(numerator: int, denominator: int, scale: int) -> int:
    """`numerator / denominator * scale`, rounded half away from zero, without floats. `denominator` must be positive."""
    doubled = 2 * abs(numerator) * scale
    magnitude = (doubled + denominator) // (2 * denominator)
    return -magnitude if numerator < 0 else magnitude


def shown(integer: int, scale: int) -> int | float:
    """An integer of `1/scale` units as the number that JSON shows: a whole one without decimals, and never `-0`."""
    return integer // scale if integer % scale == 0 else integer / scale


def percentage(numerator: int | None, denominator: int | None) -> int | float | None:
    """`numerator / denominator` in %, one decimal; None where one is unknown or the denominator is not positive."""
    if numerator is None or denominator is None or denominator <= 0:
        return None
    return shown(rounded_ratio(numerator, denominator, 1000), 10)


def change_percentage(current: int | None, base: int | None) -> int | float | None:
    """Growth against the base in %, one decimal; None where one is unknown or the base is not positive."""
    return None if current is None or base is None else percentage(current - base, base)


def difference_in_points(first: float | None, second: float | None) -> int | float | None:
    """The difference of two shown percentages, in percentage points with one decimal."""
    return None if first is None or second is None else shown(round(first * 10) - round(second * 10), 10)


@dataclass(frozen=True, slots=True)
class Totals:
    """One area's sums over a period. `days`: how many of the period's days have a row. An amount is None where a row did not hold it."""

    days: int
    amounts: dict[str, int | None]

    def __getitem__(self, column: FinanceColumn) -> int | None:
        return self.amounts[column.name]

    def sum_of(self, columns: Iterable[FinanceColumn]) -> int | None:
        total = 0
        for column in columns:
            value = self[column]
            if value is None:
                return None
            total += value
        return total

    @property
    def utilisation(self) -> int | float | None:
        """Table-hours used of those available, in %."""
        return percentage(self[figures.TABLE_HOURS_USED], self[figures.TABLE_HOURS_AVAILABLE])


class FinanceCube:
    """A site's days from the first to the last one of the frame, up to `loaded_through`: what was loaded after it is not complete."""

    def __init__(self, daily: "pd.DataFrame", loaded_through: date | None) -> None:
        if loaded_through is not None:
            daily = daily[daily["business_date"] <= np.datetime64(loaded_through)]
        day_numbers = daily["business_date"].to_numpy().astype("datetime64[D]")
        day_count = 0
        self._first_day = date(1970, 1, 1)
        if loaded_through is not None and len(day_numbers):
            first, last = day_numbers.min(), day_numbers.max()
            self._first_day, day_count = first.astype(object), int((last - first).astype(int)) + 1
        shape = (day_count, len(AREAS), len(FINANCE_COLUMNS))
        self._values: NDArray[np.int64] = np.zeros(shape, dtype=np.int64)
        self._has_row: NDArray[np.bool_] = np.zeros(shape[:2], dtype=np.bool_)
        unknown: NDArray[np.bool_] = np.zeros(shape, dtype=np.bool_)
        if day_count:
            days = (day_numbers - day_numbers.min()).astype(np.intp)
            areas = daily["area"].map({area.value: index for area, index in _AREA_INDEX.items()}).to_numpy(dtype=np.intp)
            self._has_row[days, areas] = True
            for index, column in enumerate(FINANCE_COLUMNS):
                series = daily[column.frame_name]
                is_unknown = series.isna().to_numpy()
                self._values[days, areas, index] = series.fillna(0).to_numpy(dtype=np.int64)
                unknown[days, areas, index] = is_unknown
        self._sums = _running_sums(self._values)
        self._unknown_sums = _running_sums(unknown)
        self._row_sums = _running_sums(self._has_row)
        is_weekend = np.array([(self._first_day + timedelta(days=offset)).weekday() >= 5 for offset in range(day_count)], dtype=np.bool_)
        self._is_weekend = is_weekend
        self._totals_of = lru_cache(maxsize=None)(self._sum_period)

    def totals(self, area: Area, period: Period) -> Totals:
        return self._totals_of(period)[_AREA_INDEX[area]]

    def row_count(self, areas: Iterable[Area], period: Period) -> int:
        """How many rows of these areas the period holds."""
        return sum(self.totals(area, period).days for area in areas)

    def missing_days(self, area: Area, period: Period, at_most: int) -> list[date]:
        """The first `at_most` days of the period that have no row of the area."""
        first, last = self._range(period)
        offset = self._first_day.toordinal() - period.start.toordinal()
        has_row = np.zeros(period.days, dtype=np.bool_)
        has_row[first + offset : last + offset] = self._has_row[first:last, _AREA_INDEX[area]]
        return [period.start + timedelta(days=int(missing)) for missing in np.flatnonzero(~has_row)[:at_most]]

    def days_without_part(self, part: Area, whole: Area, period: Period) -> int:
        """Number of days on which the whole has a row and its part has none."""
        first, last = self._range(period)
        has_row = self._has_row[first:last]
        return int(np.count_nonzero(has_row[:, _AREA_INDEX[whole]] & ~has_row[:, _AREA_INDEX[part]]))

    def days_with_row(self, area: Area, period: Period) -> NDArray[np.intp]:
        """Indices of the period's days that have a row of the area, in order: for `daily` and `date_of`."""
        first, last = self._range(period)
        return np.flatnonzero(self._has_row[first:last, _AREA_INDEX[area]]) + first

    def daily(self, area: Area, days: NDArray[np.intp], column: FinanceColumn) -> NDArray[np.int64]:
        """The column's value on each of these days; an unknown value counts as 0."""
        values: NDArray[np.int64] = self._values[days, _AREA_INDEX[area], _COLUMN_INDEX[column.name]]
        return values

    def date_of(self, day_index: int | np.intp) -> date:
        return self._first_day + timedelta(days=int(day_index))

    def weekend_split(self, area: Area, period: Period) -> tuple[Totals, Totals]:
        """Totals of the period's Mondays to Fridays, and of its Saturdays and Sundays."""
        first, last = self._range(period)
        area_index = _AREA_INDEX[area]
        weekend = self._is_weekend[first:last]
        rows = self._has_row[first:last, area_index]
        weekend_sums = self._values[first:last, area_index][weekend].sum(axis=0).tolist()
        weekend_days = int(np.count_nonzero(rows & weekend))
        whole = self.totals(area, period)
        on_weekdays: dict[str, int | None] = {}
        on_weekends: dict[str, int | None] = {}
        for (name, total), part in zip(whole.amounts.items(), weekend_sums, strict=True):
            on_weekdays[name] = None if total is None else total - part
            on_weekends[name] = None if total is None else part
        return Totals(whole.days - weekend_days, on_weekdays), Totals(weekend_days, on_weekends)

    def _range(self, period: Period) -> tuple[int, int]:
        first = (period.start - self._first_day).days
        count = len(self._values)
        return min(max(first, 0), count), min(max(first + period.days, 0), count)

    def _sum_period(self, period: Period) -> tuple[Totals, ...]:
        first, last = self._range(period)
        sums = (self._sums[last] - self._sums[first]).tolist()
        unknown = (self._unknown_sums[last] - self._unknown_sums[first]).tolist()
        days = (self._row_sums[last] - self._row_sums[first]).tolist()
        return tuple(
            Totals(
                area_days,
                {
                    name: None if unknown_count else value
                    for name, value, unknown_count in zip(_COLUMN_INDEX, area_sums, area_unknown, strict=True)
                },
            )
            for area_days, area_sums, area_unknown in zip(days, sums, unknown, strict=True)
        )


def _running_sums(daily: NDArray[Any]) -> NDArray[np.int64]:
    """Sums of all days before each day, and after the last one of all days: a period's sum is a difference of two entries."""
    sums = np.zeros((daily.shape[0] + 1, *daily.shape[1:]), dtype=np.int64)
    np.cumsum(daily, axis=0, dtype=np.int64, out=sums[1:])
    return sums


def window_facts(cube: FinanceCube, *, site_name: str, dimension: TimeDimension, area: Area, window: DataWindow, data: Period) -> Facts:
    """The facts of one window, `data` being the loaded part of its period: Chinese keys that carry the unit, ISO dates, plain numbers.

    Absent figures are null: a comparison without any row, a percentage of nothing, a figure that the warehouse does not measure by area.
    """
    current, before = cube.totals(area, data), cube.totals(area, window.comparison)
    facts: Facts = {
        "门店": site_name,
        "区域": AREA_TITLES[area],
        "时间维度": TIME_DIMENSION_TITLES[dimension],
        "名义期间": _period_facts(nominal_period(dimension, window.period)),
        "数据期间": _period_facts(data),
        "对比期间": _period_facts(window.comparison),
        "本期": figures_of(current),
        "对比期": figures_of(before) if before.days else None,
        "变化_%": changes_of(current, before) if before.days else None,
        "收入构成_%": {column.title: percentage(current[column], current[figures.GROSS_REVENUE]) for column in REVENUE_KINDS},
    }
    if area in PARTS_OF:
        facts["区域构成"] = _parts(cube, PARTS_OF[area], current, data, window.comparison)
    facts["单日高低"] = _extreme_days(cube, area, data)
    facts["工作日与周末"] = _weekend_facts(cube, area, data)
    months = _months(cube, area, data)
    if len(months) > 1:
        facts["分月"] = months
    facts["数据缺口"] = _gaps(cube, area, data, window.comparison)
    return facts


def figures_of(totals: Totals) -> Facts:
    """Every column's sum, and what follows from the sums."""
    shown_figures: Facts = {column.key: _amount(totals[column], column) for column in FINANCE_COLUMNS}
    net, orders = totals[figures.NET_REVENUE], totals[figures.ORDER_COUNT]
    discounts = totals.sum_of(DISCOUNT_KINDS)
    return shown_figures | {
        "优惠合计_元": None if discounts is None else shown(discounts, 100),
        "优惠率_%": percentage(discounts, totals[figures.GROSS_REVENUE]),
        "台时利用率_%": totals.utilisation,
        "单均净收入_元": _average(net, orders),
        "日均净收入_元": _average(net, totals.days),
        "有数据天数": totals.days,
    }


def changes_of(current: Totals, before: Totals) -> Facts:
    """Growth of the main figures against the comparison, in %, and the utilisation's in percentage points."""
    named = {column.title: change_percentage(current[column], before[column]) for column in _COMPARED}
    return named | {
        "优惠合计": change_percentage(current.sum_of(DISCOUNT_KINDS), before.sum_of(DISCOUNT_KINDS)),
        "日均净收入": _change_of_daily_average(current, before),
        "台时利用率_百分点": difference_in_points(current.utilisation, before.utilisation),
    }


_COMPARED = (
    figures.NET_REVENUE,
    figures.GROSS_REVENUE,
    *REVENUE_KINDS,
    figures.REFUND,
    figures.RECHARGE,
    figures.CARD_SPENDING,
    figures.ORDER_COUNT,
    figures.GUEST_COUNT,
    figures.TABLE_HOURS_USED,
)


def nominal_period(dimension: TimeDimension, period: Period) -> Period:
    """The calendar period that a window stands for: a running one reaches to its month's, week's or quarter's last day.

    The business date would make the prompt of a running window change at midnight though no new data came.
    """
    match dimension:
        case TimeDimension.THIS_MONTH:
            return Period(period.start, last_of_month(period.start))
        case TimeDimension.THIS_WEEK:
            return Period(period.start, period.start + timedelta(days=6))
        case TimeDimension.THIS_QUARTER:
            return Period(period.start, last_of_month(add_months(period.start, 2)))
        case (
            TimeDimension.LAST_MONTH
            | TimeDimension.LAST_WEEK
            | TimeDimension.LAST_QUARTER
            | TimeDimension.LAST_3_MONTHS
            | TimeDimension.LAST_6_MONTHS
        ):
            return period
        case _:
            assert_never(dimension)


def _period_facts(period: Period) -> Facts:
    return {"起": period.start.isoformat(), "止": period.end.isoformat(), "天数": period.days}


def _amount(value: int | None, column: FinanceColumn) -> int | float | None:
    return None if value is None else shown(value, column.unit.scale)


def _average(total_fen: int | None, count: int | None) -> int | float | None:
    """Yuan with two decimals."""
    return None if total_fen is None or not count else shown(rounded_ratio(total_fen, count, 1), 100)


def _change_of_daily_average(current: Totals, before: Totals) -> int | float | None:
    now, then = current[figures.NET_REVENUE], before[figures.NET_REVENUE]
    if now is None or then is None or not current.days:
        return None
    # Both averages times both numbers of days: whole numbers.
    return change_percentage(now * before.days, then * current.days)


def _parts(cube: FinanceCube, parts: tuple[Area, ...], whole: Totals, data: Period, comparison: Period) -> list[Facts]:
    rows = []
    for part in parts:
        current, before = cube.totals(part, data), cube.totals(part, comparison)
        if not current.days and not before.days:
            continue
        rows.append(
            {
                "区域": AREA_TITLES[part],
                "净收入_元": _amount(current[figures.NET_REVENUE], figures.NET_REVENUE),
                "占比_%": percentage(current[figures.NET_REVENUE], whole[figures.NET_REVENUE]),
                "变化_%": change_percentage(current[figures.NET_REVENUE], before[figures.NET_REVENUE]),
                "台时利用率_%": current.utilisation,
            }
        )
    return rows


def _extreme_days(cube: FinanceCube, area: Area, data: Period) -> Facts:
    days = cube.days_with_row(area, data)
    net = cube.daily(area, days, figures.NET_REVENUE)
    used, available = cube.daily(area, days, figures.TABLE_HOURS_USED), cube.daily(area, days, figures.TABLE_HOURS_AVAILABLE)
    count = max(1, min(_LISTED_EXTREME_DAYS, len(days) // 2))

    def net_of(index: int) -> Facts:
        return {"日期": cube.date_of(days[index]).isoformat(), "净收入_元": shown(int(net[index]), 100)}

    def utilisation_of(index: int) -> Facts:
        return {"日期": cube.date_of(days[index]).isoformat(), "台时利用率_%": percentage(int(used[index]), int(available[index]))}

    # Stable sorting: of equal days the earlier one comes first.
    facts: Facts = {
        "净收入最高": [net_of(int(index)) for index in np.argsort(-net, kind="stable")[:count]],
        "净收入最低": [net_of(int(index)) for index in np.argsort(net, kind="stable")[:count]],
    }
    measured = np.flatnonzero(available > 0)
    if len(measured):
        share = used[measured] / available[measured]
        facts["台时利用率最高"] = utilisation_of(int(measured[np.argmax(share)]))
        facts["台时利用率最低"] = utilisation_of(int(measured[np.argmin(share)]))
    return facts


def _weekend_facts(cube: FinanceCube, area: Area, data: Period) -> Facts:
    weekdays, weekends = cube.weekend_split(area, data)
    return {
        name: {
            "有数据天数": totals.days,
            "日均净收入_元": _average(totals[figures.NET_REVENUE], totals.days),
            "日均订单数_单": _orders_a_day(totals),
            "台时利用率_%": totals.utilisation,
        }
        for name, totals in (("周一至周五", weekdays), ("周六周日", weekends))
    }


def _orders_a_day(totals: Totals) -> int | float | None:
    orders = totals[figures.ORDER_COUNT]
    return None if orders is None or not totals.days else shown(rounded_ratio(orders, totals.days, 10), 10)


def _months(cube: FinanceCube, area: Area, data: Period) -> list[Facts]:
    rows = []
    start = data.start
    while start <= data.end:
        month = Period(start, min(data.end, last_of_month(start)))
        totals = cube.totals(area, month)
        rows.append(
            {
                "月份": f"{first_of_month(start):%Y-%m}",
                "净收入_元": _amount(totals[figures.NET_REVENUE], figures.NET_REVENUE) if totals.days else None,
                "订单数_单": totals[figures.ORDER_COUNT] if totals.days else None,
                "台时利用率_%": totals.utilisation,
                "有数据天数": totals.days,
            }
        )
        start = month.end + timedelta(days=1)
    return rows


def _gaps(cube: FinanceCube, area: Area, data: Period, comparison: Period) -> Facts:
    facts: Facts = {}
    for name, period in (("本期", data), ("对比期", comparison)):
        missing_days = period.days - cube.totals(area, period).days
        listed = cube.missing_days(area, period, _LISTED_GAP_DAYS) if missing_days else []
        facts[f"{name}缺数天数"] = missing_days
        facts[f"{name}缺数日期"] = [day.isoformat() for day in listed]
    if area in PARTS_OF:
        # An area that has no row at all in either period is not there, rather than missing.
        partly = {
            AREA_TITLES[part]: cube.days_without_part(part, area, data)
            for part in PARTS_OF[area]
            if cube.totals(part, data).days or cube.totals(part, comparison).days
        }
        facts["部分区域缺数天数"] = {title: days for title, days in partly.items() if days}
    return facts
