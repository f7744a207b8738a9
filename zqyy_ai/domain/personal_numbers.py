"""Phone, id-card, bank-card, WeChat and QQ numbers in a text, each replaced by a placeholder that says what stood there.

Names, addresses and links are no numbers and are not looked for here. Invariants: what is no personal number stays byte for byte; the result is
a fixed point; the time is linear in the text's length, whatever the text is (every repetition is bounded, possessive or starts at a word).

The search runs on a shadow of the text, one character for one: invisible characters taken out, letters in lower case, each digit of any script as
0-9. Digits that also are words or list marks (一, ①, keycaps) become the private characters `_WORDY`, because 13800138000一直打不通 and
①13800138000 hold a whole number, while 113800138000 does not.
"""

import re
import unicodedata

MOBILE = "[手机号]"
PHONE = "[电话号码]"
ID_CARD = "[身份证号]"
BANK_CARD = "[银行卡号]"
WECHAT = "[微信号]"
QQ = "[QQ号]"

# Characters that show nothing of their own and may stand inside a number: controls, format and bidi marks, combining marks, variation selectors,
# fillers and blanks, tags, the frame of a keycap.
INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u0300-\u036f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u20d0-\u20ff\u2800\u3164\ufe00-\ufe0f\ufe20-\ufe2f\ufeff\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_KEYCAP = "\u20e3"
_FIRST_WORDY = 0xE000
_WORDY = "\ue000-\ue009"
_CHINESE_DIGITS = {
    character: value
    for value, characters in enumerate(
        ("零〇○洞", "一壹弌幺", "二贰貳弍两", "三叁參参弎", "四肆", "五伍", "六陆陸", "七柒拐", "八捌", "九玖勾")
    )
    for character in characters
}
_DOTS = frozenset("·•・‧∙⋅●。｡")
_QUOTES = frozenset("“”‘’「」『』【〖《")
_ARROWS = frozenset("→➡⇒➜➔☞👉")
# Beside Chinese digits 么 is 幺 without its stroke; elsewhere (怎么, 什么) it is a word.
_CHINESE_DIGIT = "[" + "".join(_CHINESE_DIGITS) + "]"
_UNSTRUCK_ONES = re.compile(f"(?<![么麽])[么麽]++(?={_CHINESE_DIGIT})|(?<={_CHINESE_DIGIT})[么麽]++")
_MOST_REMEMBERED = 50_000


class _Shadow(dict[int, str]):
    """A table for `str.translate` that fills itself; bounded, because what is looked up comes from outside."""

    def __missing__(self, code: int) -> str:
        shadow = _shadow_of(chr(code))
        if len(self) < _MOST_REMEMBERED:
            self[code] = shadow
        return shadow


def _shadow_of(character: str) -> str:
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    value = unicodedata.digit(character, None)
    plain = unicodedata.normalize("NFKC", character)
    if value is None:
        value = _CHINESE_DIGITS.get(plain)
    if value is not None:
        return chr(_FIRST_WORDY + value)
    if character in _DOTS:
        return "."
    if character in _QUOTES:
        return '"'
    if character in _ARROWS:
        return ">"
    if character == "➕":
        return "+"
    category = unicodedata.category(character)
    if category == "Co":
        return "\ufffd"  # so that nobody else's private characters are taken for ours
    if category == "Zs":
        return " "
    if category == "Pd" or plain == "\u2212":
        return "-"
    plain = plain.lower()
    return plain if len(plain) == 1 else character


_SHADOW = _Shadow()


def _digit(values: str = "0123456789") -> str:
    return "[" + values + "".join(chr(_FIRST_WORDY + int(value)) for value in values) + "]"


D = _digit()
_SEPARATOR = r"[ \-._*~()]"
S = f"{_SEPARATOR}{{1,3}}"
J = f"{_SEPARATOR}{{0,3}}"
# A number in Arabic digits ends where they end; a wordy digit beside it belongs to the sentence.
_FROM = f"(?:(?<![0-9])|(?=[{_WORDY}]))"
_TO = f"(?:(?<=[{_WORDY}])|(?![0-9]))"
_NO_UNIT = "(?! ?(?:元|块|分|圆|人|个|次|折|万|%))"
# What may stand between a word like 微信 and the number: never `]`, so that a placeholder introduces nothing.
_LINK = "(?:[ :=,.(\"'\\-@>|;/]|号码|号|账户|账号|帐号|昵称|名字|名|id|是|为|叫做|叫|加|搜|也|就|同|的|他|她|我|群|联系|,|、|卡){0,8}"
_DATE = "(?:19|20)[0-9]{2}[-./年 ]?[01]?[0-9][-./月 ]?[0-3]?[0-9]"

