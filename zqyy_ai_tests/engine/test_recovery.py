from datetime import date, timedelta
from uuid import UUID, uuid4

import pytest

from zqyy_ai.domain.business_clock import MIDNIGHT
from zqyy_ai.domain.events import EventType
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.domain.runtime_context import LIVE
from zqyy_ai.engine.recovery import Recovered, recover_cancelled_run, recover_dead_run, recover_lost_leases
from zqyy_ai.guards.budget import BudgetGuard, BudgetPolicy, Reservation
from zqyy_ai.store import run_logs, step_claims, trigger_jobs
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.run_logs import RunSubject
from zqyy_ai.store.trigger_jobs import NewJob, TriggerJob
from zqyy_ai_tests.engine.workbench import alerts, held_rows, jobs, log_statuses, spent

BUDGET = BudgetGuard(BudgetPolicy(10_000, 10_000, 10_000, 10_000))
ALIVE, RUN_OUT = timedelta(minutes=5), timedelta(seconds=-1)
TODAY = date(2025, 6, 18)


def work_of_a_worker(connection: Connection, *, lease: timedelta, run_id: str = "run-1", site_id: int = 1001) -> tuple[UUID, TriggerJob]:
    """All that a worker can hold in the middle of a prewarm: a job, two claims, a slot, a sent reservation and one that is not, a log."""
    worker_id = uuid4()
    job_id = trigger_jobs.add(
        connection, NewJob(EventType.DWS_COMPLETED, site_id, TODAY, f"dws_completed|{site_id}|-|x|live", "app2", {}, LIVE)
    )
    job = trigger_jobs.claim_dws_job(connection, site_id, run_id=run_id, worker_id=worker_id, lease=lease)
    assert job is not None
    assert job.id == job_id
    for target_id in ("this_month__all", "last_month__all"):
        step_claims.take(connection, "app2_finance", site_id, target_id, worker_id=worker_id, lease=lease)
    reserved, sent = (
        BUDGET.reserve(
            connection, site_id=site_id, site_cutoff=MIDNIGHT, app_type="app2_finance", tokens=100, worker_id=worker_id, lease=lease
        )
        for _ in range(2)
    )
    assert reserved != sent
    connection.execute(
        "INSERT INTO biz.ai_call_slots VALUES ((SELECT count(*) FROM biz.ai_call_slots), %s, %s, clock_timestamp() + %s)",
        [uuid4(), worker_id, lease],
    )
    subject = RunSubject("app2_finance", site_id, "last_month__all", "event", job.id, dagster_run_id=run_id)
    BUDGET.mark_sent(connection, sent, run_log_id=run_logs.start(connection, subject, "提示词"), lease=lease)
    return worker_id, job


def test_work_whose_lease_ran_out_is_put_back_charged_and_closed(database: Database, connection: Connection) -> None:
    work_of_a_worker(connection, lease=RUN_OUT)
    found = recover_lost_leases(database, BUDGET, max_attempts=3)
    assert found == Recovered(jobs_requeued=1, reservations_charged=1, reservations_released=1, lost_run_ids=("run-1",))
    [row] = jobs(connection)
    assert (row["status"], row["attempt"], row["error_message"]) == ("pending", 1, "执行进程中断,等待重新执行")
    assert log_statuses(connection) == [("failed", "worker_died")]
    assert connection.execute("SELECT tokens_used FROM biz.ai_run_logs").fetchall() == [{"tokens_used": 100}]
    assert spent(connection) == (100, 0)
    assert alerts(connection) == []


def test_recovering_twice_changes_nothing(database: Database, connection: Connection) -> None:
    work_of_a_worker(connection, lease=RUN_OUT)
    recover_lost_leases(database, BUDGET, max_attempts=3)
    assert recover_lost_leases(database, BUDGET, max_attempts=3).is_nothing
    assert recover_dead_run(database, BUDGET, "run-1", max_attempts=3).is_nothing
    assert spent(connection) == (100, 0)


def test_work_under_a_live_lease_is_left_alone(database: Database, connection: Connection) -> None:
    work_of_a_worker(connection, lease=ALIVE)
    assert recover_lost_leases(database, BUDGET, max_attempts=3).is_nothing
    assert jobs(connection)[0]["status"] == "running"
    assert log_statuses(connection) == [("running", None)]
    assert spent(connection) == (0, 200)


