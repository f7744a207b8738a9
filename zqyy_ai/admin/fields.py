"""Types of fields that bodies share: bounded, so that nothing a caller sends reaches a query that can't take it."""

import json
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from zqyy_ai.admin.problems import Problem

LARGEST_ID = 2**63 - 1


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("不能含有 NUL 字符")
    return text


Id = Annotated[int, Field(ge=1, le=LARGEST_ID)]
Text = Annotated[str, AfterValidator(_storable)]
Name = Annotated[Text, Field(min_length=1, max_length=200)]
Reason = Annotated[Text, Field(max_length=500)]


def refuse_unstorable(payload: dict[str, Any], field: str, largest_bytes: int) -> None:
    """Raises Problem 422 for JSON that PostgreSQL's jsonb can't hold, or that is too large. Python reads more than JSON is."""
    try:
        text = json.dumps(payload, ensure_ascii=False, allow_nan=False)
        size_bytes = len(text.encode())
    except (ValueError, RecursionError):
        raise invalid_field(field, "含有无法保存的内容（嵌套过深、非数值或不完整的字符）") from None
    if "\\u0000" in text:
        raise invalid_field(field, "不能含有 NUL 字符")
    if size_bytes > largest_bytes:
        raise invalid_field(field, f"超过 {largest_bytes // 1024} KiB")


def invalid_field(field: str, message: str) -> Problem:
    """The same answer that a body's own validation gives."""
    return Problem(422, f"{field}：{message}", errors=[{"field": field, "message": message}])
