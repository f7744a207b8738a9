"""The rules by which a number of an answer may follow from the facts, and their search.

    fact                        a fact of that metric, area, days and period, digit by digit
    rounding                    the same, rounded to the digits that are written (约, 超, 近 as `matches` has them)
    unit_change                 the same in another unit: 元 as 万元, % as 成
    change_against_comparison   the current value of a metric minus the comparison's, in its unit, in % of the comparison's, or in points
    share_of_total              a part in % of its whole: a kind of income, of discount, an area, a month, money of an income
    average_per_day             a sum divided by its days with data
    difference_of_two           two values of one metric - areas, months, days, parts of the week - one minus the other, or in % of the other
    ratio_of_two                one of them in times the other
    sum_of_parts                the named parts together: the three hall areas, 台费 + 助教费, months
    date                        a day, month or period of the facts, in its own place (`dates.py`)

Anything else is unexplained. A rule looks only at the metric, area, days and period that the sentence names; where it names none, at the
ones said last, and at the window's own. Invariant: no rule combines two metrics except a part and its whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum

from zqyy_ai.domain.number_check.contexts import Context, Point, ReadNumber, names_of
from zqyy_ai.domain.number_check.dates import fact_of_date, facts_of_range_ends
from zqyy_ai.domain.number_check.notation import COMPARISON, CURRENT, REVENUE, WEEKDAYS, WEEKEND, Bound, Unit, Written, WrittenDate
from zqyy_ai.domain.number_check.quantities import (
    DISCOUNT_TITLES,
    HALL_TITLES,
    RATES,
    REVENUE_TITLES,
    UNITS,
    WHOLE_SITE,
    Quantities,
    Value,
)


class Rule(StrEnum):
    """How a number is explained. `PROPOSAL`: a target or an amount of a suggestion, which no fact can hold."""

    FACT = "fact"
    ROUNDING = "rounding"
    UNIT_CHANGE = "unit_change"
    CHANGE_AGAINST_COMPARISON = "change_against_comparison"
    SHARE_OF_TOTAL = "share_of_total"
    AVERAGE_PER_DAY = "average_per_day"
    DIFFERENCE_OF_TWO = "difference_of_two"
    RATIO_OF_TWO = "ratio_of_two"
    SUM_OF_PARTS = "sum_of_parts"
    DATE = "date"
    PROPOSAL = "proposal"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A value that the sentence may mean. `is_signed`: rising and falling differ, so that the sentence's word for it counts."""

    value: float
    rule: Rule
    path: str
    slack: float = 0.0
    is_signed: bool = False


_MOST_ABOVE, _MOST_BELOW = 0.12, 0.10
_TENTHS_ABOUT, _TENTHS_BEYOND = 2.0, 3.0
_AVERAGES = {"净收入": "日均净收入", "订单数": "日均订单数", REVENUE: "日均净收入"}


def matches(written: Written, value: float, slack: float = 0.0) -> bool:
    """Whether the value, rounded to the digits that are written, is the number.

    Plainly and with 约: within half a unit of the last digit; 约 with a number that ends in zeros: of the last digit that is not zero.
    超过: the value lies above, by at most 12 %; 近: below, by at most 10 %. 成: within 2 points; 超三成 and 近三成: on their side, by at most 3.
    """
    quoted = written.value
    edge = 1e-6 + 1e-9 * abs(value)
    if written.unit is Unit.TENTHS:
        match written.bound:
            case Bound.ABOVE:
                return -edge <= value - quoted <= _TENTHS_BEYOND + edge
            case Bound.BELOW:
                return -edge <= quoted - value <= _TENTHS_BEYOND + edge
            case _:
                return abs(value - quoted) <= max(_TENTHS_ABOUT, written.half_step if written.counted else 0) + edge
    match written.bound:
        case Bound.ABOVE if value > 0:
            return quoted - edge <= value <= quoted * (1 + _MOST_ABOVE) + edge
        case Bound.BELOW if value > 0:
            return quoted * (1 - _MOST_BELOW) - edge <= value <= quoted + edge
        case _:
            half = written.half_step
            if written.bound is Bound.ABOUT and half == 0.5:
                while quoted and quoted >= 100 and quoted % (half * 20) == 0:
                    half *= 10
            return abs(value - quoted) <= half + slack + edge


