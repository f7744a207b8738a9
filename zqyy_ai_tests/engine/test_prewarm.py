"""A site's windows side by side under one job, on demo data: the job's life, what is called, and what stays as it was."""

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

from zqyy_ai.devkit import demo_data
from zqyy_ai.devkit.emulator import running_emulator
from zqyy_ai.domain.business_clock import HandClock
from zqyy_ai.domain.errors import InvalidRequest, SourceContractError
from zqyy_ai.domain.events import EventType
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.domain.windows import WINDOW_KEYS, Area, TimeDimension, WindowKey
from zqyy_ai.engine.assembly import Engine
from zqyy_ai.engine.call_pauses import pause_calls, resume_calls
from zqyy_ai.engine.intake import take_in
from zqyy_ai.engine.prewarm import PrewarmRun, WindowOutcome
from zqyy_ai.engine.step import StepStatus
from zqyy_ai.store import events, trigger_jobs
from zqyy_ai.store.alerts import Alert, AlertType, raise_alert
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.trigger_jobs import TriggerJob
from zqyy_ai_tests.conftest import fresh_database, template_database
from zqyy_ai_tests.engine.workbench import (
    NOW,
    TODAY,
    EmulatorControl,
    EngineMaker,
    alerts,
    cached,
    engine_on,
    held_rows,
    jobs,
    log_statuses,
    logs,
    wait_until,
)
from zqyy_ai_tests.restored_database import remember, restore

ALL_WINDOWS = list(WINDOW_KEYS)
WHOLE_SITE = [window for window in WINDOW_KEYS if window.area is Area.ALL]
TWO_WINDOWS = WHOLE_SITE[:2]
ONE_WINDOW = [WindowKey(TimeDimension.THIS_MONTH, Area.VIP)]
RUN_NUMBERS = itertools.count(1)


def fill(database_url: str) -> None:
    """Three demo sites from 1001, loaded up to yesterday, the third without KTV; and the snapshot of a first prewarm of site 1001."""
    demo_data.fill(database_url, sites=3, days=400, members=0, until=TODAY - timedelta(days=1))
    with Database(database_url) as database, running_emulator() as running:
        remember(database)
        with closing(EmulatorControl(running)) as emulator, engine_on(database, emulator) as engine:
            fire_load(engine)
            assert statuses(prewarm(engine, asked_by_sensor=True)) == {StepStatus.ANSWERED: 72}
            assert emulator.posts_by_app_id == {"id-finance": 8, "id-finance-area": 64}
        remember(database, "prewarmed")


@pytest.fixture(scope="module")
def module_database(server_url: str, migrated_template: str) -> Iterator[Database]:
    """Filled once for all workers."""
    template = template_database(server_url, "zqyy_prewarmed", fill, source=migrated_template)
    with fresh_database(server_url, template) as url, Database(url, max_connections=16) as opened:
        yield opened


def fire_load(engine: Engine, **payload: Any) -> int:
    """A finished load of site 1001, taken in; returns its job."""
    with engine.database.transaction() as connection:
        events.fire(connection, "ai_dws_completed", {"site_id": 1001} | payload)
    take_in(engine.database, engine.clock, engine.runtime_context)
    with engine.database.autocommit() as connection:
        return int(jobs(connection)[-1]["id"])


def prewarm(engine: Engine, windows: list[WindowKey] = ALL_WINDOWS, **how: Any) -> list[WindowOutcome]:
    with PrewarmRun(engine, how.pop("site_id", 1001), windows, run_id=f"run-{next(RUN_NUMBERS)}", **how) as run:
        return list(run.outcomes())


def statuses(outcomes: list[WindowOutcome]) -> dict[StepStatus, int]:
    return dict(Counter(outcome.result.status for outcome in outcomes))


def job_of(connection: Connection, job_id: int) -> TriggerJob:
    job = trigger_jobs.get(connection, job_id)
    assert job is not None
    return job


def job_alerts(connection: Connection) -> list[dict[str, Any]]:
    return connection.execute("SELECT * FROM biz.ai_alerts WHERE app_type IS NULL ORDER BY id").fetchall()


