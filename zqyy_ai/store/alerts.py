"""`biz.ai_alerts`: what an operator must know, one row a fingerprint. The same trouble again is counted on its row.

                      ┌──── a person: ack ─────→ acked ────┬── a person: ignore ──┐
    (new) ──→ open ───┤                                    │                      ↓
               ↑      ├──── a person: ignore ───────────── │ ─────────────────→ ignored
               │      └──┐                                 │                      │
               │         ├─────────────────────────────────┴──────────────────────┘
               │         ↓ the cause is over, or a person: resolve
               └───── resolved
       the same trouble again

On an open, acked or ignored row an occurrence only counts (and a higher severity is taken over); acked and ignored stay so. What people
are to be told of (opened, reopened, escalated, resolved; nothing of an ignored alert) is put into `biz.ai_alert_deliveries` in the same
transaction; who tells them is `engine/alert_delivery.py`.

Raising locks all alerts until the transaction ends, so that two transactions that raise several never wait for each other in a circle:
raise alerts last in a transaction, and keep it short.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self

from zqyy_ai.domain.access import ALL_SITES, SiteScope
from zqyy_ai.domain.errors import NotFound, StateConflict
from zqyy_ai.store import live_events
from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries
from zqyy_ai.store.storable_text import storable

SYSTEM = "zqyy_ai"
_LONGEST_FINGERPRINT = 250
_LONGEST_TEXT = 500


class AlertType(StrEnum):
    CIRCUIT_OPEN = "circuit_open"
    RATE_LIMITED = "rate_limited"
    BUDGET_EXCEEDED = "budget_exceeded"
    TIMEOUT = "timeout"
    FAILED = "failed"
    CONFIGURATION = "configuration"
    ACCOUNT_HELD = "account_held"
    EVENT_REJECTED = "event_rejected"
    JOB_DEAD = "job_dead"
    PAUSED = "paused"
    LOG_UNWRITABLE = "log_unwritable"
    RETENTION_FAILED = "retention_failed"


class Severity(StrEnum):
    WARNING = "warning"
    CRITICAL = "critical"


class AlertStatus(StrEnum):
    OPEN = "open"
    ACKED = "acked"
    IGNORED = "ignored"
    RESOLVED = "resolved"


class AlertChange(StrEnum):
    """What people are told of."""

    OPENED = "opened"
    REOPENED = "reopened"
    ESCALATED = "escalated"
    RESOLVED = "resolved"


# What a person may make of an alert, by what it is now.
ALLOWED_BY_HAND: dict[AlertStatus, tuple[AlertStatus, ...]] = {
    AlertStatus.OPEN: (AlertStatus.ACKED, AlertStatus.IGNORED, AlertStatus.RESOLVED),
    AlertStatus.ACKED: (AlertStatus.IGNORED, AlertStatus.RESOLVED),
    AlertStatus.IGNORED: (AlertStatus.RESOLVED,),
    AlertStatus.RESOLVED: (),
}


@dataclass(frozen=True, slots=True)
class Alert:
    """`message` is for an operator, in Chinese; it never holds a prompt, a reply or a key."""

    alert_type: AlertType
    message: str
    site_id: int | None = None
    app_type: str | None = None
    log_id: int | None = None
    severity: Severity = Severity.WARNING
    detail: str = ""

    @property
    def fingerprint(self) -> str:
        """What makes two occurrences the same trouble, as `fingerprint_of` writes it."""
        return fingerprint_of(self.alert_type, self.site_id, self.app_type, self.detail)


def fingerprint_of(alert_type: AlertType, site_id: int | None = None, app_type: str | None = None, detail: str = "") -> str:
    """`type|site|application|detail`, each `-` where it has none: `failed|1001|app2_finance|http_502`, `account_held|-|-|-`.

    `detail` tells apart what type, site and application do not, an error code for instance. It must be of few values: each makes a row
    and a message to people. At most 250 characters are kept.
    """
    return storable("|".join((alert_type.value, str(site_id or "-"), app_type or "-", detail or "-"))[:_LONGEST_FINGERPRINT])


@dataclass(frozen=True, slots=True)
class StoredAlert:
    """A row. Rows of other systems have no fingerprint, and may lack nearly everything else. `opened_at`: the last time it was opened."""

    id: int
    fingerprint: str | None
    alert_type: str
    severity: str
    status: AlertStatus
    site_id: int | None
    app_type: str | None
    message: str
    log_id: int | None
    occurrences: int
    reopened_count: int
    created_at: datetime | None
    opened_at: datetime | None
    last_seen_at: datetime | None
    status_changed_at: datetime | None
    status_changed_by: str | None
    status_reason: str | None
    resolved_at: datetime | None

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        as_they_are = ("id", "fingerprint", "site_id", "app_type", "log_id", "created_at", "opened_at", "last_seen_at")
        changes = ("status_changed_at", "status_changed_by", "status_reason", "resolved_at")
        return cls(
            **{name: row[name] for name in as_they_are + changes},
            alert_type=row["alert_type"] or "",
            severity=row["severity"] or "",
            message=row["message"] or "",
            status=_status(row["alert_status"]),
            occurrences=row["occurrences"] or 1,
            reopened_count=row["reopened_count"] or 0,
        )


def change_by_occurrence(status: AlertStatus, severity: Severity, occurring: Severity) -> AlertChange | None:
    """What an occurrence makes of an alert that is there; None: it is only counted."""
    if status is AlertStatus.RESOLVED:
        return AlertChange.REOPENED
    if occurring is Severity.CRITICAL and severity is not Severity.CRITICAL:
        return AlertChange.ESCALATED
    return None


def raise_alert(connection: Connection, alert: Alert) -> int:
    """Opens the alert, counts it on the row of the same fingerprint, or reopens that; returns the row's id.

    Call inside a transaction, last in it (see above).
    """
    queries = named_queries("alerts")
    columns: dict[str, Any] = {
        "fingerprint": alert.fingerprint,
        "alert_type": alert.alert_type.value,
        "severity": alert.severity.value,
        "site_id": alert.site_id,
        "app_type": alert.app_type,
        "message": storable(alert.message[:_LONGEST_TEXT]),
        "log_id": alert.log_id,
    }
    connection.execute(queries["lock_alerts"])
    present = connection.execute(queries["same_trouble"], columns).fetchone()
    if present is None:
        opened = connection.execute(queries["open"], columns).fetchone()
        assert opened is not None
        alert_id = int(opened["id"])
        _announce(connection, alert_id, AlertStatus.OPEN, AlertChange.OPENED, alert)
        return alert_id
    alert_id, status = int(present["id"]), _status(present["alert_status"])
    severity = Severity.CRITICAL if present["severity"] == Severity.CRITICAL else Severity.WARNING
    change = change_by_occurrence(status, severity, alert.severity)
    if change is AlertChange.REOPENED:
        connection.execute(queries["reopen"], {**columns, "id": alert_id})
        _announce(connection, alert_id, AlertStatus.OPEN, change, alert)
    else:
        highest = Severity.CRITICAL if Severity.CRITICAL in {severity, alert.severity} else Severity.WARNING
        connection.execute(queries["count_again"], {**columns, "id": alert_id, "severity": highest.value})
        if change is not None:
            _announce(connection, alert_id, status, change, alert)
    return alert_id


def app_of_open_alert(connection: Connection, alert_type: AlertType) -> str | None:
    """The application of the type's oldest alert that is open or acked; whose alerts nobody else raises until the transaction ends."""
    connection.execute(named_queries("alerts")["lock_alerts"])
    row = connection.execute(named_queries("alerts")["oldest_open"], {"alert_type": alert_type.value}).fetchone()
    return row["app_type"] if row else None


