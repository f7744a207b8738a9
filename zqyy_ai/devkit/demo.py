"""The demo's journey over a running stack: fill the warehouse, prewarm one site through Dagster, play members' events, print what came out.

What does not belong here: starting and stopping (`stack.py`), the events themselves (`demo_events.py`). The invariant: it fills embedded
databases only, and only when they lack yesterday, and it fires events only there: what it tells of never happened.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import LiteralString

from rich.console import Console
from rich.table import Table

from zqyy_ai.devkit.demo_events import FiredEvent, await_ends, fire_events, show_answers, show_ends
from zqyy_ai.devkit.stack import Narrator, RunningStack, StackAddresses
from zqyy_ai.domain.access import Role
from zqyy_ai.domain.business_clock import SystemClock, business_date_at
from zqyy_ai.domain.errors import PermanentError
from zqyy_ai.engine.prewarm_requests import PrewarmProgress, prewarm_progress, request_prewarm
from zqyy_ai.store import api_tokens
from zqyy_ai.store.database import Database
from zqyy_ai.terminal import PrewarmOutcome, outcome_table, watch_prewarm

DEMO_SITES = 3
DEMO_DAYS = 400
DEMO_SITE_ID = 1001
_DEMO_LOGIN = "演示"
# Beside the time that a step may take: for a run to start, for rate and slot, for what is sent back and comes again.
_SECONDS_BETWEEN_STEPS = 120.0

# One of the whole site, one of a complete period, one of an area: newest first, and never an answer of another site.
SAMPLE_INSIGHTS: LiteralString = """
SELECT DISTINCT ON (wanted.place) cache.target_id, cache.result_json #>> '{insights,0,title}' AS title,
       cache.result_json #>> '{insights,0,body}' AS body
  FROM unnest(%(targets)s::text[]) WITH ORDINALITY AS wanted(target_id, place)
  JOIN biz.ai_cache AS cache ON cache.target_id = wanted.target_id
 WHERE cache.site_id = %(site_id)s AND cache.cache_type IN ('app2_finance', 'app2a_finance_area') AND cache.status = 'valid'
 ORDER BY wanted.place, cache.id DESC
"""
SAMPLE_TARGETS = ("this_month__all", "last_month__vip", "last_week__hall")
JOB_SECONDS: LiteralString = """
SELECT coalesce(extract(epoch FROM finished_at - started_at), 0) AS seconds FROM biz.ai_trigger_jobs WHERE id = %s
"""
CHOOSE_SITE: LiteralString = "SELECT site_id FROM biz.sites WHERE is_active ORDER BY site_id <> %s, site_id LIMIT 1"


@dataclass(frozen=True, slots=True)
class Insight:
    target_id: str
    title: str
    body: str


class Demo:
    """One demo: `prepare` before Dagster starts, `play` when it is ready."""

    def __init__(self, console: Console, narrator: Narrator, *, may_fill: bool, step_timeout_seconds: float) -> None:
        """`may_fill`: the database is embedded, so its warehouse is ours."""
        self._console = console
        self._narrator = narrator
        self._may_fill = may_fill
        self._patience_seconds = step_timeout_seconds + _SECONDS_BETWEEN_STEPS
        self._site_id = DEMO_SITE_ID
        self._job_id = 0

    def prepare(self, database_url: str) -> None:
        """Fills the warehouse up to yesterday, where that lacks, and asks for the prewarm, so that it is the first that Dagster finds."""
        if self._may_fill:
            self._fill(database_url)
        with Database(database_url, max_connections=2, application_name="zqyy-ai demo") as database:
            self._site_id = _site(database)
            self._job_id = request_prewarm(database, self._site_id)

    def play(self, stack: RunningStack) -> bool:
        """Fires the events, waits for them and the prewarm, prints tables, samples and addresses; True when all of it is good.

        Raises ChildDied when the stack breaks meanwhile."""
        with Database(stack.database_url, max_connections=2, application_name="zqyy-ai demo") as database:
            fired = self.fire_events(database)

            def read() -> PrewarmProgress:
                stack.children.check()
                return prewarm_progress(database, self._job_id)

            progress = watch_prewarm(self._console, self._site_id, read, stack.signals.wait)
            with database.autocommit() as connection:
                row = connection.execute(JOB_SECONDS, [self._job_id]).fetchone()
            outcome = PrewarmOutcome(self._site_id, progress, float(row["seconds"]) if row else 0.0)
            self._console.print()
            self._console.print(outcome_table([outcome]))
            if progress.error_message:
                self._console.print(progress.error_message, style="red")
            show_insights(self._console, sample_insights(database, self._site_id))
            are_events_good = self._show_events(database, fired, stack)
            token = demo_token(database) if self._may_fill else None
        show_addresses(self._console, stack.addresses, run_id=progress.run_id, token=token)
        return outcome.is_good and are_events_good

    def fire_events(self, database: Database) -> list[FiredEvent]:
        """Says which events it fired, or why none."""
        if not self._may_fill:
            self._narrator.say("使用的是您自己的数据库：演示事件是虚构的，不触发")
            return []
        fired = fire_events(database, self._site_id)
        self._narrator.say(
            f"已触发事件：{'、'.join(event.title for event in fired)}"
            if fired
            else f"门店 {self._site_id} 没有会员数据（ai_source.members、tasks、notes），不演示会员事件"
        )
        return fired

    def _show_events(self, database: Database, fired: list[FiredEvent], stack: RunningStack) -> bool:
        """True when every event's job has completed."""
        if not fired:
            return True

        def wait(seconds: float) -> None:
            stack.children.check()
            stack.signals.wait(seconds)

        with self._console.status("等待会员事件完成"):
            ends = await_ends(database, fired, wait, patience_seconds=self._patience_seconds)
        show_ends(self._console, ends)
        show_answers(self._console, database, self._site_id, ends)
        return all(end.is_good for end in ends)

    def _fill(self, database_url: str) -> None:
        from zqyy_ai.devkit.demo_data import fill, is_filled_until

        yesterday = business_date_at(SystemClock().now()) - timedelta(days=1)
        if is_filled_until(database_url, yesterday):
            self._narrator.say(f"演示数据已有，截至 {yesterday.isoformat()}")
            return
        started = time.monotonic()
        filled = fill(database_url, sites=DEMO_SITES, days=DEMO_DAYS, until=yesterday)
        seconds = time.monotonic() - started
        self._narrator.say(f"已生成演示数据：{filled.sites} 家门店，{filled.first_day} 至 {filled.last_day}（{seconds:.1f} 秒）")


