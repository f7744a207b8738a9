"""Output models of App3–App8, and the clues that they share.

These answers are made from what people wrote, so nothing passes that is not known: other fields are dropped, markup, links, invisible characters and
personal numbers are taken out of every string before its bounds are checked. An answer is paid: what can be cut without changing its
meaning is cut (more entries than asked for, symbols, names of providers); what would leave half a sentence refuses the answer.

The bounds are part of the prompts' schemas (`prompts/`). Invariant: validating raises `ValidationError` or nothing.
"""

import unicodedata
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints

from zqyy_ai.domain.answers import Answer
from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.personal_numbers import INVISIBLE, mask_personal_numbers
from zqyy_ai.domain.plain_text import plain_text

_LONGEST_EMOJI = 8
_LONGEST_PROVIDERS = 100
_MOST_CONSOLIDATED = 20
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_JOINERS = "\u200d\ufe0f"


class ClueCategory(StrEnum):
    BASICS = "客户基础"
    HABITS = "消费习惯"
    PLAY = "玩法偏好"
    PROMOTION = "促销偏好"
    SOCIAL = "社交关系"
    FEEDBACK = "重要反馈"


def _clean(value: Any) -> Any:
    return mask_personal_numbers(plain_text(value)) if isinstance(value, str) else value


def _clean_or_empty(value: Any) -> Any:
    return "" if value is None else _clean(value)


def _known_category(value: Any) -> ClueCategory:
    cleaned = _clean(value)
    return ClueCategory(cleaned) if isinstance(cleaned, str) and cleaned in set(ClueCategory) else ClueCategory.BASICS


def _only_symbols(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    kept = ""
    for character in value:
        is_symbol = (unicodedata.category(character) == "So" and not INVISIBLE.match(character)) or ord(character) in _SKIN_TONES
        if is_symbol or (kept and character in _JOINERS):
            kept += character
    return kept[:_LONGEST_EMOJI].rstrip("\u200d")


def _whole_names(value: Any) -> Any:
    """Names joined by 、, as many as fit."""
    if value is None:
        return ""
    names = value.split("、") if isinstance(value, str) else value
    if not isinstance(names, list):
        return value
    joined = ""
    for name in names:
        cleaned = _clean(name)
        if not isinstance(cleaned, str) or not cleaned:
            continue
        longer = f"{joined}、{cleaned}" if joined else cleaned
        if len(longer) > _LONGEST_PROVIDERS:
            break
        joined = longer
    return joined


def _not_a_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a score is a number")  # noqa: TRY004 - pydantic makes no ValidationError of a TypeError
    return value


def _first(most: int) -> Callable[[Any], Any]:
    return lambda value: value[:most] if isinstance(value, list) else value


def _first_of_each(value: Any) -> Any:
    """The first of several entries that say the same of the same category, as many as may be."""
    if not isinstance(value, list):
        return value
    kept: list[Any] = []
    said: set[tuple[ClueCategory, str]] = set()
    for entry in value:
        summary = _clean(entry.get("summary")) if isinstance(entry, dict) else None
        if isinstance(entry, dict) and isinstance(summary, str):
            key = (_known_category(entry.get("category")), summary)
            if key in said:
                continue
            said.add(key)
        kept.append(entry)
    return kept[:_MOST_CONSOLIDATED]


class MemberAnswer(Answer):
    """Common ground of these models: what is not known does not pass."""

    model_config = ConfigDict(extra="ignore")


class Clue(MemberAnswer):
    """What is worth knowing of a customer, in one line; an unknown category reads as 客户基础."""

    category: Annotated[ClueCategory, BeforeValidator(_known_category)] = ClueCategory.BASICS
    summary: Annotated[str, StringConstraints(min_length=2, max_length=60), BeforeValidator(_clean)]
    detail: Annotated[str, StringConstraints(max_length=300), BeforeValidator(_clean_or_empty)] = ""
    emoji: Annotated[str, StringConstraints(max_length=_LONGEST_EMOJI), BeforeValidator(_only_symbols)] = ""


class ClueAnswer(MemberAnswer):
    """App3."""

    clues: Annotated[list[Clue], Field(min_length=1, max_length=12), BeforeValidator(_first(12))]


Sentence = Annotated[str, StringConstraints(min_length=4, max_length=200), BeforeValidator(_clean)]


class AnalysisAnswer(MemberAnswer):
    """App4: the relation of an assistant and a member, and what to do about it."""

    task_description: Annotated[str, StringConstraints(min_length=4, max_length=300), BeforeValidator(_clean)]
    action_suggestions: Annotated[list[Sentence], Field(min_length=1, max_length=6), BeforeValidator(_first(6))]
    one_line_summary: Annotated[str, StringConstraints(min_length=4, max_length=80), BeforeValidator(_clean)]


class Tactic(MemberAnswer):
    """What to say, and when."""

    scenario: Annotated[str, StringConstraints(min_length=2, max_length=60), BeforeValidator(_clean)]
    script: Annotated[str, StringConstraints(min_length=8, max_length=400), BeforeValidator(_clean)]


class TacticsAnswer(MemberAnswer):
    """App5."""

    tactics: Annotated[list[Tactic], Field(min_length=1, max_length=8), BeforeValidator(_first(8))]


class NoteAnswer(MemberAnswer):
    """App6: what a note is worth (1–10), and the clues in it."""

    score: Annotated[int, Field(ge=1, le=10), BeforeValidator(_not_a_boolean)]
    clues: Annotated[list[Clue], Field(max_length=8), BeforeValidator(_first(8))]
    summary: Annotated[str, StringConstraints(max_length=200), BeforeValidator(_clean_or_empty)] = ""


class Strategy(MemberAnswer):
    """One way to keep a customer."""

    title: Annotated[str, StringConstraints(min_length=2, max_length=40), BeforeValidator(_clean)]
    content: Annotated[str, StringConstraints(min_length=8, max_length=400), BeforeValidator(_clean)]


class CustomerAnswer(MemberAnswer):
    """App7."""

    summary: Annotated[str, StringConstraints(min_length=8, max_length=400), BeforeValidator(_clean)]
    strategies: Annotated[list[Strategy], Field(min_length=1, max_length=6), BeforeValidator(_first(6))]


class ConsolidatedClue(Clue):
    """A clue, and who brought it: names joined by 、."""

    providers: Annotated[str, StringConstraints(max_length=_LONGEST_PROVIDERS), BeforeValidator(_whole_names)] = ""


class ConsolidationAnswer(MemberAnswer):
    """App8: all clues of a member, each once."""

    clues: Annotated[list[ConsolidatedClue], Field(max_length=_MOST_CONSOLIDATED), BeforeValidator(_first_of_each)]


_MODELS: dict[AppType, type[Answer]] = {
    AppType.CLUE: ClueAnswer,
    AppType.ANALYSIS: AnalysisAnswer,
    AppType.TACTICS: TacticsAnswer,
    AppType.NOTE: NoteAnswer,
    AppType.CUSTOMER: CustomerAnswer,
    AppType.CONSOLIDATION: ConsolidationAnswer,
}


def answer_model_of(app_type: AppType) -> type[Answer]:
    """The output model of App3–App8. Raises KeyError for the finance applications, whose model is `FinanceAnswer`."""
    return _MODELS[app_type]
