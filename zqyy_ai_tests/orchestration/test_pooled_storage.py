"""Dagster's storage goes on when its connections are cut, also in the middle of its work."""

import threading
from typing import Any

import dagster as dg
import psycopg
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluation,
    AssetCheckEvaluationPlanned,
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.definitions.partitions.subset import DefaultPartitionsSubset
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster_postgres import PostgresEventLogStorage

from zqyy_ai_tests.orchestration.conftest import Stage


def test_connections_that_are_cut_again_and_again_end_no_statement_of_dagsters(stage: Stage) -> None:
    over, failures = threading.Event(), []

    def work() -> None:
        try:
            while not over.is_set():
                stage.instance.add_dynamic_partitions("cut", ["a"])
                assert stage.instance.get_dynamic_partitions("cut") == ["a"]
                stage.instance.get_runs(limit=1)
        except Exception as failure:
            failures.append(failure)

    working = [threading.Thread(target=work) for _ in range(4)]
    with psycopg.connect(stage.environment["ZQYY_DAGSTER_DATABASE_URL"], autocommit=True) as connection:
        for thread in working:
            thread.start()
        for _ in range(40):
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            connection.execute("SELECT pg_sleep(0.05)")
        over.set()
        for thread in working:
            thread.join(60)
    assert failures == []


@pytest.mark.parametrize("is_planned", [True, False])
@pytest.mark.parametrize("passed", [True, False])
def test_a_check_evaluation_leaves_the_same_rows_as_dagsters_own_storage(stage: Stage, is_planned: bool, passed: bool) -> None:
    ours = stage.instance.event_log_storage
    theirs = PostgresEventLogStorage(stage.environment["ZQYY_DAGSTER_STORAGE_URL"])
    pictures = []
    for number, storage in enumerate((ours, theirs)):
        run_id = f"run-{number}"
        if is_planned:
            storage.store_event(_event(run_id, DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED, _PLANNED))
        evaluation = AssetCheckEvaluation(
            asset_key=_ASSET,
            check_name="numbers_explained",
            passed=passed,
            metadata={"已核对数字": dg.MetadataValue.int(7)},
            severity=dg.AssetCheckSeverity.WARN,
            partition="1001|last_month__ktv",
            target_materialization_data=AssetCheckEvaluationTargetMaterializationData(storage_id=12, run_id=run_id, timestamp=5.0),
        )
        storage.store_event(_event(run_id, DagsterEventType.ASSET_CHECK_EVALUATION, evaluation))
        with psycopg.connect(stage.environment["ZQYY_DAGSTER_DATABASE_URL"]) as connection:
            events = connection.execute(
                "SELECT replace(event, run_id, ''), dagster_event_type, timestamp, step_key, asset_key, partition FROM event_logs"
                " WHERE run_id = %s ORDER BY id",
                [run_id],
            ).fetchall()
            checks = connection.execute(
                "SELECT c.asset_key, check_name, c.partition, execution_status, replace(evaluation_event, c.run_id, ''),"
                " evaluation_event_timestamp, materialization_event_storage_id, e.dagster_event_type FROM asset_check_executions c"
                " JOIN event_logs e ON e.id = c.evaluation_event_storage_id WHERE c.run_id = %s",
                [run_id],
            ).fetchall()
        pictures.append((events, checks))
    theirs.dispose()

    assert pictures[0] == pictures[1]
    assert len(pictures[0][1]) == 1


_ASSET = dg.AssetKey("app2_finance")
_PLANNED = AssetCheckEvaluationPlanned(
    asset_key=_ASSET, check_name="numbers_explained", partitions_subset=DefaultPartitionsSubset({"1001|last_month__ktv"})
)


def _event(run_id: str, kind: DagsterEventType, data: Any) -> dg.EventLogEntry:
    event = DagsterEvent(event_type_value=kind.value, job_name="prewarm_site", step_key="app2_finance", event_specific_data=data)
    return dg.EventLogEntry(  # type: ignore[no-untyped-call]
        error_info=None, level=20, user_message="", run_id=run_id, timestamp=1_700_000_000.25, job_name="prewarm_site", dagster_event=event
    )
