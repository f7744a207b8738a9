from collections.abc import Callable, Iterator
from datetime import date
from io import StringIO
from typing import Any

import psycopg
import pytest
from rich.console import Console

from zqyy_ai.devkit import demo_data
from zqyy_ai.devkit.demo import Demo
from zqyy_ai.devkit.demo_events import FiredEvent, await_ends, fire_events, in_short
from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.business_clock import SystemClock
from zqyy_ai.domain.runtime_context import LIVE
from zqyy_ai.engine.intake import take_in
from zqyy_ai.store.database import Database
from zqyy_ai.terminal import POLL_SECONDS, Narration
from zqyy_ai_tests.prompts import members

SITE = 1001


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url, max_connections=2) as opened:
        yield opened


def never(_seconds: float) -> None:
    raise AssertionError("nothing is waited for")


def test_the_demo_tells_of_a_consumption_a_note_and_an_assignment_of_three_members(database: Database, database_url: str) -> None:
    demo_data.fill(database_url, sites=1, days=90, members=40, until=date(2026, 4, 20))

    fired = fire_events(database, SITE)

    assert take_in(database, SystemClock(), LIVE).accepted == len(fired) == 3
    assert len({event.member_id for event in fired}) == 3
    with database.autocommit() as connection:
        chains = connection.execute("SELECT app_chain FROM biz.ai_trigger_jobs ORDER BY id").fetchall()
    assert [job["app_chain"] for job in chains] == ["app3→app8→app7→app4→app5", "app6→app8", "app4→app5"]


def test_a_demo_played_again_on_the_same_day_shows_the_jobs_of_the_first(database: Database, database_url: str) -> None:
    demo_data.fill(database_url, sites=1, days=90, members=40, until=date(2026, 4, 20))
    fire_events(database, SITE)
    take_in(database, SystemClock(), LIVE)
    with database.autocommit() as connection:
        connection.execute("UPDATE biz.ai_trigger_jobs SET status = 'completed', finished_at = now()")

    again = fire_events(database, SITE)
    take_in(database, SystemClock(), LIVE)

    ends = await_ends(database, again, never, patience_seconds=60)
    assert all(end.is_good and (end.seconds or 0) < 0 for end in ends)
    assert len({end.job_id for end in ends}) == 3


@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(lambda url: demo_data.fill(url, sites=1, days=30, members=0, until=date(2026, 4, 20)), id="no members"),
        pytest.param(lambda _: None, id="no views"),
    ],
)
def test_where_nothing_is_known_of_members_no_event_is_fired(
    database: Database, database_url: str, prepare: Callable[[str], object]
) -> None:
    prepare(database_url)
    assert fire_events(database, SITE) == []
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM biz.ai_events").fetchone() == (0,)


def test_an_event_that_is_refused_is_over_and_not_good(database: Database, database_url: str) -> None:
    demo_data.fill(database_url, sites=1, days=90, members=40, until=date(2026, 4, 20))
    with database.autocommit() as connection:
        connection.execute("UPDATE biz.trigger_jobs SET status = 'disabled'")
    fired = fire_events(database, SITE)
    take_in(database, SystemClock(), LIVE)

    ends = await_ends(database, fired, never, patience_seconds=60)

    assert [(end.is_over, end.is_good, end.why) for end in ends] == [(True, False, "触发器未启用")] * 3


def fired_and_taken_in(database: Database, database_url: str) -> list[FiredEvent]:
    demo_data.fill(database_url, sites=1, days=90, members=40, until=date(2026, 4, 20))
    fired = fire_events(database, SITE)
    take_in(database, SystemClock(), LIVE)
    return fired


def test_events_that_come_further_are_waited_for_however_long_they_take(database: Database, database_url: str) -> None:
    fired = fired_and_taken_in(database, database_url)
    rounds = 0

    def a_step_each_fourth_time(_seconds: float) -> None:
        nonlocal rounds
        rounds += 1
        with database.autocommit() as connection:
            connection.execute("UPDATE biz.ai_trigger_jobs SET progress = jsonb_build_object('done', %s::integer)", [rounds // 4])
            if rounds == 80:
                connection.execute("UPDATE biz.ai_trigger_jobs SET status = 'completed', finished_at = now()")

    ends = await_ends(database, fired, a_step_each_fourth_time, patience_seconds=5 * POLL_SECONDS)

    assert rounds == 80
    assert all(end.is_good for end in ends)


def test_events_that_come_no_further_are_shown_as_far_as_they_are(database: Database, database_url: str) -> None:
    fired = fired_and_taken_in(database, database_url)
    waits: list[float] = []

    ends = await_ends(database, fired, waits.append, patience_seconds=5 * POLL_SECONDS)

    assert sum(waits) == 5 * POLL_SECONDS
    assert [(end.is_over, end.status) for end in ends] == [(False, "pending")] * 3


@pytest.mark.parametrize(("may_fill", "count", "said"), [(True, 3, "已触发事件"), (False, 0, "演示事件是虚构的，不触发")])
def test_made_up_events_are_fired_on_a_warehouse_of_the_demos_own_alone(
    database: Database, database_url: str, may_fill: bool, count: int, said: str
) -> None:
    demo_data.fill(database_url, sites=1, days=90, members=40, until=date(2026, 4, 20))
    console = Console(file=StringIO(), width=200)
    demo = Demo(console, Narration(console), may_fill=may_fill, step_timeout_seconds=180)

    assert len(demo.fire_events(database)) == count

    with database.autocommit() as connection:
        row = connection.execute("SELECT count(*) AS events FROM biz.ai_events").fetchone()
    assert row is not None
    assert row["events"] == count
    assert isinstance(console.file, StringIO)
    assert said in console.file.getvalue()


@pytest.mark.parametrize(
    ("app", "result", "said"),
    [
        (AppType.CLUE, members.CLUES, "📅 偏好周末下午；📅 常点东方树叶；👥 由小雨陪打"),
        (AppType.CLUE, {"clues": [{"summary": "常来打球"}]}, "常来打球"),
        (AppType.NOTE, members.NOTE_ANSWER, "评分 7：周末带朋友来。"),
        (AppType.CUSTOMER, members.CUSTOMER, "李建国是稳定的周末客人。"),
        (AppType.ANALYSIS, members.ANALYSIS, "小雨与李建国关系稳定"),
        (AppType.TACTICS, members.TACTICS, "回访老客：李先生您好,周末想来打球的话我给您留台。"),
        (AppType.CONSOLIDATION, members.CONSOLIDATED, ""),
    ],
)
def test_an_answer_is_shown_by_the_line_that_says_most(app: AppType, result: dict[str, Any], said: str) -> None:
    assert in_short(app, result) == said


@pytest.mark.parametrize("app", [AppType.CLUE, AppType.NOTE, AppType.CUSTOMER, AppType.ANALYSIS, AppType.TACTICS, AppType.CONSOLIDATION])
@pytest.mark.parametrize("result", [{}, {"text": "旧系统的回答"}, {"clues": 3, "tactics": [], "summary": None}])
def test_an_answer_of_another_writer_of_the_cache_breaks_no_demo(app: AppType, result: dict[str, Any]) -> None:
    assert "格式不同" in in_short(app, result)