# Opening hours (1930-2130) and dates have the digits of numbers, and stand behind prices and table numbers (168 20260420, +100 2026-04-20).
_CLOCK = "(?:[01][0-9]|2[0-4])(?:[0-5]0|[1-4]5|59)"
_HOURS = f"{_CLOCK} ?(?:- ?{_CLOCK}(?![0-9-])|~ ?{_CLOCK}(?![0-9~]))"
_MONTH_AND_DAY = "(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
_DAY_OF_YEAR = "|".join(f"{mark}(?:0?[1-9]|1[0-2]){mark}(?:0?[1-9]|[12][0-9]|3[01])" for mark in ("-", r"\.", "/"))
_DAY_ON_CALENDAR = (
    f"(?:(?:19|20)[0-9]{{2}}(?:{_DAY_OF_YEAR})|20[0-9]{{2}}{_MONTH_AND_DAY}|(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])(?!-))(?![0-9])"
)
# The children of the twenties have no card yet: 128800 20260420 1930 is no id.
_ID_OF_THE_YOUNG = f"[1-8][0-9]{{5}}[ .]20[01][0-9]{_MONTH_AND_DAY}{J}{D}{{3}}(?:{D}|[x×])"
# Two of these have ten digits at most, so they are no number before a date.
_TWO_AMOUNTS = r"(?:\+? ?[0-9]{1,5}(?:\.[0-9]{1,2})?[ .]){2}"
_AMOUNT = r"\+? ?[0-9]{1,6}(?:\.[0-9]{1,2})?[ .]"
_NO_TIMETABLE = f"(?!(?!{_ID_OF_THE_YOUNG})\\(?(?:{_TWO_AMOUNTS}|{_AMOUNT})?(?:{_DAY_ON_CALENDAR}|{_HOURS}))"
# Behind a number in groups: its last group is no price, no year of a date, no beginning of opening hours.
_NO_PRICE = (
    "(?! ?(?:元(?![旦宵])|块|分(?![店享期给别组])|折|%)"
    f"|(?<=(?:19|20)[0-9][0-9])(?:年|(?:{_DAY_OF_YEAR})(?![0-9]))|(?<={_CLOCK})[-~]{_CLOCK}(?![0-9]))"
)

_ONE, _FROM_3 = _digit("1"), _digit("3456789")
_MOBILE = (
    f"{_FROM}(?:\\(?(?:\\+ ?|00)?86{J}|0)?(?:{_ONE}{_FROM_3}{D}{{9}}{_TO}|(?:"
    # Groups of at least three digits: 138 0013-8000; scores and days are shorter.
    f"{_ONE}{_FROM_3}(?:(?:(?<={D}{{3}}){S}(?={D}{{3}}))?{D}){{9}}"
    f"|{_ONE}(?P<between>{S}|[:+|/,、#&=]){_FROM_3}(?:(?P=between){D}){{9}}"
    f"|{_ONE}{_FROM_3}{D}(?P<pairs>{S}){D}{D}(?:(?P=pairs){D}{D}){{3}}"
    f"|{_ONE}{_FROM_3}{D}(?P<tail>{S}){D}(?:(?P=tail){D}){{7}}"
    # 1-380-0138-000, 13-8001-38000; apart by spaces these are a table and prices.
    f"|(?={D}{{1,2}}(?P<odd>[\\-._*~]{{1,3}})){_ONE}(?:(?P=odd)(?={D}{{3}}))?{_FROM_3}(?:(?:(?P=odd)(?={D}{{3}}))?{D}){{9}}"
    f"|{_ONE} {_FROM_3}{D}{{9}}"
    # Marks that prices and sums stand apart by, unless a group begins as no price does.
    f"|{_ONE}{_FROM_3}{D}(?P<mark>[:|])(?!{_CLOCK}(?P=mark)){D}{{4}}(?P=mark){D}{{4}}"
    f"|{_ONE}{_FROM_3}{D}(?P<listed>[+/,、#&=])(?!{_CLOCK}(?P=listed){_CLOCK})"
    f"(?={_digit('0')}|{D}{{4}}(?P=listed){_digit('0')}){D}{{4}}(?P=listed){D}{{4}}"
    f"){_TO}{_NO_PRICE})"
)
_AREA_CODE = f"(?:{_ONE}{_digit('0')}|{_digit('2')}{D}|{_FROM_3}{D}{D})"
_LANDLINE = (
    f"{_FROM}(?:(?:\\((?={D}{{3,4}}\\)))?{_digit('0')}|\\(?(?:\\+ ?|00)?86{J}0?){_AREA_CODE}{J}{_digit('23456789')}{D}{{2,3}}{J}{D}{{4}}{_TO}"
    f"{_NO_PRICE}(?:{J}(?:转|分机|ext){J}{D}{{1,6}}|-[0-9]{{1,5}}(?![0-9]))?"
    f"|{_FROM}{_digit('0')}(?P<apart>{S}){D}(?:(?P=apart){D}){{8,10}}{_TO}"
)
# These may be prices in a row.
_SERVICE = f"{_FROM}{_digit('48')}{_digit('0')}{{2}}(?:{J}{D}{{3}}{J}{D}{{4}}|{J}{D}{{4}}{J}{D}{{3}}){_TO}{_NO_UNIT}{_NO_PRICE}"
_ABROAD = f"(?<![0-9)\\]])(?:\\+ ?|00(?=852|853|886)){_digit('123456789')}(?:{J}{D}){{9,13}}{_TO}{_NO_PRICE}"

