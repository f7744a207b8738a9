"""Reading of the facts in a prompt, whatever their shape: what is not there, or of another kind, is None, empty or no rows.

Invariant: a number is given as the text that the facts have.
"""

import json
from typing import Any

Facts = dict[str, Any]


def value_at(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def rows_at(value: Any, *path: str) -> list[Facts]:
    rows = value_at(value, *path)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def number_at(value: Any, *path: str) -> str | None:
    found = value_at(value, *path)
    return json.dumps(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def text_at(value: Any, *path: str) -> str:
    found = value_at(value, *path)
    return found if isinstance(found, str) else ""
