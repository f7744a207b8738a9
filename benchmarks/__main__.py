"""`make bench`: every measured claim, as a table on the terminal and in benchmarks/results.md.

`--quick` takes one site, fewer rounds and twelve of the original's windows; its figures are for a look, not for the record.
`--only numbers` (or `cost`, `guards`, `reuse`, `makespan`, `failing`, `events`, `dashboard`, `cache`, `console`) prints that part alone.
"""

import argparse
import platform
import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import cache_read, console, cost, dashboard, events, guards, makespan, numbers

RESULTS = Path(__file__).parent / "results.md"
MOST_RATIO_OF_20_SITES = 1.25
MOST_CPU_MS_PER_CALL = 30
MOST_MEMORY_MB = 250
MOST_GUARDS_P95_MS = 10
MOST_SECONDS_TO_A_CALL_CLOSED = 7
MOST_SECONDS_TO_A_CALL_OPEN = 0.3
MOST_SECONDS_TO_A_CALL_POISSON = 0.5
LEAST_CHAINS_A_SECOND = 8
MOST_MEMORY_OF_WAITING_MB = 400
MOST_DASHBOARD_P99_MS = 150
MOST_CACHE_READ_P99_MS = 10
MOST_SECONDS_TO_THE_OVERVIEW = 1.5
MOST_TRANSFERRED_KB = 600


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parts: dict[str, Callable[[], list[str]]] = {
        "cost": lambda: _cost_lines(rounds=1 if quick else 5),
        "guards": lambda: _guards_lines(calls=200 if quick else 500, rounds=1 if quick else 5),
        "reuse": _reuse_lines,
        "makespan": lambda: _makespan_lines(site_counts=(1,) if quick else (1, 20), original_windows=12 if quick else 72),
        "failing": _failing_lines,
        "events": lambda: _events_lines(quick=quick),
        "dashboard": lambda: _dashboard_lines(logs=300_000 if quick else 5_000_000, seconds=5 if quick else 20),
        "cache": lambda: _cache_lines(rows=200_000 if quick else 2_000_000, seconds=5 if quick else 30),
        "console": lambda: _console_lines(logs=100_000 if quick else 1_000_000, rounds=3 if quick else 9),
        "numbers": lambda: numbers.lines(quick=quick),
    }
    parser.add_argument("--only", choices=parts)
    arguments = parser.parse_args()
    quick = arguments.quick
    lines = ["| what | figure | bar | how |", "|---|---|---|---|"]
    for name in [arguments.only] if arguments.only else parts:
        lines += parts[name]()
    table = "\n".join(lines)
    print(table)
    if not quick and not arguments.only:
        RESULTS.write_text(f"# Benchmark results\n\nMade by `make bench`; {_machine()}.\n\n{table}\n", encoding="utf-8")


def _cost_lines(rounds: int) -> list[str]:
    run = cost.measure_run(rounds)
    per_call = ", ".join(f"{ms:.1f}" for ms in run.cpu_ms_per_call)
    median = statistics.median(run.cpu_ms_per_call)
    how = "zero-latency emulator; (run of 72 windows − run of 1) ÷ 71, user + system"
    return [
        f"| CPU a call in the run process | {median:.1f} ms | ≤ {MOST_CPU_MS_PER_CALL} ms | {how}; median of {per_call} |",
        f"| CPU of a run of one window | {run.start_cpu_seconds:.2f} s | | what a run costs before its second call: Python, Dagster, SDK, pandas |",
        f"| CPU of a run of 72 windows | {run.run_cpu_seconds:.2f} s | | the whole process, start included |",
        f"| Peak memory of a run | {run.peak_memory_mb:.0f} MB | ≤ {MOST_MEMORY_MB} MB | largest of {rounds} runs of 72 windows |",
    ]


def _guards_lines(calls: int, rounds: int) -> list[str]:
    lines = []
    for cost_of_load in guards.measure(calls=calls, rounds=rounds):
        alone = cost_of_load.processes == cost_of_load.threads == 1
        load = (
            "one caller"
            if alone
            else f"{cost_of_load.processes} process{'es' if cost_of_load.processes > 1 else ''} × {cost_of_load.threads}"
        )
        lines.append(
            f"| All guards of a call, {load}, p50 / p95 | {cost_of_load.p50_ms:.1f} / {cost_of_load.p95_ms:.1f} ms | "
            f"{f'p95 ≤ {MOST_GUARDS_P95_MS} ms' if alone else ''} | {cost_of_load.calls_per_second:.0f} calls a second; CPU a call "
            f"{cost_of_load.cpu_ms:.1f} ms, PostgreSQL's {cost_of_load.postgres_cpu_ms:.1f} ms; synced commits; median of {rounds} × {calls} calls |"
        )
    return lines


def _reuse_lines() -> list[str]:
    reuse = cost.measure_reuse()
    return [
        f"| Calls of a second prewarm, data unchanged | {reuse.again} | 0 | the first made {reuse.first} |",
        f"| Calls saved on the next business day | {reuse.saved_next_day:.0%} | | {reuse.next_day} calls after one more day was loaded |",
    ]


def _makespan_lines(site_counts: tuple[int, ...], original_windows: int) -> list[str]:
    makespans, original_seconds = makespan.measure(site_counts, original_windows=original_windows)
    lines = [
        f"| Prewarm of {run.sites} site{'s' if run.sites > 1 else ''} ÷ ideal | {run.ratio:.2f} | "
        f"{f'≤ {MOST_RATIO_OF_20_SITES}' if run.sites == 20 else ''} | {run.calls} calls of {makespan.LATENCY_SECONDS:g} s, "
        f"{makespan.SLOTS} at once: {run.seconds:.0f} s ÷ {run.ideal_seconds:.0f} s, from the request to the end of the last job |"
        for run in makespans
    ]
    lines.append(
        f"| The original's way, 1 site | {original_seconds:.0f} s | | {original_windows} windows one after another, at the same time on the same machine |"
    )
    return lines


