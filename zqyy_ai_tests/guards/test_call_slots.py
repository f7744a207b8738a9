import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from uuid import uuid4

import pytest

from zqyy_ai.domain.errors import GuardRefusal
from zqyy_ai.guards.call_slots import SlotGuard
from zqyy_ai.store import leases
from zqyy_ai.store.database import Connection, Database

MINUTE, NO_WAIT = timedelta(minutes=1), timedelta(0)


def guard_of(database: Database, *, slots: int = 2, worker_id: object = None, lease: timedelta = MINUTE) -> SlotGuard:
    """The guard of one process."""
    return SlotGuard(database, slots=slots, worker_id=worker_id or uuid4(), lease=lease)  # type: ignore[arg-type]


def is_refused(guard: SlotGuard) -> bool:
    try:
        with guard.hold(longest_wait=NO_WAIT):
            return False
    except GuardRefusal as refusal:
        assert refusal.reason == "rate_limited"
        return True


def test_slots_are_held_for_the_length_of_a_block(database: Database) -> None:
    guard = guard_of(database)
    with guard.hold(longest_wait=NO_WAIT) as first, guard.hold(longest_wait=NO_WAIT) as second:
        assert first.slot_number != second.slot_number
        assert is_refused(guard)
    assert not is_refused(guard)


def test_a_call_that_fails_gives_its_slot_back(database: Database) -> None:
    guard = guard_of(database, slots=1)
    with pytest.raises(ZeroDivisionError), guard.hold(longest_wait=NO_WAIT):
        raise ZeroDivisionError
    assert not is_refused(guard)


def test_all_processes_share_the_slots(database: Database) -> None:
    one, other = guard_of(database), guard_of(database)
    with one.hold(longest_wait=NO_WAIT), other.hold(longest_wait=NO_WAIT):
        assert is_refused(one)
        assert is_refused(other)


def test_many_threads_of_two_processes_never_hold_more_than_there_are_slots(database: Database) -> None:
    guards = [guard_of(database, slots=3), guard_of(database, slots=3)]
    lock, held, most = threading.Lock(), 0, 0

    def call(number: int) -> None:
        nonlocal held, most
        with guards[number % 2].hold(longest_wait=MINUTE):
            with lock:
                held += 1
                most = max(most, held)
            with lock:
                held -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(call, range(32)))
    assert 1 <= most <= 3
    assert held == 0


def test_three_slots_are_used_by_three_threads_at_once(database: Database) -> None:
    guard = guard_of(database, slots=3)
    together = threading.Barrier(3)

    def call(_: int) -> None:
        with guard.hold(longest_wait=MINUTE):
            together.wait(20)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(call, range(3)))


def test_who_waits_gets_the_slot_that_becomes_free(database: Database) -> None:
    guard = guard_of(database, slots=1)

    def wait_and_hold() -> int:
        with guard.hold(longest_wait=MINUTE) as slot:
            return slot.slot_number

    with ThreadPoolExecutor(1) as threads, ExitStack() as held:
        held.enter_context(guard.hold(longest_wait=NO_WAIT))
        waiting = threads.submit(wait_and_hold)
        assert not waiting.done()
        held.close()
        assert waiting.result(20) == 1


def test_a_dead_holders_slot_comes_back_when_its_lease_runs_out(database: Database, connection: Connection) -> None:
    dead, alive = uuid4(), guard_of(database, slots=1)
    with ExitStack() as abandoned, ExitStack() as taken_over:
        abandoned.enter_context(guard_of(database, slots=1, worker_id=dead).hold(longest_wait=NO_WAIT))
        assert is_refused(alive)
        leases.renew(connection, dead, timedelta(seconds=-1))
        taken_over.enter_context(alive.hold(longest_wait=NO_WAIT))
        # The dead one turns out to be slow only: what it gives back is not its slot any more.
        abandoned.close()
        assert is_refused(guard_of(database, slots=1))


def test_a_worker_known_to_be_dead_frees_its_slot_at_once(database: Database, connection: Connection) -> None:
    dead, alive = uuid4(), guard_of(database, slots=1)
    with guard_of(database, slots=1, worker_id=dead).hold(longest_wait=NO_WAIT):
        assert is_refused(alive)
        leases.free_all(connection, dead)
        assert not is_refused(alive)


def test_more_slots_in_the_settings_are_more_slots_and_fewer_are_fewer(database: Database) -> None:
    with guard_of(database, slots=1).hold(longest_wait=NO_WAIT):
        assert is_refused(guard_of(database, slots=1))
        assert not is_refused(guard_of(database, slots=2))
        assert is_refused(guard_of(database, slots=1))
