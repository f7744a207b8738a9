"""The finance windows of a site as people look at them: which are fresh, which are not, and why."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from zqyy_ai.domain.apps import APPS, finance_app_of
from zqyy_ai.domain.windows import WINDOW_KEYS, WindowKey
from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries

# A failure of longer ago is no longer what a window waits for.
_ATTEMPTS_LOOKED_AT = timedelta(days=2)
# A call takes 180 s at most; what is said to run since longer was left behind by a crash.
_LONGEST_STEP = timedelta(minutes=15)


class WindowState(StrEnum):
    """`failed`: the newest attempt since the newest answer came to nothing. `stale`: that answer has expired."""

    FRESH = "fresh"
    STALE = "stale"
    MISSING = "missing"
    FAILED = "failed"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class PrewarmWindow:
    """`cache_id` is of the newest valid answer, which may have expired (`has_fresh_answer`: it has not); `log_id` of the newest attempt, which may have failed."""

    window: WindowKey
    state: WindowState
    cache_id: int | None
    answered_at: datetime | None
    expires_at: datetime | None
    log_id: int | None
    error_code: str | None
    error_message: str | None
    has_fresh_answer: bool

    @property
    def is_wanting(self) -> bool:
        """Without an answer that has not expired, and nobody is at it: what 「补齐缺失」 does."""
        return not self.has_fresh_answer and self.state is not WindowState.RUNNING

    @property
    def is_readable(self) -> bool:
        """Whether readers still get an answer, be it an expired one."""
        return self.cache_id is not None


def windows_of_site(connection: Connection, site_id: int, *, now: datetime) -> dict[WindowKey, PrewarmWindow]:
    """All 72, in their order."""
    wanted = {
        "site_id": site_id,
        "since": now - _ATTEMPTS_LOOKED_AT,
        "app_types": sorted({finance_app_of(window).app_type.value for window in WINDOW_KEYS}),
        "cache_types": [finance_app_of(window).cache_type for window in WINDOW_KEYS],
        "target_ids": [str(window) for window in WINDOW_KEYS],
    }
    rows = {row["target_id"]: row for row in connection.execute(named_queries("prewarm_windows")["of_site"], wanted)}
    found = {}
    for window in WINDOW_KEYS:
        row = rows[str(window)]
        state = _state(row["cache_id"], row["answered_at"], row["expires_at"], row["attempt_status"], row["attempted_at"], now)
        more = {name: row[name] for name in ("cache_id", "answered_at", "expires_at", "log_id", "error_code", "error_message")}
        has_fresh = row["cache_id"] is not None and (row["expires_at"] is None or row["expires_at"] > now)
        found[window] = PrewarmWindow(window=window, state=state, has_fresh_answer=has_fresh, **more)
    return found


def _state(
    cache_id: int | None,
    answered_at: datetime | None,
    expires_at: datetime | None,
    attempt_status: str | None,
    attempted_at: datetime | None,
    now: datetime,
) -> WindowState:
    if attempted_at is not None:
        if attempt_status in {"pending", "running"} and now - attempted_at < _LONGEST_STEP:
            return WindowState.RUNNING
        if attempt_status in {"failed", "timeout"} and (answered_at is None or attempted_at > answered_at):
            return WindowState.FAILED
    if cache_id is None:
        return WindowState.MISSING
    return WindowState.FRESH if expires_at is None or expires_at > now else WindowState.STALE


@dataclass(frozen=True, slots=True)
class SitePrewarm:
    """How many of a site's 72 windows have an answer that has not expired; `newest_at`: when the newest was made, None without any."""

    site_id: int
    fresh: int
    newest_at: datetime | None


def fresh_by_site(connection: Connection, site_ids: Iterable[int], *, now: datetime) -> dict[int, SitePrewarm]:
    """Of each site, also of those that have none."""
    wanted = list(site_ids)
    rows = connection.execute(
        named_queries("prewarm_windows")["fresh_by_site"],
        {
            "site_ids": wanted,
            "cache_types": [app.cache_type for app in APPS.values() if app.cache_type.startswith("app2")],
            "target_ids": [str(window) for window in WINDOW_KEYS],
            "now": now,
        },
    )
    found = {row["site_id"]: SitePrewarm(**row) for row in rows}
    return {site_id: found.get(site_id) or SitePrewarm(site_id, 0, None) for site_id in wanted}


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """Windows that a person asked for together; None: none of them has begun, or ended."""

    batch_id: UUID
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    is_over: bool


def recent_batches(connection: Connection, site_id: int, *, since: datetime) -> list[WindowBatch]:
    """Those that are not over, and the newest one; the newest first."""
    wanted = {"site_id": site_id, "since": since}
    found = [WindowBatch(**row) for row in connection.execute(named_queries("prewarm_windows")["recent_batches"], wanted)]
    return [batch for number, batch in enumerate(found) if number == 0 or not batch.is_over]
