"""A person's own run over members: what it asks, for whom, and what it tells at its end."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.errors import InvalidRequest
from zqyy_ai.domain.events import MEMBER_APPS
from zqyy_ai.engine.assembly import Engine, build_budget_guard
from zqyy_ai.engine.member_chain import StepOutcome
from zqyy_ai.engine.member_run import MemberRun
from zqyy_ai.engine.recovery import recover_dead_run
from zqyy_ai.engine.step import StepStatus
from zqyy_ai_tests.engine.member_bench import CLOSED_SITE, FINAL, SITE, MemberBench, names, results, told
from zqyy_ai_tests.engine.workbench import alerts, held_rows, logs, wait_until

ANSWERED, REUSED, FAILED, SKIPPED = StepStatus.ANSWERED, StepStatus.REUSED, StepStatus.FAILED, StepStatus.SKIPPED


def run(
    bench: MemberBench, members: list[int], *apps: AppType, run_id: str = "run-1", engine: Engine | None = None, **more: Any
) -> list[StepOutcome]:
    with MemberRun(engine or bench.engine(), SITE, members, apps or MEMBER_APPS, run_id=run_id, **more) as member_run:
        outcomes = list(member_run.outcomes())
    assert member_run.failures == []
    return outcomes


def steps_of(outcomes: list[StepOutcome], member: int) -> list[tuple[str, StepStatus]]:
    return told([outcome for outcome in outcomes if outcome.member_id == member])


def test_each_member_gets_its_chain_in_order_and_the_whole_is_one_job(bench: MemberBench) -> None:
    first, second = bench.visitors()[:2]
    assistant = bench.assistants()[0]
    bench.add_task(first, assistant)
    outcomes = run(bench, [first, second])
    without_assistant = [("app3", ANSWERED), ("app6", SKIPPED), ("app8", ANSWERED), ("app7", ANSWERED)]
    assert steps_of(outcomes, first) == [*without_assistant, ("app4", ANSWERED), ("app5", ANSWERED)]
    assert steps_of(outcomes, second) == without_assistant, "App4 and App5 serve the assistants with an open task"
    job = bench.job()
    assert (job["status"], job["event_type"], job["member_id"], job["run_id"]) == ("completed", "backfill", None, "run-1")
    assert (job["is_own_run"], job["is_forced"], job["attempt"], job["error_message"]) == (True, True, 1, None)
    assert (job["payload"]["members"], job["payload"]["member_count"]) == ([first, second], 2)
    assert (job["progress"]["done"], job["progress"]["skipped"], job["progress"]["calls"]) == (8, 2, 8)
    assert {row["trigger_type"] for row in logs(bench.connection)} == {"manual"}
    assert {row["triggered_by"] for row in bench.cached()} == {"backfill"}
    assert {clue["source"] for clue in bench.clues()} == {"ai_consumption"}
    assert held_rows(bench.connection) == 0


def test_each_assistant_with_an_open_task_is_served(bench: MemberBench) -> None:
    member, assistants = bench.visitors()[0], bench.assistants()[:2]
    for assistant in reversed(assistants):
        bench.add_task(member, assistant)
    outcomes = run(bench, [member], AppType.ANALYSIS, AppType.TACTICS)
    assert [(outcome.step.assistant_id, name) for outcome, name in zip(outcomes, names(outcomes), strict=True)] == [
        (assistant, name) for assistant in assistants for name in ("app4", "app5")
    ]


def test_one_application_of_one_member_reads_as_such_and_app6_takes_the_latest_note(bench: MemberBench) -> None:
    [newest, *_] = bench.connection.execute(
        "SELECT member_id, content, noted_by_name FROM ai_source.notes WHERE site_id = %s ORDER BY created_at DESC, note_id DESC", [SITE]
    ).fetchall()
    assert told(run(bench, [newest["member_id"]], AppType.NOTE)) == [("app6", ANSWERED)]
    job = bench.job()
    assert (job["event_type"], job["member_id"], job["app_chain"]) == ("run_app", newest["member_id"], "app6")
    [prompt] = bench.prompts(AppType.NOTE)
    assert prompt.facts["备注"]["记录人"] == newest["noted_by_name"]


def test_unchanged_answers_are_reused_unless_they_are_to_be_made_anew(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    run(bench, [member], AppType.CUSTOMER)
    assert told(run(bench, [member], AppType.CUSTOMER, run_id="run-2")) == [("app7", REUSED)]
    assert told(run(bench, [member], AppType.CUSTOMER, run_id="run-3", regenerate=True)) == [("app7", ANSWERED)]


def test_only_what_is_missing_is_asked_for_where_that_is_wanted(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    run(bench, [member], AppType.CLUE, AppType.CUSTOMER)
    bench.add_visit(member)
    bench.connection.execute("UPDATE biz.ai_cache SET expires_at = now() - interval '1 minute' WHERE cache_type LIKE 'app7%%'")
    outcomes = run(bench, [member], AppType.CLUE, AppType.CUSTOMER, run_id="run-2", only_missing=True)
    assert told(outcomes) == [("app3", REUSED), ("app7", ANSWERED)]
    assert outcomes[0].result.result == bench.cached(AppType.CLUE)[0]["result_json"]


def test_what_failed_makes_the_job_partial_and_is_not_repeated_behind_the_persons_back(bench: MemberBench) -> None:
    first, second = bench.visitors()[:2]
    bench.emulator.plan(
        {**FINAL, "app": "app3_clue", "count": 1}, {"kind": "http_error", "status": 503, "retry_after_seconds": 60, "app": "app7_customer"}
    )
    outcomes = run(bench, [first, second], AppType.CLUE, AppType.CUSTOMER, engine=bench.engine(ZQYY_LLM_CONCURRENCY="1"))
    assert results(outcomes) == {ANSWERED, FAILED}
    job = bench.job()
    assert (job["status"], job["progress"]["failed"], job["not_before"]) == ("partial", 3, None)
    assert job["error_message"].startswith("3 个步骤未完成:InvalidParameter × 1,ServiceUnavailable × 2")
    assert "job" not in str(alerts(bench.connection))


def test_a_run_of_which_nothing_came_has_failed_with_an_alert(bench: MemberBench) -> None:
    bench.emulator.plan(FINAL)
    run(bench, [bench.visitors()[0]], AppType.CUSTOMER)
    assert bench.job()["status"] == "failed"
    assert ("failed", 1) in alerts(bench.connection)


def test_a_member_whose_data_cannot_be_read_is_told_and_the_others_are_done(bench: MemberBench) -> None:
    broken, sound = bench.visitors()[:2]
    bench.add_visit(broken)
    bench.connection.execute("UPDATE demo_dws.visits SET tables = '{}' WHERE business_date = '2026-04-21'")
    with MemberRun(bench.engine(), SITE, [broken, sound], (AppType.CUSTOMER,), run_id="run-1") as member_run:
        assert told(list(member_run.outcomes())) == [("app7", ANSWERED)]
    [failure] = member_run.failures
    assert failure.startswith(f"会员 {broken}:SourceContractError: ai_source.visits")
    job = bench.job()
    assert (job["status"], str(broken) in job["error_message"]) == ("partial", True)


@pytest.mark.parametrize("site_id", [9, CLOSED_SITE])
def test_a_site_that_is_unknown_or_closed_is_refused_before_anything_is_written(bench: MemberBench, site_id: int) -> None:
    with pytest.raises(InvalidRequest):
        MemberRun(bench.engine(), site_id, [7], MEMBER_APPS, run_id="run-1")
    assert bench.jobs() == []


@pytest.mark.parametrize(
    ("is_cancelled", "why"),
    [(lambda: True, "运行被取消"), (lambda: False, "运行进程被停止,请重新运行")],
    ids=["cancelled", "stopped"],
)
def test_an_interrupted_run_keeps_what_was_paid_and_says_who_ended_it(
    bench: MemberBench, is_cancelled: Callable[[], bool], why: str
) -> None:
    members = bench.visitors()[:3]
    bench.emulator.plan(latency={"seconds": 0.3})
    engine = bench.engine(ZQYY_LLM_CONCURRENCY="1")
    with (
        pytest.raises(KeyboardInterrupt),
        MemberRun(engine, SITE, members, (AppType.CUSTOMER,), run_id="run-1", is_cancelled=is_cancelled) as member_run,
    ):
        for _ in member_run.outcomes():
            wait_until(lambda: bench.emulator.in_flight == 1)
            raise KeyboardInterrupt
    assert (bench.emulator.posts, len(bench.cached())) == (2, 2)
    job = bench.job()
    assert (job["status"], job["error_message"]) == ("partial", why)
    assert alerts(bench.connection) == []
    assert held_rows(bench.connection) == 0


def test_nobody_else_takes_a_persons_job_and_one_whose_process_died_has_failed(bench: MemberBench) -> None:
    engine = bench.engine()
    member_run = MemberRun(engine, SITE, [bench.visitors()[0]], (AppType.CUSTOMER,), run_id="run-1")
    member_run.__enter__()
    assert bench.drain(run_id="run-2") == []
    found = recover_dead_run(bench.database, build_budget_guard(engine.settings), "run-1", max_attempts=3)
    assert found.jobs_ended == 1
    assert (bench.job()["status"], bench.job()["error_message"]) == ("failed", "执行进程中断,请重新运行")


def test_a_persons_run_and_an_events_chain_of_one_member_come_one_after_the_other(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.emulator.plan(latency={"seconds": 0.2})
    engine = bench.engine()
    theirs = threading.Thread(
        target=run, args=(bench, [member], AppType.CLUE, AppType.CONSOLIDATION, AppType.CUSTOMER), kwargs={"engine": engine}
    )
    with bench.open_run("run-2"):
        theirs.start()
        wait_until(lambda: bench.emulator.in_flight == 1)
        bench.note(member)
        theirs.join()
        bench.wait_for_jobs(lambda statuses: statuses == ["completed"] * 2)
    rows = logs(bench.connection)
    assert [row["app_type"].partition("_")[0] for row in rows] == ["app3", "app8", "app7", "app6", "app8"]
    assert rows[2]["finished_at"] <= rows[3]["created_at"]
