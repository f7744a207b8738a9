import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import sql

from zqyy_ai.domain.errors import InvalidRequest
from zqyy_ai.store import alerts
from zqyy_ai.store.alerts import Alert, AlertStatus, AlertType, Severity
from zqyy_ai.store.database import Connection, Database

ACKED, IGNORED, RESOLVED, OPEN = AlertStatus.ACKED, AlertStatus.IGNORED, AlertStatus.RESOLVED, AlertStatus.OPEN


def failed(
    message: str = "调用失败",
    *,
    site_id: int = 1001,
    detail: str = "InternalError",
    log_id: int | None = None,
    severity: Severity = Severity.WARNING,
) -> Alert:
    return Alert(AlertType.FAILED, message, site_id, "app2_finance", log_id, severity, detail)


def stored(connection: Connection) -> list[dict[str, Any]]:
    return connection.execute("SELECT * FROM biz.ai_alerts ORDER BY id").fetchall()


def told(connection: Connection) -> list[str]:
    """What people are to be told of, in order."""
    return [row["change"] for row in connection.execute("SELECT change FROM biz.ai_alert_deliveries ORDER BY id")]


def raise_in_transaction(database: Database, alert: Alert) -> int:
    with database.transaction() as connection:
        return alerts.raise_alert(connection, alert)


def resolve(database: Database, alert: Alert, reason: str = "") -> bool:
    with database.transaction() as connection:
        return alerts.resolve(connection, alert.fingerprint, reason)


def set_by_hand(database: Database, alert_id: int, status: AlertStatus, reason: str = "") -> None:
    with database.transaction() as connection:
        alerts.set_status_by_hand(connection, alert_id, status, by="wang", reason=reason)


def test_a_first_alert_is_opened_with_all_that_an_operator_needs(database: Database, connection: Connection) -> None:
    raise_in_transaction(database, Alert(AlertType.ACCOUNT_HELD, "账户欠费", log_id=5, severity=Severity.CRITICAL))
    row = stored(connection)[0]
    assert (row["alert_type"], row["severity"], row["message"], row["log_id"]) == ("account_held", "critical", "账户欠费", 5)
    assert (row["alert_status"], row["occurrences"], row["site_id"], row["app_type"]) == ("open", 1, None, None)
    assert row["opened_at"] >= row["created_at"]


def test_a_fingerprint_names_type_site_application_and_detail() -> None:
    assert failed().fingerprint == "failed|1001|app2_finance|InternalError"
    assert alerts.fingerprint_of(AlertType.ACCOUNT_HELD) == "account_held|-|-|-"
    assert len(failed(detail="x" * 999).fingerprint) == 250


def test_the_same_trouble_again_is_counted_and_shows_its_last_words(database: Database, connection: Connection) -> None:
    first = raise_in_transaction(database, failed("第一次", log_id=1))
    assert raise_in_transaction(database, failed("第二次", log_id=2)) == first
    assert raise_in_transaction(database, failed("第三次")) == first
    row = stored(connection)[0]
    assert (len(stored(connection)), row["occurrences"], row["message"], row["log_id"]) == (1, 3, "第三次", 2)
    assert row["last_seen_at"] > row["created_at"]
    assert told(connection) == ["opened"]


def test_another_site_application_or_code_is_other_trouble(database: Database, connection: Connection) -> None:
    for alert in (failed(), failed(site_id=1002), failed(detail="http_502"), Alert(AlertType.TIMEOUT, "超时", 1001, "app2_finance")):
        raise_in_transaction(database, alert)
    assert [row["occurrences"] for row in stored(connection)] == [1, 1, 1, 1]


@pytest.mark.parametrize("status", [ACKED, IGNORED])
def test_trouble_that_somebody_knows_of_is_only_counted(database: Database, connection: Connection, status: AlertStatus) -> None:
    alert_id = raise_in_transaction(database, failed())
    set_by_hand(database, alert_id, status, "已知问题")
    assert raise_in_transaction(database, failed("又一次")) == alert_id
    row = stored(connection)[0]
    assert (row["alert_status"], row["occurrences"], row["message"]) == (status.value, 2, "又一次")
    assert (row["status_changed_by"], row["status_reason"]) == ("wang", "已知问题")
    assert row["status_changed_at"] is not None
    assert told(connection) == ["opened"]


