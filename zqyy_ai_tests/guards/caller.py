"""One process of callers, started by `fleet.py`: it uses the real guards on the test's database until it is told to stop or killed.

What it does is written into the witness's tables, in the same transaction as the guard's own change wherever that is what counts. It
imports no more than the guards, so that ten of them start in a second or two.
"""

import json
import random
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from zqyy_ai.domain.business_clock import MIDNIGHT
from zqyy_ai.domain.errors import GuardRefusal
from zqyy_ai.engine.worker import Worker
from zqyy_ai.guards.breaker import BreakerGuard, BreakerPolicy
from zqyy_ai.guards.budget import BudgetGuard, BudgetPolicy
from zqyy_ai.guards.call_slots import SlotGuard
from zqyy_ai.guards.rate_limit import Rate, RateGuard, RatePolicy
from zqyy_ai.store import run_logs, step_claims
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.run_logs import RunSubject

APP = "app2_finance"
SITES = (1001, 1002, 1003)


class Caller:
    def __init__(self, database: Database, worker: Worker, known: dict[str, Any]) -> None:
        self.database = database
        self.worker = worker
        self.known = known
        self.number: int = known["number"]
        self.random = random.Random(known["seed"])
        self.stopping = worker.stopping

    def pause(self, longest_ms: float) -> None:
        self.stopping.wait(self.random.uniform(0, longest_ms) / 1000)

    def spend(self) -> None:
        """Reserves, sends and settles; now and then it releases instead, and now and then it uses more than it reserved."""
        guard = BudgetGuard(BudgetPolicy(**self.known["budget"]))
        site_id, tokens = self.random.choice(SITES), self.random.randint(20, 120)
        try:
            with self.database.transaction() as connection:
                reservation = guard.reserve(
                    connection,
                    site_id=site_id,
                    site_cutoff=MIDNIGHT,
                    app_type=APP,
                    tokens=tokens,
                    worker_id=self.worker.id,
                    lease=self.worker.lease,
                )
                connection.execute(
                    "INSERT INTO witness.spending (token, process, site_id, tokens) VALUES (%s, %s, %s, %s)",
                    [reservation.token, self.number, site_id, tokens],
                )
        except GuardRefusal:
            self._write("INSERT INTO witness.refusals (process) VALUES (%s)", [self.number])
            self.pause(10)
            return
        self.pause(10)
        spent_tokens = 0
        if self.random.random() > 0.1:
            with self.database.transaction() as connection:
                log_id = run_logs.start(connection, RunSubject(APP, site_id, "this_month__all", "event"), "提示词")
                assert guard.mark_sent(connection, reservation, run_log_id=log_id, lease=self.worker.lease)
                connection.execute("UPDATE witness.spending SET log_id = %s WHERE token = %s", [log_id, reservation.token])
            self.pause(30)
            spent_tokens = round(tokens * self.random.choice((0.4, 0.6, 0.8, 0.9, 1.0, 1.0, 1.3)))
        with self.database.transaction() as connection:
            settlement = guard.settle(connection, reservation, spent_tokens)
            connection.execute(
                "UPDATE witness.spending SET spent_tokens = %s, was_settled = %s WHERE token = %s",
                [spent_tokens, settlement is not None, reservation.token],
            )
            guard.report_overshoot(connection, settlement)

    def claim(self) -> None:
        """Claims one of a few targets, works on it for a moment and gives it back."""
        target_id = f"target-{self.random.randrange(4)}"
        with self.database.autocommit() as connection:
            claim = step_claims.take(connection, APP, 1001, target_id, worker_id=self.worker.id, lease=self.worker.lease)
        if claim is None:
            self.pause(2)
            return
        held = self._begin("claim", target_id)
        self.pause(20)
        self._end(held)
        with self.database.autocommit() as connection:
            is_mine = step_claims.end(connection, claim)
        self._write("UPDATE witness.holdings SET was_lost = %s WHERE id = %s", [not is_mine, held])

    def fly(self) -> None:
        """Holds a slot, and asks for the next at once: nothing but the slots keeps ten processes apart."""
        try:
            with self.slots.hold(longest_wait=timedelta(0)):
                flying = self._begin("slot", "")
                self.pause(10)
                self._end(flying)
        except GuardRefusal:
            self.pause(1)

    def take_turn(self) -> None:
        """Takes turns as fast as it gets them, most of them for one site, and does not wait for them: what counts is where they lie."""
        guard = RateGuard(RatePolicy(site=Rate(**self.known["site_rate"]), app=Rate(**self.known["app_rate"])))
        site_id = self.random.choice((1001, 1001, 1001, *SITES))
        try:
            with self.database.transaction() as connection:
                before = self._now(connection)
                wait = guard.take(connection, site_id, APP, longest_wait=timedelta(seconds=0.3))
                connection.execute(
                    "INSERT INTO witness.turns (site_id, earliest_at, latest_at) VALUES (%s, %s, clock_timestamp() + %s)",
                    [site_id, before + wait, wait],
                )
        except GuardRefusal:
            self.pause(10)

    def probe(self) -> None:
        """Asks a breaker that never gets well; where it is let through it is the probe, and fails."""
        guard = BreakerGuard(*(BreakerPolicy(5, timedelta(seconds=0.05), self.worker.lease),) * 2)
        try:
            with self.database.transaction() as connection:
                asked_at = self._now(connection)
                permit = guard.admit(connection, APP)
                probe = self._begin("probe", str(permit.probe_token), connection, asked_at)
        except GuardRefusal:
            self.pause(20)
            return
        self.pause(20)
        try:
            with self.database.transaction() as connection:
                assert guard.readmit(connection, permit) == permit
        except GuardRefusal:
            self._end(probe)
            return
        self.pause(150)
        with self.database.transaction() as connection:
            connection.execute("UPDATE witness.holdings SET ended_at = clock_timestamp() WHERE id = %s", [probe])
            guard.record_failure(connection, permit, "InternalError")

    @property
    def slots(self) -> SlotGuard:
        if not hasattr(self, "_slots"):
            self._slots = SlotGuard(self.database, slots=self.known["slots"], worker_id=self.worker.id, lease=self.worker.lease)
        return self._slots

    # The witness's tables

    def _begin(self, kind: str, what: str, connection: Connection | None = None, asked_at: object = None) -> int:
        insert = b"INSERT INTO witness.holdings (kind, what, process, asked_at) VALUES (%s, %s, %s, %s) RETURNING id"
        values = [kind, what, self.number, asked_at]
        if connection is not None:
            row = connection.execute(insert, values).fetchone()
        else:
            with self.database.autocommit() as own:
                row = own.execute(insert, values).fetchone()
        assert row is not None
        return int(row["id"])

    def _end(self, holding: int) -> None:
        self._write("UPDATE witness.holdings SET ended_at = clock_timestamp() WHERE id = %s", [holding])

    def _write(self, statement: str, values: list[Any]) -> None:
        with self.database.autocommit() as connection:
            connection.execute(statement.encode(), values)

    def _now(self, connection: Connection) -> Any:
        row = connection.execute("SELECT clock_timestamp() AS now").fetchone()
        assert row is not None
        return row["now"]


def stop_at_end_of_input(worker: Worker) -> None:
    sys.stdin.read()
    worker.stopping.set()


def main() -> None:
    known = json.loads(sys.argv[1])
    lease = timedelta(seconds=known["lease_seconds"])
    with Database(known["url"], max_connections=3) as database, Worker(database, lease=lease) as worker:
        deed: Callable[[], None] = getattr(Caller(database, worker, known), known["deed"])
        with database.autocommit() as connection:
            connection.execute("SELECT 1")
        print("ready", flush=True)
        sys.stdin.readline()
        threading.Thread(target=stop_at_end_of_input, args=(worker,), daemon=True).start()
        while not worker.stopping.is_set():
            deed()
    print("done", flush=True)


if __name__ == "__main__":
    main()
