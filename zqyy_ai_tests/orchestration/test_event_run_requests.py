"""When the sensor asks for the run that takes members' jobs: one is enough, none is too few."""

from datetime import timedelta
from uuid import uuid4

import dagster as dg
import psycopg
import pytest

# Not exported; without an origin Dagster refuses a queued run.
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from zqyy_ai.definitions import defs
from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.business_clock import SystemClock
from zqyy_ai.domain.runtime_context import LIVE
from zqyy_ai.engine.call_pauses import pause_calls, resume_calls
from zqyy_ai.engine.intake import take_in
from zqyy_ai.engine.member_requests import request_app
from zqyy_ai.engine.prewarm_requests import request_prewarm
from zqyy_ai.orchestration import sensors
from zqyy_ai.orchestration.resources import DatabaseResource
from zqyy_ai.orchestration.run_requests import put_right, runs_wanted
from zqyy_ai.orchestration.tags import ASKED_BY_TAG, EVENTS_WORK, SENSOR, WORK_TAG
from zqyy_ai.settings import load_settings
from zqyy_ai.store import event_runs, trigger_jobs
from zqyy_ai_tests.orchestration.conftest import Stage, rows

SITE = 1001
QUEUED, STARTING, STARTED = dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED
# What the open run's row says by default of its age at which it hands over: half an hour.
OLD = timedelta(hours=1)


def add_work(stage: Stage) -> int:
    [member] = rows(stage, "SELECT min(member_id) AS id FROM ai_source.members WHERE site_id = %s", SITE)
    return request_app(stage.database, AppType.CLUE, SITE, member["id"])


def wanted(stage: Stage) -> list[str | None]:
    """Jobs of the runs that the sensor would ask for now."""
    return [request.job_name for request in runs_wanted(stage.database, stage.instance, SystemClock(), load_settings())]


def asked_for(stage: Stage, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    """The sensor's run, as Dagster has it some time after it was asked for."""
    job = defs.resolve_job_def("member_events")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("zqyy_ai"), "__repository__"), job.name)
    tags = {**job.run_tags, ASKED_BY_TAG: SENSOR}
    return stage.instance.create_run_for_job(job_def=job, tags=tags, status=status, remote_job_origin=origin)


def opened(
    stage: Stage, run: dg.DagsterRun | None = None, *, age: timedelta = timedelta(), lease: timedelta = timedelta(minutes=1)
) -> dg.DagsterRun:
    run = run or asked_for(stage, STARTED)
    with stage.database.autocommit() as connection:
        event_runs.open_run(connection, run.run_id, worker_id=uuid4(), lease=lease)
        connection.execute("UPDATE biz.ai_event_runs SET opened_at = opened_at - %s WHERE run_id = %s", [age, run.run_id])
    return run


def close(stage: Stage, run: dg.DagsterRun) -> None:
    with stage.database.autocommit() as connection:
        event_runs.close_run(connection, run.run_id)


def open_run_ids(stage: Stage) -> list[str]:
    with stage.database.autocommit() as connection:
        return [run.run_id for run in event_runs.open_runs(connection)]