def resolve(connection: Connection, fingerprint: str, reason: str = "") -> bool:
    """The cause is over. False when there is no such alert, or it was resolved before; that costs one look and no lock.

    Call inside a transaction. An occurrence whose transaction has not ended is not seen: the next success resolves it.
    """
    queries = named_queries("alerts")
    if connection.execute(queries["unresolved_id"], {"fingerprint": fingerprint}).fetchone() is None:
        return False
    connection.execute(queries["lock_alerts"])
    found = connection.execute(queries["same_trouble"], {"fingerprint": fingerprint}).fetchone()
    if found is None or _status(found["alert_status"]) is AlertStatus.RESOLVED:
        return False
    _set_status(connection, found["id"], _status(found["alert_status"]), AlertStatus.RESOLVED, SYSTEM, reason)
    return True


def over(connection: Connection, *, quiet: timedelta, breaker_quiet: timedelta, throttled: str) -> list[str]:
    """Fingerprints of alerts about calls and breakers whose cause is over; `throttled` is the one of throttling that lasts."""
    wanted = {"quiet": quiet, "breaker_quiet": breaker_quiet, "throttled": throttled}
    rows = connection.execute(named_queries("alerts")["over"], wanted)
    return [row["fingerprint"] for row in rows]


def set_status_by_hand(
    connection: Connection, alert_id: int, wanted: AlertStatus, *, by: str, reason: str = "", scope: SiteScope = ALL_SITES
) -> StoredAlert:
    """A person acks, ignores or resolves an alert. Raises NotFound for one that `scope` does not see, StateConflict for what its state
    does not allow."""
    row = connection.execute(named_queries("alerts")["get_for_update"], {"id": alert_id}).fetchone()
    if row is None or not scope.sees(row["site_id"]):
        raise NotFound(f"告警 {alert_id} 不存在")
    status = _status(row["alert_status"])
    allowed = ALLOWED_BY_HAND[status]
    if wanted not in allowed:
        possible = "可改为 " + "、".join(allowed) if allowed else "同样的问题再次出现时会自动重新打开"
        raise StateConflict(f"告警 {alert_id} 的状态是 {status.value},不能改为 {wanted.value};{possible}")
    return _set_status(connection, alert_id, status, wanted, by, reason)


