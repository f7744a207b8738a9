"""App5, what an assistant can say: scripts for the open tasks, on the ground of App4's analysis."""

from collections.abc import Sequence

from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.members import MemberData
from zqyy_ai.prompts import member_facts
from zqyy_ai.prompts.member_prompt import VISIT_RANGE_RULE, Facts, FormerAnswer, MemberPrompt, answer_in_prompt, nothing_to_ask, prompt_of

_TASK = "你是台球连锁门店的资深助教教练。请只依据 <facts>,为这位助教写出联系或接待这位会员时可以直接说的话。"

_RULES = (
    VISIT_RANGE_RULE,
    "每个待办任务至少一条话术,scenario 写明用在什么任务、什么时机;没有待办任务时按“助教分析”和近期到店写日常维护的话术。",
    "script 是助教的原话,口语、真诚、有礼貌,称呼用会员姓名中的姓氏加“先生”“女士”(性别为 null 时用“您”),不用夸张的推销语气。",
    "话术里不许诺 facts 里没有的优惠、赠品、价格或时间,不打听隐私,不提及储值余额的具体数字,也不透露备注、分析或评分的存在。",
    "“助教分析”为 null 表示还没有分析,不要据此猜测两人的关系。",
)

_LONGEST_ANALYSIS = 2_000


def tactics_prompt(data: MemberData, assistant_id: int, *, analysis: FormerAnswer | None, history: Sequence[FormerAnswer]) -> MemberPrompt:
    tasks = member_facts.open_tasks(data, assistant_id)
    shown_analysis = None if analysis is None else answer_in_prompt(AppType.ANALYSIS, analysis, _LONGEST_ANALYSIS)
    references = member_facts.references(
        data,
        "members",
        "visits",
        "assistants",
        "tasks",
        assistant_id=assistant_id,
        **member_facts.open_task_counts(data, assistant_id),
        analysis_created_at=None if analysis is None else analysis.created_at.isoformat(),
    )
    if not data.visits and not tasks and shown_analysis is None:
        return nothing_to_ask("没有到店记录、该助教的待办任务和助教关系分析", references)
    facts: Facts = {
        "会员": member_facts.basics(data),
        "助教": member_facts.assistant_basics(data, assistant_id),
        "待办任务": tasks,
        "助教分析": shown_analysis,
        "近期到店": member_facts.visits_in_short(data),
    }
    return prompt_of(AppType.TACTICS, task=_TASK, rules=_RULES, facts=facts, history=history, references=references)
