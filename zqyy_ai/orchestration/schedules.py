"""The schedules: `ai_dws_prewarm` ticks each minute and obeys the cron rows of `biz.trigger_jobs`, which people edit; `retention_daily`."""

import dagster as dg

from zqyy_ai.domain.business_clock import SHANGHAI
from zqyy_ai.domain.runtime_context import LIVE
from zqyy_ai.engine.intake import take_in
from zqyy_ai.engine.prewarm_requests import fire_for_unprewarmed_sites
from zqyy_ai.engine.prewarm_schedule import check_schedule
from zqyy_ai.orchestration.jobs import prewarm_site
from zqyy_ai.orchestration.resources import DatabaseResource
from zqyy_ai.orchestration.retention import retention


@dg.schedule(
    name="ai_dws_prewarm",
    job=prewarm_site,
    cron_schedule="* * * * *",
    execution_timezone="Asia/Shanghai",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="每分钟查看 biz.trigger_jobs 中的预热计划；到点时为当日尚未预热的营业门店各生成一个任务，由 ai_events 发起运行。",
)
def ai_dws_prewarm(_context: dg.ScheduleEvaluationContext, database: DatabaseResource) -> dg.SkipReason:
    clock = database.clock()
    with database.open() as opened:
        check = check_schedule(opened, clock, lambda connection: fire_for_unprewarmed_sites(connection, clock, LIVE))
        if not check.is_due:
            if check.error:
                return dg.SkipReason(f"预热计划有误：{check.error}")
            if check.next_run_at is None:
                return dg.SkipReason("没有启用的预热计划(biz.trigger_jobs 中 ai_dws_prewarm_0830 已停用或不存在)")
            return dg.SkipReason(f"下次预热：{check.next_run_at.astimezone(SHANGHAI):%Y-%m-%d %H:%M}（Asia/Shanghai）")
        accepted = take_in(opened, clock, LIVE).accepted
        if not accepted:
            return dg.SkipReason("到点：没有需要新发起的运行（各门店今日已预热或已在运行）")
        # New jobs wake `ai_events`, which alone asks for runs.
        return dg.SkipReason(f"到点：{accepted} 个门店的预热任务已生成，由 ai_events 发起运行")


retention_daily = dg.ScheduleDefinition(
    name="retention_daily",
    job=retention,
    # After the night's last loads, before the morning's prewarm.
    cron_schedule="40 4 * * *",
    execution_timezone="Asia/Shanghai",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="每日 04:40 清理过期的数据；保留期见 docs/settings.md。",
)