def explain(number: ReadNumber, known: Quantities) -> tuple[Rule, str]:
    """The rule that explains a number or date, and the paths of the facts that it follows from."""
    context = number.context
    if isinstance(number.token.payload, WrittenDate):
        return _rule_of_date(fact_of_date(number, known), context)
    written: Written = number.token.payload
    for candidate in _candidates(written, context, known):
        if _agrees(written, candidate, context):
            return _rule_of(written, candidate), candidate.path
    if _is_proposal(written, context):
        return Rule.PROPOSAL, ""
    return Rule.UNEXPLAINED, ""


def explain_range_ends(number: ReadNumber, known: Quantities) -> tuple[tuple[Rule, str], tuple[Rule, str]]:
    """The same for each end of a range of dates."""
    first, last = facts_of_range_ends(number, known)
    return _rule_of_date(first, number.context), _rule_of_date(last, number.context)


def _rule_of_date(path: str | None, context: Context) -> tuple[Rule, str]:
    if path is not None:
        return Rule.DATE, path
    return (Rule.PROPOSAL if context.in_advice and not context.has_gap else Rule.UNEXPLAINED), ""


def _agrees(written: Written, candidate: Candidate, context: Context) -> bool:
    value = candidate.value
    if not candidate.is_signed:
        return matches(written, value, candidate.slack)
    if context.sign is not None:
        # 下降 4.5%, and 下降 -4.5% too: the word tells the direction.
        if value * context.sign < 0:
            return False
        value = abs(value)
        return matches(_unsigned(written), value, candidate.slack)
    if written.is_signed:
        return (written.value < 0) == (value < 0) and matches(_unsigned(written), abs(value), candidate.slack)
    return matches(written, abs(value) if context.moves else value, candidate.slack)


def _unsigned(written: Written) -> Written:
    return replace(written, value=abs(written.value)) if written.value < 0 else written


def _rule_of(written: Written, candidate: Candidate) -> Rule:
    if candidate.rule is not Rule.FACT:
        return candidate.rule
    if written.is_scaled or written.unit is Unit.TENTHS:
        return Rule.UNIT_CHANGE
    return Rule.FACT if abs(abs(candidate.value) - abs(written.value)) < 1e-9 else Rule.ROUNDING


def _is_proposal(written: Written, context: Context) -> bool:
    if not context.in_advice or context.is_from or written.is_signed:
        return False
    return context.is_target or written.unit in (Unit.OTHER, Unit.MONTHS) or not (context.names_metric or context.has_gap or context.moves)


def _candidates(written: Written, context: Context, known: Quantities) -> Iterator[Candidate]:
    match written.unit:
        case Unit.PERCENT | Unit.TENTHS:
            yield from _percentages(written, context, known)
        case Unit.POINTS:
            yield from _points(context, known)
        case Unit.TIMES:
            yield from _ratios(context, known)
        case Unit.DAYS:
            yield from _day_counts(context, known)
        case Unit.MONTHS:
            yield from _month_counts(known)
        case Unit.OTHER:
            return
        case _:
            yield from _amounts(written, context, known)


