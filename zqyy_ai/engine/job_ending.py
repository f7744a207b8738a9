"""How a member chain's job ends: completed, partial or failed, or back to the queue for what time cures.

Written in one transaction: the job's row, its trigger's last error, the alerts. A job that was lost to somebody else is left alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import psycopg

from zqyy_ai.domain.events import EVENT_NAMES
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.engine.chain_pool import Chain
from zqyy_ai.engine.job_alerts import raise_for_job, resolve_by_job
from zqyy_ai.engine.send_back import codes_text, failed_for_good, is_budget_refusal, moment_to_go_on
from zqyy_ai.engine.step import StepResult, StepStatus
from zqyy_ai.store import trigger_jobs, triggers
from zqyy_ai.store.database import Connection
from zqyy_ai.store.trigger_jobs import TriggerJob

# A job whose steps fail for a passing cause comes back so often, and without a bound while a breaker is open: an outage is not its fault.
MOST_FAILED_ROUNDS = 5
_LEFT = "运行进程被停止,等待重新执行"
_UNWRITABLE = "详情无法写入数据库,见运行日志"


@dataclass(frozen=True, slots=True)
class GoesBack:
    """To the queue until `not_before`."""

    not_before: datetime
    reason: str
    waits_for_budget: bool = False
    has_failed: bool = False


@dataclass(frozen=True, slots=True)
class Ends:
    """With this status. `why` says what went wrong, for an operator."""

    status: JobStatus
    why: str | None = None


def left(now: datetime) -> GoesBack:
    """For a chain whose process stops."""
    return GoesBack(now, _LEFT)


def ending_of(chain: Chain, *, now: datetime, is_any_held: Callable[[], bool]) -> GoesBack | Ends:
    """What becomes of the job of a chain that is over, or was left."""
    results = [outcome.result for outcome in chain.outcomes]
    good = any(result.status.is_good for result in results)
    if chain.failure is not None:
        if isinstance(chain.failure, psycopg.OperationalError | psycopg.InterfaceError):
            return GoesBack(now, "数据库连接中断,等待重新执行")
        why = f"{type(chain.failure).__name__}: {chain.failure}"
        return Ends(JobStatus.PARTIAL if good else JobStatus.FAILED, why[:900])
    if not chain.is_over:
        return left(now)
    bad = [result for result in results if result.status.is_bad]
    if not bad:
        return Ends(JobStatus.COMPLETED)
    return _back(chain, bad, now=now, is_any_held=is_any_held) or Ends(JobStatus.PARTIAL if good else JobStatus.FAILED, _summary(chain))


def _back(chain: Chain, bad: list[StepResult], *, now: datetime, is_any_held: Callable[[], bool]) -> GoesBack | None:
    job = chain.work.job
    is_failing = all(result.status is StepStatus.FAILED for result in bad if result.retry_at is not None)
    if not is_failing or job.failed_rounds < MOST_FAILED_ROUNDS or is_any_held():
        moment = moment_to_go_on(bad, job, now=now, is_any_held=is_any_held)
        if moment is not None:
            return GoesBack(moment, _summary(chain), has_failed=is_failing)
    windows = [result.retry_at for result in bad if is_budget_refusal(result) and result.retry_at is not None]
    return GoesBack(max(windows), _summary(chain), waits_for_budget=True) if windows else None


def write_ending(connection: Connection, chain: Chain, ending: GoesBack | Ends) -> None:
    """Call in a transaction, and surely: what it does is safe to repeat."""
    job = chain.work.job
    trigger_jobs.record_progress(connection, job, chain.progress())
    if isinstance(ending, GoesBack):
        given_up = failed_for_good({outcome.step.name: outcome.result for outcome in chain.outcomes if outcome.result.status.is_bad})
        trigger_jobs.send_back(
            connection,
            job,
            ending.not_before,
            ending.reason,
            given_up,
            waits_for_budget=ending.waits_for_budget,
            has_failed=ending.has_failed,
        )
        return
    if trigger_jobs.finish(connection, job, ending.status, ending.why):
        tell_of_end(connection, job, ending.status, ending.why)


def write_plain_ending(connection: Connection, job: TriggerJob, ending: GoesBack | Ends) -> None:
    """The same without what the database may have refused to store: no words of others, nothing but the job's row."""
    if isinstance(ending, GoesBack):
        back = (ending.not_before, _UNWRITABLE, job.given_up)
        trigger_jobs.send_back(connection, job, *back, waits_for_budget=ending.waits_for_budget, has_failed=ending.has_failed)
    else:
        trigger_jobs.finish(connection, job, ending.status, None if ending.status is JobStatus.COMPLETED else _UNWRITABLE)


def tell_of_end(connection: Connection, job: TriggerJob, status: JobStatus, why: str | None) -> None:
    """What others see of a job's end: its trigger's last error, and alerts. Last in the transaction."""
    name = EVENT_NAMES.get(job.event_type)
    if name is not None and not job.context.is_sandbox:
        error = None if status is JobStatus.COMPLETED else f"任务 {job.id}(门店 {job.site_id}):{why or status.value}"
        triggers.record_job_end(connection, name, error)
    if status is JobStatus.COMPLETED:
        resolve_by_job(connection, job, is_whole=False)
    else:
        raise_for_job(connection, job, status, why or "")


def _summary(chain: Chain) -> str:
    bad = [outcome for outcome in chain.outcomes if outcome.result.status.is_bad]
    first = bad[0]
    codes = codes_text([outcome.result for outcome in bad])
    return f"{len(bad)} 个步骤未完成:{codes};首个 {first.step.name}:{first.result.error_message}"