@pytest.fixture
def prewarmed(database: Database, emulator: EmulatorControl) -> int:
    """All 72 windows of site 1001 are answered for a finished load, under this job."""
    restore(database, "prewarmed")
    with database.autocommit() as connection:
        return int(jobs(connection)[0]["id"])


def lose_answers_of_the_whole_site(connection: Connection) -> None:
    """As if the eight windows of App2 had never been answered."""
    connection.execute("DELETE FROM biz.ai_cache WHERE cache_type = 'app2_finance'")


# A pause


def test_a_prewarm_that_is_paused_goes_on_after_it_and_pays_for_nothing_twice(
    database: Database, emulator: EmulatorControl, make_engine: EngineMaker, connection: Connection
) -> None:
    emulator.plan(latency={"kind": "fixed", "seconds": 1.0})
    engine = make_engine(ZQYY_LLM_CONCURRENCY="12")
    job_id = fire_load(engine)
    with PrewarmRun(engine, 1001, ALL_WINDOWS, run_id="run-paused", asked_by_sensor=True) as run:
        outcomes: list[WindowOutcome] = []
        for outcome in run.outcomes():
            if not outcomes:
                pause_calls(database, reason="核对账单", by="王店长")
            outcomes.append(outcome)
    answered = statuses(outcomes)[StepStatus.ANSWERED]
    assert 12 <= answered <= 24
    assert statuses(outcomes) == {StepStatus.ANSWERED: answered, StepStatus.REFUSED: 72 - answered}
    paused = job_of(connection, job_id)
    assert (paused.status, paused.attempt) == (JobStatus.PENDING, 0)

    emulator.plan()
    resume_calls(database, by="王店长")
    again = statuses(prewarm(engine, asked_by_sensor=True))
    assert again == {StepStatus.REUSED: answered, StepStatus.ANSWERED: 72 - answered}
    assert emulator.posts == 72
    assert job_of(connection, job_id).status is JobStatus.COMPLETED
    assert held_rows(connection) == 0


# A hold


def test_jobs_that_waited_for_a_hold_go_on_as_soon_as_a_probe_ends_it(
    database: Database, emulator: EmulatorControl, make_engine: EngineMaker, connection: Connection
) -> None:
    """Not when their pause of minutes is over: the first round after an outage spends one probe, and must not cost another pause."""
    engine = make_engine(ZQYY_LLM_CONCURRENCY="8")
    held_job, other_job = fire_load(engine), fire_load(engine, site_id=1002)
    emulator.plan({"kind": "http_error", "status": 403, "code": "Arrearage"})
    prewarm(engine, asked_by_sensor=True)
    prewarm(engine, site_id=1002, asked_by_sensor=True)
    assert all(row["status"] == "pending" and row["not_before"] is not None for row in jobs(connection))

    emulator.plan(latency={"kind": "fixed", "seconds": 0.2})
    connection.execute("UPDATE biz.ai_breakers SET retry_at = clock_timestamp() WHERE app_type = '*'")
    connection.execute("UPDATE biz.ai_trigger_jobs SET not_before = clock_timestamp() + interval '10 minutes' WHERE id = %s", [other_job])
    connection.execute("UPDATE biz.ai_trigger_jobs SET not_before = NULL WHERE id = %s", [held_job])
    probing = statuses(prewarm(engine, asked_by_sensor=True))

    assert probing[StepStatus.ANSWERED] >= 1
    assert probing[StepStatus.REFUSED] >= 1, "the others were refused while the probe was under way"
    waiting = job_of(connection, held_job)
    assert waiting.status is JobStatus.PENDING
    assert waiting.not_before is not None and waiting.not_before <= engine.clock.now()
    assert job_of(connection, other_job).not_before is None
    assert statuses(prewarm(engine, asked_by_sensor=True)).keys() == {StepStatus.ANSWERED, StepStatus.REUSED}
    assert job_of(connection, held_job).status is JobStatus.COMPLETED


# The whole site


