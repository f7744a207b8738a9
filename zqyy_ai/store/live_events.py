"""`biz.ai_live_events`: what happened, for those who watch (`LiveEventType`).

Rows are written in the transaction of the thing that happened; the notification carries the id only. They are read by snapshots, never by
the last id seen: ids are given before the commit, and what is committed late would be passed over.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from psycopg.types.json import Jsonb

from zqyy_ai.domain.access import SiteScope
from zqyy_ai.domain.live_events import LiveBatch, LiveEvent, Position, Snapshot
from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries

CHANNEL = "zqyy_ai_live"


def publish(connection: Connection, event_type: str, site_id: int | None, payload: dict[str, Any]) -> None:
    connection.execute(named_queries("live_events")["publish"], {"event_type": event_type, "site_id": site_id, "payload": Jsonb(payload)})


def publish_all(connection: Connection, event_type: str, events: Iterable[tuple[int | None, dict[str, Any]]]) -> None:
    """The same for several (site id, payload) of one type, in one round trip."""
    rows = [{"event_type": event_type, "site_id": site_id, "payload": Jsonb(payload)} for site_id, payload in events]
    connection.cursor().executemany(named_queries("live_events")["publish"], rows)


def read_since(
    connection: Connection, since: Position | None, scope: SiteScope, event_types: Collection[str] | None, *, most: int
) -> LiveBatch:
    """What became visible since a position, at most `most` events; since None only where reading stands now. `event_types` None: all."""
    query = named_queries("live_events")["since"]
    return as_batch(connection.execute(query, since_parameters(since, scope, event_types, most)).fetchall(), most)


def since_parameters(since: Position | None, scope: SiteScope, event_types: Collection[str] | None, most: int) -> dict[str, Any]:
    """For the query `since`, which is also run by the listener on a connection of another kind."""
    further = since.further if since else None
    return {
        "since": str(since.snapshot) if since else None,
        "further": str(further) if further else None,
        "event_id": since.event_id if since else 0,
        "site_ids": scope.ids,
        "event_types": None if event_types is None else sorted(event_types),
        "rows": most + 1,
    }


def as_batch(rows: list[Mapping[str, Any]] | list[dict[str, Any]], most: int) -> LiveBatch:
    snapshot = Snapshot.parse(rows[0]["snapshot"])
    assert snapshot is not None
    events = tuple(
        LiveEvent(row["id"], row["event_type"], row["site_id"], row["payload"], row["created_at"], int(row["transaction_id"]))
        for row in rows
        if row["id"] is not None
    )
    return LiveBatch(Position(rows[0]["read_at"], snapshot), events[:most], len(events) > most, rows[0]["server_started_at"])