def _value(known: Quantities, metric: str, point: Point, averages: bool) -> Candidate | None:
    """The metric's value there: a fact, or an average by its days."""
    if averages and metric not in RATES and not metric.startswith(("日均", "单均")):
        named = _AVERAGES.get(metric)
        value = known.value(named, point.role, point.area, point.days) if named else None
        if value is not None:
            return Candidate(value.value, Rule.FACT, value.path)
        total, days = known.value(metric, point.role, point.area, point.days), known.value("有数据天数", point.role, known.area, point.days)
        if total is None or days is None or not days.value:
            return None
        return Candidate(total.value / days.value, Rule.AVERAGE_PER_DAY, f"{total.path} ÷ {days.path}", total.slack / days.value)
    value = known.value(metric, point.role, point.area, point.days)
    if value is not None:
        derived = " + " in value.path or " × " in value.path
        return Candidate(value.value, Rule.SUM_OF_PARTS if derived else Rule.FACT, value.path, value.slack)
    if metric in ("日均净收入", "日均订单数"):
        total_metric = "净收入" if metric == "日均净收入" else "订单数"
        total, days = (known.value(name, point.role, point.area, point.days) for name in (total_metric, "有数据天数"))
        if days is None:
            days = known.value("有数据天数", point.role, known.area, point.days)
        if total is not None and days is not None and days.value:
            return Candidate(total.value / days.value, Rule.AVERAGE_PER_DAY, f"{total.path} ÷ {days.path}")
    if metric == "单均净收入":
        net, orders = (known.value(name, point.role, point.area, point.days) for name in ("净收入", "订单数"))
        if net is not None and orders is not None and orders.value:
            return Candidate(net.value / orders.value, Rule.RATIO_OF_TWO, f"{net.path} ÷ {orders.path}")
    if metric == "优惠率":
        total, gross = (known.value(name, point.role, point.area, point.days) for name in ("优惠合计", "毛收入"))
        if total is not None and gross is not None and gross.value:
            return Candidate(100 * total.value / gross.value, Rule.SHARE_OF_TOTAL, f"{total.path} ÷ {gross.path}")
    return None


def _amounts(written: Written, context: Context, known: Quantities) -> Iterator[Candidate]:
    moves = context.moves
    for metric in names_of(context.metrics):
        if not moves:
            yield from _values(metric, context, known)
        if moves or context.compares or context.sign is not None or written.is_signed:
            yield from _differences(metric, context, known)
    if not moves:
        yield from _sums(context, known)


def _values(metric: str, context: Context, known: Quantities) -> Iterator[Candidate]:
    points = list(context.points)
    if context.is_than_object and context.against:
        points = context.against
    elif context.compares and context.against and not context.names_metric and not context.moves_to:
        points = [*points, *context.against]
    told_day = context.date_token is not None and isinstance(points[0].days, date)
    if context.extreme is not None and context.is_than_object is False:
        extremes = known.extremes.get(("净收入" if metric == "日均净收入" else metric, context.extreme))
        if extremes and (told_day or points[0].days is None) and points[0].area == known.area:
            for day, value in extremes:
                if not told_day or day == points[0].days or points[0].days not in {d for d, _ in extremes}:
                    yield Candidate(value.value, Rule.FACT, value.path)
                    if not told_day:
                        break
            if told_day:
                return
        if not told_day and points[0].days is None:
            yield from _superlatives(metric, context, known)
    if context.single_day and not told_day:
        for direction in (1, -1):
            for _, value in known.extremes.get((metric, direction), [])[:1]:
                yield Candidate(value.value, Rule.FACT, value.path)
        if not context.averages:
            return
    for point in points:
        found = _value(known, metric, point, context.averages)
        if found is not None:
            if context.moves_to and point.days is None and point.role == CURRENT and context.sign:
                before = _value(known, metric, Point(COMPARISON, point.area), context.averages)
                if before is not None and (found.value - before.value) * context.sign < 0:
                    continue
            if context.is_than_object and context.sign:
                mine = _value(known, metric, context.points[0], context.averages)
                if mine is not None and (mine.value - found.value) * context.sign < 0:
                    continue
            yield found


