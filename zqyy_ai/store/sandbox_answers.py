"""`biz.ai_sandbox_answers`, for who looks at what the sandbox has brought. Steps read and write it through `store/cache.py`."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries


@dataclass(frozen=True, slots=True)
class SandboxAnswer:
    """One row. `expires_at` is of the sandbox's time."""

    id: int
    cache_type: str
    site_id: int
    target_id: str
    sandbox_date: date
    result_json: dict[str, Any]
    score: int | None
    triggered_by: str | None
    created_at: datetime
    expires_at: datetime | None
    run_log_id: int | None


def of_target(
    connection: Connection, site_id: int, cache_type: str, target_id: str, *, sandbox_date: date | None = None, limit: int
) -> list[SandboxAnswer]:
    """The newest `limit` answers, newest first; of all dates unless one is named."""
    rows = connection.execute(
        named_queries("sandbox_answers")["of_target"],
        {"site_id": site_id, "cache_type": cache_type, "target_id": target_id, "sandbox_date": sandbox_date, "limit": limit},
    )
    return [SandboxAnswer(**row) for row in rows]
