"""What a call brings back: the text, how it ended, and what it cost.

No transport and no parsing of the text in here. Invariant: a count that DashScope did not report is `None` for the whole call, never
0, so that the budget settles at the estimate instead of booking a paid call as free.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, summed over all models that the application used; the total is > 0.

    A reply that reports nothing but a total has all of it in `input_tokens`.
    """

    input_tokens: int
    output_tokens: int
    model_ids: tuple[str, ...]

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Reply:
    """One answered call. `text` is empty when the model said nothing; `usage` is None when it was not reported."""

    text: str
    finish_reason: str | None
    usage: Usage | None
    session_id: str | None
    request_id: str | None
    latency_ms: int


def extract_usage(reported: object) -> Usage | None:
    """The usage out of any of DashScope's shapes (a `models` list, flat counts, dicts or objects), or None when it is not reported.

    A model without both counts makes the list incomplete; the flat counts are then tried, and without them the answer is None:
    half a sum would book less than was used. Never raises.
    """
    models = _field(reported, "models")
    rows = list(models) if isinstance(models, Iterable) and not isinstance(models, str | bytes | Mapping) else []
    model_ids = tuple(dict.fromkeys(name for row in rows if isinstance(name := _field(row, "model_id"), str) and name))
    counts = [(_count(row, "input_tokens"), _count(row, "output_tokens")) for row in rows]
    complete = [(inputs, outputs) for inputs, outputs in counts if inputs is not None and outputs is not None]
    if counts and len(complete) == len(counts):
        return _usage(sum(inputs for inputs, _ in complete), sum(outputs for _, outputs in complete), model_ids)
    return _flat_usage(reported, model_ids)


def _flat_usage(reported: object, model_ids: tuple[str, ...]) -> Usage | None:
    inputs, outputs, total = (_count(reported, name) for name in ("input_tokens", "output_tokens", "total_tokens"))
    if inputs is not None and outputs is not None:
        return _usage(inputs, outputs, model_ids)
    if total is None:
        return None
    known_outputs = min(outputs, total) if outputs is not None else max(total - inputs, 0) if inputs is not None else 0
    return _usage(total - known_outputs, known_outputs, model_ids)


def _usage(input_tokens: int, output_tokens: int, model_ids: tuple[str, ...]) -> Usage | None:
    return Usage(input_tokens, output_tokens, model_ids) if input_tokens + output_tokens > 0 else None


def _field(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _count(value: object, name: str) -> int | None:
    count = _field(value, name)
    if isinstance(count, bool) or not isinstance(count, int | float) or not 0 <= count < 2**53 or count != int(count):
        return None
    return int(count)
