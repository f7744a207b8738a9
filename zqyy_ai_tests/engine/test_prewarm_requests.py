from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from uuid import uuid4

import pytest

from zqyy_ai.domain.business_clock import HandClock
from zqyy_ai.domain.errors import InvalidRequest
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.domain.runtime_context import LIVE
from zqyy_ai.engine.intake import IntakeCount, take_in
from zqyy_ai.engine.prewarm_requests import (
    etl_lookback,
    fire_finished_loads,
    fire_for_unprewarmed_sites,
    prewarm_progress,
    request_prewarm,
    sites_wanting_a_run,
    wanted_sites,
)
from zqyy_ai.store import trigger_jobs
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.engine.workbench import NOW, jobs
from zqyy_ai_tests.restored_database import remember

CLOCK = HandClock(NOW)
SINCE = NOW - timedelta(days=3)
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def module_database(module_database_url: str) -> Iterator[Database]:
    """Sites 1001 and 1002, 1003 whose day turns at six, 1004 which is closed; and the view of the ETL runs, still empty."""
    with Database(module_database_url) as opened:
        with opened.transaction() as connection:
            connection.execute(
                "INSERT INTO biz.sites (site_id, is_active, business_day_cutoff) VALUES"
                " (1001, true, '00:00'), (1002, true, '00:00'), (1003, true, '06:00'), (1004, false, '00:00')"
            )
            connection.execute("CREATE SCHEMA ai_source")
            connection.execute(
                "CREATE TABLE ai_source.etl_runs (etl_run_id text, site_id bigint, status text, started_at timestamptz,"
                " finished_at timestamptz, loaded_through date)"
            )
        remember(opened)
        yield opened


def load(
    connection: Connection, etl_run_id: str | None, site_id: int | None = 1001, *, status: str = "success", finished_at: datetime = NOW
) -> None:
    connection.execute(
        "INSERT INTO ai_source.etl_runs VALUES (%s, %s, %s, %s, %s, %s)",
        [etl_run_id, site_id, status, finished_at - MINUTE, finished_at, finished_at.date()],
    )


@pytest.fixture(autouse=True)
def no_loads(connection: Connection) -> None:
    connection.execute("DELETE FROM ai_source.etl_runs")


def fired(connection: Connection) -> list[tuple[str, int]]:
    rows = connection.execute("SELECT payload FROM biz.ai_events ORDER BY id").fetchall()
    return [(row["payload"].get("etl_run_id"), row["payload"]["site_id"]) for row in rows]


def intake(database: Database) -> IntakeCount:
    return take_in(database, CLOCK, LIVE)


# Finished loads


def test_a_finished_load_is_fired_for_its_site_and_not_twice(database: Database, connection: Connection) -> None:
    load(connection, "load-1")
    assert fire_finished_loads(database, since=SINCE) == 1
    assert fire_finished_loads(database, since=SINCE) == 0
    assert fired(connection) == [("load-1", 1001)]
    assert intake(database) == IntakeCount(accepted=1)
    assert jobs(connection)[0]["payload"]["source"] == "etl_sensor"


def test_a_load_of_all_sites_is_fired_for_each_active_one(database: Database, connection: Connection) -> None:
    load(connection, "load-1", site_id=None)
    assert fire_finished_loads(database, since=SINCE) == 3
    assert fired(connection) == [("load-1", 1001), ("load-1", 1002), ("load-1", 1003)]
    assert fire_finished_loads(database, since=SINCE) == 0


def test_a_load_that_committed_late_is_older_than_one_already_seen_and_still_fired(database: Database, connection: Connection) -> None:
    load(connection, "load-2", finished_at=NOW)
    fire_finished_loads(database, since=SINCE)
    load(connection, "load-1", finished_at=NOW - timedelta(hours=5))
    assert fire_finished_loads(database, since=SINCE) == 1
    assert fired(connection) == [("load-2", 1001), ("load-1", 1001)]


@pytest.mark.parametrize("status", ["running", "failed"])
def test_a_load_that_did_not_succeed_is_not_fired(database: Database, connection: Connection, status: str) -> None:
    load(connection, "load-1", status=status)
    assert fire_finished_loads(database, since=SINCE) == 0


def test_loads_from_before_the_lookback_are_history(database: Database, connection: Connection) -> None:
    load(connection, "load-1", finished_at=SINCE - MINUTE)
    assert fire_finished_loads(database, since=etl_lookback(CLOCK, 3)) == 0
    assert fire_finished_loads(database, since=etl_lookback(CLOCK, 4)) == 1


def test_a_run_that_loaded_several_sites_under_one_name_is_fired_for_each(database: Database, connection: Connection) -> None:
    for site_id in (1001, 1002):
        load(connection, "load-1", site_id)
    assert fire_finished_loads(database, since=SINCE) == 2
    assert fired(connection) == [("load-1", 1001), ("load-1", 1002)]


def test_a_load_of_an_unknown_or_closed_site_is_told_once_and_not_again_and_again(database: Database, connection: Connection) -> None:
    for site_id in (9, 1004):
        load(connection, f"load-{site_id}", site_id)
    fire_finished_loads(database, since=SINCE)
    assert intake(database) == IntakeCount(rejected=1, ignored=1)
    assert fire_finished_loads(database, since=SINCE) == 0


