import json
import time
from datetime import date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from zqyy_ai.domain.business_clock import SHANGHAI
from zqyy_ai.domain.errors import SourceContractError
from zqyy_ai.domain.members import MOST_VISITS, MemberData, VisitItem
from zqyy_ai.warehouse.contract import MEMBER_VIEWS
from zqyy_ai.warehouse.members import (
    NOTE_START,
    active_members,
    known_assistants,
    known_members,
    load_member,
    members_of_site,
    read_askable,
)
from zqyy_ai_tests.warehouse.conftest import LAST_DAY

Connection = psycopg.Connection[Any]
SITE = 1001
NEW_MEMBER = 77


def load(connection: Connection, member_id: int = NEW_MEMBER) -> MemberData:
    return load_member(connection, SITE, "朝阳店", member_id)


@pytest.fixture
def known(connection: Connection) -> Connection:
    """With a member of whom nothing but the name is known, beside the demo's."""
    connection.execute("INSERT INTO demo_dws.members (site_id, member_id, member_name) VALUES (%s, %s, '新客')", (SITE, NEW_MEMBER))
    return connection


def add_visit(connection: Connection, visit_id: int, day: date = LAST_DAY, member_id: int = NEW_MEMBER, **columns: Any) -> None:
    moment = datetime(day.year, day.month, day.day, 19, 30, tzinfo=SHANGHAI)
    row = {"gross_cny": 0, "discount_cny": 0, "paid_cny": 0, "started_at": moment, "ended_at": moment + timedelta(hours=2)} | columns
    row |= {"site_id": SITE, "visit_id": visit_id, "member_id": member_id, "business_date": day}
    names, values = ", ".join(row), ", ".join(f"%({name})s" for name in row)
    connection.execute(f"INSERT INTO demo_dws.visits ({names}) VALUES ({values})".encode(), row)


def add_task(connection: Connection, task_id: int, *, is_open: bool, assistant_id: int = 5) -> None:
    created_at = datetime(2026, 1, 1, tzinfo=SHANGHAI) + timedelta(hours=task_id)
    connection.execute(
        "INSERT INTO demo_dws.tasks (site_id, task_id, member_id, assistant_id, task_type, title, created_at, closed_on)"
        " VALUES (%s, %s, %s, %s, '回访', '回访', %s, %s)",
        (SITE, task_id, NEW_MEMBER, assistant_id, created_at, None if is_open else date(2026, 2, 1)),
    )


