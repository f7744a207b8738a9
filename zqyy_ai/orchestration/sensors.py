"""Sensors: events become jobs, jobs become runs, and what died is put right. No sensor does work of its own."""

import time
from typing import Any

import dagster as dg
import psycopg

from zqyy_ai.domain.runtime_context import LIVE
from zqyy_ai.engine.alert_delivery import Target, deliver_alerts
from zqyy_ai.engine.alert_endings import resolve_what_is_over
from zqyy_ai.engine.assembly import build_budget_guard
from zqyy_ai.engine.call_pauses import describe, pause_in_force
from zqyy_ai.engine.intake import take_batch_in, take_in
from zqyy_ai.engine.prewarm_requests import etl_lookback, fire_finished_loads
from zqyy_ai.engine.recovery import recover_cancelled_run, recover_dead_run
from zqyy_ai.engine.retention import raise_retention_alert
from zqyy_ai.orchestration.jobs import member_events, prewarm_site
from zqyy_ai.orchestration.member_partitions import sync_members
from zqyy_ai.orchestration.partitions import SITE_PARTITIONS_NAME
from zqyy_ai.orchestration.resources import DatabaseResource
from zqyy_ai.orchestration.retention import JOB_NAME as RETENTION_JOB
from zqyy_ai.orchestration.run_requests import put_right, runs_wanted
from zqyy_ai.store import events, sites
from zqyy_ai.store.database import Database
from zqyy_ai.store.events import WORK_CHANNEL

# A tick must end before the daemon's 60 s gRPC limit.
_LONG_POLL_SECONDS = 45.0
# Jobs that were sent back become due, and leases run out, without a notification.
_LOOK_INTERVAL_SECONDS = 2.5
_INBOX_INTERVAL_SECONDS = 0.5
_MEMBERS_INTERVAL_SECONDS = 60.0
# An open run takes members' events by itself: the sensor need not look at each.
_SHORTEST_LOOK_SECONDS = 0.05


@dg.sensor(
    name="ai_events",
    jobs=[prewarm_site, member_events],
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="等待 biz.fire_ai_event 的通知：接收事件、去重、生成任务；为有待办财务任务的门店各发起一个运行，为会员任务发起一个保持打开的运行。",
)
def ai_events(context: dg.SensorEvaluationContext, database: DatabaseResource) -> dg.SensorResult | dg.SkipReason:
    with database.open() as opened:
        return _wait_for_work(context, opened, database)


def _wait_for_work(context: dg.SensorEvaluationContext, opened: Database, database: DatabaseResource) -> dg.SensorResult | dg.SkipReason:
    """Long-polls: the daemon looks only every 5 s, a notification comes at once."""
    deadline = time.monotonic() + _LONG_POLL_SECONDS
    with opened.listener() as listener:
        listener.execute(f"LISTEN {WORK_CHANNEL}")
        looked_at = 0.0
        while True:
            if time.monotonic() - looked_at >= _LOOK_INTERVAL_SECONDS:
                put_right(opened, context.instance, database.settings())
                looked_at = time.monotonic()
            # A batch a look: the first ones' run is asked for before the last ones are read, and the tick ends in time.
            _, has_more = take_batch_in(opened, database.clock(), LIVE)
            wanted = runs_wanted(opened, context.instance, database.clock(), database.settings())
            if wanted:
                return dg.SensorResult(run_requests=wanted)
            left = deadline - time.monotonic()
            if left <= 0:
                pause = pause_in_force(opened)
                return dg.SkipReason(describe(pause) if pause else "没有待办任务")
            if not has_more:
                _wait_for_a_look(listener, min(left, _LOOK_INTERVAL_SECONDS))


