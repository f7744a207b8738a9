"""`biz.ai_events`: the inbox. Callers append through `biz.fire_ai_event`; intake marks each row with its job or its refusal."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import scalar_row
from psycopg.types.json import Jsonb

from zqyy_ai.domain.access import SiteScope
from zqyy_ai.domain.json_text import read_json
from zqyy_ai.store.database import Connection, is_connection_lost
from zqyy_ai.store.queries import named_queries

logger = logging.getLogger(__name__)

WORK_CHANNEL = "zqyy_ai_work"


@dataclass(frozen=True, slots=True)
class InboxEvent:
    """One unhandled row. `payload_text` is whatever the caller gave, None where it is NULL or larger than what was asked for;
    `payload_bytes` is its size (None for NULL). Not `is_readable`: the database itself can't make a text of it."""

    id: int
    event_name: str | None
    payload_bytes: int | None
    created_at: datetime
    payload_text: str | None
    is_readable: bool = True


def fire(connection: Connection, event_name: str, payload: dict[str, Any]) -> int | None:
    """Appends an event and wakes those who wait for work. None when the database could not record it."""
    row = connection.execute(named_queries("events")["fire"], {"event_name": event_name, "payload": Jsonb(payload)}).fetchone()
    assert row is not None
    return None if row["id"] is None else int(row["id"])


def lock_intake(connection: Connection) -> None:
    """One intake at a time, until the transaction ends: what it deduplicates by may not change under it."""
    connection.execute(named_queries("events")["lock_intake"])


def waiting_events(connection: Connection, limit: int, *, largest_bytes: int) -> list[InboxEvent]:
    """The oldest unhandled rows; payloads above `largest_bytes` stay where they are.

    Call in a transaction. A row that the database can't read out (a small jsonb may be a text of gigabytes) comes without its payload.
    """
    together = _read(connection, limit, largest_bytes)
    if together is not None:
        return together
    unread = connection.execute(named_queries("events")["waiting_unread"], {"limit": limit}).fetchall()
    found = []
    for row in unread:
        alone = _read(connection, limit, largest_bytes, row["id"])
        found += [InboxEvent(**row, payload_bytes=None, payload_text=None, is_readable=False)] if alone is None else alone
    return found


def _read(connection: Connection, limit: int, largest_bytes: int, event_id: int | None = None) -> list[InboxEvent] | None:
    """None when the database can't read them out."""
    wanted = {"limit": limit, "largest_bytes": largest_bytes, "event_id": event_id}
    try:
        with connection.transaction():
            return [InboxEvent(**row) for row in connection.execute(named_queries("events")["waiting"], wanted)]
    except psycopg.Error as refused:
        if is_connection_lost(refused):
            raise
        logger.warning("events.not_read event_id=%s cause=%s", event_id, type(refused).__name__)
        return None


def has_waiting_events(connection: psycopg.Connection[Any]) -> bool:
    with connection.cursor(row_factory=scalar_row) as cursor:
        return bool(cursor.execute(named_queries("events")["has_waiting"]).fetchone())


def mark_handled(connection: Connection, event_id: int, *, trigger_job_id: int | None = None, rejected_reason: str | None = None) -> None:
    connection.execute(
        named_queries("events")["handled"],
        {"event_id": event_id, "trigger_job_id": trigger_job_id, "rejected_reason": rejected_reason},
    )


def mark_all_handled(connection: Connection, jobs_of_events: Iterable[tuple[int, int]]) -> None:
    """For (event id, id of the job that stands for it): all in one round trip."""
    connection.cursor().executemany(
        named_queries("events")["handled"],
        [{"event_id": event_id, "trigger_job_id": job_id, "rejected_reason": None} for event_id, job_id in jobs_of_events],
    )


@dataclass(frozen=True, slots=True)
class InboxRow:
    """A row of the inbox for people. `payload` is None where it is larger than what was asked for, or can't be shown."""

    id: int
    event_name: str | None
    site_id: int | None
    payload: Any
    payload_bytes: int | None
    created_at: datetime
    handled_at: datetime | None
    trigger_job_id: int | None
    rejected_reason: str | None


def find_page(
    connection: Connection, scope: SiteScope, *, is_rejected: bool | None, offset: int, rows: int, largest_bytes: int = 16_384
) -> tuple[list[InboxRow], int]:
    """The newest events after `offset` of them, at most `rows`, and how many match in all. An event without a readable site is for who
    sees all sites."""
    wanted = {"site_ids": scope.ids, "is_rejected": is_rejected, "offset": offset, "rows": rows, "largest_bytes": largest_bytes}
    counted = connection.execute(named_queries("events")["count_page"], wanted).fetchone()
    assert counted is not None
    found = connection.execute(named_queries("events")["page"], wanted)
    return [InboxRow(payload=read_json(row.pop("payload_text")), **row) for row in found], int(counted["events"])


@dataclass(frozen=True, slots=True)
class EventOutcome:
    """What intake made of a row. `is_duplicate`: its job stood there already, for another event or by itself."""

    event_id: int
    is_handled: bool
    trigger_job_id: int | None
    job_status: str | None
    is_duplicate: bool
    rejected_reason: str | None


def outcomes(connection: Connection, event_ids: Iterable[int]) -> list[EventOutcome]:
    return [EventOutcome(**row) for row in connection.execute(named_queries("events")["outcomes"], {"event_ids": list(event_ids)})]


def seen_etl_runs(connection: Connection, etl_run_ids: Iterable[str]) -> set[tuple[str, int]]:
    """Which (etl_run_id, site_id) already became an event."""
    rows = connection.execute(named_queries("events")["seen_etl_runs"], {"etl_run_ids": list(etl_run_ids)})
    return {(row["etl_run_id"], row["site_id"]) for row in rows}


def see_etl_run(connection: Connection, etl_run_id: str, site_id: int, event_id: int) -> None:
    connection.execute(named_queries("events")["see_etl_run"], {"etl_run_id": etl_run_id, "site_id": site_id, "event_id": event_id})
