"""What the text says of one number: the shape that the reading fills and the rules ask.

Invariant: a context holds what the text says, never what the facts hold.
"""

from dataclasses import dataclass, field

from zqyy_ai.domain.number_check.notation import REVENUE, Token
from zqyy_ai.domain.number_check.quantities import Days


@dataclass(frozen=True, slots=True)
class Point:
    """Whose value it is."""

    role: str
    area: str
    days: Days = None


@dataclass(slots=True)
class Context:
    """What the text says of one number, or of a date.

    `metrics` and `points`: what it may be about, the likeliest first. `against`: what it is compared with, where that is said. `sign`: of the
    word for a direction. `bases`: metrics and areas that it is a share of. `parts`, `areas`, `all_days`: everything that the sentence named up
    to here. `extreme`: 1 for 最高, -1 for 最低. `is_than_object`: it is the value of what is compared with (高于对比期的 47.2%). `is_ratio`: it is
    told as a multiple of `against`. `date_told`: the date that it stands beside.
    """

    metrics: list[str]
    points: list[Point]
    against: list[Point] = field(default_factory=list)
    sign: int | None = None
    moves: bool = False
    moves_to: bool = False
    is_share: bool = False
    bases: list[str] = field(default_factory=list)
    averages: bool = False
    extreme: int | None = None
    has_extreme_in_sentence: bool = False
    sums: bool = False
    parts: list[str] = field(default_factory=list)
    areas: list[str] = field(default_factory=list)
    all_days: list[Days] = field(default_factory=list)
    has_gap: bool = False
    in_advice: bool = False
    is_target: bool = False
    is_from: bool = False
    is_pace: bool = False
    compares: bool = False
    date_token: Token | None = None
    until: bool = False
    dates_told: int = 1
    role_said: str | None = None
    is_than_object: bool = False
    names_metric: bool = False
    single_day: bool = False
    beside_average: bool = False
    is_ratio: bool = False
    date_told: "ReadNumber | None" = None


@dataclass(frozen=True, slots=True)
class ReadNumber:
    """A number or a date with its context; `range_end` is the second date of `4月1日至4月20日`."""

    token: Token
    context: Context
    range_end: Token | None = None


def names_of(metrics: list[str]) -> list[str]:
    """The facts' metrics that those of a context may be, the likeliest first: 收入 alone may be the net or the gross."""
    return ["净收入", "毛收入"] if metrics[:1] == [REVENUE] else metrics
