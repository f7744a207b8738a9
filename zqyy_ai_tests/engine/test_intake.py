from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from psycopg.types.json import Jsonb

from zqyy_ai.domain.business_clock import SHANGHAI, HandClock
from zqyy_ai.domain.events import EventName
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.domain.runtime_context import LIVE, RuntimeContext, RuntimeMode
from zqyy_ai.engine.intake import LARGEST_PAYLOAD_BYTES, IntakeCount, take_in
from zqyy_ai.store import trigger_jobs
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.trigger_jobs import TriggerJob
from zqyy_ai_tests.engine.workbench import NOW, TODAY, alerts, day, jobs

MINUTE = timedelta(minutes=1)


def fire(connection: Connection, payload: Any, event_name: str | None = EventName.DWS_COMPLETED) -> int:
    row = connection.execute("SELECT biz.fire_ai_event(%s, %s) AS id", [event_name, None if payload is None else Jsonb(payload)]).fetchone()
    assert row is not None
    return int(row["id"])


def intake(database: Database, *, now: datetime = NOW, context: RuntimeContext = LIVE) -> IntakeCount:
    return take_in(database, HandClock(now), context)


def take(database: Database, connection: Connection, *payloads: dict[str, Any]) -> list[int | None]:
    """Fires the loads one after the other, each taken in at once; returns the job that stands for each."""
    events = []
    for payload in payloads:
        events.append(fire(connection, {"site_id": 1001} | payload))
        intake(database)
    return [inbox(connection)[event]["trigger_job_id"] for event in events]


def inbox(connection: Connection) -> dict[int, dict[str, Any]]:
    return {row["id"]: row for row in connection.execute("SELECT * FROM biz.ai_events ORDER BY id")}


def start(connection: Connection, site_id: int = 1001) -> TriggerJob:
    job = trigger_jobs.claim_dws_job(connection, site_id, run_id="run-1", worker_id=uuid4(), lease=MINUTE)
    assert job is not None
    return job


def set_policy(connection: Connection, policy: str) -> None:
    connection.execute(
        "UPDATE biz.trigger_jobs SET trigger_config = trigger_config || jsonb_build_object('dedup_policy', %s::text)"
        " WHERE job_name = 'ai_dws_completed'",
        [policy],
    )


# What becomes a job


def test_a_finished_load_becomes_a_job_of_its_site(database: Database, connection: Connection) -> None:
    event_id = fire(connection, {"site_id": 1001, "etl_run_id": "load-1", "备注": "晚到"})
    assert intake(database) == IntakeCount(accepted=1)
    [job] = jobs(connection)
    assert (job["event_type"], job["site_id"], job["status"], job["app_chain"]) == ("dws_completed", 1001, "pending", "app2")
    assert (job["business_date"], job["connector_type"], job["is_forced"]) == (TODAY, "feiqiu", False)
    assert job["dedup_key"] == "dws_completed|1001|load-1|2025-06-18|live"
    assert job["payload"] == {"site_id": 1001, "etl_run_id": "load-1", "备注": "晚到", "etl_run_ids": ["load-1"]}
    handled = inbox(connection)[event_id]
    assert (handled["trigger_job_id"], handled["rejected_reason"]) == (job["id"], None)
    assert handled["handled_at"] is not None


def test_a_second_intake_finds_nothing_to_do(database: Database, connection: Connection) -> None:
    fire(connection, {"site_id": 1001})
    intake(database)
    assert intake(database) == IntakeCount()
    assert len(jobs(connection)) == 1


def test_each_site_has_its_own_job(database: Database, connection: Connection) -> None:
    for site_id in (1001, 1002, 1001):
        fire(connection, {"site_id": site_id})
    assert intake(database) == IntakeCount(accepted=2, duplicates=1)


def test_the_business_date_is_the_sites_own(database: Database, connection: Connection) -> None:
    for site_id in (1001, 1003):
        fire(connection, {"site_id": site_id})
    intake(database, now=datetime(2025, 6, 18, 3, 0, tzinfo=SHANGHAI))
    assert [job["business_date"] for job in jobs(connection)] == [day("2025-06-18"), day("2025-06-17")]


def test_a_sandbox_has_jobs_of_its_own(database: Database, connection: Connection) -> None:
    fire(connection, {"site_id": 1001})
    intake(database)
    fire(connection, {"site_id": 1001})
    assert intake(database, context=RuntimeContext(RuntimeMode.SANDBOX, TODAY)) == IntakeCount(accepted=1)
    assert [job["dedup_key"].rpartition("|")[2] for job in jobs(connection)] == ["live", "sandbox"]


