from collections.abc import Callable, Iterator
from datetime import date, timedelta
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zqyy_ai.domain.windows import (
    WINDOW_KEYS,
    Area,
    DataWindow,
    Period,
    TimeDimension,
    WindowKey,
    data_window,
    earliest_day,
    period_of,
    preceding_period,
)

FIRST_DAY, LAST_DAY = date(2023, 1, 1), date(2028, 12, 31)
ONE_DAY = timedelta(days=1)
DAYS = st.dates(FIRST_DAY, LAST_DAY)
DIMENSIONS = st.sampled_from(list(TimeDimension))


def every_day() -> Iterator[date]:
    for ordinal in range(FIRST_DAY.toordinal(), LAST_DAY.toordinal() + 1):
        yield date.fromordinal(ordinal)


class CalendarOfLabels:
    """Another road to the periods than the code's: every day is labelled, equal labels are one period, and periods are counted back."""

    def __init__(self, label: Callable[[date], object]) -> None:
        self._periods: list[list[date]] = []
        self._index_of: dict[date, int] = {}
        last_label = None
        for ordinal in range(FIRST_DAY.toordinal() - 400, LAST_DAY.toordinal() + 1):
            day = date.fromordinal(ordinal)
            if label(day) != last_label:
                self._periods.append([])
                last_label = label(day)
            self._periods[-1].append(day)
            self._index_of[day] = len(self._periods) - 1

    def days_until(self, day: date) -> list[date]:
        return [other for other in self._periods[self._index_of[day]] if other <= day]

    def days_before(self, day: date, *, periods: int) -> list[date]:
        index = self._index_of[day]
        return [other for period in self._periods[index - periods : index] for other in period]


