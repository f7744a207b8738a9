"""How the command line shows things: a line of narration, a prewarm's progress, its table. For the CLI and the demo; decides nothing."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from zqyy_ai.domain.apps import APPS
from zqyy_ai.domain.business_clock import SHANGHAI
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.engine.alert_messages import SEVERITY_TITLES, alert_title, app_title
from zqyy_ai.engine.alert_messages import STATUS_TITLES as ALERT_STATUS_TITLES
from zqyy_ai.engine.member_requests import BackfillPlan, BatchProgress, JobReport
from zqyy_ai.engine.prewarm_requests import PrewarmProgress
from zqyy_ai.engine.retention import Outcome
from zqyy_ai.store.alerts import StoredAlert
from zqyy_ai.store.api_tokens import StoredToken
from zqyy_ai.store.run_logs import JobStep
from zqyy_ai.store.trigger_jobs import TriggerJob

POLL_SECONDS = 0.5
# After that long in the queue, say where to look.
PATIENCE_SECONDS = 30.0
# How often a log file or a pipe gets a line, where a terminal has a moving bar.
PLAIN_STEP_WINDOWS = 12
_PIPE_COLUMNS = 200
STATUS_TITLES = {
    "pending": "排队中",
    "running": "进行中",
    "completed": "已完成",
    "partial": "部分完成",
    "failed": "失败",
    "dead": "已放弃",
}


def new_console(*, is_wide: bool = False) -> Console:
    """The one way to a console: it prints what it is given letter by letter.

    What comes from the database or from a person may look like markup (`[red]`, `[/]`) or an emoji's name (`:cat:`). Whoever wants colours
    gives a style or a `Text`. `is_wide`: for tables whose cells shall stay whole where there is no terminal to fit them to.
    """
    # A pipe has no width: what is cut off there is lost.
    return Console(markup=False, emoji=False, width=_PIPE_COLUMNS if is_wide and not sys.stdout.isatty() else None)


class Narration:
    """Lines of narration on the terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        self._console.print(Text.assemble(("·", "dim"), f" {text}"))


