import threading
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg import sql

from zqyy_ai.domain.events import EventType
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.domain.runtime_context import LIVE
from zqyy_ai.store import leases, trigger_jobs
from zqyy_ai.store.database import Connection, Database, database_now
from zqyy_ai.store.events import WORK_CHANNEL
from zqyy_ai.store.trigger_jobs import NewJob, TriggerJob

TODAY = date(2025, 6, 18)
YESTERDAY = TODAY - timedelta(days=1)
SITE, WORKER = 1001, uuid4()
MINUTE, OVER = timedelta(minutes=1), timedelta(seconds=-1)


@pytest.fixture(autouse=True)
def two_sites(connection: Connection) -> None:
    connection.execute("INSERT INTO biz.sites (site_id) VALUES (1001), (1002)")


def dws_job(*, site_id: int = SITE, business_date: date = TODAY, mode: str = "live", **more: Any) -> NewJob:
    key = f"dws_completed|{site_id}|-|{business_date}|{mode}"
    return NewJob(EventType.DWS_COMPLETED, site_id, business_date, key, "app2", {"site_id": site_id}, LIVE, **more)


def regenerating_job() -> NewJob:
    return NewJob(EventType.DWS_COMPLETED, SITE, TODAY, f"dws_completed|{SITE}|-|{TODAY}|live", "app2", {"regenerate": True}, LIVE)


def claim(
    connection: Connection, *, site_id: int = SITE, run_id: str = "run-1", worker_id: UUID = WORKER, lease: timedelta = MINUTE
) -> TriggerJob | None:
    return trigger_jobs.claim_dws_job(connection, site_id, run_id=run_id, worker_id=worker_id, lease=lease)


def claimed(connection: Connection, *, lease: timedelta = MINUTE, run_id: str = "run-1") -> TriggerJob:
    trigger_jobs.add(connection, dws_job())
    job = claim(connection, lease=lease, run_id=run_id)
    assert job is not None
    return job


def now_of(connection: Connection, job: TriggerJob) -> TriggerJob:
    found = trigger_jobs.get(connection, job.id)
    assert found is not None
    return found


def test_a_job_waits_until_a_run_claims_it(connection: Connection) -> None:
    job_id = trigger_jobs.add(connection, dws_job())
    waiting = trigger_jobs.get(connection, job_id)
    assert waiting is not None
    assert (waiting.status, waiting.attempt, waiting.run_id) == (JobStatus.PENDING, 0, None)
    job = claim(connection)
    assert job is not None
    assert (job.id, job.status, job.attempt, job.run_id, job.payload) == (job_id, JobStatus.RUNNING, 1, "run-1", {"site_id": SITE})
    assert job.started_at is not None
    assert claim(connection) is None


def test_jobs_of_other_sites_and_other_types_are_not_claimed(connection: Connection) -> None:
    trigger_jobs.add(connection, dws_job(site_id=1002))
    trigger_jobs.add(connection, NewJob(EventType.RUN_APP, SITE, TODAY, "run_app", "app2", {}, LIVE))
    assert claim(connection) is None


def test_the_more_urgent_job_comes_first_and_then_the_older(connection: Connection) -> None:
    ids = [trigger_jobs.add(connection, dws_job(priority=priority)) for priority in (0, 5, 0)]
    assert [job.id for job in iter(lambda: claim(connection), None)] == [ids[1], ids[0], ids[2]]


def test_two_runs_that_look_at_once_take_a_job_each_and_wait_for_nothing(database: Database) -> None:
    with database.autocommit() as connection:
        ids = {trigger_jobs.add(connection, dws_job()) for _ in range(2)}
    with database.transaction() as first, database.transaction() as second:
        second.execute("SET LOCAL lock_timeout = '2s'")
        taken = [claim(first), claim(second, run_id="run-2"), claim(second, run_id="run-3")]
    assert {job.id for job in taken if job} == ids
    assert taken[2] is None


def test_a_finished_job_keeps_its_end(connection: Connection) -> None:
    job = claimed(connection)
    assert trigger_jobs.finish(connection, job, JobStatus.PARTIAL, "两个窗口失败")
    ended = now_of(connection, job)
    assert (ended.status, ended.error_message) == (JobStatus.PARTIAL, "两个窗口失败")
    assert ended.finished_at is not None
    assert not trigger_jobs.finish(connection, job, JobStatus.COMPLETED)
    assert not trigger_jobs.send_back(connection, job, datetime.now(UTC), "", {})
    assert now_of(connection, job).status is JobStatus.PARTIAL