def test_a_load_without_a_name_does_not_hold_up_the_others(database: Database, connection: Connection) -> None:
    load(connection, None)
    load(connection, "load-1")
    assert fire_finished_loads(database, since=SINCE) == 1


def test_two_sensors_that_look_at_once_fire_a_load_once(database: Database, connection: Connection) -> None:
    load(connection, "load-1", site_id=None)
    with ThreadPoolExecutor(4) as threads:
        counts = list(threads.map(lambda _: fire_finished_loads(database, since=SINCE), range(4)))
    assert sorted(counts) == [0, 0, 0, 3]


# The schedule


def test_the_schedule_fires_for_active_sites_that_have_no_prewarm_of_their_business_date(
    database: Database, connection: Connection
) -> None:
    assert fire_for_unprewarmed_sites(connection, CLOCK, LIVE) == [1001, 1002, 1003]
    assert intake(database) == IntakeCount(accepted=3)
    assert fire_for_unprewarmed_sites(connection, CLOCK, LIVE) == []
    assert {job["payload"]["source"] for job in jobs(connection)} == {"schedule"}
    assert fire_for_unprewarmed_sites(connection, HandClock(NOW + timedelta(days=1)), LIVE) == [1001, 1002, 1003]


def test_a_site_whose_prewarm_failed_is_fired_for_again(database: Database, connection: Connection) -> None:
    fire_for_unprewarmed_sites(connection, CLOCK, LIVE)
    intake(database)
    connection.execute("UPDATE biz.ai_trigger_jobs SET status = 'partial' WHERE site_id = 1002")
    assert fire_for_unprewarmed_sites(connection, CLOCK, LIVE) == [1002]


# Asking Dagster for runs


def test_sites_whose_jobs_may_start_want_a_run(database: Database, connection: Connection) -> None:
    fire_for_unprewarmed_sites(connection, CLOCK, LIVE)
    intake(database)
    connection.execute("UPDATE biz.ai_trigger_jobs SET not_before = clock_timestamp() + interval '1 hour' WHERE site_id = 1001")
    connection.execute("UPDATE biz.sites SET is_active = false WHERE site_id = 1002")
    assert sites_wanting_a_run(database, CLOCK, LIVE) == [1003]


def test_a_past_days_jobs_want_no_run_and_are_over(database: Database, connection: Connection) -> None:
    fire_for_unprewarmed_sites(connection, CLOCK, LIVE)
    intake(database)
    assert sites_wanting_a_run(database, HandClock(NOW + timedelta(days=1)), LIVE) == []
    assert {job["status"] for job in jobs(connection)} == {"completed"}


# People


def test_sites_are_asked_for_by_number_or_all_at_once(database: Database) -> None:
    assert wanted_sites(database, ["1002", "all", "1001", "9"]) == [1002, 1001, 1003, 9]
    for text in ("", "-1", "0", "朝阳店", "1001.0", "１００１"):
        with pytest.raises(InvalidRequest, match="应为正整数"):
            wanted_sites(database, [text])


def test_a_persons_request_is_a_forced_job_that_can_be_watched(database: Database, connection: Connection) -> None:
    job_id = request_prewarm(database, 1001, only_missing=True)
    [job] = jobs(connection)
    assert (job["id"], job["is_forced"], job["payload"]["only_missing"], job["payload"]["regenerate"]) == (job_id, True, True, False)
    progress = prewarm_progress(database, job_id)
    assert (progress.status, progress.done, progress.total, progress.finished) == (JobStatus.PENDING, 0, 72, False)


def test_each_request_is_a_job_of_its_own(database: Database) -> None:
    assert request_prewarm(database, 1001) != request_prewarm(database, 1001)


def test_progress_follows_the_job_to_its_end(database: Database, connection: Connection) -> None:
    job_id = request_prewarm(database, 1001)
    job = trigger_jobs.claim_dws_job(connection, 1001, run_id="run-1", worker_id=uuid4(), lease=MINUTE)
    assert job is not None
    trigger_jobs.record_progress(connection, job, {"total": 72, "done": 10, "failed": 1, "reused": 4, "calls": 7, "tokens": 9000})
    progress = prewarm_progress(database, job_id)
    assert (progress.done, progress.failed, progress.reused, progress.calls, progress.tokens) == (10, 1, 4, 7, 9000)
    assert (progress.run_id, progress.finished) == ("run-1", False)
    trigger_jobs.finish(connection, job, JobStatus.PARTIAL, "一个窗口失败")
    progress = prewarm_progress(database, job_id)
    assert (progress.finished, progress.error_message) == (True, "一个窗口失败")


def test_a_request_that_cannot_be_meant_is_refused_in_words(database: Database, connection: Connection) -> None:
    with pytest.raises(InvalidRequest, match="门店 9 不存在"):
        request_prewarm(database, 9)
    with pytest.raises(InvalidRequest, match="门店 1004 已停用"):
        request_prewarm(database, 1004)
    with pytest.raises(InvalidRequest, match="任务 999 不存在"):
        prewarm_progress(database, 999)
    assert jobs(connection) == []


def test_a_request_while_the_trigger_is_disabled_says_so(database: Database, connection: Connection) -> None:
    connection.execute("UPDATE biz.trigger_jobs SET status = 'disabled'")
    with pytest.raises(InvalidRequest, match="触发器未启用"):
        request_prewarm(database, 1001)
