"""`zqyy-ai`: the command line. It calls the engine and the devkit, never Dagster and never the model.

Every import that costs time is inside its command, so that `--help` is quick. An error of ours is one line on stderr and exit code 2.
"""

import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zqyy_ai.domain.errors import ZqyyError

if TYPE_CHECKING:
    from zqyy_ai.settings import Settings
    from zqyy_ai.store.database import Database

EXIT_ERROR = 2
_LONGEST_WAIT_SECONDS = 5.0


class _OneLineErrors(click.Group):
    """Shows an error of ours as one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ZqyyError as error:
            click.echo(f"错误: {error}", err=True)
            ctx.exit(EXIT_ERROR)
        except KeyboardInterrupt:
            ctx.exit(130)
        except Exception as failure:
            if not _is_database_trouble(failure):
                raise
            said = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
            click.echo(
                f"错误: 数据库操作失败：{said[:300]}；请检查 ZQYY_DATABASE_URL、数据库是否在运行以及账号权限，或运行 zqyy-ai doctor",
                err=True,
            )
            ctx.exit(EXIT_ERROR)


@contextmanager
def _told_when_interrupted(what_remains: str) -> Iterator[None]:
    """Ctrl-C ends the watching, not the work: who presses it hears so."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\n{what_remains}", err=True)
        raise


def _is_database_trouble(failure: Exception) -> bool:
    """Only where a database library is loaded at all: importing one costs time."""
    found = [sys.modules[name] for name in ("psycopg", "sqlalchemy.exc") if name in sys.modules]
    kinds = tuple(kind for module in found for name in ("OperationalError", "ProgrammingError") if (kind := getattr(module, name, None)))
    return isinstance(failure, kinds)


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="zqyy-ai", prog_name="zqyy-ai")
def main() -> None:
    """台球门店 AI 洞察：让 biz.ai_cache 始终有新鲜、正确、可负担的内容。

    设置全部来自环境变量，见 docs/settings.md。未设置 ZQYY_DATABASE_URL 时使用内置 PostgreSQL，未设置 DASHSCOPE_API_KEY 时使用百炼模拟器。
    """


stop_with_parent = click.option("--stop-with-parent", is_flag=True, hidden=True, help="启动它的进程（make）结束时一并停止。")


@main.command()
@stop_with_parent
def dev(stop_with_parent: bool) -> None:
    """启动整套服务（PostgreSQL、模拟器、Dagster、管理接口），直到按下 Ctrl-C。"""
    sys.exit(_serve(stop_with_parent=stop_with_parent, is_demo=False, once=False))


@main.command()
@click.option("--once", is_flag=True, envvar="ONCE", help="完成后立即停止并退出；有窗口或事件失败时退出码为 1。也可用环境变量 ONCE=1。")
@stop_with_parent
def demo(once: bool, stop_with_parent: bool) -> None:
    """启动整套服务，生成演示数据，通过 Dagster 预热一家门店的 72 个财务窗口，并播放会员事件（消费、备注、任务分配），打印结果。

    完成后继续运行，直到按下 Ctrl-C。使用您自己的数据库（ZQYY_DATABASE_URL）时只预热，不生成演示数据，也不触发虚构的事件。
    """
    sys.exit(_serve(stop_with_parent=stop_with_parent, is_demo=True, once=once))


@main.command()
@click.option("--remove-triggers", is_flag=True, help="改为删除 biz.trigger_jobs 中本项目的五行触发器（原手册的回滚步骤）。")
def migrate(remove_triggers: bool) -> None:
    """把应用数据库迁移到最新结构；重复运行不会改变任何内容。"""
    from zqyy_ai.store.migrations import migrate as migrate_database
    from zqyy_ai.store.migrations import remove_trigger_rows

    url = _joined_settings().required_database_url()
    if remove_triggers:
        click.echo(f"已删除 {remove_trigger_rows(url)} 行触发器")
        return
    click.echo(f"数据库结构版本：{migrate_database(url).current}")


