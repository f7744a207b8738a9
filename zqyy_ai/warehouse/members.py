"""Members in: what one member's prompts are made of, and which members there are.

What the columns mean is docs/warehouse.md. No pandas here: a member is some dozens of rows, and a frame costs more than all of them.
Nothing here writes. Connections are handed in and left as they were; every query is one statement, so that what it brings is one
consistent snapshot. Invariant: amounts and hours never pass through floating point.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NoReturn, TypeVar

import psycopg
from psycopg.rows import tuple_row

from zqyy_ai.domain.business_clock import MIDNIGHT, SHANGHAI
from zqyy_ai.domain.errors import SourceContractError
from zqyy_ai.domain.members import (
    MOST_VISITS,
    VISIT_DAYS,
    Assistant,
    Member,
    MemberData,
    Note,
    Task,
    Visit,
    VisitAssistant,
    VisitItem,
    VisitTable,
)
from zqyy_ai.domain.runtime_context import LIVE, RuntimeContext
from zqyy_ai.domain.windows import BASE_AREAS
from zqyy_ai.store.queries import named_queries
from zqyy_ai.warehouse.source_errors import source_errors

Value = TypeVar("Value")

# A note that has nothing readable in so many characters has nothing.
NOTE_START = 10_000
_GENDERS = ("男", "女")
_AREAS = frozenset(area.value for area in BASE_AREAS)


def load_member(
    connection: psycopg.Connection[Any],
    site_id: int,
    site_name: str,
    member_id: int,
    *,
    context: RuntimeContext = LIVE,
    cutoff: time = MIDNIGHT,
) -> MemberData:
    """What one member's prompts are made of; `member` is None where the warehouse does not know the id.

    In a sandbox only what was there at the end of its business date (the site's day turns at `cutoff`), as far as the views tell: rows of later
    moments are left out, and so are figures of the present (balance, points) and deadlines yet to come. What a row was before, no view tells.
    An assistant whom `ai_source.assistants` does not have is missing in `assistants`. Moments are in Shanghai's time. Raises
    SourceContractError when a view can't be read as docs/warehouse.md has it, and for a row that breaks it, naming the row.
    """
    parameters: dict[str, Any] = {"site_id": site_id, "member_id": member_id, "days": VISIT_DAYS, "most_visits": MOST_VISITS}
    parameters |= {"last_day": context.sandbox_date, "until": context.until(cutoff)}
    text: str = _read(connection, "member_data", parameters)[0][0]
    found = json.loads(text, parse_float=Decimal)

    def rows(view: str) -> list[_Row]:
        return [_Row(values, f"ai_source.{view}, site {site_id}, member {member_id}") for values in found[view] or ()]

    members = rows("members")
    if len(members) > 1:
        _refuse(f"{members[0].place}: the member is there more than once: make (site_id, member_id) unique in the view")
    assistants = _unique(rows("assistants"), "assistant_id", _assistant)
    notes = _unique(rows("notes"), "note_id", _note)
    return MemberData(
        site_id=site_id,
        site_name=site_name,
        member_id=member_id,
        member=_member(members[0], site_id, member_id) if members else None,
        visits=_unique(rows("visits"), "visit_id", _visit),
        assistants={assistant.assistant_id: assistant for assistant in assistants},
        open_tasks=_unique(rows("tasks"), "task_id", _task),
        newest_note=notes[0] if notes else None,
    )


@dataclass(frozen=True, slots=True)
class Askable:
    """What the warehouse has of some members to ask about: who has visits, the newest note of each, and (member, assistant) of open tasks."""

    visited: frozenset[int]
    newest_notes: dict[int, str]
    open_tasks: frozenset[tuple[int, int]]


def read_askable(connection: psycopg.Connection[Any], site_id: int, member_ids: Collection[int]) -> Askable:
    """For estimates: tells without reading the members' data. Notes are cut at `NOTE_START` characters."""
    wanted = {"site_id": site_id, "member_ids": list(member_ids)}
    return Askable(
        visited=frozenset(member for (member,) in _read(connection, "visited_members", wanted)),
        newest_notes=dict(_read(connection, "newest_notes", wanted | {"longest": NOTE_START})),
        open_tasks=frozenset(_read(connection, "open_tasks_of_members", wanted)),
    )


def active_members(connection: psycopg.Connection[Any], *, since: date) -> set[tuple[int, int]]:
    """(site id, member id) of every active member whose last visit was on `since` or later."""
    return set(_read(connection, "active_members", {"since": since}))


def members_of_site(connection: psycopg.Connection[Any], site_id: int, *, since: date | None) -> list[int]:
    """Ids of the site's active members, in order: of those whose last visit was on `since` or later, or (None) of all."""
    return [member_id for (member_id,) in _read(connection, "members_of_site", {"site_id": site_id, "since": since})]


def known_members(connection: psycopg.Connection[Any], site_id: int, member_ids: Collection[int]) -> set[int]:
    """Which of the ids are members of the site, active or not."""
    return {member_id for (member_id,) in _read(connection, "known_members", {"site_id": site_id, "member_ids": list(member_ids)})}


def known_assistants(connection: psycopg.Connection[Any], site_id: int, assistant_ids: Collection[int]) -> set[int]:
    """Which of the ids are assistants of the site, at work or not."""
    wanted = {"site_id": site_id, "assistant_ids": list(assistant_ids)}
    return {assistant_id for (assistant_id,) in _read(connection, "known_assistants", wanted)}


def _read(connection: psycopg.Connection[Any], query: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    # Binary: ids arrive as they are, without a text to parse.
    with source_errors(), connection.cursor(row_factory=tuple_row, binary=True) as cursor:
        return cursor.execute(named_queries("members", "zqyy_ai.warehouse")[query], parameters).fetchall()


class _Row:
    """A row, or an object within one, as JSON brought it. Each getter gives a value of its kind or says which row is not as agreed."""

    __slots__ = ("_values", "place")

    def __init__(self, values: Any, place: str) -> None:
        self.place = place
        if not isinstance(values, dict):
            _refuse(f"{place} is {_shown(values)}, where an object belongs")
        self._values = values

    def text(self, name: str) -> str:
        value = self._values.get(name)
        return value if isinstance(value, str) else self._unusable(name, "a text")

    def whole(self, name: str) -> int:
        value = self._values.get(name)
        if type(value) is int:
            return value
        if isinstance(value, Decimal) and value == value.to_integral_value():
            return int(value)
        return self._unusable(name, "a whole number")

    def hundredths(self, name: str) -> int:
        """Yuan as fen, hours as hundredths of an hour."""
        value = self._values.get(name)
        if type(value) is int:
            return value * 100
        if isinstance(value, Decimal):
            return int((value * 100).to_integral_value(ROUND_HALF_UP))
        return self._unusable(name, "a number")

    def truth(self, name: str) -> bool:
        value = self._values.get(name)
        return value if isinstance(value, bool) else self._unusable(name, "true or false")

    def day(self, name: str) -> date:
        value = self._values.get(name)
        if isinstance(value, str):
            try:
                return date.fromisoformat(value)
            except ValueError:
                pass
        return self._unusable(name, "a date")

    def moment(self, name: str) -> datetime:
        value = self._values.get(name)
        if isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                moment = None
            if moment is not None and moment.tzinfo is not None:
                return moment.astimezone(SHANGHAI)
        return self._unusable(name, "a time with its offset, like 2026-04-18T19:30:00+08:00")

    def one_of(self, name: str, allowed: Collection[str]) -> str:
        value = self.text(name)
        return value if value in allowed else self._unusable(name, f"one of {', '.join(sorted(allowed))}")

    def optional(self, get: Callable[[str], Value], name: str) -> Value | None:
        return None if self._values.get(name) is None else get(name)

    def parts(self, name: str, made: Callable[["_Row"], Value]) -> tuple[Value, ...]:
        """The objects of a JSON array; NULL is an empty one."""
        values = self._values.get(name)
        if values is None:
            return ()
        if not isinstance(values, list):
            self._unusable(name, "an array")
        return tuple(made(_Row(part, f"{self.place}: {name}[{position}]")) for position, part in enumerate(values))

    def _unusable(self, name: str, wanted: str) -> NoReturn:
        _refuse(f"{self.place}: {name} is {_shown(self._values.get(name))}, where {wanted} belongs")


def _refuse(said: str) -> NoReturn:
    raise SourceContractError(f"{said} (a rerun does not help; run zqyy-ai doctor and see docs/warehouse.md)")


def _shown(value: Any) -> str:
    """A number, or only the kind of anything else: a text can be a phone number, and messages are logged."""
    match value:
        case None:
            return "NULL"
        case str():
            return "a text"
        case list() | dict():
            return "an array" if isinstance(value, list) else "an object"
        case _:
            return str(value)


def _unique(rows: list[_Row], id_name: str, made: Callable[[_Row], Value]) -> tuple[Value, ...]:
    seen = set()
    values = []
    for row in rows:
        row_id = row.whole(id_name)
        if row_id in seen:
            _refuse(f"{row.place}: {id_name} {row_id} is there more than once: make (site_id, {id_name}) unique in the view")
        seen.add(row_id)
        row.place = f"{row.place}, {id_name} {row_id}"
        values.append(made(row))
    return tuple(values)


def _member(row: _Row, site_id: int, member_id: int) -> Member:
    gender = row.optional(row.text, "gender")
    return Member(
        site_id=site_id,
        member_id=member_id,
        member_name=row.text("member_name"),
        gender=gender if gender in _GENDERS else None,
        level=row.optional(row.text, "level"),
        joined_on=row.optional(row.day, "joined_on"),
        birthday=row.optional(row.day, "birthday"),
        balance_fen=row.optional(row.hundredths, "balance_cny"),
        points=row.optional(row.whole, "points"),
        last_visit_on=row.optional(row.day, "last_visit_on"),
    )


def _assistant(row: _Row) -> Assistant:
    return Assistant(
        assistant_id=row.whole("assistant_id"),
        assistant_name=row.text("assistant_name"),
        level=row.optional(row.text, "level"),
        joined_on=row.optional(row.day, "joined_on"),
        is_active=row.truth("is_active"),
    )


def _task(row: _Row) -> Task:
    return Task(
        task_id=row.whole("task_id"),
        assistant_id=row.whole("assistant_id"),
        task_type=row.text("task_type"),
        title=row.text("title"),
        detail=row.optional(row.text, "detail"),
        created_at=row.moment("created_at"),
        due_on=row.optional(row.day, "due_on"),
    )


def _note(row: _Row) -> Note:
    return Note(
        note_id=row.whole("note_id"),
        content=row.text("content"),
        noted_by_name=row.optional(row.text, "noted_by_name"),
        created_at=row.moment("created_at"),
    )


def _visit(row: _Row) -> Visit:
    return Visit(
        visit_id=row.whole("visit_id"),
        business_date=row.day("business_date"),
        started_at=row.moment("started_at"),
        ended_at=row.moment("ended_at"),
        guest_count=row.optional(row.whole, "guest_count"),
        gross_fen=row.hundredths("gross_cny"),
        discount_fen=row.hundredths("discount_cny"),
        paid_fen=row.hundredths("paid_cny"),
        tables=row.parts("tables", _visit_table),
        assistants=row.parts("assistants", _visit_assistant),
        goods=row.parts(
            "goods", lambda part: VisitItem(part.text("name"), part.hundredths("amount_cny"), part.optional(part.whole, "quantity"))
        ),
        discounts=row.parts("discounts", lambda part: VisitItem(part.text("name"), part.hundredths("amount_cny"))),
        payments=row.parts("payments", lambda part: VisitItem(part.text("method"), part.hundredths("amount_cny"))),
    )


def _visit_table(part: _Row) -> VisitTable:
    return VisitTable(
        table_name=part.text("table_name"),
        area=part.one_of("area", _AREAS),
        started_at=part.moment("started_at"),
        ended_at=part.moment("ended_at"),
        centihours=part.hundredths("hours"),
        fee_fen=part.hundredths("fee_cny"),
    )


def _visit_assistant(part: _Row) -> VisitAssistant:
    return VisitAssistant(
        assistant_id=part.whole("assistant_id"),
        assistant_name=part.text("assistant_name"),
        centihours=part.hundredths("hours"),
        fee_fen=part.hundredths("fee_cny"),
    )
