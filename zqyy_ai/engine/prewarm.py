"""The prewarm: a site's finance windows side by side, each a guarded step, under one job.

    with PrewarmRun(engine, site_id, windows, run_id) as prewarm:
        for outcome in prewarm.outcomes(): ...

The job is claimed (or, for a run that a person started, written) at the start and ended at the end, whatever happens between. One query
brings all business data; the windows' prompts are computed from it while the first calls are already under way.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import psycopg

from zqyy_ai.domain.answers import FinanceAnswer
from zqyy_ai.domain.apps import AppType, finance_app_of
from zqyy_ai.domain.events import FINANCE_CHAIN, EventName, EventType
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.domain.runtime_context import LIVE
from zqyy_ai.domain.windows import WINDOW_KEYS, WindowKey, earliest_day
from zqyy_ai.engine.assembly import Engine
from zqyy_ai.engine.job_alerts import raise_for_job, resolve_by_job
from zqyy_ai.engine.sandbox import refuse_in_sandbox
from zqyy_ai.engine.send_back import codes_text, failed_for_good, moment_to_go_on
from zqyy_ai.engine.step import StepRequest, StepResult, StepStatus
from zqyy_ai.prompts.finance import FinancePrompts
from zqyy_ai.store import cache, sites, trigger_jobs, triggers
from zqyy_ai.store.cache import CachedAnswer
from zqyy_ai.store.database import Connection, database_now
from zqyy_ai.store.sites import Site
from zqyy_ai.store.trigger_jobs import NewJob, TriggerJob
from zqyy_ai.warehouse.finance import load_finance, loaded_through

logger = logging.getLogger(__name__)

_PROGRESS_INTERVAL_SECONDS = 0.25
# Those who watch are told more rarely: each of these is a row that stays for days.
_TOLD_INTERVAL_SECONDS = 1.0
_AFTER_DATABASE_TROUBLE = timedelta(seconds=5)
_NO_ROOM_PAUSES_SECONDS = (1.0, 2.0, *(4.0,) * 7)
_GIVEN_UP = "本任务的上一轮已失败,不再重复调用;需要时请发起新的预热"


@dataclass(frozen=True, slots=True)
class WindowOutcome:
    window: WindowKey
    result: StepResult


@dataclass(slots=True)
class _Counts:
    total: int
    done: int = 0
    reused: int = 0
    failed: int = 0
    calls: int = 0
    tokens: int = 0
    bad: list[WindowOutcome] = field(default_factory=list)

    def add(self, outcome: WindowOutcome) -> None:
        result = outcome.result
        self.calls += result.calls
        self.tokens += result.tokens
        if result.status.is_good:
            self.done += 1
            self.reused += result.status is not StepStatus.ANSWERED
        else:
            self.failed += 1
            self.bad.append(outcome)

    def as_progress(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("total", "done", "reused", "failed", "calls", "tokens")}


@dataclass(frozen=True, slots=True)
class FinanceData:
    """What a site's windows are asked about, and the database's moment at which it was read."""

    read_at: datetime
    prompts: FinancePrompts


def read_finance(connection: Connection, site: Site, business_date: date) -> FinanceData:
    """All that any of the 72 windows can need, in one query."""
    read_at, through = database_now(connection), loaded_through(connection, site.site_id)
    daily = load_finance(connection, site.site_id, earliest_day(business_date), business_date)
    return FinanceData(
        read_at,
        FinancePrompts(daily, site_id=site.site_id, site_name=site.site_name, business_date=business_date, loaded_through=through),
    )


def finance_request(
    prompts: FinancePrompts,
    window: WindowKey,
    *,
    site: Site,
    job: TriggerJob,
    run_id: str,
    business_date: date,
    reuse_not_before: datetime | None,
    own_cache_id: int | None = None,
) -> StepRequest:
    """What a window's step asks under a job."""
    prompt = prompts.for_window(window)
    return StepRequest(
        app=finance_app_of(window),
        site=site,
        target_id=str(window),
        answer_model=FinanceAnswer,
        business_date=business_date,
        context=job.context,
        references=prompt.references,
        triggered_by=job.event_type,
        trigger_type=_trigger_type(job),
        prompt=prompt.text,
        facts=prompt.facts,
        fixed_answer=prompt.fixed_answer,
        reuse_not_before=reuse_not_before,
        own_cache_id=own_cache_id,
        trigger_job_id=job.id,
        dagster_run_id=run_id,
    )


