"""The members of the demo's halls: people, their visits, assistants, tasks and notes, written into schema `demo_dws`.

Called by `demo_data` within its transaction; nothing else writes these tables. Invariants: a person depends on (seed, site, place) and
a day's visits, tasks and notes on (seed, site, day) and the people alone, so that more members or more days only add rows; bills add up to
the fen. Member visits are drawn for themselves: they do not add up to the site's `finance_daily`.
What can be seen in the data: regulars with a favourite assistant, weekend groups, snooker and mahjong players, guests with coupons,
sleepers who stop coming for months, newcomers, high balances, birthdays.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, TypeVar

import numpy as np
import psycopg
from numpy.typing import NDArray

from zqyy_ai.devkit.demo_calendar import is_lunar_new_year, is_public_holiday
from zqyy_ai.devkit.demo_notes import NoteSubject, note_text
from zqyy_ai.domain.windows import Area

MOST_MEMBERS = 9_999

Choice = TypeVar("Choice")
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Habits:
    """How a kind of guest comes. `visits_a_day` on a workday, on a Friday, at a weekend or holiday; hours are quarters of an hour."""

    weight: float
    visits_a_day: tuple[float, float, float]
    areas: tuple[Area, ...]
    earliest_quarter: int
    latest_quarter: int
    quarters: tuple[int, int]
    guests: tuple[int, int]
    assisted_share: float
    coupon_share: float
    card_share: float


# Quarters are counted from 10:00: 32 is 18:00, 64 is closing time.
_HALLS = (Area.HALL_A, Area.HALL_A, Area.HALL_B, Area.HALL_C)
_KINDS: dict[str, _Habits] = {
    "regular": _Habits(0.18, (0.20, 0.28, 0.34), _HALLS, 34, 46, (4, 12), (1, 3), 0.38, 0.02, 0.90),
    "weekend": _Habits(0.22, (0.01, 0.10, 0.20), (*_HALLS, Area.VIP, Area.KTV), 24, 46, (8, 16), (3, 6), 0.22, 0.25, 0.45),
    "snooker": _Habits(0.10, (0.17, 0.15, 0.22), (Area.SNOOKER,), 8, 34, (6, 12), (1, 2), 0.06, 0.02, 0.80),
    "mahjong": _Habits(0.12, (0.05, 0.10, 0.17), (Area.MAHJONG,), 12, 44, (14, 20), (4, 4), 0.0, 0.05, 0.60),
    "occasional": _Habits(0.22, (0.02, 0.04, 0.06), _HALLS, 16, 48, (4, 8), (1, 4), 0.08, 0.55, 0.10),
    "sleeper": _Habits(0.16, (0.11, 0.18, 0.22), (*_HALLS, Area.VIP), 30, 46, (4, 12), (1, 4), 0.30, 0.10, 0.70),
    "newcomer": _Habits(0.0, (0.16, 0.24, 0.30), _HALLS, 20, 46, (4, 8), (1, 3), 0.25, 0.35, 0.50),
}
_NEWCOMER_EVERY = 10
_NEWCOMER_STAYS_DAYS = 360
_FIRST_GENERATION = date(2010, 1, 1).toordinal()
_SLEEPER_AWAKE_SHARE = 0.4

# Number of tables, name, yuan an hour before and from 18:00.
_TABLES: dict[Area, tuple[int, str, int, int]] = {
    Area.HALL_A: (12, "A{:02d}号台", 32, 42),
    Area.HALL_B: (10, "B{:02d}号台", 36, 48),
    Area.HALL_C: (8, "C{:02d}号台", 42, 58),
    Area.VIP: (4, "VIP{}包厢", 98, 128),
    Area.SNOOKER: (3, "斯诺克{}号台", 68, 88),
    Area.MAHJONG: (6, "麻将{}号房", 38, 48),
    Area.KTV: (2, "KTV{}号房", 88, 198),
}
_EVENING_QUARTER = 32
_CLOSING_QUARTER = 64

_GOODS = (
    ("农夫山泉", 3), ("可口可乐", 6), ("冰红茶", 5), ("红牛", 8), ("青岛啤酒", 12), ("百威啤酒", 15), ("美式咖啡", 18), ("菊花茶", 28),
    ("桶装泡面", 8), ("五香瓜子", 10), ("薯条", 22), ("炸鸡翅", 38), ("水果拼盘", 48), ("巧克粉", 10), ("台球手套", 25), ("中华香烟", 65),
)  # fmt: skip
_LEVELS = (("普通会员", 0), ("银卡会员", 5), ("金卡会员", 8), ("钻石会员", 12))
_ASSISTANT_LEVELS = (("初级助教", 98), ("中级助教", 118), ("高级助教", 138), ("明星助教", 168))
_NICKNAMES = (
    "小雨", "可可", "晓晓", "阿杰", "思思", "小北", "朵朵", "一一", "大鹏", "阿May", "琪琪", "小七", "萌萌", "阿凯", "乐乐",
    "小鹿", "安安", "豆豆", "阿宁", "小蝶", "菲菲", "阿泽", "糖糖", "小夏", "楠楠", "阿峰", "果果", "小柔", "欣欣", "阿诚",
)  # fmt: skip
_SURNAMES = "王李张刘陈杨黄赵周吴徐孙马朱胡郭何林高罗郑梁谢宋唐许韩冯邓曹彭曾肖田董潘袁蔡蒋余"
_GIVEN_NAMES = {
    "男": ("伟", "强", "磊", "军", "杰", "涛", "建国", "志强", "俊杰", "浩然", "子轩", "宇航", "文博", "海波", "国栋", "晓东", "鹏飞", "嘉豪", "明远", "立新"),
    "女": ("芳", "娜", "敏", "静", "丽", "雪", "婷婷", "佳怡", "雨桐", "思涵", "晓燕", "梦瑶", "欣怡", "海燕", "淑珍", "美玲", "诗雨", "慧敏", "春梅", "若曦"),
}  # fmt: skip
_STAFF = ("前台小周", "前台小吴", "收银小陈", "店长老郑")
_TITLES = {"男": ("先生", "哥", "总"), "女": ("女士", "姐", "小姐")}

# Title, and what can be asked for in more words.
_TASKS: dict[str, tuple[str, tuple[str | None, ...]]] = {
    "新客跟进": ("新客7日内跟进", ("了解第一次体验如何,介绍会员权益与新手课", "加企业微信,发新客体验券", None)),
    "生日关怀": ("生日前关怀", ("提前联系,送生日果盘券一张,问是否到店庆祝", "发生日祝福,赠送1小时台费")),
    "召回": ("久未到店召回", ("了解不来的原因,可给一张8折券,不要强推储值", "告知店里换了新台呢,邀请回来试球", None)),
    "回访": ("消费后回访", ("问上次到店感受与不足,记录到备注", "问近期安排,约下次到店时间", None)),
    "储值提醒": ("高余额会员到店提醒", ("余额较高而到店少,提醒使用,介绍包厢与教学", None)),
    "约课邀请": ("邀约陪练", ("按上次练习内容约下一次,优先安排晚场", "邀请参加周末会员赛", None)),
}


def append_members(
    connection: psycopg.Connection[Any], seed: int, site_id: int, areas: Sequence[Area], members: int, first_day: date, last_day: date
) -> None:
    """Writes a site's people, and what happens to them from `first_day` to `last_day`, into tables that hold no later day.

    `members` of them are active on every day, in places from 1. Every tenth place is a newcomer's, who leaves it to the next one after
    `_NEWCOMER_STAYS_DAYS` days. People who are there already stay as they are.
    """
    if members == 0:
        return
    assistants = _assistants(seed, site_id)
    places = [_Place(seed, site_id, number) for number in range(1, members + 1)]
    people = [person for place in places for person in place.people(first_day, last_day)]
    known = {member_id for (member_id,) in connection.execute("SELECT member_id FROM demo_dws.members WHERE site_id = %s", (site_id,))}
    _copy(connection, "members", (_member_row(site_id, person) for person in people if person.member_id not in known))
    if not known:
        _copy(connection, "assistants", (_assistant_row(site_id, assistant) for assistant in assistants))
    site = _Site(seed, site_id, tuple(areas), tuple(assistant for assistant in assistants if assistant.is_active))
    visits: list[Row] = []
    notes: list[Row] = []
    tasks: list[Row] = []
    for offset in range((last_day - first_day).days + 1):
        day = first_day + timedelta(days=offset)
        present = [place.person_on(day) for place in places]
        for visit, note in _visits(site, day, present):
            visits.append(visit)
            if note is not None:
                notes.append(note)
        tasks += _tasks(site, day, present)
    _copy(connection, "visits", visits)
    _copy(connection, "notes", notes)
    _copy(connection, "tasks", tasks)


# The database. A row is the texts of its columns, ready for COPY.

Row = tuple[str, ...]
_NULL = "\\N"
_COLUMNS = {
    "members": "site_id, member_id, member_name, gender, level, joined_on, birthday, balance_cny, points, left_on",
    "assistants": "site_id, assistant_id, assistant_name, level, joined_on, is_active",
    "visits": "site_id, visit_id, member_id, business_date, started_at, ended_at, guest_count, gross_cny, discount_cny, paid_cny, "
    "tables, assistants, goods, discounts, payments",
    "notes": "site_id, note_id, member_id, content, noted_by_name, created_at",
    "tasks": "site_id, task_id, member_id, assistant_id, task_type, title, detail, created_at, due_on, closed_on, closed_as",
}


def _copy(connection: psycopg.Connection[Any], table: str, rows: Iterable[Row]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY demo_dws.{table} ({_COLUMNS[table]}) FROM STDIN".encode()) as copy:
        copy.write("".join("\t".join(row) + "\n" for row in rows))


def _or_null(value: object) -> str:
    return _NULL if value is None else str(value)


def _yuan(fen: int) -> str:
    return f"{fen // 100}.{fen % 100:02d}"


def _row_id(day: date, number: int) -> str:
    """One visit, one task a day and place."""
    return str((day.toordinal() - _FIRST_GENERATION) * 10_000 + number)


def _moment(day: date, quarter: int, minutes: int = 0) -> str:
    """A moment of a business date, counted in quarters of an hour from 10:00 on: after midnight it is the next calendar day."""
    minute_of_day = 600 + 15 * quarter + minutes
    if minute_of_day >= 1440:
        day, minute_of_day = day + timedelta(days=1), minute_of_day - 1440
    return f"{day}T{minute_of_day // 60:02d}:{minute_of_day % 60:02d}:00+08:00"


# People.


class _Draws:
    """Uniform draws of a generator of their own, used up one after the other: NumPy keeps their sequence stable."""

    __slots__ = ("_values",)

    def __init__(self, values: Iterable[float]) -> None:
        self._values = iter(values)

    def one(self) -> float:
        return next(self._values)

    def chance(self, probability: float) -> bool:
        return next(self._values) < probability

    def between(self, low: int, high: int) -> int:
        return low + int(next(self._values) * (high - low + 1))

    def pick(self, choices: Sequence[Choice]) -> Choice:
        return choices[int(next(self._values) * len(choices))]


@dataclass(frozen=True, slots=True)
class _Assistant:
    assistant_id: int
    name: str
    level: int
    joined_on: date
    is_active: bool


@dataclass(frozen=True, slots=True)
class _Person:
    """`favourite` is a draw that chooses among the site's active assistants. `awake_days` of each `cycle_days` a sleeper comes, and then not at all."""

    member_id: int
    number: int
    kind: str
    name: str
    gender: str | None
    level: int
    joined_on: date
    left_on: date | None
    birthday: date | None
    balance_fen: int
    points: int
    favourite: float
    keenness: float
    cycle_days: int
    cycle_offset: int

    def is_awake(self, day: date) -> bool:
        return self.kind != "sleeper" or (day.toordinal() + self.cycle_offset) % self.cycle_days < self.cycle_days * _SLEEPER_AWAKE_SHARE

    def visit_chance(self, day: date, day_kind: int) -> float:
        if day < self.joined_on or not self.is_awake(day):
            return 0.0
        usual = _KINDS[self.kind].visits_a_day[day_kind] * self.keenness
        # Most newcomers stay away after some weeks.
        return usual * 0.96 ** (day - self.joined_on).days + 0.008 if self.kind == "newcomer" else usual


