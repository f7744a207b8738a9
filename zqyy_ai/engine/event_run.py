"""The run that takes members' jobs as they come: events, single applications, batches.

    for outcome in EventRun(engine, run_id).outcomes(): ...

It claims what waits, is woken by LISTEN for what comes, and stays open while there is work and for a while after. It closes so that no
event falls between it and the sensor: first its row says so, then it looks once more. At its greatest age the sensor asks for a
successor, and it takes nothing new once that one is open.

The consumer of `outcomes` is the thread that ends jobs: a job ends after its steps' outcomes were taken, so that what a consumer writes of
them is there when the job says `completed`.
"""

import logging
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import psycopg
from psycopg_pool import PoolTimeout

from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.engine.assembly import Engine
from zqyy_ai.engine.batches import CANCELLED
from zqyy_ai.engine.chain_pool import Chain, ChainEnded, ChainPool, Outcome
from zqyy_ai.engine.intake import take_batch_in
from zqyy_ai.engine.job_ending import Ends, ending_of, left, tell_of_end, write_ending, write_plain_ending
from zqyy_ai.engine.member_chain import MemberChain, work_of_job
from zqyy_ai.engine.member_requests import RUN_APP_PRIORITY
from zqyy_ai.engine.window_chain import WindowChain, window_of_job
from zqyy_ai.guards.call_pauses import pause_in_force
from zqyy_ai.store import batches, event_runs, events, sites, trigger_jobs
from zqyy_ai.store.database import Connection
from zqyy_ai.store.events import WORK_CHANNEL
from zqyy_ai.store.trigger_jobs import TriggerJob

logger = logging.getLogger(__name__)

# Jobs that were sent back become due, and a member's next job becomes free, without a notification.
_LOOK_INTERVAL_SECONDS = 1.0
_INBOX_INTERVAL_SECONDS = 0.1
_TAKE_SECONDS = 0.5
_TOUCH_INTERVAL_SECONDS = 60.0
_RECONNECT_SECONDS = 0.5
# Chains held for each thread: enough that no thread waits for a claim, few enough that a crash gives little back.
_CHAINS_PER_THREAD = 2
# Backfills and batches are below 0; what people and events ask for is not.
LEAST_EVENT_PRIORITY = 0
LEAST_PRIORITY = -1000
# Without a successor by then, a run that is too old closes all the same; the sensor asks again.
_LONGEST_HANDOVER_SECONDS = 900.0


