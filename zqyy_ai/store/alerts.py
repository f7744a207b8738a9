"""`biz.ai_alerts`: what an operator must know. The same trouble again is counted on its open alert, not added."""

from dataclasses import dataclass
from enum import StrEnum

from zqyy_ai.store import live_events
from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries


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


class Severity(StrEnum):
    WARNING = "warning"
    CRITICAL = "critical"


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
        """Type, site and application, and where that is too coarse `detail`, an error code for instance."""
        return "|".join((self.alert_type.value, str(self.site_id or "-"), self.app_type or "-", self.detail or "-"))


def raise_alert(connection: Connection, alert: Alert) -> int:
    """Opens the alert, or counts it on the open one of the same fingerprint; returns the row's id. Call inside a transaction."""
    columns = {
        "fingerprint": alert.fingerprint,
        "alert_type": alert.alert_type.value,
        "severity": alert.severity.value,
        "site_id": alert.site_id,
        "app_type": alert.app_type,
        "message": alert.message[:500],
        "log_id": alert.log_id,
    }
    queries = named_queries("alerts")
    connection.execute(queries["lock_fingerprint"], {"fingerprint": alert.fingerprint})
    again = connection.execute(queries["count_again"], columns).fetchone()
    if again:
        return int(again["id"])
    opened = connection.execute(queries["open"], columns).fetchone()
    assert opened is not None
    live_events.publish(
        connection,
        "alert_created",
        alert.site_id,
        {"app_type": alert.app_type, "alert_type": alert.alert_type.value, "message": alert.message[:200], "log_id": alert.log_id},
    )
    return int(opened["id"])