def _wait_for_a_look(listener: psycopg.Connection[Any], seconds: float) -> None:
    """Until a notification comes, or an event is in the inbox (of several callers at once only one notifies); for `seconds` at most."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if list(listener.notifies(timeout=min(left, _INBOX_INTERVAL_SECONDS), stop_after=1)):
            # Of a burst one look is enough: what comes during it wakes us again.
            time.sleep(_SHORTEST_LOOK_SECONDS)
            list(listener.notifies(timeout=0))
            return
        if events.has_waiting_events(listener):
            return


@dg.sensor(
    name="etl_completed",
    job=prewarm_site,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="查看 ai_source.etl_runs 中已成功而尚未处理的加载，为有关门店触发 ai_dws_completed。",
)
def etl_completed(_context: dg.SensorEvaluationContext, database: DatabaseResource) -> dg.SkipReason:
    settings, clock = database.settings(), database.clock()
    with database.open() as opened:
        fired = fire_finished_loads(opened, since=etl_lookback(clock, settings.etl_lookback_days))
        if not fired:
            return dg.SkipReason("没有新完成的数据加载")
        take_in(opened, clock, LIVE)
        # New jobs wake `ai_events`, which alone asks for runs.
        return dg.SkipReason(f"{fired} 个加载事件已接收，由 ai_events 发起运行")


@dg.sensor(
    name="reaper",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    jobs=[prewarm_site],
    description="收回中断进程留下的任务、租约与预算预留：重新排队，或在多次中断后放弃并告警。",
)
def reaper(context: dg.SensorEvaluationContext, database: DatabaseResource) -> dg.SkipReason:
    settings = database.settings()
    with database.open() as opened:
        found = put_right(opened, context.instance, settings)
        resolve_what_is_over(opened)
    return dg.SkipReason("没有中断的任务" if found.is_nothing else str(found))


@dg.sensor(
    name="site_partitions",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    jobs=[prewarm_site],
    description="使 site 分区与 biz.sites 中的营业门店保持一致。",
)
def sync_site_partitions(context: dg.SensorEvaluationContext, database: DatabaseResource) -> dg.SkipReason:
    with database.open() as opened, opened.autocommit() as connection:
        wanted = {str(site.site_id) for site in sites.active_sites(connection)}
    present = set(context.instance.get_dynamic_partitions(SITE_PARTITIONS_NAME))
    if wanted - present:
        context.instance.add_dynamic_partitions(SITE_PARTITIONS_NAME, sorted(wanted - present, key=int))
    for gone in present - wanted:
        context.instance.delete_dynamic_partition(SITE_PARTITIONS_NAME, gone)
    return dg.SkipReason(f"新增 {len(wanted - present)} 个门店分区，移除 {len(present - wanted)} 个")


@dg.sensor(
    name="member_partitions",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    jobs=[member_events],
    description="使 member 分区与活跃会员（180 天内到店或有事件）保持一致；会员很多时分几次完成。",
)
def sync_member_partitions(context: dg.SensorEvaluationContext, database: DatabaseResource) -> dg.SkipReason:
    settings, now = database.settings(), database.clock().now()
    if context.cursor and now.timestamp() - float(context.cursor) < _MEMBERS_INTERVAL_SECONDS:
        return dg.SkipReason("会员分区刚刚同步过")
    with database.open() as opened:
        synced = sync_members(opened, context.instance, now=now, active_days=settings.active_member_days)
    # What is left is gone on with at the next tick.
    context.update_cursor(str(now.timestamp()) if synced.is_whole else "")
    return dg.SkipReason(str(synced))


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.FAILURE,
    name="run_failed",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=1,
    description="运行失败后立即收回它持有的任务、租约与预算预留；每日清理失败时告警。",
)
def run_failed(context: dg.RunStatusSensorContext, database: DatabaseResource) -> None:
    settings = database.settings()
    with database.open() as opened:
        recover_dead_run(opened, build_budget_guard(settings), context.dagster_run.run_id, max_attempts=settings.job_max_attempts)
        if context.dagster_run.job_name == RETENTION_JOB:
            raise_retention_alert(opened, f"见 Dagster 运行 {context.dagster_run.run_id}")


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.CANCELED,
    name="run_canceled",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=1,
    description="运行被人取消后立即结束它持有的任务，并收回租约与预算预留。",
)
def run_canceled(context: dg.RunStatusSensorContext, database: DatabaseResource) -> None:
    with database.open() as opened:
        recover_cancelled_run(opened, build_budget_guard(database.settings()), context.dagster_run.run_id)


@dg.sensor(
    name="alert_deliveries",
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    jobs=[prewarm_site],
    description="把告警的变化（出现、再次出现、升级、恢复）发送到 ZQYY_ALERT_WEBHOOKS；失败的稍后重试，不影响任何任务。",
)
def send_alerts(database: DatabaseResource) -> dg.SkipReason:
    webhooks = database.settings().alert_webhooks
    targets: list[Target] = []
    if webhooks:
        from zqyy_ai.engine.alert_targets import alert_targets  # its library costs half a second

        targets += alert_targets(webhooks)
    with database.open() as opened:
        outcomes = deliver_alerts(opened, targets)
    if not outcomes:
        return dg.SkipReason("没有待发送的告警" if webhooks else "未设置 ZQYY_ALERT_WEBHOOKS：告警只记录在 biz.ai_alerts")
    return dg.SkipReason("；".join(f"{out.target}：{out.error or '已发送'}（{out.alert_changes} 条）" for out in outcomes))
