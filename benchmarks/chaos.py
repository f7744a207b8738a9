"""`make chaos`: faults in motion. The whole stack works while one fault after another plays, and is judged when all work is at its end.

    make chaos                       all scenarios; the tables go into docs/reliability.md
    make chaos ONLY=events           those of one kind of work (or: prewarm); its table is written
    make chaos ONLY=run_killed       one of them; nothing is written
    make chaos SEED=7                other moments of the faults

Moments and victims hang on the seed and the scenario's name alone. What is judged is in the parts (`chaos_prewarm.py`,
`chaos_events.py`). Exit code 1 when a promise was broken.
"""

import argparse
import contextlib
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks import chaos_events, chaos_prewarm
from benchmarks.faults import Scenario
from benchmarks.stage import Stage, stage

PAGE = Path(__file__).parents[1] / "docs/reliability.md"
SEED = 20260420
SITES = 3
# Few enough at once that the work of three sites is in motion for most of a minute.
SLOTS = 16


class Outcome(Protocol):
    def broken_promises(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of work: its scenarios, how one of them is played, and the table of their outcomes."""

    scenarios: Mapping[str, Scenario]
    play: Callable[[Stage, str, int], Outcome]
    table: Callable[[Sequence[Any], str], str]


PARTS = {
    "prewarm": Part(chaos_prewarm.SCENARIOS, chaos_prewarm.play, chaos_prewarm.table),
    "events": Part(chaos_events.SCENARIOS, chaos_events.play, chaos_events.table),
}


@contextlib.contextmanager
def chaos_stage(sites: int) -> Iterator[Stage]:
    """Rates are out of the way, and a run for events closes soon after a scenario."""
    with stage(
        sites,
        ZQYY_LLM_CONCURRENCY=str(SLOTS),
        ZQYY_SITE_CALLS_PER_MINUTE="6000",
        ZQYY_SITE_CALLS_BURST="1000",
        ZQYY_EVENT_RUN_IDLE_SECONDS="5",
    ) as played:
        yield played


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", choices=sorted({*PARTS, *(name for part in PARTS.values() for name in part.scenarios)}))
    arguments = parser.parse_args()
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # that connections are lost is the point
    conditions = (
        f"Seed {arguments.seed}; {SITES} sites, {SLOTS} calls at once; {os.cpu_count()} cores, {platform.system()} {platform.machine()},"
        f" load average {os.getloadavg()[0]:.1f} before the start"
    )
    is_broken = False
    with chaos_stage(SITES) as played:
        for part_name, part in PARTS.items():
            names = [name for name in part.scenarios if arguments.only in (None, part_name, name)]
            outcomes = []
            for name in names:
                outcomes.append(part.play(played, name, arguments.seed))
                print(f"{name}: {outcomes[-1]}", flush=True)
                for broken in outcomes[-1].broken_promises():
                    is_broken = True
                    print(f"{name}: BROKEN: {broken}", flush=True)
            if names:
                text = part.table(outcomes, conditions)
                print(text)
                if len(names) == len(part.scenarios):
                    _write_table(part_name, text)
    return 1 if is_broken else 0


def _write_table(part_name: str, text: str) -> None:
    begin, end = (f"<!-- made by make chaos, {part_name}: {edge} -->" for edge in ("begin", "end"))
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