class PrewarmBar:
    """A prewarm's progress bar; plain lines where the output is no terminal."""

    def __init__(self, console: Console, site_id: int) -> None:
        self._console = console
        self._site_id = site_id
        self._last_plain: tuple[str, int] | None = None
        self._bar = Progress(
            TextColumn("门店 {task.fields[site_id]} 预热"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._bar.add_task("", total=72, site_id=site_id, detail="排队中")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def show(self, progress: PrewarmProgress) -> None:
        ended = progress.done + progress.failed
        status = STATUS_TITLES.get(progress.status, progress.status)
        detail = f"{status} 复用 {progress.reused} 失败 {progress.failed} 调用 {progress.calls}"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=ended, total=progress.total, detail=detail)
            return
        stage = (status, ended // PLAIN_STEP_WINDOWS)
        if stage != self._last_plain:
            self._last_plain = stage
            self._console.print(f"门店 {self._site_id} 预热 {ended}/{progress.total} {detail}")


class _Waiting:
    """Says once why nothing goes on: what is known of it or, when nothing has moved for `PATIENCE_SECONDS`, where to look."""

    def __init__(self, console: Console, whose: str, *, suspicion: str) -> None:
        self._console = console
        self._whose = whose
        self._suspicion = f"仍在排队：{suspicion}"
        self._idle_seconds = 0.0
        self._told: str | None = None

    def look(self, why: str | None, *, is_idle: bool) -> None:
        """Once each `POLL_SECONDS`."""
        self._idle_seconds = self._idle_seconds + POLL_SECONDS if is_idle else 0.0
        if why is None and self._idle_seconds > PATIENCE_SECONDS:
            why = self._suspicion
        if why is not None and why != self._told:
            self._console.print(f"{self._whose}：{why}", soft_wrap=True)
            self._told = why


def watch_prewarm(console: Console, site_id: int, read: Callable[[], PrewarmProgress], wait: Callable[[float], None]) -> PrewarmProgress:
    """Shows the progress until the prewarm is finished and returns its end. `wait` sleeps, and may raise to leave."""
    waiting = _Waiting(console, f"门店 {site_id}", suspicion="请确认 Dagster 正在运行（zqyy-ai doctor），或该门店已有运行在进行")
    with PrewarmBar(console, site_id) as bar:
        while True:
            progress = read()
            bar.show(progress)
            if progress.finished:
                return progress
            waiting.look(progress.why_waiting, is_idle=progress.status is JobStatus.PENDING)
            wait(POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class PrewarmOutcome:
    site_id: int
    progress: PrewarmProgress
    seconds: float

    @property
    def is_good(self) -> bool:
        return self.progress.failed == 0 and self.progress.done == self.progress.total


def outcome_table(outcomes: list[PrewarmOutcome]) -> Table:
    table = Table(title="财务预热结果", title_justify="left")
    table.add_column("门店")
    for heading in ("完成窗口", "失败", "复用", "模型调用", "Token", "用时（秒）"):
        table.add_column(heading, justify="right")
    table.add_column("状态")
    for outcome in outcomes:
        progress = outcome.progress
        table.add_row(
            str(outcome.site_id),
            f"{progress.done} / {progress.total}",
            str(progress.failed),
            str(progress.reused),
            str(progress.calls),
            f"{progress.tokens:,}",
            f"{outcome.seconds:.1f}",
            STATUS_TITLES.get(progress.status, progress.status),
        )
    return table


def watch_job(console: Console, read: Callable[[], JobReport], wait: Callable[[float], None]) -> JobReport:
    """Waits until the job is at its end; says what it waits for. `wait` sleeps, and may raise to leave."""
    waiting: _Waiting | None = None
    with console.status("排队中") as status:
        while True:
            report = read()
            job = report.job
            if job.status.is_final:
                return report
            status.update(STATUS_TITLES[job.status])
            waiting = waiting or _Waiting(console, f"任务 {job.id}", suspicion="请确认 Dagster 正在运行（zqyy-ai doctor）")
            waiting.look(report.why_waiting, is_idle=job.status is JobStatus.PENDING)
            wait(POLL_SECONDS)


def show_job_end(console: Console, report: JobReport) -> None:
    """The answers of a job that is at its end, and what went wrong with it."""
    for step in report.steps:
        if step.result_json is not None:
            console.print(f"{step.app_type} {step.target_id}：", style="bold", soft_wrap=True)
            shown = {name: value for name, value in step.result_json.items() if not name.startswith("_")}
            console.print(json.dumps(shown, ensure_ascii=False, indent=2), soft_wrap=True, highlight=False)
    job = report.job
    if job.status is not JobStatus.COMPLETED:
        why = job.error_message or "没有记录原因"
        console.print(f"任务 {job.id} {STATUS_TITLES[job.status]}：{why}；重试：zqyy-ai jobs retry {job.id}", style="red", soft_wrap=True)
    elif not report.steps:
        console.print("没有可询问的内容（没有到店、备注或未完成任务），未调用模型")


def watch_batch(console: Console, read: Callable[[], BatchProgress], wait: Callable[[float], None]) -> BatchProgress:
    """Shows a batch's progress until all of its jobs are at their end; says what they wait for. `wait` sleeps, and may raise to leave."""
    waiting = _Waiting(console, "补跑", suspicion="请确认 Dagster 正在运行（zqyy-ai doctor）；事件与单个会员的任务先于补跑")
    ended = 0
    plain: int | None = None
    with Progress(
        TextColumn("补跑"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=None, detail="")
        while True:
            progress = read()
            detail = f"完成 {progress.done} 步 复用 {progress.reused} 失败 {progress.failed} 调用 {progress.calls}"
            if console.is_terminal:
                bar.update(task, completed=progress.ended, total=progress.total, detail=detail)
            elif plain is None or progress.ended * 10 // max(progress.total, 1) != plain:
                plain = progress.ended * 10 // max(progress.total, 1)
                console.print(f"补跑 {progress.ended}/{progress.total} {detail}")
            if progress.ended >= progress.total:
                return progress
            waiting.look(progress.why_waiting, is_idle=not progress.is_running and progress.ended == ended)
            ended = progress.ended
            wait(POLL_SECONDS)


def plan_table(plan: BackfillPlan) -> Table:
    table = Table(title=f"补跑门店 {plan.site_id}：{len(plan.member_ids)} 位会员", title_justify="left")
    table.add_column("应用")
    table.add_column("最多调用", justify="right")
    for app, calls in plan.calls_by_app.items():
        table.add_row(f"{app.value} {APPS[app].title}", f"{calls:,}")
    table.add_section()
    table.add_row("合计", f"{plan.calls:,}")
    return table


def plan_summary(plan: BackfillPlan) -> str:
    return f"最多 {plan.calls:,} 次调用，约 {plan.tokens:,} Token，约 {plan.minutes:.1f} 分钟；输入没有变化的复用，不调用"


def job_table(jobs: Sequence[TriggerJob]) -> Table:
    table = Table(title="任务", title_justify="left")
    table.add_column("编号", justify="right")
    for heading in ("类型", "状态", "门店", "会员", "调用链", "步骤", "尝试", "创建于", "说明"):
        table.add_column(heading, overflow="fold")
    for job in jobs:
        progress = job.progress
        table.add_row(
            str(job.id),
            job.event_type + (f"（重试 {job.retry_of}）" if job.retry_of else ""),
            STATUS_TITLES.get(job.status, job.status),
            str(job.site_id),
            str(job.member_id or ""),
            job.app_chain or "",
            f"{progress.get('done', 0)}/{progress.get('total', 0)}" if progress else "",
            str(job.attempt),
            f"{job.created_at.astimezone(SHANGHAI):%m-%d %H:%M:%S}",
            job.error_message or "",
        )
    return table


def job_steps_table(steps: Sequence[JobStep]) -> Table:
    table = Table(title="步骤（biz.ai_run_logs）", title_justify="left")
    for heading in ("应用", "目标", "状态", "Token", "毫秒", "原因"):
        table.add_column(heading, overflow="fold")
    for step in steps:
        why = " ".join(part for part in (step.error_code, step.error_message) if part)
        table.add_row(step.app_type, step.target_id, step.status, str(step.tokens_used or 0), str(step.latency_ms or 0), why)
    return table


def watch_retention(console: Console, steps: Iterable[Outcome]) -> list[Outcome]:
    """Shows how far the clean-up is, and returns each rule's end."""
    ended = []
    with console.status("清理中") as status:
        for outcome in steps:
            status.update(f"清理中：{outcome.rule.title}，{outcome.done:,} 行")
            if outcome.is_finished:
                ended.append(outcome)
    return ended


def retention_table(outcomes: list[Outcome], *, dry_run: bool) -> Table:
    table = Table(title="将清理的数据（未改变任何数据）" if dry_run else "清理结果", title_justify="left")
    table.add_column("数据", overflow="fold")
    for heading in ("早于", "全表行数", "将清理" if dry_run else "已清理", "用时（秒）"):
        table.add_column(heading, justify="right")
    table.add_column("备注")
    for outcome in outcomes:
        remarks = [
            "失败" if outcome.error else "",
            f"外键保留 {sum(outcome.held.values()):,}" if outcome.held else "",
            f"留待下次 {outcome.passed_over:,}" if outcome.passed_over else "",
            "时间用完，下次继续" if outcome.is_out_of_time else "",
        ]
        table.add_row(
            outcome.rule.title,
            outcome.rule.older_than,
            f"{outcome.rows_before:,}",
            f"{(outcome.due or 0) if dry_run else outcome.done:,}",
            f"{outcome.seconds:.1f}",
            "；".join(remark for remark in remarks if remark),
        )
    return table


def alert_table(alerts: list[StoredAlert]) -> Table:
    table = Table(title="告警", title_justify="left")
    table.add_column("编号", justify="right")
    for heading in ("状态", "级别", "类型", "门店", "应用"):
        table.add_column(heading)
    table.add_column("次数", justify="right")
    table.add_column("最近一次", no_wrap=True)
    table.add_column("内容", overflow="fold")
    for alert in alerts:
        reason = f"（{alert.status_changed_by}：{alert.status_reason}）" if alert.status_reason else ""
        table.add_row(
            str(alert.id),
            ALERT_STATUS_TITLES[alert.status],
            SEVERITY_TITLES.get(alert.severity, alert.severity),
            alert_title(alert),
            str(alert.site_id or ""),
            app_title(alert.app_type) or "",
            str(alert.occurrences),
            f"{alert.last_seen_at.astimezone(SHANGHAI):%m-%d %H:%M}" if alert.last_seen_at else "",
            alert.message + reason,
        )
    return table


def token_table(tokens: list[StoredToken]) -> Table:
    table = Table(title="访问令牌", title_justify="left")
    table.add_column("编号", justify="right")
    for heading in ("名称", "角色", "门店", "创建", "最近使用", "状态"):
        table.add_column(heading)
    for token in tokens:
        table.add_row(
            str(token.id),
            token.name,
            token.role.value,
            "全部" if token.site_ids is None else "、".join(map(str, token.site_ids)),
            f"{token.created_at.astimezone(SHANGHAI):%Y-%m-%d}",
            f"{token.last_used_at.astimezone(SHANGHAI):%m-%d %H:%M}" if token.last_used_at else "从未",
            "有效" if token.revoked_at is None else f"已撤销（{token.revoked_at.astimezone(SHANGHAI):%m-%d %H:%M}）",
        )
    return table
