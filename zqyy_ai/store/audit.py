"""`biz.ai_audit`: every write that somebody made through the API or the console: who, what, before, after. Only ever added to."""

from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb

from zqyy_ai.domain.access import Caller
from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries


def record(
    connection: Connection,
    caller: Caller,
    action: str,
    *,
    site_id: int | None,
    subject: str | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    request_id: str | None = None,
) -> None:
    """In the transaction of the deed itself, so that neither is without the other. `action` is a verb's name such as `alert.ack`."""
    connection.execute(
        named_queries("audit")["record"],
        {
            "token_id": caller.token_id,
            "actor": caller.name,
            "action": action,
            "site_id": site_id,
            "subject": subject,
            "before": None if before is None else Jsonb(dict(before)),
            "after": None if after is None else Jsonb(dict(after)),
            "request_id": request_id,
        },
    )