def test_a_finished_load_fills_all_72_windows_with_a_call_each(prewarmed: int, connection: Connection) -> None:
    rows = cached(connection)
    assert {(row["cache_type"], row["target_id"]) for row in rows} == {
        ("app2_finance" if window.area is Area.ALL else "app2a_finance_area", str(window)) for window in WINDOW_KEYS
    }
    assert len(rows) == 72
    assert all(row["status"] == "valid" and row["site_id"] == 1001 and row["triggered_by"] == "dws_completed" for row in rows)
    assert {(log["status"], log["trigger_job_id"], log["trigger_type"]) for log in logs(connection)} == {("success", prewarmed, "event")}
    assert Counter(log["app_type"] for log in logs(connection)) == {"app2_finance": 8, "app2a_finance_area": 64}
    job = job_of(connection, prewarmed)
    assert (job.status, job.attempt, job.error_message) == (JobStatus.COMPLETED, 1, None)
    tokens = sum(log["tokens_used"] for log in logs(connection))
    assert job.progress == {"total": 72, "done": 72, "reused": 0, "failed": 0, "calls": 72, "tokens": tokens}
    assert held_rows(connection) == 0
    told = connection.execute("SELECT * FROM biz.ai_live_events WHERE event_type = 'prewarm_progress' ORDER BY id").fetchall()
    assert told[-1]["payload"] == {"trigger_job_id": prewarmed, "total": 72, "done": 72, "reused": 0, "failed": 0}
    # The last one comes with the end, whenever the one before it came.
    assert all((later["created_at"] - one["created_at"]).total_seconds() > 0.9 for one, later in itertools.pairwise(told[:-1]))


def test_later_loads_of_equal_data_call_for_none_and_one_run_does_the_work_of_all_that_waited(
    prewarmed: int, engine: Engine, connection: Connection, emulator: EmulatorControl
) -> None:
    forced, plain = fire_load(engine, is_forced=True), fire_load(engine)
    assert len({prewarmed, forced, plain}) == 3
    assert statuses(prewarm(engine, asked_by_sensor=True)) == {StepStatus.REUSED: 72}
    assert (emulator.posts, len(cached(connection))) == (0, 72)
    assert [job_of(connection, job_id).status for job_id in (forced, plain)] == [JobStatus.COMPLETED] * 2
    assert (job_of(connection, forced).progress["reused"], job_of(connection, forced).progress["calls"]) == (72, 0)


def test_the_next_day_complete_periods_are_reused_and_only_running_ones_called_for(engine: Engine, connection: Connection) -> None:
    windows = [window for window in WINDOW_KEYS if window.area is Area.SNOOKER]
    assert isinstance(engine.clock, HandClock)
    engine.clock.turn(timedelta(days=-2))
    prewarm(engine, windows)
    engine.clock.turn(timedelta(days=1))
    outcomes = prewarm(engine, windows)
    called = {outcome.window.time_dimension for outcome in outcomes if outcome.result.status is StepStatus.ANSWERED}
    reused = {outcome.window.time_dimension for outcome in outcomes if outcome.result.status is StepStatus.REUSED}
    assert called == {dimension for dimension in TimeDimension if dimension.is_running}
    assert reused == {dimension for dimension in TimeDimension if not dimension.is_running}
    ends = {row["expires_at"].date() for row in cached(connection) if row["target_id"].startswith("last_")}
    assert ends == {TODAY - timedelta(days=1)}


def test_an_area_that_a_site_does_not_have_gets_its_fixed_answer(engine: Engine, connection: Connection, emulator: EmulatorControl) -> None:
    windows = [window for window in WINDOW_KEYS if window.area is Area.KTV]
    assert statuses(prewarm(engine, windows, site_id=1003)) == {StepStatus.FIXED: 8}
    assert emulator.posts == 0
    assert len(cached(connection)) == 8
    assert jobs(connection)[0]["status"] == "completed"


# Partial failure


