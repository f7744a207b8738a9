"""What became visible since a position: nothing lost to a late commit, nothing twice."""

import psycopg
import pytest
from psycopg.rows import dict_row

from zqyy_ai.domain.access import ALL_SITES, SiteScope
from zqyy_ai.domain.live_events import LiveBatch, Position
from zqyy_ai.store import live_events
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.queries import named_queries


def publish(connection: Connection, number: int, site_id: int | None = 1001, event_type: str = "job_updated") -> None:
    live_events.publish(connection, event_type, site_id, {"number": number})


def read(connection: Connection, since: Position | None, scope: SiteScope = ALL_SITES, most: int = 100) -> LiveBatch:
    return live_events.read_since(connection, since, scope, None, most=most)


def numbers(batch: LiveBatch) -> list[int]:
    return [event.payload["number"] for event in batch.events]


@pytest.fixture
def start(connection: Connection) -> Position:
    return read(connection, None).position


def test_without_a_position_nothing_is_read_but_where_reading_stands(connection: Connection) -> None:
    publish(connection, 1)
    batch = read(connection, None)
    assert (batch.events, batch.is_cut) == ((), False)
    publish(connection, 2)
    assert numbers(read(connection, batch.position)) == [2]


def test_each_event_is_read_once(connection: Connection, start: Position) -> None:
    publish(connection, 1)
    publish(connection, 2)
    first = read(connection, start)
    assert numbers(first) == [1, 2]
    assert numbers(read(connection, first.position)) == []
    publish(connection, 3)
    assert numbers(read(connection, first.position)) == [3]


def test_what_is_committed_after_a_younger_event_is_not_passed_over(database: Database, connection: Connection, start: Position) -> None:
    with psycopg.Connection[dict[str, object]].connect(database.url, row_factory=dict_row) as slow:
        publish(slow, 1)
        publish(connection, 2)
        while_open = read(connection, start)
        assert numbers(while_open) == [2]
        slow.commit()
    late = read(connection, while_open.position)
    assert numbers(late) == [1]
    assert late.events[0].id < while_open.events[0].id
    assert numbers(read(connection, late.position)) == []


def test_what_was_rolled_back_never_happened(connection: Connection, start: Position) -> None:
    with pytest.raises(ZeroDivisionError), connection.transaction():
        publish(connection, 1)
        raise ZeroDivisionError
    publish(connection, 2)
    assert numbers(read(connection, start)) == [2]


def test_who_was_cut_off_within_a_batch_goes_on_behind_the_last_event_that_came(
    database: Database, connection: Connection, start: Position
) -> None:
    with psycopg.Connection[dict[str, object]].connect(database.url, row_factory=dict_row) as slow:
        publish(slow, 1)
        for number in (2, 3, 4):
            publish(connection, number)
        batch = read(connection, start)
        slow.commit()
    publish(connection, 5)
    cut_off = Position(start.read_at, start.snapshot, batch.position.snapshot, batch.events[1].id)
    assert numbers(read(connection, Position.parse(str(cut_off)))) == [1, 4, 5]


def test_only_the_sites_and_types_that_were_asked_for_are_read(connection: Connection, start: Position) -> None:
    publish(connection, 1)
    publish(connection, 2, site_id=1002)
    publish(connection, 3, site_id=None)
    publish(connection, 4, event_type="cache_updated")
    assert numbers(read(connection, start)) == [1, 2, 3, 4]
    assert numbers(read(connection, start, SiteScope(frozenset({1001})))) == [1, 4]
    assert numbers(read(connection, start, SiteScope(frozenset()))) == []
    jobs = live_events.read_since(connection, start, SiteScope(frozenset({1001})), ["job_updated"], most=100)
    assert numbers(jobs) == [1]


def test_more_than_was_asked_for_is_said_to_be_more(connection: Connection, start: Position) -> None:
    for number in range(4):
        publish(connection, number)
    assert [read(connection, start, most=most).is_cut for most in (3, 4)] == [True, False]
    assert numbers(read(connection, start, most=3)) == [0, 1, 2]


def test_rows_from_before_the_migration_and_from_another_servers_dump_are_nobodys_news(connection: Connection, start: Position) -> None:
    for number, transaction_id in ((1, "0"), (2, "9000000000000")):
        connection.execute(
            "INSERT INTO biz.ai_live_events (event_type, payload, transaction_id) VALUES ('x', jsonb_build_object('number', %s::int), %s)",
            [number, transaction_id],
        )
    assert numbers(read(connection, start)) == []


def test_reading_looks_at_what_is_new_alone(connection: Connection) -> None:
    # Of transactions that are long over: another test's may be open for as long as this one runs.
    connection.execute(
        "INSERT INTO biz.ai_live_events (event_type, transaction_id) SELECT 'x', (n % 500)::text::xid8 FROM generate_series(1, 20000) AS n"
    )
    connection.execute("ANALYZE biz.ai_live_events")
    start = read(connection, None).position
    publish(connection, 1)
    query = named_queries("live_events")["since"]
    plan = connection.execute(b"EXPLAIN " + query, live_events.since_parameters(start, ALL_SITES, None, 100)).fetchall()
    assert any("ai_live_events_transaction_idx" in row["QUERY PLAN"] for row in plan), plan
