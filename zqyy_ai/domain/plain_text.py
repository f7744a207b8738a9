"""Text that is only text: no markup, no links, no escapes, no characters that can't be seen.

Personal numbers are `personal_numbers`' business, lengths those of who asks. Invariant: no `<`, no `>` and no link leaves here, and cleaning a
clean text changes nothing.
"""

import html
import re

from zqyy_ai.domain.personal_numbers import INVISIBLE

_FULL_WIDTH = str.maketrans(
    {code: chr(code - 0xFEE0) for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B), 0xFF0E, 0xFF0F)}
)
_SILENT_ELEMENTS = re.compile(r"<(script|style|iframe|svg|template|noscript)\b.*?(?:</\1[^<>]*>|\Z)", re.DOTALL | re.IGNORECASE)
_COMMENTS = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
# A name ends as in HTML, so that <A区均价 is arithmetic; where a tag begins in a tag, what is left may be one.
_TAGS = re.compile(r"</?(?:[!?]|[A-Za-z][A-Za-z0-9:\-]*+(?=[\s/<>]|\Z))[^<>]*>?")
_CODED = re.compile(r"(?:\\+u[0-9A-Fa-f]{4})+")
_BREAKS = re.compile(r"\\+[nrt]")
_IMAGES_AND_LINKS = re.compile(r"(!?)\[([^\[\]]*)\]\((?=[^()]*[A-Za-z./:#])(?:[^()]|\([^()]*\))*\)")
# An address goes on until something that no address holds: a space, a Chinese character, a quote.
_REST = r"[^\s\u2e80-\u9fff\uff00-\uffef\"'`<>「」“”（）]*"
_LABELS = r"(?<![A-Za-z0-9\-])[A-Za-z0-9\-]++(?:\.[A-Za-z0-9\-]++){0,10}"
_TOP_LEVELS = (
    "com|cn|net|org|top|xyz|cc|io|me|info|shop|site|club|link|ltd|app|dev|co|ru|hk|tw|ly|tv|store|online|fun|icu|live|tech|cloud|pro|biz|mobi"
    "|asia|ink"
)
_CHINESE_TOP_LEVELS = "(?:中国|中國|公司|网络|網絡|网址|网站|商城|商店|集团|在线|中文网)(?![\u4e00-\u9fff])"
_ADDRESSES = re.compile(
    rf"(?:java|vb|live)script\s*:{_REST}"
    rf"|(?<![A-Za-z])(?:data|mailto|tel|sms|blob|file)\s*:(?!\s){_REST}"
    rf"|(?<![A-Za-z])(?:https?|ftp|wss?)\s*:{_REST}"
    rf"|[A-Za-z][A-Za-z0-9+.\-]{{0,30}}:[/\\]{{2}}{_REST}"
    rf"|(?<![A-Za-z0-9:])[/\\]{{2}}(?=[A-Za-z0-9\-]+\.){_REST}"
    rf"|www\.{_REST}"
    rf"|{_LABELS}\.(?:{_TOP_LEVELS})(?![A-Za-z0-9]){_REST}"
    # Any other in small letters: KTV.VIP is a room.
    rf"|(?=[0-9\-]*[A-Za-z]){_LABELS}(?-i:\.[a-z]{{2,24}})(?![A-Za-z0-9]){_REST}"
    rf"|{_LABELS}\.{_CHINESE_TOP_LEVELS}{_REST}"
    rf"|{_LABELS}\.[A-Za-z]{{2,}}(?::[0-9]+)?/{_REST}"
    rf"|[0-9]{{1,3}}(?:\.[0-9]{{1,3}}){{3}}(?::[0-9]|/){_REST}",
    re.IGNORECASE,
)
# Where a name in Chinese begins nobody can tell: without its dot it is only words.
_DOT_OF_A_CHINESE_NAME = re.compile(rf"\.(?={_CHINESE_TOP_LEVELS})")
# Honest answers are far from both: their longest field has 400 characters.
_LONGEST = 4_000
_DEEPEST_NESTING = 8


def plain_text(text: str) -> str:
    """The text without markup, links and invisible characters, white space collapsed.

    Raises ValueError for a text that is far too long, or that goes on being markup.
    """
    if len(text) > _LONGEST:
        raise ValueError("the text is far too long")
    for _ in range(_DEEPEST_NESTING):
        cleaned = _cleaned_once(text)
        if cleaned == text:
            # What is left of these is arithmetic (消费<100元).
            return cleaned.replace("<", "＜").replace(">", "＞")
        text = cleaned
    raise ValueError("the text hides markup in markup")


def _cleaned_once(text: str) -> str:
    text = _BREAKS.sub(" ", _CODED.sub(_decoded, html.unescape(text)))
    text = INVISIBLE.sub("", text).translate(_FULL_WIDTH)
    for markup in (_COMMENTS, _SILENT_ELEMENTS, _TAGS):
        text = markup.sub("", text)
    text = _IMAGES_AND_LINKS.sub(lambda link: "" if link[1] else link[2], text)
    text = _DOT_OF_A_CHINESE_NAME.sub(" ", _ADDRESSES.sub("", text))
    return " ".join(text.split())


def _decoded(codes: re.Match[str]) -> str:
    """Without halves of surrogate pairs, which nothing can store."""
    return bytes.fromhex(re.sub(r"\\+u", "", codes[0])).decode("utf-16-be", "ignore")
