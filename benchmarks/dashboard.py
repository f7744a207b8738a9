"""The dashboard over millions of run logs: how long an answer takes at a steady rate of requests, from the moment when each was due.

On the embedded PostgreSQL, in a folder of its own, with `zqyy-ai serve` as a process of its own. The rate is open-loop: a request that comes
late because the ones before were slow counts as long as it was late.
"""

import asyncio
import json
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import psutil
import psycopg

from benchmarks.served_api import serving
from zqyy_ai.devkit.embedded_postgres import APPLICATION_DATABASE, EmbeddedPostgres
from zqyy_ai.domain.access import ALL_SITES, Role
from zqyy_ai.domain.business_clock import SystemClock, business_date_at
from zqyy_ai.engine.run_log_closing import close_hours
from zqyy_ai.store import api_tokens
from zqyy_ai.store.database import Database
from zqyy_ai.store.migrations import migrate

REQUESTS_A_SECOND = 50
SITES = 20
DAYS = 400
# What operators ask for: mostly the chain's last week, also today, ten days, or one site.
_PATHS = (
    "/api/admin/ai/dashboard",
    "/api/admin/ai/dashboard?range_days=1",
    "/api/admin/ai/dashboard?site_id=1007",
    "/api/admin/ai/dashboard?range_days=10",
    "/api/admin/ai/dashboard",
)

# Spread evenly over the days that are kept, up to now; site, application, trigger and outcome each by a hash of its own, so that nearly every
# combination happens every day. Without indexes but the primary key's, which are made afterwards: filling is not what is measured.
_FILL = """
INSERT INTO biz.ai_run_logs (app_type, trigger_type, site_id, member_id, target_id, request_prompt, response_text, tokens_used, input_tokens,
                             output_tokens, latency_ms, status, error_code, error_message, created_at, finished_at)
SELECT (ARRAY['app2_finance', 'app2a_finance_area', 'app3_clue', 'app4_analysis', 'app5_tactics', 'app6_note', 'app7_customer',
              'app8_consolidation'])[1 + app],
       (ARRAY['event', 'event', 'cron', 'manual'])[1 + trigger], 1001 + site, n %% 300, (n %% 300)::text, 'p', 'r',
       CASE WHEN kind < 15 THEN 3000 + n %% 1000 ELSE 0 END, CASE WHEN kind < 15 THEN 2500 + n %% 1000 END, CASE WHEN kind < 15 THEN 500 END,
       CASE WHEN kind < 17 THEN 5000 + n %% 20000 ELSE 0 END,
       CASE WHEN kind < 15 THEN 'success' WHEN kind = 15 THEN 'timeout' WHEN kind = 19 THEN 'reused' ELSE 'failed' END,
       CASE kind WHEN 16 THEN 'http_502' WHEN 17 THEN 'circuit_open' WHEN 18 THEN 'rate_limited' END,
       CASE kind WHEN 16 THEN 'DashScope answered 502' WHEN 17 THEN 'circuit_open' WHEN 18 THEN 'rate_limited' END, at, at
FROM generate_series(0::bigint, %(logs)s - 1) AS n
CROSS JOIN LATERAL (
    SELECT abs(hashint8extended(n, 1) %% 8)::integer AS app, abs(hashint8extended(n, 2) %% 4)::integer AS trigger,
           abs(hashint8extended(n, 3) %% %(sites)s) AS site, abs(hashint8extended(n, 4) %% 20) AS kind,
           now() - make_interval(secs => (%(logs)s - n) * (%(days)s * 86400.0 / %(logs)s)) AS at
) AS made
"""


@dataclass(frozen=True, slots=True)
class DashboardFigures:
    """Milliseconds of an answer, from when the request was due."""

    logs: int
    answers_ms: tuple[float, ...]
    longest_range_ms: float
    first_page_ms: float
    last_page_ms: float
    fill_seconds: float
    close_seconds: float
    server_cpu_cores: float

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.answers_ms)

    @property
    def p99_ms(self) -> float:
        return statistics.quantiles(self.answers_ms, n=100)[98]