def test_trouble_after_an_alert_was_resolved_reopens_it_with_the_new_words(database: Database, connection: Connection) -> None:
    first = raise_in_transaction(database, failed("旧", log_id=7, severity=Severity.CRITICAL))
    assert resolve(database, failed(), "调用已恢复")
    closed = stored(connection)[0]
    assert (closed["alert_status"], closed["status_changed_by"], closed["status_reason"]) == ("resolved", "zqyy_ai", "调用已恢复")
    assert closed["resolved_at"] is not None

    assert raise_in_transaction(database, failed("新")) == first
    row = stored(connection)[0]
    assert (row["alert_status"], row["reopened_count"], row["occurrences"]) == ("open", 1, 2)
    assert (row["message"], row["log_id"], row["severity"]) == ("新", None, "warning")
    assert (row["resolved_at"], row["status_reason"]) == (None, None)
    assert row["opened_at"] > closed["resolved_at"]
    assert told(connection) == ["opened", "resolved", "reopened"]


def test_resolving_what_is_over_already_or_never_was_says_so_and_changes_nothing(database: Database, connection: Connection) -> None:
    assert not resolve(database, failed())
    raise_in_transaction(database, failed())
    assert resolve(database, failed())
    before = stored(connection)
    assert not resolve(database, failed())
    assert stored(connection) == before


def test_a_higher_severity_is_taken_over_and_a_lower_one_is_not(database: Database, connection: Connection) -> None:
    for severity in (Severity.WARNING, Severity.CRITICAL, Severity.WARNING, Severity.CRITICAL):
        raise_in_transaction(database, failed(severity=severity))
    assert [(row["severity"], row["occurrences"]) for row in stored(connection)] == [("critical", 4)]
    assert told(connection) == ["opened", "escalated"]


def test_nobody_is_told_of_what_becomes_of_an_ignored_alert(database: Database, connection: Connection) -> None:
    alert_id = raise_in_transaction(database, failed())
    set_by_hand(database, alert_id, IGNORED, "测试门店")
    raise_in_transaction(database, failed(severity=Severity.CRITICAL))
    assert resolve(database, failed())
    assert told(connection) == ["opened"]
    assert stored(connection)[0]["severity"] == "critical"


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        ((RESOLVED,), ACKED),
        ((RESOLVED,), IGNORED),
        ((RESOLVED,), RESOLVED),
        ((ACKED,), ACKED),
        ((IGNORED,), ACKED),
        ((IGNORED,), IGNORED),
        ((), OPEN),
        ((RESOLVED,), OPEN),
    ],
)
def test_a_change_that_the_state_does_not_allow_is_refused_with_what_it_does(
    database: Database, connection: Connection, steps: tuple[AlertStatus, ...], wanted: AlertStatus
) -> None:
    alert_id = raise_in_transaction(database, failed())
    for step in steps:
        set_by_hand(database, alert_id, step)
    before = stored(connection)
    with pytest.raises(InvalidRequest) as refused:
        set_by_hand(database, alert_id, wanted)
    said = str(refused.value)
    assert all(allowed.value in said for allowed in alerts.ALLOWED_BY_HAND[(OPEN, *steps)[-1]])
    assert stored(connection) == before


def test_an_acked_alert_may_still_be_ignored_and_resolved(database: Database, connection: Connection) -> None:
    alert_id = raise_in_transaction(database, failed())
    for status in (ACKED, IGNORED, RESOLVED):
        set_by_hand(database, alert_id, status)
        assert stored(connection)[0]["alert_status"] == status.value


def test_an_unknown_alert_cannot_be_changed(database: Database) -> None:
    with pytest.raises(InvalidRequest, match="4711"):
        set_by_hand(database, 4711, ACKED)


def test_another_systems_row_is_left_alone_and_can_be_closed(database: Database, connection: Connection) -> None:
    for status in ("open", None, "new"):
        connection.execute("INSERT INTO biz.ai_alerts (alert_status, opened_at) VALUES (%s, NULL)", [status])
    before = stored(connection)
    raise_in_transaction(database, failed())
    resolve(database, failed())
    assert stored(connection)[:3] == before
    with database.transaction() as transaction:
        assert len(alerts.list_alerts(transaction, [OPEN], limit=10)) == 3
    for row in before:
        set_by_hand(database, row["id"], RESOLVED)
    assert {row["alert_status"] for row in stored(connection)} == {"resolved"}


