"""The demo's journey over a running stack: fill the warehouse, prewarm one site through Dagster, print what came out.

What does not belong here: starting and stopping (`stack.py`). The invariant: it fills embedded databases only, and only when they lack
yesterday.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import LiteralString

from rich.console import Console
from rich.table import Table

from zqyy_ai.devkit.processes import Children, StopSignals
from zqyy_ai.devkit.stack import Narrator, RunningStack, StackAddresses
from zqyy_ai.domain.business_clock import SystemClock, business_date_at
from zqyy_ai.domain.errors import PermanentError
from zqyy_ai.engine.prewarm_requests import PrewarmProgress, prewarm_progress, request_prewarm
from zqyy_ai.store.database import Database
from zqyy_ai.terminal import PrewarmOutcome, outcome_table, watch_prewarm

DEMO_SITES = 3
DEMO_DAYS = 400
DEMO_SITE_ID = 1001

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
CHOOSE_SITE: LiteralString = "SELECT site_id FROM biz.sites WHERE is_active ORDER BY site_id <> %s, site_id LIMIT 1"


@dataclass(frozen=True, slots=True)
class Insight:
    target_id: str
    title: str
    body: str


def fill_demo_warehouse(database_url: str, narrator: Narrator) -> None:
    """Fills the embedded warehouse up to yesterday; does nothing when that is there already."""
    from zqyy_ai.devkit.demo_data import fill, is_filled_until

    yesterday = business_date_at(SystemClock().now()) - timedelta(days=1)
    if is_filled_until(database_url, yesterday):
        narrator.say(f"演示数据已有，截至 {yesterday.isoformat()}")
        return
    started = time.monotonic()
    filled = fill(database_url, sites=DEMO_SITES, days=DEMO_DAYS, until=yesterday)
    narrator.say(f"已生成演示数据：{filled.sites} 家门店，{filled.first_day} 至 {filled.last_day}（{time.monotonic() - started:.1f} 秒）")


def play(stack: RunningStack, console: Console) -> bool:
    """Prewarms one site, prints the table, samples and addresses; True when every window is good."""
    with Database(stack.database_url, max_connections=2, application_name="zqyy-ai demo") as database:
        outcome = prewarm_one_site(database, _site(database), console, stack.signals, stack.children)
        console.print()
        console.print(outcome_table([outcome]))
        if outcome.progress.error_message:
            console.print(f"[red]{outcome.progress.error_message}[/]")
        show_insights(console, sample_insights(database, outcome.site_id))
    show_addresses(console, stack.addresses, outcome.progress.run_id)
    return outcome.is_good


def prewarm_one_site(database: Database, site_id: int, console: Console, signals: StopSignals, children: Children) -> PrewarmOutcome:
    """Fires one forced prewarm; the daemon's sensor launches its run. Raises ChildDied when the stack breaks meanwhile."""
    started = time.monotonic()
    job_id = request_prewarm(database, site_id)

    def read() -> PrewarmProgress:
        children.check()
        return prewarm_progress(database, job_id)

    progress = watch_prewarm(console, site_id, read, signals.wait)
    return PrewarmOutcome(site_id, progress, time.monotonic() - started)


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


def show_addresses(console: Console, addresses: StackAddresses, run_id: str | None = None) -> None:
    lines = [("Dagster", addresses.dagster_url)]
    if run_id:
        lines.append(("本次运行", f"{addresses.dagster_url}/runs/{run_id}"))
    if addresses.emulator_url:
        lines.append(("百炼模拟器", f"{addresses.emulator_url}/"))
    for title, address in lines:
        # One line each, however narrow the terminal: an address is there to be copied.
        console.print(f"{title}：{address}", soft_wrap=True)
    console.print('连接数据库：eval "$(.venv/bin/zqyy-ai env)" && psql "$ZQYY_DATABASE_URL"', soft_wrap=True, highlight=False)
