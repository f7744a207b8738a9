"""`make chaos`: faults in motion. The whole stack prewarms while one fault after another plays, and is judged when all work is at its end.

    make chaos                       all scenarios; the table goes into docs/reliability.md
    make chaos ONLY=run_killed       one of them; nothing is written
    make chaos SEED=7                other moments of the faults

Moments and victims hang on the seed and the scenario's name alone. What is judged is in `_verdict`: each line of it is a promise that
docs/reliability.md makes. Exit code 1 when one was broken.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import logging
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg_pool import PoolTimeout

from benchmarks.stage import Stage, mixed_failures, stage
from zqyy_ai.domain.apps import finance_app_of
from zqyy_ai.domain.windows import WINDOW_KEYS, earliest_day
from zqyy_ai.engine.prewarm_requests import request_prewarm
from zqyy_ai.prompts.finance import FinancePrompts
from zqyy_ai.settings import load_settings
from zqyy_ai.warehouse.finance import load_finance, loaded_through

PAGE = Path(__file__).parents[1] / "docs/reliability.md"
BEGIN, END = "<!-- made by make chaos: begin -->", "<!-- made by make chaos: end -->"
SEED = 20260420
# Few enough at once that a prewarm of three sites is in motion for most of a minute.
SLOTS = 16
LATENCY = {"kind": "uniform", "low_seconds": 2, "high_seconds": 4}
MOST_RECOVERY_SECONDS = 30.0
LONGEST_SECONDS = 300.0
LOOK_SECONDS = 0.25
MOST_ALERTS = 3
_DATABASE_GONE = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout)


@dataclass(slots=True)
class Motion:
    """What a scenario has to do with while the prewarm moves. `ends` are the moments at which a fault was over, in
    seconds since the epoch: the database writes such ones too."""

    stage: Stage
    chance: random.Random
    is_over: threading.Event = field(default_factory=threading.Event)
    faults: int = 0
    ends: list[float] = field(default_factory=list)

    def wait(self, seconds: float) -> bool:
        """False when the prewarm is at its end, and no further fault is wanted."""
        return not self.is_over.wait(seconds)

    def fault_is_over(self) -> None:
        self.faults += 1
        self.ends.append(time.time())

    def first_moment(self) -> bool:
        """Waits for a seeded part of the way: from a tenth to a half of the answers written."""
        wanted = self.chance.uniform(0.1, 0.5)
        while self.wait(LOOK_SECONDS):
            if sum(_written(self.stage).values()) >= wanted * _windows(self.stage):
                return True
        return False


# The faults


def undisturbed(_motion: Motion) -> None:
    pass


def postgres_stopped(motion: Motion) -> None:
    """0-5 s every 10 s, in order or as after a crash."""
    postgres = motion.stage.stack.postgres
    assert postgres is not None
    while motion.wait(10.0):
        postgres.halt(immediately=motion.chance.random() < 0.5)
        time.sleep(motion.chance.uniform(0.0, 5.0))
        postgres.resume()
        motion.fault_is_over()


def connections_killed(motion: Motion) -> None:
    """All of them, in both databases, every 2 s."""
    while motion.wait(2.0):
        kill_connections(motion.stage)
        motion.fault_is_over()


def run_killed(motion: Motion) -> None:
    """One run's process by kill -9; when its successor is at work, another one's."""
    for _ in range(2):
        if motion.first_moment() and (pids := run_pids(motion.stage)):
            kill(motion.chance.choice(pids))
            motion.fault_is_over()


def code_server_killed(motion: Motion) -> None:
    if motion.first_moment():
        kill(*_code_server_pids(motion.stage))
        motion.fault_is_over()


def daemon_killed(motion: Motion) -> None:
    """Together with one run, so that there is something that only the daemon can bring back."""
    if motion.first_moment():
        kill(motion.stage.stack.children.process_id("daemon"), *run_pids(motion.stage)[:1])
        motion.fault_is_over()


def everything_killed(motion: Motion) -> None:
    """Runs, code server, daemon and PostgreSQL at one moment; PostgreSQL is back after 2 s."""
    postgres = motion.stage.stack.postgres
    assert postgres is not None
    if motion.first_moment():
        pids = [*run_pids(motion.stage), *_code_server_pids(motion.stage), motion.stage.stack.children.process_id("daemon")]
        kill(*pids)
        postgres.halt(immediately=True)
        time.sleep(2.0)
        postgres.resume()
        motion.fault_is_over()


def disk_full(motion: Motion) -> None:
    """The run logs lie on a small disk of their own, which is full for 8 s."""
    with _log_disk(motion.stage) as fill:
        if motion.first_moment():
            with fill():
                motion.wait(8.0)
            motion.fault_is_over()
        motion.is_over.wait(LONGEST_SECONDS)


def llm_failing(motion: Motion) -> None:
    """5 % of the calls fail, in eight ways."""
    motion.stage.emulator.plan({"latency": LATENCY, "faults": mixed_failures()})


@dataclass(frozen=True, slots=True)
class Scenario:
    title: str
    play: Callable[[Motion], None]


SCENARIOS: dict[str, Scenario] = {
    "undisturbed": Scenario("none", undisturbed),
    "postgres_stopped": Scenario("PostgreSQL stopped for 0–5 s every 10 s, half of the times as after a crash", postgres_stopped),
    "connections_killed": Scenario("all connections to PostgreSQL killed every 2 s", connections_killed),
    "run_killed": Scenario("a run's process killed with -9, twice", run_killed),
    "code_server_killed": Scenario("the code server killed with -9", code_server_killed),
    "daemon_killed": Scenario("the daemon and a run killed with -9 together", daemon_killed),
    "everything_killed": Scenario("runs, code server, daemon and PostgreSQL killed at once", everything_killed),
    "disk_full": Scenario("no room on the disk of the run logs for 8 s", disk_full),
    "llm_failing": Scenario("5 % of the calls failing, in eight ways", llm_failing),
}


# Playing one


@dataclass(frozen=True, slots=True)
class Outcome:
    """A scenario's figures. `lost` answers were paid, but their process died before it could write them."""

    name: str
    faults: int
    seconds: float
    recovery_seconds: float
    calls: int
    answered: int
    windows: int
    good: int
    lost: int
    asked_again_though_written: int
    jobs_not_at_their_end: int
    reservations: int
    claims: int
    slots: int
    running_logs: int
    used_tokens: int
    paid_tokens: int
    alerts: int
    occurrences: int

    def broken_promises(self) -> list[str]:
        promises = {
            f"{self.windows - self.good} of {self.windows} windows without an answer from the newest data": self.good == self.windows,
            f"{self.jobs_not_at_their_end} jobs not completed": self.jobs_not_at_their_end == 0,
            f"{self.reservations} reservations left": self.reservations == 0,
            f"{self.claims} claims left": self.claims == 0,
            f"{self.slots} slots left": self.slots == 0,
            f"{self.running_logs} run logs left running": self.running_logs == 0,
            f"{self.asked_again_though_written} calls for what was written": self.asked_again_though_written == 0,
            f"charged {self.used_tokens} tokens, paid {self.paid_tokens}": self.used_tokens >= self.paid_tokens,
            f"recovery took {self.recovery_seconds:.0f} s": self.recovery_seconds < MOST_RECOVERY_SECONDS,
            f"{self.alerts} alerts": self.alerts <= MOST_ALERTS,
        }
        return [broken for broken, is_kept in promises.items() if not is_kept]


