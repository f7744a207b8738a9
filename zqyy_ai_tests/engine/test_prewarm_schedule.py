from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from zqyy_ai.domain.business_clock import SHANGHAI, HandClock
from zqyy_ai.engine.prewarm_schedule import ScheduleCheck, check_schedule, next_fire
from zqyy_ai.store.database import Connection, Database


def at(day: int, time: str) -> datetime:
    return datetime.fromisoformat(f"2025-06-{day}T{time}").replace(tzinfo=SHANGHAI)


def check(database: Database, now: datetime) -> ScheduleCheck:
    return check_schedule(database, HandClock(now), lambda _: None)


def row(connection: Connection, job_name: str = "ai_dws_prewarm_0830") -> dict[str, Any]:
    found = connection.execute("SELECT * FROM biz.trigger_jobs WHERE job_name = %s", [job_name]).fetchone()
    assert found is not None
    return found


def set_config(connection: Connection, config: Any) -> None:
    connection.execute("UPDATE biz.trigger_jobs SET trigger_config = %s WHERE job_type = 'ai_dws_prewarm'", [Jsonb(config)])


def set_cron(connection: Connection, expression: str) -> None:
    set_config(connection, {"cron_expression": expression})


@pytest.mark.parametrize(
    ("expression", "fire"),
    [("30 8 * * *", at(19, "08:30")), ("*/15 * * * *", at(18, "10:15")), ("0 6 * * 1", at(23, "06:00")), ("0 0 1 7 *", at(30, "23:59"))],
)
def test_a_cron_is_read_in_shanghais_time_whatever_zone_now_is_in(expression: str, fire: datetime) -> None:
    now = at(18, "10:00").astimezone(UTC)
    found = next_fire(expression, now)
    assert found == (fire if fire.minute != 59 else fire + timedelta(minutes=1))


@pytest.mark.parametrize("expression", ["", "30 8 * *", "61 8 * * *", "every day", "0 0 31 2 *"])
def test_a_cron_that_cannot_be_read_is_told(expression: str) -> None:
    with pytest.raises(ValueError, match="cron 表达式"):
        next_fire(expression, at(18, "10:00"))


def test_a_first_look_only_finds_out_when_the_row_is_due(database: Database, connection: Connection) -> None:
    assert check(database, at(18, "10:00")) == ScheduleCheck(is_due=False, next_run_at=at(19, "08:30"))
    assert (row(connection)["next_run_at"], row(connection)["last_run_at"]) == (at(19, "08:30"), None)


def test_a_due_row_fires_once_and_moves_on(database: Database, connection: Connection) -> None:
    check(database, at(18, "10:00"))
    assert not check(database, at(19, "08:29")).is_due
    assert check(database, at(19, "08:30")) == ScheduleCheck(is_due=True, next_run_at=at(20, "08:30"))
    assert not check(database, at(19, "08:30")).is_due
    assert (row(connection)["last_run_at"], row(connection)["next_run_at"]) == (at(19, "08:30"), at(20, "08:30"))


def test_fires_missed_while_nothing_ran_happen_once(database: Database) -> None:
    check(database, at(18, "10:00"))
    assert check(database, at(25, "14:00")) == ScheduleCheck(is_due=True, next_run_at=at(26, "08:30"))
    assert not check(database, at(25, "14:01")).is_due


def test_a_row_adopted_with_its_next_run_keeps_it(database: Database, connection: Connection) -> None:
    connection.execute("UPDATE biz.trigger_jobs SET next_run_at = %s WHERE job_type = 'ai_dws_prewarm'", [at(18, "08:30")])
    assert check(database, at(18, "10:00")).is_due


