"""Recovery: what dead processes left behind is put right: jobs, claims, slots, reservations, half-written run logs.

Either at once, because Dagster has said that a run died, or by and by, when a lease has run out. Repeating it changes nothing.
"""

import logging
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from zqyy_ai.domain.events import EVENT_NAMES
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.engine.job_alerts import raise_for_job
from zqyy_ai.guards.budget import BudgetGuard
from zqyy_ai.store import event_runs, leases, run_logs, trigger_jobs, triggers
from zqyy_ai.store.database import Connection, Database

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was found and put right. `jobs_ended`: those of runs that people started or cancelled; nobody else repeats them."""

    jobs_requeued: int = 0
    jobs_dead: int = 0
    jobs_ended: int = 0
    reservations_charged: int = 0
    reservations_released: int = 0
    lost_run_ids: tuple[str, ...] = ()

    @property
    def is_nothing(self) -> bool:
        return self == Recovered()


def recover_lost_leases(database: Database, budget: BudgetGuard, *, max_attempts: int, stuck_after: timedelta | None = None) -> Recovered:
    """For work whose lease ran out, whoever held it; and for jobs that are stuck for `stuck_after` (None: those are not looked for)."""
    with database.transaction() as connection:
        lost = trigger_jobs.give_up_lost(connection, max_attempts=max_attempts)
        if stuck_after is not None:
            lost += trigger_jobs.give_up_stuck(connection, max_attempts=max_attempts, stuck_after=stuck_after)
        charged, released = budget.settle_of_the_dead(connection)
        for run_id in {job.run_id for job in lost if job.run_id}:
            run_logs.close_of_dead_run(connection, run_id)
        run_logs.close_abandoned(connection)
        leases.free_expired(connection)
        return _recovered(connection, lost, charged, released)


def recover_dead_run(database: Database, budget: BudgetGuard, run_id: str, *, max_attempts: int) -> Recovered:
    """For one Dagster run that is known to be over: does not wait for its leases. A run that ended its job itself left nothing."""
    with database.transaction() as connection:
        worker_ids = leases.workers_of_run(connection, run_id)
        # Its process may live on, when it was its code server that died: it sees that its run is closed, and ends.
        event_runs.close_run(connection, run_id)
        lost = trigger_jobs.give_up_lost(connection, max_attempts=max_attempts, dead_run_id=run_id)
        charged, released = _free_workers(connection, budget, worker_ids)
        run_logs.close_of_dead_run(connection, run_id)
        return _recovered(connection, lost, charged, released)


def recover_cancelled_run(database: Database, budget: BudgetGuard, run_id: str) -> Recovered:
    """For one that a person cancelled: what it held is freed, and its job ends, because nobody wants it again."""
    with database.transaction() as connection:
        worker_ids = leases.workers_of_run(connection, run_id)
        event_runs.close_run(connection, run_id)
        ended = trigger_jobs.cancel_of_run(connection, run_id)
        charged, released = _free_workers(connection, budget, worker_ids)
        run_logs.close_of_dead_run(connection, run_id)
        return _recovered(connection, ended, charged, released, is_alarming=False)


def _free_workers(connection: Connection, budget: BudgetGuard, worker_ids: list[UUID]) -> tuple[int, int]:
    """Reservations charged and released. After the jobs, as everywhere: rows are locked in one order."""
    charged, released = budget.settle_of_the_dead(connection, worker_ids)
    for worker_id in worker_ids:
        leases.free_all(connection, worker_id)
    return charged, released


def _recovered(
    connection: Connection, lost: list[trigger_jobs.TriggerJob], charged: int, released: int, *, is_alarming: bool = True
) -> Recovered:
    dead = [job for job in lost if job.status is JobStatus.DEAD]
    requeued = sum(job.status is JobStatus.PENDING for job in lost)
    run_ids = tuple(sorted({job.run_id for job in lost if job.run_id}))
    found = Recovered(requeued, len(dead), len(lost) - requeued - len(dead), charged, released, run_ids)
    for job in dead:
        name = EVENT_NAMES.get(job.event_type)
        if name is not None and not job.context.is_sandbox:
            triggers.record_job_end(connection, name, f"任务 {job.id}(门店 {job.site_id}):{job.error_message}")
    if is_alarming:
        for job in lost:
            raise_for_job(connection, job, job.status, job.error_message or "")
    if not found.is_nothing:
        logger.warning("recovery.done %s", found)
    return found
