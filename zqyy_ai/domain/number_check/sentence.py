"""One sentence, read word by word: what each of its numbers and dates is about.

A word counts for the numbers of its own part of the sentence (`_Here`) first; what is not said there is taken from the parts before it
(`SentenceReader`), then from the sentences before (`Memory`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from zqyy_ai.domain.number_check.beside import context_beside, fits
from zqyy_ai.domain.number_check.contexts import Context, Point, ReadNumber
from zqyy_ai.domain.number_check.notation import COMPARISON, CURRENT, REVENUE, Kind, Token, Unit, WrittenDate
from zqyy_ai.domain.number_check.parts import Part, Surroundings, parts_of
from zqyy_ai.domain.number_check.periods import days_named, role_named, role_of_range
from zqyy_ai.domain.number_check.quantities import Days, Quantities
from zqyy_ai.domain.number_check.respectively import Owner, owners_of


@dataclass(slots=True)
class Memory:
    """What the text has said so far and a later sentence may leave out. `metrics`: all that were named, the last one first."""

    metrics: list[str]
    area: str | None = None
    days: Days = None
    month: int | None = None

    def hear_metric(self, metric: str) -> None:
        if metric in self.metrics:
            self.metrics.remove(metric)
        self.metrics.insert(0, metric)


@dataclass(frozen=True, slots=True)
class _Counterpart:
    """What something is compared with, as far as it is named: an area, days or a period; all else is as the subject has it."""

    area: str | None = None
    days: Days = None
    role: str | None = None

    def of(self, subject: Point) -> Point:
        return Point(self.role or subject.role, self.area or subject.area, subject.days if self.days is None else self.days)


@dataclass(slots=True)
class _Here:
    """What the part of the sentence has said up to the word that is read.

    `position`: which part of the sentence it is. `lead_start`: index after the last number. `skip_until`: index of the last date that its
    range has told already. `share_at`: index of the last share word, -1 for none. `whole_named`: `bases` names a whole of the next number.
    """

    part: Part
    position: int
    lead_start: int = 0
    skip_until: int = -1
    role: str | None = None
    against: list[_Counterpart] = field(default_factory=list)
    area: str | None = None
    days: Days = None
    date: Token | None = None
    date_told: ReadNumber | None = None
    share_at: int = -1
    bases: list[str] = field(default_factory=list)
    whole_named: bool = False
    metrics: list[str] = field(default_factory=list)
    extreme: int | None = None

    def is_after_share(self, index: int) -> bool:
        """Whether a share word, and no number since, stands before that word."""
        return self.lead_start <= self.share_at < index


class SentenceReader:
    """Walks the tokens of one sentence. Its fields are what the sentence has said up to there, `_before`: in the part before."""

    def __init__(self, text: str, sentence: list[Token], known: Quantities, memory: Memory) -> None:
        self._sentence = sentence
        self._kinds = {token.kind for token in sentence}
        self._parts = parts_of(text, sentence)
        self._known = known
        self._memory = memory
        self._in_advice = False
        self._compares = False
        self._has_gap = False
        self._gap_role: str | None = None
        self._area_is_old = True
        self._metrics_before = list(memory.metrics)
        self._role_before: str | None = None
        self._extreme_before: int | None = None
        self._averages_before = False
        self._sign_before: int | None = None
        self._owners: list[Owner] = []
        self._told_before: Context | None = None
        self._metrics: list[str] = []
        self._areas: list[str] = []
        self._all_days: list[Days] = []

    def numbers(self) -> Iterator[ReadNumber]:
        for position, part in enumerate(self._parts):
            if part.depth_before == 2:
                self._forget_at_semicolon()
            here = _Here(part, position)
            for index, token in enumerate(part.tokens):
                if token.kind is Kind.NUMBER:
                    yield self._number(here, index, token)
                elif token.kind is Kind.DATE:
                    if index > here.skip_until:
                        yield self._date(here, index, token)
                else:
                    self._word(here, index, token)
            self._role_before = here.role
            self._sign_before = part.direction_left_open()
            self._metrics_before = [*reversed(here.metrics), *self._metrics_before]

    def _forget_at_semicolon(self) -> None:
        self._memory.days = None
        self._role_before = self._extreme_before = None
        self._compares = self._averages_before = False

    # Words

    def _word(self, here: _Here, index: int, token: Token) -> None:
        match token.kind:
            case Kind.METRIC:
                self._metric(here, index, token)
            case Kind.AREA:
                self._area(here, index, token)
            case Kind.DAYS_OF_WEEK:
                self._days_of_week(here, index, token)
            case Kind.ROLE:
                self._role(here, index, token)
            case Kind.SHARE:
                here.share_at = index
                if not here.whole_named:
                    here.bases = []
            case Kind.THAN:
                if here.part.word(token) in ("同比", "环比"):
                    here.against.append(_Counterpart(role=COMPARISON))
            case Kind.EXTREME:
                here.extreme = self._extreme_before = token.payload
            case Kind.GAP:
                self._has_gap = True
            case Kind.ADVICE:
                if here.part.is_advice(token):
                    self._in_advice = True
            case Kind.RESPECTIVELY:
                self._owners, self._told_before = owners_of(self._sentence, token, self._memory.month, self._known), None
            case _:
                pass

    def _metric(self, here: _Here, index: int, token: Token) -> None:
        metric = token.payload
        if here.part.is_whole(index):
            here.bases.append(metric)
            here.whole_named = True
        elif (
            here.is_after_share(index)
            and here.part.word(here.part.tokens[here.share_at]) != "来自"
            and not here.part.is_subject_after_share(index)
        ):
            here.bases.append(metric)
        else:
            if metric in ("净收入", REVENUE) and here.metrics and here.metrics[-1] == "单均净收入":
                # 客单价净收入: two words for one metric.
                metric = "单均净收入"
            here.metrics.append(metric)
            self._memory.hear_metric(metric)
            self._metrics.append(metric)

    def _area(self, here: _Here, index: int, token: Token) -> None:
        if here.is_after_share(index):
            here.bases.append(token.payload)
        elif here.part.is_object(index):
            here.against.append(_Counterpart(area=token.payload))
        else:
            here.area = self._memory.area = token.payload
            self._area_is_old = False
            self._areas.append(token.payload)

    def _days_of_week(self, here: _Here, index: int, token: Token) -> None:
        if here.part.is_object(index):
            here.against.append(_Counterpart(days=token.payload))
        else:
            self._set_days(here, token.payload)
        self._all_days.append(token.payload)

    def _set_days(self, here: _Here, days: Days, date: Token | None = None) -> None:
        here.days = self._memory.days = days
        here.date = date

    def _role(self, here: _Here, index: int, token: Token) -> None:
        role = role_named(token.payload, self._known)
        if role == COMPARISON and here.part.is_object(index):
            here.against.append(_Counterpart(role=COMPARISON))
            self._compares = True
        elif role is not None:
            here.role = self._gap_role = role

    # Dates

    def _date(self, here: _Here, index: int, token: Token) -> ReadNumber:
        part, memory = here.part, self._memory
        range_end, is_object = part.range_end(index), part.is_object(index)
        context = self._context_of_date(here, index)
        context.compares = self._compares or is_object
        written: WrittenDate = token.payload
        if written.month is None and written.day is not None:
            token = replace(token, payload=replace(written, month=memory.month))
        memory.month = (range_end or token).payload.month or memory.month
        told = ReadNumber(token, context, range_end)
        if range_end is not None:
            here.skip_until = part.tokens.index(range_end, index)
            if role_of_range(token, range_end, memory.month, self._known) == COMPARISON and not is_object:
                here.role = COMPARISON
        else:
            self._point_to_days(here, told, is_object)
        return told

    def _context_of_date(self, here: _Here, index: int) -> Context:
        part = here.part
        ahead = [token.payload for token in part.tail(index) if token.kind is Kind.METRIC]
        older = self._metrics_before if self._metrics else [*self._metrics_before, "净收入"]
        context = Context([*reversed(here.metrics), *ahead, *older], [Point(CURRENT, self._known.area)])
        context.until = part.has(Kind.UNTIL, index)
        context.extreme = here.extreme if here.extreme is not None else part.extreme_ahead(index)
        if context.extreme is None and here.position and not part.has(Kind.METRIC, index):
            context.extreme = self._extreme_before
        context.has_gap = Kind.GAP in self._kinds
        context.in_advice = self._in_advice
        context.role_said = self._role_of_date(here, index)
        context.areas = [here.area] if here.area else []
        if context.extreme is not None:
            context.dates_told = self._dates_after_extreme(context.extreme) or 1
        return context

    def _dates_after_extreme(self, sign: int) -> int:
        """How many dates of the sentence stand after 最高 (1) or 最低 (-1), up to the other one."""
        count, current = 0, None
        for token in self._sentence:
            if token.kind is Kind.EXTREME:
                current = token.payload
            elif token.kind is Kind.DATE and current == sign:
                count += 1
        return count

    def _role_of_date(self, here: _Here, index: int) -> str | None:
        if here.role is not None:
            return here.role
        tokens = here.part.tokens
        first = next((token for token in tokens[:index] if token.kind is Kind.ROLE), None)
        if first is not None:
            return "名义期间" if first.payload == "名义期间" else role_named(first.payload, self._known)
        if self._compares or self._role_before == COMPARISON:
            return COMPARISON
        return "名义期间" if any(token.kind is Kind.ROLE and token.payload == "名义期间" for token in tokens) else None

    def _point_to_days(self, here: _Here, told: ReadNumber, is_object: bool) -> None:
        """The numbers after the date are of its day, month or period."""
        days, role = days_named(told.token.payload, self._memory.month, self._known)
        if role == COMPARISON:
            if is_object:
                here.against.append(_Counterpart(role=COMPARISON))
            else:
                here.role = COMPARISON
        elif days is not None:
            if is_object:
                here.against.append(_Counterpart(days=days))
            elif not told.context.until:
                self._set_days(here, days, told.token)
                here.date_told = told
            self._all_days.append(days)

    # Numbers

    def _number(self, here: _Here, index: int, token: Token) -> ReadNumber:
        around = Surroundings.of(here.part, index, here.lead_start)
        context = context_beside(around, here.metrics, self._metrics_before, here.bases)
        self._tell_kind(context, here, around)
        self._tell_points(context, here, around)
        if self._owners:
            self._give_to_owner(context, around)
        self._tell_comparison(context, here, around)
        self._tell_extreme(context, here, index)
        self._tell_sentence(context, here)
        self._end_lead(context, here, around)
        return ReadNumber(token, context)

    def _tell_kind(self, context: Context, here: _Here, around: Surroundings) -> None:
        """Whether it tells a share, an average or a change, and of what, as far as the words beside it leave that open."""
        part, index = here.part, around.index
        if not self._metrics and "净收入" not in context.metrics and fits("净收入", around.number.payload.unit):
            context.metrics = [*context.metrics[:1], "净收入"]
        if context.sums and context.metrics[:1] == ["日均订单数"]:
            context.metrics = ["订单数"]
        if context.moves and context.sign is None and index and part.tokens[index - 1].kind in (Kind.MOVE, Kind.TO):
            # 攀升明显，幅度达 18.9%: the direction was told in the part before.
            context.sign = self._sign_before
        context.is_share = context.is_share or here.whole_named or here.is_after_share(index)
        context.beside_average = part.has(Kind.AVERAGE, index)
        context.single_day = part.has(Kind.SINGLE_DAY, index)
        if not context.names_metric and not context.sums and self._averages_before:
            context.averages = True
        self._averages_before = context.averages

    def _tell_points(self, context: Context, here: _Here, around: Surroundings) -> None:
        context.is_from = around.has_in_lead(Kind.FROM)
        context.role_said = here.role or (self._gap_role if self._has_gap else None)
        days = self._days_options(here)
        areas = self._area_options(context, here)
        roles = self._role_options(context, here, around)
        context.points = [Point(role, area, day) for role in roles for area in areas for day in days]

    def _area_options(self, context: Context, here: _Here) -> list[str]:
        own, said = self._known.area, self._memory.area
        if here.area is not None:
            return [here.area]
        if said is None:
            return [own]
        if self._area_is_old:
            return [own, said] if context.names_metric else [said, own]
        if any((metric, CURRENT, said, None) in self._known.values for metric in context.metrics[:1]):
            return [said]
        return [said, own]

    def _days_options(self, here: _Here) -> list[Days]:
        if here.days is not None:
            return [here.days]
        return [None] if self._memory.days is None else [self._memory.days, None]

    def _role_options(self, context: Context, here: _Here, around: Surroundings) -> list[str]:
        if here.role is not None:
            return [here.role]
        if context.is_from and here.days is None:
            # 由 20 万元降至 18 万元
            return [COMPARISON]
        if self._has_gap and self._gap_role is not None and around.number.payload.unit is Unit.DAYS:
            return [self._gap_role]
        if self._role_before == COMPARISON and context.names_metric:
            return [CURRENT, COMPARISON]
        return [CURRENT]

    def _give_to_owner(self, context: Context, around: Surroundings) -> None:
        self._owners.pop(0).take(context, self._known)
        told = self._told_before
        if not context.moves and told is not None and told.moves and not around.number.payload.is_signed:
            # 分别增长 5.1% 和 5.6%
            context.moves, context.sign = True, told.sign
        self._told_before = context

    def _tell_comparison(self, context: Context, here: _Here, around: Surroundings) -> None:
        context.against = list(dict.fromkeys(against.of(subject) for against in here.against for subject in context.points))
        context.is_ratio = around.index > 0 and here.part.is_measure(around.index - 1)
        context.compares = bool(here.against) or self._compares
        # 低于对比期的 47.2%: the number is the value of what is compared with.
        context.is_than_object = bool(here.against) and around.follows_object()

    def _tell_extreme(self, context: Context, here: _Here, index: int) -> None:
        context.extreme = here.extreme
        context.has_extreme_in_sentence = Kind.EXTREME in self._kinds
        if here.extreme is not None:
            return
        follows_date = here.position > 0 and self._parts[here.position - 1].has_a_date_only()
        opens_part = here.date is None and not here.metrics and here.lead_start == 0 and index <= 1
        if follows_date or opens_part:
            # 净收入最高的是4月18日，达 15,000 元
            context.extreme = self._extreme_before

    def _tell_sentence(self, context: Context, here: _Here) -> None:
        context.parts = list(dict.fromkeys(self._metrics))
        context.areas = list(dict.fromkeys(self._areas))
        context.all_days = list(dict.fromkeys(self._all_days))
        context.has_gap = self._has_gap or here.part.has(Kind.GAP)
        context.in_advice = self._in_advice
        context.date_token = here.date
        context.date_told = here.date_told if here.date is not None else None

    def _end_lead(self, context: Context, here: _Here, around: Surroundings) -> None:
        """The words up to this number are its own; the next number starts with those after it."""
        here.lead_start = around.index + 1
        here.whole_named = False
        if here.metrics:
            self._metrics_before = [here.metrics[-1], *self._metrics_before]
        elif around.number.payload.unit is Unit.POINTS and context.metrics:
            self._metrics_before = [context.metrics[0], *self._metrics_before]
