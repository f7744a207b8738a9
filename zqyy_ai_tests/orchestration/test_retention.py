"""The daily job on a real instance: our tables, Dagster's own old runs, and what an operator then sees."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from zqyy_ai.definitions import defs
from zqyy_ai.engine.retention import raise_retention_alert
from zqyy_ai.orchestration import sensors
from zqyy_ai.orchestration.resources import DatabaseResource
from zqyy_ai.orchestration.retention import JOB_NAME, delete_runs, find_old_runs, retention
from zqyy_ai.orchestration.schedules import retention_daily
from zqyy_ai.store import retention as retention_store
from zqyy_ai_tests.orchestration.conftest import Stage

ASSET = dg.AssetKey("app2_finance")
CHECK = dg.AssetCheckKey(ASSET, "answer_validates")


def materialise(stage: Stage, first: str, last: str | None = None) -> str:
    """A run of its own for each call, over one window or the two neighbours; returns its id."""
    done = defs.resolve_job_def("prewarm_site").execute_in_process(
        instance=stage.instance,
        tags={"dagster/asset_partition_range_start": f"1001|{first}", "dagster/asset_partition_range_end": f"1001|{last or first}"},
    )
    return done.run_id


def age_all_runs(stage: Stage, days: int) -> None:
    with psycopg.connect(stage.environment["ZQYY_DAGSTER_DATABASE_URL"], autocommit=True) as dagster:
        dagster.execute("UPDATE runs SET update_timestamp = update_timestamp - %s", [timedelta(days=days)])


def rows(stage: Stage, table: str, run_id: str) -> int:
    with psycopg.connect(stage.environment["ZQYY_DAGSTER_DATABASE_URL"], autocommit=True) as dagster:
        found = dagster.execute(f"SELECT count(*) FROM {table} WHERE run_id = %s".encode(), [run_id]).fetchone()
        assert found is not None
        return int(found[0])


def run_job(stage: Stage, *, dry_run: bool = False) -> dg.ExecuteInProcessResult:
    return retention.execute_in_process(
        instance=stage.instance,
        resources={"database": DatabaseResource()},
        run_config={"ops": {"clean_up": {"config": {"dry_run": dry_run}}}},
        raise_on_error=False,
    )


def metadata_of(done: dg.ExecuteInProcessResult) -> dict[str, dg.MetadataValue]:
    (output,) = [event for event in done.all_events if event.event_type is dg.DagsterEventType.STEP_OUTPUT]
    return dict(output.step_output_data.metadata)


def table_of(done: dg.ExecuteInProcessResult) -> dict[str, Mapping[str, object]]:
    """Records of the result's table, by name."""
    table = metadata_of(done)["清理"]
    assert isinstance(table, dg.TableMetadataValue)
    return {str(record.data["名称"]): record.data for record in table.records}


def materialised_windows(stage: Stage) -> set[str]:
    return set(stage.instance.get_materialized_partitions(ASSET))


def test_old_runs_go_with_events_checks_tags_and_log_files(stage: Stage) -> None:
    old = materialise(stage, "this_month__all")
    newer = materialise(stage, "this_month__all")
    logs = Path(stage.instance.storage_directory()) / old
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "stdout").write_text("…", encoding="utf-8")
    assert all(rows(stage, table, old) for table in ("runs", "event_logs", "asset_check_executions", "run_tags"))
    age_all_runs(stage, 31)

    done = run_job(stage)

    assert done.success
    assert [rows(stage, table, old) for table in ("runs", "event_logs", "asset_check_executions", "run_tags")] == [0, 0, 0, 0]
    assert not logs.exists()
    assert rows(stage, "runs", newer) == 1
    assert metadata_of(done)["Dagster 运行"].value == {
        "结束早于": f"{datetime.now(UTC) - timedelta(days=30):%Y-%m-%d %H:%M} UTC",
        "可删除": 1,
        "已删除": 1,
        "因保存最新物化而保留": 1,
    }


