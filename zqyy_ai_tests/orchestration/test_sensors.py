"""Sensors and the schedule, evaluated as the daemon does, on real tables."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import dagster as dg
import pytest

from zqyy_ai.domain.business_clock import SystemClock
from zqyy_ai.engine.call_pauses import pause_calls, resume_calls
from zqyy_ai.engine.prewarm_requests import request_prewarm
from zqyy_ai.orchestration import sensors
from zqyy_ai.orchestration.partitions import SITE_PARTITIONS_NAME, range_of_site
from zqyy_ai.orchestration.resources import DatabaseResource
from zqyy_ai.orchestration.run_requests import runs_wanted
from zqyy_ai.orchestration.schedules import ai_dws_prewarm
from zqyy_ai.settings import load_settings
from zqyy_ai.store import alerts, trigger_jobs
from zqyy_ai.store.alerts import Alert, AlertType
from zqyy_ai_tests.orchestration.conftest import SITES, Stage
from zqyy_ai_tests.webhook_services import SLACK, SLACK_URL, WECOM, WECOM_URL, running_webhook_services


def sensor_context(stage: Stage, definition: dg.SensorDefinition) -> dg.SensorEvaluationContext:
    return dg.build_sensor_context(instance=stage.instance, sensor_name=definition.name, resources={"database": DatabaseResource()})


def requests_of(evaluated: object) -> list[dg.RunRequest]:
    assert isinstance(evaluated, dg.SensorResult)
    return list(evaluated.run_requests or [])


def wanted_runs(stage: Stage) -> list[dg.RunRequest]:
    return runs_wanted(stage.database, stage.instance, SystemClock(), load_settings())


def sites_of_jobs(stage: Stage) -> list[int]:
    with stage.database.autocommit() as connection:
        return [job["site_id"] for job in connection.execute("SELECT site_id FROM biz.ai_trigger_jobs ORDER BY site_id")]


def make_due(stage: Stage) -> None:
    with stage.database.autocommit() as connection:
        connection.execute("UPDATE biz.trigger_jobs SET next_run_at = now() - interval '1 minute' WHERE job_type = 'ai_dws_prewarm'")


def schedule_tick(stage: Stage) -> object:
    context = dg.build_schedule_context(
        instance=stage.instance, scheduled_execution_time=datetime.now(UTC), resources={"database": DatabaseResource()}
    )
    return ai_dws_prewarm(context)


def test_the_event_sensor_asks_for_one_range_run_of_the_jobs_site(stage: Stage) -> None:
    request_prewarm(stage.database, 1002)

    requests = requests_of(sensors.ai_events(sensor_context(stage, sensors.ai_events)))

    first, last = range_of_site(1002)
    assert [(r.tags["dagster/asset_partition_range_start"], r.tags["dagster/asset_partition_range_end"]) for r in requests] == [
        (first, last)
    ]


def test_an_event_fired_while_the_sensor_waits_is_answered_at_once(stage: Stage) -> None:
    import threading

    started = datetime.now(UTC)
    answers: list[object] = []
    waiting = threading.Thread(target=lambda: answers.append(sensors.ai_events(sensor_context(stage, sensors.ai_events))))
    waiting.start()
    with stage.database.autocommit() as connection:
        connection.execute("SELECT biz.fire_ai_event('ai_dws_completed', '{\"site_id\": 1001}')")
    waiting.join(20)

    assert len(requests_of(answers[0])) == 1
    assert (datetime.now(UTC) - started).total_seconds() < 4


def test_a_job_is_asked_for_once_by_two_ticks(stage: Stage) -> None:
    request_prewarm(stage.database, 1001)

    assert len(wanted_runs(stage)) == 1
    assert wanted_runs(stage) == []


def test_no_run_is_asked_for_during_a_pause_and_at_once_after_it(stage: Stage) -> None:
    request_prewarm(stage.database, SITES[0])
    pause_calls(stage.database, reason="核对账单", by="王店长")
    assert wanted_runs(stage) == []
    resume_calls(stage.database, by="王店长")
    assert len(wanted_runs(stage)) == 1


def test_a_job_that_comes_between_a_request_and_its_run_asks_for_no_second_run(stage: Stage) -> None:
    """Dagster shows a run only some time after it was asked for; whatever waits for the site is that run's."""
    request_prewarm(stage.database, 1001)
    assert len(wanted_runs(stage)) == 1
    request_prewarm(stage.database, 1001)

    assert wanted_runs(stage) == []


def test_no_run_is_asked_for_while_one_of_the_site_is_under_way(stage: Stage) -> None:
    request_prewarm(stage.database, 1001)
    (wanted,) = wanted_runs(stage)
    stage.instance.create_run_for_job(
        job_def=dg.JobDefinition(name="stand_in", graph_def=dg.GraphDefinition(name="stand_in")),
        tags=dict(wanted.tags),
        status=dg.DagsterRunStatus.STARTED,
    )
    request_prewarm(stage.database, 1001)

    assert wanted_runs(stage) == []


