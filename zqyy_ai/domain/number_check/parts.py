"""The parts of a sentence, between two commas, and what a word is there for: an object of comparison, a whole, advice.

Knows a part's words and what stands between them, nothing of the parts before it and nothing of the facts.
"""

from dataclasses import dataclass

from zqyy_ai.domain.number_check.notation import Kind, Token, Unit

_CONJUNCTIONS = frozenset(("与", "和", "跟"))
_RANGE_SIGNS = frozenset(("至", "到", "-", "~", "～", "—", "–", "－", "——"))


@dataclass(frozen=True, slots=True)
class Part:
    """`text`: the whole text that the tokens' offsets refer to. `depth_before`: of the break before it (1 comma, 2 semicolon), 0 for none."""

    text: str
    tokens: list[Token]
    depth_before: int = 0

    def word(self, token: Token) -> str:
        return self.text[token.start : token.end]

    def between(self, first: Token, second: Token) -> str:
        return self.text[first.end : second.start]

    def has(self, kind: Kind, until: int | None = None) -> bool:
        """Whether a word of that kind stands in the part, or among its first `until` words."""
        return kind in [token.kind for token in self.tokens[:until]]

    def tail(self, index: int) -> list[Token]:
        """The words after that one, up to the next number or date."""
        tail = []
        for token in self.tokens[index + 1 :]:
            if token.kind in (Kind.NUMBER, Kind.DATE):
                break
            tail.append(token)
        return tail

    def has_a_date_only(self) -> bool:
        return self.has(Kind.DATE) and not self.has(Kind.NUMBER)

    def direction_left_open(self) -> int | None:
        """The sign of its last word for a direction, where no number follows it."""
        last = next((token for token in reversed(self.tokens) if token.kind in (Kind.MOVE, Kind.NUMBER)), None)
        return (last.payload or None) if last is not None and last.kind is Kind.MOVE else None

    def is_object(self, index: int) -> bool:
        """Whether the entity is what something is compared with: 比工作日, 较对比期, 与全店相比, 高于全店."""
        tokens = self.tokens
        before = tokens[index - 1] if index else None
        if self.is_measure(index):
            return True
        while before is not None and before.kind in (Kind.ROLE, Kind.DATE, Kind.AREA) and index >= 2:
            index -= 1
            before = tokens[index - 1]
        if before is None or before.kind is not Kind.THAN:
            return False
        if tokens[index].start - before.end > 4:
            return False
        if self.word(before) in _CONJUNCTIONS:
            return self._compares_after(index)
        return True

    def _compares_after(self, index: int) -> bool:
        """`与全店相比`, `和KTV的差距`: only what follows makes a conjunction a comparison; 分别 makes it a list."""
        after = self.tokens[index + 1 :]
        return not any(token.kind is Kind.RESPECTIVELY for token in after) and any(
            (token.kind is Kind.THAN and self.word(token) not in _CONJUNCTIONS) or (token.kind is Kind.MOVE and token.payload == 0)
            for token in after
        )

    def is_measure(self, index: int) -> bool:
        """`是工作日的 1.4 倍`, `相当于对比期的 95%`: what the number is a multiple of."""
        following = self.tokens[index + 1 :]
        while following and following[0].kind in (Kind.METRIC, Kind.AVERAGE):
            following = following[1:]
        if not index or not following or following[0].kind is not Kind.NUMBER:
            return False
        entity, before, number = self.tokens[index], self.tokens[index - 1], following[0]
        if before.kind is not Kind.RATIO and self.word(before) not in ("是", "为", "达到", "达"):
            return False
        if len(following) > 1 and following[1].kind is Kind.NUMBER and following[1].payload.unit is Unit.TIMES:
            # 是工作日 29,264 元的 1.43 倍
            return self.between(number, following[1]).strip() == "的"
        if self.between(entity, number).strip("约近超过大至少 了有不到") != "的":
            return False
        unit = number.payload.unit
        return (
            unit is Unit.TIMES
            or (unit is Unit.PERCENT and before.kind is Kind.RATIO)
            or (unit in (Unit.PERCENT, Unit.TENTHS) and entity.kind is Kind.ROLE)
        )

    def is_whole(self, index: int) -> bool:
        """`在毛收入里占`, `相当于毛收入的`, `净收入是毛收入的`: the metric is what the number is a share of."""
        token, before = self.tokens[index], self.tokens[index - 1] if index else None
        after = self.text[token.end : token.end + 2]
        if after[:1] in ("里", "中") and after != "中心":
            return True
        if after[:1] != "的" or before is None:
            return False
        if not any(following.kind is Kind.NUMBER for following in self.tokens[index + 1 : index + 2]):
            return False
        return before.kind is Kind.RATIO or (before.kind is Kind.TO and self.word(before) in ("是", "为"))

    def is_subject_after_share(self, index: int) -> bool:
        """`贡献最大的是商品`: a metric after the share word that no number has followed yet and that is followed by another share word."""
        return any(token.kind is Kind.SHARE for token in self.tokens[index + 1 :])

    def is_advice(self, token: Token) -> bool:
        """Whether a word of advice is one here: 应 but not 对应, 可 but not 可见."""
        before, after = self.text[token.start - 1 : token.start], self.text[token.end : token.end + 1]
        match self.word(token):
            case "应":
                return before not in "对相响供反" and after not in "收对"
            case "可":
                return before != "许" and after not in "用能见比"
            case "需":
                return before != "必" or after != "求"
            case _:
                return True

    def range_end(self, index: int) -> Token | None:
        """The second date of `4月1日至4月20日`, for the first one."""
        for later in self.tokens[index + 1 : index + 3]:
            if later.kind is Kind.DATE:
                return later if self.between(self.tokens[index], later).strip() in _RANGE_SIGNS else None
        return None

    def extreme_ahead(self, index: int) -> int | None:
        """`4月18日净收入最高`: the word follows the date before any number does."""
        return next((int(token.payload) for token in self.tail(index) if token.kind is Kind.EXTREME), None)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The words around a number: `lead` since the number before it, `tail` up to the next number or date, in its part.

    `joint`: what stands between the number and its tail, as 的; "?" where there is no tail.
    """

    part: Part
    index: int
    lead: list[Token]
    tail: list[Token]
    joint: str

    @classmethod
    def of(cls, part: Part, index: int, lead_start: int) -> "Surroundings":
        tail = part.tail(index)
        joint = part.between(part.tokens[index], tail[0]).strip() if tail else "?"
        return cls(part, index, part.tokens[lead_start:index], tail, joint)

    @property
    def number(self) -> Token:
        return self.part.tokens[self.index]

    def has_in_lead(self, kind: Kind) -> bool:
        return any(token.kind is kind for token in self.lead)

    def follows_object(self) -> bool:
        """`低于对比期的 47.2%`: the last that is named before the number is a period, an area or days."""
        skipped = (Kind.TO, Kind.METRIC, Kind.AVERAGE)
        last = next((token for token in reversed(self.lead) if token.kind not in skipped), None)
        return last is not None and last.kind in (Kind.ROLE, Kind.AREA, Kind.DAYS_OF_WEEK, Kind.DATE)


def sentences_of(tokens: list[Token]) -> list[list[Token]]:
    """The tokens between full stops, without them."""
    sentences: list[list[Token]] = [[]]
    for token in tokens:
        if token.kind is Kind.BREAK and token.payload >= 3:
            sentences.append([])
        else:
            sentences[-1].append(token)
    return [sentence for sentence in sentences if sentence]


def parts_of(text: str, sentence: list[Token]) -> list[Part]:
    """The parts between commas and semicolons; some are empty."""
    parts = [Part(text, [])]
    for token in sentence:
        if token.kind is Kind.BREAK:
            parts.append(Part(text, [], token.payload))
        else:
            parts[-1].tokens.append(token)
    return parts
