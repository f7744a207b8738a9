import re
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import psycopg
import pytest

from zqyy_ai.devkit import demo_data
from zqyy_ai.domain.personal_numbers import mask_personal_numbers

UNTIL = date(2026, 4, 20)
MEMBERS = 300


@pytest.fixture(scope="module")
def demo(module_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Three sites with 400 days, the third without KTV."""
    demo_data.fill(module_database_url, sites=3, members=MEMBERS, until=UNTIL)
    with psycopg.connect(module_database_url, autocommit=True) as connection:
        yield connection


def rows(connection: psycopg.Connection[Any], query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode()).fetchall()


def number(connection: psycopg.Connection[Any], query: str) -> int:
    return int(rows(connection, query)[0][0])


def test_each_site_has_as_many_active_members_as_were_asked_for_on_every_day(demo: psycopg.Connection[Any]) -> None:
    found = rows(demo, "SELECT site_id, count(*) FILTER (WHERE is_active), count(*) FROM ai_source.members GROUP BY 1 ORDER BY 1")
    assert [(site_id, active) for site_id, active, _ in found] == [(1001, MEMBERS), (1002, MEMBERS), (1003, MEMBERS)]
    assert all(held > MEMBERS for _, _, held in found)


def test_nobody_comes_before_he_joined_or_after_he_left(demo: psycopg.Connection[Any]) -> None:
    assert (
        number(
            demo,
            "SELECT count(*) FROM demo_dws.visits JOIN demo_dws.members USING (site_id, member_id)"
            " WHERE business_date < joined_on OR business_date >= left_on",
        )
        == 0
    )
    assert number(demo, "SELECT count(*) FROM ai_source.visits LEFT JOIN ai_source.members m USING (member_id) WHERE m IS NULL") == 0


def test_the_last_visit_of_a_member_is_the_newest_of_the_visits(demo: psycopg.Connection[Any]) -> None:
    assert (
        number(
            demo,
            "SELECT count(*) FROM ai_source.members m WHERE last_visit_on IS DISTINCT FROM (SELECT max(business_date)"
            " FROM ai_source.visits v WHERE (v.site_id, v.member_id) = (m.site_id, m.member_id))",
        )
        == 0
    )


def test_there_are_regulars_sleepers_newcomers_high_balances_and_birthdays(demo: psycopg.Connection[Any]) -> None:
    def members(condition: str) -> int:
        return number(demo, f"SELECT count(*) FROM ai_source.members WHERE site_id = 1001 AND is_active AND {condition}")

    visits = "(SELECT count(*) FROM ai_source.visits v WHERE v.site_id = 1001 AND v.member_id = members.member_id)"
    assert members(f"{visits} > 60") > 20
    assert members(f"{visits} BETWEEN 1 AND 12") > 40
    assert members(f"{visits} > 15 AND last_visit_on < '2026-02-20'") > 3
    assert members("joined_on > '2026-03-20'") > 0
    assert members("balance_cny > 3000") > 5
    assert members("extract(month FROM birthday) = 4") > 5
    assert members("gender IS NULL") > 0 < members("birthday IS NULL")


def test_bills_show_who_comes_when_and_for_what(demo: psycopg.Connection[Any]) -> None:
    areas = rows(
        demo, "SELECT DISTINCT site_id, part ->> 'area' FROM ai_source.visits, jsonb_array_elements(tables) AS part WHERE site_id <> 1002"
    )
    assert {area for site_id, area in areas if site_id == 1001} == {area.value for area in demo_data.areas_of_site(0)}
    assert {area for site_id, area in areas if site_id == 1003} == {area.value for area in demo_data.areas_of_site(2)}
    for condition in (
        "jsonb_array_length(tables) = 2",
        "jsonb_array_length(assistants) = 1",
        "jsonb_array_length(assistants) = 2",
        "jsonb_array_length(payments) = 2",
        'discounts @> \'[{"name": "美团团购券"}]\'',
        'discounts @> \'[{"name": "抹零"}]\'',
        "guest_count IS NULL",
        "(ended_at AT TIME ZONE 'Asia/Shanghai')::date > business_date",
    ):
        assert number(demo, f"SELECT count(*) FROM ai_source.visits WHERE {condition}") > 20, condition
    weekend = number(demo, "SELECT count(*) FROM ai_source.visits WHERE extract(isodow FROM business_date) > 5")
    assert weekend / 2 > number(demo, "SELECT count(*) FROM ai_source.visits WHERE extract(isodow FROM business_date) < 5") / 5
    assert (
        number(
            demo,
            "SELECT count(*) FROM ai_source.visits WHERE ended_at > ((business_date + 1)::timestamp + '2h') AT TIME ZONE 'Asia/Shanghai'",
        )
        == 0
    )


def test_a_regulars_assistant_is_mostly_the_same(demo: psycopg.Connection[Any]) -> None:
    shares = rows(
        demo,
        """
        SELECT max(served)::float / sum(served)
        FROM (
            SELECT site_id, member_id, part -> 'assistant_id' AS assistant_id, count(*) AS served
            FROM ai_source.visits, jsonb_array_elements(assistants) AS part GROUP BY 1, 2, 3
        ) AS pairs
        GROUP BY site_id, member_id HAVING sum(served) >= 10
        """,
    )
    assert len(shares) > 50
    assert sum(share for (share,) in shares) / len(shares) > 0.6


def test_there_are_20_to_30_assistants_a_site_some_of_them_gone(demo: psycopg.Connection[Any]) -> None:
    for held, gone in rows(demo, "SELECT count(*), count(*) FILTER (WHERE NOT is_active) FROM ai_source.assistants GROUP BY site_id"):
        assert 20 <= held <= 30
        assert gone in {2, 3}


def test_tasks_are_of_all_kinds_and_some_are_open(demo: psycopg.Connection[Any]) -> None:
    open_by_type = dict(rows(demo, "SELECT task_type, count(*) FILTER (WHERE status = 'open') FROM ai_source.tasks GROUP BY task_type"))
    assert set(open_by_type) == {"新客跟进", "生日关怀", "召回", "回访", "储值提醒", "约课邀请"}
    assert all(open_by_type.values())
    statuses = dict(rows(demo, "SELECT status, count(*) FROM ai_source.tasks GROUP BY status"))
    assert set(statuses) == {"open", "done", "cancelled"}
    assert 100 < statuses["open"] < 600
    assert number(demo, "SELECT count(*) FROM ai_source.tasks WHERE status = 'open' AND due_on < '2026-03-01'") > 10


def test_notes_hold_what_masking_and_fencing_are_for(demo: psycopg.Connection[Any]) -> None:
    contents = [content for (content,) in rows(demo, "SELECT content FROM ai_source.notes")]
    masked = [mask_personal_numbers(content) for content in contents]
    for placeholder in ("[手机号]", "[身份证号]", "[银行卡号]", "[微信号]"):
        assert sum(placeholder in content for content in masked) > 5, placeholder
    full_width = [content for content in contents if re.search("[\uff10-\uff19]{11}", content)]
    assert len(full_width) > 5
    assert all("[手机号]" in mask_personal_numbers(content) for content in full_width)
    assert sum("忽略前面" in content for content in contents) > 0
    assert sum("</notes>" in content for content in contents) > 0
    untouched = sum(content == after for content, after in zip(contents, masked, strict=True)) / len(contents)
    assert 0.8 < untouched < 0.97
    assert not any("{" in content for content in contents)
    assert number(demo, "SELECT count(*) FROM ai_source.members WHERE member_name ~ '[0-9]{11}'") > 0


def test_numbers_that_only_look_like_a_persons_stay_as_they_are(demo: psycopg.Connection[Any]) -> None:
    for (content,) in rows(demo, "SELECT DISTINCT content FROM ai_source.notes WHERE content ~ '充值3000|寄存到|预约|价格敏感|打了一下午'"):
        assert mask_personal_numbers(content) == content


def test_more_members_and_more_days_only_add_to_what_is_there(make_database: Callable[[], str]) -> None:
    def visits(members: int, days: int) -> set[tuple[Any, ...]]:
        url = make_database()
        demo_data.fill(url, sites=1, days=days, members=members, seed=3, until=UNTIL)
        with psycopg.connect(url) as connection:
            return {row[:10] for row in rows(connection, "SELECT * FROM ai_source.visits")}

    few, many, long = visits(30, 40), visits(60, 40), visits(30, 80)
    assert few < many
    assert few < long
    assert {row for row in long if row[3] > UNTIL - timedelta(days=40)} == few


def test_an_advance_over_a_newcomers_end_closes_his_card_and_opens_the_next(database_url: str) -> None:
    demo_data.fill(database_url, sites=1, days=3, members=40, until=UNTIL)
    with psycopg.connect(database_url, autocommit=True) as connection:

        def members() -> list[tuple[Any, ...]]:
            return rows(connection, "SELECT count(*) FILTER (WHERE is_active), count(*) FROM ai_source.members")

        assert members() == [(40, 40)]
        demo_data.advance(database_url, UNTIL + timedelta(days=360))
        assert members() == [(40, 44)]


def test_a_demo_without_members_is_finance_alone(database_url: str) -> None:
    filled = demo_data.fill(database_url, sites=1, days=3, members=0, until=UNTIL)
    assert filled.rows > 0
    with psycopg.connect(database_url) as connection:
        for view in ("members", "visits", "assistants", "tasks", "notes"):
            assert number(connection, f"SELECT count(*) FROM ai_source.{view}") == 0
