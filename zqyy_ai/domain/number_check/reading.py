"""What each number of a text is about: its metric, area, days, period, and whether it tells a value, a change, a share or a ratio.

Reads from left to right. A word counts for the numbers of its own part of the sentence first; what is not said there is taken from the
parts before it. Invariant: a context holds what the text says, never what the facts hold.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import product

from zqyy_ai.domain.number_check.notation import (
    COMPARISON,
    CURRENT,
    REVENUE,
    Kind,
    Token,
    Unit,
    Written,
    WrittenDate,
    tokens_of,
)
from zqyy_ai.domain.number_check.quantities import RATES, UNITS, Days, Quantities

_CONJUNCTIONS = frozenset(("与", "和", "跟"))
# Between a verb of one character and its number: 高出约 3 个百分点, but not 高峰时段.
_ADJACENT = re.compile(r"[了出达到约近超过逾至仅有共\s¥￥幅]*")


@dataclass(frozen=True, slots=True)
class Point:
    """Whose value it is."""

    role: str
    area: str
    days: Days = None


@dataclass(slots=True)
class Context:
    """What the text says of one number, or of a date.

    `metrics` and `points`: what it may be about, the likeliest first. `against`: what it is compared with, where that is said. `sign`: of the
    word for a direction. `bases`: metrics and areas that it is a share of. `parts`, `areas`, `all_days`: everything that the sentence named up
    to here. `extreme`: 1 for 最高, -1 for 最低. `is_than_object`: it is the value of what is compared with (高于对比期的 47.2%). `is_ratio`: it is
    told as a multiple of `against`. `date_told`: the date that it stands beside.
    """

    metrics: list[str]
    points: list[Point]
    against: list[Point] = field(default_factory=list)
    sign: int | None = None
    moves: bool = False
    moves_to: bool = False
    is_share: bool = False
    bases: list[str] = field(default_factory=list)
    averages: bool = False
    extreme: int | None = None
    has_extreme_in_sentence: bool = False
    sums: bool = False
    parts: list[str] = field(default_factory=list)
    areas: list[str] = field(default_factory=list)
    all_days: list[Days] = field(default_factory=list)
    has_gap: bool = False
    in_advice: bool = False
    is_target: bool = False
    is_from: bool = False
    is_pace: bool = False
    compares: bool = False
    date_token: Token | None = None
    until: bool = False
    dates_told: int = 1
    role_said: str | None = None
    is_than_object: bool = False
    names_metric: bool = False
    single_day: bool = False
    beside_average: bool = False
    is_ratio: bool = False
    date_told: "ReadNumber | None" = None


@dataclass(frozen=True, slots=True)
class ReadNumber:
    """A number or a date with its context; `range_end` is the second date of `4月1日至4月20日`."""

    token: Token
    context: Context
    range_end: Token | None = None


def read(text: str, known: Quantities, heard: list[str]) -> list[ReadNumber]:
    """`heard`: metrics named before this text (in its title), the last one first; those of the text are added."""
    return list(_Reader(text, known, heard).numbers())


class _Reader:
    def __init__(self, text: str, known: Quantities, heard: list[str]) -> None:
        self._text = text
        self._known = known
        self._heard = heard
        self._tokens = tokens_of(text, (known.site,))
        self._area: str | None = None
        self._days: Days = None
        self._month: int | None = None

    def numbers(self) -> Iterator[ReadNumber]:
        for sentence in _split(self._tokens, 3):
            if any(token.kind is Kind.NUMBER or token.kind is Kind.DATE for token in sentence):
                yield from self._sentence(sentence)
            else:
                self._hear_only(sentence)
            self._days = None

    def _hear_only(self, sentence: list[Token]) -> None:
        """A sentence without numbers: the next one may still be about what it names."""
        for token in sentence:
            if token.kind is Kind.METRIC:
                self._hear(token.payload)
            elif token.kind is Kind.AREA:
                self._area = token.payload

    def _sentence(self, sentence: list[Token]) -> Iterator[ReadNumber]:
        known = self._known
        in_advice = False
        metric_before: list[str] = list(self._heard)
        role_before: str | None = None
        area_is_old = True
        days_part = -1
        than_in_sentence = False
        extreme_before: int | None = None
        gap = False
        gap_role: str | None = None
        averages_before = False
        sign_before: int | None = None
        respective: list[tuple[str, object]] | None = None
        told_before: Context | None = None
        parts = _split_parts(sentence)
        extreme_dates = self._dates_by_extreme(sentence)
        parts_seen: list[str] = []
        areas_seen: list[str] = []
        days_seen: list[Days] = []
        for number_of_part, (part, depth_before) in enumerate(parts):
            if depth_before == 2:
                self._days, role_before, than_in_sentence, extreme_before, averages_before = None, None, False, None, False
            lead_start = 0
            skip_until = -1
            role_here: str | None = None
            against: list[str | tuple[str, Days]] = []
            area_here: str | None = None
            days_here: Days = None
            has_days_here = False
            date_here: Token | None = None
            date_told: ReadNumber | None = None
            share_at = -1
            bases: list[str] = []
            whole_named = False
            metric_here: list[str] = []
            extreme_here: int | None = None
            for index, token in enumerate(part):
                word = self._text[token.start : token.end]
                match token.kind:
                    case Kind.METRIC:
                        if self._is_whole(part, index):
                            bases.append(token.payload)
                            whole_named = True
                        elif (
                            share_at >= max(lead_start, 0)
                            and self._text[part[share_at].start : part[share_at].end] != "来自"
                            and index > share_at
                            and not self._is_subject_after_share(part, index)
                        ):
                            bases.append(token.payload)
                        else:
                            metric = token.payload
                            if metric in ("净收入", REVENUE) and metric_here and metric_here[-1] == "单均净收入":
                                metric = "单均净收入"
                            metric_here.append(metric)
                            self._hear(metric)
                            parts_seen.append(metric)
                    case Kind.AREA:
                        if share_at >= lead_start and index > share_at >= 0:
                            bases.append(token.payload)
                        elif self._is_object(part, index):
                            against.append(token.payload)
                        else:
                            area_here = self._area = token.payload
                            area_is_old = False
                            areas_seen.append(token.payload)
                    case Kind.DAYS_OF_WEEK:
                        if self._is_object(part, index):
                            against.append(("days", token.payload))
                        else:
                            days_here, has_days_here, date_here = token.payload, True, None
                            self._days, days_part = token.payload, number_of_part
                        days_seen.append(token.payload)
                    case Kind.ROLE:
                        role = self._role(token.payload)
                        if role is None:
                            continue
                        if role == COMPARISON and self._is_object(part, index):
                            against.append(("role", role))
                            than_in_sentence = True
                        else:
                            role_here = gap_role = role
                    case Kind.SHARE:
                        share_at = index
                        if not whole_named:
                            bases = []
                    case Kind.THAN:
                        if word in ("同比", "环比"):
                            against.append(("role", COMPARISON))
                    case Kind.EXTREME:
                        extreme_here = extreme_before = token.payload
                    case Kind.GAP:
                        gap = True
                    case Kind.ADVICE:
                        if word not in ("应", "需", "可", "若", "目标") or self._is_advice(token):
                            in_advice = True
                    case Kind.RESPECTIVELY:
                        respective, told_before = self._respective(sentence, token), None
                    case Kind.DATE:
                        if index <= skip_until:
                            continue
                        range_end = self._range_end(part, index)
                        ahead = [t.payload for t in _tail(part, index) if t.kind is Kind.METRIC]
                        older_metrics = metric_before if parts_seen else [*metric_before, "净收入"]
                        context = Context([*reversed(metric_here), *ahead, *older_metrics], [Point(CURRENT, known.area)])
                        context.until = any(t.kind is Kind.UNTIL for t in part[:index])
                        context.extreme = extreme_here if extreme_here is not None else self._extreme_ahead(part, index)
                        if context.extreme is None and number_of_part and not any(t.kind is Kind.METRIC for t in part[:index]):
                            context.extreme = extreme_before
                        context.has_gap = gap or any(t.kind is Kind.GAP for t in sentence)
                        context.in_advice = in_advice
                        context.role_said = self._role_of_date(part, index, role_here, than_in_sentence, role_before)
                        context.areas = [area_here] if area_here else []
                        if context.extreme is not None:
                            context.dates_told = extreme_dates.get(context.extreme, 1)
                        written: WrittenDate = token.payload
                        dated = token
                        if written.month is None and written.day is not None:
                            dated = replace(token, payload=replace(written, month=self._month))
                        self._month = (range_end or dated).payload.month or self._month
                        told = ReadNumber(dated, context, range_end)
                        context.compares = than_in_sentence or self._is_object(part, index)
                        yield told
                        if range_end is not None:
                            skip_until = index + (2 if part[index + 1].kind is not Kind.DATE else 1)
                            meant = self._span_role(dated, range_end)
                            if meant == COMPARISON and not self._is_object(part, index):
                                role_here = COMPARISON
                            continue
                        days, role = self._days_of(dated)
                        if role == COMPARISON and days is None:
                            if self._is_object(part, index):
                                against.append(("role", COMPARISON))
                            else:
                                role_here = COMPARISON
                        elif days is not None:
                            if self._is_object(part, index):
                                against.append(("days", days))
                            elif not context.until:
                                days_here, has_days_here, date_here, date_told = days, True, dated, told
                                self._days, days_part = days, number_of_part
                            days_seen.append(days)
                    case Kind.NUMBER:
                        written_number: Written = token.payload
                        lead, tail = part[lead_start:index], _tail(part, index)
                        context = self._context(part, index, lead, tail, written_number, metric_here, metric_before, bases)
                        if not parts_seen and not metric_here and "净收入" not in context.metrics and _fits("净收入", written_number.unit):
                            context.metrics = [*context.metrics[:1], "净收入"]
                        if context.sums and context.metrics[:1] == ["日均订单数"]:
                            context.metrics = ["订单数"]
                        if context.moves and context.sign is None and index and part[index - 1].kind in (Kind.MOVE, Kind.TO):
                            # 攀升明显，幅度达 18.9%: the direction was told in the part before.
                            context.sign = sign_before
                        context.is_share = context.is_share or whole_named or (share_at >= 0 and share_at >= lead_start)
                        context.beside_average = any(t.kind is Kind.AVERAGE for t in part[:index])
                        context.single_day = any(t.kind is Kind.SINGLE_DAY for t in part[:index])
                        if not context.names_metric and not context.averages and averages_before and not context.sums:
                            context.averages = True
                        averages_before = context.averages
                        # Area
                        area_options = [area_here] if area_here else []
                        if not area_options:
                            if self._area is None:
                                area_options = [known.area]
                            elif area_is_old:
                                area_options = [known.area, self._area] if context.names_metric else [self._area, known.area]
                            else:
                                area_options = [self._area]
                                if not self._area_has(self._area, context.metrics):
                                    area_options.append(known.area)
                        # Days
                        day_options: list[Days] = [days_here] if has_days_here else []
                        if not day_options:
                            day_options = [self._days, None] if self._days is not None else [None]
                            if self._days is not None and not context.names_metric and number_of_part - days_part <= 1:
                                day_options = [self._days, None] if number_of_part != days_part else [self._days]
                        # Role
                        roles = [role_here or CURRENT]
                        if role_here is None and role_before == COMPARISON and context.names_metric:
                            roles.append(COMPARISON)
                        context.role_said = role_here or (gap_role if gap else None)
                        if gap and role_here is None and gap_role is not None and written_number.unit is Unit.DAYS:
                            roles = [gap_role]
                        context.is_from = any(t.kind is Kind.FROM for t in lead)
                        if context.is_from and not has_days_here and role_here is None:
                            roles = [COMPARISON]
                        context.points = [
                            Point(role, area, days) for role in roles for area in area_options if area for days in day_options
                        ]
                        if respective:
                            which, payload = respective.pop(0)
                            context = self._assigned(context, which, payload)
                            if not context.moves and told_before is not None and told_before.moves and not written_number.is_signed:
                                # 分别增长 5.1% 和 5.6%
                                context.moves, context.sign = True, told_before.sign
                            told_before = context
                        context.against = self._objects(context.points, against)
                        context.is_ratio = index > 0 and self._is_measure(part, index - 1)
                        context.compares = bool(against) or than_in_sentence
                        context.extreme = extreme_here
                        context.has_extreme_in_sentence = any(t.kind is Kind.EXTREME for t in sentence)
                        if extreme_here is None and number_of_part and _has_a_date_only(parts[number_of_part - 1][0]):
                            context.extreme = extreme_before
                        if extreme_here is None and date_here is None and not metric_here and lead_start == 0 and index <= 1:
                            context.extreme = context.extreme if context.extreme is not None else extreme_before
                        context.parts = list(dict.fromkeys(parts_seen))
                        context.areas = list(dict.fromkeys(areas_seen))
                        context.all_days = list(dict.fromkeys(days_seen))
                        context.has_gap = gap or any(t.kind is Kind.GAP for t in part)
                        context.in_advice = in_advice
                        context.date_token = date_here
                        context.date_told = date_told if date_here is not None else None
                        # 低于对比期的 47.2%: the number is the value of what is compared with.
                        if against and lead and self._ends_with_object(lead):
                            context.is_than_object = True
                        yield ReadNumber(token, context)
                        lead_start = index + 1
                        whole_named = False
                        if written_number.unit is Unit.POINTS and context.metrics and not metric_here:
                            metric_before = [context.metrics[0], *metric_before]
                        if metric_here:
                            metric_before = [metric_here[-1], *metric_before]
                    case _:
                        pass
            role_before = role_here
            last = next((t for t in reversed(part) if t.kind in (Kind.MOVE, Kind.NUMBER)), None)
            sign_before = (last.payload or None) if last is not None and last.kind is Kind.MOVE else None
            if metric_here:
                metric_before = [*reversed(metric_here), *metric_before]

    # What a word is for

    def _hear(self, metric: str) -> None:
        if metric in self._heard:
            self._heard.remove(metric)
        self._heard.insert(0, metric)

    def _is_object(self, part: list[Token], index: int) -> bool:
        """Whether the entity is what something is compared with: 比工作日, 较对比期, 与全店相比, 高于全店."""
        before = part[index - 1] if index else None
        if self._is_measure(part, index):
            return True
        while before is not None and before.kind in (Kind.ROLE, Kind.DATE, Kind.AREA) and index >= 2:
            index -= 1
            before = part[index - 1]
        if before is None or before.kind is not Kind.THAN:
            return False
        word = self._text[before.start : before.end]
        if part[index].start - before.end > 4:
            return False
        if word in _CONJUNCTIONS:
            return not any(t.kind is Kind.RESPECTIVELY for t in part[index + 1 :]) and any(
                (t.kind is Kind.THAN and self._text[t.start : t.end] not in _CONJUNCTIONS) or (t.kind is Kind.MOVE and t.payload == 0)
                for t in part[index + 1 :]
            )
        return True

    def _is_measure(self, part: list[Token], index: int) -> bool:
        """`是工作日的 1.4 倍`, `相当于对比期的 95%`: what the number is a multiple of."""
        following = part[index + 1 :]
        while following and following[0].kind in (Kind.METRIC, Kind.AVERAGE):
            following = following[1:]
        if not index or not following or following[0].kind is not Kind.NUMBER:
            return False
        before, number = part[index - 1], following[0]
        if before.kind is not Kind.RATIO and self._text[before.start : before.end] not in ("是", "为", "达到", "达"):
            return False
        if len(following) > 1 and following[1].kind is Kind.NUMBER and following[1].payload.unit is Unit.TIMES:
            # 是工作日 29,264 元的 1.43 倍
            return self._text[number.end : following[1].start].strip() == "的"
        if self._text[part[index].end : number.start].strip("约近超过大至少 了有不到") != "的":
            return False
        unit = number.payload.unit
        return (
            unit is Unit.TIMES
            or (unit is Unit.PERCENT and before.kind is Kind.RATIO)
            or (unit in (Unit.PERCENT, Unit.TENTHS) and part[index].kind is Kind.ROLE)
        )

    def _is_subject_after_share(self, part: list[Token], index: int) -> bool:
        """`贡献最大的是商品`: a metric after the share word that no number has followed yet and that is followed by another share word."""
        return any(t.kind is Kind.SHARE for t in part[index + 1 :])

    def _is_whole(self, part: list[Token], index: int) -> bool:
        """`在毛收入里占`, `相当于毛收入的`, `净收入是毛收入的`: the metric is what the number is a share of."""
        token, before = part[index], part[index - 1] if index else None
        after = self._text[token.end : token.end + 2]
        if after[:1] in ("里", "中") and after != "中心":
            return True
        if after[:1] != "的" or before is None:
            return False
        if not any(
            t.kind is Kind.NUMBER and not self._text[token.end + 1 : t.start].strip("约近超过大至少 了有")
            for t in part[index + 1 : index + 2]
        ):
            return False
        return before.kind is Kind.RATIO or (before.kind is Kind.TO and self._text[before.start : before.end] in ("是", "为"))

    def _is_advice(self, token: Token) -> bool:
        before, after = self._text[token.start - 1 : token.start], self._text[token.end : token.end + 1]
        word = self._text[token.start : token.end]
        if word == "应":
            return before not in "对相响供反" and after not in "收对"
        if word == "可":
            return before != "许" and after not in "用能见比"
        if word == "需":
            return before != "必" or after != "求"
        return True

    def _role(self, name: str) -> str | None:
        if name in (COMPARISON, CURRENT):
            return name
        if name in self._known.current_words:
            return CURRENT
        if name.startswith("上"):
            return COMPARISON
        return None

    def _span_role(self, first: Token, last: Token) -> str | None:
        starts = self._known.resolve_days(first.payload, self._month)
        ends = self._known.resolve_days(last.payload, last.payload.month or first.payload.month)
        span = self._known.span_of("对比期间")
        return COMPARISON if span and span.start in starts and span.end in ends else None

    def _role_of_date(self, part: list[Token], index: int, role_here: str | None, compares: bool, role_before: str | None) -> str | None:
        if role_here is not None:
            return role_here
        for token in part[:index]:
            if token.kind is Kind.ROLE:
                return "名义期间" if token.payload == "名义期间" else self._role(token.payload)
        if compares or role_before == COMPARISON:
            return COMPARISON
        if any(t.kind is Kind.ROLE and t.payload == "名义期间" for t in part):
            return "名义期间"
        return None

    def _days_of(self, token: Token) -> tuple[Days, str | None]:
        """The month or day that the date names; COMPARISON where it lies in the comparison period alone."""
        known, written = self._known, token.payload
        if written.day is not None:
            days = known.resolve_days(written, self._month)
            listed = [day for day in days if day in known.listed_days]
            return (listed or days or [date.min])[0], None
        if written.month is not None:
            months = known.resolve_month(written.year, written.month)
            for month in months:
                if month in known.months:
                    return month, None
            if not months:
                return "?", None
            data, before = known.spans.get("数据期间"), known.spans.get("对比期间")
            if data and any(month == f"{day:%Y-%m}" for month in months for day in (data.start, data.end)):
                return None, None
            if before and any(f"{before.start:%Y-%m}" <= month <= f"{before.end:%Y-%m}" for month in months):
                return None, COMPARISON
        if written.quarter is not None:
            before, data = known.spans.get("对比期间"), known.spans.get("数据期间")
            if (
                data
                and (data.start.month - 1) // 3 + 1 != written.quarter
                and before
                and (before.start.month - 1) // 3 + 1 == written.quarter
            ):
                return None, COMPARISON
        return None, None

    def _range_end(self, part: list[Token], index: int) -> Token | None:
        first = part[index]
        for later in part[index + 1 : index + 3]:
            if later.kind is Kind.DATE:
                between = self._text[first.end : later.start].strip()
                return later if between in ("至", "到", "-", "~", "～", "—", "–", "－", "——") else None
        return None

    def _extreme_ahead(self, part: list[Token], index: int) -> int | None:
        """`4月18日净收入最高`: the word follows the date before any number does."""
        for token in part[index + 1 :]:
            if token.kind is Kind.EXTREME:
                return int(token.payload)
            if token.kind in (Kind.DATE, Kind.NUMBER):
                return None
        return None

    def _dates_by_extreme(self, sentence: list[Token]) -> dict[int, int]:
        counts: dict[int, int] = {}
        current: int | None = None
        for token in sentence:
            if token.kind is Kind.EXTREME:
                current = token.payload
            elif token.kind is Kind.DATE and current is not None:
                counts[current] = counts.get(current, 0) + 1
        return counts

    def _area_has(self, area: str, metrics: list[str]) -> bool:
        return any((metric, CURRENT, area, None) in self._known.values for metric in metrics[:1])

    def _respective(self, sentence: list[Token], at: Token) -> list[tuple[str, object]] | None:
        """What stands before 分别, as many as numbers follow it."""
        before = [t for t in sentence if t.end <= at.start]
        count = 0
        for token in sentence:
            if token.start >= at.end:
                if token.kind is Kind.NUMBER:
                    count += 1
                elif token.kind is Kind.BREAK and token.payload >= 2:
                    break
        last_number = max((i for i, t in enumerate(before) if t.kind is Kind.NUMBER), default=-1)
        after: list[Token] = []
        for token in sentence:
            if token.start >= at.end:
                if token.kind is Kind.NUMBER:
                    break
                after.append(token)
        for where in (before[last_number + 1 :], after, before):
            for kind in (Kind.AREA, Kind.DAYS_OF_WEEK, Kind.METRIC, Kind.DATE, Kind.ROLE):
                named = [
                    t
                    for at_index, t in enumerate(where)
                    if t.kind is kind and not (kind is Kind.METRIC and at_index and where[at_index - 1].kind is Kind.SHARE)
                ]
                if len(named) < 2 or (where is after and kind is not Kind.DATE):
                    continue
                chosen = named[-count:]
                return [(kind.value, self._days_of(t)[0] if kind is Kind.DATE else t.payload) for t in chosen]
        return None

    def _assigned(self, context: Context, which: str, payload: object) -> Context:
        point = context.points[0]
        match which:
            case Kind.AREA:
                context.points = [replace(point, area=str(payload))]
            case Kind.DAYS_OF_WEEK | Kind.DATE:
                context.points = [replace(point, days=payload)]  # type: ignore[arg-type]
            case Kind.METRIC:
                context.metrics = [str(payload)]
            case _:
                context.points = [replace(point, role=self._role(str(payload)) or CURRENT)]
        return context

    def _objects(self, subjects: list[Point], against: list[str | tuple[str, Days]]) -> list[Point]:
        objects = []
        for entity, subject in product(against, subjects):
            if isinstance(entity, str):
                objects.append(replace(subject, area=entity))
            elif entity[0] == "role":
                objects.append(replace(subject, role=COMPARISON))
            else:
                objects.append(replace(subject, days=entity[1]))
        return list(dict.fromkeys(objects))

    def _ends_with_object(self, lead: list[Token]) -> bool:
        last = lead[-1]
        while last.kind in (Kind.TO, Kind.METRIC, Kind.AVERAGE) and len(lead) > 1:
            lead = lead[:-1]
            last = lead[-1]
        return last.kind in (Kind.ROLE, Kind.AREA, Kind.DAYS_OF_WEEK, Kind.DATE)

    def _context(
        self,
        part: list[Token],
        index: int,
        lead: list[Token],
        tail: list[Token],
        written: Written,
        metric_here: list[str],
        metric_before: list[str],
        bases: list[str],
    ) -> Context:
        number = part[index]
        context = Context([], [])
        gap_after = self._text[number.end : tail[0].start].strip() if tail else "?"
        context.bases = list(bases)
        own = [*reversed(metric_here)]
        lead_metrics = [t.payload for t in lead if t.kind is Kind.METRIC]
        if tail and gap_after in ("的", ""):
            first = tail[0]
            if first.kind is Kind.METRIC and gap_after == "的":
                if any(t.kind is Kind.SHARE for t in lead):
                    context.bases.append(first.payload)
                elif not lead_metrics:
                    own.insert(0, first.payload)
            elif first.kind is Kind.METRIC and not lead_metrics and written.unit in (Unit.ORDERS, Unit.GUESTS, Unit.NONE):
                own.insert(0, first.payload)
            elif (
                first.kind is Kind.SHARE and self._text[first.start : first.end] == "来自" and len(tail) > 1 and tail[1].kind is Kind.METRIC
            ):
                own.insert(0, tail[1].payload)
            elif first.kind is Kind.SHARE and gap_after == "的":
                context.is_share = True
        named = [metric for metric in own if _fits(metric, written.unit)]
        context.names_metric = bool(named)
        older = [metric for metric in metric_before if _fits(metric, written.unit)]
        context.metrics = named[:1] or older[:1] or _DEFAULT_METRICS.get(written.unit, [])
        goes_to = bool(lead) and (lead[-1].kind is Kind.MOVE_TO or self._text[lead[-1].start : lead[-1].end] in ("至", "到"))
        needs_rate = written.unit is Unit.POINTS and not any(t.kind in (Kind.PACE, Kind.SHARE) for t in part[:index])
        if (
            (needs_rate or (goes_to and written.unit is Unit.PERCENT))
            and context.metrics[:1]
            and context.metrics[0] not in RATES
            and not named
        ):
            context.metrics = [metric for metric in older if metric in RATES][:1] or list(RATES)
        if written.unit is Unit.NONE and not context.metrics and written.is_scaled:
            context.metrics = ["净收入"]
        for token in lead:
            match token.kind:
                case Kind.MOVE:
                    if token.end - token.start > 1 or _ADJACENT.fullmatch(self._text, token.end, number.start):
                        context.moves, context.moves_to, context.sign = True, False, token.payload or None
                        context.is_pace = context.is_pace or self._text[token.start : token.end] in ("快", "慢")
                case Kind.MOVE_TO:
                    context.moves, context.moves_to, context.sign = False, True, token.payload
                case Kind.THAN:
                    if token.payload and (context.sign is None or not context.moves):
                        context.sign = token.payload
                        if token is lead[-1]:
                            context.sign = None
                case Kind.METRIC:
                    if context.moves:
                        context.moves, context.sign = False, None
                case Kind.TO:
                    word = self._text[token.start : token.end]
                    if word in ("至", "到") and token is lead[-1]:
                        context.moves_to, context.moves = True, False
                case Kind.AVERAGE:
                    context.averages = True
                case Kind.SUM:
                    context.sums = True
                case Kind.PACE:
                    context.is_pace = True
                case Kind.TARGET:
                    context.is_target = True
                case _:
                    pass
        if tail and gap_after == "的" and tail[0].kind is Kind.MOVE:
            # 18.9% 的跌幅
            context.moves, context.sign = True, tail[0].payload or None
        if not any(t.kind is Kind.AVERAGE for t in lead) and any(t.kind is Kind.AVERAGE for t in part[:index]):
            context.averages = not named or named[0] in ("净收入", "订单数", REVENUE)
        if context.moves_to or any(t.kind is Kind.TARGET for t in tail[:2]):
            context.is_target = True
        return context


def _has_a_date_only(part: list[Token]) -> bool:
    return any(t.kind is Kind.DATE for t in part) and not any(t.kind is Kind.NUMBER for t in part)


_DEFAULT_METRICS: dict[Unit, list[str]] = {
    Unit.ORDERS: ["订单数"],
    Unit.GUESTS: ["客人数"],
    Unit.HOURS: ["台时使用"],
    Unit.CNY: ["净收入"],
    Unit.PERCENT: ["净收入"],
    Unit.TENTHS: ["净收入"],
    Unit.POINTS: ["台时利用率"],
    Unit.TIMES: ["净收入"],
}


def _fits(metric: str, unit: Unit) -> bool:
    own = Unit.CNY if metric == REVENUE else UNITS.get(metric, Unit.NONE)
    match unit:
        case Unit.PERCENT | Unit.TENTHS | Unit.TIMES:
            return own is not Unit.DAYS
        case Unit.POINTS:
            return True
        case Unit.NONE:
            return own is not Unit.NONE and metric not in RATES
        case _:
            return own is unit


def _tail(part: list[Token], index: int) -> list[Token]:
    tail = []
    for token in part[index + 1 :]:
        if token.kind in (Kind.NUMBER, Kind.DATE):
            break
        tail.append(token)
    return tail


def _split(tokens: list[Token], depth: int) -> list[list[Token]]:
    sentences: list[list[Token]] = [[]]
    for token in tokens:
        if token.kind is Kind.BREAK and token.payload >= depth:
            sentences.append([])
        else:
            sentences[-1].append(token)
    return [sentence for sentence in sentences if sentence]


def _split_parts(sentence: list[Token]) -> list[tuple[list[Token], int]]:
    """The parts between commas, each with the depth of the break before it."""
    parts: list[tuple[list[Token], int]] = [([], 0)]
    for token in sentence:
        if token.kind is Kind.BREAK:
            parts.append(([], token.payload))
        else:
            parts[-1][0].append(token)
    return parts