def play(played: Stage, name: str, seed: int, faults: Callable[[Motion], None] | None = None) -> Outcome:
    """Prewarms all sites while the scenario (or `faults`) plays, and measures when all work is at its end or after `LONGEST_SECONDS`."""
    _start_afresh(played)
    motion = Motion(played, random.Random(f"{seed}/{name}"))
    started = time.monotonic()
    for site in _sites(played):
        request_prewarm(played.database, site)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            (faults or SCENARIOS[name].play)(motion)
        except BaseException as failure:
            failed.append(failure)

    playing = threading.Thread(target=run, name=name, daemon=True)
    playing.start()
    while time.monotonic() - started < LONGEST_SECONDS:
        played.stack.children.check()
        with contextlib.suppress(*_DATABASE_GONE):
            if _is_done(played):
                break
        time.sleep(LOOK_SECONDS)
    seconds, finished = time.monotonic() - started, time.time()
    motion.is_over.set()
    playing.join(60.0)
    if failed:
        raise failed[0]
    _await_the_last_loose_end(played)
    return _measured(played, name, motion, seconds, _longest_recovery(played, motion.ends, finished))


def _longest_recovery(played: Stage, ends: list[float], finished: float) -> float:
    """The longest time from a fault's end to the next answer written for a site that still lacked some, or to the end of all work.

    While the next fault comes before anything has moved, the trouble is not over and the clock begins anew. Faults after the end don't count.
    """
    written: dict[int, list[float]] = {}
    for row in _rows(played, "SELECT site_id, extract(epoch FROM created_at)::float8 AS at FROM biz.ai_cache ORDER BY created_at"):
        written.setdefault(row["site_id"], []).append(row["at"])
    longest = 0.0
    ends = [end for end in ends if end < finished]
    for end, following in itertools.pairwise([*ends, finished]):
        for moments in written.values():
            moved = next((at for at in moments if at > end), finished)
            if sum(at <= end for at in moments) < len(WINDOW_KEYS) and moved <= following:
                longest = max(longest, moved - end)
    return longest