def test_a_job_sent_back_waits_for_its_moment_and_spends_no_attempt(connection: Connection) -> None:
    job = claimed(connection)
    assert trigger_jobs.send_back(connection, job, datetime.now(UTC) + MINUTE, "熔断器已打开", {})
    waiting = now_of(connection, job)
    assert (waiting.status, waiting.attempt, waiting.error_message) == (JobStatus.PENDING, 0, "熔断器已打开")
    assert claim(connection) is None
    assert trigger_jobs.sites_wanting_a_run(connection) == []
    connection.execute("UPDATE biz.ai_trigger_jobs SET not_before = clock_timestamp()")
    assert trigger_jobs.sites_wanting_a_run(connection) == [SITE]
    again = claim(connection)
    assert again is not None
    assert (again.id, again.attempt, again.not_before) == (job.id, 1, None)


def test_a_job_whose_lease_ran_out_waits_again_and_its_zombie_cannot_end_it(connection: Connection) -> None:
    zombie = claimed(connection, lease=OVER)
    lost = trigger_jobs.give_up_lost(connection, max_attempts=3)
    assert [(job.id, job.status, job.attempt) for job in lost] == [(zombie.id, JobStatus.PENDING, 1)]
    assert not trigger_jobs.finish(connection, zombie, JobStatus.COMPLETED)
    heir = claim(connection, run_id="run-2")
    assert heir is not None
    assert heir.attempt == 2
    assert not trigger_jobs.finish(connection, zombie, JobStatus.COMPLETED)
    trigger_jobs.record_progress(connection, zombie, {"done": 99})
    assert now_of(connection, heir).progress == {}
    assert trigger_jobs.finish(connection, heir, JobStatus.COMPLETED)


def test_a_job_that_lost_its_last_attempt_is_dead(connection: Connection) -> None:
    job = claimed(connection, lease=OVER)
    for _ in range(2):
        trigger_jobs.give_up_lost(connection, max_attempts=3)
        claim(connection, lease=OVER)
    lost = trigger_jobs.give_up_lost(connection, max_attempts=3)
    assert [(dead.id, dead.status) for dead in lost] == [(job.id, JobStatus.DEAD)]
    assert now_of(connection, job).finished_at is not None
    assert claim(connection) is None


def test_a_job_with_a_live_lease_is_given_up_only_when_its_run_is_known_to_be_dead(connection: Connection) -> None:
    job = claimed(connection, run_id="run-1")
    assert trigger_jobs.give_up_lost(connection, max_attempts=3) == []
    assert trigger_jobs.give_up_lost(connection, max_attempts=3, dead_run_id="run-2") == []
    assert [lost.id for lost in trigger_jobs.give_up_lost(connection, max_attempts=3, dead_run_id="run-1")] == [job.id]


def test_a_heartbeat_keeps_a_running_job(connection: Connection) -> None:
    job = claimed(connection, lease=OVER)
    leases.renew(connection, WORKER, MINUTE)
    assert trigger_jobs.give_up_lost(connection, max_attempts=3) == []
    assert now_of(connection, job).status is JobStatus.RUNNING


def test_jobs_of_a_past_business_date_are_superseded_and_todays_are_not(connection: Connection) -> None:
    past = trigger_jobs.add(connection, dws_job(business_date=YESTERDAY))
    other_site = trigger_jobs.add(connection, dws_job(business_date=YESTERDAY, site_id=1002))
    today = trigger_jobs.add(connection, dws_job())
    assert trigger_jobs.supersede_past(connection, SITE, TODAY) == 1
    superseded = trigger_jobs.get(connection, past)
    assert superseded is not None
    assert (superseded.status, superseded.error_message) == (JobStatus.COMPLETED, "superseded: 业务日已过")
    assert [job.status for job_id in (today, other_site) if (job := trigger_jobs.get(connection, job_id))] == [JobStatus.PENDING] * 2


