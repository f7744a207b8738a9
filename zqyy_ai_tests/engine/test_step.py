import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from psycopg import sql

from zqyy_ai.domain.business_clock import SHANGHAI, HandClock
from zqyy_ai.engine.assembly import Engine
from zqyy_ai.engine.step import StepStatus
from zqyy_ai.llm.estimates import estimate_tokens
from zqyy_ai.store import cache, step_claims
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.engine.workbench import (
    NOW,
    SITE,
    TARGET,
    EmulatorControl,
    EngineMaker,
    alerts,
    breakers,
    cached,
    held_rows,
    log_statuses,
    logs,
    prompt_about,
    request,
    spent,
    wait_until,
)

FIXED_ANSWER = {"insights": [{"seq": seq, "title": "没有数据", "body": "该区域没有已加载的经营数据。"} for seq in (1, 2, 3)]}
END_OF_DAY = datetime(2025, 6, 18, 23, 59, 59, tzinfo=SHANGHAI)


def turn(engine: Engine, by: timedelta) -> None:
    assert isinstance(engine.clock, HandClock)
    engine.clock.turn(by)


# The numbers of an answer


FACTS = {
    "门店": "朝阳店",
    "区域": "全店",
    "数据期间": {"起": "2025-06-01", "止": "2025-06-17", "天数": 17},
    "本期": {"净收入_元": 100},
}


def test_an_answer_is_stored_with_what_the_check_says_of_its_numbers(engine: Engine, connection: Connection) -> None:
    right = engine.step.run(request(facts=FACTS))
    assert right.result is not None
    assert right.result["_number_check"]["checked"] > 0
    assert right.result["_number_check"]["unexplained"] == []

    wrong = engine.step.run(request(net_revenue_cny=123, facts=FACTS))
    rows = cached(connection)

    assert wrong.status is StepStatus.ANSWERED
    assert rows[-1]["result_json"] == wrong.result
    unexplained = rows[-1]["result_json"]["_number_check"]["unexplained"]
    assert {number["text"] for number in unexplained} == {"123 元"}
    for number in unexplained:
        text = rows[-1]["result_json"]["insights"][number["seq"] - 1][number["field"]]
        assert text[number["start"] : number["end"]] == number["text"]


def test_a_reused_answer_shows_the_stored_check_and_one_from_before_the_check_is_checked_for_who_looks(
    engine: Engine, connection: Connection
) -> None:
    stored = engine.step.run(request(facts=FACTS)).result
    assert engine.step.run(request(facts=FACTS)).result == stored
    connection.execute("UPDATE biz.ai_cache SET result_json = result_json - '_number_check'")

    again = engine.step.run(request(facts=FACTS))

    assert again.status is StepStatus.REUSED
    assert again.result == stored
    assert "_number_check" not in cached(connection)[0]["result_json"]


def test_an_answer_is_kept_when_the_check_cannot_read_its_facts(engine: Engine, connection: Connection) -> None:
    result = engine.step.run(request(facts={"数据期间": {"起": "2025-06-01", "止": "2025-06-17"}, "数据缺口": {"本期缺数日期": ["soon"]}}))

    assert result.status is StepStatus.ANSWERED
    assert "_number_check" not in cached(connection)[0]["result_json"]


def test_a_fixed_answer_holds_no_number_to_explain(engine: Engine) -> None:
    result = engine.step.run(request(prompt=None, fixed_answer=FIXED_ANSWER)).result
    assert result is not None
    assert result["_number_check"] == {"checked": 0, "unexplained": []}


# One call


def test_a_first_step_calls_once_and_leaves_an_answer_a_log_and_a_settled_budget(
    engine: Engine, connection: Connection, emulator: EmulatorControl
) -> None:
    result = engine.step.run(request(trigger_job_id=7, dagster_run_id="run-1"))
    assert (result.status, result.calls, emulator.posts) == (StepStatus.ANSWERED, 1, 1)
    [row], [log] = cached(connection), logs(connection)

    assert (row["id"], row["cache_type"], row["site_id"], row["target_id"]) == (result.cache_id, "app2_finance", 1001, TARGET)
    assert row["result_json"] == result.result
    assert row["result_json"]["_references"] == {"source": "ai_source.finance_daily"}
    assert [insight["seq"] for insight in row["result_json"]["insights"]] == [1, 2, 3][: len(row["result_json"]["insights"])]
    assert (row["status"], row["triggered_by"], row["expires_at"], row["run_log_id"]) == ("valid", "dws_completed", END_OF_DAY, log["id"])

    assert (log["status"], log["app_type"], log["trigger_type"], log["trigger_job_id"]) == ("success", "app2_finance", "event", 7)
    assert (log["request_prompt"], log["dagster_run_id"], log["model_ids"]) == (prompt_about(100), "run-1", ["emulator"])
    assert log["tokens_used"] == log["input_tokens"] + log["output_tokens"] == result.tokens > 0
    assert log["session_id"]
    assert log["request_id"]

    assert spent(connection) == (result.tokens, 0)
    assert held_rows(connection) == 0
    assert alerts(connection) == []


