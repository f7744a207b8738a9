"""Whether the numbers of an answer follow from the facts of its prompt.

Reads the numbers (`notation.py`), what the sentence says of them (`reading.py`, as `contexts.py` has it), and looks for a rule (`rules.py`) by
which they follow from the facts (`quantities.py`). Pure: no I/O, no model. What it cannot explain is listed, not judged: a reader decides.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from zqyy_ai.domain.number_check.notation import Token, Written
from zqyy_ai.domain.number_check.quantities import Facts, Quantities, quantities_of
from zqyy_ai.domain.number_check.reading import read
from zqyy_ai.domain.number_check.rules import Rule, contradicts_its_day, explain, explain_range_ends

__all__ = ["NUMBER_CHECK", "CheckedNumber", "NumberCheck", "Rule", "check_insights"]

# Where a result holds it, beside `_references`.
NUMBER_CHECK = "_number_check"


@dataclass(frozen=True, slots=True)
class CheckedNumber:
    """A number of a text: `text` stands at `start`..`end` of the field. `value` and `unit` as written, with 万 multiplied; None of a date.

    `paths`: the facts that it follows from, joined by what was calculated; empty for proposals and unexplained ones.
    """

    seq: int
    field: str
    text: str
    start: int
    end: int
    value: float | None
    unit: str
    rule: Rule
    paths: str


class NumberCheck:
    """The facts of one prompt, prepared once."""

    def __init__(self, facts: Facts) -> None:
        self._known: Quantities = quantities_of(facts)

    def insight(self, seq: int, title: str, body: str) -> list[CheckedNumber]:
        heard: list[str] = []
        return [*self._field(seq, "title", title, heard), *self._field(seq, "body", body, heard)]

    def _field(self, seq: int, field: str, text: str, heard: list[str]) -> list[CheckedNumber]:
        known = self._known
        if "数据期间" not in known.spans:
            return []
        found: dict[int, CheckedNumber] = {}

        def add(token: Token, rule: Rule, paths: str) -> None:
            found[token.start] = _checked(seq, field, text, token, rule, paths)

        for number in read(text, known, heard):
            if isinstance(number.token.payload, Written) and number.token.payload.is_plain_count:
                continue
            if number.range_end is not None:
                for end, (rule, paths) in zip((number.token, number.range_end), explain_range_ends(number, known), strict=True):
                    add(end, rule, paths)
                continue
            rule, paths = explain(number, known)
            add(number.token, rule, paths)
            told = number.context.date_told
            if rule is Rule.UNEXPLAINED and told is not None and told.context.extreme is None and contradicts_its_day(number, known):
                add(told.token, Rule.UNEXPLAINED, "")
        return [found[start] for start in sorted(found)]


def _checked(seq: int, field: str, text: str, token: Token, rule: Rule, paths: str) -> CheckedNumber:
    written = token.payload
    value, unit = (written.value, written.unit.value) if isinstance(written, Written) else (None, "")
    return CheckedNumber(seq, field, text[token.start : token.end], token.start, token.end, value, unit, rule, paths)


def check_insights(facts: Facts, insights: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What is stored with an answer: how many numbers were checked, and those that no rule explains, each with its place."""
    check = NumberCheck(facts)
    numbers = [number for insight in insights for number in check.insight(insight["seq"], insight["title"], insight["body"])]
    return {
        "checked": len(numbers),
        "unexplained": [
            {"seq": number.seq, "field": number.field, "text": number.text, "start": number.start, "end": number.end}
            for number in numbers
            if number.rule is Rule.UNEXPLAINED
        ],
    }