def _superlatives(metric: str, context: Context, known: Quantities) -> Iterator[Candidate]:
    """最高的区域达 X: the extreme of the areas or of the months, where the sentence names none."""
    if context.areas:
        return
    for keys in (
        [Point(CURRENT, area) for area in known.areas],
        [Point(CURRENT, known.area, month) for month in known.months],
    ):
        values = [value for point in keys if (value := known.value(metric, point.role, point.area, point.days)) is not None]
        if values and context.extreme:
            best = max(values, key=lambda value: value.value * (context.extreme or 1))
            yield Candidate(best.value, Rule.FACT, best.path)


def _pairs(context: Context, known: Quantities) -> Iterator[tuple[Point, Point, bool]]:
    """What is compared, subject first, and whether the text says which way round."""
    subject = context.points[0]
    if context.against and not (len(context.against) == 1 and context.against[0].role == COMPARISON and context.against[0].days is None):
        for against in context.against:
            for point in context.points:
                if point.area == against.area or point.days == against.days:
                    yield point, against, True
            if against.role == CURRENT and against.area == subject.area and against.days in (WEEKDAYS, WEEKEND):
                yield Point(CURRENT, subject.area, WEEKEND if against.days == WEEKDAYS else WEEKDAYS), against, True
        if any(against.role == COMPARISON for against in context.against):
            yield Point(CURRENT, subject.area), Point(COMPARISON, subject.area), True
        return
    if not context.compares:
        if len(context.all_days) >= 2:
            first, second = context.all_days[-2:]
            yield Point(CURRENT, known.area, first), Point(CURRENT, known.area, second), False
        if len(context.areas) >= 2:
            yield Point(CURRENT, context.areas[-2]), Point(CURRENT, context.areas[-1]), False
    for point in context.points:
        if point.days in (WEEKDAYS, WEEKEND):
            yield point, Point(CURRENT, point.area, WEEKEND if point.days == WEEKDAYS else WEEKDAYS), True
        elif isinstance(point.days, str) and point.days in known.months:
            where = known.months.index(point.days)
            for other in known.months[max(0, where - 1) : where]:
                yield point, Point(CURRENT, point.area, other), True
        elif point.days is None:
            yield Point(CURRENT, point.area), Point(COMPARISON, point.area), True


def _is_change(subject: Point, against: Point) -> bool:
    return subject.role != against.role


def _differences(metric: str, context: Context, known: Quantities) -> Iterator[Candidate]:
    for subject, against, is_ordered in _pairs(context, known):
        first, second = (_value(known, metric, point, context.averages) for point in (subject, against))
        if first is None or second is None:
            continue
        rule = Rule.CHANGE_AGAINST_COMPARISON if _is_change(subject, against) else Rule.DIFFERENCE_OF_TWO
        difference = first.value - second.value
        yield Candidate(
            difference if is_ordered else abs(difference), rule, f"{first.path} - {second.path}", first.slack + second.slack, is_ordered
        )
    if context.has_extreme_in_sentence:
        best, worst = (known.extremes.get((metric, direction)) for direction in (1, -1))
        if best and worst:
            yield Candidate(best[0][1].value - worst[0][1].value, Rule.DIFFERENCE_OF_TWO, f"{best[0][1].path} - {worst[0][1].path}")


def _growths(metric: str, context: Context, known: Quantities) -> Iterator[Candidate]:
    for subject, against, is_ordered in _pairs(context, known):
        if _is_change(subject, against) and subject.days is None:
            name = _AVERAGES.get(metric, metric) if context.averages else metric
            fact = known.growth.get((name, subject.area))
            if fact is not None:
                yield Candidate(fact.value, Rule.FACT, fact.path, is_signed=True)
        first, second = (_value(known, metric, point, context.averages) for point in (subject, against))
        if first is None or second is None or second.value <= 0:
            continue
        rule = Rule.CHANGE_AGAINST_COMPARISON if _is_change(subject, against) else Rule.DIFFERENCE_OF_TWO
        slack = 100 * (first.slack + second.slack) / second.value
        growth = 100 * (first.value - second.value) / second.value
        yield Candidate(growth, rule, f"({first.path} - {second.path}) ÷ {second.path}", slack, is_ordered)
        if not is_ordered and first.value > 0:
            yield Candidate(
                100 * abs(first.value - second.value) / first.value, rule, f"({second.path} - {first.path}) ÷ {first.path}", slack
            )


