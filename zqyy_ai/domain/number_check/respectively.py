"""分别: what stands before it, in order, has the numbers that follow it, in the same order."""

from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from zqyy_ai.domain.number_check.contexts import Context
from zqyy_ai.domain.number_check.notation import CURRENT, Kind, Token
from zqyy_ai.domain.number_check.periods import days_named, role_named
from zqyy_ai.domain.number_check.quantities import Quantities

_KINDS = (Kind.AREA, Kind.DAYS_OF_WEEK, Kind.METRIC, Kind.DATE, Kind.ROLE)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose one of the numbers after 分别 is: the payload of an area's, metric's, period's or days of the week's token; of a date its days."""

    kind: Kind
    payload: Any

    def take(self, context: Context, known: Quantities) -> None:
        """The number is this one's alone, whatever else is named near it."""
        point = context.points[0]
        match self.kind:
            case Kind.AREA:
                context.points = [replace(point, area=self.payload)]
            case Kind.DAYS_OF_WEEK | Kind.DATE:
                context.points = [replace(point, days=self.payload)]
            case Kind.METRIC:
                context.metrics = [self.payload]
            case _:
                context.points = [replace(point, role=role_named(self.payload, known) or CURRENT)]


def owners_of(sentence: list[Token], at: Token, month: int | None, known: Quantities) -> list[Owner]:
    """As many as numbers follow 分别 (the token `at`); all of one kind. Empty where no two of a kind are named.

    `month`: of a date that names none.
    """
    before = [token for token in sentence if token.end <= at.start]
    after = [token for token in sentence if token.start >= at.end]
    last_number = max((index for index, token in enumerate(before) if token.kind is Kind.NUMBER), default=-1)
    # 最高的两天分别为4月18日和4月11日: only dates are named after the word.
    for where, kinds in ((before[last_number + 1 :], _KINDS), (_up_to_number(after), (Kind.DATE,)), (before, _KINDS)):
        for kind in kinds:
            named = _named(where, kind)
            if len(named) >= 2:
                chosen = named[-_count_of_numbers(after) :]
                return [Owner(kind, days_named(token.payload, month, known)[0] if kind is Kind.DATE else token.payload) for token in chosen]
    return []


def _named(tokens: list[Token], kind: Kind) -> list[Token]:
    """Without a metric after a share word: 占毛收入 names a whole."""
    return [
        token
        for index, token in enumerate(tokens)
        if token.kind is kind and not (kind is Kind.METRIC and index and tokens[index - 1].kind is Kind.SHARE)
    ]


def _up_to_number(tokens: list[Token]) -> list[Token]:
    return list(takewhile(lambda token: token.kind is not Kind.NUMBER, tokens))


def _count_of_numbers(tokens: list[Token]) -> int:
    """Up to the next semicolon."""
    same_half = takewhile(lambda token: token.kind is not Kind.BREAK or token.payload < 2, tokens)
    return sum(token.kind is Kind.NUMBER for token in same_half)
