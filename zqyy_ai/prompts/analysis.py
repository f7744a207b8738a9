"""App4, the relation between one assistant and the member: how often, how long, since when, how it moves, and what is to be done."""

from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import Any

from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.members import MemberData, Visit
from zqyy_ai.prompts import member_facts
from zqyy_ai.prompts.finance_facts import percentage
from zqyy_ai.prompts.member_facts import hours, iso, yuan
from zqyy_ai.prompts.member_prompt import (
    PART_OF_MONTH_RULE,
    VISIT_RANGE_RULE,
    Facts,
    FormerAnswer,
    MemberPrompt,
    nothing_to_ask,
    prompt_of,
)

_TASK = "你是台球连锁门店的客户经理,负责指导助教维护客户。请只依据 <facts>,分析这位助教与这位会员的关系,并给出助教下一步要做的事。"

_RULES = (
    VISIT_RANGE_RULE,
    PART_OF_MONTH_RULE,
    "task_description 说清这位助教要为该会员做什么、为什么:有待办任务时围绕任务写,没有时按服务关系提出一件最值得做的事。",
    "action_suggestions 每条是一个助教当班就能做的动作,写明对象、时机与做法;不承诺 facts 里没有的优惠、价格或名额。",
    "one_line_summary 用一句话概括两人的关系现状;“服务近况”只相对会员自己最近一次到店而言。",
    "“服务次数”为 0 只表示该范围内没有服务记录,不要写成曾经服务过;其他助教只作占比参照,不作评价。",
)

_MOST_ASSISTANTS = 5
_TREND_MONTHS = 6


def analysis_prompt(data: MemberData, assistant_id: int, *, history: Sequence[FormerAnswer]) -> MemberPrompt:
    tasks = member_facts.open_tasks(data, assistant_id)
    counts = member_facts.open_task_counts(data, assistant_id)
    references = member_facts.references(data, "members", "visits", "assistants", "tasks", assistant_id=assistant_id, **counts)
    if not data.visits and not tasks:
        return nothing_to_ask("没有到店记录,也没有该助教的待办任务", references)
    facts: Facts = {
        "会员": member_facts.basics(data),
        "会员到店概况": member_facts.spending(data.visits),
        "助教": member_facts.assistant_basics(data, assistant_id),
        "服务关系": _relation(data, assistant_id),
        "服务按月": _by_month(data, assistant_id),
        "会员的助教分布": member_facts.assistant_shares(data.visits, _MOST_ASSISTANTS),
        "待办任务": tasks,
    }
    return prompt_of(AppType.ANALYSIS, task=_TASK, rules=_RULES, facts=facts, history=history, references=references)


def _relation(data: MemberData, assistant_id: int) -> dict[str, Any]:
    served = [visit for visit in data.visits if _serves(visit, assistant_id)]
    centihours = sum(_centihours(visit, assistant_id) for visit in served)
    all_centihours = sum(each.centihours for visit in data.visits for each in visit.assistants)
    return {
        "服务次数": len(served),
        "小时": hours(centihours),
        "助教费_元": yuan(sum(each.fee_fen for visit in served for each in visit.assistants if each.assistant_id == assistant_id)),
        "最早服务": iso(served[-1].business_date if served else None),
        "最近服务": iso(served[0].business_date if served else None),
        "占会员到店次数_%": percentage(len(served), len(data.visits)),
        "占会员助教小时_%": percentage(centihours, all_centihours),
        "服务近况": _recency(data, served[0].business_date if served else None),
    }


def _recency(data: MemberData, last_served: date | None) -> str:
    told = data.visit_range()
    if told is None:
        return "没有到店记录"
    if last_served is None:
        return f"{iso(told[0])} 至 {iso(told[1])} 没有服务记录"
    return _how_long_before(last_served, told[1])


def _how_long_before(last_served: date, last_visit: date) -> str:
    """Between two dates of the data, so that it stays the same until something happens."""
    days = (last_visit - last_served).days
    if days == 0:
        return "会员最近一次到店由该助教服务"
    for most_days, band in ((30, "30 天内"), (90, "31 至 90 天")):
        if days <= most_days:
            return f"最近服务在会员最近到店之前 {band}"
    return "最近服务在会员最近到店之前 90 天以上"


def _by_month(data: MemberData, assistant_id: int) -> list[Facts]:
    """The calendar months up to the member's newest visit; those without a session are there with 0, for they are the trend."""
    told = data.visit_range()
    if told is None:
        return []
    came: Counter[str] = Counter()
    sessions: Counter[str] = Counter()
    centihours: Counter[str] = Counter()
    for visit in data.visits:
        month = member_facts.month_of(visit.business_date)
        came[month] += 1
        sessions[month] += _serves(visit, assistant_id)
        centihours[month] += _centihours(visit, assistant_id)
    return [
        {"月份": month}
        | member_facts.part_of_month(month, *told)
        | {"会员到店次数": came[month], "服务次数": sessions[month], "小时": hours(centihours[month])}
        for month in member_facts.last_months(*told, _TREND_MONTHS)
    ]


def _serves(visit: Visit, assistant_id: int) -> bool:
    return any(served.assistant_id == assistant_id for served in visit.assistants)


def _centihours(visit: Visit, assistant_id: int) -> int:
    return sum(served.centihours for served in visit.assistants if served.assistant_id == assistant_id)
