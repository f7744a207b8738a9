"""JSON that others wrote, read so that it can be written again: whatever is in it, nothing is raised."""

import json
import math
from typing import Any


def read_json(text: str | None) -> Any:
    """The value; None for nothing, and for what no JSON reader is sure to take (1e999, numbers of thousands of digits, endless nesting)."""
    if text is None:
        return None
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _refuse(text: str) -> float:
    raise ValueError(text)