def test_windows_that_failed_for_good_make_the_job_partial_and_a_rerun_calls_for_those_alone(
    prewarmed: int, engine: Engine, connection: Connection, emulator: EmulatorControl
) -> None:
    lose_answers_of_the_whole_site(connection)
    emulator.plan({"kind": "data_inspection", "app": "app2_finance"})
    first = fire_load(engine)
    outcomes = prewarm(engine)
    assert statuses(outcomes) == {StepStatus.REUSED: 64, StepStatus.FAILED: 8}
    assert {outcome.window for outcome in outcomes if not outcome.result.status.is_good} == set(WHOLE_SITE)
    job = job_of(connection, first)
    assert job.status is JobStatus.PARTIAL
    assert job.error_message is not None
    assert job.error_message.startswith("8 个窗口失败:DataInspectionFailed × 8;首个 ")
    assert (job.progress["done"], job.progress["failed"]) == (64, 8)
    assert alerts(connection) == [("failed", 8)]

    emulator.plan()
    second = fire_load(engine)
    assert second != first
    assert statuses(prewarm(engine)) == {StepStatus.ANSWERED: 8, StepStatus.REUSED: 64}
    assert emulator.posts_by_app_id == {"id-finance": 16}
    assert job_of(connection, second).status is JobStatus.COMPLETED


def test_a_job_of_which_nothing_came_has_failed(engine: Engine, connection: Connection, emulator: EmulatorControl) -> None:
    emulator.plan({"kind": "data_inspection"})
    prewarm(engine, TWO_WINDOWS)
    assert jobs(connection)[0]["status"] == "failed"
    [alert] = job_alerts(connection)
    assert alert["fingerprint"] == "failed|1001|-|backfill"
    assert alert["message"] == f"任务 {jobs(connection)[0]['id']}(门店 1001,backfill)失败:2 个窗口失败:DataInspectionFailed × 2"

    emulator.plan()
    prewarm(engine, TWO_WINDOWS)
    [alert] = job_alerts(connection)
    assert (alert["alert_status"], alert["status_reason"]) == ("resolved", f"任务 {jobs(connection)[1]['id']} 已完成")


def test_what_time_cures_sends_the_job_back_without_spending_an_attempt(
    prewarmed: int, make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl
) -> None:
    lose_answers_of_the_whole_site(connection)
    engine = make_engine(ZQYY_GUARD_WAIT_SECONDS="1")
    emulator.plan({"kind": "http_error", "status": 429, "retry_after_seconds": 120, "app": "app2_finance"})
    job_id = fire_load(engine)
    outcomes = prewarm(engine, asked_by_sensor=True)
    assert sum(outcome.result.status.is_good for outcome in outcomes) == 64
    waiting = job_of(connection, job_id)
    assert (waiting.status, waiting.attempt) == (JobStatus.PENDING, 0)
    # The refusals of those who came after the first throttled one can be tried again sooner than that one itself.
    assert NOW + timedelta(seconds=60) <= (waiting.not_before or NOW) <= NOW + timedelta(seconds=120)

    emulator.plan()
    connection.execute("UPDATE biz.ai_rate_limits SET theoretical_arrival_at = clock_timestamp()")
    assert statuses(prewarm(engine, asked_by_sensor=True)) == {StepStatus.ANSWERED: 8, StepStatus.REUSED: 64}
    assert job_of(connection, job_id).status is JobStatus.COMPLETED
    assert [job["id"] for job in jobs(connection)] == [prewarmed, job_id]


def test_a_job_that_was_sent_back_does_not_pay_again_for_what_failed_for_good(
    prewarmed: int, make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl
) -> None:
    connection.execute("DELETE FROM biz.ai_cache WHERE target_id IN ('last_week__all', 'last_month__vip')")
    engine = make_engine(ZQYY_GUARD_WAIT_SECONDS="1")
    throttled = {"kind": "http_error", "status": 429, "retry_after_seconds": 300, "app": "app2a_finance_area"}
    emulator.plan({"kind": "wrong_schema", "prompt_contains": '"时间维度":"上周"'}, throttled)
    job_id = fire_load(engine)
    prewarm(engine, asked_by_sensor=True)
    waiting = job_of(connection, job_id)
    assert (waiting.status, waiting.given_up) == (JobStatus.PENDING, {"last_week__all": "reply_invalid"})

    emulator.plan()
    connection.execute("UPDATE biz.ai_rate_limits SET theoretical_arrival_at = clock_timestamp()")
    posts = emulator.posts
    outcomes = prewarm(engine, asked_by_sensor=True)
    assert [str(outcome.window) for outcome in outcomes if not outcome.result.status.is_good] == ["last_week__all"]
    assert emulator.posts == posts + 1
    assert job_of(connection, job_id).status is JobStatus.PARTIAL


