"""`biz.ai_alert_deliveries`: the outbox of alert changes that people are to be told of.

    (alert changes) ──→ unaddressed ──→ one row a target: waiting ──→ claimed ──→ sent
                             │                              ↑            │
                             │                              └── failed ──┤ next_try_at says when again
                             └──────────────── too old ──→ given up ←────┘ too often, or too old

A claim is a lease (`next_try_at`): what a deliverer that died had claimed is delivered by another one, so at least once, and a second
time where it died after sending.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from zqyy_ai.store.alerts import AlertChange, StoredAlert
from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries

_MOST_ROWS_OF_A_CLAIM = 500


@dataclass(frozen=True, slots=True)
class AlertNews:
    """A claimed row: what happened to an alert, and the alert as it is now."""

    delivery_id: int
    change: AlertChange
    attempts: int
    alert: StoredAlert
    site_name: str | None


@dataclass(frozen=True, slots=True)
class Undelivered:
    """What one target was not told, and the last reason."""

    target: str
    deliveries: int
    last_error: str


def give_up_old(connection: Connection, *, after: timedelta, reason: str) -> int:
    """Rows older than `after`, addressed or not; `reason` for those that were never tried. Returns how many."""
    return connection.execute(named_queries("alert_deliveries")["give_up_old"], {"after": after, "reason": reason}).rowcount


def address(connection: Connection, targets: Collection[str]) -> None:
    """Puts one row for each target in the place of each unaddressed one."""
    connection.execute(named_queries("alert_deliveries")["address"], {"targets": list(targets)})


def claim(connection: Connection, target: str, *, lease: timedelta) -> list[AlertNews]:
    """All that waits for a target, oldest first; nothing while an attempt is under way or has to wait. Rows of deleted alerts are ended."""
    wanted = {"target": target, "lease": lease, "limit": _MOST_ROWS_OF_A_CLAIM}
    claimed = connection.execute(named_queries("alert_deliveries")["claim"], wanted).fetchall()
    alerts = {
        row["id"]: row
        for row in connection.execute(
            """
            SELECT alert.*, site.site_name AS name_of_site
            FROM biz.ai_alerts alert LEFT JOIN biz.sites site ON site.site_id = alert.site_id
            WHERE alert.id = ANY(%s)
            """,
            [[row["alert_id"] for row in claimed]],
        )
    }
    mark_failed(connection, [row["id"] for row in claimed if row["alert_id"] not in alerts], "告警已删除", timedelta(0), most_attempts=0)
    found = sorted((row for row in claimed if row["alert_id"] in alerts), key=lambda row: int(row["id"]))
    return [
        AlertNews(
            delivery_id=row["id"],
            change=AlertChange(row["change"]),
            attempts=row["attempts"],
            alert=StoredAlert.from_row(alerts[row["alert_id"]]),
            site_name=alerts[row["alert_id"]]["name_of_site"],
        )
        for row in found
    ]


def mark_sent(connection: Connection, delivery_ids: Collection[int]) -> None:
    connection.execute(named_queries("alert_deliveries")["mark_sent"], {"ids": list(delivery_ids)})


def mark_failed(connection: Connection, delivery_ids: Collection[int], error: str, pause: timedelta, *, most_attempts: int) -> None:
    """To be tried again after `pause`; rows that were tried `most_attempts` times are given up."""
    failed = {"ids": list(delivery_ids), "error": error[:500], "pause": pause, "most_attempts": most_attempts}
    connection.execute(named_queries("alert_deliveries")["mark_failed"], failed)


def undelivered(connection: Connection, *, since: timedelta) -> list[Undelivered]:
    """By target, what was tried and not delivered, given up or still to be tried, among what happened in the last `since`."""
    rows = connection.execute(named_queries("alert_deliveries")["undelivered"], {"since": since})
    return [Undelivered(row["target"], row["deliveries"], row["last_error"]) for row in rows]
