"""One finance window that a job asks for: a person's click on it, or a share of a batch. Exactly one step.

Taken by the run that takes members' jobs (`event_run.py`), so that a person waits for a call and not for the start of a process; the 72 windows
of a finished load are a run's of their own (`prewarm.py`).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from zqyy_ai.domain.apps import AppType, finance_app_of
from zqyy_ai.domain.windows import WindowKey
from zqyy_ai.engine.assembly import Engine
from zqyy_ai.engine.prewarm import finance_request, read_finance
from zqyy_ai.engine.step import StepResult, StepStatus
from zqyy_ai.store import cache, trigger_jobs
from zqyy_ai.store.database import Connection
from zqyy_ai.store.sites import Site
from zqyy_ai.store.trigger_jobs import TriggerJob

_AFTER_DATABASE_TROUBLE = timedelta(seconds=5)
_NO_ROOM_PAUSES_SECONDS = (1.0, 2.0, *(4.0,) * 7)
_GIVEN_UP = "本任务的上一轮已失败，不再重复调用；需要时请重试该任务"


@dataclass(frozen=True, slots=True)
class WindowStep:
    """What the step of such a job is called."""

    window: WindowKey

    @property
    def app_type(self) -> AppType:
        return finance_app_of(self.window).app_type

    @property
    def name(self) -> str:
        return str(self.window)


@dataclass(frozen=True, slots=True)
class WindowStepOutcome:
    """How a window that a job asked for ended. `has_answer`: the cache holds a valid answer, this one or an older one."""

    site: Site
    step: WindowStep
    result: StepResult
    job_id: int
    has_answer: bool
    is_sandbox: bool


@dataclass(frozen=True, slots=True)
class WindowWork:
    """What is to be done. `reuse_not_before` bars the reuse of older answers; `own_cache_id`: what the job has paid for already."""

    job: TriggerJob
    site: Site
    window: WindowKey
    run_id: str
    reuse_not_before: datetime | None
    own_cache_id: int | None

    @property
    def member_id(self) -> None:
        """It is about no member."""

    @property
    def apps(self) -> tuple[AppType, ...]:
        return (finance_app_of(self.window).app_type,)


def window_of_job(connection: Connection, job: TriggerJob, site: Site, run_id: str) -> WindowWork:
    """What a claimed job without a member asks for. Raises ValueError where it does not name exactly one window."""
    targets = job.payload.get("targets")
    if not isinstance(targets, list) or len(targets) != 1 or not isinstance(targets[0], str):
        raise ValueError("任务没有会员，也没有指明一个财务窗口")
    window = WindowKey.parse(targets[0])
    ancestry = trigger_jobs.ancestry(connection, job.id)
    has_been_begun = job.attempt > 1 or job.sent_back_count > 0 or job.retry_of is not None
    own = cache.answers_of_jobs(connection, ancestry.job_ids, context=job.context) if has_been_begun else {}
    return WindowWork(
        job=job,
        site=site,
        window=window,
        run_id=run_id,
        reuse_not_before=ancestry.first_created_at if job.regenerate else None,
        own_cache_id=own.get((finance_app_of(window).cache_type, str(window))),
    )


class WindowChain:
    """One such job under way; to a pool of chains it is a chain of one step. The step's own claim keeps two callers of a window apart."""

    def __init__(self, engine: Engine, work: WindowWork) -> None:
        self._engine = engine
        self.work = work
        self.outcomes: list[WindowStepOutcome] = []
        self.failure: BaseException | None = None
        self.is_lost = False

    @property
    def site_id(self) -> int:
        return self.work.site.site_id

    @property
    def priority(self) -> int:
        return self.work.job.priority

    @property
    def is_over(self) -> bool:
        return self.failure is not None or self.is_lost or bool(self.outcomes)

    def may_begin(self) -> bool:
        return True

    def advance(self) -> WindowStepOutcome | None:
        """Does the step and returns its outcome; None when the job was lost."""
        if self.is_over:
            return None
        try:
            result = self._result()
            outcome = WindowStepOutcome(
                self.work.site,
                WindowStep(self.work.window),
                result,
                self.work.job.id,
                has_answer=result.status.is_good or self._has_valid_answer(),
                is_sandbox=self.work.job.context.is_sandbox,
            )
            self.outcomes.append(outcome)
            return outcome
        except BaseException as failure:
            self.failure = failure
            raise

    def progress(self) -> dict[str, int]:
        """The job's counters, as a prewarm's; `calls` and `tokens` of all rounds."""
        before = self.work.job.progress
        result = self.outcomes[0].result if self.outcomes else None
        return {
            "total": 1,
            "done": int(result is not None and result.status.is_good),
            "reused": int(result is not None and result.status in (StepStatus.REUSED, StepStatus.FIXED)),
            "failed": int(result is not None and result.status.is_bad),
            "calls": before.get("calls", 0) + (result.calls if result else 0),
            "tokens": before.get("tokens", 0) + (result.tokens if result else 0),
        }

    def end(self) -> None:
        """It holds nothing between its steps."""

    def _result(self) -> StepResult:
        """A step that raises fails; where a connection was lost, time cures it."""
        code = self.work.job.given_up.get(str(self.work.window))
        if code is not None:
            return StepResult(StepStatus.FAILED, error_code=code, error_message=_GIVEN_UP)
        try:
            return self._run()
        except (psycopg.OperationalError, psycopg.InterfaceError) as lost:
            retry_at = self._engine.clock.now() + _AFTER_DATABASE_TROUBLE
            return StepResult(StepStatus.FAILED, error_code="database_lost", error_message=str(lost)[:300], retry_at=retry_at)

    def _run(self) -> StepResult:
        work, engine = self.work, self._engine
        business_date = work.job.context.business_date(engine.clock.now(), work.site.business_day_cutoff)
        data = engine.database.patiently(lambda connection: read_finance(connection, work.site, business_date))
        request = finance_request(
            data.prompts,
            work.window,
            site=work.site,
            job=work.job,
            run_id=work.run_id,
            business_date=business_date,
            reuse_not_before=work.reuse_not_before,
            own_cache_id=work.own_cache_id,
        )
        result = engine.step.run(request)
        # Where the run logs have no room, it is tried again for half a minute, holding nothing.
        for pause_seconds in _NO_ROOM_PAUSES_SECONDS:
            if result.error_code != "log_unwritable" or engine.worker.stopping.wait(pause_seconds):
                break
            result = engine.step.run(request)
        return result

    def _has_valid_answer(self) -> bool:
        context, target = self.work.job.context, str(self.work.window)
        now = context.moment(self._engine.clock.now(), self.work.site.business_day_cutoff)
        return bool(
            self._engine.database.patiently(
                lambda connection: cache.valid_targets(connection, self.site_id, [target], now=now, context=context)
            )
        )