def test_a_spent_budget_ends_the_job_as_partial_and_does_not_send_it_round(
    make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl
) -> None:
    engine = make_engine(ZQYY_DAILY_TOKEN_LIMIT="60000")
    job_id = fire_load(engine, source="schedule")
    outcomes = prewarm(engine)
    assert set(statuses(outcomes)) == {StepStatus.ANSWERED, StepStatus.REFUSED}
    job = job_of(connection, job_id)
    assert (job.status, job.progress["failed"]) == (JobStatus.PARTIAL, statuses(outcomes)[StepStatus.REFUSED])
    assert "budget_exceeded:daily" in (job.error_message or "")
    assert emulator.posts == statuses(outcomes)[StepStatus.ANSWERED]
    assert {log["trigger_type"] for log in logs(connection)} == {"cron"}


# What is asked for


def test_with_only_missing_windows_that_are_still_valid_are_left_alone(
    engine: Engine, connection: Connection, emulator: EmulatorControl
) -> None:
    prewarm(engine, WHOLE_SITE)
    connection.execute("UPDATE biz.ai_cache SET expires_at = %s WHERE target_id = 'this_week__all'", [NOW])
    connection.execute("UPDATE biz.ai_cache SET input_hash = 'changed', status = 'invalidated' WHERE target_id = 'last_week__all'")
    connection.execute("UPDATE biz.ai_cache SET input_hash = 'older data' WHERE target_id = 'this_month__all'")
    before = len(logs(connection))
    outcomes = prewarm(engine, WHOLE_SITE, only_missing=True)
    assert statuses(outcomes) == {StepStatus.REUSED: 7, StepStatus.ANSWERED: 1}
    assert emulator.posts == 8 + 1
    assert log_statuses(connection)[before:] == [("reused", None), ("success", None)] or log_statuses(connection)[before:] == [
        ("success", None),
        ("reused", None),
    ]


def test_a_job_for_missing_windows_alone_leaves_the_others_and_does_not_stand_for_a_load_that_waits(
    prewarmed: int, engine: Engine, connection: Connection, emulator: EmulatorControl
) -> None:
    """It leaves valid answers as they are, whatever data they were made from."""
    lose_answers_of_the_whole_site(connection)
    connection.execute("UPDATE biz.ai_cache SET input_hash = 'older data'")
    missing, load = fire_load(engine, only_missing=True, is_forced=True), fire_load(engine)
    assert statuses(prewarm(engine)) == {StepStatus.ANSWERED: 8, StepStatus.REUSED: 64}
    assert emulator.posts == 8
    assert [job_of(connection, job_id).status for job_id in (missing, load)] == [JobStatus.COMPLETED, JobStatus.PENDING]


def test_a_job_can_ask_for_answers_made_anew(prewarmed: int, make_engine: EngineMaker, connection: Connection) -> None:
    poor = make_engine(ZQYY_DAILY_TOKEN_LIMIT="1")
    job_id = fire_load(poor, regenerate=True, is_forced=True)
    assert statuses(prewarm(poor)) == {StepStatus.REFUSED: 72}, "none is reused, and there is no money for new ones"
    assert {log["trigger_type"] for log in logs(connection) if log["trigger_job_id"] == job_id} == {"manual"}


def test_one_window_that_a_person_asks_for_is_a_job_of_one_application(engine: Engine, connection: Connection) -> None:
    pending = fire_load(engine)
    outcomes = prewarm(engine, ONE_WINDOW)
    assert statuses(outcomes) == {StepStatus.ANSWERED: 1}
    assert job_of(connection, pending).status is JobStatus.PENDING, "the site's own job still waits for all its windows"
    job = jobs(connection)[-1]
    assert (job["event_type"], job["status"], job["is_forced"]) == ("run_app", "completed", True)
    assert (job["payload"]["app_type"], job["payload"]["targets"]) == ("app2a_finance_area", ["this_month__vip"])
    assert job["dedup_key"] == "run_app|1001|this_month__vip|2025-06-18|live"
    [log] = logs(connection)
    assert (log["trigger_type"], log["trigger_job_id"], log["dagster_run_id"]) == ("manual", job["id"], job["run_id"])


