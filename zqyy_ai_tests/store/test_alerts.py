from concurrent.futures import ThreadPoolExecutor
from typing import Any

from psycopg import sql

from zqyy_ai.store import alerts
from zqyy_ai.store.alerts import Alert, AlertType, Severity
from zqyy_ai.store.database import Connection, Database


def failed(message: str = "调用失败", *, site_id: int = 1001, detail: str = "InternalError", log_id: int | None = None) -> Alert:
    return Alert(AlertType.FAILED, message, site_id, "app2_finance", log_id, detail=detail)


def stored(connection: Connection) -> list[dict[str, Any]]:
    return connection.execute("SELECT * FROM biz.ai_alerts ORDER BY id").fetchall()


def raise_in_transaction(database: Database, alert: Alert) -> int:
    with database.transaction() as connection:
        return alerts.raise_alert(connection, alert)


def test_a_first_alert_is_opened_with_all_that_an_operator_needs(database: Database, connection: Connection) -> None:
    raise_in_transaction(database, Alert(AlertType.ACCOUNT_HELD, "账户欠费", log_id=5, severity=Severity.CRITICAL))
    row = stored(connection)[0]
    assert (row["alert_type"], row["severity"], row["message"], row["log_id"]) == ("account_held", "critical", "账户欠费", 5)
    assert (row["alert_status"], row["occurrences"], row["site_id"], row["app_type"]) == ("open", 1, None, None)


def test_the_same_trouble_again_is_counted_and_shows_its_last_words(database: Database, connection: Connection) -> None:
    first = raise_in_transaction(database, failed("第一次", log_id=1))
    assert raise_in_transaction(database, failed("第二次", log_id=2)) == first
    assert raise_in_transaction(database, failed("第三次")) == first
    row = stored(connection)[0]
    assert (len(stored(connection)), row["occurrences"], row["message"], row["log_id"]) == (1, 3, "第三次", 2)
    assert row["last_seen_at"] > row["created_at"]


def test_another_site_application_or_code_is_other_trouble(database: Database, connection: Connection) -> None:
    for alert in (failed(), failed(site_id=1002), failed(detail="http_502"), Alert(AlertType.TIMEOUT, "超时", 1001, "app2_finance")):
        raise_in_transaction(database, alert)
    assert [row["occurrences"] for row in stored(connection)] == [1, 1, 1, 1]


def test_eight_threads_at_once_count_on_one_alert(database: Database, connection: Connection) -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = set(threads.map(lambda _: raise_in_transaction(database, failed()), range(40)))
    assert [(row["id"], row["occurrences"]) for row in stored(connection)] == [(ids.pop(), 40)]


def test_trouble_after_an_alert_was_closed_opens_a_new_one(database: Database, connection: Connection) -> None:
    first = raise_in_transaction(database, failed())
    connection.execute("UPDATE biz.ai_alerts SET alert_status = 'resolved'")
    assert raise_in_transaction(database, failed()) != first
    assert [(row["alert_status"], row["occurrences"]) for row in stored(connection)] == [("resolved", 1), ("open", 1)]


def test_an_alert_that_is_opened_is_told_to_those_who_watch_and_a_counted_one_is_not(database: Database, connection: Connection) -> None:
    with database.listener() as listener:
        listener.execute(sql.SQL("LISTEN zqyy_ai_live"))
        for _ in range(2):
            raise_in_transaction(database, failed(log_id=9))
        heard = list(listener.notifies(timeout=0.2))
    told = connection.execute("SELECT id, event_type, site_id, payload FROM biz.ai_live_events").fetchall()
    assert [note.payload for note in heard] == [str(told[0]["id"])]
    assert (told[0]["event_type"], told[0]["site_id"]) == ("alert_created", 1001)
    assert told[0]["payload"] == {"app_type": "app2_finance", "alert_type": "failed", "message": "调用失败", "log_id": 9}
