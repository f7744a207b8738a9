"""One finance window that a job asks for, done by the run that takes members' jobs."""

import pytest

from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.windows import WindowKey
from zqyy_ai.engine.chain_pool import Outcome
from zqyy_ai.engine.member_requests import add_window_job, request_app, retry_job
from zqyy_ai.engine.step import StepStatus
from zqyy_ai.engine.window_chain import WindowStepOutcome
from zqyy_ai_tests.engine.member_bench import FINAL, INVALID, PASSING, SITE, MemberBench, told
from zqyy_ai_tests.engine.workbench import alerts, held_rows

WHOLE_SITE, VIP = WindowKey.parse("last_month__all"), WindowKey.parse("this_month__vip")
ANSWERED, REUSED, FAILED = StepStatus.ANSWERED, StepStatus.REUSED, StepStatus.FAILED


@pytest.fixture(autouse=True)
def present_data(bench: MemberBench) -> None:
    bench.bring_finance_up_to_date()


def ask(bench: MemberBench, window: WindowKey = WHOLE_SITE) -> int:
    with bench.database.transaction() as connection:
        return add_window_job(connection, window, SITE, source="api")


def ended(outcomes: list[Outcome]) -> list[tuple[str, StepStatus]]:
    return [(outcome.step.name, outcome.result.status) for outcome in outcomes if isinstance(outcome, WindowStepOutcome)]


@pytest.mark.parametrize("window", [WHOLE_SITE, VIP])
def test_a_window_asked_for_is_exactly_one_call_of_its_application(bench: MemberBench, window: WindowKey) -> None:
    job_id = ask(bench, window)
    job = bench.job()
    assert (job["id"], job["event_type"], job["member_id"], job["app_chain"], job["is_forced"]) == (job_id, "run_app", None, "app2", True)
    assert ended(bench.drain_all()) == [(str(window), ANSWERED)]
    app = AppType.FINANCE if window is WHOLE_SITE else AppType.FINANCE_AREA
    assert bench.posts() == {app.value.partition("_")[0]: 1}
    [answer] = bench.cached()
    assert (answer["cache_type"], answer["site_id"], answer["target_id"], answer["triggered_by"]) == (app, SITE, str(window), "run_app")
    job = bench.job()
    assert (job["status"], job["progress"]["done"], job["progress"]["calls"]) == ("completed", 1, 1)
    assert held_rows(bench.connection) == 0


def test_each_time_it_is_asked_anew(bench: MemberBench) -> None:
    ask(bench)
    bench.drain_all()
    ask(bench)
    assert ended(bench.drain_all(run_id="run-2")) == [(str(WHOLE_SITE), ANSWERED)]
    assert len(bench.cached()) == 2


def test_it_comes_before_what_else_waits(bench: MemberBench) -> None:
    for member in bench.visitors()[:2]:
        bench.consumption(member)
    bench.take_in()
    ask(bench)
    assert isinstance(bench.drain_all(ZQYY_LLM_CONCURRENCY="1")[0], WindowStepOutcome)


def test_a_refusal_that_time_cures_sends_it_back_and_its_next_round_pays_once(bench: MemberBench) -> None:
    bench.emulator.plan(PASSING)
    ask(bench)
    [(_, status)] = ended(bench.drain_all())
    assert status is FAILED
    job = bench.job()
    assert (job["status"], job["attempt"], job["sent_back_count"]) == ("pending", 0, 1)
    bench.emulator.plan()
    bench.make_due()
    assert ended(bench.drain_all(run_id="run-2")) == [(str(WHOLE_SITE), ANSWERED)]
    assert bench.statuses() == ["completed"]


def test_a_failure_for_good_fails_the_job_with_an_alert_and_leaves_the_last_answer(bench: MemberBench) -> None:
    ask(bench)
    bench.drain_all()
    bench.emulator.plan(FINAL)
    failed = ask(bench)
    [outcome] = bench.drain_all(run_id="run-2")
    assert isinstance(outcome, WindowStepOutcome)
    assert (outcome.result.status, outcome.has_answer) == (FAILED, True)
    assert bench.statuses() == ["completed", "failed"]
    assert ("failed", 1) in alerts(bench.connection)
    assert [row["status"] for row in bench.cached()] == ["valid"]

    bench.emulator.plan()
    retry_job(bench.database, failed)
    assert ended(bench.drain_all(run_id="run-3")) == [(str(WHOLE_SITE), ANSWERED)]


def test_what_was_paid_for_in_vain_is_not_paid_again_by_the_same_job(bench: MemberBench) -> None:
    bench.emulator.plan(INVALID)
    ask(bench)
    bench.drain_all()
    posts = bench.emulator.posts
    assert bench.statuses() == ["failed"]
    bench.connection.execute(
        "UPDATE biz.ai_trigger_jobs SET status = 'pending', finished_at = NULL, payload = payload || %s::jsonb",
        ['{"given_up": {"last_month__all": "reply_invalid"}}'],
    )
    assert ended(bench.drain_all(run_id="run-2")) == [(str(WHOLE_SITE), FAILED)]
    assert bench.emulator.posts == posts


def test_an_answer_of_the_jobs_own_is_taken_after_a_crash(bench: MemberBench) -> None:
    ask(bench)
    bench.drain_all()
    # The process died between the answer and the job's end.
    bench.connection.execute("UPDATE biz.ai_trigger_jobs SET status = 'pending', finished_at = NULL")
    assert ended(bench.drain_all(run_id="run-2")) == [(str(WHOLE_SITE), REUSED)]
    assert bench.emulator.posts == 1


def test_a_job_without_member_and_window_fails_alone(bench: MemberBench) -> None:
    ask(bench)
    bench.connection.execute('UPDATE biz.ai_trigger_jobs SET payload = payload || \'{"targets": ["x"]}\'')
    request_app(bench.database, AppType.CUSTOMER, SITE, bench.visitors()[0])
    assert told(bench.drain()) == [("app7", ANSWERED)]
    assert bench.statuses() == ["failed", "completed"]