def _percentages(written: Written, context: Context, known: Quantities) -> Iterator[Candidate]:
    names = names_of(context.metrics)
    if written.counted == "翻倍":
        for metric in names:
            yield from _growths(metric, context, known)
        return
    if context.is_share:
        yield from _shares(context, known)
        if context.moves:
            return
    if context.is_ratio:
        for metric in names:
            yield from _of_comparison(metric, context, known)
        return
    for metric in names:
        if context.moves or context.is_pace:
            yield from _growths(metric, context, known)
            continue
        if metric in RATES:
            yield from _values(metric, context, known)
            continue
        if not context.is_share:
            if not context.moves_to:
                yield from _growths(metric, context, known)
            if not written.is_signed:
                yield from _of_comparison(metric, context, known)
            if not context.sign:
                yield from _shares(context, known)
    if not context.moves and not context.is_share and context.areas and not context.names_metric:
        for area in context.areas[-1:]:
            for role in (CURRENT, COMPARISON):
                if (share := known.shares.get(("净收入", role, area))) is not None and role == context.points[0].role:
                    yield Candidate(share.value, Rule.FACT, share.path)


def _of_comparison(metric: str, context: Context, known: Quantities) -> Iterator[Candidate]:
    """为对比期的 95.5%."""
    for against in context.against:
        first, second = _value(known, metric, context.points[0], context.averages), _value(known, metric, against, context.averages)
        if first and second and second.value > 0:
            yield Candidate(100 * first.value / second.value, Rule.RATIO_OF_TWO, f"{first.path} ÷ {second.path}")
    if context.role_said == COMPARISON and not context.against:
        area = context.points[0].area
        first, second = (_value(known, metric, Point(role, area), context.averages) for role in (CURRENT, COMPARISON))
        if first and second and second.value > 0:
            yield Candidate(100 * first.value / second.value, Rule.RATIO_OF_TWO, f"{first.path} ÷ {second.path}")


def _ratios(context: Context, known: Quantities) -> Iterator[Candidate]:
    for metric in names_of(context.metrics):
        yield from _of_times(metric, context, known)


def _of_times(metric: str, context: Context, known: Quantities) -> Iterator[Candidate]:
    pairs = list(_pairs(context, known))
    average = known.value(_AVERAGES.get(metric, metric), CURRENT, known.area, None)
    for point in context.points:
        value = known.value(metric, point.role, point.area, point.days)
        if context.beside_average and isinstance(point.days, date) and value and average and average.value > 0:
            yield Candidate(value.value / average.value, Rule.RATIO_OF_TWO, f"{value.path} ÷ {average.path}")
    points = [*context.points, *context.against]
    for first in (Point(CURRENT, known.area, days) for days in context.all_days):
        pairs += [(first, point, True) for point in points if point != first]
        pairs += [(first, Point(CURRENT, known.area, days), True) for days in context.all_days if days != first.days]
    for first_area in context.areas:
        pairs += [(Point(CURRENT, first_area), Point(CURRENT, area), True) for area in context.areas if area != first_area]
    if context.role_said == COMPARISON:
        pairs.append((Point(CURRENT, context.points[0].area), Point(COMPARISON, context.points[0].area), True))
    for subject, against, _ in pairs:
        first_value, second_value = (_value(known, metric, point, context.averages) for point in (subject, against))
        if first_value is None or second_value is None or second_value.value <= 0:
            continue
        ratio = first_value.value / second_value.value
        path = f"{first_value.path} ÷ {second_value.path}"
        yield Candidate(ratio - 1 if context.moves else ratio, Rule.RATIO_OF_TWO, path)
    if context.has_extreme_in_sentence:
        best, worst = (known.extremes.get((metric, direction)) for direction in (1, -1))
        for listed in (best, worst):
            if listed and average and average.value > 0 and context.averages:
                yield Candidate(listed[0][1].value / average.value, Rule.RATIO_OF_TWO, f"{listed[0][1].path} ÷ {average.path}")
        if best and worst and worst[0][1].value > 0:
            yield Candidate(best[0][1].value / worst[0][1].value, Rule.RATIO_OF_TWO, f"{best[0][1].path} ÷ {worst[0][1].path}")