def test_the_trigger_shows_when_it_last_ran(database: Database, connection: Connection) -> None:
    fire(connection, {"site_id": 1001})
    intake(database)
    row = connection.execute("SELECT last_run_at FROM biz.trigger_jobs WHERE job_name = 'ai_dws_completed'").fetchone()
    assert row == {"last_run_at": NOW}


def test_many_intakes_at_once_make_one_job(database: Database, connection: Connection) -> None:
    for _ in range(20):
        fire(connection, {"site_id": 1001})
    with ThreadPoolExecutor(6) as threads:
        counts = list(threads.map(lambda _: intake(database), range(6)))
    assert sum(count.accepted for count in counts) == 1
    assert sum(count.duplicates for count in counts) == 19
    [job] = jobs(connection)
    assert job["duplicate_count"] == 19


def test_more_events_than_one_batch_holds_are_all_taken_in(database: Database, connection: Connection) -> None:
    connection.execute("SELECT biz.fire_ai_event('ai_dws_completed', '{\"site_id\": 1001}') FROM generate_series(1, 520)")
    assert intake(database) == IntakeCount(accepted=1, duplicates=519)


# Coalescing, the default of finished loads


def test_a_load_merges_into_a_job_that_has_not_started(database: Database, connection: Connection) -> None:
    first, second, third = take(database, connection, {"etl_run_id": "load-1"}, {}, {"etl_run_id": "load-2"})
    assert first == second == third
    [job] = jobs(connection)
    assert (job["duplicate_count"], job["payload"]["etl_run_ids"]) == (2, ["load-1", "load-2"])


def test_a_load_while_its_job_runs_gets_exactly_one_follow_up(database: Database, connection: Connection) -> None:
    """The running job may have read the data before the load."""
    [first] = take(database, connection, {})
    start(connection)
    follow_ups = take(database, connection, {"etl_run_id": "load-2"}, {"etl_run_id": "load-3"}, {})
    assert len(set(follow_ups)) == 1
    assert follow_ups[0] != first


def test_a_load_after_its_job_was_done_is_a_new_job(database: Database, connection: Connection) -> None:
    [first] = take(database, connection, {"etl_run_id": "load-1"})
    trigger_jobs.finish(connection, start(connection), JobStatus.COMPLETED)
    [second] = take(database, connection, {"etl_run_id": "load-2"})
    assert first != second


@pytest.mark.parametrize("policy", ["coalesce", "business_day"])
def test_the_same_load_is_the_same_job_whatever_became_of_it(database: Database, connection: Connection, policy: str) -> None:
    set_policy(connection, policy)
    [first] = take(database, connection, {"etl_run_id": "load-1"})
    job = start(connection)
    [while_running] = take(database, connection, {"etl_run_id": "load-1"})
    trigger_jobs.finish(connection, job, JobStatus.COMPLETED)
    [afterwards] = take(database, connection, {"etl_run_id": "load-1"})
    assert first == while_running == afterwards


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.PARTIAL, JobStatus.DEAD])
def test_a_job_that_failed_does_not_block_its_successor(database: Database, connection: Connection, status: JobStatus) -> None:
    [first] = take(database, connection, {"etl_run_id": "load-1"})
    trigger_jobs.finish(connection, start(connection), status)
    [second] = take(database, connection, {"etl_run_id": "load-1"})
    assert first != second


# One job a business day


def test_with_the_policy_business_day_one_job_stands_for_the_day(database: Database, connection: Connection) -> None:
    set_policy(connection, "business_day")
    [first] = take(database, connection, {})
    job = start(connection)
    [while_running] = take(database, connection, {})
    trigger_jobs.finish(connection, job, JobStatus.COMPLETED)
    [afterwards] = take(database, connection, {})
    assert first == while_running == afterwards
    fire(connection, {"site_id": 1001})
    assert intake(database, now=NOW + timedelta(days=1)) == IntakeCount(accepted=1)


def test_with_the_policy_business_day_each_load_that_names_its_etl_run_has_a_job(database: Database, connection: Connection) -> None:
    set_policy(connection, "business_day")
    [first] = take(database, connection, {"etl_run_id": "load-1"})
    trigger_jobs.finish(connection, start(connection), JobStatus.COMPLETED)
    [second] = take(database, connection, {"etl_run_id": "load-2"})
    assert first != second


# Forced


def test_a_forced_load_skips_dedup_and_nothing_merges_into_it(database: Database, connection: Connection) -> None:
    plain, forced, again, later = take(database, connection, {}, {"is_forced": True}, {"is_forced": True}, {})
    assert len({plain, forced, again}) == 3
    assert later == plain
    assert [job["is_forced"] for job in jobs(connection)] == [False, True, True]


def test_forcing_skips_nothing_but_dedup(database: Database, connection: Connection) -> None:
    connection.execute("UPDATE biz.trigger_jobs SET status = 'disabled' WHERE job_name = 'ai_dws_completed'")
    fire(connection, {"site_id": 1001, "is_forced": True})
    assert intake(database) == IntakeCount(ignored=1)