@dataclass(frozen=True, slots=True)
class _Site:
    seed: int
    site_id: int
    areas: tuple[Area, ...]
    serving: tuple[_Assistant, ...]

    def favourite_of(self, person: _Person) -> _Assistant:
        return self.serving[int(person.favourite * len(self.serving))]


class _Place:
    """One of the site's numbered places, and who is in it when."""

    def __init__(self, seed: int, site_id: int, number: int) -> None:
        self._seed, self._site_id, self._number = seed, site_id, number
        self._people: dict[int, _Person] = {}
        self._is_newcomers = number % _NEWCOMER_EVERY == 0
        # Ten days apart from each other, in no order: some place has a new guest in each month.
        self._offset_days = number * 7 % _NEWCOMER_STAYS_DAYS

    def person_on(self, day: date) -> _Person:
        generation = self._generation(day)
        person = self._people.get(generation)
        if person is None:
            person = self._people[generation] = self._person(generation)
        return person

    def people(self, first_day: date, last_day: date) -> list[_Person]:
        generations = range(self._generation(first_day), self._generation(last_day) + 1)
        return [self.person_on(self._begins(generation)) if self._is_newcomers else self.person_on(first_day) for generation in generations]

    def _generation(self, day: date) -> int:
        if not self._is_newcomers:
            return 0
        return 1 + (day.toordinal() - _FIRST_GENERATION - self._offset_days) // _NEWCOMER_STAYS_DAYS

    def _begins(self, generation: int) -> date:
        return date.fromordinal(_FIRST_GENERATION + self._offset_days + (generation - 1) * _NEWCOMER_STAYS_DAYS)

    def _person(self, generation: int) -> _Person:
        draws = _Draws(np.random.default_rng([20, self._seed, self._site_id, self._number, generation]).random(24).tolist())
        kind = "newcomer" if self._is_newcomers else _weighted_kind(draws.one())
        gender = "女" if draws.chance(0.6 if kind == "mahjong" else 0.28) else "男"
        name = _person_name(gender, draws)
        joined_on = self._begins(generation) if self._is_newcomers else date(2022, 3, 18) + timedelta(days=draws.between(0, 730))
        level = 0 if kind in {"newcomer", "occasional"} else draws.between(0, 3)
        pays_by_card = draws.chance(_KINDS[kind].card_share)
        # A few have put far more on their card than they use.
        balance_yuan = draws.between(3_000, 18_000) if draws.chance(0.08) else draws.between(0, 1_500)
        born_on = date(1958, 1, 1) + timedelta(days=int(draws.one() * 48 * 365))
        return _Person(
            member_id=self._site_id * 1_000_000 + generation * 10_000 + self._number,
            number=self._number,
            kind=kind,
            name=name,
            gender=None if draws.chance(0.1) else gender,
            level=level,
            joined_on=joined_on,
            left_on=self._begins(generation + 1) if self._is_newcomers else None,
            birthday=None if draws.chance(0.15) else born_on,
            balance_fen=balance_yuan * 100 + draws.between(0, 99) if pays_by_card else 0,
            points=draws.between(0, 20_000),
            favourite=draws.one(),
            keenness=0.5 + draws.one(),
            cycle_days=draws.between(240, 480),
            cycle_offset=draws.between(0, 480),
        )