def status_of(stage: Stage, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = stage.instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def test_work_that_waits_asks_for_one_run_and_nothing_asks_for_none(stage: Stage) -> None:
    assert wanted(stage) == []
    add_work(stage)
    [request] = runs_wanted(stage.database, stage.instance, SystemClock(), load_settings())
    assert (request.job_name, request.partition_key, request.run_key) == ("member_events", None, None)
    assert request.tags[ASKED_BY_TAG] == SENSOR


def test_the_run_carries_the_tag_by_which_the_queue_and_the_sensor_know_it(stage: Stage) -> None:
    run = asked_for(stage, QUEUED)
    assert (run.tags[WORK_TAG], run.tags["dagster/priority"]) == (EVENTS_WORK, "10")


def test_an_event_that_comes_while_the_sensor_waits_asks_for_a_run_at_once(stage: Stage) -> None:
    with stage.database.autocommit() as connection:
        connection.execute("SELECT biz.fire_ai_event('ai_consumption_settled', '{\"site_id\": 1001, \"member_id\": 1001000001}')")
    context = dg.build_sensor_context(
        instance=stage.instance, sensor_name=sensors.ai_events.name, resources={"database": DatabaseResource()}
    )
    evaluated = sensors.ai_events(context)
    assert isinstance(evaluated, dg.SensorResult)
    assert [request.job_name for request in evaluated.run_requests or []] == ["member_events"]


def test_the_sensor_asks_for_the_first_events_run_before_it_has_read_a_full_inbox(stage: Stage) -> None:
    with stage.database.autocommit() as connection:
        connection.execute(
            "SELECT biz.fire_ai_event('ai_consumption_settled', jsonb_build_object('site_id', 1001, 'member_id', number))"
            " FROM generate_series(1, 1200) AS number"
        )
    context = dg.build_sensor_context(
        instance=stage.instance, sensor_name=sensors.ai_events.name, resources={"database": DatabaseResource()}
    )
    assert isinstance(sensors.ai_events(context), dg.SensorResult)
    assert rows(stage, "SELECT count(*) AS left FROM biz.ai_events WHERE handled_at IS NULL") == [{"left": 700}]


def test_a_sites_prewarm_and_members_jobs_are_two_runs(stage: Stage) -> None:
    add_work(stage)
    request_prewarm(stage.database, SITE)
    assert wanted(stage) == ["prewarm_site", "member_events"]


@pytest.mark.parametrize("status", [QUEUED, dg.DagsterRunStatus.NOT_STARTED, STARTING, STARTED], ids=lambda status: status.value)
def test_a_run_on_its_way_is_waited_for(stage: Stage, status: dg.DagsterRunStatus) -> None:
    add_work(stage)
    asked_for(stage, status)
    assert wanted(stage) == []


@pytest.mark.parametrize(
    "status", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED], ids=lambda status: status.value
)
def test_a_run_that_ended_without_having_opened_is_not(stage: Stage, status: dg.DagsterRunStatus) -> None:
    add_work(stage)
    asked_for(stage, status)
    assert wanted(stage) == ["member_events"]


def test_a_run_that_started_long_ago_and_never_opened_is_not_waited_for_any_longer(stage: Stage) -> None:
    add_work(stage)
    run = asked_for(stage, STARTED)
    with psycopg.connect(stage.environment["ZQYY_DAGSTER_DATABASE_URL"], autocommit=True) as dagster:
        dagster.execute("UPDATE runs SET start_time = extract(epoch FROM now()) - 30 WHERE run_id = %s", [run.run_id])
        assert wanted(stage) == []
        dagster.execute("UPDATE runs SET start_time = extract(epoch FROM now()) - 600 WHERE run_id = %s", [run.run_id])
    assert wanted(stage) == ["member_events"]
    put_right(stage.database, stage.instance, load_settings())
    assert status_of(stage, run) is dg.DagsterRunStatus.FAILURE


def test_a_run_that_a_person_started_over_partitions_takes_no_jobs_and_keeps_none_from_being_asked_for(stage: Stage) -> None:
    add_work(stage)
    job = defs.resolve_job_def("member_events")
    stage.instance.create_run_for_job(job_def=job, tags=dict(job.run_tags), status=STARTED)
    assert wanted(stage) == ["member_events"]


def test_an_open_run_takes_whatever_comes(stage: Stage) -> None:
    opened(stage)
    add_work(stage)
    assert wanted(stage) == []


def test_a_run_that_was_open_and_has_closed_takes_nothing_though_its_process_still_ends(stage: Stage) -> None:
    run = opened(stage)
    close(stage, run)
    assert wanted(stage) == []
    add_work(stage)
    assert status_of(stage, run) is STARTED
    assert wanted(stage) == ["member_events"]


def test_an_open_run_of_its_full_age_gets_one_successor_whether_work_waits_or_not(stage: Stage) -> None:
    opened(stage, age=OLD)
    assert wanted(stage) == ["member_events"]
    successor = asked_for(stage, QUEUED)
    add_work(stage)
    assert wanted(stage) == []
    opened(stage, successor)
    assert wanted(stage) == []


def test_of_a_run_whose_lease_is_over_nobody_expects_anything(stage: Stage) -> None:
    add_work(stage)
    opened(stage, lease=timedelta(seconds=-1))
    assert wanted(stage) == ["member_events"]