def measure(*, logs: int, seconds: int) -> DashboardFigures:
    """`logs` run logs over 400 days and 20 sites, then 50 requests a second for `seconds`."""
    with tempfile.TemporaryDirectory(prefix="zqyy-ai-bench-") as folder:
        Path(folder).chmod(0o711)
        with EmbeddedPostgres(Path(folder) / "postgres") as server:
            url = server.ensure_database(APPLICATION_DATABASE)
            migrate(url)
            fill_seconds = _timed(lambda: fill_run_logs(url, logs))
            with Database(url, max_connections=2) as database:
                close_seconds = _timed(lambda: close_hours(database.within(ALL_SITES), most_seconds=3_600))
                with database.transaction() as connection:
                    token = api_tokens.create(connection, name="benchmark", role=Role.VIEWER, site_ids=None)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
                connection.execute("CHECKPOINT")
            with serving(url, Path(folder)) as (base_url, pid):
                headers = {"Authorization": f"Bearer {token}"}
                asyncio.run(_ask(base_url, headers, seconds=2))
                cpu_before, started = _cpu_seconds(pid), time.monotonic()
                answers_ms = asyncio.run(_ask(base_url, headers, seconds=seconds))
                cores = (_cpu_seconds(pid) - cpu_before) / (time.monotonic() - started)
                today = business_date_at(SystemClock().now())
                longest_range_ms, first_page_ms, last_page_ms = (
                    _alone_ms(f"{base_url}/api/admin/ai/{path}", headers)
                    for path in (
                        f"dashboard?date_from={today - timedelta(days=DAYS - 1)}&date_to={today}",
                        "run-logs",
                        f"run-logs?page={min(logs // 200, 100_000)}&page_size=200",
                    )
                )
    return DashboardFigures(logs, tuple(answers_ms), longest_range_ms, first_page_ms, last_page_ms, fill_seconds, close_seconds, cores)


def _timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def fill_run_logs(url: str, logs: int) -> None:
    """`SITES` halls, and so many rows spread over `DAYS` days."""
    with psycopg.connect(url, autocommit=True) as connection:
        indexes = connection.execute(
            "SELECT format('biz.%I', indexname), indexdef FROM pg_indexes WHERE schemaname = 'biz' AND tablename = 'ai_run_logs'"
            " AND indexname NOT LIKE '%_pkey'"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}".encode())
        connection.execute(
            "INSERT INTO biz.sites (site_id, site_name) SELECT 1001 + n, '门店 ' || n FROM generate_series(0, %s - 1) AS n", [SITES]
        )
        connection.execute("SET synchronous_commit = off")
        connection.execute(_FILL.encode(), {"logs": logs, "sites": SITES, "days": DAYS})
        connection.execute("SET maintenance_work_mem = '512MB'")
        for _, definition in indexes:
            connection.execute(definition.encode())
        connection.execute("ANALYZE biz.ai_run_logs")


async def _ask(base_url: str, headers: dict[str, str], *, seconds: int) -> list[float]:
    """Milliseconds of each answer. Whatever is not a 200 ends the measurement."""
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=base_url, headers=headers, limits=limits, timeout=60) as client:
        began = time.monotonic() + 0.1

        async def one(number: int) -> float:
            due = began + number / REQUESTS_A_SECOND
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            answer = await client.get(_PATHS[number % len(_PATHS)])
            answer.raise_for_status()
            return (time.monotonic() - due) * 1000

        return list(await asyncio.gather(*(one(number) for number in range(seconds * REQUESTS_A_SECOND))))


def _alone_ms(address: str, headers: dict[str, str]) -> float:
    """Milliseconds of one answer while nothing else is asked; median of five."""
    times = []
    for _ in range(5):
        started = time.monotonic()
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
            json.load(answer)
        times.append((time.monotonic() - started) * 1000)
    return statistics.median(times)


def _cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
