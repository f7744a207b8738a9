"""`biz.ai_live_events`: what happened, for those who watch: `cache_updated`, `alert_created`, `job_updated`.

Rows are written in the transaction of the thing that happened; the notification carries the id only.
"""

from typing import Any

from psycopg.types.json import Jsonb

from zqyy_ai.store.database import Connection

_PUBLISH = """
WITH event AS (
    INSERT INTO biz.ai_live_events (event_type, site_id, payload) VALUES (%(event_type)s, %(site_id)s, %(payload)s) RETURNING id
)
SELECT pg_notify('zqyy_ai_live', event.id::text) FROM event
"""


def publish(connection: Connection, event_type: str, site_id: int | None, payload: dict[str, Any]) -> None:
    connection.execute(_PUBLISH, {"event_type": event_type, "site_id": site_id, "payload": Jsonb(payload)})