@main.command()
def env() -> None:
    """打印正在运行的服务的地址，供 shell 加载：eval "$(zqyy-ai env)"。"""
    from zqyy_ai.devkit.stack import JOINED_NAME, read_running_stack

    stack = read_running_stack(_settings(os.environ).home)
    for name, value in stack.environment.items():
        click.echo(f"export {name}={shlex.quote(value)}")
    click.echo(f"export {JOINED_NAME}={shlex.quote(','.join(stack.embedded_names))}")


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="监听地址。")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="监听端口。[默认：ZQYY_EMULATOR_PORT，8089]")
@click.option("--latency", type=click.FloatRange(min=0), default=0.2, show_default=True, help="每次应答的延迟，单位：秒。")
@click.option("--seed", type=int, default=1, show_default=True, help="随机种子；相同种子给出相同的应答。")
@click.option(
    "--fault-plan",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="故障计划（JSON 文件）；故障种类与示例见 docs/dashscope.md。",
)
def emulator(host: str, port: int | None, latency: float, seed: int, fault_plan: Path | None) -> None:
    """启动百炼（DashScope）应用接口的模拟器。它的应答由提示词中的数据算出，不是模型的输出。"""
    from zqyy_ai.devkit.emulator import serve

    serve(host, port or _settings(os.environ).emulator_port, latency, seed, fault_plan)


@main.command()
def serve() -> None:
    """启动管理接口（HTTP API），监听 ZQYY_HOST:ZQYY_PORT；make dev 已包含它。"""
    from zqyy_ai.admin.server import serve as serve_admin

    serve_admin(_joined_settings())


@main.group()
def token() -> None:
    """管理接口的访问令牌。"""


@token.command("create")
@click.option(
    "--role",
    required=True,
    type=click.Choice(["viewer", "operator", "admin", "internal", "reader"]),
    help="viewer 查看；operator 还可操作；admin 还可改设置；internal 触发事件；reader 读取缓存。",
)
@click.option("--sites", required=True, metavar="编号|all", help="可访问的门店，以逗号分隔；all 为全部门店。")
@click.option("--name", required=True, metavar="名称", help="谁在使用，如“小程序”；记录在审计中。")
def create_token(role: str, sites: str, name: str) -> None:
    """生成令牌；最后一行是令牌本身，只显示这一次。"""
    from zqyy_ai.domain.access import Role
    from zqyy_ai.engine.token_requests import create_token as create

    with _database("token") as database:
        created = create(database, name=name, role=Role(role), sites=sites)
    click.echo("令牌只显示这一次，请妥善保存：", err=True)
    click.echo(created)


@token.command("list")
def list_tokens() -> None:
    """列出令牌（不含密钥），新的在前。"""
    from zqyy_ai.store import api_tokens
    from zqyy_ai.terminal import new_console, token_table

    with _database("token") as database, database.autocommit() as connection:
        found = api_tokens.list_tokens(connection)
    if not found:
        click.echo("还没有令牌：zqyy-ai token create --role viewer --sites all --name …")
        return
    new_console(is_wide=True).print(token_table(found))


@token.command("revoke")
@click.argument("token_id", metavar="编号", type=click.IntRange(min=1))
def revoke_token(token_id: int) -> None:
    """撤销令牌，立即生效；由它登录的控制台也一并退出。"""
    from zqyy_ai.engine.token_requests import revoke_token as revoke

    with _database("token") as database:
        revoke(database, token_id)
    click.echo(f"令牌 {token_id} 已撤销")