def test_no_run_is_asked_for_during_a_pause_and_at_once_after_it(stage: Stage) -> None:
    add_work(stage)
    pause_calls(stage.database, reason="核对账单", by="王店长")
    assert wanted(stage) == []
    resume_calls(stage.database, by="王店长")
    assert wanted(stage) == ["member_events"]


def test_jobs_that_wait_for_their_moment_or_for_a_closed_site_ask_for_none(stage: Stage) -> None:
    add_work(stage)
    with stage.database.autocommit() as connection:
        connection.execute("UPDATE biz.ai_trigger_jobs SET not_before = clock_timestamp() + interval '1 minute'")
        assert wanted(stage) == []
        connection.execute("UPDATE biz.ai_trigger_jobs SET not_before = NULL")
        connection.execute("UPDATE biz.sites SET is_active = false WHERE site_id = %s", [SITE])
        assert wanted(stage) == []


def held_by(stage: Stage, run: dg.DagsterRun) -> int:
    """A job that the run has claimed."""
    job_id = add_work(stage)
    with stage.database.autocommit() as connection:
        [job] = trigger_jobs.claim_member_jobs(
            connection,
            run_id=run.run_id,
            worker_id=uuid4(),
            lease=timedelta(minutes=1),
            most=1,
            most_of_site=1,
            least_priority=-1000,
            held={},
        )
    assert job.id == job_id
    return job_id


def test_a_run_that_dagster_gave_up_is_closed_though_its_process_lives_and_its_jobs_wait_again(stage: Stage) -> None:
    run = opened(stage)
    job_id = held_by(stage, run)
    stage.instance.report_run_failed(run, "the code server died")

    put_right(stage.database, stage.instance, load_settings())

    assert open_run_ids(stage) == []
    assert rows(stage, "SELECT status FROM biz.ai_trigger_jobs WHERE id = %s", job_id) == [{"status": "pending"}]
    assert wanted(stage) == ["member_events"]


def test_a_run_whose_process_died_with_its_code_server_is_reported_as_failed(stage: Stage) -> None:
    run = opened(stage, lease=timedelta(seconds=-1))

    put_right(stage.database, stage.instance, load_settings())

    assert status_of(stage, run) is dg.DagsterRunStatus.FAILURE


def test_an_open_run_is_left_alone_however_long_it_has_had_nothing_to_do(stage: Stage) -> None:
    run = opened(stage)
    job_id = held_by(stage, run)
    with stage.database.autocommit() as connection:
        connection.execute(
            "UPDATE biz.ai_trigger_jobs SET status = 'completed', progress_at = progress_at - interval '1 hour' WHERE id = %s", [job_id]
        )

    put_right(stage.database, stage.instance, load_settings())

    assert status_of(stage, run) is STARTED
    assert open_run_ids(stage) == [run.run_id]


def test_a_run_that_has_closed_may_end_by_itself_and_is_given_up_when_it_does_not(stage: Stage) -> None:
    run = opened(stage, lease=timedelta(seconds=-1))
    close(stage, run)

    put_right(stage.database, stage.instance, load_settings())
    assert status_of(stage, run) is STARTED

    with stage.database.autocommit() as connection:
        connection.execute("UPDATE biz.ai_event_runs SET closed_at = closed_at - interval '10 minutes'")
    put_right(stage.database, stage.instance, load_settings())
    assert status_of(stage, run) is dg.DagsterRunStatus.FAILURE


def test_the_sensor_that_asked_for_a_run_sees_it_take_the_work(stage: Stage) -> None:
    """From the event to its end by the real parts, without a daemon between them."""
    with stage.database.autocommit() as connection:
        connection.execute(
            "SELECT biz.fire_ai_event('ai_consumption_settled', jsonb_build_object('site_id', 1001, 'member_id', min(member_id)))"
            " FROM ai_source.members WHERE site_id = 1001 AND last_visit_on IS NOT NULL"
        )
    take_in(stage.database, SystemClock(), LIVE)
    [request] = runs_wanted(stage.database, stage.instance, SystemClock(), load_settings())

    result = defs.resolve_job_def(str(request.job_name)).execute_in_process(instance=stage.instance, tags=dict(request.tags))

    assert result.success
    assert [row["status"] for row in rows(stage, "SELECT status FROM biz.ai_trigger_jobs")] == ["completed"]
    assert wanted(stage) == []
