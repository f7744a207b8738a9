"""The facts of a finance prompt as quantities: what is measured, of which period, area and days.

Follows the keys of `prompts/finance_facts.py` and `finance_area.py` (`净收入_元`, `变化_%`, `区域构成`); what it doesn't know it leaves out, so
that a number from there is unexplained rather than explained by chance. Invariant: a value is found only under its own metric, role, area
and days.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from zqyy_ai.domain.finance_columns import DISCOUNT_KINDS, FINANCE_COLUMNS, REVENUE_KINDS
from zqyy_ai.domain.number_check.notation import COMPARISON, CURRENT, WEEKDAYS, WEEKEND, Unit, WrittenDate, day_of
from zqyy_ai.domain.windows import AREA_TITLES, Area

Facts = dict[str, Any]
# The whole period, days of the week, a month ("2026-02") or a day.
Days = str | date | None

WHOLE_SITE = AREA_TITLES[Area.ALL]
HALL_TITLES = (AREA_TITLES[Area.HALL_A], AREA_TITLES[Area.HALL_B], AREA_TITLES[Area.HALL_C])
REVENUE_TITLES = tuple(column.title for column in REVENUE_KINDS)
DISCOUNT_TITLES = tuple(column.title for column in DISCOUNT_KINDS)
RATES = ("台时利用率", "优惠率")
UNITS: dict[str, Unit] = {column.title: Unit(column.unit.value) for column in FINANCE_COLUMNS} | {
    "优惠合计": Unit.CNY,
    "优惠率": Unit.PERCENT,
    "台时利用率": Unit.PERCENT,
    "单均净收入": Unit.CNY,
    "日均净收入": Unit.CNY,
    "日均订单数": Unit.ORDERS,
    "有数据天数": Unit.DAYS,
    "缺数天数": Unit.DAYS,
}


@dataclass(frozen=True, slots=True)
class Value:
    """`slack`: how far it may be off because the facts that it follows from are themselves rounded."""

    value: float
    path: str
    slack: float = 0.0


@dataclass(frozen=True, slots=True)
class Span:
    """Days from `start` to `end` with the name of the fact."""

    name: str
    start: date
    end: date

    def __contains__(self, day: date) -> bool:
        return self.start <= day <= self.end


@dataclass(slots=True)
class Quantities:
    """`values`: by (metric, role, area, days). `growth` and `points`: the facts' own changes by (metric, area); `shares` by (metric, role, area)."""

    area: str
    site: str
    values: dict[tuple[str, str, str, Days], Value] = field(default_factory=dict)
    growth: dict[tuple[str, str], Value] = field(default_factory=dict)
    points: dict[tuple[str, str], Value] = field(default_factory=dict)
    shares: dict[tuple[str, str, str], Value] = field(default_factory=dict)
    kind_shares: dict[str, Value] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    months: list[str] = field(default_factory=list)
    areas: list[str] = field(default_factory=list)
    extremes: dict[tuple[str, int], list[tuple[date, Value]]] = field(default_factory=dict)
    gap_days: dict[str, Value] = field(default_factory=dict)
    gap_dates: dict[str, list[date]] = field(default_factory=dict)
    area_gaps: dict[str, Value] = field(default_factory=dict)
    lengths: dict[str, Value] = field(default_factory=dict)
    growth_gap: Value | None = None
    utilisation_gap: Value | None = None
    listed_days: set[date] = field(default_factory=set)
    current_words: frozenset[str] = frozenset()

    @property
    def data(self) -> Span:
        return self.spans["数据期间"]

    def value(self, metric: str, role: str, area: str, days: Days) -> Value | None:
        return self.values.get((metric, role, area, days))

    def span_of(self, name: str) -> Span | None:
        return self.spans.get(name)

    def resolve_month(self, year: int | None, month: int) -> list[str]:
        """The months so named that a period of the facts touches, those of the data first."""
        found: list[str] = []
        for span in self.spans.values():
            first = date(span.start.year, span.start.month, 1)
            while first <= span.end:
                if first.month == month and (year is None or first.year == year) and f"{first:%Y-%m}" not in found:
                    found.append(f"{first:%Y-%m}")
                first = (first + timedelta(days=32)).replace(day=1)
        return found

    def resolve_days(self, written: WrittenDate, month: int | None) -> list[date]:
        """The days so written in any period of the facts, by year."""
        years = sorted({day.year for span in self.spans.values() for day in (span.start, span.end)}, reverse=True)
        if written.year is not None:
            years = [written.year]
        months = [month] if month is not None or written.month is not None else list(dict.fromkeys(
            part.month for span in self.spans.values() for part in (span.start, span.end)))  # fmt: skip
        found = (day_of(written, year, one) for year in years for one in months)
        return list(dict.fromkeys(day for day in found if day is not None))


def quantities_of(facts: Facts) -> Quantities:
    own = _text(facts.get("区域")) or WHOLE_SITE
    known = Quantities(area=own, site=_text(facts.get("门店")))
    for name in ("数据期间", "名义期间", "对比期间"):
        _add_span(known, name, facts.get(name))
    for role in (CURRENT, COMPARISON):
        for key, number in _numbers(facts.get(role)):
            known.values[_title(key), role, own, None] = Value(number, f"{role}.{key}")
    for key, number in _numbers(facts.get("变化_%")):
        target = known.points if key.endswith("_百分点") else known.growth
        target[_title(key), own] = Value(number, f"变化_%.{key}")
    known.kind_shares = {name: Value(number, f"收入构成_%.{name}") for name, number in _numbers(facts.get("收入构成_%"))}
    _add_areas(known, facts.get("区域构成"))
    _add_extremes(known, facts.get("单日高低"))
    _add_parts_of_the_week(known, facts.get("工作日与周末"))
    _add_months(known, facts.get("分月"))
    _add_gaps(known, facts.get("数据缺口"))
    _add_site(known, facts.get("与全店对比"))
    known.current_words = frozenset({_text(facts.get("时间维度"))})
    return known


