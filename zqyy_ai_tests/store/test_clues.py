"""`public.member_retention_clue` belongs to the back office: of its rows we replace our own, one member and source at a time."""

from typing import Any

import psycopg
import pytest

from zqyy_ai.store import clues
from zqyy_ai.store.clues import ClueSource, StoredClue
from zqyy_ai.store.database import Connection, Database

SITE, MEMBER = 1001, 7
WEEKENDS = StoredClue("消费习惯", "📅 偏好周末下午", "十次到店中八次在周末", "系统")
SNOOKER = StoredClue("玩法偏好", "🎱 常打斯诺克", "", "小王、小李")
BIRTHDAY = StoredClue("客户基础", "🎂 五月生日", "", "系统")


def replace(
    database: Database, *new: StoredClue, site_id: int = SITE, member_id: int = MEMBER, source: ClueSource = ClueSource.CONSUMPTION
) -> bool:
    with database.transaction() as connection:
        return clues.replace_clues(connection, site_id, member_id, source, new)


def rows(connection: Connection) -> list[dict[str, Any]]:
    return connection.execute(
        "SELECT id, site_id, member_id, source, category, summary, detail, recorded_by_name, recorded_by_assistant_id"
        " FROM public.member_retention_clue ORDER BY id"
    ).fetchall()


def summaries(connection: Connection, source: str = "ai_consumption", *, site_id: int = SITE, member_id: int = MEMBER) -> list[str]:
    return [row["summary"] for row in rows(connection) if (row["source"], row["site_id"], row["member_id"]) == (source, site_id, member_id)]


def test_a_clue_is_written_as_the_back_office_reads_it(database: Database, connection: Connection) -> None:
    assert replace(database, WEEKENDS)
    [row] = rows(connection)
    assert {name: value for name, value in row.items() if name != "id"} == {
        "site_id": SITE,
        "member_id": MEMBER,
        "source": "ai_consumption",
        "category": "消费习惯",
        "summary": "📅 偏好周末下午",
        "detail": "十次到店中八次在周末",
        "recorded_by_name": "系统",
        "recorded_by_assistant_id": None,
    }


def test_new_clues_take_the_place_of_all_former_ones_in_their_order(database: Database, connection: Connection) -> None:
    replace(database, WEEKENDS, BIRTHDAY)
    assert replace(database, SNOOKER, WEEKENDS)
    assert summaries(connection) == [SNOOKER.summary, WEEKENDS.summary]


def test_without_clues_the_former_ones_stay(database: Database, connection: Connection) -> None:
    replace(database, WEEKENDS)
    assert not replace(database)
    assert summaries(connection) == [WEEKENDS.summary]


def test_the_same_clues_again_leave_their_rows_as_they_are(database: Database, connection: Connection) -> None:
    """A reused answer must not give the rows new ids: the back office points at them."""
    replace(database, WEEKENDS, SNOOKER)
    before = rows(connection)
    assert not replace(database, WEEKENDS, SNOOKER)
    assert rows(connection) == before
    assert replace(database, SNOOKER, WEEKENDS)


def test_rows_of_other_members_sites_and_sources_are_left_alone(database: Database, connection: Connection) -> None:
    replace(database, WEEKENDS)
    replace(database, SNOOKER, member_id=8)
    replace(database, SNOOKER, site_id=1002)
    replace(database, SNOOKER, source=ClueSource.NOTE)
    replace(database, BIRTHDAY)
    assert summaries(connection) == [BIRTHDAY.summary]
    assert (
        summaries(connection, member_id=8) == summaries(connection, site_id=1002) == summaries(connection, "ai_note") == [SNOOKER.summary]
    )


@pytest.mark.parametrize("source", ["manual", "", None])
def test_what_people_wrote_is_never_touched(database: Database, connection: Connection, source: str | None) -> None:
    connection.execute(
        "INSERT INTO public.member_retention_clue (member_id, site_id, source, category, summary) VALUES (%s, %s, %s, '重要反馈', '人写的')",
        [MEMBER, SITE, source],
    )
    for ours in ClueSource:
        replace(database, WEEKENDS, source=ours)
        replace(database, SNOOKER, source=ours)
    assert [row["summary"] for row in rows(connection) if row["source"] == source] == ["人写的"]


def test_nobody_ever_sees_a_member_without_clues_or_with_both_sets(database: Database, connection: Connection) -> None:
    replace(database, WEEKENDS, BIRTHDAY)
    with database.transaction() as writing:
        clues.replace_clues(writing, SITE, MEMBER, ClueSource.CONSUMPTION, [SNOOKER])
        assert summaries(connection) == [WEEKENDS.summary, BIRTHDAY.summary]
    assert summaries(connection) == [SNOOKER.summary]


def test_clues_that_the_table_refuses_leave_the_former_ones(database: Database, connection: Connection) -> None:
    replace(database, WEEKENDS)
    connection.execute("ALTER TABLE public.member_retention_clue ADD CONSTRAINT no_snooker CHECK (category <> '玩法偏好') NOT VALID")
    try:
        with pytest.raises(psycopg.errors.CheckViolation):
            replace(database, BIRTHDAY, SNOOKER)
    finally:
        connection.execute("ALTER TABLE public.member_retention_clue DROP CONSTRAINT no_snooker")
    assert summaries(connection) == [WEEKENDS.summary]
