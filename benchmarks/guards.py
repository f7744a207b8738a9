"""What all guards together cost a call: claim, pause, breaker, rate, budget, slot, sent mark, settlement, in the order and the transactions
of `engine/step.py`, without what is not a guard's (run log, answer, the call itself).

On the embedded PostgreSQL as a deployment has it, with synced commits, in a folder of its own. Loads: one caller, threads of one process,
and several processes; each process has the pool that a run has.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil

from zqyy_ai.devkit.embedded_postgres import APPLICATION_DATABASE, EmbeddedPostgres
from zqyy_ai.domain.business_clock import MIDNIGHT
from zqyy_ai.engine.assembly import build_guards
from zqyy_ai.engine.step import Guards
from zqyy_ai.engine.worker import Worker
from zqyy_ai.settings import Settings, load_settings
from zqyy_ai.store import step_claims
from zqyy_ai.store.database import Database
from zqyy_ai.store.migrations import migrate

APP, ESTIMATE_TOKENS, SPENT_TOKENS = "app2_finance", 4_000, 3_200
FIRST_SITE, SITES = 1001, 20
WAIT = timedelta(minutes=1)
# No limit is reached: what is measured is the guards' price, not their refusals.
UNLIMITED = {
    "ZQYY_SITE_CALLS_PER_MINUTE": "6000000",
    "ZQYY_SITE_CALLS_BURST": "1000000",
    "ZQYY_APP_CALLS_PER_SECOND": "1000000",
    "ZQYY_DAILY_TOKEN_LIMIT": str(10**12),
    "ZQYY_MONTHLY_TOKEN_LIMIT": str(10**13),
    "ZQYY_SITE_DAILY_TOKEN_LIMIT": str(10**12),
    "ZQYY_SITE_MONTHLY_TOKEN_LIMIT": str(10**13),
}


@dataclass(frozen=True, slots=True)
class GuardCost:
    """Milliseconds a call. `postgres_cpu_ms` is that of all server processes together."""

    processes: int
    threads: int
    p50_ms: float
    p95_ms: float
    cpu_ms: float
    postgres_cpu_ms: float
    calls_per_second: float


def measure(*, calls: int, rounds: int) -> list[GuardCost]:
    """One caller, 8 and 32 threads, and 4 processes of one thread, `calls` calls a round; medians of the rounds."""
    with tempfile.TemporaryDirectory(prefix="zqyy-ai-bench-") as folder:
        Path(folder).chmod(0o711)
        with EmbeddedPostgres(Path(folder) / "postgres") as server:
            url = server.ensure_database(APPLICATION_DATABASE)
            migrate(url)
            loads = ((1, 1), (1, 8), (1, 32), (4, 1))
            measured = [[_measure(url, server.pid, processes, threads, calls) for processes, threads in loads] for _ in range(rounds)]
    return [_median(of_load) for of_load in zip(*measured, strict=True)]


def _median(costs: tuple[GuardCost, ...]) -> GuardCost:
    def of(figure: Callable[[GuardCost], float]) -> float:
        return statistics.median(figure(cost) for cost in costs)

    return GuardCost(
        costs[0].processes,
        costs[0].threads,
        of(lambda cost: cost.p50_ms),
        of(lambda cost: cost.p95_ms),
        of(lambda cost: cost.cpu_ms),
        of(lambda cost: cost.postgres_cpu_ms),
        of(lambda cost: cost.calls_per_second),
    )


def _measure(url: str, postmaster_pid: int, processes: int, threads: int, calls: int) -> GuardCost:
    command = [sys.executable, "-m", "benchmarks.guards", str(threads), str(calls // processes)]
    environment = {**os.environ, "ZQYY_DATABASE_URL": url, **UNLIMITED}
    callers = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    try:
        for caller in callers:
            assert caller.stdout is not None
            assert caller.stdout.readline() == "ready\n"
        server_before, started = _server_cpu_seconds(postmaster_pid), time.perf_counter()
        for caller in callers:
            assert caller.stdin is not None
            caller.stdin.write("go\n")
            caller.stdin.flush()
        reports = [json.loads(caller.stdout.readline()) for caller in callers if caller.stdout]
        seconds = time.perf_counter() - started
        server_cpu = _server_cpu_seconds(postmaster_pid) - server_before
    finally:
        for caller in callers:
            caller.communicate()
    waits = sorted(ms for report in reports for ms in report["ms"])
    cpu_seconds = sum(report["cpu_seconds"] for report in reports)
    return GuardCost(
        processes,
        threads,
        statistics.median(waits),
        waits[int(len(waits) * 0.95)],
        1000 * cpu_seconds / len(waits),
        1000 * server_cpu / len(waits),
        len(waits) / seconds,
    )


def _server_cpu_seconds(postmaster_pid: int) -> float:
    """Of the server's processes that are running; the callers keep theirs until both looks are over."""
    total = 0.0
    server = psutil.Process(postmaster_pid)
    for process in (server, *server.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:  # an autovacuum worker that is through
            continue
        total += times.user + times.system
    return total


# One process of callers.


def _call(database: Database, guards: Guards, worker: Worker, site_id: int, target_id: str) -> None:
    """As a step that is answered at once."""
    with database.autocommit() as connection:
        claim = step_claims.take(connection, APP, site_id, target_id, worker_id=worker.id, lease=worker.lease)
        assert claim is not None
    with database.transaction() as connection:
        permit = guards.breaker.admit(connection, APP)
        guards.rate.take(connection, site_id, APP, longest_wait=WAIT)
        reservation = guards.budget.reserve(
            connection,
            site_id=site_id,
            site_cutoff=MIDNIGHT,
            app_type=APP,
            tokens=ESTIMATE_TOKENS,
            worker_id=worker.id,
            lease=worker.lease,
        )
    with guards.slots.hold(longest_wait=WAIT) as slot, database.transaction() as connection:
        permit = guards.breaker.readmit(connection, permit)
        assert guards.budget.mark_sent(connection, reservation, run_log_id=1, lease=worker.lease)
        assert step_claims.renew(connection, claim, worker.lease)
        assert guards.slots.renew(connection, slot)
    with database.transaction() as connection:
        guards.breaker.record_success(connection, permit)
        settlement = guards.budget.settle(connection, reservation, SPENT_TOKENS)
        assert settlement is not None
        guards.budget.report_overshoot(connection, settlement)
    with database.transaction() as connection:
        assert step_claims.end(connection, claim)


def _be_a_process(settings: Settings, threads: int, calls: int) -> None:
    """Says `ready`, waits for a line, makes its calls and prints what they took; stays until its input ends."""
    with Database(settings.required_database_url(), max_connections=settings.db_pool_connections) as database:
        worker = Worker(database, lease=timedelta(seconds=settings.lease_seconds))
        guards = build_guards(settings, database, worker)
        taken_ms: list[float] = []
        lock = threading.Lock()

        def call(number: int) -> None:
            started = time.perf_counter()
            _call(database, guards, worker, FIRST_SITE + number % SITES, f"{os.getpid()}-{number}")
            with lock:
                taken_ms.append(1000 * (time.perf_counter() - started))

        with worker, ThreadPoolExecutor(threads) as callers:
            list(callers.map(call, range(20 * threads)))  # connections opened, statements prepared
            taken_ms.clear()
            print("ready", flush=True)
            sys.stdin.readline()
            cpu_before = time.process_time()
            list(callers.map(call, range(calls)))
            cpu_seconds = time.process_time() - cpu_before
            print(json.dumps({"ms": taken_ms, "cpu_seconds": cpu_seconds}), flush=True)
            sys.stdin.read()


if __name__ == "__main__":
    _be_a_process(load_settings(), int(sys.argv[1]), int(sys.argv[2]))
