"""Which period, month or day of the facts a word or a date names."""

from datetime import date

from zqyy_ai.domain.number_check.notation import COMPARISON, CURRENT, Token, WrittenDate
from zqyy_ai.domain.number_check.quantities import Days, Quantities


def role_named(name: str, known: Quantities) -> str | None:
    """The period that 上月, 本期 and the like name; None for one that has no values of its own."""
    if name in (COMPARISON, CURRENT):
        return name
    if name in known.current_words:
        return CURRENT
    if name.startswith("上"):
        return COMPARISON
    return None


def role_of_range(first: Token, last: Token, month: int | None, known: Quantities) -> str | None:
    """COMPARISON for the dates from its first day to its last; `month`: of a date that names none."""
    starts = known.resolve_days(first.payload, month)
    ends = known.resolve_days(last.payload, last.payload.month or first.payload.month)
    span = known.span_of("对比期间")
    return COMPARISON if span and span.start in starts and span.end in ends else None


def days_named(written: WrittenDate, month: int | None, known: Quantities) -> tuple[Days, str | None]:
    """The month or day that the date names; COMPARISON where it lies in the comparison period alone. `month`: of a day that names none."""
    if written.day is not None:
        days = known.resolve_days(written, month)
        listed = [day for day in days if day in known.listed_days]
        return (listed or days or [date.min])[0], None
    if written.month is not None:
        return _month_named(known.resolve_month(written.year, written.month), known)
    if written.quarter is not None:
        before, data = known.span_of("对比期间"), known.span_of("数据期间")
        if data and _quarter(data.start) != written.quarter and before and _quarter(before.start) == written.quarter:
            return None, COMPARISON
    return None, None


def _month_named(months: list[str], known: Quantities) -> tuple[Days, str | None]:
    for month in months:
        if month in known.months:
            return month, None
    if not months:
        # A month of no period: nothing has its values.
        return "?", None
    data, before = known.span_of("数据期间"), known.span_of("对比期间")
    is_of_data = data and any(month == f"{day:%Y-%m}" for month in months for day in (data.start, data.end))
    is_before = before and any(f"{before.start:%Y-%m}" <= month <= f"{before.end:%Y-%m}" for month in months)
    return None, COMPARISON if is_before and not is_of_data else None


def _quarter(day: date) -> int:
    return (day.month - 1) // 3 + 1