def test_critical_alerts_are_listed_first_and_then_the_newest(database: Database) -> None:
    raise_in_transaction(database, failed(detail="a"))
    raise_in_transaction(database, failed(detail="b", severity=Severity.CRITICAL))
    raise_in_transaction(database, failed(detail="c"))
    resolve(database, failed(detail="a"))
    with database.transaction() as connection:
        assert [(a.fingerprint or "")[-1] for a in alerts.list_alerts(connection, [OPEN], limit=10)] == ["b", "c"]
        assert [(a.fingerprint or "")[-1] for a in alerts.list_alerts(connection, list(AlertStatus), limit=2)] == ["b", "c"]
        assert [(a.fingerprint or "")[-1] for a in alerts.list_alerts(connection, [RESOLVED], limit=9)] == ["a"]


def test_eight_threads_at_once_count_on_one_alert(database: Database, connection: Connection) -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = set(threads.map(lambda _: raise_in_transaction(database, failed()), range(40)))
    assert [(row["id"], row["occurrences"]) for row in stored(connection)] == [(ids.pop(), 40)]
    assert told(connection) == ["opened"]


RAISE_MANY = """
import random, sys
from zqyy_ai.store import alerts
from zqyy_ai.store.alerts import Alert, AlertType
from zqyy_ai.store.database import Database

with Database(sys.argv[1], max_connections=1) as database:
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(25):
        sites = [1001, 1002, 1003]
        random.shuffle(sites)
        with database.transaction() as connection:
            for site_id in sites:
                alerts.raise_alert(connection, Alert(AlertType.FAILED, "调用失败", site_id))
"""


def test_eight_processes_that_raise_the_same_in_any_order_neither_deadlock_nor_lose_one(database_url: str) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", RAISE_MANY, database_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT site_id, occurrences FROM biz.ai_alerts ORDER BY site_id").fetchall()
        assert rows == [(site_id, 8 * 25) for site_id in (1001, 1002, 1003)]
        assert connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone() == (0,)


def test_raising_and_resolving_at_once_leaves_every_occurrence_counted(database: Database, connection: Connection) -> None:
    def work(number: int) -> None:
        alert = failed(detail=str(random.Random(number).randrange(3)))
        raise_in_transaction(database, alert)
        if number % 3 == 0:
            resolve(database, alert)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(96)))
    rows = stored(connection)
    assert sum(row["occurrences"] for row in rows) == 96
    changes = told(connection)
    assert changes.count("opened") == 3
    assert changes.count("reopened") == sum(row["reopened_count"] for row in rows)
    assert changes.count("resolved") == changes.count("reopened") + sum(row["alert_status"] == "resolved" for row in rows)


def test_watchers_are_told_of_each_change_and_not_of_what_is_only_counted(database: Database, connection: Connection) -> None:
    with database.listener() as listener:
        listener.execute(sql.SQL("LISTEN zqyy_ai_live"))
        alert_id = raise_in_transaction(database, failed(log_id=9))
        raise_in_transaction(database, failed(log_id=9))
        set_by_hand(database, alert_id, ACKED)
        resolve(database, failed())
        raise_in_transaction(database, failed())
        heard = list(listener.notifies(timeout=0.2))
    events = connection.execute("SELECT id, event_type, site_id, payload FROM biz.ai_live_events ORDER BY id").fetchall()
    assert [note.payload for note in heard] == [str(event["id"]) for event in events]
    assert [(event["event_type"], event["site_id"], event["payload"]["alert_status"]) for event in events] == [
        ("alert_created", 1001, "open"),
        ("alert_updated", 1001, "acked"),
        ("alert_updated", 1001, "resolved"),
        ("alert_updated", 1001, "open"),
    ]
    assert events[0]["payload"] == {
        "alert_id": alert_id,
        "app_type": "app2_finance",
        "alert_type": "failed",
        "message": "调用失败",
        "log_id": 9,
        "alert_status": "open",
    }
