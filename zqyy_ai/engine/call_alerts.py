"""What an operator is told of calls: that a step failed or was refused, and that applications are held.

One alert a cause: a held application, account or budget limit is one thing to act on, however many steps run into it, so those alerts are
raised where the hold begins. How they end: `alert_endings.py`.
"""

import logging
from collections.abc import Collection
from dataclasses import replace

import psycopg

from zqyy_ai.domain.apps import App
from zqyy_ai.domain.errors import GuardRefusal
from zqyy_ai.guards.breaker import EVERY_APP
from zqyy_ai.llm.errors import CallTimedOut, ModelCallError
from zqyy_ai.store import alerts
from zqyy_ai.store.alerts import Alert, AlertType, Severity
from zqyy_ai.store.database import Connection

logger = logging.getLogger(__name__)

# What is the same in every occurrence; `fingerprint` is made of it.
ACCOUNT_HELD = Alert(AlertType.ACCOUNT_HELD, "", severity=Severity.CRITICAL)
THROTTLED = Alert(AlertType.RATE_LIMITED, "", detail="throttled")


def account_held(error: ModelCallError, log_id: int) -> Alert:
    return replace(ACCOUNT_HELD, message=f"百炼拒绝了整个账户的调用({error.error_code}),所有应用已暂停", log_id=log_id)


def throttled(app: App, error: ModelCallError, log_id: int) -> Alert:
    message = f"百炼持续限流({error.error_code},{app.title}),暂缓调用,定时试探,恢复后自动继续"
    return replace(THROTTLED, message=message, log_id=log_id)


def raise_circuit_opened(connection: Connection, app: App, log_id: int) -> None:
    """An outage of DashScope opens one application's breaker after the other: it is one trouble, told on the first one's alert."""
    alert = Alert(AlertType.CIRCUIT_OPEN, f"{app.title} 连续失败,熔断器已打开", None, app.app_type.value, log_id, Severity.CRITICAL)
    try:
        with connection.transaction():
            first = alerts.app_of_open_alert(connection, AlertType.CIRCUIT_OPEN)
            alerts.raise_alert(connection, alert if first is None else replace(alert, app_type=first))
    except psycopg.Error:
        logger.exception("alert.not_raised fingerprint=%s", alert.fingerprint)


def step_failed(app: App, site_id: int, target_id: str, error: ModelCallError, *, log_id: int, seconds: float) -> Alert | None:
    """For a step that ended with this failure; None where a hold has told the operator already."""
    if error.rule.is_throttling or error.rule.holds_every_app:
        return None
    app_type = app.app_type.value
    if error.rule.is_configuration:
        message = f"{app.title} 的配置有误({error.error_code}):请检查 {app.app_id_setting}"
        return Alert(AlertType.CONFIGURATION, message, None, app_type, log_id, Severity.CRITICAL, error.error_code)
    kind = AlertType.TIMEOUT if isinstance(error, CallTimedOut) else AlertType.FAILED
    message = f"{app.title} {target_id} 调用失败({error.error_code},{seconds:.1f} 秒)"
    return Alert(kind, message, site_id, app_type, log_id, detail=error.error_code)


def step_refused(app: App, site_id: int, refusal: GuardRefusal) -> Alert | None:
    """For a step that a guard refused; None where the operator needs nothing, or knows it already."""
    if refusal.has_own_alert:
        return None
    kind, _, limit = refusal.reason.partition(":")
    if kind == "budget_exceeded":
        # A limit is one thing to act on, however many applications run into it.
        return Alert(AlertType.BUDGET_EXCEEDED, str(refusal), site_id if limit.startswith("site_") else None, detail=refusal.reason)
    if kind == "rate_limited":
        return Alert(AlertType.RATE_LIMITED, str(refusal), site_id, app.app_type, detail=refusal.reason)
    if kind == "log_unwritable":
        # One cause, whatever was being made.
        return Alert(AlertType.LOG_UNWRITABLE, str(refusal), severity=Severity.CRITICAL)
    return None


def clues_unwritable(app: App, site_id: int, log_id: int | None) -> Alert:
    message = f"{app.title} 的回答已写入缓存,但 member_retention_clue 拒绝写入,稍后重试"
    return Alert(AlertType.FAILED, message, site_id, app.app_type.value, log_id, detail="clues_unwritable")


def raise_last(connection: Connection, alert: Alert) -> None:
    """Behind a savepoint: an alert that cannot be written takes nothing else back. The transaction's last deed, see `store/alerts.py`."""
    try:
        with connection.transaction():
            alerts.raise_alert(connection, alert)
    except psycopg.Error:
        logger.exception("alert.not_raised fingerprint=%s", alert.fingerprint)


def resolve_closed(connection: Connection, closed: Collection[str]) -> None:
    """After a call that closed these breakers. The account's alert is over; those of breakers and throttling, which come and go, end by
    `alert_endings.py`."""
    if EVERY_APP in closed:
        alerts.resolve(connection, ACCOUNT_HELD.fingerprint)