# What does not become a job

UNMEANT: list[tuple[str | None, Any, str]] = [
    (EventName.DWS_COMPLETED, None, "payload 必须是 JSON 对象"),
    (EventName.DWS_COMPLETED, [1001], "payload 必须是 JSON 对象"),
    (EventName.DWS_COMPLETED, {}, "缺少 site_id"),
    (EventName.DWS_COMPLETED, {"site_id": "1001"}, "site_id 必须是正整数,收到的是字符串"),
    (EventName.DWS_COMPLETED, {"site_id": 10**30}, "site_id 必须是正整数"),
    (EventName.DWS_COMPLETED, {"site_id": 9}, "门店 9 不存在"),
    (EventName.DWS_COMPLETED, {"site_id": 1001, "is_forced": 1}, "is_forced 必须是 true 或 false"),
    (EventName.DWS_COMPLETED, {"site_id": 1001, "x": "长" * LARGEST_PAYLOAD_BYTES}, "payload 超过 256 KiB"),
    ("ai_dws_complete", {"site_id": 1001}, "未知事件 ai_dws_complete"),
    ("名" * 5000, {"site_id": 1001}, "未知事件 名名"),
    (None, {"site_id": 1001}, "未知事件 (空)"),
]


@pytest.mark.parametrize(("event_name", "payload", "said"), UNMEANT, ids=[case[2][:24] for case in UNMEANT])
def test_an_event_that_cannot_be_meant_keeps_its_row_with_the_reason_and_shows_as_an_alert(
    database: Database, connection: Connection, event_name: str | None, payload: Any, said: str
) -> None:
    event_id = fire(connection, payload, event_name)
    assert intake(database) == IntakeCount(rejected=1)
    rejected = inbox(connection)[event_id]
    assert rejected["rejected_reason"].startswith(said)
    assert (rejected["payload"], rejected["trigger_job_id"]) == (payload, None)
    assert rejected["handled_at"] is not None
    assert alerts(connection) == [("event_rejected", 1)]
    assert jobs(connection) == []


def test_rejected_events_are_counted_by_name_and_kind_and_hold_up_no_good_one(database: Database, connection: Connection) -> None:
    for site_id in (9, "x", 1001, None, 10):
        fire(connection, {"site_id": site_id})
    fire(connection, {"site_id": 1001}, "ai_dws_complete")
    assert intake(database) == IntakeCount(accepted=1, rejected=5)
    found = connection.execute("SELECT fingerprint, occurrences, message FROM biz.ai_alerts ORDER BY id").fetchall()
    assert [(row["fingerprint"].removeprefix("event_rejected|-|-|"), row["occurrences"]) for row in found] == [
        ("ai_dws_completed|unknown_site", 2),
        ("ai_dws_completed|payload_invalid", 2),
        ("ai_dws_complete|unknown_event", 1),
    ]
    assert found[0]["message"] == "事件 ai_dws_completed 被拒绝:门店 10 不存在"


@pytest.mark.parametrize(
    ("change", "payload", "reason"),
    [
        ("UPDATE biz.trigger_jobs SET status = 'disabled'", {"site_id": 1001}, "触发器未启用"),
        ("DELETE FROM biz.trigger_jobs", {"site_id": 1001}, "触发器未启用"),
        ("SELECT 1", {"site_id": 1004}, "门店已停用"),
    ],
    ids=["disabled trigger", "trigger taken back", "closed site"],
)
def test_what_is_switched_off_is_noted_without_an_alert(
    database: Database, connection: Connection, change: str, payload: Any, reason: str
) -> None:
    connection.execute(change.encode())
    event_id = fire(connection, payload)
    assert intake(database) == IntakeCount(ignored=1)
    assert inbox(connection)[event_id]["rejected_reason"] == reason
    assert alerts(connection) == []
    assert jobs(connection) == []


@pytest.mark.parametrize(
    "poison",
    ["[" * 2000 + "]" * 2000, '{"site_id": 1001, "x": 1e5000}', '{"site_id": 1001, "x": 1e400}', '{"site_id": 1001, "given_up": "x"}'],
)
def test_a_payload_that_jsonb_takes_and_python_does_not_holds_up_nothing(database: Database, connection: Connection, poison: str) -> None:
    connection.execute("SELECT biz.fire_ai_event('ai_dws_completed', %s::text::jsonb)", [poison])
    fire(connection, {"site_id": 1002})
    intake(database)
    assert {row["site_id"] for row in jobs(connection)} >= {1002}
    waiting = connection.execute("SELECT count(*) AS n FROM biz.ai_events WHERE handled_at IS NULL").fetchone()
    assert waiting == {"n": 0}