def test_a_new_answer_is_told_to_those_who_watch(engine: Engine, database: Database, connection: Connection) -> None:
    with database.listener() as listener:
        listener.execute(sql.SQL("LISTEN zqyy_ai_live"))
        result = engine.step.run(request())
        heard = list(listener.notifies(timeout=10, stop_after=1))
    [told] = connection.execute("SELECT * FROM biz.ai_live_events").fetchall()
    assert [note.payload for note in heard] == [str(told["id"])]
    assert (told["event_type"], told["site_id"]) == ("cache_updated", 1001)
    assert told["payload"] == {
        "cache_type": "app2_finance",
        "target_id": TARGET,
        "triggered_by": "dws_completed",
        "cache_id": result.cache_id,
    }


def test_an_area_goes_to_the_other_application(engine: Engine, connection: Connection, emulator: EmulatorControl) -> None:
    engine.step.run(request("this_month__vip"))
    assert emulator.posts_by_app_id == {"id-finance-area": 1}
    assert cached(connection)[0]["cache_type"] == "app2a_finance_area"
    assert cached(connection)[0]["expires_at"] == END_OF_DAY


def test_a_usage_that_was_not_reported_is_settled_at_the_estimate(
    engine: Engine, connection: Connection, emulator: EmulatorControl
) -> None:
    emulator.plan({"kind": "usage_missing"})
    result = engine.step.run(request())
    app = request().app
    estimate = estimate_tokens(prompt_about(100), overhead_tokens=app.overhead_tokens, largest_output_tokens=app.largest_output_tokens)
    assert result.status is StepStatus.ANSWERED
    assert spent(connection) == (estimate, 0)
    [log] = logs(connection)
    assert (log["usage_reported"], log["input_tokens"], log["tokens_used"]) == (False, None, estimate)


def test_a_window_without_data_gets_its_fixed_answer_without_a_call(
    engine: Engine, connection: Connection, emulator: EmulatorControl
) -> None:
    fixed = request(prompt=None, fixed_answer=FIXED_ANSWER)
    assert engine.step.run(fixed).status is StepStatus.FIXED
    assert cached(connection)[0]["result_json"]["insights"] == FIXED_ANSWER["insights"]
    assert engine.step.run(fixed).status is StepStatus.REUSED
    assert engine.step.run(request()).status is StepStatus.ANSWERED, "data came in"
    assert emulator.posts == 1
    assert log_statuses(connection) == [("reused", "no_data"), ("reused", None), ("success", None)]


# Reuse


def test_unchanged_input_is_answered_without_a_call_and_lives_on(engine: Engine, connection: Connection, emulator: EmulatorControl) -> None:
    first = engine.step.run(request())
    turn(engine, timedelta(days=1))
    again = engine.step.run(request(business_date=NOW.date() + timedelta(days=1)))
    assert (again.status, again.cache_id, again.result, again.calls, again.tokens) == (
        StepStatus.REUSED,
        first.cache_id,
        first.result,
        0,
        0,
    )
    [row] = cached(connection)
    assert row["expires_at"] == again.expires_at == END_OF_DAY + timedelta(days=1)
    assert emulator.posts == 1
    assert log_statuses(connection) == [("success", None), ("reused", None)]
    assert spent(connection) == (first.tokens, 0)
    assert held_rows(connection) == 0


def test_changed_input_is_a_new_call_and_a_new_row(engine: Engine, connection: Connection, emulator: EmulatorControl) -> None:
    engine.step.run(request())
    assert engine.step.run(request(net_revenue_cny=200)).status is StepStatus.ANSWERED
    assert (len(cached(connection)), emulator.posts) == (2, 2)


def test_regenerating_bars_answers_from_before_it_was_asked_for_and_no_later_ones(
    engine: Engine, connection: Connection, emulator: EmulatorControl
) -> None:
    engine.step.run(request())
    [asked] = connection.execute("SELECT clock_timestamp() AS at").fetchall()
    assert engine.step.run(request(reuse_not_before=asked["at"])).status is StepStatus.ANSWERED
    assert engine.step.run(request(reuse_not_before=asked["at"])).status is StepStatus.REUSED
    assert emulator.posts == 2


def test_a_changed_revision_of_the_application_calls_again(make_engine: EngineMaker, emulator: EmulatorControl) -> None:
    make_engine().step.run(request())
    assert make_engine(ZQYY_APP_REVISIONS="app3_clue=2").step.run(request()).status is StepStatus.REUSED
    assert make_engine(ZQYY_APP_REVISIONS="app2_finance=2").step.run(request()).status is StepStatus.ANSWERED
    assert make_engine(ZQYY_APP_ID_2_FINANCE="id-new").step.run(request()).status is StepStatus.ANSWERED
    assert emulator.posts == 3