def test_several_windows_that_a_person_asks_for_are_a_backfill(engine: Engine, connection: Connection) -> None:
    prewarm(engine, TWO_WINDOWS)
    [job] = jobs(connection)
    assert (job["event_type"], job["payload"]["targets"]) == ("backfill", [str(window) for window in TWO_WINDOWS])


def test_a_person_may_have_a_window_made_anew(engine: Engine, emulator: EmulatorControl) -> None:
    prewarm(engine, ONE_WINDOW)
    assert statuses(prewarm(engine, ONE_WINDOW)) == {StepStatus.REUSED: 1}
    assert statuses(prewarm(engine, ONE_WINDOW, regenerate=True)) == {StepStatus.ANSWERED: 1}
    assert emulator.posts == 2


def test_an_unknown_and_a_closed_site_are_refused_before_a_job_is_written(engine: Engine, connection: Connection) -> None:
    connection.execute("UPDATE biz.sites SET is_active = false WHERE site_id = 1002")
    with pytest.raises(InvalidRequest, match="门店 9 不存在"):
        prewarm(engine, site_id=9)
    with pytest.raises(InvalidRequest, match="门店 1002 已停用"):
        prewarm(engine, site_id=1002)
    assert jobs(connection) == []


# The job


def test_a_run_that_was_asked_for_finds_nothing_to_do_when_another_took_its_job(
    make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl
) -> None:
    fire_load(make_engine())
    with PrewarmRun(make_engine(), 1001, ALL_WINDOWS, run_id="run-a", asked_by_sensor=True) as first:
        assert first.job is not None
        with PrewarmRun(make_engine(), 1001, ALL_WINDOWS, run_id="run-b", asked_by_sensor=True) as second:
            assert second.job is None
            assert list(second.outcomes()) == []
    assert emulator.posts == 0


def test_a_persons_run_over_the_whole_site_takes_the_job_that_waits(engine: Engine, connection: Connection) -> None:
    job_id = fire_load(engine)
    with PrewarmRun(engine, 1001, ALL_WINDOWS, run_id="run-a") as run:
        assert run.job is not None
        assert run.job.id == job_id


def test_a_job_of_a_past_business_date_is_superseded(engine: Engine, connection: Connection, emulator: EmulatorControl) -> None:
    past = fire_load(engine)
    assert isinstance(engine.clock, HandClock)
    engine.clock.turn(timedelta(days=1))
    assert prewarm(engine, asked_by_sensor=True) == []
    job = job_of(connection, past)
    assert (job.status, job.error_message) == (JobStatus.COMPLETED, "superseded: 业务日已过")
    assert emulator.posts == 0


def test_a_run_that_a_person_cancels_ends_its_job_with_what_was_done(engine: Engine, connection: Connection) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        PrewarmRun(engine, 1001, WHOLE_SITE, run_id="run-a", is_cancelled=lambda: True) as run,
    ):
        for _ in run.outcomes():
            raise KeyboardInterrupt
    [job] = jobs(connection)
    assert (job["status"], job["error_message"], job["progress"]["done"]) == ("partial", "运行被取消", 1)
    assert held_rows(connection) == 0
    assert alerts(connection) == []


def test_a_run_that_a_restart_interrupts_leaves_its_job_to_the_next_run(engine: Engine, connection: Connection) -> None:
    job_id = fire_load(engine)
    with pytest.raises(KeyboardInterrupt), PrewarmRun(engine, 1001, ALL_WINDOWS, run_id="run-a"):
        raise KeyboardInterrupt
    job = job_of(connection, job_id)
    assert (job.status, job.attempt) == (JobStatus.PENDING, 0)
    assert held_rows(connection) == 0


def test_business_data_that_cannot_be_read_fails_the_job_with_the_reason(engine: Engine, connection: Connection) -> None:
    job_id = fire_load(engine)
    connection.execute("ALTER VIEW ai_source.finance_daily RENAME TO lost")
    try:
        with pytest.raises(SourceContractError):
            prewarm(engine)
    finally:
        connection.execute("ALTER VIEW ai_source.lost RENAME TO finance_daily")
    job = job_of(connection, job_id)
    assert job.status is JobStatus.FAILED
    assert "finance_daily" in (job.error_message or "")
    assert [(row["alert_status"], row["severity"], row["message"]) for row in job_alerts(connection)] == [
        ("open", "critical", f"任务 {job_id}(门店 1001,dws_completed)失败:运行中断(SourceContractError)")
    ]


