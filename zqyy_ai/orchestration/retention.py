"""The daily job `retention`: our tables through the engine, and Dagster's own finished runs, which only this room can reach."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
from dagster import DagsterInstance

# Deleting a run leaves its check executions behind, and the instance leads neither to them nor from an event to its run; dagster's
# version is pinned.
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from sqlalchemy import select

from zqyy_ai.domain.errors import RetentionBusy
from zqyy_ai.engine.retention import Outcome, carry_out, plan, resolve_retention_alert
from zqyy_ai.engine.run_log_closing import close_hours_before_retention
from zqyy_ai.orchestration.resources import DatabaseResource
from zqyy_ai.settings import Settings
from zqyy_ai.store.database import Database

JOB_NAME = "retention"
_MOST_SECONDS = 1_800.0
_EVENTS_A_QUERY = 1_000
_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


class RetentionConfig(dg.Config):
    """`dry_run`：只统计将删除多少，不删除。"""

    dry_run: bool = False


@dg.op(
    name="clean_up",
    out=dg.Out(dg.Nothing),
    description=(
        "先按保留期清理 biz 中的表（小批删除，等同于命令 zqyy-ai retention），再删除早已结束的 Dagster 运行及其事件、检查结果与日志文件；"
        "保存着某个分区最新物化的运行除外。设置与含义见 docs/settings.md。"
    ),
)
def clean_up(context: dg.OpExecutionContext, config: RetentionConfig, database: DatabaseResource) -> None:
    settings = database.settings()
    before = datetime.now(UTC) - timedelta(days=settings.dagster_run_retention_days)
    failed: list[str] = []
    is_cleaned = False
    metadata: dict[str, Any] = {}
    with database.open() as opened:
        try:
            outcomes = _clean_our_tables(opened, settings, dry_run=config.dry_run)
            metadata["清理"] = dg.MetadataValue.table([_record(outcome) for outcome in outcomes])
            failed += [f"{outcome.rule.title}：{outcome.error}" for outcome in outcomes if outcome.error]
            is_cleaned = not config.dry_run
        except RetentionBusy as busy:
            metadata["清理"] = str(busy)
        except psycopg.Error as failure:
            failed.append(f"应用数据库：{str(failure).strip()[:300]}")
        # The other database: whatever happened to the first.
        metadata["Dagster 运行"] = _clean_dagsters_runs(context, before, dry_run=config.dry_run)
        if failed:
            raise dg.Failure("；".join(failed), metadata=metadata, allow_retries=False)
        context.add_output_metadata(metadata)
        if is_cleaned:
            resolve_retention_alert(opened)


@dg.job(
    name=JOB_NAME,
    description="每日清理：缓存、运行日志、实时事件、已结束的任务，以及早已结束的 Dagster 运行。",
    tags={"dagster/max_runtime": 7_200},
)
def retention() -> None:
    clean_up()


def _clean_our_tables(database: Database, settings: Settings, *, dry_run: bool) -> list[Outcome]:
    if dry_run:
        return plan(database, settings)
    close_hours_before_retention(database)
    return [outcome for outcome in carry_out(database, settings) if outcome.is_finished]


def _clean_dagsters_runs(context: dg.OpExecutionContext, before: datetime, *, dry_run: bool) -> dg.MetadataValue:
    old = find_old_runs(context.instance, before)
    deleted = 0
    if not dry_run:
        for deleted, _ in enumerate(delete_runs(context.instance, old.run_ids, most_seconds=_MOST_SECONDS), start=1):
            if deleted % 100 == 0:
                context.log.info("已删除 %s / %s 个运行", deleted, len(old.run_ids))
    return dg.MetadataValue.json(
        {"结束早于": f"{before:%Y-%m-%d %H:%M} UTC", "可删除": len(old.run_ids), "已删除": deleted, "因保存最新物化而保留": old.kept}
    )


@dataclass(frozen=True, slots=True)
class OldRuns:
    """`run_ids` oldest first; `kept` is how many more are as old, but hold the newest materialisation of a partition."""

    run_ids: list[str]
    kept: int


def find_old_runs(instance: DagsterInstance, before: datetime) -> OldRuns:
    """Runs that ended before `before`. One that holds the newest materialisation of a partition stays: the partition would lose its colour."""
    old = list(instance.get_run_ids(filters=dg.RunsFilter(statuses=_FINISHED, updated_before=before)))
    if not old:
        return OldRuns([], 0)
    holding = _runs_with_a_newest_materialisation(instance)
    going = [run_id for run_id in reversed(old) if run_id not in holding]
    return OldRuns(going, len(old) - len(going))


def delete_runs(instance: DagsterInstance, run_ids: list[str], *, most_seconds: float) -> Iterator[str]:
    """Deletes them one by one and yields each; what is left when the time is over comes next time.

    The run's row goes last: a run whose deletion was interrupted is found again.
    """
    deadline = time.monotonic() + most_seconds
    storage = _sql_storage(instance)
    checks = _checks_ever_executed(storage)
    for run_id in run_ids:
        if time.monotonic() >= deadline:
            return
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        _delete_check_executions(storage, checks, run_id)
        storage.delete_events(run_id)
        instance.delete_run(run_id)
        yield run_id


def _runs_with_a_newest_materialisation(instance: DagsterInstance) -> set[str]:
    storage = _sql_storage(instance)
    events = [
        event_id
        for asset_key in instance.all_asset_keys()
        for event_id in storage.get_latest_storage_id_by_partition(asset_key, dg.DagsterEventType.ASSET_MATERIALIZATION).values()
    ]
    table = SqlEventLogStorageTable.c
    with storage.index_connection() as connection:
        return {
            row[0]
            for start in range(0, len(events), _EVENTS_A_QUERY)
            for row in connection.execute(select(table.run_id).distinct().where(table.id.in_(events[start : start + _EVENTS_A_QUERY])))
        }


def _sql_storage(instance: DagsterInstance) -> SqlEventLogStorage:
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    return storage


def _checks_ever_executed(storage: SqlEventLogStorage) -> list[tuple[str, str]]:
    """(asset key as stored, check name): with them the table's index leads to a run's rows."""
    table = AssetCheckExecutionsTable.c
    with storage.index_connection() as connection:
        return [(row[0], row[1]) for row in connection.execute(select(table.asset_key, table.check_name).distinct())]


def _delete_check_executions(storage: SqlEventLogStorage, checks: list[tuple[str, str]], run_id: str) -> None:
    table = AssetCheckExecutionsTable
    with storage.index_connection() as connection:
        for asset_key, check_name in checks:
            connection.execute(
                table.delete().where(table.c.asset_key == asset_key, table.c.check_name == check_name, table.c.run_id == run_id)
            )


def _record(outcome: Outcome) -> dg.TableRecord:
    rule = outcome.rule
    return dg.TableRecord(
        {
            "名称": rule.title,
            "早于": rule.older_than,
            "全表行数": outcome.rows_before,
            "将删除": outcome.due if outcome.due is not None else "",
            "已删除": outcome.done if outcome.due is None else "",
            "外键保留": sum(outcome.held.values()),
            "留待下次": "时间用完" if outcome.is_out_of_time else str(outcome.passed_over or ""),
            "秒": round(outcome.seconds, 2),
            "最长一批（毫秒）": round(outcome.longest_batch_seconds * 1000),
        }
    )
