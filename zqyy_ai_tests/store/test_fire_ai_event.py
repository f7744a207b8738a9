"""`biz.fire_ai_event` in other people's transactions: it never raises and never waits, whoever else is at it.

Callers here have a short lock_timeout and statement_timeout, where nothing else is said: whoever waited would fail.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from zqyy_ai.store import events
from zqyy_ai.store.database import Connection, Database

IMPATIENT = "-c lock_timeout=1s -c statement_timeout=5s"
ISOLATION = (psycopg.IsolationLevel.READ_COMMITTED, psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE)
CONSUMPTION: dict[str, Any] = {"site_id": 1001, "member_id": 7}
NOTE: dict[str, Any] = {"site_id": 1001, "member_id": 8, "note_content": "喜欢靠窗的台"}


@contextmanager
def caller(
    database: Database, isolation: psycopg.IsolationLevel = psycopg.IsolationLevel.READ_COMMITTED, *, options: str = IMPATIENT
) -> Iterator[Connection]:
    """Another service's connection, in a transaction that has already written something of its own."""
    with psycopg.connect(database.url, options=options, row_factory=psycopg.rows.dict_row) as connection:
        connection.isolation_level = isolation
        connection.execute("INSERT INTO biz.ai_live_events (event_type) VALUES ('settlement')")
        yield connection


def inbox(connection: Connection) -> list[tuple[str, Any]]:
    return [
        (row["event_name"], row["payload"]["member_id"])
        for row in connection.execute("SELECT event_name, payload FROM biz.ai_events ORDER BY id")
    ]


def settlements(connection: Connection) -> int:
    return connection.execute("SELECT FROM biz.ai_live_events").rowcount


@pytest.mark.parametrize("isolation", ISOLATION, ids=lambda level: level.name)
@pytest.mark.parametrize("first_to_commit", [0, 1])
def test_long_transactions_that_fire_the_same_and_crossed_events_never_wait_for_each_other(
    database: Database, connection: Connection, isolation: psycopg.IsolationLevel, first_to_commit: int
) -> None:
    with caller(database, isolation) as one, caller(database, isolation) as other:
        ids = [
            events.fire(one, "ai_consumption_settled", CONSUMPTION),
            events.fire(other, "ai_note_created", NOTE),
            events.fire(one, "ai_note_created", NOTE),
            events.fire(other, "ai_consumption_settled", CONSUMPTION),
            events.fire(one, "ai_consumption_settled", CONSUMPTION),
            events.fire(other, "ai_consumption_settled", CONSUMPTION),
        ]
        assert inbox(connection) == []
        [first, last] = [one, other] if first_to_commit == 0 else [other, one]
        first.commit()
        assert len(inbox(connection)) == 3
        assert events.fire(last, "ai_consumption_settled", CONSUMPTION) is not None
        last.commit()
    assert None not in ids and len(set(ids)) == 6
    assert (len(inbox(connection)), settlements(connection)) == (7, 2)


@pytest.mark.parametrize("isolation", ISOLATION, ids=lambda level: level.name)
def test_a_caller_that_rolls_back_leaves_no_event_and_takes_nobodys_along(
    database: Database, connection: Connection, isolation: psycopg.IsolationLevel
) -> None:
    with caller(database, isolation) as kept, caller(database, isolation) as undone:
        for one in (undone, kept):
            assert events.fire(one, "ai_consumption_settled", CONSUMPTION) is not None
        undone.rollback()
        kept.commit()
    assert (len(inbox(connection)), settlements(connection)) == (1, 1)


def test_firing_goes_on_while_an_intake_holds_its_lock_and_has_marked_rows(database: Database, connection: Connection) -> None:
    events.fire(connection, "ai_consumption_settled", CONSUMPTION)
    with database.transaction() as intake:
        events.lock_intake(intake)
        [waiting] = events.waiting_events(intake, 10, largest_bytes=1000)
        events.mark_handled(intake, waiting.id, rejected_reason="测试")
        with caller(database) as settlement:
            assert events.fire(settlement, "ai_consumption_settled", CONSUMPTION) is not None
            settlement.commit()
        assert len(inbox(connection)) == 2
    assert events.has_waiting_events(connection)


def test_in_a_read_only_transaction_it_returns_null_and_the_caller_goes_on(connection: Connection) -> None:
    with connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        assert events.fire(connection, "ai_consumption_settled", CONSUMPTION) is None
        assert connection.execute("SELECT 1 AS one").fetchone() == {"one": 1}
    assert inbox(connection) == []