def _failing_lines() -> list[str]:
    run = makespan.measure_failing()
    how = f"{run.sites} sites, {run.good} of {run.windows} windows right at the end; eight kinds of failure, see stage.py"
    return [
        f"| Prewarm with 5 % of the calls failing ÷ ideal without failures | {run.ratio:.2f} | | {run.seconds:.0f} s to the end of the last job; {how} |",
        f"| Calls with 5 % failing ÷ needed | {run.calls / run.needed_calls:.3f} | | {run.calls} ÷ {run.needed_calls} |",
    ]


def _events_lines(*, quick: bool) -> list[str]:
    closed = events.measure_closed(3 if quick else 12)
    opened = events.measure_open(poisson_seconds=20 if quick else 180, singles=20 if quick else 200, chains=90 if quick else 600)
    weight = events.measure_weight(100 if quick else events.WAITING_CHAINS)
    calls = f"calls of {events.CALL_SECONDS:g} s"
    latencies = (
        ("no run open", closed, MOST_SECONDS_TO_A_CALL_CLOSED, f"single events, {calls}, the run closed between them"),
        ("run open", opened.single, MOST_SECONDS_TO_A_CALL_OPEN, f"single events 0.3–0.7 s apart, {calls}"),
        (
            "Poisson, 1 a second",
            opened.poisson,
            MOST_SECONDS_TO_A_CALL_POISSON,
            f"of {events.SITES} sites, {calls}; no run open at the first, which is left out",
        ),
    )
    lines = [
        f"| Event's commit to its call, {which}, p50 / p95 | {found.p50:.2f} / {found.p95:.2f} s | p95 ≤ {bar} s | "
        f"{len(found.seconds)} {how}; longest {max(found.seconds):.2f} s |"
        for which, found, bar, how in latencies
    ]
    for which, worked, chains_bar in (
        ("", opened.without_assistant, f"≥ {LEAST_CHAINS_A_SECOND}"),
        (" with an assistant", opened.with_assistant, ""),
    ):
        lines.append(
            f"| Chains a second, consumption{which} | {worked.chains_a_second:.1f} | {chains_bar} | {worked.chains} at once over {events.SITES} sites, "
            f"{worked.calls} calls, zero-latency emulator: {worked.seconds:.0f} s from the first chain's start to the last one's end |"
        )
    lines.append(
        f"| Peak memory of a run whose chains wait | {weight.peak_memory_mb:.0f} MB | ≤ {MOST_MEMORY_OF_WAITING_MB} MB | "
        f"{weight.most_calls_in_flight} calls of {events.WAITING_CALL_SECONDS:g} s in flight; all chains to their end: {weight.seconds:.0f} s |"
    )
    return lines


def _dashboard_lines(logs: int, seconds: int) -> list[str]:
    found = dashboard.measure(logs=logs, seconds=seconds)
    load = f"{len(found.answers_ms)} requests, {dashboard.REQUESTS_A_SECOND} a second, open loop; longest {max(found.answers_ms):.0f} ms"
    return [
        (
            f"| Dashboard over {found.logs / 1e6:g} million run logs, p50 / p99 | {found.p50_ms:.0f} / {found.p99_ms:.0f} ms | "
            f"p99 ≤ {MOST_DASHBOARD_P99_MS} ms | {load}; {dashboard.SITES} sites; the server used {found.server_cpu_cores:.2f} cores |"
        ),
        f"| Dashboard of {dashboard.DAYS} days, alone | {found.longest_range_ms:.0f} ms | | the longest range that there is |",
        f"| First / last page of the run logs, alone | {found.first_page_ms:.0f} / {found.last_page_ms:.0f} ms | | 20 / 200 rows, with the total |",
        f"| Closing the hours of {found.logs / 1e6:g} million run logs | {found.close_seconds:.0f} s | | once, after an upgrade; then an hour at a time |",
    ]


def _cache_lines(rows: int, seconds: int) -> list[str]:
    lines = []
    for what, load in zip(("Cache read", "Cache read, unchanged (304)"), cache_read.measure(rows=rows, seconds=seconds), strict=True):
        how = f"{load.requests} requests, {cache_read.REQUESTS_A_SECOND} a second, open loop, {load.failed} failed; longest {load.longest_ms:.0f} ms"
        lines.append(
            f"| {what}, {load.rows / 1e6:g} million rows, p50 / p99 | {load.p50_ms:.1f} / {load.p99_ms:.1f} ms | "
            f"p99 ≤ {MOST_CACHE_READ_P99_MS} ms | {how} |"
        )
    return lines


def _console_lines(logs: int, rounds: int) -> list[str]:
    load = console.measure(logs=logs, rounds=rounds)
    each = ", ".join(f"{seconds:.2f}" for seconds in load.seconds)
    how = f"Chromium with an empty cache, from the request to the last chart; median of {each}"
    return [
        (
            f"| First load of the console's overview, {load.logs / 1e6:g} million run logs | {load.median_seconds:.2f} s | "
            f"< {MOST_SECONDS_TO_THE_OVERVIEW} s | {how}; the page's HTML came after {statistics.median(load.page_seconds):.2f} s |"
        ),
        (
            f"| What it transfers in all | {load.transferred_bytes / 1000:.0f} kB | < {MOST_TRANSFERRED_KB} kB | "
            f"page, styles and scripts, compressed, with headers |"
        ),
    ]


def _machine() -> str:
    import os

    return f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