def _weighted_kind(draw: float) -> str:
    for kind, habits in _KINDS.items():
        draw -= habits.weight
        if draw < 0:
            return kind
    return "occasional"


def _person_name(gender: str, draws: _Draws) -> str:
    """As staff type names: mostly the whole name, now and then a form of address, and seldom with a phone number behind it."""
    surname, given_name, title = draws.pick(_SURNAMES), draws.pick(_GIVEN_NAMES[gender]), draws.pick(_TITLES[gender])
    style, number = draws.one(), draws.between(0, 99_999_999)
    if style < 0.01:
        return f"{surname}{title}137{number:08d}"
    return surname + (title if style < 0.15 else given_name)


def _assistants(seed: int, site_id: int) -> tuple[_Assistant, ...]:
    """20 to 30; every tenth has left."""
    draws = _Draws(np.random.default_rng([23, seed, site_id]).random(64).tolist())
    return tuple(
        _Assistant(
            assistant_id=site_id * 100 + position + 1,
            name=name,
            level=draws.between(0, 3),
            joined_on=date(2022, 3, 18) + timedelta(days=draws.between(0, 700)),
            is_active=position % 10 != 9,
        )
        for position, name in enumerate(_NICKNAMES[: draws.between(20, 30)])
    )


def _member_row(site_id: int, person: _Person) -> Row:
    return (
        str(site_id),
        str(person.member_id),
        person.name,
        _or_null(person.gender),
        _LEVELS[person.level][0],
        str(person.joined_on),
        _or_null(person.birthday),
        _yuan(person.balance_fen),
        str(person.points),
        _or_null(person.left_on),
    )