@main.command("demo-data")
@click.option("--sites", type=click.IntRange(1, 500), default=3, show_default=True, help="门店数，编号从 1001 开始。")
@click.option("--days", type=click.IntRange(1, 3660), default=400, show_default=True, help="每家门店的天数。")
@click.option("--members", type=click.IntRange(0, 9999), default=300, show_default=True, help="每家门店的会员数；0 为只有财务数据。")
@click.option("--seed", type=int, default=20260420, show_default=True, help="随机种子；相同种子给出相同的数据。")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), default=None, help="最后一个营业日，如 2026-04-20。[默认：昨天]")
def demo_data(sites: int, days: int, members: int, seed: int, until: Any) -> None:
    """重新生成演示数据仓库（模式 demo_dws 与 ai_source）；遇到他人的 ai_source 视图时拒绝执行。"""
    from zqyy_ai.devkit.demo_data import fill

    last_day: date | None = until.date() if until else None
    filled = fill(_joined_settings().required_database_url(), sites=sites, days=days, members=members, seed=seed, until=last_day)
    click.echo(f"已生成 {filled.sites} 家门店的数据，{filled.first_day} 至 {filled.last_day}，财务 {filled.rows} 行，每店会员 {members} 名")


@main.command()
@click.option("--site", "wanted", required=True, multiple=True, metavar="编号|all", help="门店编号，如 1001，可重复；all 为所有营业门店。")
@click.option("--missing", is_flag=True, help="只预热还没有有效结果的窗口。")
@click.option("--regenerate", is_flag=True, help="不复用已有结果，全部重新调用模型（会产生费用）。")
@click.option("--no-wait", is_flag=True, help="登记任务后立即返回，不显示进度。")
def prewarm(wanted: tuple[str, ...], missing: bool, regenerate: bool, no_wait: bool) -> None:
    """预热门店的 72 个财务窗口：登记一个任务，由 Dagster 执行。需要服务正在运行。"""
    if missing and regenerate:
        raise click.UsageError("--missing 与 --regenerate 不能同时使用")
    from zqyy_ai.engine.prewarm_requests import prewarm_progress, request_prewarm, wanted_sites
    from zqyy_ai.terminal import PrewarmOutcome, new_console, outcome_table, watch_prewarm

    console = new_console()
    started = time.monotonic()
    with _database("prewarm") as database:
        site_ids = wanted_sites(database, wanted)
        jobs = [(site_id, request_prewarm(database, site_id, only_missing=missing, regenerate=regenerate)) for site_id in site_ids]
        for site_id, job_id in jobs:
            console.print(f"门店 {site_id}：任务 {job_id} 已登记")
        if no_wait:
            return
        outcomes = []
        for site_id, job_id in jobs:
            progress = watch_prewarm(console, site_id, lambda job_id=job_id: prewarm_progress(database, job_id), time.sleep)  # type: ignore[misc]
            outcomes.append(PrewarmOutcome(site_id, progress, time.monotonic() - started))
    console.print(outcome_table(outcomes))
    for outcome in outcomes:
        if outcome.progress.error_message:
            console.print(f"门店 {outcome.site_id}：{outcome.progress.error_message}")
    if not all(outcome.is_good for outcome in outcomes):
        sys.exit(1)


@main.command("run-app")
@click.argument("app", metavar="应用")
@click.option("--site", "site_id", required=True, type=click.IntRange(min=1), metavar="编号", help="门店编号，如 1001。")
@click.option("--member", "member_id", required=True, type=click.IntRange(min=1), metavar="编号", help="会员编号。")
@click.option(
    "--assistant", "assistant_id", type=click.IntRange(min=1), metavar="编号", help="只为这位助教（app4、app5）。[默认：有未完成任务的助教]"
)
@click.option("--no-wait", is_flag=True, help="登记任务后立即返回，不等待结果。")
def run_app(app: str, site_id: int, member_id: int, assistant_id: int | None, no_wait: bool) -> None:
    """为一位会员重新执行一个应用（app3 至 app8），并打印结果；会重新调用模型（产生费用）。

    应用可写全名（app7_customer）或简称（app7）。需要服务正在运行。Ctrl-C 只停止等待，任务仍会执行；没有完成时退出码为 1。
    """
    from zqyy_ai.engine.member_requests import job_report, request_app, wanted_apps
    from zqyy_ai.terminal import new_console, show_job_end, watch_job

    console = new_console()
    chosen = wanted_apps([app])
    if len(chosen) != 1:
        raise click.UsageError("run-app 一次只执行一个应用；多个应用请用 zqyy-ai backfill")
    with _database("run-app") as database:
        job_id = request_app(database, chosen[0], site_id, member_id, assistant_id=assistant_id)
        with _told_when_interrupted(f"任务 {job_id} 仍在，会被执行并产生费用；查看：zqyy-ai jobs show {job_id}"):
            console.print(f"任务 {job_id} 已登记")
            if no_wait:
                return
            report = watch_job(console, lambda: job_report(database, job_id), time.sleep)
    show_job_end(console, report)
    if report.job.status != "completed":
        sys.exit(1)