@pytest.mark.parametrize(("age_days", "status"), [(34, StepStatus.REUSED), (36, StepStatus.ANSWERED)])
def test_an_answer_that_is_too_old_is_made_anew(engine: Engine, connection: Connection, age_days: int, status: StepStatus) -> None:
    engine.step.run(request())
    connection.execute("UPDATE biz.ai_cache SET created_at = %s", [NOW - timedelta(days=age_days)])
    assert engine.step.run(request()).status is status


@pytest.mark.parametrize("change", ["status = 'invalidated'", "input_hash = NULL"])
def test_an_invalidated_answer_and_another_writers_are_not_reused(engine: Engine, connection: Connection, change: str) -> None:
    engine.step.run(request())
    connection.execute(f"UPDATE biz.ai_cache SET {change}".encode())
    assert engine.step.run(request()).status is StepStatus.ANSWERED


def test_only_the_newest_valid_answer_is_compared(engine: Engine, emulator: EmulatorControl) -> None:
    """Going back to older figures is a change too: what is shown must fit them."""
    for net_revenue_cny in (100, 200, 100):
        assert engine.step.run(request(net_revenue_cny=net_revenue_cny)).status is StepStatus.ANSWERED
    assert emulator.posts == 3


# One at a time


def test_two_threads_at_one_target_make_one_call(engine: Engine, connection: Connection, emulator: EmulatorControl) -> None:
    emulator.plan(latency={"seconds": 0.3})
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda _: engine.step.run(request()), range(2)))
    assert sorted(result.status for result in results) == [StepStatus.ANSWERED, StepStatus.REUSED]
    assert results[0].cache_id == results[1].cache_id
    assert emulator.posts == 1


def test_two_processes_at_one_target_with_different_input_call_one_after_the_other(
    make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl
) -> None:
    emulator.plan(latency={"seconds": 0.3})
    engines = [make_engine(), make_engine()]
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda number: engines[number].step.run(request(net_revenue_cny=number)), range(2)))
    assert [result.status for result in results] == [StepStatus.ANSWERED] * 2
    assert emulator.posts == 2
    calls = emulator.session.get(f"{emulator.running.origin}/control/calls").json()
    assert calls["total"]["max_in_flight"] == 1


def test_who_waits_too_long_for_a_busy_target_is_sent_back_without_a_call(
    make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl
) -> None:
    engine = make_engine(ZQYY_GUARD_WAIT_SECONDS="0.1")
    holder = make_engine()
    step_claims.take(connection, "app2_finance", 1001, TARGET, worker_id=holder.worker.id, lease=timedelta(minutes=1))
    result = engine.step.run(request())
    assert (result.status, result.error_code, emulator.posts) == (StepStatus.REFUSED, "target_busy", 0)
    assert result.retry_at == NOW + timedelta(seconds=60)
    assert alerts(connection) == []


def test_all_that_a_step_waits_for_is_bounded_together(make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl) -> None:
    engine = make_engine(
        ZQYY_GUARD_WAIT_SECONDS="1.5", ZQYY_SITE_CALLS_PER_MINUTE="60", ZQYY_SITE_CALLS_BURST="1", ZQYY_LLM_CONCURRENCY="1"
    )
    engine.step.run(request(net_revenue_cny=1))
    connection.execute(
        "UPDATE biz.ai_call_slots SET token = gen_random_uuid(), worker_id = gen_random_uuid(), lease_expires_at = now() + interval '1 hour'"
    )
    began = time.monotonic()
    result = engine.step.run(request(net_revenue_cny=2))
    assert (result.status, result.error_code, emulator.posts) == (StepStatus.REFUSED, "rate_limited", 1)
    assert time.monotonic() - began < 2.2, "a second for its turn, and for a slot no more than what was left"


def test_who_lost_its_claim_during_the_call_writes_nothing_but_has_paid(
    engine: Engine, make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl
) -> None:
    emulator.plan(latency={"seconds": 0.5})
    heir = make_engine()
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(engine.step.run, request())
        wait_until(lambda: emulator.in_flight == 1)
        connection.execute("UPDATE biz.ai_step_claims SET token = gen_random_uuid(), worker_id = %s", [heir.worker.id])
        result = slow.result()
    assert (result.status, result.error_code) == (StepStatus.FAILED, "claim_lost")
    assert result.retry_at is not None
    assert cached(connection) == []
    assert connection.execute("SELECT worker_id FROM biz.ai_step_claims").fetchall() == [{"worker_id": heir.worker.id}]
    [log] = logs(connection)
    assert (log["status"], spent(connection)) == ("success", (log["tokens_used"], 0))


