"""Faults in motion: what breaks while the stack works, who the victims are, and how long the work needs to go on afterwards.

What work is in motion, and what is promised of it, is for `chaos_prewarm.py` and `chaos_events.py` to say. Moments and victims hang on the
motion's chance alone.
"""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
from psycopg_pool import PoolTimeout

from benchmarks.stage import Stage

MOST_RECOVERY_SECONDS = 30.0
LONGEST_SECONDS = 300.0
LOOK_SECONDS = 0.25
DATABASE_GONE = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout)
# What the work of a scenario left in the application's database, but for what is configured there.
_FORGET = (
    "TRUNCATE biz.ai_cache, biz.ai_run_logs, biz.ai_trigger_jobs, biz.ai_events, biz.ai_event_runs, biz.ai_budget_windows,"
    " biz.ai_budget_reservations, biz.ai_breakers, biz.ai_rate_limits, biz.ai_step_claims, biz.ai_live_events, public.member_retention_clue;"
    " DELETE FROM biz.ai_alerts"
)


@dataclass(slots=True)
class Motion:
    """What a scenario has to do with while the work moves. `share_done` says how much of it is done, from 0 to 1. `ends` are the moments at
    which a fault was over, in seconds since the epoch: the database writes such ones too."""

    stage: Stage
    chance: random.Random
    share_done: Callable[[], float]
    is_over: threading.Event = field(default_factory=threading.Event)
    faults: int = 0
    ends: list[float] = field(default_factory=list)

    def wait(self, seconds: float) -> bool:
        """False when the work is at its end, and no further fault is wanted."""
        return not self.is_over.wait(seconds)

    def wait_until(self, has_come: Callable[[], bool], look_seconds: float = LOOK_SECONDS) -> bool:
        while self.wait(look_seconds):
            with contextlib.suppress(*DATABASE_GONE):
                if has_come():
                    return True
        return False

    def fault_is_over(self) -> None:
        self.faults += 1
        self.ends.append(time.time())

    def first_moment(self) -> bool:
        """Waits for a seeded part of the way: from a tenth to a half of the work done."""
        wanted = self.chance.uniform(0.1, 0.5)
        return self.wait_until(lambda: self.share_done() >= wanted)


Faults = Callable[[Motion], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    title: str
    play: Faults


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
        if motion.first_moment() and (pids := motion.stage.run_pids()):
            kill(motion.chance.choice(pids))
            motion.fault_is_over()


def code_server_killed(motion: Motion) -> None:
    if motion.first_moment():
        kill(*code_server_pids(motion.stage))
        motion.fault_is_over()


def daemon_killed(motion: Motion) -> None:
    """Together with one run, so that there is something that only the daemon can bring back."""
    if motion.first_moment():
        kill(daemon_pid(motion.stage), *motion.stage.run_pids()[:1])
        motion.fault_is_over()


def everything_killed(motion: Motion) -> None:
    """Runs, code server, daemon and PostgreSQL at one moment; PostgreSQL is back after 2 s."""
    postgres = motion.stage.stack.postgres
    assert postgres is not None
    if motion.first_moment():
        kill(*motion.stage.run_pids(), *code_server_pids(motion.stage), daemon_pid(motion.stage))
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


# Victims


def kill_connections(played: Stage) -> None:
    played.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )


def kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def daemon_pid(played: Stage) -> int:
    return played.stack.children.process_id("daemon")


def code_server_pids(played: Stage) -> list[int]:
    """The code server's own processes; its runs are left alone."""
    server = psutil.Process(played.stack.children.process_id("code-server"))
    runs = {pid for run in played.run_pids() for pid in (run, *_descendants(run))}
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
        played.execute(f"CREATE TABLESPACE chaos_logs LOCATION '{data}'")
        parts.callback(lambda: played.execute("DROP TABLESPACE chaos_logs"))
        played.execute("ALTER TABLE biz.ai_run_logs SET TABLESPACE chaos_logs")
        parts.callback(lambda: played.execute("ALTER TABLE biz.ai_run_logs SET TABLESPACE pg_default"))
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
    played.execute(
        "CREATE FUNCTION biz.chaos_no_room() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$;"
        " CREATE TRIGGER chaos_no_room BEFORE INSERT OR UPDATE ON biz.ai_run_logs FOR EACH STATEMENT EXECUTE FUNCTION biz.chaos_no_room()",
    )
    try:
        yield
    finally:
        played.execute("DROP FUNCTION biz.chaos_no_room() CASCADE")


# What every scenario has in common


def start_afresh(played: Stage, latency: Mapping[str, object]) -> None:
    """As if nothing had ever been asked. Waits for the runs of before, which close when they have been idle."""
    deadline = time.monotonic() + 2 * MOST_RECOVERY_SECONDS
    while (runs := played.runs_under_way()) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    if runs:
        raise RuntimeError(f"runs of the scenario before have not ended: {runs}")
    played.execute(_FORGET)
    played.emulator.reset()
    played.emulator.plan({"latency": latency})


