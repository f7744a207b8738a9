"""Prewarms under faults: the whole stack prewarms all sites while one fault after another plays, and is judged when all work is at its end.

What is judged is in `Outcome.broken_promises`: each line of it is a promise that docs/reliability.md makes.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import faults
from benchmarks.faults import MOST_RECOVERY_SECONDS, Faults, LeftOver, Motion, Scenario
from benchmarks.stage import Stage, mixed_failures
from zqyy_ai.domain.apps import finance_app_of
from zqyy_ai.domain.windows import WINDOW_KEYS, earliest_day
from zqyy_ai.engine.prewarm_requests import request_prewarm
from zqyy_ai.prompts.finance import FinancePrompts
from zqyy_ai.settings import load_settings
from zqyy_ai.warehouse.finance import load_finance, loaded_through

# Slow enough that a prewarm of three sites is in motion for most of a minute.
LATENCY = {"kind": "uniform", "low_seconds": 2, "high_seconds": 4}
MOST_ALERTS = 3


def llm_failing(motion: Motion) -> None:
    """5 % of the calls fail, in eight ways."""
    motion.stage.emulator.plan({"latency": LATENCY, "faults": mixed_failures()})


SCENARIOS: dict[str, Scenario] = {
    "undisturbed": Scenario("none", faults.undisturbed),
    "postgres_stopped": Scenario("PostgreSQL stopped for 0–5 s every 10 s, half of the times as after a crash", faults.postgres_stopped),
    "connections_killed": Scenario("all connections to PostgreSQL killed every 2 s", faults.connections_killed),
    "run_killed": Scenario("a run's process killed with -9, twice", faults.run_killed),
    "code_server_killed": Scenario("the code server killed with -9", faults.code_server_killed),
    "daemon_killed": Scenario("the daemon and a run killed with -9 together", faults.daemon_killed),
    "everything_killed": Scenario("runs, code server, daemon and PostgreSQL killed at once", faults.everything_killed),
    "disk_full": Scenario("no room on the disk of the run logs for 8 s", faults.disk_full),
    "llm_failing": Scenario("5 % of the calls failing, in eight ways", llm_failing),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A scenario's figures. `lost` answers were paid, but their process died before it could write them."""

    name: str
    faults: int
    seconds: float
    recovery_seconds: float
    calls: int
    windows: int
    good: int
    lost: int
    asked_again_though_written: int
    jobs_not_at_their_end: int
    left: LeftOver
    used_tokens: int
    paid_tokens: int
    alerts: int
    occurrences: int

    def broken_promises(self) -> list[str]:
        promises = {
            f"{self.windows - self.good} of {self.windows} windows without an answer from the newest data": self.good == self.windows,
            f"{self.jobs_not_at_their_end} jobs not completed": self.jobs_not_at_their_end == 0,
            f"left over: {self.left}": self.left.is_nothing,
            f"{self.asked_again_though_written} calls for what was written": self.asked_again_though_written == 0,
            f"charged {self.used_tokens} tokens, paid {self.paid_tokens}": self.used_tokens >= self.paid_tokens,
            f"recovery took {self.recovery_seconds:.0f} s": self.recovery_seconds < MOST_RECOVERY_SECONDS,
            f"{self.alerts} alerts": self.alerts <= MOST_ALERTS,
        }
        return [broken for broken, is_kept in promises.items() if not is_kept]