def a_regular(connection: Connection) -> int:
    """The demo member of the site with the most visits."""
    row = connection.execute(
        "SELECT member_id FROM ai_source.visits WHERE site_id = %s GROUP BY member_id ORDER BY count(*) DESC, member_id LIMIT 1", (SITE,)
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_a_member_comes_exactly_as_the_views_have_him(connection: Connection) -> None:
    member_id = a_regular(connection)
    data = load(connection, member_id)
    with connection.cursor(row_factory=dict_row) as cursor:
        member = cursor.execute("SELECT * FROM ai_source.members WHERE site_id = %s AND member_id = %s", (SITE, member_id)).fetchone()
        visits = cursor.execute(
            "SELECT * FROM ai_source.visits WHERE site_id = %s AND member_id = %s ORDER BY business_date DESC", (SITE, member_id)
        ).fetchall()
    assert data.member is not None
    assert member is not None
    for name in ("member_id", "member_name", "gender", "level", "joined_on", "birthday", "points", "last_visit_on"):
        assert getattr(data.member, name) == member[name]
    assert data.member.balance_fen == member["balance_cny"] * 100
    assert [visit.visit_id for visit in data.visits] == [row["visit_id"] for row in visits]
    assert len(visits) > 10
    for visit, row in zip(data.visits, visits, strict=True):
        assert (visit.business_date, visit.started_at, visit.ended_at) == (row["business_date"], row["started_at"], row["ended_at"])
        assert (visit.gross_fen, visit.discount_fen, visit.paid_fen) == tuple(
            row[name] * 100 for name in ("gross_cny", "discount_cny", "paid_cny")
        )
        fees = [table.fee_fen for table in visit.tables] + [assistant.fee_fen for assistant in visit.assistants]
        assert visit.gross_fen == sum(fees) + sum(item.amount_fen for item in visit.goods)
        assert visit.paid_fen == sum(item.amount_fen for item in visit.payments) == visit.gross_fen - visit.discount_fen
        assert [item.name for item in visit.payments] == [part["method"] for part in row["payments"]]
        assert [(item.name, item.quantity) for item in visit.goods] == [(part["name"], part["quantity"]) for part in row["goods"]]
        assert [table.centihours for table in visit.tables] == [round(part["hours"] * 100) for part in row["tables"]]
    served = {assistant.assistant_id for visit in data.visits for assistant in visit.assistants}
    assert set(data.assistants) == served | {task.assistant_id for task in data.open_tasks}
    assert (data.site_id, data.site_name, data.member_id) == (SITE, "朝阳店", member_id)


def test_amounts_are_exact_whatever_a_float_would_make_of_them(known: Connection) -> None:
    amounts = ["0.07", "1.15", "8.41", "1234567890123.29", "0.285", "3", "-0.35"]
    parts = ", ".join(f'{{"name": "x", "quantity": 2.00, "amount_cny": {amount}}}' for amount in amounts)
    add_visit(known, 1, goods=f"[{parts}]", gross_cny="1234567890.13", paid_cny="0.29")
    [visit] = load(known).visits
    assert [item.amount_fen for item in visit.goods] == [7, 115, 841, 123_456_789_012_329, 29, 300, -35]
    assert (visit.gross_fen, visit.paid_fen, visit.goods[0].quantity) == (123_456_789_013, 29, 2)


def test_moments_are_in_shanghais_time_whatever_the_session_thinks(known: Connection) -> None:
    known.execute("SET LOCAL TimeZone = 'America/New_York'")
    table = {"table_name": "A01", "area": "hallA", "hours": 2, "fee_cny": 1, "started_at": "2026-04-20 11:30:00+00"}
    add_visit(known, 1, tables=json.dumps([table | {"ended_at": "2026-04-20T13:30:00Z"}]))
    [visit] = load(known).visits
    assert visit.started_at.isoformat() == visit.tables[0].started_at.isoformat() == "2026-04-20T19:30:00+08:00"
    assert visit.tables[0].ended_at.isoformat() == "2026-04-20T21:30:00+08:00"


def test_a_member_of_whom_nothing_but_the_name_is_known_has_empty_lists(known: Connection) -> None:
    data = load(known)
    assert data.member is not None
    assert (data.member.member_name, data.member.level, data.member.balance_fen, data.member.last_visit_on) == ("新客", None, None, None)
    assert (data.visits, data.visit_range(), data.assistants, data.open_tasks, data.newest_note) == ((), None, {}, (), None)


def test_a_member_that_the_warehouse_does_not_know_is_none_and_his_notes_come_all_the_same(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO demo_dws.notes (site_id, note_id, member_id, content, created_at) VALUES (%s, 1, 4242, '刚办卡', now())", (SITE,)
    )
    data = load(connection, 4242)
    assert data.member is None
    assert data.newest_note is not None
    assert data.newest_note.content == "刚办卡"


@pytest.mark.parametrize(("held", "known_as"), [("男", "男"), ("女", "女"), ("未知", None), ("", None), ("M", None), ("1", None)])
def test_a_gender_that_is_neither_of_the_two_is_not_known(known: Connection, held: str, known_as: str | None) -> None:
    known.execute("UPDATE demo_dws.members SET gender = %s WHERE member_id = %s", (held, NEW_MEMBER))
    member = load(known).member
    assert member is not None
    assert member.gender == known_as


@pytest.mark.parametrize("nothing", [None, "null", "[]"])
def test_a_visit_without_parts_is_read(known: Connection, nothing: str | None) -> None:
    add_visit(known, 1, **dict.fromkeys(("tables", "assistants", "goods", "discounts", "payments"), nothing))
    [visit] = load(known).visits
    assert (visit.tables, visit.assistants, visit.goods, visit.discounts, visit.payments) == ((), (), (), (), ())
    assert visit.guest_count is None


def test_a_quantity_that_nobody_counted_is_none(known: Connection) -> None:
    add_visit(known, 1, goods='[{"name": "小吃", "quantity": null, "amount_cny": 3}, {"name": "茶", "amount_cny": 4}]')
    assert load(known).visits[0].goods == (VisitItem("小吃", 300), VisitItem("茶", 400))


# What is left out.


def test_visits_go_back_365_days_from_the_newest_and_not_from_today(known: Connection) -> None:
    newest = date(2023, 5, 1)
    for visit_id, days_before in enumerate((366, 365, 30, 0), 1):
        add_visit(known, visit_id, newest - timedelta(days=days_before))
    data = load(known)
    assert [visit.visit_id for visit in data.visits] == [4, 3, 2]
    assert data.visit_range() == (newest - timedelta(days=365), newest)


def test_of_very_many_visits_the_newest_come(known: Connection) -> None:
    for visit_id in range(1, MOST_VISITS + 11):
        add_visit(known, visit_id, LAST_DAY - timedelta(days=visit_id % 2))
    data = load(known)
    loaded = [visit.visit_id for visit in data.visits]
    newest_day = [visit_id for visit_id in range(MOST_VISITS + 10, 0, -1) if visit_id % 2 == 0]
    assert len(loaded) == MOST_VISITS
    assert loaded[: len(newest_day)] == newest_day
    assert data.visit_range() == (LAST_DAY - timedelta(days=1), LAST_DAY), "what is older was left out"


def test_every_open_task_comes_newest_first_and_no_other(known: Connection) -> None:
    for task_id in range(1, 61):
        add_task(known, task_id, is_open=task_id <= 30, assistant_id=5 if task_id <= 30 else 6)
    data = load(known)
    assert [task.task_id for task in data.open_tasks] == list(range(30, 0, -1))
    assert data.open_task_assistants() == (5,)


def test_of_the_notes_the_newest_comes(known: Connection) -> None:
    for note_id in range(1, 4):
        known.execute(
            "INSERT INTO demo_dws.notes (site_id, note_id, member_id, content, created_at) VALUES (%s, %s, %s, '备注', %s)",
            (SITE, note_id, NEW_MEMBER, datetime(2026, 1, 1, tzinfo=SHANGHAI) + timedelta(hours=note_id)),
        )
    newest = load(known).newest_note
    assert newest is not None
    assert newest.note_id == 3


def test_assistants_of_tasks_and_visits_are_told_and_one_that_the_warehouse_does_not_know_is_left_out(known: Connection) -> None:
    known.execute(
        "INSERT INTO demo_dws.assistants (site_id, assistant_id, assistant_name, is_active) VALUES"
        " (%(site)s, 5, '任务', true), (%(site)s, 6, '消费', false), (%(site)s, 7, '别人', true), (1002, 5, '别店', true)",
        {"site": SITE},
    )
    add_task(known, 1, is_open=True)
    add_visit(
        known,
        1,
        assistants='[{"assistant_id": 6, "assistant_name": "消费", "hours": 1, "fee_cny": 1},'
        ' {"assistant_id": 404, "assistant_name": "未登记", "hours": 1, "fee_cny": 1}]',
    )
    data = load(known)
    assert {key: (found.assistant_name, found.is_active) for key, found in data.assistants.items()} == {
        5: ("任务", True),
        6: ("消费", False),
    }
    assert data.open_task_assistants() == (5,)


# Views that break the contract.

TABLE = {
    "table_name": "A01",
    "area": "hallA",
    "started_at": "2026-04-20T19:30:00+08:00",
    "ended_at": "2026-04-20T21:30:00+08:00",
    "hours": 2,
    "fee_cny": 84,
}


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"tables": json.dumps([TABLE | {"area": "all"}])}, r"tables\[0\]: area is a text, where one of hallA, hallB"),
        ({"tables": json.dumps([TABLE | {"started_at": "2026-04-20 19:30"}])}, r"tables\[0\]: started_at .* with its offset"),
        ({"tables": json.dumps([TABLE, TABLE | {"fee_cny": "84"}])}, r"tables\[1\]: fee_cny is a text, where a number belongs"),
        ({"tables": json.dumps([TABLE | {"table_name": None}])}, r"tables\[0\]: table_name is NULL, where a text belongs"),
        ({"tables": "[3]"}, r"tables\[0\] is 3, where an object belongs"),
        ({"goods": "{}"}, "goods is an object, where an array belongs"),
        ({"goods": '[{"name": "x", "quantity": 1.5, "amount_cny": 1}]'}, r"quantity is 1\.5, where a whole number belongs"),
        ({"assistants": '[{"assistant_id": "13800138000"}]'}, "assistant_id is a text, where a whole number belongs"),
        ({"payments": '[{"method": true, "amount_cny": 1}]'}, "method is True, where a text belongs"),
        ({"started_at": "infinity"}, "started_at is a text"),
    ],
)
def test_a_visit_that_is_not_as_agreed_is_refused_and_named(known: Connection, columns: dict[str, Any], said: str) -> None:
    add_visit(known, 31, **columns)
    with pytest.raises(
        SourceContractError, match=f"ai_source.visits, site 1001, member 77, visit_id 31.*{said}.*zqyy-ai doctor"
    ) as refused:
        load(known)
    assert "13800138000" not in str(refused.value)


