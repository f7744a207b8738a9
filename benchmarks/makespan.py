"""Makespan of a prewarm, through the whole stack, against the ideal of full slots; beside it the original's way."""

import math
import threading
import time
from dataclasses import dataclass
from datetime import timedelta

from benchmarks.stage import Stage, mixed_failures, stage
from zqyy_ai.devkit import demo_data
from zqyy_ai.domain.answers import FinanceAnswer
from zqyy_ai.domain.apps import finance_app_of
from zqyy_ai.domain.windows import WINDOW_KEYS, earliest_day
from zqyy_ai.engine.prewarm_requests import prewarm_progress, request_prewarm
from zqyy_ai.llm.client import DashScopeClient
from zqyy_ai.llm.parsing import parse_reply
from zqyy_ai.prompts.finance import FinancePrompts
from zqyy_ai.settings import load_settings
from zqyy_ai.warehouse.finance import load_finance, loaded_through

LATENCY_SECONDS = 10.0
FAILING_SITES = 5
SLOTS = 64


@dataclass(frozen=True, slots=True)
class Makespan:
    """Seconds from the request of the first site's prewarm to the end of the last site's job."""

    sites: int
    calls: int
    seconds: float

    @property
    def ideal_seconds(self) -> float:
        return math.ceil(self.calls / SLOTS) * LATENCY_SECONDS

    @property
    def ratio(self) -> float:
        return self.seconds / self.ideal_seconds


def measure(site_counts: tuple[int, ...], *, original_windows: int) -> tuple[list[Makespan], float]:
    """The makespans, and the seconds that the original's way takes for `original_windows` windows of one site.

    The original's loop runs beside the prewarms, at the same time on the same machine; its one call at a time takes no slot from them.
    """
    with stage(sites=max(site_counts), ZQYY_LLM_CONCURRENCY=str(SLOTS)) as played:
        played.emulator.set_latency(LATENCY_SECONDS)
        seconds: list[float] = []
        beside = threading.Thread(target=lambda: seconds.append(_original_way(played, original_windows)), name="the original's way")
        beside.start()
        makespans = []
        first_site = demo_data.FIRST_SITE_ID
        for count in site_counts:
            _forget_answers(played)
            makespans.append(_prewarm(played, range(first_site, first_site + count)))
        beside.join()
    return makespans, seconds[0]


@dataclass(frozen=True, slots=True)
class FailingMakespan:
    """With a twentieth of the calls failing. `ideal_seconds` is that of the calls that would do without failures."""

    sites: int
    windows: int
    good: int
    needed_calls: int
    calls: int
    seconds: float

    @property
    def ratio(self) -> float:
        return self.seconds / (math.ceil(self.needed_calls / SLOTS) * LATENCY_SECONDS)


def measure_failing() -> FailingMakespan:
    """A prewarm of several sites while the emulator fails in mixed ways, to the end of the last job, whatever rounds it takes."""
    with stage(sites=FAILING_SITES, ZQYY_LLM_CONCURRENCY=str(SLOTS)) as played:
        played.emulator.plan({"latency": {"seconds": LATENCY_SECONDS}, "faults": mixed_failures()})
        started = time.monotonic()
        jobs = [request_prewarm(played.database, demo_data.FIRST_SITE_ID + index) for index in range(FAILING_SITES)]
        while not all(prewarm_progress(played.database, job).finished for job in jobs):
            time.sleep(0.2)
        seconds = time.monotonic() - started
        progress = [prewarm_progress(played.database, job) for job in jobs]
        fixed = played.rows("SELECT count(DISTINCT (site_id, target_id)) FROM biz.ai_run_logs WHERE error_code = 'no_data'")
        windows = len(WINDOW_KEYS) * FAILING_SITES
        needed = windows - int(fixed[0]["count"])
        return FailingMakespan(
            FAILING_SITES, windows, sum(job.done for job in progress), needed, played.emulator.counts()["posts"], seconds
        )


def _prewarm(played: Stage, sites: range) -> Makespan:
    started = time.monotonic()
    waiting = [request_prewarm(played.database, site) for site in sites]
    calls = 0
    while waiting:
        time.sleep(0.2)
        for job in list(waiting):
            progress = prewarm_progress(played.database, job)
            if progress.finished:
                assert progress.failed == 0, progress.error_message
                calls += progress.calls
                waiting.remove(job)
    return Makespan(len(sites), calls, time.monotonic() - started)


def _forget_answers(played: Stage) -> None:
    played.execute("DELETE FROM biz.ai_cache")


def _original_way(played: Stage, windows: int) -> float:
    """One window after another: prompt, call, parse, as the in-process dispatcher did it for one site."""
    settings = load_settings(played.environment)
    assert settings.dashscope_base_url is not None
    client = DashScopeClient(settings.required_api_key(), settings.dashscope_base_url, max_connections=1)
    site_id, day = demo_data.FIRST_SITE_ID, played.business_date
    with played.database.autocommit() as connection:
        daily = load_finance(connection, site_id, earliest_day(day), day)
        through = loaded_through(connection, site_id)
    prompts = FinancePrompts(daily, site_id=site_id, site_name="", business_date=day, loaded_through=through)
    started = time.monotonic()
    for window in WINDOW_KEYS[:windows]:
        text = prompts.for_window(window).text
        if text is not None:
            app_id = settings.app_id(finance_app_of(window).app_type)
            parse_reply(client.call(app_id, text, timeout_seconds=timedelta(minutes=3).total_seconds()), FinanceAnswer)
    client.close()
    return time.monotonic() - started
