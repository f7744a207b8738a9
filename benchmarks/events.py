"""Members' events through the whole stack: how soon after its commit an event is a call at the emulator, how many chains a second are worked
off, and what a run weighs whose chains all wait.

An event's call is found by its prompt: the emulator notes when it came, the run log of the event's job says which it was.
"""

import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Self

import psutil

from benchmarks.stage import Stage, stage
from zqyy_ai.domain.events import EventName
from zqyy_ai.store import events

# Of a call, where latencies are measured: so long that chains overlap, so short that the calls in flight are never the limit.
CALL_SECONDS = 2.0
WAITING_CALL_SECONDS = 20.0
WAITING_CHAINS = 500
MEMBERS_OF_SITE = 450
SITES = 3
_LOOK_SECONDS = 0.1
_LONGEST_SECONDS = 600.0
# Limits that are not what is measured.
_UNLIMITED = {
    "ZQYY_SITE_CALLS_PER_MINUTE": "1000000",
    "ZQYY_SITE_CALLS_BURST": "100000",
    "ZQYY_APP_CALLS_PER_SECOND": "100000",
    "ZQYY_DAILY_TOKEN_LIMIT": "1000000000",
    "ZQYY_MONTHLY_TOKEN_LIMIT": "1000000000",
    "ZQYY_SITE_DAILY_TOKEN_LIMIT": "1000000000",
    "ZQYY_SITE_MONTHLY_TOKEN_LIMIT": "1000000000",
}


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds from the commit of an event to its first call at the emulator, one for each event."""

    seconds: tuple[float, ...]

    @property
    def p50(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        return sorted(self.seconds)[-(-95 * len(self.seconds) // 100) - 1]


@dataclass(frozen=True, slots=True)
class Throughput:
    """`seconds` from the first chain's start to the last one's end."""

    chains: int
    calls: int
    seconds: float

    @property
    def chains_a_second(self) -> float:
        return self.chains / self.seconds


@dataclass(frozen=True, slots=True)
class Weight:
    """Of a run's process while its chains wait for slow calls."""

    peak_memory_mb: float
    most_calls_in_flight: int
    seconds: float


def measure_closed(repetitions: int) -> Latencies:
    """One event at a time, each when no run is open any more."""
    chance = random.Random(1)
    with stage(SITES, ZQYY_EVENT_RUN_IDLE_SECONDS="1") as played, CallWatch(played) as watch:
        played.emulator.set_latency(CALL_SECONDS)
        members = _members(played)
        fired: dict[int, float] = {}
        for _ in range(repetitions):
            fired |= _fire(played, next(members))
            _await_the_end(played)
            _await(lambda: not played.runs_under_way())
            # The daemon looks every few seconds; an event comes at any moment of its round.
            time.sleep(chance.uniform(0.0, 5.0))
        return watch.latencies(fired)


@dataclass(frozen=True, slots=True)
class OpenFigures:
    """`poisson` begins when no run is open, and is without its first event; the others find one."""

    poisson: Latencies
    single: Latencies
    without_assistant: Throughput
    with_assistant: Throughput