def _await_the_last_loose_end(played: Stage) -> None:
    """Jobs end before their runs do, and what the dead held is freed a lease later: bounded by the time a recovery may take."""
    deadline = time.monotonic() + MOST_RECOVERY_SECONDS
    while time.monotonic() < deadline:
        played.stack.children.check()
        with contextlib.suppress(*_DATABASE_GONE):
            if not any(_left(played).values()):
                return
        time.sleep(LOOK_SECONDS)


def _left(played: Stage) -> dict[str, int]:
    return {
        "reservations": _number(played, "SELECT count(*) FROM biz.ai_budget_reservations"),
        "claims": _number(played, "SELECT count(*) FROM biz.ai_step_claims"),
        "slots": _number(played, "SELECT count(*) FROM biz.ai_call_slots WHERE token IS NOT NULL"),
        "running_logs": _number(played, "SELECT count(*) FROM biz.ai_run_logs WHERE status IN ('pending', 'running')"),
    }


def _measured(played: Stage, name: str, motion: Motion, seconds: float, recovery_seconds: float) -> Outcome:
    counts = played.emulator.counts()
    written_by_calls = _number(
        played,
        "SELECT count(*) FROM biz.ai_cache cached JOIN biz.ai_run_logs log ON log.id = cached.run_log_id"
        " WHERE log.error_code IS DISTINCT FROM 'no_data'",
    )
    again = _number(
        played,
        "SELECT count(*) FROM biz.ai_run_logs log JOIN biz.ai_cache cached"
        " ON cached.site_id = log.site_id AND cached.target_id = log.target_id AND cached.input_hash = log.input_hash"
        " WHERE log.created_at > cached.created_at AND log.request_prompt IS NOT NULL",
    )
    return Outcome(
        name=name,
        faults=motion.faults,
        seconds=seconds,
        recovery_seconds=recovery_seconds,
        calls=counts["posts"],
        answered=counts["answered"],
        windows=_windows(played),
        good=_good_windows(played),
        lost=max(0, counts["answered"] - written_by_calls),
        asked_again_though_written=again,
        jobs_not_at_their_end=_number(played, "SELECT count(*) FROM biz.ai_trigger_jobs WHERE status <> 'completed'"),
        used_tokens=_number(
            played, "SELECT coalesce(sum(used_tokens), 0) FROM biz.ai_budget_windows WHERE scope = 'chain' AND kind = 'day'"
        ),
        paid_tokens=counts["tokens"],
        alerts=_number(played, "SELECT count(*) FROM biz.ai_alerts"),
        occurrences=_number(played, "SELECT coalesce(sum(occurrences), 0) FROM biz.ai_alerts"),
        **_left(played),
    )