@main.command()
@click.option("--site", "site_id", required=True, type=click.IntRange(min=1), metavar="编号", help="门店编号，如 1001。")
@click.option("--apps", default="all", show_default=True, metavar="应用", help="app3 至 app8，以逗号分隔，或 all；按调用链的顺序执行。")
@click.option(
    "--members",
    required=True,
    metavar="active|all|编号",
    help="active：最近 ZQYY_ACTIVE_MEMBER_DAYS 天（默认 180）内到店的会员；all：全部；或以逗号分隔的会员编号。",
)
@click.option("--missing", is_flag=True, help="只生成还没有有效结果的。")
@click.option("--dry-run", is_flag=True, help="只估算调用次数、Token 与用时，不登记任务。")
@click.option("--no-wait", is_flag=True, help="登记任务后立即返回，不显示进度。")
def backfill(site_id: int, apps: str, members: str, missing: bool, dry_run: bool, no_wait: bool) -> None:
    """为许多会员补跑应用：每位会员一个任务，优先级低于事件；输入没有变化的复用已有结果，不调用模型。

    需要服务正在运行。Ctrl-C 只停止显示，任务仍会执行；有任务没有完成时退出码为 1。
    """
    from zqyy_ai.engine.member_requests import batch_progress, plan_backfill, request_backfill, wanted_apps
    from zqyy_ai.terminal import new_console, plan_summary, plan_table, watch_batch

    console = new_console()
    settings = _joined_settings()
    with _database("backfill") as database:
        plan = plan_backfill(database, settings, site_id, wanted_apps([apps]), members, only_missing=missing)
        console.print(plan_table(plan))
        console.print(plan_summary(plan), soft_wrap=True, highlight=False)
        if dry_run:
            return
        if not plan.calls:
            console.print("没有需要生成的内容")
            return
        batch_id = request_backfill(database, plan)
        with _told_when_interrupted(f"批次 {batch_id} 的任务仍在，会被执行并产生费用；查看：zqyy-ai jobs list --site {site_id}"):
            console.print(f"批次 {batch_id}：{len(plan.member_ids)} 个任务已登记（Ctrl-C 只停止显示，任务继续执行）", soft_wrap=True)
            if no_wait:
                return
            progress = watch_batch(console, lambda: batch_progress(database, batch_id), time.sleep)
    console.print(
        f"完成 {progress.done} 步，其中复用 {progress.reused}；失败 {progress.failed}；模型调用 {progress.calls}，Token {progress.tokens:,}"
    )
    if not progress.is_good:
        console.print(progress.error_message or "", style="red", soft_wrap=True)
        console.print("未完成的任务：zqyy-ai jobs list --status failed --status partial --status dead", soft_wrap=True)
        sys.exit(1)


@main.group()
def jobs() -> None:
    """查看任务，重试没有完成的任务。"""