_MONTH = f"(?:{_digit('0')}{J}{_digit('123456789')}|{_ONE}{J}{_digit('012')})"
_DAY = f"(?:{_digit('012')}{J}{D}|{_digit('3')}{J}{_digit('01')})"
_ID_CARD = (
    f"{_FROM}{_digit('12345678')}(?:{J}{D}){{5}}{J}(?:{_ONE}{J}{_digit('9')}|{_digit('2')}{J}{_digit('0')}){J}{D}{J}{D}"
    f"{J}{_MONTH}{J}{_DAY}(?:{J}{D}){{3}}{J}(?:{D}{_TO}|[x×])"
    f"|{_FROM}{D}{{17}}[x×]"
    f"|{_FROM}{_digit('12345678')}{D}{{5}}{J}{D}{{2}}(?:{_digit('0')}{_digit('123456789')}|{_ONE}{_digit('012')})"
    f"(?:{_digit('012')}{D}|{_digit('3')}{_digit('01')}){J}{D}{{3}}{_TO}"
)
_CARD_START = _digit("34569")
_BANK_CARD = (
    f"{_FROM}{D}{{16,}}+"
    f"|{_FROM}{_digit('6')}{_digit('2')}{D}{D}(?:{S}{D}{{4}}){{3}}(?:{J}{D}{{1,3}})?{_TO}"
    f"|{_FROM}{_CARD_START}{D}{{3}}(?:{S}{D}{{4}}){{3}}{S}{D}{{1,3}}{_TO}"
    # 622202 1234 5678 90123: no price has five digits and begins so.
    f"|{_FROM}(?={_digit('6')}{_digit('2')}{D}{{3}}){D}(?:(?:{S}(?={D}{{2}}))?{D}){{15,18}}{_TO}{_NO_PRICE}"
    f"|{_FROM}{_CARD_START}(?P<spelled>{S}){D}(?:(?P=spelled){D}){{14,17}}{_TO}"
)
# Shapes that order numbers and prices have too: Luhn's check digit decides.
_MAYBE_CARD = (
    f"{_FROM}{_CARD_START}{D}{{12,14}}{_TO}"
    f"|{_FROM}{_digit('3')}{D}{{3}}{S}{D}{{6}}{S}{D}{{5}}{_TO}"
    f"|{_FROM}{_CARD_START}{D}{{3}}(?P<fours>{S}){D}{{4}}(?:(?P=fours){D}{{4}}){{2}}{_TO}{_NO_PRICE}"
    f"|{_FROM}(?={_CARD_START}{D}{{1,11}}(?P<within> | ?- ?)){D}(?:(?:(?P=within)(?={D}{{2}}))?{D}){{15,18}}{_TO}{_NO_PRICE}"
)

