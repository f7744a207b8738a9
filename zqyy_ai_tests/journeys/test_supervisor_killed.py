"""kill -9 of the supervisor: nothing stays behind, and the next start takes the interrupted work up by itself."""

import pytest

from zqyy_ai_tests.devkit.waiting import eventually
from zqyy_ai_tests.journeys.conftest import fill_warehouse
from zqyy_ai_tests.journeys.stack import ALL_WINDOWS, POLL_SECONDS, Home, Stack, await_nobody

pytestmark = [pytest.mark.journey, pytest.mark.timeout(400)]

SITE = 1001
MOST_CLEAN_UP_SECONDS = 15.0
MOST_RECOVERY_SECONDS = 90.0


def test_a_stack_whose_supervisor_was_killed_leaves_no_process_and_its_successor_completes_the_prewarm(home: Home) -> None:
    home.environment["ZQYY_LLM_CONCURRENCY"] = "6"
    with Stack(home) as stack:
        fill_warehouse(stack)
        stack.sql("UPDATE biz.sites SET is_active = (site_id = %s)", SITE)
        stack.plan_faults(latency_seconds=1.0)
        stack.request_prewarm(SITE)
        eventually(lambda: stack.answers_written(SITE) >= 12, seconds=90, every_seconds=POLL_SECONDS)

        stack.kill()

        await_nobody(home, seconds=MOST_CLEAN_UP_SECONDS)

    with Stack(home) as successor:
        first_run = successor.jobs(SITE)[0]["run_id"]
        job = successor.wait_for_job(SITE, "completed", seconds=MOST_RECOVERY_SECONDS)

        written_before = successor.count(
            # Answers, not successful logs: a process may be killed after it settled a call and before it wrote its answer.
            "SELECT count(*) FROM biz.ai_cache JOIN biz.ai_run_logs log ON log.id = run_log_id"
            " WHERE log.site_id = %s AND log.status = 'success' AND log.dagster_run_id = %s",
            SITE,
            first_run,
        )
        assert len(successor.jobs(SITE)) == 1
        assert 12 <= written_before < 72
        # The emulator died with its stack, so its counts are the successor's alone.
        assert successor.emulator_counts()["posts"] == 72 - written_before
        assert successor.wait_for_run(SITE, "SUCCESS")["runId"] == job["run_id"]
        assert successor.partitions(SITE).materialised == ALL_WINDOWS
        assert successor.count("SELECT count(*) FROM biz.ai_budget_reservations") == 0
