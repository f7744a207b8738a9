"""A storm of throttling: DashScope answers every call with 429 for a while, and many callers in several processes want answers.

An interval is a second here and half a minute in production; the storm lasts for as many intervals as one of five minutes would there.
"""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from zqyy_ai.domain.windows import WINDOW_KEYS
from zqyy_ai.engine.alert_endings import resolve_what_is_over
from zqyy_ai.engine.assembly import Engine
from zqyy_ai.engine.step import StepStatus
from zqyy_ai.store.database import Connection
from zqyy_ai_tests.engine.workbench import (
    EmulatorControl,
    EngineMaker,
    alerts,
    breakers,
    cached,
    held_rows,
    request,
    spent,
    wait_until,
)

INTERVAL = timedelta(seconds=1)
STORM = 10 * INTERVAL
TARGETS = [str(window) for window in WINDOW_KEYS if window.area.value == "all"] * 2
THROTTLED = "throttled:app2_finance"


@pytest.fixture
def engines(make_engine: EngineMaker) -> list[Engine]:
    return [make_engine(ZQYY_THROTTLE_COOLDOWN_SECONDS="1", ZQYY_LLM_CONCURRENCY="16") for _ in range(2)]


def persist(engine: Engine, target: str, number: int, given_up: threading.Event) -> int:
    """What the queue does with a job: again and again until it is done. Returns the number of refusals and failures before that."""
    rounds = 0
    while not given_up.is_set():
        result = engine.step.run(request(target, net_revenue_cny=number))
        if result.status.is_good:
            return rounds
        assert result.retry_at is not None, "time cures it, so the work goes back"
        rounds += 1
        given_up.wait(0.1)
    raise AssertionError("not done in time")


def test_a_storm_of_throttling_ends_with_everything_done_one_alert_and_one_probe_an_interval(
    engines: list[Engine], emulator: EmulatorControl, connection: Connection
) -> None:
    emulator.plan({"kind": "http_error", "status": 429})
    given_up = threading.Event()
    with ThreadPoolExecutor(len(TARGETS)) as threads:
        steps = [threads.submit(persist, engines[n % 2], target, 100 + n, given_up) for n, target in enumerate(TARGETS)]
        try:
            wait_until(lambda: THROTTLED in breakers(connection) and breakers(connection)[THROTTLED][0] == "open")
            held_at = datetime.now(UTC)
            given_up.wait(STORM.total_seconds())
            emulator.plan()
            over_at, times = datetime.now(UTC), sorted(emulator.received_at())
            for step in steps:
                step.result(timeout=60)
        finally:
            given_up.set()

    probes = [at for at in times if held_at + INTERVAL / 2 < at < over_at]
    assert 5 <= len(probes) <= STORM / INTERVAL + 1
    between = [later - earlier for earlier, later in itertools.pairwise(probes)]
    assert min(between) >= INTERVAL, "at most one call an interval finds out whether it is over"
    assert len(cached(connection)) == len(TARGETS)
    assert breakers(connection) == {}
    assert held_rows(connection) == 0
    assert spent(connection)[1] == 0
    [(alert_type, occurrences)] = alerts(connection)
    assert alert_type == "rate_limited"
    assert occurrences >= len(probes)
    states = connection.execute("SELECT alert_status, reopened_count, site_id, app_type FROM biz.ai_alerts").fetchall()
    assert states == [{"alert_status": "open", "reopened_count": 0, "site_id": None, "app_type": None}], "told once"
    connection.execute("UPDATE biz.ai_alerts SET last_seen_at = last_seen_at - interval '6 minutes'")
    assert resolve_what_is_over(engines[0].database) == 1, "it ends when the storm stays away"


def test_a_single_429_is_waited_out_by_its_own_step_and_holds_nobody(
    engines: list[Engine], emulator: EmulatorControl, connection: Connection
) -> None:
    emulator.plan({"kind": "http_error", "status": 429, "attempts": [1]})
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda n: engines[n % 2].step.run(request(TARGETS[n])), range(8)))
    assert [result.status for result in results] == [StepStatus.ANSWERED] * 8
    assert breakers(connection) == {}
    assert alerts(connection) == []
