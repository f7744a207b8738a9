"""What the operator's clicks in Dagster's UI start, by the requests that the UI sends."""

from typing import Any

import pytest

from zqyy_ai_tests.devkit.waiting import eventually
from zqyy_ai_tests.journeys.stack import ALL_WINDOWS, POLL_SECONDS, Stack, partition_keys

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

ASSET = [{"path": ["app2_finance"]}]
KEYS = '{ assetNodeOrError(assetKey: {path: ["app2_finance"]}) { ... on AssetNode { partitionKeys } } }'
LAUNCH_BACKFILL = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
BACKFILL = "query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
LAUNCH_RUN = """mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
RUN = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


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
    key = f"{site}|last_quarter__snooker"
    before = stack.emulator_counts()["posts"]

    launched = stack.graphql(LAUNCH_RUN, params=one_partition(key))["launchPipelineExecution"]

    assert launched["__typename"] == "LaunchRunSuccess", launched
    run_id = launched["run"]["runId"]
    ended = ("SUCCESS", "FAILURE", "CANCELED")
    eventually(lambda: stack.graphql(RUN, id=run_id)["runOrError"]["status"] in ended, seconds=90, every_seconds=POLL_SECONDS)
    assert stack.graphql(RUN, id=run_id)["runOrError"]["status"] == "SUCCESS"
    assert stack.partitions(site).materialised == {"last_quarter__snooker"}
    assert stack.partitions(site).failed == frozenset()
    assert stack.emulator_counts()["posts"] - before == 1
    (job,) = stack.jobs(site)
    assert (job["event_type"], job["status"], job["payload"]["targets"]) == ("run_app", "completed", ["last_quarter__snooker"])


def one_partition(key: str) -> dict[str, Any]:
    site, _, window = key.partition("|")
    tags = {"dagster/partition": key, "dagster/partition/site": site, "dagster/partition/window": window}
    return {
        "mode": "default",
        "runConfigData": "{}",
        "executionMetadata": {"tags": [{"key": name, "value": value} for name, value in tags.items()]},
        "selector": {
            "repositoryLocationName": "zqyy_ai",
            "repositoryName": "__repository__",
            "pipelineName": "__ASSET_JOB",
            "assetSelection": ASSET,
            "assetCheckSelection": None,
        },
    }
