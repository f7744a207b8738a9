"""What a prewarm costs the run's process: CPU a call, peak memory; and what reuse saves.

Runs are launched through the stack, as the daemon launches them, and their processes are watched from outside. A run of 72 windows and one
of a single window are taken in turn; their difference is what 71 calls cost, everything included (prompts, guards, SDK, parsing, store,
Dagster's events), and the single one is what a run costs before its second call.
"""

import re
import statistics
import time as clock
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, time, timedelta

import psutil
import psycopg

from benchmarks.stage import Stage, stage
from zqyy_ai.devkit import demo_data
from zqyy_ai.domain.business_clock import SHANGHAI, HandClock
from zqyy_ai.domain.windows import WINDOW_KEYS, WindowKey
from zqyy_ai.engine.assembly import build_engine
from zqyy_ai.engine.prewarm import PrewarmRun, WindowOutcome
from zqyy_ai.settings import load_settings

SITE = demo_data.FIRST_SITE_ID


@dataclass(frozen=True, slots=True)
class RunCost:
    """Medians over the rounds. `start_cpu_seconds` is a run of one window; CPU a call is (72 windows - 1 window) / 71."""

    rounds: int
    start_cpu_seconds: float
    run_cpu_seconds: float
    cpu_ms_per_call: tuple[float, ...]
    peak_memory_mb: float


@dataclass(frozen=True, slots=True)
class Reuse:
    """Calls of the first prewarm, of a second one of unchanged data, and of one on the next business day after its load."""

    first: int
    again: int
    next_day: int

    @property
    def saved_next_day(self) -> float:
        return 1 - self.next_day / self.first


@dataclass(frozen=True, slots=True)
class _Usage:
    cpu_seconds: float
    peak_memory_mb: float


def measure_run(rounds: int) -> RunCost:
    with stage(sites=1, ZQYY_SITE_CALLS_BURST="10000") as played:
        played.emulator.set_latency(0.0)
        singles, wholes = [], []
        for _ in range(rounds):
            singles.append(_run(played, WINDOW_KEYS[:1]))
            wholes.append(_run(played, WINDOW_KEYS))
    per_call = tuple(
        1000 * (many.cpu_seconds - one.cpu_seconds) / (len(WINDOW_KEYS) - 1) for one, many in zip(singles, wholes, strict=True)
    )
    return RunCost(
        rounds,
        statistics.median(usage.cpu_seconds for usage in singles),
        statistics.median(usage.cpu_seconds for usage in wholes),
        per_call,
        max(usage.peak_memory_mb for usage in wholes),
    )


def _run(played: Stage, windows: tuple[WindowKey, ...]) -> _Usage:
    played.execute("DELETE FROM biz.ai_cache")
    before = played.emulator.counts()["posts"]
    run_id = played.launch(f"{SITE}|{windows[0]}", f"{SITE}|{windows[-1]}")
    usage = _watch(psutil.Process(_process_of(played, run_id)))
    calls = played.emulator.counts()["posts"] - before
    assert calls == len(windows), f"{calls} calls instead of {len(windows)}"
    return usage


def _process_of(played: Stage, run_id: str) -> int:
    """The run's process, which the launcher writes into the run's event log."""
    with psycopg.connect(played.environment["ZQYY_DAGSTER_DATABASE_URL"], autocommit=True) as connection:
        while True:
            for (event,) in connection.execute(
                "SELECT event FROM event_logs WHERE run_id = %s AND dagster_event_type = 'ENGINE_EVENT'", [run_id]
            ):
                if found := re.search(r"[Ss]tarted process for run \(pid: (\d+)\)", event):
                    return int(found.group(1))
            clock.sleep(0.02)


def _watch(process: psutil.Process) -> _Usage:
    """CPU and peak memory as of the last look before the process ended, at most 20 ms earlier."""
    cpu_seconds = peak_bytes = 0.0
    while True:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                break
            times = process.cpu_times()
            cpu_seconds, peak_bytes = times.user + times.system, max(peak_bytes, process.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        clock.sleep(0.02)
    return _Usage(cpu_seconds, peak_bytes / 1024**2)


def measure_reuse() -> Reuse:
    with stage(sites=1, ZQYY_SITE_CALLS_BURST="10000") as played:
        played.emulator.set_latency(0.0)
        noon = datetime.combine(played.business_date, time(12), tzinfo=SHANGHAI)
        first = _calls(played, noon)
        again = _calls(played, noon)
        next_day = played.business_date + timedelta(days=1)
        demo_data.advance(played.environment["ZQYY_DATABASE_URL"], next_day)
        return Reuse(first, again, _calls(played, noon + timedelta(days=1)))


def _calls(played: Stage, now: datetime) -> int:
    engine = build_engine(load_settings(played.environment), clock=HandClock(now))
    with engine, PrewarmRun(engine, SITE, list(WINDOW_KEYS), run_id=f"benchmark-{now:%j}") as prewarm:
        return sum(outcome.result.calls for outcome in _all_good(prewarm))


def _all_good(prewarm: PrewarmRun) -> Iterator[WindowOutcome]:
    for outcome in prewarm.outcomes():
        assert outcome.result.status.is_good, outcome.result.error_message
        yield outcome