@jobs.command("list")
@click.option(
    "--status",
    "wanted",
    multiple=True,
    type=click.Choice(["pending", "running", "completed", "partial", "failed", "dead"]),
    help="只看这些状态，可重复。[默认：全部]",
)
@click.option("--site", "site_id", type=click.IntRange(min=1), metavar="编号", help="只看这家门店。")
@click.option("--member", "member_id", type=click.IntRange(min=1), metavar="编号", help="只看这位会员。")
@click.option("--limit", type=click.IntRange(1, 10000), default=30, show_default=True, help="最多显示多少条。")
def list_jobs(wanted: tuple[str, ...], site_id: int | None, member_id: int | None, limit: int) -> None:
    """列出任务，新的在前。"""
    from zqyy_ai.domain.jobs import JobStatus
    from zqyy_ai.store import trigger_jobs
    from zqyy_ai.terminal import job_table, new_console

    statuses = [JobStatus(status) for status in wanted] or None
    with _database("jobs") as database, database.autocommit() as connection:
        found = trigger_jobs.newest(connection, statuses=statuses, site_id=site_id, member_id=member_id, limit=limit)
    if not found:
        click.echo("没有这样的任务")
        return
    new_console(is_wide=True).print(job_table(found))


_job_id = click.argument("job_id", metavar="编号", type=click.IntRange(min=1))


@jobs.command("show")
@_job_id
def show_job(job_id: int) -> None:
    """显示一个任务与它的每一步。"""
    from zqyy_ai.engine.member_requests import job_report
    from zqyy_ai.terminal import job_steps_table, job_table, new_console

    with _database("jobs") as database:
        report = job_report(database, job_id)
    console = new_console(is_wide=True)
    console.print(job_table([report.job]))
    console.print(job_steps_table(report.steps))


@jobs.command()
@_job_id
def retry(job_id: int) -> None:
    """重试 failed、partial 或 dead 的任务：登记一个新任务，已成功的步骤不再付费。"""
    from zqyy_ai.engine.member_requests import retry_job

    with _database("jobs") as database:
        retry_id = retry_job(database, job_id)
    click.echo(f"任务 {retry_id} 已登记，重试任务 {job_id}")


_by = click.option(
    "--by", default=lambda: os.environ.get("USER") or "命令行", show_default="当前用户", metavar="姓名", help="记录是谁操作的。"
)


@main.command()
@click.option("--reason", required=True, metavar="原因", help="为什么暂停；会显示在告警、任务与界面里。")
@_by
def pause(reason: str, by: str) -> None:
    """暂停全部模型调用：立即不再发起新的调用，直到 zqyy-ai resume；任务留在队列里，不会丢失。"""
    from zqyy_ai.engine.call_pauses import pause_calls

    with _database("pause") as database:
        begun = pause_calls(database, reason=reason, by=by)
    click.echo("已暂停：不再发起新的模型调用")
    if begun.calls_in_flight:
        click.echo(f"进行中的 {begun.calls_in_flight} 个调用已经付费，会继续完成并写入结果")
    click.echo("恢复：zqyy-ai resume")


@main.command()
@_by
def resume(by: str) -> None:
    """解除暂停：等待中的任务立即继续。"""
    from zqyy_ai.engine.call_pauses import describe, resume_calls

    with _database("resume") as database:
        ended = resume_calls(database, by=by)
    click.echo(f"已恢复模型调用（{describe(ended)}）")


@main.command()
@click.option("--dry-run", is_flag=True, help="只统计将删除多少行，不改变任何数据。")
def retention(dry_run: bool) -> None:
    """按保留期清理 biz 中的旧数据：缓存、运行日志、实时事件、已结束的任务等。

    小批删除，每批一个事务；随时可以按 Ctrl-C 中断，下次接着清理。Dagster 自己的旧运行由每日任务 retention 删除，不在此处。
    """
    from zqyy_ai.engine.retention import carry_out, plan
    from zqyy_ai.engine.run_log_closing import close_hours_before_retention
    from zqyy_ai.terminal import new_console, retention_table, watch_retention

    console = new_console()
    settings = _joined_settings()
    with _database("retention") as database:
        if not dry_run:
            close_hours_before_retention(database)
        outcomes = plan(database, settings) if dry_run else watch_retention(console, carry_out(database, settings))
    console.print(retention_table(outcomes, dry_run=dry_run))
    for outcome in outcomes:
        for constraint, rows in outcome.held.items():
            console.print(f"{outcome.rule.title}：{rows} 行被外键 {constraint} 引用，未删除", soft_wrap=True)
        if outcome.error:
            console.print(f"{outcome.rule.title}：{outcome.error}", style="red", soft_wrap=True)
    console.print("Dagster 的旧运行由每日任务 retention 删除（Dagster 界面：Jobs → retention）。", soft_wrap=True)
    if any(outcome.error for outcome in outcomes):
        sys.exit(1)