@pytest.mark.parametrize(
    ("view", "column", "value"),
    [
        ("members", "member_name", "NULL"),
        ("visits", "visit_id", "NULL"),
        ("visits", "paid_cny", "NULL"),
        ("visits", "business_date", "NULL"),
        ("tasks", "assistant_id", "NULL"),
        ("notes", "content", "NULL"),
        ("assistants", "is_active", "NULL"),
    ],
)
def test_a_row_that_is_not_as_agreed_is_refused_and_named(known: Connection, view: str, column: str, value: str) -> None:
    add_visit(known, 1)
    add_task(known, 1, is_open=True)
    known.execute(
        "INSERT INTO demo_dws.assistants (site_id, assistant_id, assistant_name, is_active) VALUES (%s, 5, '可可', true)", (SITE,)
    )
    known.execute(
        "INSERT INTO demo_dws.notes (site_id, note_id, member_id, content, created_at) VALUES (%s, 1, %s, '备注', now())",
        (SITE, NEW_MEMBER),
    )
    known.execute(f"ALTER VIEW ai_source.{view} RENAME TO whole".encode())
    columns = ", ".join(f"{value}::{types[0]} AS {name}" if name == column else name for name, types in MEMBER_VIEWS[view].items())
    known.execute(f"CREATE VIEW ai_source.{view} AS SELECT {columns} FROM ai_source.whole".encode())
    with pytest.raises(SourceContractError, match=f"ai_source.{view}, site 1001, member 77.*{column} is"):
        load(known)