def test_a_whole_prewarm_ends_the_alerts_about_the_sites_jobs_and_no_other_sites(engine: Engine, connection: Connection) -> None:
    for site_id in (1001, 1002):
        for event_type in (EventType.DWS_COMPLETED, EventType.RUN_APP):
            with engine.database.transaction() as transaction:
                raise_alert(transaction, Alert(AlertType.FAILED, "任务失败", site_id, detail=event_type))
    fire_load(engine)
    prewarm(engine)
    assert [(row["site_id"], row["alert_status"]) for row in job_alerts(connection)] == [
        (1001, "resolved"),
        (1001, "resolved"),
        (1002, "open"),
        (1002, "open"),
    ]


def test_a_run_whose_job_was_given_to_another_cannot_end_it(engine: Engine, connection: Connection) -> None:
    job_id = fire_load(engine)
    with PrewarmRun(engine, 1001, ALL_WINDOWS, run_id="run-a"):
        trigger_jobs.give_up_lost(connection, max_attempts=3, dead_run_id="run-a")
    assert job_of(connection, job_id).status is JobStatus.PENDING


def test_a_stopping_process_sends_its_job_back(engine: Engine, connection: Connection, emulator: EmulatorControl) -> None:
    job_id = fire_load(engine)
    engine.worker.stopping.set()
    assert statuses(prewarm(engine)) == {StepStatus.REFUSED: 72}
    job = job_of(connection, job_id)
    assert (job.status, job.attempt, emulator.posts) == (JobStatus.PENDING, 0, 0)
    assert alerts(connection) == []


def test_a_load_that_merges_while_another_job_runs_is_not_taken_for_done(engine: Engine, connection: Connection) -> None:
    fire_load(engine, is_forced=True)
    waiting = fire_load(engine)
    with PrewarmRun(engine, 1001, ALL_WINDOWS, run_id="run-a", asked_by_sensor=True) as run:
        outcomes = run.outcomes()
        next(outcomes)
        assert fire_load(engine, etl_run_id="late") == waiting
        list(outcomes)
    assert job_of(connection, waiting).status is JobStatus.PENDING


@pytest.mark.parametrize("how", [{"only_missing": True}, {"regenerate": True}])
def test_a_persons_run_of_another_kind_leaves_the_job_that_waits(engine: Engine, connection: Connection, how: dict[str, Any]) -> None:
    waiting = fire_load(engine)
    with PrewarmRun(engine, 1001, ALL_WINDOWS, run_id="run-a", **how) as run:
        assert run.job is not None
        assert run.job.id != waiting
    assert job_of(connection, waiting).status is JobStatus.PENDING


def test_jobs_of_an_old_dispatcher_are_never_run(engine: Engine, connection: Connection) -> None:
    connection.execute("INSERT INTO biz.ai_trigger_jobs (event_type, site_id, status) VALUES ('dws_completed', 1001, 'pending')")
    assert prewarm(engine, asked_by_sensor=True) == []


def test_connections_that_are_lost_during_the_calls_lose_no_answer(
    make_engine: EngineMaker, database: Database, connection: Connection, emulator: EmulatorControl
) -> None:
    engine = make_engine()
    emulator.plan(latency={"seconds": 1.0})
    with PrewarmRun(engine, 1001, WHOLE_SITE, run_id="run-a") as run:
        outcomes = run.outcomes()
        cut = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'zqyy_ai' AND datname = current_database() AND pid <> pg_backend_pid()
        """

        def cut_connections() -> None:
            wait_until(lambda: emulator.posts == len(WHOLE_SITE))
            connection.execute(cut)

        threading.Thread(target=cut_connections).start()
        assert statuses(list(outcomes)) == {StepStatus.ANSWERED: len(WHOLE_SITE)}
    assert emulator.posts == len(WHOLE_SITE)
    assert held_rows(connection) == 0
    database._pool.check()  # the tests' own connections were cut too