# The number after such a word: as a whole in Arabic digits, as a mobile number, as two groups, or with whatever is between its digits.
_SAID_MOBILE = f"{_ONE}{J}{_FROM_3}(?:{J}{D}){{9}}{_TO}"
_NO_TIME_OR_AMOUNT = f"(?!{_DATE}(?![0-9])|{_HOURS}|[0-9]{{1,7}}\\.[0-9]{{1,2}}(?![0-9.]))"
_SAID = f"{_NO_TIME_OR_AMOUNT}(?:[0-9]{{7,13}}(?![0-9])|{_SAID_MOBILE}|{D}{{3,4}}{J}{D}{{4}}{_TO}|{D}(?:{J}{D}){{6,12}}{_TO}){_NO_UNIT}"
_NO_NAME = "(?!(?:wechat|weixin|pay|alipay|douyin|meituan|dianping|taobao|app|vip|http|https|www)(?![a-z0-9_]))"
_WECHAT = (
    "(?:[微薇威徽徵维v] ?信|(?<![a-z])(?:we ?chat|wei ?xin|v ?x|w ?x)|加 ?[微薇v]|\\+ ?v|微(?=[:号])"
    # V alone is a hall's word too: VIP, V8.
    "|(?<![a-z0-9])v(?:\\+|(?=[:=@>号])|(?= {1,3}[a-z][a-z_-]{0,18}[0-9_]))|绿泡泡|卫星(?=[:号是>]))"
    f"{_LINK}(?P<wechat>{_NO_NAME}[a-z][a-z0-9_\\-]{{5,}}+|{_SAID})"
)
_QQ = (
    f"(?:(?<![a-z])q ?q|扣扣|企鹅|(?<![a-z0-9])q(?=[:号])){_LINK}"
    f"(?P<qq>{_NO_TIME_OR_AMOUNT}(?:[1-9][0-9]{{4,10}}(?![0-9])|{_digit('123456789')}(?:{J}{D}){{4,10}}{_TO}){_NO_UNIT})"
)
_PHONE = (
    f"(?:手机|电话|座机|固话|联系方式|(?<![a-z])(?:tel|phone|mobile)(?![a-z])){_LINK}(?:(?P<said_mobile>{_SAID_MOBILE})|(?P<phone>{_SAID}))"
)
_SAID_ID_CARD = f"身份证{_LINK}(?P<id_card>{D}(?:{J}{D}){{13,16}}{J}(?:{D}|[x×]){_TO})"
_SAID_BANK_CARD = f"(?:银行卡|卡号|储蓄卡|信用卡|[工农中建交招]行){_LINK}(?P<bank_card>{D}(?:{J}{D}){{12,18}}{_TO})"

_WORDS = f"(?P<wechat_own>wxid_[a-z0-9_\\-]{{6,}}+)|{_SAID_ID_CARD}|{_SAID_BANK_CARD}|{_WECHAT}|{_QQ}|{_PHONE}"
_FORMS = "|".join(
    (
        f"(?P<id_card_form>{_ID_CARD})",
        f"(?P<bank_card_form>{_BANK_CARD})",
        f"(?P<mobile>{_MOBILE})",
        f"(?P<maybe_card>{_MAYBE_CARD})",
        f"(?P<landline>{_LANDLINE})",
        f"(?P<maybe_phone>{_SERVICE}|{_ABROAD})",
    )
)
# The looks ahead change nothing but the time: few characters can begin a number, and few numbers have ten digits.
_ANY = r"[ \-._*~():+|/,、#&=]{0,3}"
_PERSONAL = re.compile(
    f"(?=[微薇威徽徵维加扣企身银卡储信工农中建交招手电座固联绿卫qvwtpm+])(?:{_WORDS})"
    f"|(?=[0-9{_WORDY}(+])(?:(?=[(+ ]{{0,3}}{D}(?:{_ANY}{D}){{9}}){_NO_TIMETABLE}(?:{_FORMS})|(?<![0-9])(?P<qq_mail>[0-9]{{5,11}})@qq\\.com)"
)
# Any number of backslashes: JSON's strings may hold JSON.
_ESCAPE = re.compile(
    r"(?<!\\)\\++(?:u(?P<high>[dD][89abAB][0-9a-fA-F]{2})\\++u(?P<low>[dD][c-fC-F][0-9a-fA-F]{2})|u(?P<code>[0-9a-fA-F]{4})"
    r"|(?P<letter>[bfnrt])|(?P<mark>[\"/]))|[\t\n\r]"
)
# Prices end like this; few cards have only such groups.
_PRICES = re.compile(r"\+?[1-9][0-9]{0,3}[089](?: [1-9][0-9]{0,3}[089]){2,}")
_PLACEHOLDERS = {
    "id_card": ID_CARD,
    "id_card_form": ID_CARD,
    "bank_card": BANK_CARD,
    "bank_card_form": BANK_CARD,
    "maybe_card": BANK_CARD,
    "wechat": WECHAT,
    "wechat_own": WECHAT,
    "qq": QQ,
    "qq_mail": QQ,
    "mobile": MOBILE,
    "said_mobile": MOBILE,
    "landline": PHONE,
    "maybe_phone": PHONE,
    "phone": PHONE,
}


