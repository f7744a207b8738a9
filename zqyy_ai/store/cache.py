"""`biz.ai_cache`: the answers that the mini-program and the back office read.

Semantics of the original cache service: a read returns the newest row that is `valid` (or has no status) and not expired; a history
returns whatever is there. Nothing here deletes or changes a valid row when a write fails.

What takes a `context` does the same for the sandbox, in `biz.ai_sandbox_answers`: of the context's date alone, never of the live rows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from zqyy_ai.domain.apps import APPS
from zqyy_ai.domain.runtime_context import LIVE, RuntimeContext
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.queries import named_queries


def _queries(context: RuntimeContext) -> Mapping[str, bytes]:
    return named_queries("sandbox_answers" if context.is_sandbox else "cache")


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """One row of the cache. `input_hash` is None on rows of other writers, which are therefore never reused."""

    id: int
    cache_type: str
    site_id: int
    target_id: str
    result_json: dict[str, Any]
    score: int | None
    triggered_by: str | None
    created_at: datetime
    expires_at: datetime | None
    status: str | None
    input_hash: str | None
    run_log_id: int | None


def _answer(row: dict[str, Any] | None) -> CachedAnswer | None:
    """None also for a row whose result is no JSON object: another writer's, and no answer that anybody here can use."""
    return CachedAnswer(**row) if row is not None and isinstance(row["result_json"], dict) else None


def get_latest(
    connection: Connection, cache_type: str, site_id: int, target_id: str, *, now: datetime, context: RuntimeContext = LIVE
) -> CachedAnswer | None:
    """The newest valid row that has not expired at `now`; None when there is none, or it is no answer of ours."""
    row = connection.execute(
        _queries(context)["get_latest"],
        {"cache_type": cache_type, "site_id": site_id, "target_id": target_id, "now": now, "sandbox_date": context.sandbox_date},
    ).fetchone()
    return _answer(row)


def get_history(
    connection: Connection, cache_type: str, site_id: int, target_id: str, *, limit: int = 2, context: RuntimeContext = LIVE
) -> list[CachedAnswer]:
    """The newest `limit` rows of any status, newest first; without those that are no answer of ours."""
    rows = connection.execute(
        _queries(context)["get_history"],
        {"cache_type": cache_type, "site_id": site_id, "target_id": target_id, "limit": limit, "sandbox_date": context.sandbox_date},
    )
    return [answer for row in rows if (answer := _answer(row)) is not None]


def get_for_readers(database: Database, cache_type: str, site_id: int, target_id: str, *, now: datetime) -> CachedAnswer | None:
    """What `get_latest` returns; where that is nothing, the newest valid row that has expired: `expires_at` tells them apart."""
    wanted = {"cache_type": cache_type, "site_id": site_id, "target_id": target_id, "now": now}
    rows = database.read_at_once(named_queries("cache")["get_for_readers"], wanted)
    return _answer(rows[0]) if rows else None


def get_answers(connection: Connection, cache_type: str, site_id: int, target_id: str, *, limit: int) -> list[CachedAnswer]:
    """The newest `limit` answers, invalidated ones too, newest first; no placeholders."""
    rows = connection.execute(
        named_queries("cache")["get_answers"], {"cache_type": cache_type, "site_id": site_id, "target_id": target_id, "limit": limit}
    )
    return [answer for row in rows if (answer := _answer(row)) is not None]


def get_reusable(
    connection: Connection, cache_type: str, site_id: int, target_id: str, *, context: RuntimeContext = LIVE
) -> CachedAnswer | None:
    """The newest valid row, expired or not: what a step compares its input with."""
    row = connection.execute(
        _queries(context)["get_reusable"],
        {"cache_type": cache_type, "site_id": site_id, "target_id": target_id, "sandbox_date": context.sandbox_date},
    ).fetchone()
    return _answer(row)


def write_cache(
    connection: Connection,
    cache_type: str,
    site_id: int,
    target_id: str,
    result_json: dict[str, Any],
    *,
    expires_at: datetime | None,
    triggered_by: str | None = None,
    score: int | None = None,
    input_hash: str | None = None,
    run_log_id: int | None = None,
    context: RuntimeContext = LIVE,
) -> int:
    """Adds a valid row and returns its id. The expiry comes from the catalogue (`App.expires_at`), which knows the site's cut-off."""
    row = connection.execute(
        _queries(context)["write"],
        {
            "cache_type": cache_type,
            "site_id": site_id,
            "target_id": target_id,
            "result_json": Jsonb(result_json),
            "expires_at": expires_at,
            "triggered_by": triggered_by,
            "score": score,
            "input_hash": input_hash,
            "run_log_id": run_log_id,
            "sandbox_date": context.sandbox_date,
        },
    ).fetchone()
    assert row is not None
    return int(row["id"])


def extend(connection: Connection, cache_id: int, expires_at: datetime, *, context: RuntimeContext = LIVE) -> bool:
    """Moves a reused row's expiry on; never back. False when the row is no longer valid, or gone."""
    return connection.execute(_queries(context)["extend"], {"cache_id": cache_id, "expires_at": expires_at}).rowcount == 1


