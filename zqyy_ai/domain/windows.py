"""The 72 finance windows of a site: 8 time dimensions x 9 areas, and the periods that they cover.

Pure calendar arithmetic on business dates; what a business date is, `business_clock` knows. Invariants, tested over every day of
five years: a period never ends after the business date; a comparison period ends before its period starts, or exactly the day before.
"""

import calendar
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import assert_never


class TimeDimension(StrEnum):
    """The original system's eight time dimensions, in its order."""

    THIS_MONTH = "this_month"
    LAST_MONTH = "last_month"
    THIS_WEEK = "this_week"
    LAST_WEEK = "last_week"
    THIS_QUARTER = "this_quarter"
    LAST_QUARTER = "last_quarter"
    LAST_3_MONTHS = "last_3_months"
    LAST_6_MONTHS = "last_6_months"

    @property
    def is_running(self) -> bool:
        """True for periods that contain the business date (`this_*`), False for complete ones."""
        return self.value.startswith("this_")


class Area(StrEnum):
    """Areas of a hall. `hall` is hallA + hallB + hallC, `all` is everything; the rest are measured in the warehouse."""

    ALL = "all"
    HALL = "hall"
    HALL_A = "hallA"
    HALL_B = "hallB"
    HALL_C = "hallC"
    VIP = "vip"
    SNOOKER = "snooker"
    MAHJONG = "mahjong"
    KTV = "ktv"


HALL_PARTS = (Area.HALL_A, Area.HALL_B, Area.HALL_C)
BASE_AREAS = (*HALL_PARTS, Area.VIP, Area.SNOOKER, Area.MAHJONG, Area.KTV)

TIME_DIMENSION_TITLES: dict[TimeDimension, str] = {
    TimeDimension.THIS_MONTH: "本月",
    TimeDimension.LAST_MONTH: "上月",
    TimeDimension.THIS_WEEK: "本周",
    TimeDimension.LAST_WEEK: "上周",
    TimeDimension.THIS_QUARTER: "本季度",
    TimeDimension.LAST_QUARTER: "上季度",
    TimeDimension.LAST_3_MONTHS: "前三个月",
    TimeDimension.LAST_6_MONTHS: "前六个月",
}

AREA_TITLES: dict[Area, str] = {
    Area.ALL: "全店",
    Area.HALL: "大厅",
    Area.HALL_A: "大厅A区",
    Area.HALL_B: "大厅B区",
    Area.HALL_C: "大厅C区",
    Area.VIP: "贵宾包厢",
    Area.SNOOKER: "斯诺克区",
    Area.MAHJONG: "麻将房",
    Area.KTV: "KTV",
}


@dataclass(frozen=True, slots=True)
class Period:
    """Days from `start` to `end`, both included; at least one day."""

    start: date
    end: date

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError(f"period ends before it starts: {self.start}..{self.end}")

    @property
    def days(self) -> int:
        """Number of calendar days, >= 1."""
        return (self.end - self.start).days + 1

    def clipped_to(self, days: int) -> "Period":
        """The first `days` days of this period, or all of it where it is shorter."""
        return Period(self.start, min(self.end, self.start + timedelta(days=days - 1)))


@dataclass(frozen=True, slots=True)
class WindowKey:
    """One of the 72 windows. Its text form is the cache's `target_id` and Dagster's partition key: `this_month__all`."""

    time_dimension: TimeDimension
    area: Area

    def __str__(self) -> str:
        return f"{self.time_dimension.value}__{self.area.value}"

    @classmethod
    def parse(cls, text: str) -> "WindowKey":
        """Raises ValueError, naming the allowed values, for anything that is not a window."""
        dimension, separator, area = text.partition("__")
        try:
            if not separator:
                raise ValueError(text)
            return cls(TimeDimension(dimension), Area(area))
        except ValueError:
            raise ValueError(
                f"unknown window {text!r}: expected <time dimension>__<area>, time dimension one of "
                f"{', '.join(TimeDimension)}; area one of {', '.join(Area)}"
            ) from None