@main.group()
def alerts() -> None:
    """查看与处理告警，测试告警通道。"""


@alerts.command("list")
@click.option("--all", "show_all", is_flag=True, help="所有状态，包括已忽略与已恢复的。")
@click.option(
    "--status",
    "wanted",
    multiple=True,
    type=click.Choice(["open", "acked", "ignored", "resolved"]),
    help="只看这些状态，可重复。[默认：open 与 acked]",
)
@click.option("--limit", type=click.IntRange(1, 10000), default=100, show_default=True, help="最多显示多少条。")
def list_alerts(show_all: bool, wanted: tuple[str, ...], limit: int) -> None:
    """列出告警：严重的在前，然后按最近一次出现的时间。"""
    if show_all and wanted:
        raise click.UsageError("--all 与 --status 不能同时使用")
    from zqyy_ai.engine.alert_handling import TO_DEAL_WITH
    from zqyy_ai.engine.alert_handling import list_alerts as find_alerts
    from zqyy_ai.store.alerts import AlertStatus
    from zqyy_ai.terminal import alert_table, new_console

    statuses = tuple(AlertStatus) if show_all else tuple(map(AlertStatus, wanted)) or TO_DEAL_WITH
    with _database("alerts") as database:
        found = find_alerts(database, statuses, limit=limit)
    if not found:
        click.echo("没有这样的告警")
        return
    new_console(is_wide=True).print(alert_table(found))


_alert_id = click.argument("alert_id", metavar="编号", type=click.IntRange(min=1))
_reason = click.option("--reason", default="", metavar="原因", help="记录在告警里的说明。")


@alerts.command()
@_alert_id
@_reason
@_by
def ack(alert_id: int, reason: str, by: str) -> None:
    """确认：已有人在处理；继续计数，升级与恢复时仍会通知。"""
    from zqyy_ai.engine.alert_handling import ack_alert

    with _database("alerts") as database:
        ack_alert(database, alert_id, by=by, reason=reason)
    click.echo(f"告警 {alert_id} 已确认")


@alerts.command()
@_alert_id
@click.option("--reason", required=True, metavar="原因", help="为什么可以忽略；记录在告警里。")
@_by
def ignore(alert_id: int, reason: str, by: str) -> None:
    """忽略：继续计数，不再通知，直到被标为已恢复。"""
    from zqyy_ai.engine.alert_handling import ignore_alert

    with _database("alerts") as database:
        ignore_alert(database, alert_id, by=by, reason=reason)
    click.echo(f"告警 {alert_id} 已忽略")


@alerts.command()
@_alert_id
@_reason
@_by
def resolve(alert_id: int, reason: str, by: str) -> None:
    """标为已恢复；同样的问题再次出现时会重新打开并通知。"""
    from zqyy_ai.engine.alert_handling import resolve_alert

    with _database("alerts") as database:
        resolve_alert(database, alert_id, by=by, reason=reason)
    click.echo(f"告警 {alert_id} 已恢复")


@alerts.command()
def test() -> None:
    """向 ZQYY_ALERT_WEBHOOKS 的每个地址发送一条测试消息；有失败时退出码为 1。"""
    from zqyy_ai.domain.errors import SettingError

    webhooks = _settings(os.environ).alert_webhooks
    if not webhooks:
        raise SettingError("ZQYY_ALERT_WEBHOOKS is not set: put the webhooks there, see docs/settings.md")
    from zqyy_ai.engine.alert_delivery import send_test_message
    from zqyy_ai.engine.alert_targets import alert_targets

    is_well = True
    for outcome in send_test_message(alert_targets(webhooks)):
        click.echo(f"{'✗' if outcome.error else '✓'} {outcome.target}：{outcome.error or '已送达'}")
        is_well = is_well and outcome.error is None
    if not is_well:
        sys.exit(1)