@pytest.fixture(scope="module")
def expected_days() -> dict[TimeDimension, Callable[[date], list[date]]]:
    months = CalendarOfLabels(lambda day: day.strftime("%Y-%m"))
    quarters = CalendarOfLabels(lambda day: (day.year, (day.month + 2) // 3))
    weeks = CalendarOfLabels(lambda day: day.isocalendar()[:2])
    return {
        TimeDimension.THIS_MONTH: months.days_until,
        TimeDimension.LAST_MONTH: partial(months.days_before, periods=1),
        TimeDimension.THIS_WEEK: weeks.days_until,
        TimeDimension.LAST_WEEK: partial(weeks.days_before, periods=1),
        TimeDimension.THIS_QUARTER: quarters.days_until,
        TimeDimension.LAST_QUARTER: partial(quarters.days_before, periods=1),
        TimeDimension.LAST_3_MONTHS: partial(months.days_before, periods=3),
        TimeDimension.LAST_6_MONTHS: partial(months.days_before, periods=6),
    }


def days_of(period: Period) -> list[date]:
    return [period.start + timedelta(days=offset) for offset in range(period.days)]


@pytest.mark.parametrize("dimension", TimeDimension)
def test_every_period_of_six_years_holds_the_days_that_a_calendar_gives_it(
    dimension: TimeDimension, expected_days: dict[TimeDimension, Callable[[date], list[date]]]
) -> None:
    for day in every_day():
        expected = expected_days[dimension](day)
        period = period_of(dimension, day)
        assert (period.start, period.end, period.days) == (expected[0], expected[-1], len(expected)), day


@pytest.mark.parametrize("dimension", TimeDimension)
def test_a_period_never_reaches_beyond_the_business_date_and_its_comparison_ends_the_day_before_it(dimension: TimeDimension) -> None:
    for day in every_day():
        period = period_of(dimension, day)
        before = preceding_period(dimension, period)
        assert period.end <= day
        assert (period.end == day) or not dimension.is_running
        assert before.end == period.start - ONE_DAY


@pytest.mark.parametrize("dimension", [dimension for dimension in TimeDimension if not dimension.is_running])
def test_a_complete_period_is_compared_with_what_was_the_same_window_one_period_ago(dimension: TimeDimension) -> None:
    for day in every_day():
        period = period_of(dimension, day)
        assert preceding_period(dimension, period) == period_of(dimension, period.start), day


@pytest.mark.parametrize("dimension", TimeDimension)
def test_fully_loaded_windows_of_six_years_are_compared_with_matching_days(dimension: TimeDimension) -> None:
    for day in every_day():
        window = data_window(dimension, day, day)
        before = preceding_period(dimension, window.period)
        assert window.data == window.period
        assert window.comparison.start == before.start
        assert window.comparison.days == (min(before.days, window.period.days) if dimension.is_running else before.days), day


@given(DAYS, DIMENSIONS, st.integers(-40, 400))
def test_data_never_reach_beyond_what_is_loaded(business_date: date, dimension: TimeDimension, days_behind: int) -> None:
    loaded_through = business_date - timedelta(days=days_behind)
    window = data_window(dimension, business_date, loaded_through)
    loaded = [day for day in days_of(window.period) if day <= loaded_through]
    assert ([] if window.data is None else days_of(window.data)) == loaded
    if window.data is not None and loaded != days_of(window.period):
        assert window.comparison.days <= window.data.days


@given(DAYS, st.sampled_from([dimension for dimension in TimeDimension if not dimension.is_running]))
def test_a_complete_window_stays_the_same_until_its_period_turns(business_date: date, dimension: TimeDimension) -> None:
    tomorrow = business_date + ONE_DAY
    window, next_window = data_window(dimension, business_date, business_date), data_window(dimension, tomorrow, tomorrow)
    assert next_window == window or next_window.period.start > window.period.start


def test_the_earliest_day_is_the_first_that_any_window_or_comparison_can_need() -> None:
    for day in every_day():
        windows = [data_window(dimension, day, day) for dimension in TimeDimension]
        assert earliest_day(day) == min(window.comparison.start for window in windows), day


@pytest.mark.parametrize(
    ("dimension", "business_date", "period", "comparison"),
    [
        # 31 days of March against the 28 or 29 of February
        (TimeDimension.THIS_MONTH, "2026-03-31", ("2026-03-01", "2026-03-31"), ("2026-02-01", "2026-02-28")),
        (TimeDimension.THIS_MONTH, "2026-03-29", ("2026-03-01", "2026-03-29"), ("2026-02-01", "2026-02-28")),
        (TimeDimension.THIS_MONTH, "2028-03-29", ("2028-03-01", "2028-03-29"), ("2028-02-01", "2028-02-29")),
        (TimeDimension.THIS_MONTH, "2028-02-29", ("2028-02-01", "2028-02-29"), ("2028-01-01", "2028-01-29")),
        (TimeDimension.LAST_MONTH, "2028-03-01", ("2028-02-01", "2028-02-29"), ("2028-01-01", "2028-01-31")),
        # quarters: 92 days of the third against the 91 of the second, 91 against the 90 of the first
        (TimeDimension.THIS_QUARTER, "2026-06-30", ("2026-04-01", "2026-06-30"), ("2026-01-01", "2026-03-31")),
        (TimeDimension.THIS_QUARTER, "2026-09-30", ("2026-07-01", "2026-09-30"), ("2026-04-01", "2026-06-30")),
        (TimeDimension.THIS_QUARTER, "2026-04-20", ("2026-04-01", "2026-04-20"), ("2026-01-01", "2026-01-20")),
        (TimeDimension.LAST_QUARTER, "2026-01-01", ("2025-10-01", "2025-12-31"), ("2025-07-01", "2025-09-30")),
        # weeks that lie across the turn of a year
        (TimeDimension.THIS_WEEK, "2027-01-01", ("2026-12-28", "2027-01-01"), ("2026-12-21", "2026-12-25")),
        (TimeDimension.LAST_WEEK, "2027-01-04", ("2026-12-28", "2027-01-03"), ("2026-12-21", "2026-12-27")),
        (TimeDimension.THIS_WEEK, "2026-04-20", ("2026-04-20", "2026-04-20"), ("2026-04-13", "2026-04-13")),
        # complete months before the current one, across the turn of a year
        (TimeDimension.LAST_3_MONTHS, "2026-02-15", ("2025-11-01", "2026-01-31"), ("2025-08-01", "2025-10-31")),
        (TimeDimension.LAST_6_MONTHS, "2026-04-20", ("2025-10-01", "2026-03-31"), ("2025-04-01", "2025-09-30")),
    ],
)
def test_windows_at_the_edges_of_the_calendar(
    dimension: TimeDimension, business_date: str, period: tuple[str, str], comparison: tuple[str, str]
) -> None:
    day = date.fromisoformat(business_date)
    expected = _period(*period)
    assert data_window(dimension, day, day) == DataWindow(expected, expected, _period(*comparison))


@pytest.mark.parametrize(
    ("dimension", "loaded_through", "data", "comparison"),
    [
        (TimeDimension.THIS_MONTH, "2026-04-12", ("2026-04-01", "2026-04-12"), ("2026-03-01", "2026-03-12")),
        (TimeDimension.THIS_MONTH, "2026-03-31", None, ("2026-03-01", "2026-03-20")),
        (TimeDimension.LAST_MONTH, "2026-03-10", ("2026-03-01", "2026-03-10"), ("2026-02-01", "2026-02-10")),
        (TimeDimension.LAST_MONTH, "2026-02-28", None, ("2026-02-01", "2026-02-28")),
        (TimeDimension.LAST_MONTH, None, None, ("2026-02-01", "2026-02-28")),
        (TimeDimension.LAST_6_MONTHS, "2026-01-15", ("2025-10-01", "2026-01-15"), ("2025-04-01", "2025-07-16")),
        (TimeDimension.THIS_WEEK, None, None, ("2026-04-13", "2026-04-13")),
    ],
)
def test_windows_whose_data_are_loaded_in_part_or_not_at_all(
    dimension: TimeDimension, loaded_through: str | None, data: tuple[str, str] | None, comparison: tuple[str, str]
) -> None:
    window = data_window(dimension, date(2026, 4, 20), None if loaded_through is None else date.fromisoformat(loaded_through))
    assert window.data == (None if data is None else _period(*data))
    assert window.comparison == _period(*comparison)


def test_there_are_72_windows_and_each_is_read_back_from_its_text() -> None:
    assert len(set(WINDOW_KEYS)) == 72
    assert [WindowKey.parse(str(key)) for key in WINDOW_KEYS] == list(WINDOW_KEYS)
    assert str(WindowKey(TimeDimension.THIS_MONTH, Area.ALL)) == "this_month__all"


@pytest.mark.parametrize("text", ["", "this_month", "this_month__", "__all", "this_year__all", "this_month__hallD", "this_month_all"])
def test_what_is_no_window_is_refused_with_the_allowed_values(text: str) -> None:
    with pytest.raises(ValueError, match=r"last_6_months.*hallA"):
        WindowKey.parse(text)


def test_a_period_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="ends before it starts"):
        Period(date(2026, 4, 2), date(2026, 4, 1))


@given(DAYS, st.integers(0, 300), st.integers(1, 400))
def test_clipping_keeps_the_first_days(start: date, more_days: int, kept_days: int) -> None:
    clipped = Period(start, start + timedelta(days=more_days)).clipped_to(kept_days)
    assert clipped.start == start
    assert clipped.days == min(kept_days, more_days + 1)


def _period(start: str, end: str) -> Period:
    return Period(date.fromisoformat(start), date.fromisoformat(end))
