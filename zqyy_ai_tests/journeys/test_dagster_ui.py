"""What the operator's clicks in Dagster's UI start, by the requests that the UI sends."""

import pytest

from zqyy_ai_tests.devkit.waiting import eventually
from zqyy_ai_tests.journeys.stack import ALL_WINDOWS, POLL_SECONDS, Stack, partition_keys

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

ASSET = [{"path": ["app2_finance"]}]
KEYS = '{ assetNodeOrError(assetKey: {path: ["app2_finance"]}) { ... on AssetNode { partitionKeys } } }'
LAUNCH_BACKFILL = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
BACKFILL = "query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"


def await_partitions(stack: Stack, site_id: int) -> None:
    """A site that has been opened shows up in the UI by itself."""
    eventually(
        lambda: set(partition_keys(site_id)) <= set(stack.graphql(KEYS)["assetNodeOrError"]["partitionKeys"]),
        seconds=60,
        every_seconds=POLL_SECONDS,
    )


def test_a_backfill_of_a_whole_site_is_one_run(stack: Stack, site: int) -> None:
    await_partitions(stack, site)

    asked = {"assetSelection": ASSET, "partitionNames": partition_keys(site), "title": "prewarm", "tags": []}
    launched = stack.graphql(LAUNCH_BACKFILL, params=asked)["launchPartitionBackfill"]

    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    backfill = launched["backfillId"]

    def status() -> str:
        return str(stack.graphql(BACKFILL, id=backfill)["partitionBackfillOrError"]["status"])

    eventually(lambda: status() != "REQUESTED", seconds=120, every_seconds=POLL_SECONDS)
    assert status() == "COMPLETED_SUCCESS"
    (run,) = stack.runs_of_backfill(backfill)
    assert run["status"] == "SUCCESS"
    assert stack.partitions(site).materialised == ALL_WINDOWS
    (job,) = stack.jobs(site)
    assert (job["event_type"], job["status"], job["run_id"]) == ("backfill", "completed", run["runId"])


def test_one_partition_is_materialised_alone(stack: Stack, site: int) -> None:
    await_partitions(stack, site)
    window = "last_quarter__snooker"
    before = stack.emulator_counts()["posts"]

    run_id = stack.materialise("app2_finance", f"{site}|{window}", site=str(site), window=window)

    assert stack.wait_for_run_end(run_id) == "SUCCESS"
    assert stack.partitions(site).materialised == {window}
    assert stack.partitions(site).failed == frozenset()
    assert stack.emulator_counts()["posts"] - before == 1
    (job,) = stack.jobs(site)
    assert (job["event_type"], job["status"], job["payload"]["targets"]) == ("run_app", "completed", [window])