@pytest.mark.parametrize("view", ["members", "visits", "tasks"])
def test_a_row_that_is_held_twice_is_refused(connection: Connection, view: str) -> None:
    member_id = a_regular(connection)
    connection.execute(
        "INSERT INTO demo_dws.tasks (site_id, task_id, member_id, assistant_id, task_type, title, created_at)"
        " VALUES (%s, 1, %s, 1, '回访', '回访', now())",
        (SITE, member_id),
    )
    connection.execute(f"ALTER VIEW ai_source.{view} RENAME TO once".encode())
    connection.execute(f"CREATE VIEW ai_source.{view} AS SELECT * FROM ai_source.once UNION ALL SELECT * FROM ai_source.once".encode())
    with pytest.raises(SourceContractError, match=f"ai_source.{view}, site 1001.* more than once"):
        load(connection, member_id)


@pytest.mark.parametrize("view", list(MEMBER_VIEWS))
def test_a_deployment_without_a_member_view_is_told_so(connection: Connection, view: str) -> None:
    connection.execute(f"ALTER VIEW ai_source.{view} RENAME TO lost".encode())
    with pytest.raises(SourceContractError, match=rf"ai_source\.{view}.*zqyy-ai doctor"):
        load(connection)


def test_without_any_view_every_read_says_so(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        for read in (
            lambda: load(connection),
            lambda: active_members(connection, since=LAST_DAY),
            lambda: members_of_site(connection, SITE, since=None),
            lambda: known_members(connection, SITE, [1]),
        ):
            with pytest.raises(SourceContractError, match=r"ai_source.*zqyy-ai doctor"):
                read()


# Which members there are.


@pytest.fixture
def four_members(connection: Connection) -> Connection:
    connection.execute("DELETE FROM demo_dws.members")
    connection.execute(
        "INSERT INTO demo_dws.members (site_id, member_id, member_name, last_visit_on, left_on) VALUES"
        " (1001, 3, '今天', '2026-04-20', NULL), (1001, 1, '以前', '2026-01-01', NULL), (1001, 2, '从未', NULL, NULL),"
        " (1001, 4, '销卡', '2026-04-20', '2026-04-20'), (1002, 3, '别店', '2026-04-19', NULL)"
    )
    return connection


def test_active_members_are_those_of_all_sites_who_came_since_and_did_not_leave(four_members: Connection) -> None:
    assert active_members(four_members, since=date(2026, 4, 19)) == {(1001, 3), (1002, 3)}
    assert active_members(four_members, since=date(2026, 1, 1)) == {(1001, 1), (1001, 3), (1002, 3)}
    assert active_members(four_members, since=date(2026, 4, 21)) == set()


def test_members_of_a_site_come_by_id_with_those_who_never_came_if_no_day_is_named(four_members: Connection) -> None:
    assert members_of_site(four_members, 1001, since=None) == [1, 2, 3]
    assert members_of_site(four_members, 1001, since=date(2026, 1, 1)) == [1, 3]
    assert members_of_site(four_members, 4711, since=None) == []


def test_known_members_are_those_of_the_site_left_or_not(four_members: Connection) -> None:
    assert known_members(four_members, 1001, [4, 2, 99]) == {2, 4}
    assert known_members(four_members, 1002, {1, 2}) == set()
    assert known_members(four_members, 1001, []) == set()


def test_known_assistants_are_those_of_the_site_at_work_or_not(connection: Connection) -> None:
    connection.execute("DELETE FROM demo_dws.assistants")
    connection.execute(
        "INSERT INTO demo_dws.assistants (site_id, assistant_id, assistant_name, is_active) VALUES"
        " (1001, 1, '晓晓', true), (1001, 2, '小雨', false), (1002, 3, '别店', true)"
    )
    assert known_assistants(connection, 1001, [1, 2, 3, 4]) == {1, 2}
    assert known_assistants(connection, 1001, []) == set()


def test_what_is_askable_is_told_of_the_named_members_of_the_site_alone(connection: Connection) -> None:
    for table in ("visits", "notes", "tasks"):
        connection.execute(f"DELETE FROM demo_dws.{table}".encode())
    connection.execute(
        "INSERT INTO demo_dws.visits (site_id, visit_id, member_id, business_date, started_at, ended_at, gross_cny, discount_cny, paid_cny)"
        " SELECT site_id, visit_id, member_id, '2026-04-20', '2026-04-20 19:00+08', '2026-04-20 20:00+08', 1, 0, 1"
        " FROM (VALUES (1001, 1, 7), (1001, 2, 7), (1001, 3, 9), (1002, 4, 8)) AS visit (site_id, visit_id, member_id)"
    )
    connection.execute(
        "INSERT INTO demo_dws.notes (site_id, note_id, member_id, content, created_at) VALUES (1001, 1, 7, '新的', '2026-04-20 12:00+08'),"
        " (1001, 2, 7, '旧的', '2026-04-19 12:00+08'), (1001, 3, 8, repeat('长', 20000), '2026-04-20 12:00+08'), (1001, 4, 9, '别人', now())"
    )
    connection.execute(
        "INSERT INTO demo_dws.tasks (site_id, task_id, member_id, assistant_id, task_type, title, created_at) VALUES"
        " (1001, 1, 7, 100101, 'birthday', '关怀', now()), (1001, 2, 7, 100101, 'recall', '召回', now()), (1002, 3, 8, 100201, 'recall', '召回', now())"
    )
    askable = read_askable(connection, 1001, [7, 8])
    assert askable.visited == {7}
    assert (askable.newest_notes[7], len(askable.newest_notes[8]), len(askable.newest_notes)) == ("新的", NOTE_START, 2)
    assert askable.open_tasks == {(7, 100101)}


def test_100_000_members_are_read_in_less_than_a_second(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO demo_dws.members (site_id, member_id, member_name, last_visit_on)"
        " SELECT 2000 + number % 100, number, '会员', '2026-04-20' FROM generate_series(1, 100000) AS number"
    )
    begun = time.monotonic()
    found = active_members(connection, since=LAST_DAY)
    assert time.monotonic() - begun < 1
    assert len(found) >= 100_000


def test_a_member_with_60_visits_takes_a_few_milliseconds_of_cpu(connection: Connection) -> None:
    member_id = a_regular(connection)
    connection.execute(
        "DELETE FROM demo_dws.visits WHERE member_id = %(member)s AND site_id = %(site)s AND visit_id NOT IN (SELECT visit_id FROM"
        " demo_dws.visits WHERE member_id = %(member)s AND site_id = %(site)s ORDER BY visit_id LIMIT 10)",
        {"member": member_id, "site": SITE},
    )
    connection.execute(
        "INSERT INTO demo_dws.visits SELECT site_id, visit_id + copy * 100000000, member_id, business_date, started_at, ended_at,"
        " guest_count, gross_cny, discount_cny, paid_cny, tables, assistants, goods, discounts, payments"
        " FROM demo_dws.visits, generate_series(1, 5) AS copy WHERE member_id = %s AND site_id = %s",
        (member_id, SITE),
    )
    assert len(load(connection, member_id).visits) == 60
    spent = []
    for _ in range(5):
        begun = time.process_time()
        load(connection, member_id)
        spent.append(time.process_time() - begun)
    assert min(spent) < 0.015  # 2–5 ms, by machine; a reader that grows with the square of the visits takes far more