def test_no_partition_loses_its_newest_materialisation_or_check_however_old(stage: Stage) -> None:
    materialise(stage, "this_month__all")
    kept = materialise(stage, "this_month__all", "this_month__hall")
    materialise(stage, "this_month__hall")
    before = materialised_windows(stage)
    latest = stage.instance.get_latest_materialization_event(ASSET)
    age_all_runs(stage, 400)

    run_job(stage)

    assert materialised_windows(stage) == before == {"1001|this_month__all", "1001|this_month__hall"}
    assert rows(stage, "asset_check_executions", kept) == 6, "three checks of two windows"
    now_latest = stage.instance.get_latest_materialization_event(ASSET)
    assert latest is not None and now_latest is not None
    assert now_latest.run_id == latest.run_id
    checks = stage.instance.event_log_storage.get_latest_asset_check_execution_by_key([CHECK])
    assert checks[CHECK].status.value == "SUCCEEDED"


def test_runs_younger_than_the_setting_and_unfinished_ones_stay(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = dg.JobDefinition(name="stand_in", graph_def=dg.GraphDefinition(name="stand_in"))
    young = stage.instance.create_run_for_job(job_def=stand_in, status=dg.DagsterRunStatus.SUCCESS)
    age_all_runs(stage, 6)
    running = stage.instance.create_run_for_job(job_def=stand_in, status=dg.DagsterRunStatus.STARTED)
    waiting = stage.instance.create_run_for_job(job_def=stand_in, status=dg.DagsterRunStatus.NOT_STARTED)
    old = stage.instance.create_run_for_job(job_def=stand_in, status=dg.DagsterRunStatus.CANCELED)
    age_all_runs(stage, 4)
    monkeypatch.setenv("ZQYY_DAGSTER_RUN_RETENTION_DAYS", "11")
    assert find_old_runs(stage.instance, datetime.now(UTC) - timedelta(days=11)).run_ids == []
    monkeypatch.setenv("ZQYY_DAGSTER_RUN_RETENTION_DAYS", "3")

    done = run_job(stage)

    left = {run.run_id for run in stage.instance.get_runs()} - {done.run_id}
    assert left == {running.run_id, waiting.run_id}
    assert not {young.run_id, old.run_id} & left


def test_a_deletion_that_was_interrupted_is_finished_by_the_next_run(stage: Stage) -> None:
    stand_in = dg.JobDefinition(name="stand_in", graph_def=dg.GraphDefinition(name="stand_in"))
    for _ in range(3):
        stage.instance.create_run_for_job(job_def=stand_in, status=dg.DagsterRunStatus.SUCCESS)
    age_all_runs(stage, 40)
    before = datetime.now(UTC) - timedelta(days=30)
    wanted = find_old_runs(stage.instance, before).run_ids

    next(delete_runs(stage.instance, wanted, most_seconds=60))
    # A run whose events are gone, but not its row.
    stage.instance.event_log_storage.delete_events(wanted[1])
    again = find_old_runs(stage.instance, before).run_ids
    list(delete_runs(stage.instance, again, most_seconds=60))

    assert again == wanted[1:]
    assert stage.instance.get_runs() == []
    assert list(delete_runs(stage.instance, wanted, most_seconds=0)) == []


def test_a_dry_run_of_the_job_counts_and_deletes_nothing(stage: Stage) -> None:
    old = materialise(stage, "this_month__all")
    materialise(stage, "this_month__all")
    age_all_runs(stage, 31)
    with stage.database.autocommit() as connection:
        connection.execute("INSERT INTO biz.ai_live_events (event_type, created_at) VALUES ('x', now() - interval '8 days')")

    done = run_job(stage, dry_run=True)

    metadata = metadata_of(done)
    assert metadata["Dagster 运行"].value["可删除"] == 1  # type: ignore[call-overload,index]
    live = table_of(done)["实时事件"]
    assert (live["将删除"], live["已删除"]) == (1, "")
    assert rows(stage, "runs", old) == 1
    with stage.database.autocommit() as connection:
        assert connection.execute("SELECT FROM biz.ai_live_events WHERE event_type = 'x'").rowcount == 1


def test_the_result_is_a_table_with_a_row_for_each_kind(stage: Stage) -> None:
    with stage.database.autocommit() as connection:
        connection.execute(
            "INSERT INTO biz.ai_live_events (event_type, created_at) SELECT 'x', now() - interval '8 days' FROM generate_series(1, 3)"
        )

    table = table_of(run_job(stage))

    assert table["实时事件"]["已删除"] == 3
    assert len(table) == 16


def test_what_is_deleted_is_in_the_sums_before(stage: Stage) -> None:
    with stage.database.autocommit() as connection:
        connection.execute(
            "INSERT INTO biz.ai_run_logs (site_id, app_type, status, created_at) VALUES (1001, 'app3_clue', 'success', now() - interval '500 days')"
        )

    run_job(stage)

    with stage.database.autocommit() as connection:
        assert connection.execute("SELECT FROM biz.ai_run_logs").fetchall() == []
        assert connection.execute("SELECT app_type, logs FROM biz.ai_run_log_totals").fetchall() == [{"app_type": "app3_clue", "logs": 1}]


def test_a_failure_is_red_leaves_dagsters_part_done_and_raises_an_alert_that_the_next_good_run_resolves(stage: Stage) -> None:
    stand_in = dg.JobDefinition(name="stand_in", graph_def=dg.GraphDefinition(name="stand_in"))
    old = stage.instance.create_run_for_job(job_def=stand_in, status=dg.DagsterRunStatus.SUCCESS)
    age_all_runs(stage, 31)
    with stage.database.autocommit() as connection:
        connection.execute("ALTER TABLE biz.ai_live_events RENAME TO mislaid")

    failed = run_job(stage)
    with stage.database.autocommit() as connection:
        connection.execute("ALTER TABLE biz.mislaid RENAME TO ai_live_events")
    run = stage.instance.get_run_by_id(failed.run_id)
    assert run is not None
    sensors.run_failed(
        dg.build_run_status_sensor_context(
            sensor_name="run_failed",
            dagster_instance=stage.instance,
            dagster_run=run,
            dagster_event=failed.get_run_failure_event(),
            resources={"database": DatabaseResource()},
        )
    )

    assert run.status is dg.DagsterRunStatus.FAILURE and run.job_name == JOB_NAME
    assert rows(stage, "runs", old.run_id) == 0
    with stage.database.autocommit() as connection:
        alert = connection.execute("SELECT alert_type, alert_status, message FROM biz.ai_alerts").fetchone()
    assert alert is not None and (alert["alert_type"], alert["alert_status"]) == ("retention_failed", "open")
    assert failed.run_id in alert["message"]

    assert run_job(stage).success
    with stage.database.autocommit() as connection:
        assert connection.execute("SELECT alert_status FROM biz.ai_alerts").fetchone() == {"alert_status": "resolved"}


def test_while_somebody_else_cleans_up_the_job_says_so_is_good_and_ends_no_alert(stage: Stage) -> None:
    raise_retention_alert(stage.database, "见 Dagster 运行 1")
    with stage.database.autocommit() as connection:
        assert retention_store.try_lock(connection)
        done = run_job(stage)
        retention_store.unlock(connection)
        assert connection.execute("SELECT alert_status FROM biz.ai_alerts").fetchone() == {"alert_status": "open"}

    assert done.success
    assert "正在清理" in str(metadata_of(done)["清理"].value)


def test_the_schedule_runs_each_night_by_itself() -> None:
    assert retention_daily.cron_schedule == "40 4 * * *"
    assert retention_daily.execution_timezone == "Asia/Shanghai"
    assert retention_daily.default_status is dg.DefaultScheduleStatus.RUNNING
    assert retention_daily in list(defs.schedules or [])