def set_in_motion(motion: Motion, name: str, faults: Faults, is_done: Callable[[], bool]) -> tuple[float, float]:
    """Plays the faults until the work is done, or `LONGEST_SECONDS` are over. Returns how long that took and when it was (epoch seconds)."""
    children = motion.stage.stack.children
    failed: list[BaseException] = []

    def run() -> None:
        try:
            faults(motion)
        except BaseException as failure:
            failed.append(failure)

    playing = threading.Thread(target=run, name=name, daemon=True)
    started = time.monotonic()
    playing.start()
    while time.monotonic() - started < LONGEST_SECONDS:
        children.check()
        with contextlib.suppress(*DATABASE_GONE):
            if is_done():
                break
        time.sleep(LOOK_SECONDS)
    seconds, finished = time.monotonic() - started, time.time()
    motion.is_over.set()
    playing.join(60.0)
    if failed:
        raise failed[0]
    _await_the_last_loose_end(motion.stage)
    return seconds, finished


def _await_the_last_loose_end(played: Stage) -> None:
    """Jobs end before their runs do, and what the dead held is freed a lease later: bounded by the time a recovery may take."""
    deadline = time.monotonic() + MOST_RECOVERY_SECONDS
    while time.monotonic() < deadline:
        played.stack.children.check()
        with contextlib.suppress(*DATABASE_GONE):
            if left_over(played).is_nothing:
                return
        time.sleep(LOOK_SECONDS)


@dataclass(frozen=True, slots=True)
class LeftOver:
    """What nobody should hold any more."""

    reservations: int
    claims: int
    slots: int
    running_logs: int

    @property
    def is_nothing(self) -> bool:
        return self.total == 0

    @property
    def total(self) -> int:
        return self.reservations + self.claims + self.slots + self.running_logs


def left_over(played: Stage) -> LeftOver:
    return LeftOver(
        reservations=played.number("SELECT count(*) FROM biz.ai_budget_reservations"),
        claims=played.number("SELECT count(*) FROM biz.ai_step_claims"),
        slots=played.number("SELECT count(*) FROM biz.ai_call_slots WHERE token IS NOT NULL"),
        running_logs=played.number("SELECT count(*) FROM biz.ai_run_logs WHERE status IN ('pending', 'running')"),
    )


def longest_recovery(played: Stage, motion: Motion, wanted_by_site: Mapping[int, int], finished: float) -> float:
    """The longest time from a fault's end to the next answer written for a site that still lacked some, or to the end of all work.

    While the next fault comes before anything has moved, the trouble is not over and the clock begins anew. Faults after the end don't count.
    """
    written: dict[int, list[float]] = {site: [] for site in wanted_by_site}
    for row in played.rows("SELECT site_id, extract(epoch FROM created_at)::float8 AS at FROM biz.ai_cache ORDER BY created_at"):
        if row["site_id"] in written:
            written[row["site_id"]].append(row["at"])
    longest = 0.0
    ends = [end for end in motion.ends if end < finished]
    for end, following in itertools.pairwise([*ends, finished]):
        for site, moments in written.items():
            moved = next((at for at in moments if at > end), finished)
            if sum(at <= end for at in moments) < wanted_by_site[site] and moved <= following:
                longest = max(longest, moved - end)
    return longest


def paid_again_though_written(played: Stage) -> int:
    """Calls for a target after its answer was written: by the same job, or for the same input."""
    return played.number(
        "SELECT count(DISTINCT log.id) FROM biz.ai_run_logs log"
        " JOIN biz.ai_cache cached ON cached.site_id = log.site_id AND cached.target_id = log.target_id"
        " JOIN biz.ai_run_logs answered ON answered.id = cached.run_log_id AND answered.app_type = log.app_type"
        " WHERE log.created_at > cached.created_at AND log.request_prompt IS NOT NULL"
        " AND (log.trigger_job_id = answered.trigger_job_id OR log.input_hash = cached.input_hash)"
    )


def lost_answers(played: Stage, answered: int) -> int:
    """Answers that were paid and not kept, of so many that went out."""
    kept = played.number(
        "SELECT count(*) FROM biz.ai_cache cached JOIN biz.ai_run_logs log ON log.id = cached.run_log_id"
        " WHERE log.error_code IS DISTINCT FROM 'no_data'"
    )
    return max(0, answered - kept)


def charged_tokens(played: Stage) -> int:
    return played.number("SELECT coalesce(sum(used_tokens), 0) FROM biz.ai_budget_windows WHERE scope = 'chain' AND kind = 'day'")