def _add_span(known: Quantities, name: str, period: Any) -> None:
    if not isinstance(period, dict):
        return
    try:
        span = Span(name, date.fromisoformat(period["起"]), date.fromisoformat(period["止"]))
    except (KeyError, TypeError, ValueError):
        return
    known.spans[name] = span
    known.listed_days |= {span.start, span.end}
    if isinstance(period.get("天数"), int):
        known.lengths[name] = Value(period["天数"], f"{name}.天数")


def _add_areas(known: Quantities, rows: Any) -> None:
    for index, row in enumerate(_rows(rows)):
        area = _text(row.get("区域"))
        known.areas.append(area)
        path = f"区域构成[{index}]"
        for key, number in _numbers(row):
            value = Value(number, f"{path}.{key}")
            match key:
                case "占比_%":
                    known.shares["净收入", CURRENT, area] = value
                case "变化_%":
                    known.growth["净收入", area] = value
                case _:
                    known.values[_title(key), CURRENT, area, None] = value
    # 大厅 is its three parts, where it is not the window's own area.
    parts = [known.value("净收入", CURRENT, title, None) for title in HALL_TITLES]
    present = [part for part in parts if part is not None]
    hall = AREA_TITLES[Area.HALL]
    if known.area == WHOLE_SITE and present and hall not in known.areas:
        known.values["净收入", CURRENT, hall, None] = Value(sum(part.value for part in present), " + ".join(part.path for part in present))


def _add_extremes(known: Quantities, extremes: Any) -> None:
    if not isinstance(extremes, dict):
        return
    for name, entry in extremes.items():
        metric, direction = name.removesuffix("最高").removesuffix("最低"), 1 if name.endswith("最高") else -1
        for index, row in enumerate(_rows(entry) if isinstance(entry, list) else _rows([entry])):
            try:
                day = date.fromisoformat(row["日期"])
            except (KeyError, TypeError, ValueError):
                continue
            path = f"单日高低.{name}[{index}]" if isinstance(entry, list) else f"单日高低.{name}"
            for key, number in _numbers(row):
                value = Value(number, f"{path}.{key}")
                known.values[_title(key), CURRENT, known.area, day] = value
                known.extremes.setdefault((metric, direction), []).append((day, value))
                known.listed_days.add(day)


def _add_parts_of_the_week(known: Quantities, parts: Any) -> None:
    if not isinstance(parts, dict):
        return
    for name in (WEEKDAYS, WEEKEND):
        for key, number in _numbers(parts.get(name)):
            known.values[_title(key), CURRENT, known.area, name] = Value(number, f"工作日与周末.{name}.{key}")
        for total, average in (("净收入", "日均净收入"), ("订单数", "日均订单数")):
            days, mean = (known.value(metric, CURRENT, known.area, name) for metric in ("有数据天数", average))
            if days and mean:
                slack = days.value * (0.005 if total == "净收入" else 0.05)
                known.values[total, CURRENT, known.area, name] = Value(days.value * mean.value, f"{mean.path} × {days.path}", slack)


def _add_months(known: Quantities, rows: Any) -> None:
    for index, row in enumerate(_rows(rows)):
        month = _text(row.get("月份"))
        known.months.append(month)
        for key, number in _numbers(row):
            known.values[_title(key), CURRENT, known.area, month] = Value(number, f"分月[{index}].{key}")


def _add_gaps(known: Quantities, gaps: Any) -> None:
    if not isinstance(gaps, dict):
        return
    for role in (CURRENT, COMPARISON):
        count, days = gaps.get(f"{role}缺数天数"), gaps.get(f"{role}缺数日期")
        if isinstance(count, int):
            known.gap_days[role] = Value(count, f"数据缺口.{role}缺数天数")
        dates = [date.fromisoformat(day) for day in days if isinstance(day, str)] if isinstance(days, list) else []
        known.gap_dates[role] = dates
    known.area_gaps = {area: Value(number, f"数据缺口.部分区域缺数天数.{area}") for area, number in _numbers(gaps.get("部分区域缺数天数"))}


def _add_site(known: Quantities, beside: Any) -> None:
    for key, number in _numbers(beside):
        value = Value(number, f"与全店对比.{key}")
        match key:
            case "占全店净收入_%":
                known.shares["净收入", CURRENT, known.area] = value
            case "对比期占全店净收入_%":
                known.shares["净收入", COMPARISON, known.area] = value
            case "占全店订单数_%":
                known.shares["订单数", CURRENT, known.area] = value
            case "全店台时利用率_%":
                known.values["台时利用率", CURRENT, WHOLE_SITE, None] = value
            case "全店净收入变化_%":
                known.growth["净收入", WHOLE_SITE] = value
            case "利用率差_百分点":
                known.utilisation_gap = value
            case "增速差_百分点":
                known.growth_gap = value
            case _:
                pass


def _title(key: str) -> str:
    """`净收入_元` is the metric 净收入."""
    return key.partition("_")[0]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _rows(value: Any) -> list[Facts]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _numbers(value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, number in value.items():
            if isinstance(number, int | float) and not isinstance(number, bool):
                yield key, number
