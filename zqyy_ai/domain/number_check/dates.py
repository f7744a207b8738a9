"""Whether a date of an answer is one of the facts', in its own place: a period's end, a month, a day that is listed.

Pure look-ups: each gives the path of the fact, or None. What None means for an answer is not decided here (`rules.py`).
"""

from datetime import date

from zqyy_ai.domain.number_check.contexts import Context, ReadNumber, names_of
from zqyy_ai.domain.number_check.notation import COMPARISON, CURRENT, WrittenDate
from zqyy_ai.domain.number_check.quantities import Quantities, Span


def fact_of_date(number: ReadNumber, known: Quantities) -> str | None:
    """The fact that the date is: of one day, month, quarter or year; None where it is none in its place."""
    context, written = number.context, number.token.payload
    if written.day is not None:
        return _fact_of_day(known.resolve_days(written, None), context, known)
    if written.month is not None:
        if written.last_month is not None:
            return _fact_of_range(WrittenDate(written.year, written.month), WrittenDate(written.year, written.last_month), context, known)
        return _fact_of_month(known.resolve_month(written.year, written.month), context, known)
    for span in known.spans.values():
        if written.quarter is not None:
            if written.quarter == (span.start.month - 1) // 3 + 1 and written.year in (None, span.start.year):
                return span.name
        elif written.year in (span.start.year, span.end.year):
            return span.name
    return None


def facts_of_range_ends(number: ReadNumber, known: Quantities) -> tuple[str | None, str | None]:
    """The fact of each end of a range of dates: where they are no period together, the end that is none's has none, or both."""
    assert number.range_end is not None
    context, first, last = number.context, number.token.payload, number.range_end.payload
    path = _fact_of_range(first, last, context, known)
    if path is None:
        if last.month is None:
            last = WrittenDate(last.year, first.month, last.day)
        for span in _spans_meant(context, known):
            if span.start in known.resolve_days(first, None):
                return f"{span.name}.起", None
            if span.end in known.resolve_days(last, None):
                return None, f"{span.name}.止"
    return path, path


def _fact_of_range(first: WrittenDate, last: WrittenDate, context: Context, known: Quantities) -> str | None:
    spans = _spans_meant(context, known)
    if first.day is not None and last.day is not None:
        starts = known.resolve_days(first, None)
        if last.month is None:
            last = WrittenDate(last.year, first.month, last.day)
        ends = known.resolve_days(last, None)
        return next((span.name for span in spans if span.start in starts and span.end in ends), None)
    if first.month is not None and last.month is not None:
        starts_of = known.resolve_month(first.year, first.month)
        ends_of = known.resolve_month(last.year or None, last.month)
        return next((span.name for span in spans if f"{span.start:%Y-%m}" in starts_of and f"{span.end:%Y-%m}" in ends_of), None)
    return None


def _spans_meant(context: Context, known: Quantities) -> list[Span]:
    match context.role_said:
        case "对比期":
            names = ["对比期间"]
        case "名义期间":
            names = ["名义期间", "数据期间"]
        case _:
            names = ["数据期间", "对比期间"] if context.role_said is None else ["数据期间"]
    return [known.spans[name] for name in names if name in known.spans]


def _fact_of_month(months: list[str], context: Context, known: Quantities) -> str | None:
    metric = names_of(context.metrics)[:1]
    if context.extreme is not None and metric and not context.until:
        values = {month: value.value for month in known.months if (value := known.value(metric[0], CURRENT, known.area, month)) is not None}
        if len(values) >= 2:
            best = max(values, key=lambda month: values[month] * (context.extreme or 1))
            return f"分月.{best}" if best in months else None
    for month in months:
        if month in known.months:
            return f"分月.{month}"
        for span in known.spans.values():
            if span.name == "对比期间" and known.months and not context.compares and context.role_said != COMPARISON:
                continue
            if f"{span.start:%Y-%m}" <= month <= f"{span.end:%Y-%m}":
                return span.name
    return None


def _fact_of_day(days: list[date], context: Context, known: Quantities) -> str | None:
    if context.until:
        return next((span.name for span in _spans_meant(context, known)[:1] if span.end in days), None)
    if context.has_gap and context.extreme is None:
        for role, gaps in known.gap_dates.items():
            if any(day in gaps for day in days) and context.role_said in (None, role):
                return f"数据缺口.{role}缺数日期"
    if context.extreme is not None:
        for metric in names_of(context.metrics):
            listed = known.extremes.get(("净收入" if metric == "日均净收入" else metric, context.extreme))
            if listed is not None:
                allowed = listed[: max(1, context.dates_told)]
                return next((value.path for day, value in allowed if day in days), None)
    for (metric, _), entries in known.extremes.items():
        for day, value in entries:
            if day in days and metric:
                return value.path
    for span in _spans_meant(context, known):
        if span.start in days or span.end in days:
            return span.name
    return None
