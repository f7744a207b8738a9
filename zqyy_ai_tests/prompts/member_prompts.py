"""The six member prompts behind one call, for what holds of each of them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.members import MemberData, Note
from zqyy_ai.prompts.analysis import analysis_prompt
from zqyy_ai.prompts.clue import clue_prompt
from zqyy_ai.prompts.consolidation import consolidation_prompt
from zqyy_ai.prompts.customer import customer_prompt
from zqyy_ai.prompts.member_prompt import FormerAnswer, MemberPrompt
from zqyy_ai.prompts.note import note_prompt
from zqyy_ai.prompts.tactics import tactics_prompt
from zqyy_ai_tests.prompts import members

MEMBER_APPS = (AppType.CLUE, AppType.ANALYSIS, AppType.TACTICS, AppType.NOTE, AppType.CUSTOMER, AppType.CONSOLIDATION)

ANSWERS: dict[AppType, dict[str, Any]] = {
    AppType.CLUE: members.CLUES,
    AppType.ANALYSIS: members.ANALYSIS,
    AppType.TACTICS: members.TACTICS,
    AppType.NOTE: members.NOTE_ANSWER,
    AppType.CUSTOMER: members.CUSTOMER,
    AppType.CONSOLIDATION: members.CONSOLIDATED,
}


def prompt_for(
    app: AppType,
    data: MemberData,
    *,
    note: Note | None = None,
    answers: dict[AppType, dict[str, Any]] = ANSWERS,
    history: Sequence[FormerAnswer] = (),
    assistant_id: int = members.ASSISTANT_ID,
) -> MemberPrompt:
    """The prompt of one application; `answers` are what the applications before it have said."""
    match app:
        case AppType.CLUE:
            return clue_prompt(data, history=history)
        case AppType.ANALYSIS:
            return analysis_prompt(data, assistant_id, history=history)
        case AppType.TACTICS:
            return tactics_prompt(data, assistant_id, analysis=members.former(answers[AppType.ANALYSIS]), history=history)
        case AppType.NOTE:
            note = note or data.newest_note
            assert note is not None
            return note_prompt(data, note, history=history)
        case AppType.CUSTOMER:
            return customer_prompt(data, consolidation=members.former(answers[AppType.CONSOLIDATION]), history=history)
        case AppType.CONSOLIDATION:
            return consolidation_prompt(
                data,
                from_visits=members.former(answers[AppType.CLUE]),
                from_notes=members.former(answers[AppType.NOTE], hours_later=1),
            )
        case _:
            raise AssertionError(app)


def text_of(prompt: MemberPrompt) -> str:
    assert prompt.text is not None, prompt.nothing_to_ask
    return prompt.text


def facts_in(prompt: MemberPrompt) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(text_of(prompt).partition("<facts>\n")[2].partition("\n</facts>")[0])
    return facts


def changed_texts(value: Any, change: Callable[[str], str]) -> Any:
    """The value with every text in it changed, except an area's, which is a name of ours."""
    if isinstance(value, str):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: changed_texts(getattr(value, f.name), change) for f in fields(value) if f.name != "area"})
    if isinstance(value, tuple | list):
        return type(value)(changed_texts(entry, change) for entry in value)
    if isinstance(value, dict):
        return {key: changed_texts(entry, change) for key, entry in value.items()}
    return value
