from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zqyy_ai.domain.business_clock import MIDNIGHT, SHANGHAI, HandClock, SystemClock, business_date_at, end_of_business_day
from zqyy_ai.domain.runtime_context import LIVE, RuntimeContext, RuntimeMode

CUTOFFS = st.times(time(0, 0), time(12, 0)).map(lambda cutoff: cutoff.replace(microsecond=0))


@pytest.mark.parametrize(
    ("moment", "cutoff", "business_date"),
    [
        ("2026-04-02T00:00:00", "00:00", "2026-04-02"),
        ("2026-04-01T23:59:59", "00:00", "2026-04-01"),
        ("2026-04-02T05:59:59", "06:00", "2026-04-01"),
        ("2026-04-02T06:00:00", "06:00", "2026-04-02"),
        ("2026-03-01T02:30:00", "06:00", "2026-02-28"),
        ("2028-03-01T02:30:00", "06:00", "2028-02-29"),
        ("2027-01-01T01:29:59", "01:30", "2026-12-31"),
    ],
)
def test_a_business_date_turns_at_the_cutoff_and_not_at_midnight(moment: str, cutoff: str, business_date: str) -> None:
    local = datetime.fromisoformat(moment).replace(tzinfo=SHANGHAI)
    assert business_date_at(local, time.fromisoformat(cutoff)) == date.fromisoformat(business_date)


def test_the_business_date_is_that_of_shanghai_wherever_the_moment_was_taken() -> None:
    assert business_date_at(datetime(2026, 4, 1, 15, 59, 59, tzinfo=UTC)) == date(2026, 4, 1)
    assert business_date_at(datetime(2026, 4, 1, 16, 0, tzinfo=UTC)) == date(2026, 4, 2)


@given(st.dates(date(2023, 1, 1), date(2028, 12, 31)), CUTOFFS)
def test_a_business_day_ends_in_its_last_second(day: date, cutoff: time) -> None:
    end = end_of_business_day(day, cutoff)
    assert business_date_at(end, cutoff) == day
    assert business_date_at(end + timedelta(seconds=1), cutoff) == day + timedelta(days=1)


def test_with_the_default_cutoff_a_business_day_ends_at_23_59_59() -> None:
    assert end_of_business_day(date(2026, 4, 20)) == datetime(2026, 4, 20, 23, 59, 59, tzinfo=SHANGHAI)


def test_a_clock_turned_by_hand_stands_still_until_it_is_turned() -> None:
    clock = HandClock(datetime(2026, 4, 20, 23, 59, 30, tzinfo=SHANGHAI))
    assert business_date_at(clock.now()) == date(2026, 4, 20)
    clock.turn(timedelta(seconds=30))
    assert business_date_at(clock.now()) == date(2026, 4, 21)


def test_the_system_clock_tells_aware_moments() -> None:
    assert SystemClock().now().utcoffset() == timedelta(hours=8)


def test_a_sandbox_lives_on_its_own_date_and_the_live_context_on_the_clocks() -> None:
    now = datetime(2026, 4, 20, 3, 0, tzinfo=SHANGHAI)
    assert LIVE.business_date(now, MIDNIGHT) == date(2026, 4, 20)
    assert LIVE.business_date(now, time(6, 0)) == date(2026, 4, 19)
    assert RuntimeContext(RuntimeMode.SANDBOX, date(2025, 1, 31)).business_date(now) == date(2025, 1, 31)


@pytest.mark.parametrize(("mode", "sandbox_date"), [(RuntimeMode.SANDBOX, None), (RuntimeMode.LIVE, date(2025, 1, 31))])
def test_a_context_without_its_date_or_with_one_too_many_is_refused(mode: RuntimeMode, sandbox_date: date | None) -> None:
    with pytest.raises(ValueError, match="sandbox"):
        RuntimeContext(mode, sandbox_date)