@pytest.mark.parametrize(
    ("status", "blocks"),
    [("pending", True), ("running", True), ("completed", True), ("failed", False), ("partial", False), ("dead", False)],
)
def test_a_job_that_failed_does_not_block_its_successor(connection: Connection, status: str, blocks: bool) -> None:
    trigger_jobs.add(connection, dws_job())
    connection.execute("UPDATE biz.ai_trigger_jobs SET status = %s", [status])
    assert bool(trigger_jobs.blocking_jobs(connection, EventType.DWS_COMPLETED, SITE, TODAY, "live")) == blocks
    assert bool(trigger_jobs.prewarmed_sites(connection, [SITE], TODAY)) == blocks


def test_a_sandbox_job_never_stands_for_a_live_event(connection: Connection) -> None:
    trigger_jobs.add(connection, dws_job(mode="sandbox"))
    assert trigger_jobs.blocking_jobs(connection, EventType.DWS_COMPLETED, SITE, TODAY, "live") == []
    assert len(trigger_jobs.blocking_jobs(connection, EventType.DWS_COMPLETED, SITE, TODAY, "sandbox")) == 1


def test_a_duplicate_is_counted_with_the_load_that_it_named(connection: Connection) -> None:
    job_id = trigger_jobs.add(connection, dws_job())
    for etl_run_id in ("load-1", None, "load-2"):
        trigger_jobs.count_duplicate(connection, job_id, etl_run_id)
    job = trigger_jobs.get(connection, job_id)
    assert job is not None
    assert (job.duplicate_count, job.payload["etl_run_ids"]) == (3, ["load-1", "load-2"])


def test_a_run_is_asked_for_again_when_none_came(connection: Connection) -> None:
    trigger_jobs.add(connection, dws_job())
    trigger_jobs.add(connection, dws_job(site_id=1002))
    assert trigger_jobs.sites_wanting_a_run(connection) == [SITE, 1002]
    assert trigger_jobs.mark_run_requested(connection, [SITE, 1002, 9]) == {SITE, 1002}
    assert trigger_jobs.mark_run_requested(connection, [SITE]) == set()
    assert trigger_jobs.sites_wanting_a_run(connection) == []
    connection.execute("UPDATE biz.ai_trigger_jobs SET run_requested_at = run_requested_at - interval '16 seconds' WHERE site_id = 1002")
    assert trigger_jobs.sites_wanting_a_run(connection) == [1002]


def test_what_comes_after_a_request_waits_for_its_run(connection: Connection) -> None:
    trigger_jobs.add(connection, dws_job())
    assert trigger_jobs.mark_run_requested(connection, [SITE]) == {SITE}
    trigger_jobs.add(connection, dws_job())
    assert trigger_jobs.sites_wanting_a_run(connection) == []
    assert trigger_jobs.mark_run_requested(connection, [SITE]) == set()


def test_what_comes_while_a_job_of_the_site_runs_is_asked_for_after_it(connection: Connection) -> None:
    job = claimed(connection)
    trigger_jobs.add(connection, dws_job())
    assert trigger_jobs.sites_wanting_a_run(connection) == []
    assert trigger_jobs.mark_run_requested(connection, [SITE]) == set()
    trigger_jobs.finish(connection, job, JobStatus.COMPLETED)
    assert trigger_jobs.sites_wanting_a_run(connection) == [SITE]


def test_a_job_whose_lease_is_over_keeps_no_other_from_its_run(connection: Connection) -> None:
    claimed(connection, lease=OVER)
    trigger_jobs.add(connection, dws_job())
    assert trigger_jobs.mark_run_requested(connection, [SITE]) == {SITE}


def test_of_two_who_ask_at_once_only_one_marks_a_site_also_for_a_job_that_comes_meanwhile(database: Database) -> None:
    with database.autocommit() as connection:
        trigger_jobs.add(connection, dws_job())
    marked: list[set[int]] = []

    def ask() -> None:
        with database.transaction() as second:
            marked.append(trigger_jobs.mark_run_requested(second, [SITE]))

    waiting = threading.Thread(target=ask)
    with database.transaction() as first, database.autocommit() as connection:
        assert trigger_jobs.mark_run_requested(first, [SITE]) == {SITE}
        waiting.start()
        trigger_jobs.add(connection, dws_job())
    waiting.join(20)
    assert marked == [set()]