def get(connection: Connection, alert_id: int) -> StoredAlert | None:
    row = connection.execute(named_queries("alerts")["get"], {"id": alert_id}).fetchone()
    return None if row is None else StoredAlert.from_row(row)


def list_alerts(connection: Connection, statuses: Collection[AlertStatus], *, limit: int) -> list[StoredAlert]:
    """Critical ones first, then the newest occurrence."""
    wanted = {"statuses": [status.value for status in statuses], "limit": limit}
    return [StoredAlert.from_row(row) for row in connection.execute(named_queries("alerts")["list"], wanted)]


@dataclass(frozen=True, slots=True)
class OpenAlerts:
    """How many alerts of a type, severity and site wait for somebody."""

    alert_type: str
    severity: str
    site_id: int | None
    alerts: int


def count_open(connection: Connection, scope: SiteScope) -> list[OpenAlerts]:
    return [OpenAlerts(**row) for row in connection.execute(named_queries("alerts")["count_open"], {"site_ids": scope.ids})]


def find_page(
    connection: Connection, scope: SiteScope, status: AlertStatus | None, *, offset: int, rows: int
) -> tuple[list[StoredAlert], int]:
    """Those seen last come first; how many there are in all. `status` None: any."""
    wanted = {"site_ids": scope.ids, "status": status.value if status else None, "offset": offset, "rows": rows}
    counted = connection.execute(named_queries("alerts")["count_page"], wanted).fetchone()
    assert counted is not None
    return [StoredAlert.from_row(row) for row in connection.execute(named_queries("alerts")["page"], wanted)], int(counted["alerts"])


def _set_status(connection: Connection, alert_id: int, status: AlertStatus, wanted: AlertStatus, by: str, reason: str) -> StoredAlert:
    columns = {
        "id": alert_id,
        "status": wanted.value,
        "by": storable(by[:_LONGEST_TEXT]),
        "reason": storable(reason[:_LONGEST_TEXT]) or None,
    }
    row = connection.execute(named_queries("alerts")["set_status"], columns).fetchone()
    assert row is not None
    stored = StoredAlert.from_row(row)
    is_told = wanted is AlertStatus.RESOLVED and status is not AlertStatus.IGNORED
    _announce(connection, alert_id, wanted, AlertChange.RESOLVED if is_told else None, stored)
    return stored


def _announce(connection: Connection, alert_id: int, status: AlertStatus, change: AlertChange | None, alert: Alert | StoredAlert) -> None:
    """To those who watch, at once; to the outbox, where people are to be told."""
    live_events.publish(
        connection,
        "alert_created" if change is AlertChange.OPENED else "alert_updated",
        alert.site_id,
        {
            "alert_id": alert_id,
            "app_type": alert.app_type,
            "alert_type": str(alert.alert_type),
            "message": storable(alert.message[:200]),
            "log_id": alert.log_id,
            "alert_status": status.value,
        },
    )
    if change is not None and status is not AlertStatus.IGNORED:
        connection.execute(named_queries("alerts")["tell"], {"alert_id": alert_id, "change": change.value})


def _status(text: str | None) -> AlertStatus:
    """Another system's row may have none, or one that we do not know: nobody has dealt with it."""
    return AlertStatus(text) if text in set(AlertStatus) else AlertStatus.OPEN
