"""What failures hold up, and what the guards refuse. What each failure leaves behind is in `test_failure_matrix.py`."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from zqyy_ai.domain.errors import SettingError
from zqyy_ai.engine.assembly import Engine
from zqyy_ai.engine.step import StepResult, StepStatus
from zqyy_ai.llm.estimates import estimate_tokens
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.engine.workbench import (
    NOW,
    EmulatorControl,
    EngineMaker,
    alerts,
    breakers,
    held_rows,
    logs,
    prompt_about,
    request,
    spent,
    wait_until,
)

APP = request().app
ESTIMATE = estimate_tokens(prompt_about(100), overhead_tokens=APP.overhead_tokens, largest_output_tokens=APP.largest_output_tokens)


def lasting(status: int, **more: Any) -> dict[str, Any]:
    """A failure that asks for more patience than a step has: it is not tried again within the step."""
    return {"kind": "http_error", "status": status, "retry_after_seconds": 30} | more


# The account


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "http_error", "status": 401},
        {"kind": "http_error", "status": 429, "code": "Throttling.AllocationQuota", "message": "Free allocated quota exceeded."},
        {"kind": "http_error", "status": 403, "code": "Arrearage"},
    ],
    ids=["bad key", "free quota used up", "arrears"],
)
def test_a_refused_account_holds_every_application_with_one_critical_alert(
    fault: dict[str, Any], engine: Engine, connection: Connection, emulator: EmulatorControl
) -> None:
    emulator.plan(fault)
    result = engine.step.run(request())
    assert (result.status, result.calls, result.retry_at) == (StepStatus.FAILED, 1, None)
    held = engine.step.run(request("this_month__vip"))
    assert (held.status, held.error_code, emulator.posts) == (StepStatus.REFUSED, "circuit_open", 1)
    assert held.retry_at is not None
    assert breakers(connection)["*"][0] == "open"
    assert alerts(connection) == [("account_held", 1)], "what is refused meanwhile tells nothing new"
    severities = connection.execute("SELECT severity FROM biz.ai_alerts WHERE alert_type = 'account_held'").fetchall()
    assert severities == [{"severity": "critical"}]
    assert spent(connection) == (0, 0)


def test_a_released_account_goes_on_with_its_probes_answer(engine: Engine, connection: Connection, emulator: EmulatorControl) -> None:
    emulator.plan({"kind": "http_error", "status": 401, "count": 1})
    engine.step.run(request())
    connection.execute("UPDATE biz.ai_breakers SET retry_at = clock_timestamp()")
    assert engine.step.run(request()).status is StepStatus.ANSWERED
    assert engine.step.run(request("this_month__vip")).status is StepStatus.ANSWERED
    assert breakers(connection) == {}


# Refusals by the guards


def failing_steps(engine: Engine, emulator: EmulatorControl, count: int) -> list[StepResult]:
    emulator.plan(lasting(500, app_id="id-finance"))
    return [engine.step.run(request(net_revenue_cny=number)) for number in range(count)]


def test_failures_in_a_row_open_the_breaker_and_the_next_step_is_refused_without_a_call(
    make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl
) -> None:
    engine = make_engine(ZQYY_BREAKER_FAILURES="2")
    failing_steps(engine, emulator, 2)
    refused = engine.step.run(request())
    assert (refused.status, refused.calls, emulator.posts) == (StepStatus.REFUSED, 0, 2)
    assert refused.retry_at is not None
    assert breakers(connection) == {"app2_finance": ("open", 2)}
    log = logs(connection)[-1]
    assert (log["status"], log["error_code"], log["error_message"], log["id"]) == (
        "failed",
        "circuit_open",
        "circuit_open",
        refused.run_log_id,
    )
    assert alerts(connection) == [("failed", 2), ("circuit_open", 1)], "what is refused meanwhile tells nothing new"
    assert engine.step.run(request("this_month__vip")).status is StepStatus.ANSWERED, "the other application is well"
    assert held_rows(connection) == 0


def test_a_breaker_that_has_cooled_down_closes_with_its_probes_success(
    make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl
) -> None:
    engine = make_engine(ZQYY_BREAKER_FAILURES="2")
    failing_steps(engine, emulator, 2)
    connection.execute("UPDATE biz.ai_breakers SET retry_at = clock_timestamp()")
    emulator.plan()
    assert engine.step.run(request()).status is StepStatus.ANSWERED
    assert breakers(connection) == {}


def test_a_probe_that_the_budget_refused_makes_room_for_the_next(
    make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl
) -> None:
    engine = make_engine(ZQYY_BREAKER_FAILURES="1")
    failing_steps(engine, emulator, 1)
    connection.execute("UPDATE biz.ai_breakers SET retry_at = clock_timestamp()")
    poor = make_engine(ZQYY_DAILY_TOKEN_LIMIT="1")
    assert poor.step.run(request()).error_code == "budget_exceeded:daily"
    emulator.plan()
    assert engine.step.run(request()).status is StepStatus.ANSWERED


@pytest.mark.parametrize(
    ("variable", "reason"),
    [
        ("ZQYY_DAILY_TOKEN_LIMIT", "budget_exceeded:daily"),
        ("ZQYY_MONTHLY_TOKEN_LIMIT", "budget_exceeded:monthly"),
        ("ZQYY_SITE_DAILY_TOKEN_LIMIT", "budget_exceeded:site_daily"),
        ("ZQYY_SITE_MONTHLY_TOKEN_LIMIT", "budget_exceeded:site_monthly"),
    ],
)
def test_a_step_that_the_budget_does_not_hold_is_refused_without_a_call(
    variable: str, reason: str, make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl
) -> None:
    engine = make_engine(**{variable: str(ESTIMATE - 1)})
    result = engine.step.run(request())
    assert (result.status, result.error_code, result.retry_at, emulator.posts) == (StepStatus.REFUSED, reason, None, 0)
    [log] = logs(connection)
    assert (log["status"], log["error_code"], log["error_message"]) == ("failed", "budget_exceeded", reason)
    assert alerts(connection) == [("budget_exceeded", 1)]
    assert spent(connection) == (0, 0)
    assert held_rows(connection) == 0


def test_what_was_reused_needs_no_budget(make_engine: EngineMaker) -> None:
    make_engine().step.run(request())
    assert make_engine(ZQYY_DAILY_TOKEN_LIMIT="1").step.run(request()).status is StepStatus.REUSED


def test_a_turn_that_is_too_far_away_is_a_refusal_that_time_cures(
    make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl
) -> None:
    engine = make_engine(ZQYY_SITE_CALLS_PER_MINUTE="1", ZQYY_SITE_CALLS_BURST="1", ZQYY_GUARD_WAIT_SECONDS="1")
    engine.step.run(request())
    result = engine.step.run(request(net_revenue_cny=200))
    assert (result.status, result.error_code, emulator.posts) == (StepStatus.REFUSED, "rate_limited", 1)
    assert result.retry_at == NOW + timedelta(seconds=60)
    assert logs(connection)[-1]["error_message"] == "rate_limited"
    assert alerts(connection) == [("rate_limited", 1)]
    assert held_rows(connection) == 0


def test_a_throttled_call_that_waits_for_its_breaker_holds_no_rate_meanwhile(
    engine: Engine, database: Database, connection: Connection, emulator: EmulatorControl
) -> None:
    emulator.plan({"kind": "http_error", "status": 429, "count": 2})
    connection.execute("INSERT INTO biz.ai_breakers (app_type) VALUES ('throttled:app2_finance')")
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with ThreadPoolExecutor(1) as threads:
        with database.transaction() as prober:
            # A probe is admitted in this order: the breaker, then the rate.
            prober.execute("SELECT FROM biz.ai_breakers WHERE app_type = 'throttled:app2_finance' FOR UPDATE")
            throttled = threads.submit(engine.step.run, request())
            wait_until(lambda: connection.execute(waiting).rowcount == 1)
            assert prober.execute("SELECT FROM biz.ai_rate_limits WHERE rate_key = 'app:app2_finance' FOR UPDATE NOWAIT").rowcount == 1
        throttled.result(30)


def test_throttling_makes_other_processes_wait_too(make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl) -> None:
    engine = make_engine()
    emulator.plan(lasting(429))
    throttled = engine.step.run(request())
    assert (throttled.status, throttled.retry_at) == (StepStatus.FAILED, NOW + timedelta(seconds=30))
    emulator.plan()
    other = make_engine(ZQYY_GUARD_WAIT_SECONDS="1")
    assert other.step.run(request(net_revenue_cny=200)).error_code == "rate_limited"
    assert other.step.run(request("this_month__vip")).status is StepStatus.ANSWERED


def test_a_missing_application_id_raises_before_anything_is_reserved(make_engine: EngineMaker, connection: Connection) -> None:
    engine = make_engine(ZQYY_APP_ID_2_FINANCE="")
    with pytest.raises(SettingError, match="ZQYY_APP_ID_2_FINANCE"):
        engine.step.run(request())
    assert held_rows(connection) == 0