WINDOW_KEYS: tuple[WindowKey, ...] = tuple(WindowKey(d, a) for d in TimeDimension for a in Area)


@dataclass(frozen=True, slots=True)
class DataWindow:
    """What a window covers once it is known how far the data reach.

    `period` is the nominal period, anchored on the business date. `data` is the part of it that is completely loaded, or None
    when nothing is. `comparison` holds the days that `data` is compared with.
    """

    period: Period
    data: Period | None
    comparison: Period


def first_of_month(day: date) -> date:
    return day.replace(day=1)


def add_months(first: date, months: int) -> date:
    """The first day of the month `months` after (or, negative, before) the month that starts on `first`."""
    index = first.year * 12 + first.month - 1 + months
    return date(index // 12, index % 12 + 1, 1)


def last_of_month(day: date) -> date:
    return day.replace(day=calendar.monthrange(day.year, day.month)[1])


def first_of_quarter(day: date) -> date:
    return date(day.year, (day.month - 1) // 3 * 3 + 1, 1)


def monday_of(day: date) -> date:
    return day - timedelta(days=day.weekday())


def period_of(dimension: TimeDimension, business_date: date) -> Period:
    """The period of a time dimension, anchored on the business date (design: `this_*` end on it, the rest are complete)."""
    month, quarter, monday = first_of_month(business_date), first_of_quarter(business_date), monday_of(business_date)
    day_before = timedelta(days=1)
    match dimension:
        case TimeDimension.THIS_MONTH:
            return Period(month, business_date)
        case TimeDimension.THIS_WEEK:
            return Period(monday, business_date)
        case TimeDimension.THIS_QUARTER:
            return Period(quarter, business_date)
        case TimeDimension.LAST_MONTH:
            return Period(add_months(month, -1), month - day_before)
        case TimeDimension.LAST_WEEK:
            return Period(monday - timedelta(days=7), monday - day_before)
        case TimeDimension.LAST_QUARTER:
            return Period(add_months(quarter, -3), quarter - day_before)
        case TimeDimension.LAST_3_MONTHS:
            return Period(add_months(month, -3), month - day_before)
        case TimeDimension.LAST_6_MONTHS:
            return Period(add_months(month, -6), month - day_before)
        case _:
            assert_never(dimension)


def preceding_period(dimension: TimeDimension, period: Period) -> Period:
    """The complete period of the same kind that ends the day before `period` starts."""
    end = period.start - timedelta(days=1)
    match dimension:
        case TimeDimension.THIS_WEEK | TimeDimension.LAST_WEEK:
            return Period(period.start - timedelta(days=7), end)
        case TimeDimension.THIS_MONTH | TimeDimension.LAST_MONTH:
            return Period(add_months(period.start, -1), end)
        case TimeDimension.THIS_QUARTER | TimeDimension.LAST_QUARTER | TimeDimension.LAST_3_MONTHS:
            return Period(add_months(period.start, -3), end)
        case TimeDimension.LAST_6_MONTHS:
            return Period(add_months(period.start, -6), end)
        case _:
            assert_never(dimension)


def data_window(dimension: TimeDimension, business_date: date, loaded_through: date | None) -> DataWindow:
    """The window as far as the data reach.

    `loaded_through` is the last business date that is completely loaded, None when nothing ever was. A period whose days are all
    loaded and complete is compared with the whole period before it; one that is still running, or not fully loaded, with that
    period's matching days, clipped to its length.
    """
    period = period_of(dimension, business_date)
    before = preceding_period(dimension, period)
    if loaded_through is None or loaded_through < period.start:
        return DataWindow(period, None, before.clipped_to(period.days) if dimension.is_running else before)
    data = Period(period.start, min(period.end, loaded_through))
    complete = data == period and not dimension.is_running
    return DataWindow(period, data, before if complete else before.clipped_to(data.days))


def earliest_day(business_date: date) -> date:
    """The first day that any of the 72 windows, or its comparison, can need."""
    return min(preceding_period(d, period_of(d, business_date)).start for d in TimeDimension)
