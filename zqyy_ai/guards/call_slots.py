"""Call slots: how many calls may be in flight at once, across all processes and machines.

A slot is a leased row. Those who wait in one process queue up locally and only the first of them looks into the database, so that a
hundred waiting threads cost no more statements than one.

Fails closed: without a slot there is no call.
"""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

from zqyy_ai.domain.errors import GuardRefusal
from zqyy_ai.guards import SQL_PACKAGE
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.queries import named_queries

# Between two looks for a free slot. Calls take seconds: a tenth of one lost at a hand-over is under 1 %.
_LOOK_INTERVAL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Slot:
    slot_number: int
    token: UUID


class SlotGuard:
    """`stopping`, once set, ends all waiting with a refusal."""

    def __init__(
        self, database: Database, *, slots: int, worker_id: UUID, lease: timedelta, stopping: threading.Event | None = None
    ) -> None:
        self._database = database
        self._slots = slots
        self._worker_id = worker_id
        self._lease = lease
        self._stopping = stopping or threading.Event()
        self._turn = threading.Lock()
        self._slots_exist = False

    @contextmanager
    def hold(self, *, longest_wait: timedelta) -> Iterator[Slot]:
        """A slot for the length of the block. Raises GuardRefusal (`rate_limited`) when none got free within `longest_wait`."""
        slot = self._wait_for_slot(time.monotonic() + longest_wait.total_seconds())
        try:
            yield slot
        finally:
            # Surely: a lost connection here must not lose the answer that the block brought.
            release = named_queries("call_slots", SQL_PACKAGE)["release"]
            self._database.write_surely(
                lambda connection: connection.execute(release, {"slot_number": slot.slot_number, "token": slot.token}),
                in_one_transaction=False,
            )

    def renew(self, connection: Connection, slot: Slot) -> bool:
        """Counts the slot's lease anew from now: just before the call leaves. False when it was lost to another."""
        renewed = {"slot_number": slot.slot_number, "token": slot.token, "lease": self._lease}
        return connection.execute(named_queries("call_slots", SQL_PACKAGE)["renew"], renewed).rowcount == 1

    def _wait_for_slot(self, deadline: float) -> Slot:
        if not self._turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise self._refusal()
        try:
            while True:
                slot = self._try_to_take()
                if slot is not None:
                    return slot
                if time.monotonic() >= deadline:
                    raise self._refusal()
                if self._stopping.wait(_LOOK_INTERVAL_SECONDS * random.uniform(0.5, 1.0)):
                    raise GuardRefusal("stopped", "进程正在停止,未发起调用")
        finally:
            self._turn.release()

    def _try_to_take(self) -> Slot | None:
        queries = named_queries("call_slots", SQL_PACKAGE)
        token = uuid4()
        taking = {"slots": self._slots, "token": token, "worker_id": self._worker_id, "lease": self._lease}
        may_be_taken = False

        def take(connection: Connection) -> Slot | None:
            nonlocal may_be_taken
            if not self._slots_exist:
                connection.execute(queries["provide"], {"slots": self._slots})
            # A repetition may have its slot already, though the confirmation got lost.
            row = connection.execute(queries["held"], taking).fetchone() if may_be_taken else None
            may_be_taken = True
            row = row or connection.execute(queries["take"], taking).fetchone()
            return Slot(row["slot_number"], token) if row else None

        slot = self._database.patiently(take, in_one_transaction=False)
        self._slots_exist = True
        return slot

    def _refusal(self) -> GuardRefusal:
        return GuardRefusal("rate_limited", f"并发限制:{self._slots} 个调用名额在等待时间内没有空出")
