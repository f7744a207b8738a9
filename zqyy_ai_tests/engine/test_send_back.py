"""When a job goes on whose steps came to nothing, and what its next round leaves alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.engine.send_back import codes_text, failed_for_good, moment_to_go_on
from zqyy_ai.engine.step import StepResult, StepStatus
from zqyy_ai.store.trigger_jobs import TriggerJob

NOW = datetime(2026, 4, 20, 12, 0, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
JOB = TriggerJob(
    id=1,
    event_type="consumption",
    site_id=1001,
    member_id=7,
    status=JobStatus.RUNNING,
    payload={},
    app_chain="app3→app8→app7",
    is_forced=False,
    is_own_run=False,
    priority=0,
    retry_of=None,
    batch_id=None,
    business_date=NOW.date(),
    dedup_key="consumption|1001|7|-|2026-04-20|live",
    attempt=1,
    fencing_token=1,
    duplicate_count=0,
    sent_back_count=0,
    failed_rounds=0,
    not_before=None,
    run_id="run-1",
    progress={},
    error_message=None,
    created_at=NOW,
    started_at=NOW,
    finished_at=None,
)


def refused(code: str, wait: timedelta | None = MINUTE, *, is_held: bool = False) -> StepResult:
    return StepResult(StepStatus.REFUSED, error_code=code, retry_at=None if wait is None else NOW + wait, is_held=is_held)


def failed(code: str, wait: timedelta | None = MINUTE, *, tokens: int = 0) -> StepResult:
    return StepResult(StepStatus.FAILED, error_code=code, retry_at=None if wait is None else NOW + wait, tokens=tokens)


def wait_of(*bad: StepResult, sent_back_count: int = 0, is_any_held: bool = True) -> timedelta | None:
    job = replace(JOB, sent_back_count=sent_back_count)
    moment = moment_to_go_on(bad, job, now=NOW, is_any_held=lambda: is_any_held)
    return None if moment is None else moment - NOW


def test_what_no_time_cures_is_not_worth_another_round() -> None:
    assert wait_of(failed("InvalidParameter", None), failed("reply_invalid", None, tokens=700)) is None


def test_the_first_of_several_cures_decides_but_a_round_costs_a_minute_at_least() -> None:
    assert wait_of(failed("http_503", 3 * MINUTE), refused("target_busy", 2 * MINUTE), failed("InvalidParameter", None)) == 2 * MINUTE
    assert wait_of(failed("http_503", SECOND)) == MINUTE


def test_pauses_double_from_round_to_round_up_to_half_an_hour() -> None:
    waits = [wait_of(failed("http_503"), sent_back_count=rounds) for rounds in (0, 1, 2, 4, 5, 50)]
    assert waits == [MINUTE, 2 * MINUTE, 4 * MINUTE, 16 * MINUTE, 30 * MINUTE, 30 * MINUTE]


@pytest.mark.parametrize("code", ["database_lost", "log_unwritable"])
def test_trouble_of_our_own_database_is_over_sooner(code: str) -> None:
    assert wait_of(failed(code, SECOND)) == 5 * SECOND
    assert wait_of(failed(code, SECOND), failed("http_503")) == MINUTE


@pytest.mark.parametrize("code", ["stopped", "chain_timeout"])
def test_what_was_only_not_finished_goes_on_at_once(code: str) -> None:
    assert wait_of(refused(code), sent_back_count=4) == timedelta(0)
    assert wait_of(refused(code), failed("http_503")) == MINUTE


def test_what_a_person_paused_goes_on_as_soon_as_the_pause_ends_whatever_else_went_wrong() -> None:
    assert wait_of(refused("paused", timedelta(0), is_held=True), failed("http_503"), sent_back_count=4) == timedelta(0)


def test_a_hold_is_waited_for_and_when_it_has_ended_meanwhile_the_job_goes_on_at_once() -> None:
    held = refused("circuit_open", 2 * MINUTE, is_held=True), refused("rate_limited", 3 * MINUTE, is_held=True)
    assert wait_of(*held, is_any_held=True) == 2 * MINUTE
    assert wait_of(*held, is_any_held=False) == timedelta(0)
    assert wait_of(*held, failed("http_503"), is_any_held=False) == MINUTE


def test_our_own_rate_limit_is_no_hold_so_that_no_run_asks_it_again_and_again() -> None:
    assert wait_of(refused("rate_limited"), is_any_held=False) == MINUTE


def test_the_start_of_a_budget_window_is_not_waited_for_here() -> None:
    budget = refused("budget_exceeded:site_daily", 600 * MINUTE)
    assert wait_of(budget) is None
    assert wait_of(budget, failed("http_503")) == MINUTE


def test_only_what_was_paid_for_and_stays_wrong_is_given_up() -> None:
    bad = {
        "app3_clue": failed("reply_invalid", None, tokens=900),
        "app8_consolidation": failed("InvalidParameter", None),
        "app7_customer": failed("http_503"),
        "app4_analysis|12": refused("circuit_open"),
    }
    assert failed_for_good(bad) == {"app3_clue": "reply_invalid"}


def test_codes_are_counted() -> None:
    assert codes_text([failed("http_503"), refused("circuit_open"), failed("http_503"), StepResult(StepStatus.FAILED)]) == (
        "circuit_open × 1,http_503 × 2,unknown × 1"
    )
