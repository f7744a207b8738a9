"""App8, one list of clues: those that App3 read out of visits and App6 out of notes, merged, with who provided them."""

from typing import Any

from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.members import MemberData
from zqyy_ai.prompts.member_facts import LONGEST_NAME
from zqyy_ai.prompts.member_prompt import Facts, FormerAnswer, MemberPrompt, answer_in_prompt, moment_text, nothing_to_ask, prompt_of
from zqyy_ai.prompts.untrusted_text import untrusted

PROVIDER_OF_VISIT_CLUES = "系统"
PROVIDER_OF_NOTES_WITHOUT_WRITER = "店员"

_TASK = "你是台球连锁门店的客户资料编辑。请把 <facts> 中两个来源的会员线索整合为一份不重复的清单,供店员查看。"

_RULES = (
    "说的是同一件事的线索合并成一条,保留更具体的说法;只是相近而各有内容的分开保留,不要丢掉任何一件事。",
    "互相矛盾时以“生成时间”较新的来源为准,并在 detail 里说明旧说法及其日期。",
    "providers 写这条线索的提供者;由两个来源合并而来的写两者,用“、”隔开。不要编造提供者。",
    "不新增来源里没有的线索;category、summary、detail、emoji 的意思不变,summary 不带表情。“重要反馈”排在最前。",
)

_LONGEST_CLUES_OF_A_SOURCE = 6_000


def consolidation_prompt(data: MemberData, *, from_visits: FormerAnswer | None, from_notes: FormerAnswer | None) -> MemberPrompt:
    """`from_visits` is an answer of App3, `from_notes` one of App6, of this chain or the last valid one; None where there is none."""
    sources = [
        _source(AppType.CLUE, "到店记录", PROVIDER_OF_VISIT_CLUES, from_visits),
        _source(AppType.NOTE, "备注", _note_writer(from_notes), from_notes),
    ]
    used = [source for source in sources if source["线索"]]
    references = {
        "source": ["app3_clue", "app6_note"],
        "site_id": data.site_id,
        "member_id": data.member_id,
        "clues": {
            "app3_clue": {"rows": len(sources[0]["线索"]), "created_at": _iso(from_visits)},
            "app6_note": {"rows": len(sources[1]["线索"]), "created_at": _iso(from_notes)},
        },
    }
    if not used:
        return nothing_to_ask("没有可整合的线索", references)
    return prompt_of(AppType.CONSOLIDATION, task=_TASK, rules=_RULES, facts={"来源": used}, history=(), references=references)


def _source(app_type: AppType, title: str, provider: str, answer: FormerAnswer | None) -> Facts:
    shown = None if answer is None else answer_in_prompt(app_type, answer, _LONGEST_CLUES_OF_A_SOURCE)
    return {
        "来源": title,
        "提供者": provider,
        "生成时间": None if answer is None else moment_text(answer.created_at),
        "线索": [] if shown is None else shown["clues"],
    }


def _note_writer(answer: FormerAnswer | None) -> str:
    """App6's `_references` name who wrote the note; other writers of the cache have none."""
    found: Any = None if answer is None else answer.result
    for key in ("_references", "note", "noted_by_name"):
        found = found.get(key) if isinstance(found, dict) else None
    return (untrusted(found, LONGEST_NAME) if isinstance(found, str) else "") or PROVIDER_OF_NOTES_WITHOUT_WRITER


def _iso(answer: FormerAnswer | None) -> str | None:
    return None if answer is None else answer.created_at.isoformat()
