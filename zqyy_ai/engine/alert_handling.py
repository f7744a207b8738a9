"""Looking at alerts and dealing with them, by people: what the command line does, and what an API would."""

from collections.abc import Sequence

from zqyy_ai.domain.errors import InvalidRequest
from zqyy_ai.store import alerts
from zqyy_ai.store.alerts import AlertStatus, StoredAlert
from zqyy_ai.store.database import Database

TO_DEAL_WITH = (AlertStatus.OPEN, AlertStatus.ACKED)


def list_alerts(database: Database, statuses: Sequence[AlertStatus] = TO_DEAL_WITH, *, limit: int = 100) -> list[StoredAlert]:
    """Critical ones first, then the newest occurrence."""
    with database.autocommit() as connection:
        return alerts.list_alerts(connection, statuses, limit=limit)


def ack_alert(database: Database, alert_id: int, *, by: str, reason: str = "") -> StoredAlert:
    """Somebody has seen it and looks after it; it goes on counting. Raises InvalidRequest for what its state does not allow."""
    return _set_status(database, alert_id, AlertStatus.ACKED, by, reason)


def ignore_alert(database: Database, alert_id: int, *, by: str, reason: str) -> StoredAlert:
    """It is no trouble; nobody is told of it again until it is resolved. Raises InvalidRequest, also without a reason."""
    if not reason.strip():
        raise InvalidRequest("请说明忽略的原因")
    return _set_status(database, alert_id, AlertStatus.IGNORED, by, reason)


def resolve_alert(database: Database, alert_id: int, *, by: str, reason: str = "") -> StoredAlert:
    """Its cause is over; the same trouble again reopens it. Raises InvalidRequest where it is resolved already."""
    return _set_status(database, alert_id, AlertStatus.RESOLVED, by, reason)


def _set_status(database: Database, alert_id: int, wanted: AlertStatus, by: str, reason: str) -> StoredAlert:
    with database.transaction() as connection:
        return alerts.set_status_by_hand(connection, alert_id, wanted, by=by, reason=reason.strip())
