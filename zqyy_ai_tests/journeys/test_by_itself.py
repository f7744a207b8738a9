"""What starts without anybody asking: a prewarm after a finished load, and one when the cron is due."""

import uuid
from collections.abc import Iterator

import pytest

from zqyy_ai_tests.journeys.stack import ALL_WINDOWS, Stack

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

# A finished load is looked for every 30 s; a run takes its time on a busy machine.
MOST_LOAD_SECONDS = 100.0
# An edit is noticed when the next minute begins, and the minute after it is the first that can be due.
MOST_CRON_SECONDS = 200.0


def test_a_finished_load_starts_a_prewarm_of_its_site(stack: Stack, site: int) -> None:
    load = f"load-{uuid.uuid4().hex[:8]}"
    stack.sql(
        "INSERT INTO demo_dws.etl_runs (etl_run_id, site_id, status, started_at, finished_at, loaded_through)"
        " VALUES (%s, %s, 'success', now(), now(), current_date)",
        load,
        site,
    )

    job = stack.wait_for_job(site, "completed", seconds=MOST_LOAD_SECONDS)

    assert (job["payload"]["etl_run_ids"], job["payload"]["source"]) == ([load], "etl_sensor")
    assert stack.wait_for_run(site, "SUCCESS")["runId"] == job["run_id"]
    assert stack.partitions(site).materialised == ALL_WINDOWS
    assert len(stack.jobs(site)) == 1


@pytest.fixture
def every_minute(stack: Stack) -> Iterator[None]:
    """The cron row as an operator edits it."""
    stack.sql(
        "UPDATE biz.trigger_jobs SET status = 'enabled', trigger_config = '{\"cron_expression\": \"* * * * *\"}'"
        " WHERE job_type = 'ai_dws_prewarm'"
    )
    yield
    stack.sql("UPDATE biz.trigger_jobs SET status = 'disabled' WHERE job_type = 'ai_dws_prewarm'")


def test_an_edited_cron_prewarms_the_sites_that_have_none_yet_and_no_site_twice(stack: Stack, site: int, every_minute: None) -> None:
    job = stack.wait_for_job(site, "completed", seconds=MOST_CRON_SECONDS)

    assert job["payload"]["source"] == "schedule"
    assert stack.wait_for_run(site, "SUCCESS")["runId"] == job["run_id"]
    trigger = stack.sql("SELECT last_run_at, next_run_at, last_error FROM biz.trigger_jobs WHERE job_type = 'ai_dws_prewarm'")[0]
    assert trigger["last_error"] is None
    assert trigger["next_run_at"] > trigger["last_run_at"] >= job["created_at"].replace(second=0, microsecond=0)
    assert len(stack.jobs(site)) == 1
