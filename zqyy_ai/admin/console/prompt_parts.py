"""A prompt in its parts, as `prompts/` puts it together: what is asked, the schema of the answer, the facts, the history."""

import re
from dataclasses import dataclass

_DATA = re.compile(r"^<(facts|history)>\n(.*?)\n</\1>$", re.DOTALL | re.MULTILINE)
_SCHEMA = re.compile(r"^JSON Schema:(\{.*)$", re.MULTILINE)
_TITLES = {"facts": "事实数据（facts）", "history": "历史回答（history）"}


@dataclass(frozen=True, slots=True)
class PromptPart:
    """`is_json`: to be shown indented; `is_folded`: of interest only now and then."""

    title: str
    text: str
    is_json: bool
    is_folded: bool


def parts_of(prompt: str) -> list[PromptPart]:
    """Facts first, because they are what an answer is held against; a prompt of another form is one part."""
    data = [PromptPart(_TITLES[found[1]], found[2], is_json=True, is_folded=False) for found in _DATA.finditer(prompt)]
    asked = _DATA.sub("", prompt)
    schema = _SCHEMA.search(asked)
    if schema:
        asked = asked.replace(schema[0], "")
    parts = [*data, PromptPart("要求", asked.strip(), is_json=False, is_folded=bool(data))]
    if schema:
        parts.append(PromptPart("回答的 JSON Schema", schema[1], is_json=True, is_folded=True))
    return parts