def _assistant_row(site_id: int, assistant: _Assistant) -> Row:
    level = _ASSISTANT_LEVELS[assistant.level][0]
    return (str(site_id), str(assistant.assistant_id), assistant.name, level, str(assistant.joined_on), str(assistant.is_active))


# What happens on a day.


def _visits(site: _Site, day: date, present: list[_Person]) -> Iterator[tuple[Row, Row | None]]:
    """The day's settled bills, each with the note that somebody wrote at its end."""
    noise = np.random.default_rng([21, site.seed, site.site_id, day.toordinal()]).random((len(present), 48))
    day_kind = 2 if is_public_holiday(day) or day.weekday() > 4 else int(day.weekday() == 4)
    share_of_guests = 0.4 if is_lunar_new_year(day) else 1.0
    comes = noise[:, 0].tolist()
    for position, person in enumerate(present):
        if comes[position] < person.visit_chance(day, day_kind) * share_of_guests:
            yield _visit(site, day, person, _Draws(noise[position, 1:].tolist()))


def _visit(site: _Site, day: date, person: _Person, draws: _Draws) -> tuple[Row, Row | None]:
    habits = _KINDS[person.kind]
    start = draws.between(habits.earliest_quarter, habits.latest_quarter)
    quarters = min(draws.between(*habits.quarters), _CLOSING_QUARTER - start)
    end = start + quarters
    guests = draws.between(*habits.guests)
    area = draws.pick([area for area in habits.areas if area in site.areas])

    # Hundredths of an hour times yuan an hour are fen.
    count, pattern, day_price, evening_price = _TABLES[area]
    table_fee = 25 * quarters * (evening_price if start >= _EVENING_QUARTER else day_price)
    first_table = draws.between(1, count)
    numbers = [first_table, first_table % count + 1] if guests > 4 and area in _HALLS else [first_table]
    table_names = [pattern.format(number) for number in numbers]
    hours = _yuan(25 * quarters)
    tables = _json_array(
        f'{{"table_name": "{name}", "area": "{area}", "started_at": "{_moment(day, start)}", "ended_at": "{_moment(day, end)}", '
        f'"hours": {hours}, "fee_cny": {_yuan(table_fee)}}}'
        for name in table_names
    )
    table_fees = table_fee * len(numbers)

    served_by, favourite = _served_by(site, person, habits, draws), site.favourite_of(person)
    assisted = [(assistant, min(quarters, draws.between(4, 10))) for assistant in served_by]
    fees = [25 * served_quarters * _ASSISTANT_LEVELS[assistant.level][1] for assistant, served_quarters in assisted]
    assistants = _json_array(
        f'{{"assistant_id": {assistant.assistant_id}, "assistant_name": "{assistant.name}", "hours": {_yuan(25 * served_quarters)}, '
        f'"fee_cny": {_yuan(fee)}}}'
        for (assistant, served_quarters), fee in zip(assisted, fees, strict=True)
    )

    bought = _bought(guests, draws)
    goods = _json_array(f'{{"name": "{name}", "quantity": {quantity}, "amount_cny": {_yuan(amount)}}}' for name, quantity, amount in bought)

    gross = table_fees + sum(fees) + sum(amount for _, _, amount in bought)
    discounts = _discounts(person, habits, day, start, table_fees, gross, draws)
    discount = sum(discounts.values())
    paid = gross - discount
    payments = _payments(person, paid, draws)
    guest_count = _NULL if draws.chance(0.03) else str(guests)
    visit = (
        str(site.site_id), _row_id(day, person.number), str(person.member_id), str(day), _moment(day, start), _moment(day, end),
        guest_count, _yuan(gross), _yuan(discount), _yuan(paid), tables, assistants, goods,
        _json_array(f'{{"name": "{name}", "amount_cny": {_yuan(amount)}}}' for name, amount in discounts.items()),
        _json_array(f'{{"method": "{method}", "amount_cny": {_yuan(amount)}}}' for method, amount in payments.items()),
    )  # fmt: skip
    if not draws.chance(0.09):
        return visit, None
    told_by = served_by[0] if served_by else favourite
    subject = NoteSubject(person.kind, _LEVELS[person.level][0], table_names[0], told_by.name, day, paid // 100)
    content = note_text(subject, draws.one(), draws.between(0, 99_999_999))
    noted_by = told_by.name if served_by else draws.pick(_STAFF)
    return visit, (str(site.site_id), visit[1], visit[2], content, noted_by, _moment(day, end, draws.between(1, 14)))


def _json_array(objects: Iterable[str]) -> str:
    return f"[{', '.join(objects)}]"


def _served_by(site: _Site, person: _Person, habits: _Habits, draws: _Draws) -> list[_Assistant]:
    """Nobody, mostly; else the favourite more often than anybody, and now and then two."""
    if not draws.chance(habits.assisted_share):
        return []
    anybody, two = draws.pick(site.serving), draws.chance(0.08)
    favourite = site.favourite_of(person)
    if two and anybody != favourite:
        return [favourite, anybody]
    return [favourite if draws.chance(0.7) else anybody]


def _bought(guests: int, draws: _Draws) -> list[tuple[str, int, int]]:
    """Name, quantity and fen of up to four different goods."""
    first, step, kinds = draws.between(0, len(_GOODS) - 1), draws.pick((1, 3, 5, 7)), draws.between(0, 4)
    bought = []
    for turn in range(kinds):
        name, price = _GOODS[(first + turn * step) % len(_GOODS)]
        quantity = draws.between(1, max(1, guests if price < 20 else 1))
        bought.append((name, quantity, quantity * price * 100))
    return bought


def _discounts(person: _Person, habits: _Habits, day: date, start: int, table_fees: int, gross: int, draws: _Draws) -> dict[str, int]:
    """Fen by name; together less than the table fees and a yuan."""
    discounts: dict[str, int] = {}
    if draws.chance(habits.coupon_share):
        discounts[draws.pick(("美团团购券", "抖音团购券"))] = table_fees * draws.between(20, 40) // 100
    elif _LEVELS[person.level][1]:
        discounts["会员折扣"] = table_fees * _LEVELS[person.level][1] // 100
    if start < _EVENING_QUARTER and day.weekday() < 5 and draws.chance(0.5):
        discounts["工作日下午场"] = table_fees * 15 // 100
    if draws.chance(0.03):
        discounts["店长优惠"] = table_fees * 10 // 100
    if rest := (gross - sum(discounts.values())) % 100:
        discounts["抹零"] = rest
    return discounts


def _payments(person: _Person, paid: int, draws: _Draws) -> dict[str, int]:
    """Fen by method."""
    method = "储值卡" if person.balance_fen and draws.chance(0.9) else draws.pick(("微信支付", "微信支付", "支付宝", "现金"))
    if method == "储值卡" and draws.chance(0.06):
        by_card = paid // 200 * 100
        return {"储值卡": by_card, "微信支付": paid - by_card}
    return {method: paid}


def _tasks(site: _Site, day: date, present: list[_Person]) -> Iterator[Row]:
    """What assistants are given to do about members on a day."""
    noise = np.random.default_rng([22, site.seed, site.site_id, day.toordinal()]).random((len(present), 8))
    given = noise[:, 0].tolist()
    for position, person in enumerate(present):
        for kind, chance in _task_chances(person, day):
            given[position] -= chance
            if given[position] < 0:
                yield _task(site, day, person, kind, _Draws(noise[position, 1:].tolist()))
                break


def _task_chances(person: _Person, day: date) -> Iterator[tuple[str, float]]:
    if day < person.joined_on:
        return
    if person.kind == "newcomer" and (day - person.joined_on).days <= 10:
        yield "新客跟进", 0.15
    if person.birthday is not None and (person.birthday.timetuple().tm_yday - day.timetuple().tm_yday) % 365 == 5:
        yield "生日关怀", 0.7
    if not person.is_awake(day):
        yield "召回", 0.02
    else:
        yield "回访", 0.01
    if person.balance_fen > 300_000:
        yield "储值提醒", 0.008
    if person.kind == "regular":
        yield "约课邀请", 0.012


def _task(site: _Site, day: date, person: _Person, task_type: str, draws: _Draws) -> Row:
    title, details = _TASKS[task_type]
    assistant = site.favourite_of(person) if draws.chance(0.85) else draws.pick(site.serving)
    detail = draws.pick(details)
    is_overdue, days_open, is_cancelled = draws.chance(0.03), draws.between(1, 14), draws.chance(0.15)
    return (
        str(site.site_id), _row_id(day, person.number), str(person.member_id), str(assistant.assistant_id), task_type, title,
        _or_null(detail), _moment(day, 0, draws.between(0, 120)), str(day + timedelta(days=7 if task_type == "召回" else 3)),
        _NULL if is_overdue else str(day + timedelta(days=days_open)), "cancelled" if is_cancelled else "done",
    )  # fmt: skip
