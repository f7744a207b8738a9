"""JSON that others wrote, read so that it can be written again: whatever is in it, nothing is raised."""

import json
import math
from typing import Any

_DEEPEST = 50


def read_json(text: str | None) -> Any:
    """The value; None for nothing, and for what no JSON reader is sure to take (1e999, numbers of thousands of digits, endless nesting)."""
    if text is None:
        return None
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if _is_shallow(value, _DEEPEST) else None


def _is_shallow(value: Any, levels: int) -> bool:
    match value:
        case dict():
            return levels > 0 and all(_is_shallow(part, levels - 1) for part in value.values())
        case list():
            return levels > 0 and all(_is_shallow(part, levels - 1) for part in value)
        case _:
            return True


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _refuse(text: str) -> float:
    raise ValueError(text)
