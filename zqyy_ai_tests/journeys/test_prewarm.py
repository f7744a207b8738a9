"""Prewarms that a person asks for on a running stack: they succeed, fail in part, are killed in the middle, are cancelled."""

import os
import signal
import time

import pytest

from zqyy_ai_tests.devkit.waiting import eventually
from zqyy_ai_tests.journeys.stack import ALL_WINDOWS, POLL_SECONDS, Stack, partition_keys

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

# How the emulator recognises a window by its prompt.
BAD_WINDOWS = {
    "last_month__ktv": '"区域":"KTV","时间维度":"上月"',
    "last_week__vip": '"区域":"贵宾包厢","时间维度":"上周"',
    "this_quarter__all": '"区域":"全店","时间维度":"本季度"',
}
MOST_RECOVERY_SECONDS = 60.0
TERMINATE = "mutation($runs: [String!]!) { terminateRuns(runIds: $runs) { __typename } }"


def test_a_prewarm_from_the_command_line_is_a_dagster_run_and_a_second_one_costs_nothing(stack: Stack, site: int) -> None:
    before = stack.emulator_counts()

    first = stack.run("prewarm", "--site", str(site))

    assert first.returncode == 0, first.stdout + first.stderr
    assert "72 / 72" in first.stdout
    assert stack.emulator_counts()["answered"] - before["answered"] == stack.answers_written(site) == 72
    run = stack.wait_for_run(site, "SUCCESS")
    assert run["tags"]["dagster/asset_partition_range_start"] == partition_keys(site)[0]
    assert run["tags"]["dagster/asset_partition_range_end"] == partition_keys(site)[-1]
    assert stack.partitions(site).materialised == ALL_WINDOWS
    for check in ("answer_validates", "not_stale", "numbers_explained"):
        assert {stack.check_status(check, key) for key in partition_keys(site)[::17]} == {"SUCCEEDED"}
    (job,) = stack.jobs(site)
    assert (job["status"], job["run_id"]) == ("completed", run["runId"])

    paid = stack.emulator_counts()["posts"]
    second = stack.run("prewarm", "--site", str(site))

    assert second.returncode == 0, second.stdout + second.stderr
    assert stack.emulator_counts()["posts"] == paid
    assert stack.jobs(site)[-1]["progress"] == {"total": 72, "done": 72, "reused": 72, "failed": 0, "calls": 0, "tokens": 0}

    stack.sql("DELETE FROM biz.ai_cache WHERE site_id = %s AND target_id = 'last_month__hall'", site)
    stack.sql("UPDATE biz.ai_cache SET status = 'invalidated' WHERE site_id = %s AND target_id LIKE 'this_week__hall_'", site)
    missing = stack.run("prewarm", "--site", str(site), "--missing")

    assert missing.returncode == 0, missing.stdout + missing.stderr
    assert stack.emulator_counts()["posts"] - paid == 4
    valid = "SELECT count(DISTINCT target_id) FROM biz.ai_cache WHERE site_id = %s AND status = 'valid' AND expires_at > now()"
    assert stack.count(valid, site) == 72


def test_windows_that_fail_are_red_until_a_rerun_that_calls_for_them_alone(stack: Stack, site: int) -> None:
    stack.plan_faults(*({"kind": "data_inspection", "prompt_contains": prompt} for prompt in BAD_WINDOWS.values()))

    failing = stack.run("prewarm", "--site", str(site))

    assert failing.returncode == 1
    assert "69 / 72" in failing.stdout
    run = stack.wait_for_run(site, "FAILURE")
    assert stack.partitions(site).failed == set(BAD_WINDOWS)
    assert stack.partitions(site).materialised == ALL_WINDOWS - set(BAD_WINDOWS)
    assert {stack.check_status("not_stale", f"{site}|{window}") for window in BAD_WINDOWS} == {"FAILED"}
    assert stack.jobs(site)[-1]["status"] == "partial"

    stack.plan_faults()
    before = stack.emulator_counts()
    rerun = stack.run("prewarm", "--site", str(site))

    assert rerun.returncode == 0, rerun.stdout + rerun.stderr
    after = stack.emulator_counts()
    assert (after["posts"] - before["posts"], after["answered_again"] - before["answered_again"]) == (len(BAD_WINDOWS), 0)
    assert stack.wait_for_run(site, "SUCCESS")["runId"] != run["runId"]
    assert stack.partitions(site).materialised == ALL_WINDOWS
    assert {stack.check_status("not_stale", f"{site}|{window}") for window in BAD_WINDOWS} == {"SUCCEEDED"}


def test_a_prewarm_whose_process_is_killed_completes_by_itself_and_pays_for_no_written_answer_again(stack: Stack, site: int) -> None:
    stack.plan_faults(latency_seconds=1.0)
    before = stack.emulator_counts()
    stack.request_prewarm(site)
    eventually(lambda: stack.answers_written(site) >= 24, seconds=90, every_seconds=POLL_SECONDS)
    killed = stack.runs(site)[0]

    os.kill(stack.worker_pid(killed["runId"]), signal.SIGKILL)
    killed_at = time.monotonic()
    # What the model had answered and nobody had written yet is lost with the process, and the only thing that may be paid again.
    eventually(lambda: stack.emulator_counts()["in_flight"] == 0, seconds=10, every_seconds=0.05)
    lost = stack.emulator_counts()["answered"] - before["answered"] - stack.answers_written(site)
    assert 24 <= stack.answers_written(site) < 72

    job = stack.wait_for_job(site, "completed", seconds=MOST_RECOVERY_SECONDS)

    assert time.monotonic() - killed_at <= MOST_RECOVERY_SECONDS
    assert job["attempt"] == 2
    assert stack.emulator_counts()["answered_again"] - before["answered_again"] <= lost
    assert stack.answers_written(site) == 72
    assert stack.wait_for_run(site, "SUCCESS")["runId"] == job["run_id"] != killed["runId"]
    assert stack.runs(site)[-1]["status"] == "FAILURE"
    assert stack.partitions(site).materialised == ALL_WINDOWS
    assert stack.count("SELECT count(*) FROM biz.ai_budget_reservations WHERE site_id = %s", site) == 0
    assert stack.count("SELECT count(*) FROM biz.ai_step_claims WHERE site_id = %s", site) == 0
    assert stack.count("SELECT count(*) FROM biz.ai_call_slots WHERE token IS NOT NULL") == 0
    assert stack.count("SELECT count(*) FROM biz.ai_run_logs WHERE site_id = %s AND status IN ('pending', 'running')", site) == 0


def test_a_prewarm_that_a_person_cancels_in_dagster_is_not_taken_up_again(stack: Stack, site: int) -> None:
    stack.plan_faults(latency_seconds=1.0)
    stack.request_prewarm(site)
    eventually(lambda: stack.answers_written(site) >= 12, seconds=90, every_seconds=POLL_SECONDS)

    stack.graphql(TERMINATE, runs=[stack.runs(site)[0]["runId"]])

    stack.wait_for_run(site, "CANCELED")
    job = stack.wait_for_job(site, "partial", seconds=20)
    assert job["error_message"] == "运行被取消"
    # The calls that were under way end, and no others begin.
    eventually(lambda: stack.emulator_counts()["in_flight"] == 0, every_seconds=POLL_SECONDS)
    assert 12 <= stack.answers_written(site) < 72
    assert len(stack.runs(site)) == len(stack.jobs(site)) == 1