def _points(context: Context, known: Quantities) -> Iterator[Candidate]:
    for metric in context.metrics or ["台时利用率"]:
        yield from _points_of(metric, context, known)


def _points_of(metric: str, context: Context, known: Quantities) -> Iterator[Candidate]:
    beside_site = any(point.area == WHOLE_SITE for point in context.against) or WHOLE_SITE in context.areas
    if context.is_share:
        yield from _share_points(context, known)
        return
    if context.is_pace or metric not in RATES:
        if context.is_pace or beside_site:
            if known.growth_gap is not None:
                yield Candidate(known.growth_gap.value, Rule.FACT, known.growth_gap.path, is_signed=True)
            pairs = [(s.area, a.area) for s, a, _ in _pairs(context, known) if s.area != a.area]
            for first_area, second_area in pairs:
                first, second = known.growth.get(("净收入", first_area)), known.growth.get(("净收入", second_area))
                if first and second:
                    yield Candidate(first.value - second.value, Rule.DIFFERENCE_OF_TWO, f"{first.path} - {second.path}", is_signed=True)
        if metric not in RATES:
            return
    if beside_site and metric == "台时利用率" and known.utilisation_gap is not None and not context.is_pace:
        yield Candidate(known.utilisation_gap.value, Rule.FACT, known.utilisation_gap.path, is_signed=True)
        if known.area in context.areas or context.points[0].area == known.area:
            return
    for subject, against, is_ordered in _pairs(context, known):
        if _is_change(subject, against) and subject.days is None:
            fact = known.points.get((metric, subject.area))
            if fact is not None:
                yield Candidate(fact.value, Rule.FACT, fact.path, is_signed=True)
                continue
        first_value, second_value = (_value(known, metric, point, averages=False) for point in (subject, against))
        if first_value and second_value:
            difference = first_value.value - second_value.value
            rule = Rule.CHANGE_AGAINST_COMPARISON if _is_change(subject, against) else Rule.DIFFERENCE_OF_TWO
            path = f"{first_value.path} - {second_value.path}"
            yield Candidate(difference if is_ordered else abs(difference), rule, path, 0.0, is_ordered)
    if context.has_extreme_in_sentence:
        best, worst = (known.extremes.get((metric, direction)) for direction in (1, -1))
        if best and worst:
            yield Candidate(best[0][1].value - worst[0][1].value, Rule.DIFFERENCE_OF_TWO, f"{best[0][1].path} - {worst[0][1].path}")


def _share_points(context: Context, known: Quantities) -> Iterator[Candidate]:
    """The change of a share against the comparison's, and the difference of two shares."""
    subject = context.points[0]
    now, before = (known.shares.get(("净收入", role, subject.area)) for role in (CURRENT, COMPARISON))
    if now and before:
        yield Candidate(now.value - before.value, Rule.CHANGE_AGAINST_COMPARISON, f"{now.path} - {before.path}", 0.0, is_signed=True)
    for metric in context.metrics[:1]:
        shares = [next(_kind_shares(metric, role, context, known), None) for role in (CURRENT, COMPARISON)]
        if shares[0] and shares[1]:
            yield Candidate(
                shares[0].value - shares[1].value,
                Rule.CHANGE_AGAINST_COMPARISON,
                f"{shares[0].path} - {shares[1].path}",
                0.05,
                is_signed=True,
            )
    if len(context.areas) >= 2:
        first, second = (known.shares.get(("净收入", CURRENT, area)) for area in context.areas[-2:])
        if first and second:
            yield Candidate(abs(first.value - second.value), Rule.DIFFERENCE_OF_TWO, f"{first.path} - {second.path}")


