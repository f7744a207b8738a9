"""`biz.ai_batches`: what people asked for many members or windows at once.

(estimate) ─→ confirmed ─→ cancelled        its jobs say how far it is
     └──────→ expired | cancelled           never confirmed
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from zqyy_ai.domain.access import SiteScope
from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries


@dataclass(frozen=True, slots=True)
class Batch:
    """A row. `selection`: `app_types` and `member_ids` as asked for; `is_expired` by the database's clock, when it was read."""

    id: UUID
    site_id: int
    selection: dict[str, Any]
    digest: str
    calls_by_app: dict[str, int]
    estimated_tokens: int
    estimated_cny: Decimal
    estimated_minutes: float
    created_by: str
    created_at: datetime
    expires_at: datetime
    confirmed_by: str | None
    confirmed_at: datetime | None
    cancelled_by: str | None
    cancelled_at: datetime | None
    is_expired: bool

    @property
    def calls(self) -> int:
        return sum(self.calls_by_app.values())


@dataclass(frozen=True, slots=True)
class NewBatch:
    id: UUID
    site_id: int
    selection: dict[str, Any]
    digest: str
    calls_by_app: dict[str, int]
    estimated_tokens: int
    estimated_cny: Decimal
    estimated_minutes: float
    created_by: str


def add(connection: Connection, batch: NewBatch, *, lifetime: timedelta) -> Batch:
    """Keeps an estimate that can be confirmed for `lifetime`."""
    columns = {name: getattr(batch, name) for name in NewBatch.__slots__}
    columns |= {"selection": Jsonb(batch.selection), "calls_by_app": Jsonb(batch.calls_by_app), "lifetime": lifetime}
    row = connection.execute(named_queries("batches")["add"], columns).fetchone()
    assert row is not None
    return Batch(**row)


def get(connection: Connection, batch_id: UUID) -> Batch | None:
    return _one(connection, "get", batch_id)


def get_locked(connection: Connection, batch_id: UUID) -> Batch | None:
    """The same, and nobody else decides about it until the transaction ends."""
    return _one(connection, "get_locked", batch_id)


def get_unless_locked(connection: Connection, batch_id: UUID) -> Batch | None:
    """The same; None at once where somebody else is deciding about it."""
    return _one(connection, "get_unless_locked", batch_id)


def newest(connection: Connection, scope: SiteScope, *, rows: int) -> list[Batch]:
    """The newest first, estimates too."""
    found = connection.execute(named_queries("batches")["newest"], {"site_ids": scope.ids, "rows": rows})
    return [Batch(**row) for row in found]


def mark_confirmed(connection: Connection, batch_id: UUID, *, by: str) -> None:
    connection.execute(named_queries("batches")["confirmed"], {"id": batch_id, "by": by})


def mark_cancelled(connection: Connection, batch_id: UUID, *, by: str) -> None:
    connection.execute(named_queries("batches")["cancelled"], {"id": batch_id, "by": by})


def is_cancelled(connection: Connection, batch_id: UUID) -> bool:
    row = connection.execute(named_queries("batches")["is_cancelled"], {"id": batch_id}).fetchone()
    return bool(row and row["is_cancelled"])


def _one(connection: Connection, query: str, batch_id: UUID) -> Batch | None:
    row = connection.execute(named_queries("batches")[query], {"id": batch_id}).fetchone()
    return Batch(**row) if row else None