@main.command()
def doctor() -> None:
    """检查每个部分（数据库、数据视图、应用 ID、百炼、Dagster），并说明如何修复；有失败项时退出码为 1。"""
    from rich.text import Text

    from zqyy_ai.engine.doctor import Verdict, run_checks
    from zqyy_ai.terminal import new_console

    marks = {Verdict.OK: ("✓", "green"), Verdict.FAILED: ("✗", "red"), Verdict.UNKNOWN: ("?", "yellow")}
    console = new_console()
    is_well = True
    for outcome in run_checks(_joined_settings()):
        console.print(Text.assemble(marks[outcome.verdict], f" {outcome.name}：{outcome.detail}"), soft_wrap=True)
        if outcome.remedy:
            console.print(f"    → {outcome.remedy}", soft_wrap=True)
        is_well = is_well and outcome.verdict is not Verdict.FAILED
    if not is_well:
        sys.exit(1)


def _settings(environment: Mapping[str, str]) -> "Settings":
    from zqyy_ai.settings import load_settings

    return load_settings(environment)


def _database(command: str) -> "Database":
    """The application's database for one command. Who types it hears within seconds that it is gone."""
    import logging

    from zqyy_ai.store.database import Database

    # The pool tells of each attempt; the command says it once.
    logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())
    url = _joined_settings().required_database_url()
    return Database(url, max_connections=2, application_name=f"zqyy-ai {command}", wait_seconds=_LONGEST_WAIT_SECONDS)


def _joined_settings() -> "Settings":
    """Settings with the addresses of the stack that runs over ZQYY_HOME, where the environment doesn't name its own database."""
    settings = _settings(os.environ)
    if settings.database_url is not None:
        return settings
    from zqyy_ai.devkit.stack import StackNotRunning, read_running_stack

    try:
        stack = read_running_stack(settings.home)
    except StackNotRunning:
        return settings  # the command names the setting that it misses
    return _settings({**stack.environment, **{name: value for name, value in os.environ.items() if value}})


def _serve(*, stop_with_parent: bool, is_demo: bool, once: bool) -> int:
    """Runs the stack and returns the exit code: 0 after an orderly end, 1 when a window or an event of the demo failed, 128 + n after a signal before it was ready."""
    from rich.text import Text

    from zqyy_ai.devkit.demo import Demo, show_addresses
    from zqyy_ai.devkit.processes import StopRequested, StopSignals
    from zqyy_ai.devkit.stack import running_stack, uses_embedded_database, without_joined
    from zqyy_ai.terminal import Narration, new_console

    parent_pid = os.getppid() if stop_with_parent else None
    environment = without_joined(os.environ)
    settings = _settings(environment)
    console = new_console()
    narration = Narration(console)
    started = time.monotonic()
    exit_code = 0
    is_serving = False
    with StopSignals(parent_pid=parent_pid) as signals:
        try:
            demo = (
                Demo(
                    console,
                    narration,
                    may_fill=uses_embedded_database(settings),
                    step_timeout_seconds=settings.step_timeout_seconds,
                )
                if is_demo
                else None
            )
            with running_stack(settings, environment, narration, signals, prepare=demo.prepare if demo else None) as stack:
                console.print(Text.assemble(("服务已就绪", "green"), f"（{time.monotonic() - started:.1f} 秒）"))
                if demo is not None:
                    exit_code = 0 if demo.play(stack) else 1
                else:
                    show_addresses(console, stack.addresses)
                if once:
                    return exit_code
                console.print("按 Ctrl-C 停止")
                is_serving = True
                stack.children.serve()
        except StopRequested as stop:
            return exit_code if is_serving else stop.exit_code
    return exit_code


if __name__ == "__main__":
    main()