def _whole_of(metric: str, context: Context) -> list[str]:
    named = [base for base in context.bases if base in UNITS or base == REVENUE]
    if named:
        return ["净收入", "毛收入"] if named[-1] == REVENUE else [named[-1]]
    if metric in REVENUE_TITLES:
        return ["毛收入"]
    if metric in DISCOUNT_TITLES:
        return ["优惠合计"]
    if metric == "优惠合计":
        return ["毛收入"]
    if metric == "储值卡消费":
        return ["净收入"]
    if metric == "净收入":
        return ["毛收入"]
    return []


def _kind_shares(metric: str, role: str, context: Context, known: Quantities) -> Iterator[Candidate]:
    """The metric's share of each whole that may be meant: the fact, then what follows from the amounts."""
    for whole in _whole_of(metric, context):
        if whole == metric:
            continue
        if whole == "毛收入" and role == CURRENT and metric in known.kind_shares:
            fact = known.kind_shares[metric]
            yield Candidate(fact.value, Rule.FACT, fact.path)
        part, total = (known.value(name, role, known.area, None) for name in (metric, whole))
        if part and total and total.value > 0 and UNITS.get(metric) == UNITS.get(whole):
            yield Candidate(100 * part.value / total.value, Rule.SHARE_OF_TOTAL, f"{part.path} ÷ {total.path}")


def _shares(context: Context, known: Quantities) -> Iterator[Candidate]:
    """Of days in their period, of an area in another or the whole site, of a kind of income or discount in its whole."""
    metric = "净收入" if context.metrics[:1] in ([], [REVENUE]) else context.metrics[0]
    whole_areas = [base for base in context.bases if base not in UNITS and base != REVENUE]
    whole_metric = next((base for base in reversed(context.bases) if base in UNITS), None)
    for point in context.points:
        if point.days is not None:
            yield from _share_of_days(point, whole_metric or metric, known)
            continue
        is_own = point.area == known.area
        if not is_own or whole_areas or (point.area != WHOLE_SITE and whole_metric in (None, "净收入", "订单数")):
            of = next((name for name in (whole_metric, metric) if name in ("净收入", "订单数")), "净收入")
            yield from _share_of_area(of, point, whole_areas, context, known)
        if is_own and metric in UNITS:
            yield from _share_of_kind(metric, point.role, context, known)


def _share_of_area(of: str, point: Point, whole_areas: list[str], context: Context, known: Quantities) -> Iterator[Candidate]:
    fact = known.shares.get((of, point.role, point.area))
    if fact is not None:
        yield Candidate(fact.value, Rule.FACT, fact.path)
    for whole_area in whole_areas or [WHOLE_SITE]:
        part, total = (known.value(of, point.role, name, None) for name in (point.area, whole_area))
        if part and total and total.value > 0 and point.area != whole_area:
            yield Candidate(100 * part.value / total.value, Rule.SHARE_OF_TOTAL, f"{part.path} ÷ {total.path}")
    areas = [name for name in context.areas if name not in whole_areas]
    if context.sums and len(areas) >= 2:
        yield from _sum_of_shares([known.shares.get((of, point.role, name)) for name in areas])


def _share_of_kind(metric: str, role: str, context: Context, known: Quantities) -> Iterator[Candidate]:
    kinds = [name for name in context.parts if name not in context.bases]
    if context.sums and len(kinds) >= 2:
        yield from _sum_of_shares([next(_kind_shares(name, role, context, known), None) for name in kinds])
    yield from _kind_shares(metric, role, context, known)


def _sum_of_shares(shares: Sequence[Value | Candidate | None]) -> Iterator[Candidate]:
    """Only of all of them. Each is rounded to a tenth of a percent."""
    present = [share for share in shares if share]
    if len(present) == len(shares):
        path = " + ".join(share.path for share in present)
        yield Candidate(sum(share.value for share in present), Rule.SUM_OF_PARTS, path, 0.05 * len(present))