class EventRun:
    """One run's taking of jobs; used once."""

    def __init__(self, engine: Engine, run_id: str) -> None:
        self._engine = engine
        self._run_id = run_id
        self._threads = engine.settings.llm_concurrency
        self._pool = ChainPool(self._threads, engine.worker.stopping, after_step=self._record_progress)
        self._claiming = threading.Lock()
        self._is_taking = True
        self._is_closed = threading.Event()
        self._feeder = threading.Thread(target=self._feed, name="zqyy-ai feeder", daemon=True)
        self._worked_at = self._opened_at = self._touched_at = time.monotonic()
        self._may_wait_more = False
        self._may_hold_unknown = False
        self._has_more_events = False
        self._unended: set[int] = set()
        self._failed_job_id: int | None = None

    def outcomes(self) -> Generator[Outcome]:
        """Each step's outcome as soon as it is known, until the run has closed.

        Leaving early lets calls under way end and be written, starts no new one, and gives the jobs back at once. A consumer that an outcome
        fails throws its exception in here: that outcome's job does not go back, and has spent its attempt.
        """
        self._open()
        self._feeder.start()
        try:
            while not (self._is_closed.is_set() and (self._engine.worker.stopping.is_set() or not self._pool.open_chains)):
                taken = self._pool.take(_TAKE_SECONDS)
                if isinstance(taken, ChainEnded):
                    self._end(taken.chain)
                    self._claim_more()
                elif taken is not None:
                    try:
                        yield taken
                    except Exception:
                        self._failed_job_id = taken.job_id
                        raise
                self._touch()
        finally:
            self._stop()

    # Opening and closing

    def _open(self) -> None:
        worker = self._engine.worker
        self._engine.database.patiently(
            lambda connection: event_runs.open_run(connection, self._run_id, worker_id=worker.id, lease=worker.lease)
        )

    def _close(self) -> None:
        self._engine.database.write_surely(lambda connection: event_runs.close_run(connection, self._run_id))

    def _stop(self) -> None:
        """However the run ends: nothing is held any more when it has ended.

        Others take over at once: the run is closed before its calls under way end, and what waits in it goes back before that too.
        """
        self._is_taking = False
        if not self._is_closed.is_set() or self._pool.open_chains:
            # Also one that takes nothing more: what waits at a guard in it would send its call long after.
            self._engine.worker.stopping.set()
        self._is_closed.set()
        self._feeder.join()
        self._close()
        self._leave(self._pool.stop())
        self._pool.close()
        self._leave(self._pool.open_chains)
        self._engine.step.write_late_log_ends()

    def _leave(self, chains: list[Chain]) -> None:
        """Their jobs go back, also where the chain is over: what it brought was not told yet, and the next round takes it over."""
        for chain in chains:
            if chain.work.job.id == self._failed_job_id:
                # Stays running and holds its member: recovery takes it, and counts the attempt.
                self._pool.forget(chain)
                continue
            try:
                self._end(chain, is_left=True)
            except Exception:
                # Its lease runs out.
                logger.exception("event_run.job_not_left job=%s", chain.work.job.id)

    def _may_close(self) -> bool:
        """Whether the run takes nothing any more. Idle for long enough, it closes and looks once more."""
        if self._pool.open_chains:
            return False
        settings = self._engine.settings
        if time.monotonic() - self._worked_at < settings.event_run_idle_seconds:
            return False
        self._close()
        if self._engine.database.patiently(_has_work):
            self._open()
            # What is there may be another run's to do next, as the next job of a member whose chain it has under way.
            self._worked_at = time.monotonic()
            return False
        return True

    def _is_handed_over(self) -> bool:
        """Whether a younger run is open, so that this one may end with what it has."""
        age_seconds = time.monotonic() - self._opened_at
        if age_seconds < self._engine.settings.event_run_max_age_seconds:
            return False
        with self._engine.database.autocommit() as connection:
            younger = [
                run for run in event_runs.open_runs(connection) if run.run_id != self._run_id and run.age.total_seconds() < age_seconds
            ]
        return bool(younger) or age_seconds > self._engine.settings.event_run_max_age_seconds + _LONGEST_HANDOVER_SECONDS

    # Taking jobs

    def _feed(self) -> None:
        """Its own thread: intake and claims, woken by notifications. A lost connection is made anew; what was missed is looked for."""
        while self._is_taking:
            try:
                with self._engine.database.listener() as listener:
                    listener.execute(b"LISTEN " + WORK_CHANNEL.encode())
                    while self._look():
                        if not self._has_more_events:
                            _wait_for_work(listener)
            except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as lost:
                logger.warning("event_run.feeding_interrupted cause=%s", type(lost).__name__)
                self._is_closed.wait(_RECONNECT_SECONDS)
            except Exception:
                # A bug in taking must not leave a run that is open and takes nothing.
                logger.exception("event_run.feeding_failed")
                self._is_taking = False
                self._close()
        self._is_closed.set()

    def _look(self) -> bool:
        """False when the run takes nothing more."""
        if not self._is_taking or self._engine.worker.stopping.is_set():
            self._is_taking = False
            return False
        if not self._engine.database.patiently(lambda connection: event_runs.is_open(connection, self._run_id), in_one_transaction=False):
            # Dagster has given this run up, though its process lives: others do its work, and it sends nothing more.
            logger.warning("event_run.given_up run=%s", self._run_id)
            self._engine.worker.stopping.set()
            self._is_taking = False
            return False
        if self._is_handed_over():
            self._close()
            self._is_taking = False
            return False
        # A batch a look: of fifty thousand events the first ones' calls begin before the last ones are read.
        _, self._has_more_events = take_batch_in(self._engine.database, self._engine.clock, self._engine.runtime_context)
        self._claim()
        self._claim_a_last_attempt()
        if self._may_close():
            self._is_taking = False
            return False
        return True

    def _claim_more(self) -> None:
        """From the consumer's thread, when a chain has made room. Trouble of the database is for the feeder, which looks again in a moment."""
        if not self._may_wait_more:
            return
        try:
            self._claim()
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as lost:
            logger.warning("event_run.claim_interrupted cause=%s", type(lost).__name__)

    def _claim(self) -> None:
        """As many jobs as there is room for, the urgent ones first; backfills get what is left."""
        with self._claiming:
            if not self._may_claim():
                return
            have_all = [self._claim_from(least_priority) for least_priority in (RUN_APP_PRIORITY, LEAST_EVENT_PRIORITY)]
            have_all.append(self._claim_backfills())
            self._may_wait_more = not all(have_all)

    def _claim_from(self, least_priority: int) -> bool:
        """True when nothing of this priority or above is left to claim now.

        What is less urgent takes no place: its steps come later. Where there is no room, a site that holds less than its share gets it all the
        same, so that those who came first can't keep others out.
        """
        held = self._pool.open_by_site(least_priority)
        most = self._threads * _CHAINS_PER_THREAD
        room = most - sum(held.values())
        if room > 0:
            return len(self._claimed(held, most=room, most_of_site=most, least_priority=least_priority)) < room
        share = max(most // (len(held) + 1), 1)
        self._claimed(held, most=self._threads, most_of_site=share, least_priority=least_priority)
        return False

    def _claim_backfills(self) -> bool:
        """For threads that nothing else needs: the sites take turns, and a site that only fills up must not take one from another's events."""
        held = self._pool.open_by_site(LEAST_PRIORITY)
        room = self._threads - sum(held.values())
        return room > 0 and len(self._claimed(held, most=room, most_of_site=room, least_priority=LEAST_PRIORITY)) < room

    def _may_claim(self) -> bool:
        """Not during a pause: jobs wait in the queue, and the end of the pause wakes this run, which stays open for it."""
        if not self._is_taking:
            return False
        is_paused = self._engine.database.patiently(pause_in_force, in_one_transaction=False) is not None
        if is_paused:
            self._worked_at = time.monotonic()
        return not is_paused

    def _claim_a_last_attempt(self) -> None:
        """What two processes have died with is tried one at a time: it takes no company to its end."""
        with self._claiming:
            if self._may_claim() and not self._has_last_attempt():
                self._claimed({}, most=1, most_of_site=1, least_priority=LEAST_PRIORITY, attempts=range(self._last_attempt, 1_000_000))

    @property
    def _last_attempt(self) -> int:
        """So many attempts a job has spent that has only one left."""
        return max(self._engine.settings.job_max_attempts - 1, 1)

    def _has_last_attempt(self) -> bool:
        return any(chain.work.job.attempt > self._last_attempt for chain in self._pool.open_chains)

    def _claimed(
        self, held: dict[int, int], *, most: int, most_of_site: int, least_priority: int, attempts: range | None = None
    ) -> list[TriggerJob]:
        worker = self._engine.worker
        known = {chain.work.job.id for chain in self._pool.open_chains} | self._unended

        def claim(connection: Connection) -> list[TriggerJob]:
            # A repetition, or the claim after one that failed, may have its jobs already, though the confirmation got lost.
            found = (
                trigger_jobs.held_by_worker(connection, run_id=self._run_id, worker_id=worker.id, known=known)
                if self._may_hold_unknown
                else []
            )
            self._may_hold_unknown = True
            return found or trigger_jobs.claim_member_jobs(
                connection,
                run_id=self._run_id,
                worker_id=worker.id,
                lease=worker.lease,
                most=most,
                most_of_site=most_of_site,
                least_priority=least_priority,
                held=held,
                attempts=attempts or range(self._last_attempt),
            )

        jobs = self._engine.database.patiently(claim)
        for job in jobs:
            self._begin(job)
        self._may_hold_unknown = False
        if jobs:
            self._worked_at = time.monotonic()
        return jobs

    def _begin(self, job: TriggerJob) -> None:
        """A job that no chain can be made of fails alone."""
        try:
            with self._engine.database.autocommit() as connection:
                chain = self._chain(connection, job)
        except (psycopg.OperationalError, psycopg.InterfaceError):
            self._engine.database.write_surely(
                lambda connection: trigger_jobs.send_back(connection, job, self._engine.clock.now(), "数据库连接中断", {})
            )
            return
        except Exception as cause:
            logger.exception("event_run.job_unusable job=%s", job.id)
            why = f"任务无法执行:{cause}"[:900]

            def fail(connection: Connection) -> None:
                if trigger_jobs.finish(connection, job, JobStatus.FAILED, why):
                    tell_of_end(connection, job, JobStatus.FAILED, why)

            self._is_written(job, fail, lambda connection: write_plain_ending(connection, job, Ends(JobStatus.FAILED)))
            return
        if chain is None:
            # It was under way when its batch was cancelled, and came back to the queue. That is nobody's trouble.
            self._engine.database.write_surely(lambda connection: trigger_jobs.finish(connection, job, JobStatus.FAILED, CANCELLED))
        else:
            self._pool.add(chain)

    def _chain(self, connection: Connection, job: TriggerJob) -> Chain | None:
        """None for a job of a batch that was cancelled."""
        if job.batch_id is not None and batches.is_cancelled(connection, job.batch_id):
            return None
        site = sites.get_site(connection, job.site_id)
        if job.member_id is None:
            return WindowChain(self._engine, window_of_job(connection, job, site, self._run_id))
        return MemberChain(self._engine, work_of_job(connection, job, site, self._run_id))

    # Steps and ends

    def _record_progress(self, chain: Chain) -> None:
        """After each step. A job that somebody else has got meanwhile is not worked on any more."""
        if chain.is_over:
            return  # its end follows at once
        is_ours = self._engine.database.patiently(
            lambda connection: trigger_jobs.record_progress(connection, chain.work.job, chain.progress()), in_one_transaction=False
        )
        if not is_ours:
            chain.is_lost = True

    def _touch(self) -> None:
        """Chains that wait for a thread are not stuck."""
        if time.monotonic() - self._touched_at < _TOUCH_INTERVAL_SECONDS:
            return
        self._touched_at = time.monotonic()
        waiting = [chain.work.job.id for chain in self._pool.waiting_chains]
        if not waiting:
            return
        try:
            with self._engine.database.autocommit() as connection:
                trigger_jobs.touch(connection, waiting, self._engine.worker.id)
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout):
            logger.warning("event_run.not_touched")

    def _end(self, chain: Chain, *, is_left: bool = False) -> None:
        """A job whose end the database refuses stays running, and holds its member: recovery takes it, and counts the attempt."""
        self._worked_at = time.monotonic()
        is_ended = False
        try:
            is_ended = chain.is_lost or self._write_end(chain, is_left=is_left)
        except (psycopg.OperationalError, psycopg.InterfaceError):
            is_ended = True  # An outage is not its fault.
            raise
        finally:
            self._pool.forget(chain)
            if is_ended:
                chain.end()

    def _write_end(self, chain: Chain, *, is_left: bool) -> bool:
        """False when the database takes no end of this job."""
        now = self._engine.clock.now()
        ending = left(now) if is_left else ending_of(chain, now=now, is_any_held=lambda: self._is_any_held(chain))
        self._engine.step.write_late_log_ends()
        return self._is_written(
            chain.work.job,
            lambda connection: write_ending(connection, chain, ending),
            lambda connection: write_plain_ending(connection, chain.work.job, ending),
        )

    def _is_written(self, job: TriggerJob, *ways: Callable[[Connection], object]) -> bool:
        """By the first of `ways` that the database takes; a lost connection is raised. One job's end is never the end of all."""
        for write in ways:
            try:
                self._engine.database.write_surely(write)
                return True
            except (psycopg.OperationalError, psycopg.InterfaceError):
                raise
            except Exception:
                logger.exception("event_run.end_refused job=%s", job.id)
        self._unended.add(job.id)
        return False

    def _is_any_held(self, chain: Chain) -> bool:
        try:
            return self._engine.database.patiently(
                lambda connection: self._engine.guards.breaker.is_any_held(connection, set(chain.work.apps)), in_one_transaction=False
            )
        except (psycopg.OperationalError, psycopg.InterfaceError):
            # Not known: the job goes back, which costs it nothing, and is not ended for an outage of ours.
            return True


def _wait_for_work(listener: psycopg.Connection[Any]) -> None:
    """Until a notification comes, an event is in the inbox, or the look interval is over.

    Of several callers in a transaction only one notifies, so that none waits for another: the others' events are looked for.
    """
    deadline = time.monotonic() + _LOOK_INTERVAL_SECONDS
    while time.monotonic() < deadline:
        if list(listener.notifies(timeout=_INBOX_INTERVAL_SECONDS, stop_after=1)):
            # A thousand events are one look.
            list(listener.notifies(timeout=0))
            return
        if events.has_waiting_events(listener):
            return


def _has_work(connection: Connection) -> bool:
    return events.has_waiting_events(connection) or trigger_jobs.has_member_work(connection)
