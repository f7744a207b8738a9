"""When a job whose steps were refused, or failed for a passing cause, is worth another round; and what that round leaves alone."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from zqyy_ai.engine.step import StepResult, StepStatus
from zqyy_ai.guards import call_pauses
from zqyy_ai.store.trigger_jobs import TriggerJob

# The shortest time for which a job goes back to the queue: each round costs the start of a run.
_SHORTEST = timedelta(seconds=60)
_LONGEST = timedelta(minutes=30)
# After trouble of our own database, which is over sooner than somebody else's.
_SHORTEST_AFTER_DATABASE_TROUBLE = timedelta(seconds=5)
_OF_OUR_DATABASE = ("database_lost", "log_unwritable")
# The process was told to stop, or the chain's time was over: the next round may begin at once.
_UNFINISHED = ("stopped", "chain_timeout")


def is_budget_refusal(result: StepResult) -> bool:
    return (result.error_code or "").startswith("budget_exceeded")


def moment_to_go_on(bad: Sequence[StepResult], job: TriggerJob, *, now: datetime, is_any_held: Callable[[], bool]) -> datetime | None:
    """As soon as time has cured the first of these ends; None when it cures none. Refusals by the budget are not looked at.

    `is_any_held`: whether one of the job's applications is held by a breaker now.
    """
    curable = [result for result in bad if result.retry_at is not None and not is_budget_refusal(result)]
    if not curable:
        return None
    codes = {result.error_code for result in bad}
    if call_pauses.REFUSAL in codes or codes <= set(_UNFINISHED):
        # Nobody asks for a run while a pause lasts, so the job may go on as soon as it ends.
        return now
    if all(result.is_held for result in bad) and not is_any_held():
        # This very run's probe may have shown that it is over, just after the others were refused.
        return now
    shortest = _SHORTEST_AFTER_DATABASE_TROUBLE if codes <= set(_OF_OUR_DATABASE) else _SHORTEST
    pause: timedelta = min(shortest * int(2 ** min(job.sent_back_count, 10)), _LONGEST)
    return max(min(result.retry_at for result in curable if result.retry_at is not None), now + pause)


def failed_for_good(bad: Mapping[str, StepResult]) -> dict[str, str]:
    """By name of the step: those that were paid for and that time does not cure, with their error codes."""
    return {
        name: result.error_code or "unknown"
        for name, result in bad.items()
        if result.status is StepStatus.FAILED and result.tokens and result.retry_at is None
    }


def codes_text(results: Sequence[StepResult]) -> str:
    """`http_502 × 3,circuit_open × 1`."""
    codes: dict[str, int] = {}
    for result in results:
        code = result.error_code or "unknown"
        codes[code] = codes.get(code, 0) + 1
    return ",".join(f"{code} × {count}" for code, count in sorted(codes.items()))
