"""App8, one list of clues: those that App3 read out of visits and App6 out of notes, merged, with who provided them."""

from typing import Any

from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.members import MemberData
from zqyy_ai.prompts.member_facts import LONGEST_NAME
from zqyy_ai.prompts.member_prompt import (
    Facts,
    FormerAnswer,
    MemberPrompt,
    clues_in_prompt,
    moment_text,
    nothing_to_ask,
    prompt_of,
    with_rest,
)
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
    sources = (
        _Source(AppType.CLUE, "到店记录", PROVIDER_OF_VISIT_CLUES, from_visits),
        _Source(AppType.NOTE, "备注", _note_writer(from_notes), from_notes),
    )
    used = [source.facts() for source in sources if source.clues]
    references = {
        "source": [source.app_type.value for source in sources],
        "site_id": data.site_id,
        "member_id": data.member_id,
        "clues": {source.app_type.value: source.references() for source in sources},
    }
    if not used:
        return nothing_to_ask("没有可整合的线索", references)
    return prompt_of(AppType.CONSOLIDATION, task=_TASK, rules=_RULES, facts={"来源": used}, history=(), references=references)


class _Source:
    """The clues of one application's answer, as far as the prompt has room for them."""

    def __init__(self, app_type: AppType, title: str, provider: str, answer: FormerAnswer | None) -> None:
        self.app_type = app_type
        self._title = title
        self._provider = provider
        self._created_at = None if answer is None else answer.created_at
        found = None if answer is None else clues_in_prompt(app_type, answer, _LONGEST_CLUES_OF_A_SOURCE)
        self.clues, self._count = found or ([], 0)

    def facts(self) -> Facts:
        return {
            "来源": self._title,
            "提供者": self._provider,
            "生成时间": None if self._created_at is None else moment_text(self._created_at),
            "线索": with_rest(self.clues, self._count),
        }

    def references(self) -> dict[str, Any]:
        return {
            "rows": len(self.clues),
            "left_out": self._count - len(self.clues),
            "created_at": None if self._created_at is None else self._created_at.isoformat(),
        }


def _note_writer(answer: FormerAnswer | None) -> str:
    """App6's `_references` name who wrote the note; other writers of the cache have none."""
    found: Any = None if answer is None else answer.result
    for key in ("_references", "note", "noted_by_name"):
        found = found.get(key) if isinstance(found, dict) else None
    return (untrusted(found, LONGEST_NAME) if isinstance(found, str) else "") or PROVIDER_OF_NOTES_WITHOUT_WRITER