def claimed_by_a_run(stage: Stage, *, seconds_ago: int) -> dg.DagsterRun:
    """A run that Dagster takes for alive, and the job that it claimed; both have not moved since."""
    request_prewarm(stage.database, 1001)
    (wanted,) = wanted_runs(stage)
    run = stage.instance.create_run_for_job(
        job_def=dg.JobDefinition(name="stand_in", graph_def=dg.GraphDefinition(name="stand_in")),
        tags=dict(wanted.tags),
        status=dg.DagsterRunStatus.STARTED,
    )
    ago = timedelta(seconds=seconds_ago)
    with stage.database.autocommit() as connection:
        trigger_jobs.claim_dws_job(connection, 1001, run_id=run.run_id, worker_id=uuid4(), lease=timedelta(seconds=2))
        connection.execute(
            "UPDATE biz.ai_trigger_jobs SET progress_at = progress_at - %(ago)s, lease_expires_at = lease_expires_at - %(ago)s",
            {"ago": ago},
        )
    return run


def status_of(stage: Stage, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = stage.instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def test_a_run_that_died_with_its_code_server_is_ended_and_its_job_asked_for_again(stage: Stage) -> None:
    """Dagster would take it for alive until its longest runtime, and no other run of the site would start."""
    run = claimed_by_a_run(stage, seconds_ago=60)

    sensors.reaper(sensor_context(stage, sensors.reaper))

    assert status_of(stage, run) is dg.DagsterRunStatus.FAILURE
    assert len(wanted_runs(stage)) == 1


def test_the_job_of_a_run_that_dagster_found_dead_is_asked_for_again_in_the_same_tick(stage: Stage) -> None:
    run = claimed_by_a_run(stage, seconds_ago=0)
    stage.instance.report_run_failed(run, "killed")

    (again,) = requests_of(sensors.ai_events(sensor_context(stage, sensors.ai_events)))

    assert again.tags["zqyy/site_id"] == "1001"


def test_a_run_whose_lease_holds_is_left_alone(stage: Stage) -> None:
    run = claimed_by_a_run(stage, seconds_ago=0)

    sensors.reaper(sensor_context(stage, sensors.reaper))

    assert status_of(stage, run) is dg.DagsterRunStatus.STARTED
    assert wanted_runs(stage) == []


def test_a_run_that_has_just_given_its_job_back_may_end_by_itself(stage: Stage) -> None:
    run = claimed_by_a_run(stage, seconds_ago=0)
    with stage.database.autocommit() as connection:
        connection.execute("UPDATE biz.ai_trigger_jobs SET status = 'pending'")

    sensors.reaper(sensor_context(stage, sensors.reaper))

    assert status_of(stage, run) is dg.DagsterRunStatus.STARTED


def test_the_etl_sensor_turns_each_finished_load_into_one_job_a_site(stage: Stage) -> None:
    first = sensors.etl_completed(sensor_context(stage, sensors.etl_completed))
    again = sensors.etl_completed(sensor_context(stage, sensors.etl_completed))

    assert isinstance(first, dg.SkipReason) and isinstance(again, dg.SkipReason)
    assert sites_of_jobs(stage) == list(SITES)
    assert len(wanted_runs(stage)) == len(SITES)


def test_sites_follow_the_table_as_partitions(stage: Stage) -> None:
    with stage.database.autocommit() as connection:
        connection.execute("UPDATE biz.sites SET is_active = (site_id <> 1001)")
        connection.execute("INSERT INTO biz.sites (site_id, site_name) VALUES (2001, '新店')")

    sensors.sync_site_partitions(sensor_context(stage, sensors.sync_site_partitions))

    assert set(stage.instance.get_dynamic_partitions(SITE_PARTITIONS_NAME)) == {"1002", "2001"}


def test_the_schedule_says_when_it_is_due_next(stage: Stage) -> None:
    skipped = schedule_tick(stage)

    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message is not None and "08:30" in skipped.skip_message


def test_when_due_the_schedule_makes_one_job_of_each_site_not_prewarmed_today(stage: Stage) -> None:
    request_prewarm(stage.database, 1001)
    wanted_runs(stage)
    make_due(stage)
    schedule_tick(stage)
    make_due(stage)

    schedule_tick(stage)

    assert sites_of_jobs(stage) == [1001, 1002]


def test_a_missed_fire_happens_once(stage: Stage) -> None:
    make_due(stage)

    schedule_tick(stage)
    schedule_tick(stage)

    assert sites_of_jobs(stage) == list(SITES)
    assert len(wanted_runs(stage)) == len(SITES)


def test_alerts_are_delivered_by_a_sensor_of_their_own(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tick() -> str:
        skipped = sensors.send_alerts(database=DatabaseResource())
        assert isinstance(skipped, dg.SkipReason)
        return skipped.skip_message or ""

    with stage.database.transaction() as connection:
        alerts.raise_alert(connection, Alert(AlertType.JOB_DEAD, "任务 7 已放弃", 1001))
    assert "ZQYY_ALERT_WEBHOOKS" in tick()
    with running_webhook_services(tmp_path) as (services, environment):
        for name, value in {**environment, "ZQYY_ALERT_WEBHOOKS": f"{WECOM_URL}\n{SLACK_URL}"}.items():
            monkeypatch.setenv(name, value)
        services.scripts[SLACK] = [(500, b"")]
        said = tick()
        assert "wecombot-" in said and "已发送" in said and "500" in said
        assert "没有待发送的告警" in tick()
        assert "任务 7 已放弃" in services.to(WECOM)[0].text
