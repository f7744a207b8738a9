"""What a prewarm costs the run's process: CPU a call, peak memory; and what reuse saves.

The process is Dagster's own CLI on PostgreSQL storage, measured from outside by the operating system. A run of 72 windows and one of a
single window are taken in turn; their difference is what a call costs, everything included, and the single one is what a run costs before.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from benchmarks.stage import Stage, rows, stage
from zqyy_ai.devkit import demo_data
from zqyy_ai.domain.business_clock import SHANGHAI, HandClock
from zqyy_ai.domain.windows import WINDOW_KEYS
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
        whole = f"{SITE}|{WINDOW_KEYS[0]}...{SITE}|{WINDOW_KEYS[-1]}"
        single = f"{SITE}|{WINDOW_KEYS[0]}"
        singles, wholes = [], []
        for _ in range(rounds):
            singles.append(_run(played, "--partition", single, expected_calls=1))
            wholes.append(_run(played, "--partition-range", whole, expected_calls=72))
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


def _run(played: Stage, *partition: str, expected_calls: int) -> _Usage:
    rows(played.database, b"WITH gone AS (DELETE FROM biz.ai_cache RETURNING id) SELECT count(*) FROM gone")
    before_calls = played.emulator.counts()["posts"]
    # A process of its own in between, so that RUSAGE_CHILDREN is this run's alone.
    measured = subprocess.run(
        [sys.executable, "-c", _MEASURE, sys.executable, "-m", "dagster", "asset", "materialize", "-m", "zqyy_ai.definitions",
         "--select", "app2_finance", *partition],
        env={**os.environ, **played.environment, "MALLOC_ARENA_MAX": "2", "PYTHONWARNINGS": "ignore"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    calls = played.emulator.counts()["posts"] - before_calls
    assert calls == expected_calls, f"{calls} calls instead of {expected_calls}"
    cpu_seconds, peak_kb = measured.stdout.split()[-2:]
    return _Usage(float(cpu_seconds), float(peak_kb) / (1024 if sys.platform != "darwin" else 1024**2))


_MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
if done.returncode:
    sys.exit(done.stderr.decode()[-2000:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


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