def mask_personal_numbers(text: str) -> str:
    """The text with a placeholder in the place of each personal number."""
    return _masked(text, *_visible(text))


def mask_personal_numbers_in_json(text: str) -> str:
    """As above, of a text with JSON in it: also the numbers that only show once its strings are read (138\\n0013\\n8000, \\u0031\\u0033…).

    The rest stays as it is written, escapes too; strings in strings are read as well.
    """
    return _masked(text, *_read(text))


def _masked(text: str, seen: str, places: list[int] | None) -> str:
    """`seen` is what is looked through; its characters, and its end, stand at `places` of the text; None: at their own."""
    shadow = _UNSTRUCK_ONES.sub(lambda ones: "幺" * len(ones[0]), seen).translate(_SHADOW)
    parts: list[str] = []
    kept_to = 0
    for found in _PERSONAL.finditer(shadow):
        kind = found.lastgroup
        assert kind is not None  # every alternative is named
        if kind in ("maybe_card", "maybe_phone") and _PRICES.fullmatch(found[kind]):
            continue
        if kind == "maybe_card" and not _has_luhn_digit(found[kind]):
            continue
        start, end = found.span(kind)
        if places is not None:
            start, end = places[start], places[end]
        parts += (text[kept_to:start], _PLACEHOLDERS[kind])
        kept_to = end
    return "".join((*parts, text[kept_to:])) if parts else text


def _read(text: str) -> tuple[str, list[int]]:
    """The text as it reads without JSON's escapes, white space as spaces, invisible characters taken out; and where each of the rest stood."""
    read: list[str] = []
    places: list[int] = []
    read_to = 0
    for escape in _ESCAPE.finditer(text):
        read += (text[read_to : escape.start()], _read_escape(escape))
        places += range(read_to, escape.start() + 1)
        read_to = escape.end()
    places += range(read_to, len(text) + 1)
    seen, kept = _visible("".join((*read, text[read_to:])))
    return seen, places if kept is None else [places[place] for place in kept]


def _read_escape(escape: re.Match[str]) -> str:
    """The one character that it stands for."""
    match escape.lastgroup:
        case "low":
            return chr(0x10000 + (int(escape["high"], 16) - 0xD800) * 0x400 + int(escape["low"], 16) - 0xDC00)
        case "code":
            character = chr(int(escape["code"], 16))
            return " " if character in "\t\n\r" else character
        case "mark":
            return escape["mark"]
        case _:
            # JSON's \b and \f show nothing.
            return "\b" if escape["letter"] in ("b", "f") else " "


def _visible(text: str) -> tuple[str, list[int] | None]:
    """The text without invisible characters, and where each of the rest (and the end) stood; None: nothing was taken out."""
    if INVISIBLE.search(text) is None:
        return text, None
    seen: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        if INVISIBLE.match(character) is None:
            seen.append(character)
            places.append(place)
        elif character == _KEYCAP and seen and seen[-1].isdecimal():
            # Keycaps are list marks as often as digits of a number.
            seen[-1] = "零一二三四五六七八九"[unicodedata.decimal(seen[-1])]
    return "".join(seen), [*places, len(text)]


def _has_luhn_digit(shadow: str) -> bool:
    digits = [ord(c) - _FIRST_WORDY if ord(c) >= _FIRST_WORDY else int(c) for c in shadow if c.isdecimal() or ord(c) >= _FIRST_WORDY]
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (doubled + sum(digits[-1::-2])) % 10 == 0
