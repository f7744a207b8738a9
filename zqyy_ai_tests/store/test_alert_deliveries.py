from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from zqyy_ai.store import alert_deliveries, alerts
from zqyy_ai.store.alerts import Alert, AlertStatus, AlertType, Severity
from zqyy_ai.store.database import Connection, Database

LEASE = timedelta(minutes=1)


def raise_some(database: Database, count: int) -> None:
    for number in range(count):
        with database.transaction() as connection:
            alerts.raise_alert(connection, Alert(AlertType.FAILED, "调用失败", 1001, detail=f"code_{number}"))


def test_eight_deliverers_that_address_and_claim_at_once_get_each_change_once_a_target(database: Database, connection: Connection) -> None:
    raise_some(database, 30)

    def work(_: int) -> list[int]:
        with database.transaction() as transaction:
            alert_deliveries.address(transaction, ["slack-1", "dingtalk-1"])
        claimed = []
        for target in ("slack-1", "dingtalk-1"):
            with database.transaction() as transaction:
                claimed += [news.delivery_id for news in alert_deliveries.claim(transaction, target, lease=LEASE)]
        return claimed

    with ThreadPoolExecutor(8) as threads:
        claimed = [delivery_id for ids in threads.map(work, range(8)) for delivery_id in ids]
    rows = connection.execute("SELECT id, alert_id, target, attempts FROM biz.ai_alert_deliveries").fetchall()
    assert sorted(claimed) == sorted(row["id"] for row in rows)
    assert len({(row["alert_id"], row["target"]) for row in rows}) == len(rows) == 60
    assert {row["attempts"] for row in rows} == {1}


def test_deliverers_that_race_for_a_target_never_claim_a_row_twice(database: Database, connection: Connection) -> None:
    claimed: list[int] = []

    def claim(_: int) -> list[int]:
        with crowd.transaction() as transaction:
            return [news.delivery_id for news in alert_deliveries.claim(transaction, "slack-1", lease=LEASE)]

    raise_some(database, 1)
    with Database(database.url, max_connections=8) as crowd, ThreadPoolExecutor(8) as threads:
        # Who claims while another one commits is what matters, and that takes some rounds to happen.
        for _ in range(30):
            connection.execute("TRUNCATE biz.ai_alert_deliveries")
            connection.execute(
                "INSERT INTO biz.ai_alert_deliveries (alert_id, change, target) SELECT id, 'opened', 'slack-1'"
                " FROM biz.ai_alerts CROSS JOIN generate_series(1, 60)"
            )
            claimed += [delivery_id for ids in threads.map(claim, range(8)) for delivery_id in ids]
    assert len(claimed) == len(set(claimed)) == 30 * 60


def test_a_target_with_an_attempt_under_way_is_left_alone_and_another_is_not(database: Database) -> None:
    raise_some(database, 1)
    with database.transaction() as connection:
        alert_deliveries.address(connection, ["slack-1", "dingtalk-1"])
        [under_way] = alert_deliveries.claim(connection, "slack-1", lease=LEASE)
    raise_some(database, 2)
    with database.transaction() as connection:
        alert_deliveries.address(connection, ["slack-1", "dingtalk-1"])
        assert alert_deliveries.claim(connection, "slack-1", lease=LEASE) == []
        assert len(alert_deliveries.claim(connection, "dingtalk-1", lease=LEASE)) == 2
        alert_deliveries.mark_sent(connection, [under_way.delivery_id])
        assert len(alert_deliveries.claim(connection, "slack-1", lease=LEASE)) == 1


def test_an_acked_alert_that_becomes_critical_is_told(database: Database) -> None:
    with database.transaction() as connection:
        alert_id = alerts.raise_alert(connection, Alert(AlertType.FAILED, "调用失败", 1001))
        alerts.set_status_by_hand(connection, alert_id, AlertStatus.ACKED, by="wang")
        alerts.raise_alert(connection, Alert(AlertType.FAILED, "调用失败", 1001, severity=Severity.CRITICAL))
        alert_deliveries.address(connection, ["slack-1"])
        news = alert_deliveries.claim(connection, "slack-1", lease=LEASE)
    assert [item.change for item in news] == ["opened", "escalated"]
    assert news[0].alert.status is AlertStatus.ACKED
