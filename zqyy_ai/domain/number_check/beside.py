"""What the words right beside a number say of it: its metric, a change and its direction, a share, an average, a target.

Only what the words of its own part tell; what is taken from the parts before it is `sentence.py`'s.
"""

import re

from zqyy_ai.domain.number_check.contexts import Context
from zqyy_ai.domain.number_check.notation import REVENUE, Kind, Token, Unit, Written
from zqyy_ai.domain.number_check.parts import Surroundings
from zqyy_ai.domain.number_check.quantities import RATES, UNITS

# Between a verb of one character and its number: 高出约 3 个百分点, but not 高峰时段.
_ADJACENT = re.compile(r"[了出达到约近超过逾至仅有共\s¥￥幅]*")
_DEFAULT_METRICS: dict[Unit, list[str]] = {
    Unit.ORDERS: ["订单数"],
    Unit.GUESTS: ["客人数"],
    Unit.HOURS: ["台时使用"],
    Unit.CNY: ["净收入"],
    Unit.PERCENT: ["净收入"],
    Unit.TENTHS: ["净收入"],
    Unit.POINTS: ["台时利用率"],
    Unit.TIMES: ["净收入"],
}


def context_beside(around: Surroundings, metrics: list[str], metrics_before: list[str], bases: list[str]) -> Context:
    """A context without points. `metrics`: those that the part named up to here, in order; `metrics_before`: the parts', the last one first;
    `bases`: what the number is a share of, as far as the part has said."""
    context = Context([], [], bases=list(bases))
    named = [*_metrics_after(around, context), *reversed(metrics)]
    _tell_metrics(context, around, named, metrics_before)
    for token in around.lead:
        _hear_before(context, around, token)
    if around.joint == "的" and around.tail[0].kind is Kind.MOVE:
        # 18.9% 的跌幅
        context.moves, context.sign = True, around.tail[0].payload or None
    if not around.has_in_lead(Kind.AVERAGE) and around.part.has(Kind.AVERAGE, around.index):
        # 每天净收入由 10,000 元降至 9,000 元: 每天 was said of a number before.
        context.averages = not context.names_metric or context.metrics[0] in ("净收入", "订单数", REVENUE)
    if context.moves_to or any(token.kind is Kind.TARGET for token in around.tail[:2]):
        context.is_target = True
    return context


def fits(metric: str, unit: Unit) -> bool:
    """Whether a number of that unit may be about the metric: its value, its change, its share or a multiple of it."""
    own = Unit.CNY if metric == REVENUE else UNITS.get(metric, Unit.NONE)
    match unit:
        case Unit.PERCENT | Unit.TENTHS | Unit.TIMES:
            return own is not Unit.DAYS
        case Unit.POINTS:
            return True
        case Unit.NONE:
            return own is not Unit.NONE and metric not in RATES
        case _:
            return own is unit


def _metrics_after(around: Surroundings, context: Context) -> list[str]:
    """The metric that follows the number (`900 单订单`, `60% 来自台费`), where it is the number's; a whole is put to the context's bases."""
    if not around.tail or around.joint not in ("的", ""):
        return []
    first, written = around.tail[0], around.number.payload
    names_metric_before = around.has_in_lead(Kind.METRIC)
    if first.kind is Kind.METRIC and around.joint == "的":
        if around.has_in_lead(Kind.SHARE):
            # 贡献了 60% 的毛收入
            context.bases.append(first.payload)
        elif not names_metric_before:
            return [first.payload]
    elif first.kind is Kind.METRIC:
        if not names_metric_before and written.unit in (Unit.ORDERS, Unit.GUESTS, Unit.NONE):
            return [first.payload]
    elif first.kind is Kind.SHARE:
        if around.part.word(first) == "来自" and len(around.tail) > 1 and around.tail[1].kind is Kind.METRIC:
            return [around.tail[1].payload]
        context.is_share = context.is_share or around.joint == "的"
    return []


def _tell_metrics(context: Context, around: Surroundings, named: list[str], metrics_before: list[str]) -> None:
    written: Written = around.number.payload
    named = [metric for metric in named if fits(metric, written.unit)]
    older = [metric for metric in metrics_before if fits(metric, written.unit)]
    context.names_metric = bool(named)
    context.metrics = named[:1] or older[:1] or _DEFAULT_METRICS.get(written.unit, [])
    if not named and context.metrics and context.metrics[0] not in RATES and _is_of_a_rate(around, written):
        context.metrics = [metric for metric in older if metric in RATES][:1] or list(RATES)
    if written.unit is Unit.NONE and not context.metrics and written.is_scaled:
        context.metrics = ["净收入"]


def _is_of_a_rate(around: Surroundings, written: Written) -> bool:
    """Points that are none of a growth or a share, and `升至 43.2%`: only a rate moves so."""
    if written.unit is Unit.POINTS:
        return not around.part.has(Kind.PACE, around.index) and not around.part.has(Kind.SHARE, around.index)
    if written.unit is not Unit.PERCENT or not around.lead:
        return False
    last = around.lead[-1]
    return last.kind is Kind.MOVE_TO or around.part.word(last) in ("至", "到")


def _hear_before(context: Context, around: Surroundings, token: Token) -> None:
    """One word before the number: the last one that tells a direction holds."""
    is_last = token is around.lead[-1]
    match token.kind:
        case Kind.MOVE:
            if token.end - token.start > 1 or _ADJACENT.fullmatch(around.part.text, token.end, around.number.start):
                context.moves, context.moves_to, context.sign = True, False, token.payload or None
                context.is_pace = context.is_pace or around.part.word(token) in ("快", "慢")
        case Kind.MOVE_TO:
            context.moves, context.moves_to, context.sign = False, True, token.payload
        case Kind.THAN:
            if token.payload and (context.sign is None or not context.moves):
                # 高于 47.2%: the number is what is compared with, and has no direction.
                context.sign = None if is_last else token.payload
        case Kind.METRIC:
            if context.moves:
                context.moves, context.sign = False, None
        case Kind.TO:
            if is_last and around.part.word(token) in ("至", "到"):
                context.moves_to, context.moves = True, False
        case Kind.AVERAGE:
            context.averages = True
        case Kind.SUM:
            context.sums = True
        case Kind.PACE:
            context.is_pace = True
        case Kind.TARGET:
            context.is_target = True
        case _:
            pass