def test_no_run_is_asked_for_a_site_that_was_closed_meanwhile(connection: Connection) -> None:
    trigger_jobs.add(connection, dws_job())
    trigger_jobs.add(connection, dws_job(site_id=1002))
    connection.execute("UPDATE biz.sites SET is_active = false WHERE site_id = 1001")
    assert trigger_jobs.sites_wanting_a_run(connection) == [1002]


def test_a_whole_run_finishes_the_jobs_that_waited_before_it_read_the_data(connection: Connection) -> None:
    done, waited, regenerate = (trigger_jobs.add(connection, job) for job in (dws_job(), dws_job(), regenerating_job()))
    other_site = trigger_jobs.add(connection, dws_job(site_id=1002))
    data_read_at = database_now(connection)
    too_late = trigger_jobs.add(connection, dws_job())
    connection.execute("UPDATE biz.ai_trigger_jobs SET is_forced = true WHERE id = %s", [done])
    connection.execute("UPDATE biz.ai_trigger_jobs SET status = 'running', fencing_token = 1 WHERE id = %s", [done])
    job = trigger_jobs.get(connection, done)
    assert job is not None
    assert trigger_jobs.finish_covered(connection, job, data_read_at) == [waited]
    covered = trigger_jobs.get(connection, waited)
    assert covered is not None
    assert (covered.status, covered.payload["done_by_job"]) == (JobStatus.COMPLETED, done)
    assert {row["id"] for row in connection.execute("SELECT id FROM biz.ai_trigger_jobs WHERE status = 'pending'")} == {
        regenerate,
        other_site,
        too_late,
    }


def test_the_job_of_a_persons_run_is_running_from_the_start(connection: Connection) -> None:
    new = NewJob(EventType.RUN_APP, SITE, TODAY, "run_app|1001", "app2", {"targets": ["this_month__all"]}, LIVE, is_forced=True)
    job = trigger_jobs.add_running(connection, new, run_id="run-1", worker_id=WORKER, lease=MINUTE)
    assert (job.status, job.attempt, job.is_forced, job.event_type) == (JobStatus.RUNNING, 1, True, "run_app")
    assert trigger_jobs.sites_wanting_a_run(connection) == []
    assert leases.workers_of_run(connection, "run-1") == [WORKER]
    assert trigger_jobs.finish(connection, job, JobStatus.COMPLETED)


def test_every_step_of_a_job_is_told_to_those_who_watch(connection: Connection) -> None:
    job = claimed(connection)
    trigger_jobs.finish(connection, job, JobStatus.COMPLETED)
    told = connection.execute("SELECT payload FROM biz.ai_live_events WHERE event_type = 'job_updated' ORDER BY id").fetchall()
    assert [row["payload"]["status"] for row in told] == ["pending", "running", "completed"]


def test_a_persons_own_run_and_a_job_of_yesterday_are_told_too(connection: Connection) -> None:
    own = trigger_jobs.add_running(connection, dws_job(), run_id="run-1", worker_id=WORKER, lease=MINUTE)
    of_yesterday = trigger_jobs.add(connection, dws_job(business_date=YESTERDAY))
    assert trigger_jobs.supersede_past(connection, SITE, TODAY) == 1
    told = connection.execute("SELECT payload FROM biz.ai_live_events WHERE event_type = 'job_updated' ORDER BY id").fetchall()
    assert [(row["payload"]["trigger_job_id"], row["payload"]["status"]) for row in told] == [
        (own.id, "running"),
        (of_yesterday, "pending"),
        (of_yesterday, "completed"),
    ]


def test_a_new_job_and_one_that_waits_again_wake_those_who_wait_for_work(database: Database, connection: Connection) -> None:
    with database.listener() as listener:
        listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(WORK_CHANNEL)))
        claimed(connection, lease=OVER)
        assert len(list(listener.notifies(timeout=10, stop_after=1))) == 1
        trigger_jobs.give_up_lost(connection, max_attempts=3)
        assert len(list(listener.notifies(timeout=10, stop_after=1))) == 1


def test_an_unknown_job_is_none(connection: Connection) -> None:
    assert trigger_jobs.get(connection, 999) is None
