from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from zqyy_ai.domain.events import EventName
from zqyy_ai.store import events
from zqyy_ai.store.database import Connection, Database

FIRE = "SELECT biz.fire_ai_event(%s, %s)"


def inbox(connection: Connection) -> list[dict[str, Any]]:
    return connection.execute("SELECT id, event_name, payload, handled_at FROM biz.ai_events ORDER BY id").fetchall()


def test_firing_appends_a_row_and_returns_its_id(connection: Connection) -> None:
    event_id = events.fire(connection, EventName.DWS_COMPLETED, {"site_id": 1001, "备注": "晚到"})
    assert inbox(connection) == [
        {"id": event_id, "event_name": "ai_dws_completed", "payload": {"site_id": 1001, "备注": "晚到"}, "handled_at": None}
    ]


def test_an_event_is_committed_with_its_callers_transaction_or_not_at_all(database: Database, connection: Connection) -> None:
    with database.transaction() as settlement:
        settlement.execute("INSERT INTO biz.sites (site_id) VALUES (7)")
        events.fire(settlement, "ai_consumption_settled", {"site_id": 7})
        assert inbox(connection) == []
    with pytest.raises(ZeroDivisionError), database.transaction() as settlement:
        events.fire(settlement, "ai_consumption_settled", {"site_id": 8})
        raise ZeroDivisionError
    assert [row["payload"] for row in inbox(connection)] == [{"site_id": 7}]


@pytest.mark.parametrize(
    ("event_name", "payload"),
    [
        (None, None),
        ("", {}),
        ("no_such_event", {"site_id": 1}),
        ("ai_dws_completed", None),
        ("ai_dws_completed", []),
        ("ai_dws_completed", "text"),
        ("ai_dws_completed", {"site_id": "not a number"}),
        ("名" * 100_000, {"x": "长" * 2_000_000}),
    ],
    ids=["nothing", "empty", "unknown", "null payload", "list", "text", "wrong type", "huge"],
)
def test_firing_never_raises_and_keeps_whatever_it_is_given(connection: Connection, event_name: str | None, payload: Any) -> None:
    row = connection.execute(FIRE, [event_name, None if payload is None else Jsonb(payload)]).fetchone()
    assert row is not None
    assert row["fire_ai_event"] == inbox(connection)[0]["id"]
    assert (inbox(connection)[0]["event_name"], inbox(connection)[0]["payload"]) == (event_name, payload)


def test_where_it_cannot_record_an_event_it_returns_null_and_the_callers_transaction_goes_on(
    database: Database, connection: Connection
) -> None:
    """A settlement must never fail because of AI."""
    connection.execute("ALTER TABLE biz.ai_events ADD CONSTRAINT nothing_goes CHECK (false)")
    with database.transaction() as settlement:
        assert events.fire(settlement, "ai_consumption_settled", {"site_id": 7}) is None
        settlement.execute("INSERT INTO biz.sites (site_id) VALUES (7)")
    connection.execute("ALTER TABLE biz.ai_events DROP CONSTRAINT nothing_goes")
    assert connection.execute("SELECT count(*) FROM biz.sites").fetchone() == {"count": 1}


def test_firing_wakes_who_listens_for_work_once_the_event_is_committed(database: Database) -> None:
    with database.listener() as listener:
        listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(events.WORK_CHANNEL)))
        with database.transaction() as settlement:
            events.fire(settlement, EventName.DWS_COMPLETED, {"site_id": 1001})
            assert list(listener.notifies(timeout=0)) == []
        heard = list(listener.notifies(timeout=10, stop_after=1))
    assert [(note.channel, note.payload) for note in heard] == [(events.WORK_CHANNEL, "")]


def test_a_role_without_any_right_on_our_tables_may_fire_and_nothing_else(connection: Connection) -> None:
    # Roles are the whole server's: the name must not meet another worker's.
    role = sql.Identifier(f"cashier_{connection.info.dbname}")
    connection.execute(sql.SQL("CREATE ROLE {}").format(role))
    try:
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA biz TO {}").format(role))
        connection.execute(sql.SQL("SET ROLE {}").format(role))
        assert events.fire(connection, EventName.DWS_COMPLETED, {"site_id": 1001}) is not None
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            inbox(connection)
        connection.execute("RESET ROLE")
        assert len(inbox(connection)) == 1
    finally:
        connection.execute("RESET ROLE")
        connection.execute(sql.SQL("DROP OWNED BY {}").format(role))
        connection.execute(sql.SQL("DROP ROLE {}").format(role))


def test_a_callers_search_path_cannot_lead_it_to_another_table(connection: Connection) -> None:
    connection.execute("CREATE SCHEMA evil; CREATE FUNCTION evil.pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT 1/0'")
    connection.execute("SET search_path = evil, pg_catalog")
    assert events.fire(connection, EventName.DWS_COMPLETED, {"site_id": 1001}) is not None
    connection.execute("RESET search_path")


def test_two_callers_never_wait_for_each_other(database: Database) -> None:
    with database.transaction() as first, database.transaction() as second:
        second.execute("SET LOCAL lock_timeout = '2s'")
        events.lock_intake(first)
        assert events.fire(first, EventName.DWS_COMPLETED, {"site_id": 1001}) is not None
        assert events.fire(second, EventName.DWS_COMPLETED, {"site_id": 1001}) is not None


def test_events_of_every_name_wait_oldest_first_until_they_are_handled(connection: Connection) -> None:
    assert not events.has_waiting_events(connection)
    names = (*EventName, "no_such_event")
    ids = [events.fire(connection, name, {"site_id": 1001}) for name in names]
    assert events.has_waiting_events(connection)
    waiting = events.waiting_events(connection, 10, largest_bytes=1000)
    assert [(event.id, event.event_name) for event in waiting] == list(zip(ids, names, strict=True))
    assert [event.id for event in events.waiting_events(connection, 2, largest_bytes=1000)] == ids[:2]


def test_a_payload_above_the_limit_stays_where_it_is(connection: Connection) -> None:
    events.fire(connection, EventName.NOTE_CREATED, {"note_content": "长" * 1000})
    [waiting] = events.waiting_events(connection, 10, largest_bytes=1000)
    assert waiting.payload_text is None and (waiting.payload_bytes or 0) > 3000


def test_many_events_are_marked_with_their_jobs_at_once(connection: Connection) -> None:
    ids = [events.fire(connection, EventName.CONSUMPTION_SETTLED, {}) or 0 for _ in range(3)]
    events.mark_all_handled(connection, [(ids[0], 7), (ids[2], 8)])
    rows = connection.execute("SELECT id, trigger_job_id FROM biz.ai_events WHERE handled_at IS NOT NULL ORDER BY id").fetchall()
    assert [(row["id"], row["trigger_job_id"]) for row in rows] == [(ids[0], 7), (ids[2], 8)]


def test_a_handled_event_waits_no_longer(connection: Connection) -> None:
    event_id = events.fire(connection, EventName.DWS_COMPLETED, {"site_id": 1001})
    assert event_id is not None
    events.mark_handled(connection, event_id, rejected_reason="测试")
    assert not events.has_waiting_events(connection)


def test_an_etl_run_is_seen_once_for_each_site(connection: Connection) -> None:
    for _ in range(2):
        events.see_etl_run(connection, "load-1", 1001, 1)
    events.see_etl_run(connection, "load-1", 1002, 2)
    assert events.seen_etl_runs(connection, ["load-1", "load-2"]) == {("load-1", 1001), ("load-1", 1002)}
