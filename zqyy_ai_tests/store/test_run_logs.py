from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from zqyy_ai.store import cache, run_logs
from zqyy_ai.store.database import Connection
from zqyy_ai.store.run_logs import RunEnd, RunStatus, RunSubject

SUBJECT = RunSubject("app2_finance", 1001, "this_month__all", "event", trigger_job_id=5, dagster_run_id="run-1", input_hash="abc")


def row_of(connection: Connection, log_id: int) -> dict[str, Any]:
    row = connection.execute("SELECT * FROM biz.ai_run_logs WHERE id = %s", [log_id]).fetchone()
    assert row is not None
    return row


def test_a_calls_log_starts_running_and_ends_with_what_came_of_it(connection: Connection) -> None:
    log_id = run_logs.start(connection, SUBJECT, "提示词")
    running = row_of(connection, log_id)
    assert (running["status"], running["request_prompt"], running["trigger_job_id"], running["finished_at"]) == (
        "running",
        "提示词",
        5,
        None,
    )
    end = RunEnd(RunStatus.SUCCESS, 1200, 350, "回答", 300, 50, usage_reported=True, model_ids=("qwen-max", "qwen-turbo"), session_id="s")
    run_logs.finish(connection, log_id, end)
    ended = row_of(connection, log_id)
    assert (ended["status"], ended["response_text"], ended["tokens_used"], ended["latency_ms"]) == ("success", "回答", 350, 1200)
    assert (ended["model_ids"], ended["usage_reported"], ended["session_id"]) == (["qwen-max", "qwen-turbo"], True, "s")
    assert ended["finished_at"] is not None


def test_a_log_that_has_ended_is_never_changed_again(connection: Connection) -> None:
    log_id = run_logs.start(connection, SUBJECT, "提示词")
    assert run_logs.close_of_dead_run(connection, "run-1") == 1
    run_logs.finish(connection, log_id, RunEnd(RunStatus.SUCCESS, 1, 1, "回答"))
    ended = row_of(connection, log_id)
    assert (ended["status"], ended["error_code"], ended["response_text"]) == ("failed", "worker_died", None)


def test_a_dead_run_closes_its_own_logs_and_no_others(connection: Connection) -> None:
    other = run_logs.start(connection, RunSubject("app2_finance", 1001, "last_month__all", "event", dagster_run_id="run-2"), "")
    reused = run_logs.record(connection, SUBJECT, RunStatus.REUSED)
    assert run_logs.close_of_dead_run(connection, "run-1") == 0
    assert reused is not None
    assert [row_of(connection, log_id)["status"] for log_id in (other, reused)] == ["running", "reused"]


def test_a_refusal_is_a_row_that_has_ended_without_a_call(connection: Connection) -> None:
    log_id = run_logs.record(connection, SUBJECT, RunStatus.FAILED, error_code="budget_exceeded", error_message="budget_exceeded:daily")
    assert log_id is not None
    row = row_of(connection, log_id)
    assert (row["status"], row["error_message"], row["tokens_used"], row["latency_ms"]) == ("failed", "budget_exceeded:daily", 0, 0)
    assert row["finished_at"] >= row["created_at"]


def test_a_broken_reply_is_kept_as_far_as_it_can_be_and_undoes_nothing(connection: Connection) -> None:
    log_id = run_logs.start(connection, SUBJECT, "提示词")
    run_logs.finish(connection, log_id, RunEnd(RunStatus.FAILED, 1, 350, "回答\ud83d\0。", error_message="\0"))
    assert (row_of(connection, log_id)["response_text"], row_of(connection, log_id)["tokens_used"]) == ("回答?。", 350)


def test_a_jobs_steps_show_the_answers_that_they_brought_or_reused(connection: Connection) -> None:
    def cached(log_id: int | None, target_id: str, input_hash: str) -> None:
        result = {"of": input_hash}
        cache.write_cache(connection, "app2_finance", 1001, target_id, result, expires_at=None, input_hash=input_hash, run_log_id=log_id)

    before = run_logs.start(connection, replace(SUBJECT, trigger_job_id=4, target_id="last_week__all", input_hash="earlier"), "")
    run_logs.finish(connection, before, RunEnd(RunStatus.SUCCESS, 1, 1, ""))
    cached(before, "last_week__all", "earlier")
    cached(None, "last_week__all", "of another input")
    answered = run_logs.start(connection, SUBJECT, "")
    run_logs.finish(connection, answered, RunEnd(RunStatus.SUCCESS, 1, 1, ""))
    cached(answered, "this_month__all", "abc")
    run_logs.record(connection, replace(SUBJECT, target_id="last_week__all", input_hash="earlier"), RunStatus.REUSED)
    run_logs.record(connection, SUBJECT, RunStatus.FAILED, error_code="circuit_open", error_message="x")

    steps = run_logs.steps_of_job(connection, 5)

    assert [(step.target_id, step.status, step.result_json) for step in steps] == [
        ("this_month__all", "success", {"of": "abc"}),
        ("last_week__all", "reused", {"of": "earlier"}),
        ("this_month__all", "failed", None),
    ]
    assert run_logs.steps_of_job(connection, 6) == []


def test_what_a_call_usually_takes_is_the_average_of_those_that_succeeded(connection: Connection) -> None:
    for tokens, latency_ms, status in ((100, 1000, RunStatus.SUCCESS), (300, 3000, RunStatus.SUCCESS), (900, 9000, RunStatus.FAILED)):
        run_logs.finish(connection, run_logs.start(connection, SUBJECT, ""), RunEnd(status, latency_ms, tokens, ""))
    usual = run_logs.usual_calls(connection, since=datetime.now(UTC) - timedelta(days=1))
    assert usual == {"app2_finance": run_logs.UsualCall(200.0, 2.0)}
    assert run_logs.usual_calls(connection, since=datetime.now(UTC) + timedelta(days=1)) == {}