def play(played: Stage, name: str, seed: int, fault: Faults | None = None) -> Outcome:
    """Prewarms all sites while the scenario (or `fault`) plays, and measures when all work is at its end."""
    faults.start_afresh(played, LATENCY)
    sites = played.sites()
    windows = len(sites) * len(WINDOW_KEYS)

    def share_done() -> float:
        written = played.number("SELECT count(DISTINCT (site_id, target_id)) FROM biz.ai_cache WHERE status = 'valid'")
        return written / windows

    def is_done() -> bool:
        return not played.number("SELECT count(*) FROM biz.ai_trigger_jobs WHERE status IN ('pending', 'running')")

    motion = Motion(played, random.Random(f"{seed}/{name}"), share_done)
    for site in sites:
        request_prewarm(played.database, site)
    seconds, finished = faults.set_in_motion(motion, name, fault or SCENARIOS[name].play, is_done)
    counts = played.emulator.counts()
    return Outcome(
        name=name,
        faults=motion.faults,
        seconds=seconds,
        recovery_seconds=faults.longest_recovery(played, motion, dict.fromkeys(sites, len(WINDOW_KEYS)), finished),
        calls=counts["posts"],
        windows=windows,
        good=_good_windows(played, sites),
        lost=faults.lost_answers(played, counts["answered"]),
        asked_again_though_written=faults.paid_again_though_written(played),
        jobs_not_at_their_end=played.number("SELECT count(*) FROM biz.ai_trigger_jobs WHERE status <> 'completed'"),
        left=faults.left_over(played),
        used_tokens=faults.charged_tokens(played),
        paid_tokens=counts["tokens"],
        alerts=played.number("SELECT count(*) FROM biz.ai_alerts"),
        occurrences=played.number("SELECT coalesce(sum(occurrences), 0) FROM biz.ai_alerts"),
    )


def _good_windows(played: Stage, sites: list[int]) -> int:
    """Windows whose newest valid answer was made from the data as they are now."""
    settings, good = load_settings(played.environment), 0
    for site in sites:
        with played.database.autocommit() as connection:
            day = played.business_date
            prompts = FinancePrompts(
                load_finance(connection, site, earliest_day(day), day),
                site_id=site,
                site_name=connection.execute("SELECT site_name FROM biz.sites WHERE site_id = %s", [site]).fetchall()[0]["site_name"],
                business_date=day,
                loaded_through=loaded_through(connection, site),
            )
            rows = connection.execute(
                "SELECT DISTINCT ON (target_id) target_id, input_hash FROM biz.ai_cache"
                " WHERE site_id = %s AND status = 'valid' AND expires_at > now() ORDER BY target_id, created_at DESC",
                [site],
            ).fetchall()
        present = {row["target_id"]: row["input_hash"] for row in rows}
        for window in WINDOW_KEYS:
            prompt, app = prompts.for_window(window), finance_app_of(window).app_type
            # As the step does it.
            parts = (
                ("fixed", json.dumps(prompt.fixed_answer, ensure_ascii=False, sort_keys=True))
                if prompt.text is None
                else (settings.app_id(app), settings.app_revision(app), prompt.text)
            )
            good += present.get(str(window)) == hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return good


def table(outcomes: Sequence[Outcome], conditions: str) -> str:
    lines = [
        f"{conditions}; answers after 2–4 s.",
        "",
        "| fault | times | windows right | left over¹ | calls | paid, lost² | paid again³ | longest recovery | all done after | alerts (occurrences) | kept |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        left = outcome.left.total + outcome.jobs_not_at_their_end
        lines.append(
            f"| {SCENARIOS[outcome.name].title} | {outcome.faults or ''} | {outcome.good} / {outcome.windows} | {left} | {outcome.calls} | "
            f"{outcome.lost} | {outcome.asked_again_though_written} | {f'{outcome.recovery_seconds:.0f} s' if outcome.faults else ''} | "
            f"{outcome.seconds:.0f} s | {outcome.alerts} ({outcome.occurrences}) | {'no: ' + '; '.join(broken) if (broken := outcome.broken_promises()) else 'yes'} |"
        )
    lines += [
        "",
        "¹ Jobs not completed, reservations, claims, slots and run logs still running, together. ² Answers that were paid for and not kept: their",
        "process died before it could write them, or nobody could read them; charged. ³ Calls for a window whose answer had been written.",
    ]
    return "\n".join(lines)