def _share_of_days(point: Point, metric: str, known: Quantities) -> Iterator[Candidate]:
    name = metric if metric in ("净收入", "订单数") else "净收入"
    part, total = known.value(name, point.role, point.area, point.days), known.value(name, point.role, point.area, None)
    if part and total and total.value > 0:
        yield Candidate(100 * part.value / total.value, Rule.SHARE_OF_TOTAL, f"{part.path} ÷ {total.path}", 100 * part.slack / total.value)


def _sums(context: Context, known: Quantities) -> Iterator[Candidate]:
    """The parts that the sentence names, together."""
    if not context.sums:
        return
    point = context.points[0]
    metric = context.metrics[0] if context.metrics else "净收入"
    if len(context.parts) >= 2:
        named = [name for name in context.parts if UNITS.get(name) == UNITS.get(metric)]
        for start in range(len(named) - 1):
            values = [known.value(name, point.role, point.area, None) for name in named[start:]]
            yield from _sum(values)
    if len(context.areas) >= 2:
        yield from _sum([known.value(metric, point.role, area, None) for area in context.areas])
    if any(area in HALL_TITLES for area in context.areas):
        yield from _sum([known.value(metric, point.role, area, None) for area in HALL_TITLES])
    if len(context.all_days) >= 2:
        yield from _sum([known.value(metric, point.role, known.area, days) for days in context.all_days])


def _sum(values: list[Value | None]) -> Iterator[Candidate]:
    present = [value for value in values if value is not None]
    if len(present) == len(values) and len(present) >= 2:
        slack = sum(value.slack for value in present)
        yield Candidate(sum(value.value for value in present), Rule.SUM_OF_PARTS, " + ".join(value.path for value in present), slack)


def _day_counts(context: Context, known: Quantities) -> Iterator[Candidate]:
    role = context.points[0].role
    if context.has_gap:
        for area in context.areas:
            if area in known.area_gaps:
                value = known.area_gaps[area]
                yield Candidate(value.value, Rule.FACT, value.path)
        if not [area for area in context.areas if area in known.area_gaps]:
            roles = [role] if context.role_said else [CURRENT]
            for one in roles:
                if one in known.gap_days:
                    yield Candidate(known.gap_days[one].value, Rule.FACT, known.gap_days[one].path)
    for point in context.points:
        with_data = known.value("有数据天数", point.role, known.area, point.days)
        if with_data is not None and (not context.has_gap or not context.names_metric):
            yield Candidate(with_data.value, Rule.FACT, with_data.path)
    names = ("对比期间",) if role == COMPARISON or context.compares else ("数据期间", "名义期间")
    for name in names:
        if name in known.lengths and context.points[0].days is None:
            yield Candidate(known.lengths[name].value, Rule.FACT, known.lengths[name].path)
    if context.extreme is not None and context.metrics:
        listed = known.extremes.get((context.metrics[0], context.extreme))
        if listed:
            yield Candidate(len(listed), Rule.FACT, "单日高低")


def _month_counts(known: Quantities) -> Iterator[Candidate]:
    if "数据期间" in known.spans:
        span = known.data
        months = (span.end.year - span.start.year) * 12 + span.end.month - span.start.month + 1
        yield Candidate(months, Rule.FACT, "数据期间")


def contradicts_its_day(number: ReadNumber, known: Quantities) -> bool:
    """Whether an unexplained value of a named day or month is that of another one: then the day may as well be the wrong one."""
    written, context = number.token.payload, number.context
    return any(
        days != context.points[0].days
        and isinstance(days, str if isinstance(context.points[0].days, str) else date)
        and matches(written, value.value)
        for name in names_of(context.metrics)
        for (metric, role, area, days), value in known.values.items()
        if metric == name and area == known.area and role == CURRENT and days not in (None, WEEKDAYS, WEEKEND)
    )