def _site(database: Database) -> int:
    """The demo's site, or the first active one of an external database."""
    with database.autocommit() as connection:
        row = connection.execute(CHOOSE_SITE, [DEMO_SITE_ID]).fetchone()
    if row is None:
        raise PermanentError("biz.sites 中没有启用的门店：请先写入门店，或运行 zqyy-ai demo-data")
    return int(row["site_id"])


def sample_insights(database: Database, site_id: int) -> list[Insight]:
    with database.autocommit() as connection:
        rows = connection.execute(SAMPLE_INSIGHTS, {"targets": list(SAMPLE_TARGETS), "site_id": site_id}).fetchall()
    return [Insight(row["target_id"], row["title"], row["body"]) for row in rows if row["title"] and row["body"]]


def show_insights(console: Console, insights: Iterable[Insight]) -> None:
    table = Table(title="洞察示例（biz.ai_cache）", title_justify="left", show_lines=True)
    for heading in ("窗口", "标题", "内容"):
        table.add_column(heading, overflow="fold")
    for insight in insights:
        table.add_row(insight.target_id, insight.title, insight.body)
    console.print(table)


def demo_token(database: Database) -> str:
    """An administrator's, for the demo's own database alone: a new one each time, the former ones are of no use any more."""
    with database.transaction() as connection:
        for former in api_tokens.list_tokens(connection):
            if former.name == _DEMO_LOGIN and former.revoked_at is None:
                api_tokens.revoke(connection, former.id)
        return api_tokens.create(connection, name=_DEMO_LOGIN, role=Role.ADMIN, site_ids=None)


def show_addresses(console: Console, addresses: StackAddresses, *, run_id: str | None = None, token: str | None = None) -> None:
    """`token`: one that can be shown; else the line says how to make one."""
    lines = [("控制台", f"{addresses.admin_url}/"), ("登录令牌", token or "zqyy-ai token create --role admin --sites all --name 您的名字")]
    lines.append(("Dagster", addresses.dagster_url))
    if run_id:
        lines.append(("本次运行", f"{addresses.dagster_url}/runs/{run_id}"))
    lines.append(("管理接口", f"{addresses.admin_url}/api/openapi.json"))
    if addresses.emulator_url:
        lines.append(("百炼模拟器", f"{addresses.emulator_url}/"))
    for title, address in lines:
        # One line each, however narrow the terminal: an address is there to be copied.
        console.print(f"{title}：{address}", soft_wrap=True)
    console.print('连接数据库：eval "$(.venv/bin/zqyy-ai env)" && psql "$ZQYY_DATABASE_URL"', soft_wrap=True, highlight=False)