def test_a_run_known_to_be_dead_is_not_waited_for_and_another_runs_work_goes_on(database: Database, connection: Connection) -> None:
    work_of_a_worker(connection, lease=ALIVE)
    work_of_a_worker(connection, lease=ALIVE, run_id="run-2", site_id=1002)
    held_by_both = held_rows(connection)
    found = recover_dead_run(database, BUDGET, "run-1", max_attempts=3)
    assert found == Recovered(jobs_requeued=1, reservations_charged=1, reservations_released=1, lost_run_ids=("run-1",))
    assert [(row["run_id"], row["status"]) for row in jobs(connection)] == [("run-1", "pending"), ("run-2", "running")]
    assert held_rows(connection) == held_by_both / 2, "claims and slots are free at once"
    assert log_statuses(connection) == [("failed", "worker_died"), ("running", None)]
    assert spent(connection) == (100, 200)


def test_a_run_that_ended_its_job_itself_left_nothing(database: Database, connection: Connection) -> None:
    _, job = work_of_a_worker(connection, lease=ALIVE)
    connection.execute("DELETE FROM biz.ai_budget_reservations")
    connection.execute("DELETE FROM biz.ai_run_logs")
    trigger_jobs.finish(connection, job, JobStatus.PARTIAL, "一个窗口失败")
    assert recover_dead_run(database, BUDGET, "run-1", max_attempts=3).is_nothing
    assert jobs(connection)[0]["status"] == "partial"


def test_a_job_that_was_lost_too_often_is_dead_with_a_critical_alert(database: Database, connection: Connection) -> None:
    work_of_a_worker(connection, lease=RUN_OUT)
    assert recover_lost_leases(database, BUDGET, max_attempts=1).jobs_dead == 1
    [row] = jobs(connection)
    assert (row["status"], row["error_message"]) == ("dead", "执行进程多次中断,已放弃")
    assert row["finished_at"] is not None
    [alert] = connection.execute("SELECT fingerprint, severity, message FROM biz.ai_alerts").fetchall()
    assert (alert["fingerprint"], alert["severity"]) == ("job_dead|1001|-|dws_completed", "critical")
    assert alert["message"] == f"任务 {row['id']}(门店 1001,dws_completed)失败:执行进程多次中断,已放弃"
    assert recover_lost_leases(database, BUDGET, max_attempts=1).is_nothing
    assert alerts(connection) == [("job_dead", 1)]


def test_the_job_of_a_persons_run_that_died_has_failed_for_nobody_else_would_take_it(database: Database, connection: Connection) -> None:
    new = NewJob(EventType.RUN_APP, 1001, TODAY, "run_app|1001|this_month__all|x|live", "app2", {}, LIVE, is_forced=True)
    trigger_jobs.add_running(connection, new, run_id="run-1", worker_id=uuid4(), lease=ALIVE)
    assert recover_dead_run(database, BUDGET, "run-1", max_attempts=3) == Recovered(jobs_ended=1, lost_run_ids=("run-1",))
    [row] = jobs(connection)
    assert (row["status"], row["error_message"]) == ("failed", "执行进程中断,请重新运行")
    assert row["finished_at"] is not None
    assert connection.execute("SELECT fingerprint, severity FROM biz.ai_alerts").fetchall() == [
        {"fingerprint": "failed|1001|-|run_app", "severity": "warning"}
    ]


@pytest.mark.parametrize(("done", "status"), [(0, "failed"), (3, "partial")])
def test_the_job_of_a_cancelled_run_ends_and_what_it_held_is_freed(
    database: Database, connection: Connection, done: int, status: str
) -> None:
    """As against a dead run's: a person does not want it, so no other run takes it up."""
    _, job = work_of_a_worker(connection, lease=ALIVE)
    trigger_jobs.record_progress(connection, job, {"done": done})

    found = recover_cancelled_run(database, BUDGET, "run-1")

    assert found == Recovered(jobs_ended=1, reservations_charged=1, reservations_released=1, lost_run_ids=("run-1",))
    [row] = jobs(connection)
    assert (row["status"], row["error_message"]) == (status, "运行被取消")
    assert alerts(connection) == []
    assert held_rows(connection) == 0
    assert recover_cancelled_run(database, BUDGET, "run-1").is_nothing


@pytest.mark.parametrize("recovers_by_run", [True, False])
def test_an_answer_paid_by_a_worker_that_turns_out_to_be_alive_is_not_booked_twice(
    database: Database, connection: Connection, recovers_by_run: bool
) -> None:
    work_of_a_worker(connection, lease=RUN_OUT)
    [sent] = connection.execute("SELECT token, tokens FROM biz.ai_budget_reservations WHERE sent_at IS NOT NULL").fetchall()
    if recovers_by_run:
        recover_dead_run(database, BUDGET, "run-1", max_attempts=3)
    else:
        recover_lost_leases(database, BUDGET, max_attempts=3)
    settled = BUDGET.settle(connection, Reservation(sent["token"], 100), 80)
    assert settled is None
    assert spent(connection) == (100, 0)