def _good_windows(played: Stage) -> int:
    """Windows whose newest valid answer was made from the data as they are now."""
    settings, good = load_settings(played.environment), 0
    for site in _sites(played):
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


def _start_afresh(played: Stage) -> None:
    with played.database.transaction() as connection:
        connection.execute(
            "TRUNCATE biz.ai_cache, biz.ai_run_logs, biz.ai_trigger_jobs, biz.ai_events, biz.ai_budget_windows, biz.ai_budget_reservations,"
            " biz.ai_breakers, biz.ai_rate_limits, biz.ai_step_claims, biz.ai_live_events"
        )
        connection.execute("DELETE FROM biz.ai_alerts")
    played.emulator.reset()
    played.emulator.plan({"latency": LATENCY})


def _sites(played: Stage) -> list[int]:
    with played.database.autocommit() as connection:
        return [row["site_id"] for row in connection.execute("SELECT site_id FROM biz.sites WHERE is_active ORDER BY site_id")]


def _windows(played: Stage) -> int:
    return len(WINDOW_KEYS) * _number(played, "SELECT count(*) FROM biz.sites WHERE is_active")


def _written(played: Stage) -> dict[int, int]:
    """Windows with an answer, by site."""
    rows = _rows(played, "SELECT site_id, count(DISTINCT target_id) AS windows FROM biz.ai_cache WHERE status = 'valid' GROUP BY site_id")
    return {row["site_id"]: row["windows"] for row in rows}


def _is_done(played: Stage) -> bool:
    return not _number(played, "SELECT count(*) FROM biz.ai_trigger_jobs WHERE status IN ('pending', 'running')")


def _number(played: Stage, query: str) -> int:
    return int(next(iter(_rows(played, query)[0].values())))


def _rows(played: Stage, query: str) -> list[dict[str, Any]]:
    return played.database.patiently(lambda connection: connection.execute(query.encode()).fetchall())


# Victims


def kill_connections(played: Stage) -> None:
    _execute(
        played, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )


def kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def run_pids(played: Stage) -> list[int]:
    """The processes of the runs under way, which the launcher names in their event logs; in a fixed order of sites."""
    with psycopg.connect(played.environment["ZQYY_DAGSTER_DATABASE_URL"], autocommit=True) as connection:
        rows = connection.execute(
            "SELECT event FROM event_logs JOIN runs USING (run_id)"
            " WHERE runs.status IN ('STARTING', 'STARTED') AND dagster_event_type = 'ENGINE_EVENT' ORDER BY event_logs.id"
        ).fetchall()
    found = [int(match.group(1)) for (event,) in rows if (match := re.search(r"[Ss]tarted process for run \(pid: (\d+)\)", event))]
    return [pid for pid in found if psutil.pid_exists(pid)]


def _code_server_pids(played: Stage) -> list[int]:
    """The code server's own processes; its runs are left alone."""
    server = psutil.Process(played.stack.children.process_id("code-server"))
    runs = {pid for run in run_pids(played) for pid in (run, *_descendants(run))}
    return [pid for pid in (server.pid, *_descendants(server.pid)) if pid not in runs]


