"""`biz.ai_live_events`: what happened, for those who watch: `cache_updated`, `job_updated`, `alert_created`,
`alert_updated`.

Rows are written in the transaction of the thing that happened; the notification carries the id only.
"""

from collections.abc import Iterable
from typing import Any

from psycopg.types.json import Jsonb

from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries


def publish(connection: Connection, event_type: str, site_id: int | None, payload: dict[str, Any]) -> None:
    connection.execute(named_queries("live_events")["publish"], {"event_type": event_type, "site_id": site_id, "payload": Jsonb(payload)})


def publish_all(connection: Connection, event_type: str, events: Iterable[tuple[int | None, dict[str, Any]]]) -> None:
    """The same for several (site id, payload) of one type, in one round trip."""
    rows = [{"event_type": event_type, "site_id": site_id, "payload": Jsonb(payload)} for site_id, payload in events]
    connection.cursor().executemany(named_queries("live_events")["publish"], rows)