def set_generating(connection: Connection, cache_type: str, site_id: int, target_id: str, *, triggered_by: str | None = None) -> int:
    """Adds a placeholder row of status `generating` and returns its id; `finalize_cache` turns it into an answer."""
    row = connection.execute(
        named_queries("cache")["set_generating"],
        {"cache_type": cache_type, "site_id": site_id, "target_id": target_id, "triggered_by": triggered_by},
    ).fetchone()
    assert row is not None
    return int(row["id"])


def finalize_cache(
    connection: Connection, cache_id: int, result_json: dict[str, Any], *, expires_at: datetime | None, score: int | None = None
) -> bool:
    """Turns a `generating` row into a valid answer. False when the row is no longer generating; nothing was changed then."""
    done = connection.execute(
        named_queries("cache")["finalize"],
        {"cache_id": cache_id, "result_json": Jsonb(result_json), "expires_at": expires_at, "score": score},
    )
    return done.rowcount == 1


def valid_targets(
    connection: Connection, site_id: int, target_ids: Iterable[str], *, now: datetime, context: RuntimeContext = LIVE
) -> dict[str, CachedAnswer]:
    """The valid, unexpired finance answers of a site among `target_ids`, by target."""
    rows = connection.execute(
        _queries(context)["valid_targets"],
        {
            "cache_types": [app.cache_type for app in APPS.values() if app.cache_type.startswith("app2")],
            "site_id": site_id,
            "target_ids": list(target_ids),
            "now": now,
            "sandbox_date": context.sandbox_date,
        },
    )
    return {row["target_id"]: answer for row in rows if (answer := _answer(row)) is not None}


def answers_of_jobs(connection: Connection, job_ids: Iterable[int], *, context: RuntimeContext = LIVE) -> dict[tuple[str, str], int]:
    """Valid answers that these jobs' calls brought or that they found unchanged: the newest row's id by (cache type, target)."""
    cache_types = [app.cache_type for app in APPS.values()]
    rows = connection.execute(
        _queries(context)["of_jobs"], {"job_ids": list(job_ids), "cache_types": cache_types, "sandbox_date": context.sandbox_date}
    )
    return {(row["cache_type"], row["target_id"]): row["id"] for row in rows}


def valid_target_ids(connection: Connection, cache_type: str, site_id: int, *, now: datetime, context: RuntimeContext = LIVE) -> set[str]:
    """Targets of the site that have a valid answer of this type which has not expired at `now`."""
    wanted = {"cache_type": cache_type, "site_id": site_id, "now": now, "sandbox_date": context.sandbox_date}
    rows = connection.execute(_queries(context)["valid_target_ids"], wanted)
    return {row["target_id"] for row in rows}


def targets_with_clues(connection: Connection, cache_type: str, site_id: int, *, now: datetime, context: RuntimeContext = LIVE) -> set[str]:
    """Targets of the site whose newest valid answer, of those that have not expired at `now`, holds a clue."""
    wanted = {"cache_type": cache_type, "site_id": site_id, "now": now, "sandbox_date": context.sandbox_date}
    rows = connection.execute(_queries(context)["targets_with_clues"], wanted)
    return {row["target_id"] for row in rows}


def fresh_targets(connection: Connection, site_id: int, target_ids: Iterable[str], *, now: datetime) -> dict[str, datetime]:
    """Of the site's finance targets those with a valid answer which has not expired at `now`: when the newest one was made."""
    rows = connection.execute(
        named_queries("cache")["fresh_targets"],
        {
            "cache_types": [app.cache_type for app in APPS.values() if app.cache_type.startswith("app2")],
            "site_id": site_id,
            "target_ids": list(target_ids),
            "now": now,
        },
    )
    return {row["target_id"]: row["created_at"] for row in rows}


@dataclass(frozen=True, slots=True)
class CacheShare:
    """Rows of one type and member; `member_id` is None for what is about a site, or whose target names no member."""

    cache_type: str
    member_id: int | None
    rows: int


def invalidate(
    connection: Connection, site_id: int, cache_types: Iterable[str], *, member_id: int | None = None, target_id: str | None = None
) -> list[CacheShare]:
    """Marks the site's valid rows of these types, expired ones too, as `invalidated`; returns how many, by type and member."""
    return _shares(connection, "invalidate", site_id, cache_types, member_id, target_id)


def count_invalidatable(
    connection: Connection, site_id: int, cache_types: Iterable[str], *, member_id: int | None = None, target_id: str | None = None
) -> list[CacheShare]:
    """What `invalidate` would mark."""
    return _shares(connection, "count_invalidatable", site_id, cache_types, member_id, target_id)


def _shares(
    connection: Connection, query: str, site_id: int, cache_types: Iterable[str], member_id: int | None, target_id: str | None
) -> list[CacheShare]:
    wanted = {
        "site_id": site_id,
        "cache_types": list(cache_types),
        "member": None if member_id is None else str(member_id),
        "target_id": target_id,
    }
    shares = []
    for row in connection.execute(named_queries("cache")[query], wanted):
        member = row["member"]
        # Another writer may have put anything there.
        is_id = member is not None and member.isascii() and member.isdigit() and 0 < int(member[:20]) < 2**63
        shares.append(CacheShare(row["cache_type"], int(member) if is_id else None, row["rows"]))
    return shares
