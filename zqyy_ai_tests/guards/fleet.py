"""Ten processes of callers at once, of which some are killed with -9 at random, and the witness that keeps what they did."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from zqyy_ai.store.database import Connection, Database

PROCESSES = 10
KILLED = 3

WITNESS = """
CREATE SCHEMA witness;
CREATE TABLE witness.spending (
    token uuid PRIMARY KEY, process int NOT NULL, site_id bigint NOT NULL, tokens bigint NOT NULL, log_id bigint, spent_tokens bigint,
    was_settled boolean
);
CREATE TABLE witness.refusals (process int NOT NULL);
CREATE TABLE witness.holdings (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind text NOT NULL, what text NOT NULL, process int NOT NULL,
    asked_at timestamptz, started_at timestamptz NOT NULL DEFAULT clock_timestamp(), ended_at timestamptz, was_lost boolean NOT NULL DEFAULT false
);
CREATE TABLE witness.turns (site_id bigint NOT NULL, earliest_at timestamptz NOT NULL, latest_at timestamptz NOT NULL);
CREATE TABLE witness.deaths (process int PRIMARY KEY, died_at timestamptz NOT NULL);
CREATE TABLE witness.admissions (scope text NOT NULL, kind text NOT NULL, spoken_for bigint NOT NULL);
CREATE FUNCTION witness.see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.reserved_tokens > OLD.reserved_tokens THEN
        INSERT INTO witness.admissions VALUES (NEW.scope, NEW.kind, NEW.used_tokens + NEW.reserved_tokens);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER see AFTER UPDATE ON biz.ai_budget_windows FOR EACH ROW EXECUTE FUNCTION witness.see();
"""


@dataclass
class Fleet:
    database: Database
    processes: list[subprocess.Popen[str]]
    alive: list[int] = field(default_factory=list)

    def kill(self, number: int) -> None:
        """With -9; the witness learns of it when the process is gone."""
        process = self.processes[number]
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it had ended before it was killed"
        self.alive.remove(number)
        with self.database.autocommit() as connection:
            connection.execute("INSERT INTO witness.deaths VALUES (%s, clock_timestamp())", [number])

    def stop(self) -> None:
        for number in self.alive:
            said, _ = self.processes[number].communicate()
            assert (self.processes[number].returncode, said) == (0, "done\n")


@contextmanager
def fleet(database: Database, deed: str, *, seed: int, lease_seconds: float, **known: Any) -> Iterator[Fleet]:
    """Ten processes that do `deed` until they are stopped; all are gone at the end of the block."""
    with database.autocommit() as connection:
        connection.execute(WITNESS)
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "zqyy_ai_tests.guards.caller",
                json.dumps(
                    {
                        "url": database.url,
                        "deed": deed,
                        "number": number,
                        "seed": seed * PROCESSES + number,
                        "lease_seconds": lease_seconds,
                        **known,
                    }
                ),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        yield Fleet(database, processes, list(range(PROCESSES)))
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def kill_some(running: Fleet, seed: int, progress: str, *, from_: int, to: int, meanwhile: Callable[[], object]) -> None:
    """Kills 30 % at random moments, counted in what the fleet has done (`progress`, a query for a number) and not in seconds.

    Returns when `to` is reached; `meanwhile` is done again and again.
    """
    chance = random.Random(seed)
    victims = chance.sample(running.alive, KILLED)
    moments = sorted(chance.uniform(from_, to) for _ in victims)
    look = threading.Event()
    while moments or progress_of(running.database, progress) < to:
        if moments and progress_of(running.database, progress) >= moments[0]:
            running.kill(victims.pop())
            moments.pop(0)
        meanwhile()
        look.wait(0.005)


def progress_of(database: Database, query: str) -> int:
    return int(one(database, query))


def one(database: Database, query: str) -> Any:
    """The only value of the only row."""
    with database.autocommit() as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    [value] = row.values()
    return value


def until(is_so: Callable[[], bool]) -> None:
    """Looks again until it is so; pytest's timeout ends what never is."""
    look = threading.Event()
    while not is_so():
        look.wait(0.02)


def held_rows(connection: Connection) -> dict[str, int]:
    row = connection.execute(
        "SELECT (SELECT count(*) FROM biz.ai_step_claims) AS claims,"
        " (SELECT count(*) FROM biz.ai_call_slots WHERE token IS NOT NULL) AS slots,"
        " (SELECT count(*) FROM biz.ai_budget_reservations) AS reservations,"
        " (SELECT coalesce(sum(reserved_tokens), 0)::bigint FROM biz.ai_budget_windows) AS reserved_tokens"
    ).fetchone()
    assert row is not None
    return dict(row)