def test_a_long_call_keeps_its_leases_by_the_heartbeat(make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl) -> None:
    emulator.plan(latency={"seconds": 2.5})
    engine, other = make_engine(ZQYY_LEASE_SECONDS="1"), make_engine(ZQYY_LEASE_SECONDS="1")
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda one: one.step.run(request()), (engine, other)))
    assert sorted(result.status for result in results) == [StepStatus.ANSWERED, StepStatus.REUSED]
    assert emulator.posts == 1
    assert held_rows(connection) == 0


def test_a_dead_process_leaves_a_target_that_is_taken_over_once_its_lease_ran_out(
    engine: Engine, make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl
) -> None:
    dead = make_engine()
    step_claims.take(connection, "app2_finance", 1001, TARGET, worker_id=dead.worker.id, lease=timedelta(seconds=-1))
    assert engine.step.run(request()).status is StepStatus.ANSWERED


# Stopping


def test_a_process_that_is_stopping_starts_no_call_and_leaves_nothing_held(
    engine: Engine, connection: Connection, emulator: EmulatorControl
) -> None:
    engine.worker.stopping.set()
    result = engine.step.run(request())
    assert (result.status, result.error_code, emulator.posts) == (StepStatus.REFUSED, "stopped", 0)
    assert result.retry_at is not None
    assert spent(connection) == (0, 0)
    assert held_rows(connection) == 0


def test_a_process_that_is_stopping_still_reuses(engine: Engine) -> None:
    engine.step.run(request())
    engine.worker.stopping.set()
    assert engine.step.run(request()).status is StepStatus.REUSED


def test_a_call_under_way_when_the_process_is_told_to_stop_is_still_written(
    engine: Engine, connection: Connection, emulator: EmulatorControl
) -> None:
    emulator.plan(latency={"seconds": 0.5})
    with ThreadPoolExecutor(1) as threads:
        paid = threads.submit(engine.step.run, request())
        wait_until(lambda: emulator.in_flight == 1)
        engine.worker.stopping.set()
        assert paid.result().status is StepStatus.ANSWERED
    assert len(cached(connection)) == 1


def test_who_waits_for_its_turn_is_woken_when_the_process_stops(make_engine: EngineMaker, emulator: EmulatorControl) -> None:
    engine = make_engine(ZQYY_SITE_CALLS_PER_MINUTE="1", ZQYY_SITE_CALLS_BURST="1", ZQYY_GUARD_WAIT_SECONDS="600")
    engine.step.run(request())
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(engine.step.run, request(net_revenue_cny=200))
        engine.worker.stopping.set()
        result = waiting.result(20)
    assert (result.error_code, emulator.posts) == ("stopped", 1)


# Concurrency


def test_no_more_calls_are_in_flight_than_there_are_slots(make_engine: EngineMaker, database: Database, emulator: EmulatorControl) -> None:
    emulator.plan(latency={"seconds": 0.1})
    engines = [make_engine(ZQYY_LLM_CONCURRENCY="2"), make_engine(ZQYY_LLM_CONCURRENCY="2")]
    targets = [f"{dimension}__{area}" for dimension in ("this_month", "last_month") for area in ("hallA", "hallB", "hallC")]
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(lambda number: engines[number % 2].step.run(request(targets[number])), range(6)))
    assert all(result.status is StepStatus.ANSWERED for result in results)
    calls = emulator.session.get(f"{emulator.running.origin}/control/calls").json()
    assert (calls["total"]["posts"], calls["total"]["max_in_flight"]) == (6, 2)


def test_no_connection_is_held_during_a_call(make_engine: EngineMaker, emulator: EmulatorControl) -> None:
    """With two connections in the pool, six calls are under way at once."""
    emulator.plan(latency={"seconds": 1.0})
    engine = make_engine(ZQYY_DB_POOL_CONNECTIONS="2")
    targets = ["this_week__all", "last_week__all", "this_month__all", "last_month__all", "this_quarter__all", "last_quarter__all"]
    with ThreadPoolExecutor(6) as threads:
        steps = [threads.submit(engine.step.run, request(target)) for target in targets]
        wait_until(lambda: emulator.in_flight == 6)
        with engine.database.autocommit() as one, engine.database.autocommit() as two:
            assert [connection.execute("SELECT 1 AS n").fetchone() for connection in (one, two)] == [{"n": 1}] * 2
        assert all(step.result().status is StepStatus.ANSWERED for step in steps)


def test_the_answer_is_what_the_mini_program_reads(engine: Engine, connection: Connection) -> None:
    result = engine.step.run(request())
    found = cache.get_latest(connection, "app2_finance", SITE.site_id, TARGET, now=NOW)
    assert found is not None
    assert (found.id, found.result_json) == (result.cache_id, result.result)
    assert breakers(connection) == {}
