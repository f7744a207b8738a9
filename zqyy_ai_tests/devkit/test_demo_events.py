from collections.abc import Callable, Iterator
from datetime import date

import psycopg
import pytest

from zqyy_ai.devkit import demo_data
from zqyy_ai.devkit.demo_events import await_ends, fire_events
from zqyy_ai.domain.business_clock import SystemClock
from zqyy_ai.domain.runtime_context import LIVE
from zqyy_ai.engine.intake import take_in
from zqyy_ai.store.database import Database

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

    ends = await_ends(database, again, never)
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

    ends = await_ends(database, fired, never)

    assert [(end.is_over, end.is_good, end.why) for end in ends] == [(True, False, "触发器未启用")] * 3