def _descendants(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextlib.contextmanager
def _log_disk(played: Stage) -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """Puts the run logs on a small disk of their own, and gives what fills it. Without the right to mount, a trigger stands in for it."""
    folder = Path(tempfile.mkdtemp(prefix="zqyy-ai-chaos-disk-"))
    is_mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, check=False).returncode == 0
    )
    with contextlib.ExitStack() as parts:
        parts.callback(folder.rmdir)
        if not is_mounted:
            print("disk_full: no right to mount; a trigger raises SQLSTATE 53100 in its place", file=sys.stderr)
            yield lambda: _refusing_logs(played)
            return
        parts.callback(lambda: subprocess.run(["umount", "-l", str(folder)], check=True))
        account = Path(f"/proc/{played.stack.postgres.pid}").stat() if played.stack.postgres else folder.stat()
        data = folder / "data"
        data.mkdir()
        os.chown(folder, account.st_uid, account.st_gid)
        os.chown(data, account.st_uid, account.st_gid)
        _execute(played, f"CREATE TABLESPACE chaos_logs LOCATION '{data}'")
        parts.callback(lambda: _execute(played, "DROP TABLESPACE chaos_logs"))
        _execute(played, "ALTER TABLE biz.ai_run_logs SET TABLESPACE chaos_logs")
        parts.callback(lambda: _execute(played, "ALTER TABLE biz.ai_run_logs SET TABLESPACE pg_default"))
        yield lambda: _filled(folder)


@contextlib.contextmanager
def _filled(folder: Path) -> Iterator[None]:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as target, contextlib.suppress(OSError):
        while True:
            target.write(b"\0" * 4096)
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def _refusing_logs(played: Stage) -> Iterator[None]:
    _execute(
        played,
        "CREATE FUNCTION biz.chaos_no_room() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$;"
        " CREATE TRIGGER chaos_no_room BEFORE INSERT OR UPDATE ON biz.ai_run_logs FOR EACH STATEMENT EXECUTE FUNCTION biz.chaos_no_room()",
    )
    try:
        yield
    finally:
        _execute(played, "DROP FUNCTION biz.chaos_no_room() CASCADE")


def _execute(played: Stage, statement: str) -> None:
    with psycopg.connect(played.stack.database_url, autocommit=True) as connection:
        connection.execute(statement.encode())


# The table


def table(outcomes: list[Outcome], seed: int, other_load: float) -> str:
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, load average {other_load:.1f} before the start"
    lines = [
        f"Seed {seed}; 3 sites, {SLOTS} calls at once, answers after 2–4 s; {machine}.",
        "",
        "| fault | times | windows right | left over¹ | calls | paid, lost² | paid again³ | longest recovery | all done after | alerts (occurrences) | kept |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        left = outcome.reservations + outcome.claims + outcome.slots + outcome.running_logs + outcome.jobs_not_at_their_end
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


def _write_page(text: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", choices=sorted(SCENARIOS))
    parser.add_argument("--sites", type=int, default=3)
    arguments = parser.parse_args()
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # that connections are lost is the point
    names = [arguments.only] if arguments.only else list(SCENARIOS)
    outcomes, other_load = [], os.getloadavg()[0]
    with chaos_stage(arguments.sites) as played:
        for name in names:
            outcomes.append(play(played, name, arguments.seed))
            print(f"{name}: {outcomes[-1]}", flush=True)
            for broken in outcomes[-1].broken_promises():
                print(f"{name}: BROKEN: {broken}", flush=True)
    text = table(outcomes, arguments.seed, other_load)
    print(text)
    if not arguments.only and arguments.sites == 3:
        _write_page(text)
    return 1 if any(outcome.broken_promises() for outcome in outcomes) else 0


@contextlib.contextmanager
def chaos_stage(sites: int) -> Iterator[Stage]:
    with stage(sites, ZQYY_LLM_CONCURRENCY=str(SLOTS)) as played:
        yield played


if __name__ == "__main__":
    sys.exit(main())
