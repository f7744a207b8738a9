"""The emulator's answers: Chinese sentences around the numbers that the prompt's facts hold.

Which application is asked is told by the JSON schema in the prompt, not by the application's id. The writers follow the keys of
`zqyy_ai/prompts` and leave out what they do not find, so that facts of another shape still make a valid, if poorer, answer. Invariant:
every number in an answer stands in the facts, written the same way; nothing is calculated here.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from zqyy_ai.devkit.emulator.fact_reading import Facts, number_at, rows_at, text_at, value_at
from zqyy_ai.devkit.emulator.member_answers import compose_member_answer, member_app_of
from zqyy_ai.domain.apps import AppType

Finding = tuple[str, str]

_MOST_INSIGHTS = 7
_LONGEST_TITLE = 40
_LONGEST_BODY = 600
_FILLERS: tuple[Finding, ...] = (
    ("回答由模拟器生成", "本条由本地模拟器根据事实数据拼写而成，并非模型的判断，请勿用于经营决策。"),
    ("数据口径以事实为准", "事实数据中未提供的指标没有统计，本次不作推测，可在数据补齐后重新生成。"),
    ("建议持续观察", "建议在下一个完整期间结束后再次对比，确认变化是否持续，再决定是否调整经营安排。"),
)


@dataclass(frozen=True, slots=True)
class Composed:
    """`app` is the application that the prompt is for, None when its schema is not known here; then the text is prose."""

    app: str | None
    text: str


def compose(prompt: str) -> Composed:
    facts = facts_of(prompt)
    member_app = member_app_of(prompt)
    if member_app is not None and facts is not None:
        return Composed(member_app.value, compose_member_answer(member_app, facts))
    if '"insights"' in prompt and facts is not None:
        app = AppType.FINANCE if facts.get("区域", "全店") == "全店" else AppType.FINANCE_AREA
        return Composed(app.value, json.dumps({"insights": _numbered(_finance_findings(facts))}, ensure_ascii=False))
    return Composed(None, "这是模拟器的回答：提示词中没有它认识的应用格式，因此没有可引用的事实。")


def facts_of(prompt: str) -> Facts | None:
    """The JSON object between the lines `<facts>` and `</facts>`; None where there is none."""
    start, end = prompt.rfind("<facts>\n"), prompt.rfind("\n</facts>")
    if start < 0 or end < start:
        return None
    try:
        facts = json.loads(prompt[start + len("<facts>\n") : end])
    except ValueError:
        return None
    return facts if isinstance(facts, dict) else None


def _numbered(findings: Iterator[Finding]) -> list[dict[str, Any]]:
    chosen = [finding for finding, _ in zip(findings, range(_MOST_INSIGHTS), strict=False)]
    chosen += _FILLERS[: max(0, len(_FILLERS) - len(chosen))]
    return [
        {"seq": seq, "title": title[:_LONGEST_TITLE], "body": body[:_LONGEST_BODY]} for seq, (title, body) in enumerate(chosen, start=1)
    ]


def _finance_findings(facts: Facts) -> Iterator[Finding]:
    """The most important first."""
    for write in _FINANCE_WRITERS:
        finding = write(facts)
        if finding is not None:
            yield finding


def _revenue(facts: Facts) -> Finding | None:
    net = number_at(facts, "本期", "净收入_元")
    if net is None:
        return None
    change = number_at(facts, "变化_%", "净收入")
    moved = f"，较对比期{_days(facts, '对比期间')}{_moved(change, '%')}" if change is not None else "，没有可比的对比期数据"
    until = text_at(facts, "数据期间", "止")
    until_now = f"数据截至{until}。" if until and until != text_at(facts, "名义期间", "止") else ""
    average = number_at(facts, "本期", "日均净收入_元")
    daily = f"日均净收入 {average} 元。" if average is not None else ""
    advice = (
        "可能与到店客人减少有关，建议排查时段排班与引流活动。" if change and change.startswith("-") else "建议保持现有的排班与活动节奏。"
    )
    title = f"净收入{_moved(change, '%')}" if change is not None else f"净收入 {net} 元"
    return title, f"{_days(facts, '数据期间')}{_where(facts)}净收入 {net} 元{moved}。{daily}{until_now}{advice}"


def _gaps(facts: Facts) -> Finding | None:
    missing, before = number_at(facts, "数据缺口", "本期缺数天数"), number_at(facts, "数据缺口", "对比期缺数天数")
    if missing in (None, "0") and before in (None, "0"):
        return None
    return (
        "数据存在缺口",
        f"本期缺数 {missing or '未知'} 天，对比期缺数 {before or '未知'} 天，合计值可能偏低，请优先参考日均值，并检查数据加载任务。",
    )


def _beside_the_site(facts: Facts) -> Finding | None:
    beside = facts.get("与全店对比")
    share = number_at(facts, "与全店对比", "占全店净收入_%")
    if share is None:
        return None
    before = number_at(beside, "对比期占全店净收入_%")
    compared = f"，对比期为 {before}%" if before is not None else ""
    own, site = number_at(beside, "区域台时利用率_%"), number_at(beside, "全店台时利用率_%")
    used = f"台时利用率 {own}%，全店为 {site}%。" if own is not None and site is not None else ""
    growth = number_at(beside, "增速差_百分点")
    pace = f"净收入增速{_against(growth)}全店。" if growth is not None else ""
    return f"占全店净收入 {share}%", f"{_where(facts)}净收入占全店 {share}%{compared}。{used}{pace}建议结合客流高峰调整该区域的开台与定价。"


def _areas(facts: Facts) -> Finding | None:
    rows = [row for row in rows_at(facts, "区域构成") if number_at(row, "净收入_元") is not None and number_at(row, "占比_%") is not None]
    if not rows:
        return None
    best = max(rows, key=lambda row: float(row["净收入_元"]))
    slowest = min(
        (row for row in rows if number_at(row, "台时利用率_%") is not None), key=lambda row: float(row["台时利用率_%"]), default=None
    )
    change = number_at(best, "变化_%")
    moved = f"，{_moved(change, '%')}" if change is not None else ""
    idle = f"{slowest['区域']}台时利用率最低，为 {number_at(slowest, '台时利用率_%')}%，可考虑闲时优惠。" if slowest else ""
    name = best.get("区域", "该区域")
    return f"{name}贡献最大", f"{name}净收入 {number_at(best, '净收入_元')} 元，占比 {number_at(best, '占比_%')}%{moved}。{idle}"


def _utilisation(facts: Facts) -> Finding | None:
    used = number_at(facts, "本期", "台时利用率_%")
    if used is None:
        return None
    change = number_at(facts, "变化_%", "台时利用率_百分点")
    moved = f"，较对比期{_moved(change, ' 个百分点')}" if change is not None else ""
    high, low = value_at(facts, "单日高低", "台时利用率最高"), value_at(facts, "单日高低", "台时利用率最低")
    extremes = ""
    if number_at(high, "台时利用率_%") is not None and number_at(low, "台时利用率_%") is not None:
        extremes = f"最高为 {text_at(high, '日期')} 的 {number_at(high, '台时利用率_%')}%，最低为 {text_at(low, '日期')} 的 {number_at(low, '台时利用率_%')}%。"
    return f"台时利用率 {used}%", f"台时利用率 {used}%{moved}。{extremes}建议在低谷时段推出套餐，提高闲置台位的使用。"


def _discounts(facts: Facts) -> Finding | None:
    total, rate = number_at(facts, "本期", "优惠合计_元"), number_at(facts, "本期", "优惠率_%")
    if total is None or rate is None:
        return None
    change = number_at(facts, "变化_%", "优惠合计")
    moved = f"，较对比期{_moved(change, '%')}" if change is not None else ""
    kinds = [(key, number_at(facts, "本期", key)) for key in ("会员优惠_元", "团购券优惠_元", "活动优惠_元", "手动优惠_元")]
    largest = max(((key, amount) for key, amount in kinds if amount is not None), key=lambda kind: float(kind[1]), default=None)
    most = f"其中{largest[0].removesuffix('_元')}最多，为 {largest[1]} 元。" if largest else ""
    return f"优惠率 {rate}%", f"优惠合计 {total} 元{moved}，优惠率 {rate}%。{most}建议核对优惠是否带来了新增订单。"


def _structure(facts: Facts) -> Finding | None:
    shares = facts.get("收入构成_%")
    known = [(name, number_at(shares, name)) for name in shares] if isinstance(shares, dict) else []
    ranked = sorted(((name, share) for name, share in known if share is not None), key=lambda kind: -float(kind[1]))
    if not ranked:
        return None
    name, share = ranked[0]
    amount = number_at(facts, "本期", f"{name}_元")
    money = f"为 {amount} 元，" if amount is not None else ""
    second = f"其次是{ranked[1][0]}，占 {ranked[1][1]}%。" if len(ranked) > 1 else ""
    return f"{name}占毛收入 {share}%", f"{name}是最大的收入来源，{money}占毛收入 {share}%。{second}可推测其他品类仍有提升空间。"


def _weekends(facts: Facts) -> Finding | None:
    weekday, weekend = (number_at(facts, "工作日与周末", name, "日均净收入_元") for name in ("周一至周五", "周六周日"))
    if weekday is None or weekend is None:
        return None
    busy, idle = ("周末", "工作日") if float(weekend) >= float(weekday) else ("工作日", "周末")
    return (
        f"{busy}日均更高",
        f"周一至周五日均净收入 {weekday} 元，周六周日日均 {weekend} 元。建议把促销预算放在{idle}，{busy}优先保证人手。",
    )


def _best_and_worst_days(facts: Facts) -> Finding | None:
    best, worst = (next(iter(rows_at(value_at(facts, "单日高低"), name)), None) for name in ("净收入最高", "净收入最低"))
    if number_at(best, "净收入_元") is None or number_at(worst, "净收入_元") is None:
        return None
    high = f"净收入最高的是 {text_at(best, '日期')}，{number_at(best, '净收入_元')} 元"
    low = f"最低的是 {text_at(worst, '日期')}，{number_at(worst, '净收入_元')} 元"
    return "单日净收入差距明显", f"{high}；{low}。建议复盘两天的客流与活动安排。"


def _stored_value(facts: Facts) -> Finding | None:
    recharge, spending = number_at(facts, "本期", "充值_元"), number_at(facts, "本期", "储值卡消费_元")
    if recharge is None or spending is None:
        return None
    return "储值与消费", f"本期充值 {recharge} 元，储值卡消费 {spending} 元。建议关注储值余额的消耗节奏，避免短期集中兑付。"


_FINANCE_WRITERS: tuple[Callable[[Facts], Finding | None], ...] = (
    _revenue,
    _gaps,
    _beside_the_site,
    _areas,
    _utilisation,
    _discounts,
    _structure,
    _weekends,
    _best_and_worst_days,
    _stored_value,
)


def _days(facts: Facts, name: str) -> str:
    start, end = text_at(facts, name, "起"), text_at(facts, name, "止")
    return f"（{start} 至 {end}）" if start and end else ""


def _where(facts: Facts) -> str:
    return (text_at(facts, "门店") + text_at(facts, "区域"))[:60] or "门店"


def _moved(change: str | None, unit: str) -> str:
    if change is None or float(change) == 0:
        return "持平"
    return f"{'下降' if change.startswith('-') else '增长'} {change.removeprefix('-')}{unit}"


def _against(points: str) -> str:
    if float(points) == 0:
        return "持平于"
    return f"{'低' if points.startswith('-') else '高'} {points.removeprefix('-')} 个百分点于"
