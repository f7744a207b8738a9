"""The one way by which text that people wrote (names, notes, titles, and all that a model once made of them) gets into a prompt.

No prompt is put together here. Invariants of the result: no personal number, no character that is invisible or turns the reading direction,
none that could end a fence, a string or a line of the prompt, and never more than `longest` characters.
"""

import re
from functools import lru_cache

from zqyy_ai.domain.personal_numbers import mask_personal_numbers

CUT = "…（截断）"

# Controls, zero-width and bidi characters, fillers that show as nothing, variation selectors (except the emoji one, which a keycap digit has),
# surrogates, private use and tag characters: what no reader sees must not reach the model either.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ud800-\udfff\ue000-\uf8ff\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U000f0000-\U0010ffff]+"
)
_SPACES = re.compile(r"\s+")
# A quotation mark or a backslash would be written as two characters in JSON, so that a bounded text would not have a bounded length there.
_LOOK_ALIKES = str.maketrans({"<": "＜", ">": "＞", "`": "｀", '"': "＂", "\\": "＼"})
# Of a monstrous text only so much is read. Its end may be half a number, which nobody would know for one: it is dropped.
_TIMES_READ = 4
_DOUBTFUL_END = 64
_LONGEST_REMEMBERED = 300


def untrusted(text: str, longest: int) -> str:
    """The text as a prompt may hold it; empty when nothing readable is in it."""
    return _remembered(text, longest) if len(text) <= _LONGEST_REMEMBERED else _cleaned(text, longest)


def _cleaned(text: str, longest: int) -> str:
    most_read = longest * _TIMES_READ + _DOUBTFUL_END
    masked = mask_personal_numbers(_UNSEEN.sub("", _SPACES.sub(" ", text[:most_read])))
    if len(text) > most_read:
        masked = masked[:-_DOUBTFUL_END] + CUT
    safe = masked.translate(_LOOK_ALIKES).strip()
    return safe if len(safe) <= longest else safe[: longest - len(CUT)].rstrip() + CUT


# Masking is the dear part of a prompt, and a hall's names of tables, goods and people stand in hundreds of visits, a clue in several prompts of
# a chain.
_remembered = lru_cache(maxsize=4096)(_cleaned)
