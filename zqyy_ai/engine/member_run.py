"""A person's own run over members: what Dagster's UI and its command line start. One job row a site, written already claimed.

    with MemberRun(engine, keys, apps, run_id=...) as run:
        for outcome in run.outcomes(): ...

Unlike a job from the queue it is not repeated: who started it sees what failed, and starts it again.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import psycopg

from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.events import EventType, chain_text, dedup_key
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.engine.assembly import Engine
from zqyy_ai.engine.chain_pool import Chain, ChainEnded, ChainPool
from zqyy_ai.engine.job_alerts import raise_for_job
from zqyy_ai.engine.member_chain import ChainWork, MemberChain, StepOutcome, step_counts
from zqyy_ai.engine.sandbox import refuse_in_sandbox
from zqyy_ai.engine.send_back import codes_text
from zqyy_ai.engine.step import StepResult
from zqyy_ai.store import sites, trigger_jobs
from zqyy_ai.store.clues import ClueSource
from zqyy_ai.store.database import Connection
from zqyy_ai.store.sites import Site
from zqyy_ai.store.trigger_jobs import NewJob, TriggerJob

_TAKE_SECONDS = 0.5
_PROGRESS_INTERVAL_SECONDS = 0.25
_ALIVE_SECONDS = 60.0
_MEMBERS_NAMED = 100


class MemberRun:
    """The members `member_ids` of one site, all of `apps` in the chains' order, for the assistants with an open task.

    `is_cancelled` is asked when the run is interrupted. Raises InvalidRequest for an unknown or closed site.
    """

    def __init__(
        self,
        engine: Engine,
        site_id: int,
        member_ids: Sequence[int],
        apps: tuple[AppType, ...],
        *,
        run_id: str,
        regenerate: bool = False,
        only_missing: bool = False,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._engine = engine
        self._member_ids = member_ids
        self._apps = apps
        self._run_id = run_id
        self._regenerate = regenerate
        self._only_missing = only_missing
        self._is_cancelled = is_cancelled
        self._results: list[StepResult] = []
        self._failures: list[str] = []
        self._progress_shown_at = 0.0
        self._shown: tuple[int, float | None] = (0, None)
        self.site: Site = engine.database.patiently(lambda connection: sites.get_site(connection, site_id))
        self.job: TriggerJob | None = None

    def __enter__(self) -> Self:
        self.job = self._engine.database.patiently(self._write_job)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self.job is not None
        job, bad = self.job, self._bad
        good = any(result.status.is_good for result in self._results)
        if error is not None:
            is_fault = isinstance(error, Exception)
            why = (
                f"运行中断:{type(error).__name__}: {error}"
                if is_fault
                else "运行被取消"
                if self._is_cancelled()
                else "运行进程被停止,请重新运行"
            )
            status = JobStatus.PARTIAL if good else JobStatus.FAILED
        elif bad or self._failures:
            why = self._summary()
            status = JobStatus.PARTIAL if good else JobStatus.FAILED
        else:
            why, status = None, JobStatus.COMPLETED

        def end(connection: Connection) -> None:
            trigger_jobs.record_progress(connection, job, self._progress())
            if trigger_jobs.finish(connection, job, status, why) and (error is None or isinstance(error, Exception)):
                raise_for_job(connection, job, status, why or "")

        self._engine.step.write_late_log_ends()
        self._engine.database.write_surely(end)

    def outcomes(self) -> Iterator[StepOutcome]:
        """Each step's outcome as soon as it is known. Leaving early lets calls under way end and be written, and starts no new one."""
        assert self.job is not None
        stopping = self._engine.worker.stopping
        pool = ChainPool(self._engine.settings.llm_concurrency, stopping, after_step=lambda _: None)
        for member_id in self._member_ids:
            pool.add(MemberChain(self._engine, self._work(self.job, member_id)))
        try:
            while pool.open_chains and not stopping.is_set():
                taken = pool.take(_TAKE_SECONDS)
                if isinstance(taken, ChainEnded):
                    self._end(taken.chain)
                    pool.forget(taken.chain)
                elif isinstance(taken, StepOutcome):
                    self._results.append(taken.result)
                    yield taken
                if not self._show_progress(is_alive=bool(pool.waiting_chains)):
                    # Somebody has taken the job for dead: what is under way ends, and nothing more begins.
                    break
        except BaseException:
            # Left early, by an interrupt for instance: who waits at a guard gives up, who waits for an answer still gets it written.
            stopping.set()
            raise
        finally:
            pool.close()
            left = pool.open_chains
            for chain in left:
                self._end(chain)
        if left:
            self._failures.append(f"{len(left)} 位会员没有完成:运行正在停止,或任务已被收回")

    def _end(self, chain: Chain) -> None:
        chain.end()
        if chain.failure is not None:
            self._failures.append(f"会员 {chain.work.member_id}:{type(chain.failure).__name__}: {chain.failure}"[:300])

    @property
    def failures(self) -> list[str]:
        """Chains that could not go on at all, in words for an operator."""
        return self._failures

    @property
    def _bad(self) -> list[StepResult]:
        return [result for result in self._results if result.status.is_bad]

    def _work(self, job: TriggerJob, member_id: int) -> ChainWork:
        return ChainWork(
            job=job,
            site=self.site,
            member_id=member_id,
            apps=self._apps,
            assistant_ids=None,
            note=None,
            clue_source=ClueSource.CONSUMPTION,
            trigger_type="manual",
            run_id=self._run_id,
            only_missing=self._only_missing,
            reuse_not_before=job.created_at if self._regenerate else None,
        )

    def _write_job(self, connection: Connection) -> TriggerJob:
        worker, site_id = self._engine.worker, self.site.site_id
        # There is one when this is the repetition of a transaction whose confirmation got lost.
        if (written := trigger_jobs.claimed_by(connection, site_id, run_id=self._run_id, worker_id=worker.id)) is not None:
            return written
        refuse_in_sandbox(connection, site_id)
        business_date = self._engine.runtime_context.business_date(self._engine.clock.now(), self.site.business_day_cutoff)
        one = self._member_ids[0] if len(self._member_ids) == 1 else None
        event_type = EventType.RUN_APP if one is not None and len(self._apps) == 1 else EventType.BACKFILL
        mode = self._engine.runtime_context.mode.value
        payload: dict[str, Any] = {
            "apps": [app.value for app in self._apps],
            "members": list(self._member_ids[:_MEMBERS_NAMED]),
            "member_count": len(self._member_ids),
            "regenerate": self._regenerate,
            "only_missing": self._only_missing,
            "source": "dagster",
        }
        job = NewJob(
            event_type=event_type,
            site_id=site_id,
            member_id=one,
            business_date=business_date,
            dedup_key=dedup_key(event_type, site_id, one, chain_text(self._apps), business_date, mode),
            app_chain=chain_text(self._apps),
            payload=payload,
            context=self._engine.runtime_context,
            is_forced=True,
        )
        return trigger_jobs.add_running(connection, job, run_id=self._run_id, worker_id=worker.id, lease=worker.lease)

    def _progress(self) -> dict[str, int]:
        counts = step_counts(self._results)
        return {**counts, "total": max(len(self._results), len(self._member_ids) * len(self._apps))}

    def _show_progress(self, *, is_alive: bool) -> bool:
        """False when the job was taken away. `is_alive`: chains wait for their turn; a run of hung steps alone shall look stuck."""
        assert self.job is not None
        shown = (len(self._results), time.monotonic() // _ALIVE_SECONDS if is_alive else None)
        if shown == self._shown or time.monotonic() - self._progress_shown_at < _PROGRESS_INTERVAL_SECONDS:
            return True
        self._shown, self._progress_shown_at = shown, time.monotonic()
        try:
            with self._engine.database.autocommit() as connection:
                return trigger_jobs.record_progress(connection, self.job, self._progress())
        except (psycopg.OperationalError, psycopg.InterfaceError):
            return True  # the next one shows it

    def _summary(self) -> str:
        parts = [f"{len(self._bad)} 个步骤未完成:{codes_text(self._bad)}"] if self._bad else []
        return ";".join([*parts, *self._failures])[:900]