def measure_open(*, poisson_seconds: float, singles: int, chains: int) -> OpenFigures:
    chance = random.Random(2)
    with stage(SITES, members=MEMBERS_OF_SITE, **_UNLIMITED) as played:
        played.emulator.set_latency(CALL_SECONDS)
        members = _members(played)
        with CallWatch(played) as watch:
            poisson = _fired_apart(played, members, int(poisson_seconds), lambda: chance.expovariate(1.0))
            _await_the_end(played)
            first, *others = poisson
            of_others = watch.latencies({event: poisson[event] for event in others})
            print(f"first of the Poisson events: {watch.latencies({first: poisson[first]}).p50:.1f} s", flush=True)
            single = _fired_apart(played, members, singles, lambda: chance.uniform(0.3, 0.7))
            _await_the_end(played)
            of_singles = watch.latencies(single)
        played.emulator.set_latency(0.0)
        return OpenFigures(
            of_others,
            of_singles,
            _worked_off(played, islice(members, chains), {}),
            _worked_off(played, islice(members, chains // 3), _with_assistant(played)),
        )


def measure_weight(chains: int) -> Weight:
    """As many chains as calls at once; from before the run's start to its last chain's end."""
    with stage(SITES, members=MEMBERS_OF_SITE, ZQYY_LLM_CONCURRENCY=str(chains), **_UNLIMITED) as played:
        played.emulator.set_latency(WAITING_CALL_SECONDS)
        started = time.monotonic()
        for member in islice(_members(played), chains):
            _fire(played, member)
        _await(lambda: bool(played.run_pids()))
        process, peak_bytes = psutil.Process(played.run_pids()[0]), 0
        while _is_at_work(played):
            peak_bytes = max(peak_bytes, process.memory_info().rss)
            time.sleep(_LOOK_SECONDS)
        return Weight(peak_bytes / 1024**2, played.emulator.counts()["max_in_flight"], time.monotonic() - started)


class CallWatch:
    """Keeps what the emulator remembers of its calls for some fifty of them only. Use as a context manager."""

    def __init__(self, played: Stage) -> None:
        self._played = played
        self._came_at: dict[str, float] = {}
        self._numbers: set[int] = set()
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="call watch", daemon=True)

    def __enter__(self) -> Self:
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watching.join()

    def latencies(self, fired: dict[int, float]) -> Latencies:
        """Of these events (by id, with the moments of their commits), which have all been worked off."""
        posts = self._played.emulator.counts()["posts"]
        _await(lambda: len(self._numbers) >= posts)
        rows = self._played.rows(
            "SELECT DISTINCT ON (event.id) event.id, log.request_prompt AS prompt FROM biz.ai_events event"
            " JOIN biz.ai_run_logs log ON log.trigger_job_id = event.trigger_job_id AND log.request_prompt IS NOT NULL"
            " ORDER BY event.id, log.id"
        )
        prompts = {row["id"]: row["prompt"] for row in rows}
        return Latencies(tuple(self._came_at[prompts[event]] - at for event, at in fired.items()))

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS * 5):
            for call in self._played.emulator.last_calls():
                if call["number"] not in self._numbers:
                    self._numbers.add(call["number"])
                    self._came_at[call["prompt"]] = datetime.fromisoformat(call["received_at"]).timestamp()


def _members(played: Stage) -> Iterator[dict[str, int]]:
    """Members with visits, the sites in turn; none twice, because a second event of the day would be a duplicate."""
    return iter(
        played.rows(
            "SELECT site_id, member_id FROM ai_source.members WHERE last_visit_on IS NOT NULL"
            " ORDER BY row_number() OVER (PARTITION BY site_id ORDER BY member_id), site_id"
        )
    )


def _with_assistant(played: Stage) -> dict[int, dict[str, Any]]:
    rows = played.rows("SELECT site_id, min(assistant_id) AS assistant_id FROM ai_source.assistants WHERE is_active GROUP BY 1")
    return {row["site_id"]: {"has_assistant": True, "assistant_id": row["assistant_id"]} for row in rows}


def _fire(played: Stage, member: dict[str, int], more: dict[str, Any] | None = None) -> dict[int, float]:
    """A settled consumption; its id, and when its transaction was committed (epoch seconds, this machine's clock, as the emulator's)."""
    with played.database.transaction() as connection:
        event = events.fire(connection, EventName.CONSUMPTION_SETTLED, {**member, **(more or {})})
    committed = time.time()
    assert event is not None
    return {event: committed}


def _fired_apart(played: Stage, members: Iterator[dict[str, int]], count: int, gap_seconds: Callable[[], float]) -> dict[int, float]:
    fired: dict[int, float] = {}
    due = time.monotonic()
    for member in islice(members, count):
        time.sleep(max(0.0, due - time.monotonic()))
        fired |= _fire(played, member)
        due += gap_seconds()
    return fired


def _worked_off(played: Stage, members: Iterator[dict[str, int]], more: dict[int, dict[str, Any]]) -> Throughput:
    """A burst of events while a run is open."""
    posts = played.emulator.counts()["posts"]
    fired = [event for member in members for event in _fire(played, member, more.get(member["site_id"]))]
    _await_the_end(played)
    [row] = played.rows(
        "SELECT count(*) AS chains, extract(epoch FROM max(finished_at) - min(started_at))::float8 AS seconds,"
        " count(*) FILTER (WHERE status <> 'completed') AS bad FROM biz.ai_trigger_jobs"
        " WHERE id IN (SELECT trigger_job_id FROM biz.ai_events WHERE id >= %s)",
        fired[0],
    )
    assert row["bad"] == 0
    return Throughput(row["chains"], played.emulator.counts()["posts"] - posts, row["seconds"])


def _is_at_work(played: Stage) -> bool:
    return bool(
        played.number(
            "SELECT (SELECT count(*) FROM biz.ai_events WHERE handled_at IS NULL)"
            " + (SELECT count(*) FROM biz.ai_trigger_jobs WHERE status IN ('pending', 'running'))"
        )
    )


def _await_the_end(played: Stage) -> None:
    _await(lambda: not _is_at_work(played))


def _await(has_come: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LONGEST_SECONDS
    while not has_come():
        if time.monotonic() > deadline:
            raise TimeoutError("the stack did not come to its end")
        time.sleep(_LOOK_SECONDS)