def test_a_table_that_somebody_has_locked_costs_the_event_at_the_callers_lock_timeout_and_not_the_settlement(
    database: Database, connection: Connection
) -> None:
    with database.transaction() as migration, caller(database) as settlement:
        migration.execute("LOCK TABLE biz.ai_events IN ACCESS EXCLUSIVE MODE")
        settlement.execute("SET LOCAL lock_timeout = '50ms'")
        assert events.fire(settlement, "ai_consumption_settled", CONSUMPTION) is None
        settlement.commit()
    assert (inbox(connection), settlements(connection)) == ([], 1)


def test_an_event_of_a_savepoint_goes_with_it_and_the_others_stay(database: Database, connection: Connection) -> None:
    with caller(database) as settlement:
        events.fire(settlement, "ai_consumption_settled", CONSUMPTION)
        with settlement.transaction() as savepoint:
            events.fire(settlement, "ai_note_created", NOTE)
            raise psycopg.Rollback(savepoint)
        with settlement.transaction():
            events.fire(settlement, "ai_task_assigned", CONSUMPTION | {"assistant_id": 12})
        settlement.commit()
    assert [name for name, _ in inbox(connection)] == ["ai_consumption_settled", "ai_task_assigned"]


@pytest.mark.parametrize("isolation", ISOLATION, ids=lambda level: level.name)
def test_a_thousand_firings_at_once_are_a_thousand_events_and_every_caller_commits(
    database: Database, connection: Connection, isolation: psycopg.IsolationLevel
) -> None:
    callers, firings = 40, 25
    together = threading.Barrier(callers)

    def fire_repeatedly(_: int) -> list[int | None]:
        ids = []
        with caller(database, isolation) as settlement:
            together.wait()
            for _ in range(firings):
                ids.append(events.fire(settlement, "ai_consumption_settled", CONSUMPTION))
                settlement.commit()
        return ids

    with ThreadPoolExecutor(callers) as threads:
        ids = [event_id for ids in threads.map(fire_repeatedly, range(callers)) for event_id in ids]
    assert None not in ids and len(set(ids)) == callers * firings
    assert len(inbox(connection)) == callers * firings


def is_woken(listener: psycopg.Connection[Any], *, within_seconds: float) -> bool:
    return bool(list(listener.notifies(timeout=within_seconds, stop_after=1)))


def test_of_callers_at_once_one_wakes_those_who_wait_because_commits_that_wake_wait_for_one_another(
    database: Database, connection: Connection
) -> None:
    """Whoever waits for work looks into the inbox by itself."""
    with database.listener() as listener, caller(database, options="") as long, caller(database, options="") as short:
        listener.execute(b"LISTEN " + events.WORK_CHANNEL.encode())
        events.fire(long, "ai_consumption_settled", CONSUMPTION)
        events.fire(short, "ai_note_created", NOTE)
        short.commit()
        assert not is_woken(listener, within_seconds=0)
        assert events.has_waiting_events(connection)
        long.commit()
        assert is_woken(listener, within_seconds=10)
        events.fire(short, "ai_note_created", NOTE)
        short.commit()
        assert is_woken(listener, within_seconds=10)


def test_a_caller_that_would_not_wait_for_a_lock_wakes_nobody(database: Database, connection: Connection) -> None:
    """200 callers that all notified had three of four commits fail at a lock_timeout of 100 ms."""
    with database.listener() as listener, caller(database) as impatient, caller(database, options="") as patient:
        listener.execute(b"LISTEN " + events.WORK_CHANNEL.encode())
        events.fire(impatient, "ai_consumption_settled", CONSUMPTION)
        events.fire(patient, "ai_note_created", NOTE)
        impatient.commit()
        assert not is_woken(listener, within_seconds=0)
        assert events.has_waiting_events(connection)
        patient.commit()
        assert is_woken(listener, within_seconds=10)


def test_a_caller_that_undid_its_event_keeps_no_other_from_waking(database: Database) -> None:
    with database.listener() as listener, caller(database, options="") as long, caller(database, options="") as short:
        listener.execute(b"LISTEN " + events.WORK_CHANNEL.encode())
        with long.transaction() as savepoint:
            events.fire(long, "ai_consumption_settled", CONSUMPTION)
            raise psycopg.Rollback(savepoint)
        events.fire(short, "ai_note_created", NOTE)
        short.commit()
        assert is_woken(listener, within_seconds=10)


def test_it_does_not_fill_a_notification_queue_that_nobody_empties(connection: Connection) -> None:
    """A full queue fails the commit of whoever notifies. Gigabytes would have to be sent to see it, so this reads the function."""
    row = connection.execute("SELECT prosrc FROM pg_proc WHERE oid = 'biz.fire_ai_event'::regproc").fetchone()
    assert row is not None
    condition, notifies, _ = str(row["prosrc"]).partition("PERFORM pg_notify")
    assert notifies
    assert "IF pg_notification_queue_usage() < 0.5" in condition
