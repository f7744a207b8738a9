"""From the model's text to an application's answer: JSON, repaired only when the text is finished, then the output model.

Invariant: what leaves here fits the model and can be stored as `jsonb`; everything else is a `ReplyInvalid` that carries the usage. Its
message says where the text does not fit, never what it says.
"""

import json
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from zqyy_ai.llm.errors import ReplyInvalid
from zqyy_ai.llm.replies import Reply

FINISHED = "stop"
_FENCED = re.compile(r"```[A-Za-z]*\s*\n(.*?)```", re.DOTALL)
# A whole string, one that is cut short (with all that follows), or anything but a bracket.
_OUTSIDE_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\Z)|[^"{}\[\]]+', re.DOTALL)
_MOST_FAULTS_NAMED = 5


A = TypeVar("A", bound=BaseModel)


def parse_reply(reply: Reply, model: type[A]) -> A:
    """The answer in a reply's text. Raises ReplyInvalid.

    An unfinished text is refused even where it happens to be valid JSON: json-repair completes truncated output without a word, and
    a list cut between two entries looks whole. A workflow says `stop` of itself, also when the model inside it was cut short; so what
    needs repair must at least have been closed by the model.
    """
    if reply.finish_reason != FINISHED:
        raise _invalid(reply, "reply_unfinished", "the model's text is not finished")
    if not reply.text.strip():
        raise _invalid(reply, "reply_empty", "the model's text is empty")
    try:
        value = _json_value(reply.text)
    except _CutShort:
        raise _invalid(reply, "reply_unfinished", "the model's JSON was begun and not closed") from None
    if not isinstance(value, dict):
        raise _invalid(reply, "reply_not_json", "the model's text holds no JSON object")
    if not _can_be_stored(value):
        raise _invalid(reply, "reply_invalid", "the model's JSON holds a number or a character that the database cannot store")
    try:
        return model.model_validate(value)
    except ValidationError as misfit:
        faults = [f"{_place(fault['loc'])} {fault['type']}" for fault in misfit.errors(include_url=False, include_input=False)]
    raise _invalid(reply, "reply_invalid", f"the model's JSON does not fit {model.__name__}: {', '.join(faults[:_MOST_FAULTS_NAMED])}")


class _CutShort(Exception):
    """The text ends inside its JSON."""


def _json_value(text: str) -> Any:
    """The JSON in the text, repaired if need be; None when there is none. Raises _CutShort."""
    fenced = _FENCED.search(text)
    for candidate in (text, fenced.group(1)) if fenced else (text,):
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    faulty = fenced.group(1) if fenced else text
    if not _is_closed(faulty):
        raise _CutShort
    from json_repair import loads as repaired

    try:
        return repaired(faulty)
    except (ValueError, RecursionError):
        return None


def _is_closed(text: str) -> bool:
    """Whether each bracket from the first `{` on is closed, those in double quotes left aside. Stray quotes err towards "no"."""
    depth = 0
    for bracket in _OUTSIDE_STRINGS.sub("", text[text.find("{") :] if "{" in text else ""):
        depth += (bracket in "{[") - (bracket in "]}")
    return depth <= 0


def _can_be_stored(value: dict[str, Any]) -> bool:
    try:
        return b"\\u0000" not in json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return False


def _place(location: tuple[int | str, ...]) -> str:
    """A fault's place; a key that the model made up is part of its text and is not repeated."""
    names = (
        str(part) if isinstance(part, int) or (part.isascii() and part.isidentifier() and len(part) <= 40) else "…" for part in location
    )
    return ".".join(names) or "(whole)"


def _invalid(reply: Reply, error_code: str, what: str) -> ReplyInvalid:
    return ReplyInvalid(
        f"Reading DashScope's reply: {what}; {ReplyInvalid.advice}", error_code=error_code, request_id=reply.request_id, usage=reply.usage
    )