def test_an_edited_cron_holds_from_the_next_look_on(database: Database, connection: Connection) -> None:
    check(database, at(18, "10:00"))
    set_cron(connection, "15 10 * * *")
    assert check(database, at(18, "10:01")) == ScheduleCheck(is_due=False, next_run_at=at(18, "10:15"))
    assert check(database, at(18, "10:15")).is_due
    set_cron(connection, "30 8 * * *")
    assert check(database, at(18, "10:16")) == ScheduleCheck(is_due=False, next_run_at=at(19, "08:30"))


def test_an_edit_after_a_missed_fire_does_not_fire_for_the_old_expression(database: Database, connection: Connection) -> None:
    check(database, at(18, "10:00"))
    set_cron(connection, "0 20 * * *")
    assert check(database, at(19, "09:00")) == ScheduleCheck(is_due=False, next_run_at=at(19, "20:00"))


def test_what_would_have_been_due_while_a_row_was_disabled_is_not_made_up_for(database: Database, connection: Connection) -> None:
    check(database, at(18, "10:00"))
    connection.execute("UPDATE biz.trigger_jobs SET status = 'disabled'")
    assert check(database, at(19, "09:00")) == ScheduleCheck(is_due=False, next_run_at=None)
    connection.execute("UPDATE biz.trigger_jobs SET status = 'enabled'")
    assert check(database, at(19, "15:00")) == ScheduleCheck(is_due=False, next_run_at=at(20, "08:30"))


def test_what_is_done_when_due_and_the_move_to_the_next_moment_happen_together_or_not_at_all(
    database: Database, connection: Connection
) -> None:
    check(database, at(18, "10:00"))

    def fail(_: Connection) -> None:
        raise RuntimeError("the database went away")

    with pytest.raises(RuntimeError):
        check_schedule(database, HandClock(at(19, "09:00")), fail)
    assert check(database, at(19, "09:01")).is_due


def test_without_the_row_nothing_is_due(database: Database, connection: Connection) -> None:
    connection.execute("DELETE FROM biz.trigger_jobs")
    assert check(database, at(19, "09:00")) == ScheduleCheck(is_due=False, next_run_at=None)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"cron_expression": "every day"}, "cron 表达式 'every day' 无效"),
        ({"cron_expression": 830}, "缺少 cron_expression"),
        ({}, "缺少 cron_expression"),
        ([], "缺少 cron_expression"),
    ],
)
def test_a_cron_that_cannot_be_read_shows_in_its_row_until_it_is_put_right(
    database: Database, connection: Connection, config: Any, said: str
) -> None:
    check(database, at(18, "10:00"))
    set_config(connection, config)
    found = check(database, at(19, "09:00"))
    assert (found.is_due, found.next_run_at) == (False, None)
    assert said in (found.error or "")
    broken = row(connection)
    assert said in broken["last_error"]
    assert (broken["last_run_at"], broken["next_run_at"]) == (None, None), "it did not run, and nobody knows when it will"

    set_cron(connection, "30 8 * * *")
    assert check(database, at(19, "09:01")) == ScheduleCheck(is_due=False, next_run_at=at(20, "08:30"))
    assert row(connection)["last_error"] is None


def test_one_unreadable_row_does_not_hold_up_another(database: Database, connection: Connection) -> None:
    connection.execute(
        "INSERT INTO biz.trigger_jobs (job_name, job_type, trigger_condition, trigger_config) VALUES"
        " ('second', 'ai_dws_prewarm', 'cron', '{\"cron_expression\": \"0 20 * * *\"}')"
    )
    set_config_of_first = "UPDATE biz.trigger_jobs SET trigger_config = '{}' WHERE job_name = 'ai_dws_prewarm_0830'"
    connection.execute(set_config_of_first)
    assert check(database, at(18, "10:00")).next_run_at == at(18, "20:00")
    found = check(database, at(18, "20:00"))
    assert (found.is_due, found.error is not None) == (True, True)


def test_of_two_schedulers_that_look_at_once_one_fires(database: Database) -> None:
    check(database, at(18, "10:00"))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: check(database, at(19, "08:30")), range(8)))
    assert [one.is_due for one in found].count(True) == 1