class PrewarmRun:
    """One run's work on one site. `job` is None when the run was asked for a job that another run has taken: there is nothing to do."""

    def __init__(
        self,
        engine: Engine,
        site_id: int,
        windows: list[WindowKey],
        *,
        run_id: str,
        asked_by_sensor: bool = False,
        regenerate: bool = False,
        only_missing: bool = False,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_cancelled` is asked when the run is interrupted: a person's wish ends the job, a restart leaves it to the next run."""
        self._engine = engine
        self._windows = windows
        self._run_id = run_id
        self._asked_by_sensor = asked_by_sensor
        self._regenerate = regenerate
        self._only_missing = only_missing
        self._is_cancelled = is_cancelled
        self._counts = _Counts(total=len(windows))
        self._progress_shown_at = self._progress_told_at = 0.0
        self._data_read_at: datetime | None = None
        self._context = engine.runtime_context
        self.site: Site = engine.database.patiently(lambda connection: sites.get_site(connection, site_id))
        self.job: TriggerJob | None = None

    @property
    def business_date(self) -> date:
        return self._context.business_date(self._engine.clock.now(), self.site.business_day_cutoff)

    @property
    def is_sandbox(self) -> bool:
        """Whether the run's answers are a sandbox's: nothing of the cache has changed, so there is nothing to materialise."""
        return self._context.is_sandbox

    def __enter__(self) -> Self:
        self.job = self._engine.database.patiently(self._claim)
        if self.job is not None:
            self._context = self.job.context
            # Earlier rounds of the job have spent too.
            self._counts.calls, self._counts.tokens = self.job.progress.get("calls", 0), self.job.progress.get("tokens", 0)
        return self

    def _claim(self, connection: Connection) -> TriggerJob | None:
        worker, site_id = self._engine.worker, self.site.site_id
        # There is one when this is the repetition of a claim whose confirmation got lost.
        if (claimed := trigger_jobs.claimed_by(connection, site_id, run_id=self._run_id, worker_id=worker.id)) is not None:
            return claimed
        if not self._asked_by_sensor:
            refuse_in_sandbox(connection, site_id)
        trigger_jobs.supersede_past(connection, site_id, LIVE.business_date(self._engine.clock.now(), self.site.business_day_cutoff))
        claim: dict[str, Any] = {"run_id": self._run_id, "worker_id": worker.id, "lease": worker.lease}
        job = None
        # A run that leaves valid windows alone, or wants them made anew, does not answer a finished load.
        if set(self._windows) == set(WINDOW_KEYS) and not self._only_missing and not self._regenerate:
            # What a person starts shows in Dagster: a sandbox's job that still waits is not for that.
            job = trigger_jobs.claim_dws_job(connection, site_id, only_live=not self._asked_by_sensor, **claim)
        if job is None and not self._asked_by_sensor:
            job = trigger_jobs.add_running(connection, self._job_of_a_person(), **claim)
        return job

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.job is None:
            return
        if error is None or isinstance(error, Exception) or self._is_cancelled():
            self._end_job(self.job, error)
        else:
            # The process is told to stop: a restart or a deployment. That is nobody's failed attempt.
            self._leave_job(self.job)

    def outcomes(self) -> Iterator[WindowOutcome]:
        """Each window's outcome as soon as it is known. Leaving early lets running calls end and be written, and starts no new one."""
        if self.job is None:
            return
        job = self.job
        pending: dict[Future[StepResult], WindowKey] = {}
        pool = ThreadPoolExecutor(min(len(self._windows), self._engine.settings.llm_concurrency), thread_name_prefix="zqyy-ai step")
        try:
            fresh = self._fresh_answers(job)
            for window, answer in fresh.items():
                yield self._counted(job, WindowOutcome(window, _left_as_it_is(answer)))
            given_up = {window: code for window in self._windows if (code := job.given_up.get(str(window))) is not None}
            for window, code in given_up.items():
                # It failed for good in an earlier round: asking again would be paid again. A new job asks anew.
                yield self._counted(job, WindowOutcome(window, StepResult(StepStatus.FAILED, error_code=code, error_message=_GIVEN_UP)))
            for request, window in self._requests(job, [w for w in self._windows if w not in fresh and w not in given_up]):
                pending[pool.submit(self._step, request)] = window
            while pending:
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield self._counted(job, WindowOutcome(pending.pop(future), self._result_of(future)))
        except BaseException:
            # Left early, by an interrupt for instance: who waits at a guard gives up, who waits for an answer still gets it written.
            self._engine.worker.stopping.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _step(self, request: StepRequest) -> StepResult:
        """Where the run logs have no room, the step is tried again for half a minute, holding nothing: a new run would cost more."""
        result = self._engine.step.run(request)
        for pause_seconds in _NO_ROOM_PAUSES_SECONDS:
            if result.error_code != "log_unwritable" or self._engine.worker.stopping.wait(pause_seconds):
                break
            result = self._engine.step.run(request)
        return result

    def _result_of(self, future: Future[StepResult]) -> StepResult:
        """A window whose step raised fails alone; where a connection was lost, time cures it."""
        try:
            return future.result()
        except Exception as failure:
            logger.exception("prewarm.step_raised site=%s", self.site.site_id)
            is_passing = isinstance(failure, psycopg.OperationalError | psycopg.InterfaceError)
            retry_at = self._engine.clock.now() + _AFTER_DATABASE_TROUBLE if is_passing else None
            code = "database_lost" if is_passing else type(failure).__name__
            return StepResult(StepStatus.FAILED, error_code=code, error_message=str(failure)[:300], retry_at=retry_at)

    def has_valid_answer(self, window: WindowKey) -> bool:
        """Whether the cache holds a valid, unexpired answer for the window, whoever made it."""
        return bool(self._valid_answers([str(window)]))

    def _is_whole(self, job: TriggerJob) -> bool:
        """Whether every window was compared with the newest data."""
        return len(self._windows) == len(WINDOW_KEYS) and not (self._only_missing or job.only_missing)

    def _fresh_answers(self, job: TriggerJob) -> dict[WindowKey, CachedAnswer]:
        """With `only_missing`, the windows whose answer is still valid."""
        if not (self._only_missing or job.only_missing):
            return {}
        valid = self._valid_answers([str(window) for window in self._windows])
        return {window: valid[str(window)] for window in self._windows if str(window) in valid}

    def _valid_answers(self, targets: list[str]) -> dict[str, CachedAnswer]:
        now, context = self._context.moment(self._engine.clock.now(), self.site.business_day_cutoff), self._context
        return self._engine.database.patiently(
            lambda connection: cache.valid_targets(connection, self.site.site_id, targets, now=now, context=context)
        )

    def _requests(self, job: TriggerJob, windows: list[WindowKey]) -> Iterator[tuple[StepRequest, WindowKey]]:
        if not windows:
            return
        business_date, site = self.business_date, self.site
        data = self._engine.database.patiently(lambda connection: read_finance(connection, site, business_date))
        self._data_read_at = data.read_at
        reuse_not_before = job.created_at if self._regenerate or job.regenerate else None
        for window in windows:
            yield (
                finance_request(
                    data.prompts,
                    window,
                    site=site,
                    job=job,
                    run_id=self._run_id,
                    business_date=business_date,
                    reuse_not_before=reuse_not_before,
                ),
                window,
            )

    def _counted(self, job: TriggerJob, outcome: WindowOutcome) -> WindowOutcome:
        self._counts.add(outcome)
        self._show_progress(job)
        return outcome

    def _show_progress(self, job: TriggerJob) -> None:
        if time.monotonic() - self._progress_shown_at >= _PROGRESS_INTERVAL_SECONDS:
            self._progress_shown_at = time.monotonic()
            try:
                with self._engine.database.autocommit() as connection:
                    self._record_progress(connection, job, is_told=time.monotonic() - self._progress_told_at >= _TOLD_INTERVAL_SECONDS)
            except (psycopg.OperationalError, psycopg.InterfaceError):
                logger.warning("prewarm.progress_not_shown job=%s", job.id)

    def _record_progress(self, connection: Connection, job: TriggerJob, *, is_told: bool = True) -> None:
        progress = self._counts.as_progress()
        if trigger_jobs.record_progress(connection, job, progress) and is_told:
            self._progress_told_at = time.monotonic()
            trigger_jobs.tell_prewarm_progress(connection, job, progress)

    def _leave_job(self, job: TriggerJob) -> None:
        now = self._engine.clock.now()

        def leave(connection: Connection) -> None:
            self._record_progress(connection, job)
            trigger_jobs.send_back(connection, job, now, "运行进程被停止,等待重新执行", _failed_for_good(self._counts.bad))

        self._engine.database.write_surely(leave)

    def _end_job(self, job: TriggerJob, error: BaseException | None) -> None:
        counts = self._counts
        retry_at = self._retry_at(job) if counts.bad and error is None else None

        def end(connection: Connection) -> None:
            self._record_progress(connection, job)
            if error is not None:
                status = JobStatus.PARTIAL if counts.done else JobStatus.FAILED
                is_fault = isinstance(error, Exception)
                why = f"运行中断:{type(error).__name__}: {error}" if is_fault else "运行被取消"
                if trigger_jobs.finish(connection, job, status, why) and is_fault:
                    self._show_on_trigger(connection, job, why)
                    raise_for_job(connection, job, status, f"运行中断({type(error).__name__})")
            elif not counts.bad:
                is_ended = trigger_jobs.finish(connection, job, JobStatus.COMPLETED)
                if self._data_read_at is not None and self._is_whole(job):
                    trigger_jobs.finish_covered(connection, job, self._data_read_at)
                if is_ended:
                    self._show_on_trigger(connection, job, None)
                    resolve_by_job(connection, job, is_whole=self._is_whole(job))
            elif retry_at is not None:
                trigger_jobs.send_back(connection, job, retry_at, _summary(counts.bad), _failed_for_good(counts.bad))
            else:
                status = JobStatus.PARTIAL if counts.done else JobStatus.FAILED
                if trigger_jobs.finish(connection, job, status, _summary(counts.bad)):
                    self._show_on_trigger(connection, job, _summary(counts.bad))
                    raise_for_job(connection, job, status, _codes(counts.bad))

        self._engine.step.write_late_log_ends()
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            self._leave_job(job)
            return
        self._engine.database.write_surely(end)

    def _show_on_trigger(self, connection: Connection, job: TriggerJob, error: str | None) -> None:
        if job.event_type == EventType.DWS_COMPLETED and not job.context.is_sandbox:
            said = f"任务 {job.id}(门店 {job.site_id}):{error}" if error else None
            triggers.record_job_end(connection, EventName.DWS_COMPLETED, said)

    def _retry_at(self, job: TriggerJob) -> datetime | None:
        """When the job is worth another round. A person's own run is not repeated.

        A budget refusal is cured by the next day or month, and then by the job of that day.
        """
        if job.event_type != EventType.DWS_COMPLETED:
            return None
        bad = [outcome.result for outcome in self._counts.bad]
        return moment_to_go_on(bad, job, now=self._engine.clock.now(), is_any_held=self._is_any_app_held)

    def _is_any_app_held(self) -> bool:
        apps = {finance_app_of(window).app_type for window in self._windows}
        return self._engine.database.patiently(lambda connection: self._engine.guards.breaker.is_any_held(connection, apps))

    def _job_of_a_person(self) -> NewJob:
        one = self._windows[0] if len(self._windows) == 1 else None
        event_type = EventType.RUN_APP if one else EventType.BACKFILL
        subject = str(one) if one else f"{self._windows[0]}..{self._windows[-1]}"
        mode = self._context.mode.value
        return NewJob(
            event_type=event_type,
            site_id=self.site.site_id,
            business_date=self.business_date,
            dedup_key="|".join((event_type.value, str(self.site.site_id), subject, self.business_date.isoformat(), mode)),
            app_chain=FINANCE_CHAIN,
            payload={
                "app_type": finance_app_of(one).app_type.value if one else AppType.FINANCE.value,
                "targets": [str(window) for window in self._windows],
                "regenerate": self._regenerate,
                "only_missing": self._only_missing,
                "source": "dagster",
            },
            context=self._context,
            is_forced=True,
        )


def _failed_for_good(bad: list[WindowOutcome]) -> dict[str, str]:
    return failed_for_good({str(outcome.window): outcome.result for outcome in bad})


def _left_as_it_is(answer: CachedAnswer) -> StepResult:
    return StepResult(StepStatus.REUSED, answer.result_json, cache_id=answer.id, run_log_id=answer.run_log_id, expires_at=answer.expires_at)


def _trigger_type(job: TriggerJob) -> str:
    if job.event_type != EventType.DWS_COMPLETED or job.is_forced:
        return "manual"
    return "cron" if job.payload.get("source") == "schedule" else "event"


def _codes(bad: list[WindowOutcome]) -> str:
    return f"{len(bad)} 个窗口失败:{codes_text([outcome.result for outcome in bad])}"


def _summary(bad: list[WindowOutcome]) -> str:
    return f"{_codes(bad)};首个 {bad[0].window}:{bad[0].result.error_message}"
