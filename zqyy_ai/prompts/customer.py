"""App7, the whole customer: spending and visits by month and time of day, areas, goods, people, discounts, tasks, and App8's clues."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.business_clock import SHANGHAI
from zqyy_ai.domain.members import MemberData, Visit, VisitItem
from zqyy_ai.prompts import member_facts
from zqyy_ai.prompts.finance_facts import percentage
from zqyy_ai.prompts.member_facts import hours, yuan
from zqyy_ai.prompts.member_prompt import (
    PART_OF_MONTH_RULE,
    VISIT_RANGE_RULE,
    Facts,
    FormerAnswer,
    MemberPrompt,
    clues_in_prompt,
    moment_text,
    nothing_to_ask,
    prompt_of,
    with_rest,
)

_TASK = "你是台球连锁门店的客户运营负责人。请只依据 <facts>,写出这位会员的整体画像,以及门店可以采用的维护策略。"

_RULES = (
    VISIT_RANGE_RULE,
    PART_OF_MONTH_RULE,
    "summary 概括这位会员是谁、怎样来玩、消费处于什么水平、近几个月怎样变化,引用关键数字与日期。",
    "strategies 每条 title 是做法的名字,content 写明针对什么事实、由谁、在什么时机、怎样做;不同条不要是同一件事。",
    "“线索”由到店记录与备注整合而来,可能过时或有误:与消费数据不符的,以数据为准;为 null 表示还没有线索。",
    "优惠敏感度只依据“优惠”里的比例与方式判断;不承诺 facts 里没有的优惠。",
)

_LONGEST_CLUES = 5_000
_MOST_AREAS = 7
_MOST_GOODS = 8
_MOST_ASSISTANTS = 5
_MOST_ITEMS = 5
_TIMES_OF_DAY = ((6, "00:00–05:59"), (12, "06:00–11:59"), (18, "12:00–17:59"), (24, "18:00–23:59"))


def customer_prompt(data: MemberData, *, consolidation: FormerAnswer | None, history: Sequence[FormerAnswer]) -> MemberPrompt:
    visits = data.visits
    tasks = member_facts.open_tasks(data)
    found = None if consolidation is None else clues_in_prompt(AppType.CONSOLIDATION, consolidation, _LONGEST_CLUES)
    clues, clue_count = found or ([], 0)
    references = member_facts.references(
        data,
        "members",
        "visits",
        "assistants",
        "tasks",
        **member_facts.open_task_counts(data),
        clues=len(clues),
        clues_left_out=clue_count - len(clues),
        consolidation_created_at=None if consolidation is None else consolidation.created_at.isoformat(),
    )
    if not visits and not tasks and not clues:
        return nothing_to_ask("没有到店记录、待办任务和线索", references)
    facts: Facts = {
        "会员": member_facts.basics(data),
        "消费概况": member_facts.spending(visits),
        "按月": _by_month(data),
        "到店时段": _when(visits),
        "区域": [
            {"区域": member_facts.area_title(area), "小时": hours(centihours)}
            for area, centihours in member_facts.ranked(member_facts.table_hours_by_area(visits), _MOST_AREAS)
        ],
        "常点商品": [
            {"名称": member_facts.name(item), "数量": pieces}
            for item, pieces in member_facts.ranked(member_facts.quantity_by_goods(visits), _MOST_GOODS)
        ],
        "助教": member_facts.assistant_shares(visits, _MOST_ASSISTANTS),
        "优惠": _discounts(visits),
        "支付方式": _by_name(visits, lambda visit: visit.payments),
        "待办任务": tasks,
        "线索": None
        if found is None or consolidation is None
        else {"整合时间": moment_text(consolidation.created_at), "clues": with_rest(clues, clue_count)},
    }
    return prompt_of(AppType.CUSTOMER, task=_TASK, rules=_RULES, facts=facts, history=history, references=references)


def _by_month(data: MemberData) -> list[Facts]:
    told = data.visit_range()
    return member_facts.months(data.visits, first=told[0], last=told[1], with_favourites=False) if told else []


def _when(visits: Sequence[Visit]) -> Facts:
    weekend = sum(visit.business_date.weekday() >= 5 for visit in visits)
    started = Counter(_time_of_day(visit.started_at) for visit in visits)
    return {
        "周一至周五_次": len(visits) - weekend,
        "周六周日_次": weekend,
        "到店时间_次": {band: started[band] for _, band in _TIMES_OF_DAY},
    }


def _time_of_day(moment: datetime) -> str:
    hour = moment.astimezone(SHANGHAI).hour
    return next(band for end, band in _TIMES_OF_DAY if hour < end)


def _discounts(visits: Sequence[Visit]) -> Facts:
    gross, discount = sum(visit.gross_fen for visit in visits), sum(visit.discount_fen for visit in visits)
    discounted = sum(visit.discount_fen > 0 for visit in visits)
    return {
        "优惠率_%": percentage(discount, gross),
        "有优惠的次数": discounted,
        "有优惠的次数占比_%": percentage(discounted, len(visits)),
        "方式": _by_name(visits, lambda visit: visit.discounts),
    }


def _by_name(visits: Sequence[Visit], items_of: Callable[[Visit], Iterable[VisitItem]]) -> list[Facts]:
    times: Counter[str] = Counter()
    fen: Counter[str] = Counter()
    for visit in visits:
        for item in items_of(visit):
            times[item.name] += 1
            fen[item.name] += item.amount_fen
    return [
        {"名称": member_facts.name(item), "次数": times[item], "金额_元": yuan(amount)}
        for item, amount in member_facts.ranked(fen, _MOST_ITEMS)
    ]
