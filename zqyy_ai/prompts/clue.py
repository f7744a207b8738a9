"""App3, the customer's clues: the member's visits in full detail, as far as the budget of characters reaches, the older ones by month."""

from collections.abc import Sequence
from datetime import timedelta

from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.members import MemberData
from zqyy_ai.prompts import member_facts
from zqyy_ai.prompts.member_prompt import (
    PART_OF_MONTH_RULE,
    VISIT_RANGE_RULE,
    Facts,
    FormerAnswer,
    MemberPrompt,
    fitting,
    nothing_to_ask,
    prompt_of,
)

LONGEST_VISITS = 12_000
"""Characters of JSON that the visits in full detail may take: some 25 to 40 usual visits."""

_TASK = "你是台球连锁门店的客户研究员。请只依据 <facts> 中这位会员的到店明细,提炼店员下次接待或联系客户时用得上的线索。"

_RULES = (
    VISIT_RANGE_RULE,
    PART_OF_MONTH_RULE,
    (
        "category 按内容选:客户基础(身份、等级、余额、到店概况)、消费习惯(时段、频次、消费水平、常点商品)、玩法偏好(球种、区域、是否约助教)、"
        "促销偏好(对优惠的反应)、社交关系(同行人数、固定助教)、重要反馈(明显的变化或异常)。"
    ),
    "summary 用一句短语说出线索本身,不带表情;detail 给出依据的日期与数字;emoji 给一个与内容相符的表情,没有合适的就留空。",
    "一次性的情况不当作习惯,至少两次到店支持才写成偏好或习惯;“较早到店按月汇总”只用来看长期变化。",
)


def clue_prompt(data: MemberData, *, history: Sequence[FormerAnswer]) -> MemberPrompt:
    visits = data.visits
    references = member_facts.references(data, "members", "visits")
    if not visits:
        return nothing_to_ask("没有到店记录", references)
    in_full = fitting((member_facts.visit_in_full(visit) for visit in visits), LONGEST_VISITS)
    facts: Facts = {
        "会员": member_facts.basics(data),
        "到店概况": member_facts.spending(visits) | {"逐次列出的次数": len(in_full), "只按月汇总的次数": len(visits) - len(in_full)},
        "逐次到店": in_full,
        "较早到店按月汇总": _older_by_month(data, len(in_full)),
    }
    references["visits"] |= {"in_full": len(in_full), "by_month": len(visits) - len(in_full)}
    return prompt_of(AppType.CLUE, task=_TASK, rules=_RULES, facts=facts, history=history, references=references)


def _older_by_month(data: MemberData, in_full: int) -> list[Facts]:
    """All visits but the newest `in_full`, of which the first month may be the rest of one that is told in full."""
    newer, older = data.visits[:in_full], data.visits[in_full:]
    told = data.visit_range()
    if told is None or not older:
        return []
    last = older[0].business_date
    if newer:
        last = max(last, newer[-1].business_date - timedelta(days=1))
    return member_facts.months(older, first=told[0], last=last, with_favourites=True)
