import pytest

from zqyy_ai.engine.alert_endings import resolve_what_is_over
from zqyy_ai.engine.call_alerts import ACCOUNT_HELD, THROTTLED
from zqyy_ai.store import alerts
from zqyy_ai.store.alerts import Alert, AlertStatus, AlertType
from zqyy_ai.store.database import Connection, Database

FAILED = Alert(AlertType.FAILED, "调用失败", 1001, "app2_finance", detail="http_502")
OVER_BUDGET = Alert(AlertType.BUDGET_EXCEEDED, "预算超限", detail="budget_exceeded:daily")
CIRCUIT = Alert(AlertType.CIRCUIT_OPEN, "熔断", app_type="app2_finance")
DEAD_JOB = Alert(AlertType.JOB_DEAD, "任务放弃", 1001, detail="dws_completed")


def raised(database: Database, alert: Alert, *, minutes_ago: int) -> None:
    with database.transaction() as connection:
        alert_id = alerts.raise_alert(connection, alert)
        connection.execute(
            "UPDATE biz.ai_alerts SET last_seen_at = clock_timestamp() - make_interval(mins => %s) WHERE id = %s", [minutes_ago, alert_id]
        )


def succeeded(connection: Connection, *, minutes_ago: int, site_id: int = 1001, app_type: str = "app2_finance") -> None:
    connection.execute(
        "INSERT INTO biz.ai_run_logs (app_type, site_id, status, created_at)"
        " VALUES (%s, %s, 'success', clock_timestamp() - make_interval(mins => %s))",
        [app_type, site_id, minutes_ago],
    )


def set_breaker(connection: Connection, name: str, state: str) -> None:
    connection.execute("INSERT INTO biz.ai_breakers (app_type, state) VALUES (%s, %s)", [name, state])


def status_of(connection: Connection, alert: Alert) -> str:
    row = connection.execute("SELECT alert_status FROM biz.ai_alerts WHERE fingerprint = %s", [alert.fingerprint]).fetchone()
    assert row is not None
    return str(row["alert_status"])


@pytest.mark.parametrize("alert", [FAILED, OVER_BUDGET], ids=["a failure", "a budget limit"])
def test_an_alert_about_calls_is_over_when_they_succeed_and_it_was_quiet_for_half_an_hour(
    alert: Alert, database: Database, connection: Connection
) -> None:
    raised(database, alert, minutes_ago=31)
    assert resolve_what_is_over(database) == 0, "no call has succeeded since"
    succeeded(connection, minutes_ago=10)
    assert resolve_what_is_over(database) == 1
    assert status_of(connection, alert) == "resolved"


def test_an_alert_that_happened_lately_stays_open_although_calls_succeed(database: Database, connection: Connection) -> None:
    raised(database, FAILED, minutes_ago=29)
    succeeded(connection, minutes_ago=1)
    assert resolve_what_is_over(database) == 0


@pytest.mark.parametrize("elsewhere", [{"site_id": 1002}, {"app_type": "app3_clue"}], ids=["another site", "another application"])
def test_a_success_elsewhere_tells_nothing_about_an_alert(elsewhere: dict[str, object], database: Database, connection: Connection) -> None:
    raised(database, FAILED, minutes_ago=60)
    succeeded(connection, minutes_ago=1, **elsewhere)  # type: ignore[arg-type]
    assert resolve_what_is_over(database) == 0


@pytest.mark.parametrize(
    ("alert", "breaker", "minutes_ago"),
    [(CIRCUIT, "app2_finance", 6), (ACCOUNT_HELD, "*", 0), (THROTTLED, "throttled:app2_finance", 6)],
    ids=["circuit", "account", "throttling"],
)
def test_a_breakers_alert_lasts_as_long_as_the_breaker_is_not_closed(
    alert: Alert, breaker: str, minutes_ago: int, database: Database, connection: Connection
) -> None:
    raised(database, alert, minutes_ago=minutes_ago)
    set_breaker(connection, breaker, "half_open")
    assert resolve_what_is_over(database) == 0
    connection.execute("UPDATE biz.ai_breakers SET state = 'closed'")
    assert resolve_what_is_over(database) == 1
    assert status_of(connection, alert) == "resolved"


@pytest.mark.parametrize("alert", [CIRCUIT, THROTTLED], ids=["circuit", "throttling"])
def test_a_breaker_that_closes_and_opens_again_each_minute_tells_people_once(
    alert: Alert, database: Database, connection: Connection
) -> None:
    for _ in range(5):
        raised(database, alert, minutes_ago=1)
        assert resolve_what_is_over(database) == 0, "closed for a minute only"
    assert connection.execute("SELECT change FROM biz.ai_alert_deliveries").fetchall() == [{"change": "opened"}]


def test_what_a_person_ignored_or_must_repair_is_left_as_it_is(database: Database, connection: Connection) -> None:
    raised(database, FAILED, minutes_ago=60)
    raised(database, DEAD_JOB, minutes_ago=60)
    succeeded(connection, minutes_ago=1)
    with database.transaction() as changing:
        [ignored] = [row for row in alerts.list_alerts(changing, [AlertStatus.OPEN], limit=10) if row.alert_type == "failed"]
        alerts.set_status_by_hand(changing, ignored.id, AlertStatus.IGNORED, by="王店长", reason="已知")
    assert resolve_what_is_over(database) == 0
