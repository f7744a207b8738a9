"""The numbers check of an answer, as the pages tell of it. Rows of other writers may hold anything in its place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zqyy_ai.domain.number_check import NUMBER_CHECK


@dataclass(frozen=True, slots=True)
class NumbersTold:
    """How many numbers were checked, and the places (`seq`, `field`, `start`, `end`) of those that no fact explains."""

    checked: int
    unexplained: list[Mapping[str, Any]]


def numbers_told(check: object) -> NumbersTold | None:
    """None where nothing was checked."""
    if not isinstance(check, Mapping) or not isinstance(check.get("checked"), int):
        return None
    places = check.get("unexplained")
    known = (
        [place for place in places if isinstance(place, Mapping) and {"seq", "field"} <= place.keys()] if isinstance(places, list) else []
    )
    return NumbersTold(check["checked"], known)


def numbers_of_answer(result: Mapping[str, Any]) -> NumbersTold | None:
    return numbers_told(result.get(NUMBER_CHECK))
