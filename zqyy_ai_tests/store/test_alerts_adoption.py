"""`biz.ai_alerts` as it was before alerts had one row a fingerprint, and as another system had it, goes on without losing a row."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from zqyy_ai.domain.errors import SchemaConflict
from zqyy_ai.store import alerts, migrations
from zqyy_ai.store.alerts import Alert, AlertType
from zqyy_ai.store.database import Database
from zqyy_ai.store.migrations import migrate
from zqyy_ai_tests.conftest import fresh_database

MIGRATION = Path(migrations.__file__).parent / "versions/0003_alert_states.sql"
BEFORE = """
DROP TABLE biz.ai_alert_deliveries;
DROP INDEX biz.ai_alerts_fingerprint_unique;
ALTER TABLE biz.ai_alerts DROP COLUMN reopened_count, DROP COLUMN opened_at, DROP COLUMN status_changed_at, DROP COLUMN status_changed_by,
    DROP COLUMN status_reason, DROP COLUMN resolved_at;
"""
ANOTHER_SYSTEMS = """
CREATE SCHEMA biz;
CREATE TABLE biz.ai_alerts (
    id serial PRIMARY KEY,
    alert_type varchar(50) NOT NULL,
    severity varchar(20) NOT NULL DEFAULT 'warning' CHECK (severity IN ('info', 'warning', 'critical')),
    site_id integer,
    message text NOT NULL,
    alert_status varchar(20) NOT NULL DEFAULT 'open' CHECK (alert_status IN ('open', 'acked', 'ignored', 'resolved')),
    status varchar(20),
    handled_by varchar(50),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO biz.ai_alerts (alert_type, message, alert_status) VALUES ('failed', '旧告警', 'open'), ('failed', '旧告警', 'open');
"""


@pytest.fixture
def unmigrated_url(server_url: str) -> Iterator[str]:
    with fresh_database(server_url, "template0") as url:
        yield url


def rows(url: str) -> list[dict[str, Any]]:
    with psycopg.connect(url) as connection:
        return [row for (row,) in connection.execute("SELECT to_jsonb(alert) FROM biz.ai_alerts alert ORDER BY id")]


def test_rows_of_one_fingerprint_become_one_that_counts_them_all_and_history(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(BEFORE.encode())
        for fingerprint, status, occurrences in (
            ("a", "ignored", 5),
            ("a", "open", 2),
            ("a", "acked", 1),
            ("b", "resolved", 3),
            ("b", "acked", 4),
            ("c", "acked", 9),
            (None, "open", 1),
            (None, "open", 1),
        ):
            connection.execute(
                "INSERT INTO biz.ai_alerts (fingerprint, alert_status, occurrences) VALUES (%s, %s, %s)", [fingerprint, status, occurrences]
            )
        connection.execute(MIGRATION.read_bytes())
        connection.execute(MIGRATION.read_bytes())
    kept = [(row["fingerprint"], row["alert_status"], row["occurrences"], row["reopened_count"]) for row in rows(database_url)]
    assert kept == [
        (None, "resolved", 5, 0),
        ("a", "open", 8, 2),
        (None, "resolved", 1, 0),
        (None, "resolved", 3, 0),
        ("b", "acked", 7, 1),
        ("c", "acked", 9, 0),
        (None, "open", 1, 0),
        (None, "open", 1, 0),
    ]
    assert rows(database_url)[0]["status_reason"] == f"并入告警 {rows(database_url)[1]['id']}"


def test_another_systems_table_keeps_its_rows_and_takes_ours(unmigrated_url: str) -> None:
    with psycopg.connect(unmigrated_url) as connection:
        connection.execute(ANOTHER_SYSTEMS.encode())
    before = rows(unmigrated_url)
    assert migrate(unmigrated_url).is_current
    assert all(old.items() <= row.items() for old, row in zip(before, rows(unmigrated_url), strict=True))
    assert [row["fingerprint"] for row in rows(unmigrated_url)] == [None, None]
    with Database(unmigrated_url) as database, database.transaction() as connection:
        alert_id = alerts.raise_alert(connection, Alert(AlertType.EVENT_REJECTED, "事件被拒绝"))
        alerts.raise_alert(connection, Alert(AlertType.EVENT_REJECTED, "事件被拒绝"))
        found = alerts.get(connection, alert_id)
        assert found is not None
        assert found.occurrences == 2
        assert len(alerts.list_alerts(connection, [alerts.AlertStatus.OPEN], limit=9)) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ADD COLUMN resolved_at date", "column biz.ai_alerts.resolved_at has type date, but timestamp with time zone is needed"),
        ("ADD COLUMN fingerprint varchar(64)", "column biz.ai_alerts.fingerprint holds at most 64 characters, but 250 are needed"),
        ("ADD COLUMN app_type varchar(50) NOT NULL DEFAULT ''", "NULL in columns that zqyy_ai leaves empty in some rows: app_type"),
        ("ADD CONSTRAINT narrow CHECK (alert_status IN ('open', 'acked', 'resolved'))", "constraint narrow on biz.ai_alerts"),
    ],
)
def test_a_table_that_could_not_hold_our_alerts_stops_the_migration(unmigrated_url: str, change: str, said: str) -> None:
    with psycopg.connect(unmigrated_url) as connection:
        connection.execute(ANOTHER_SYSTEMS.encode())
        connection.execute(f"ALTER TABLE biz.ai_alerts {change}".encode())
    before = rows(unmigrated_url)
    with pytest.raises(SchemaConflict) as refused:
        migrate(unmigrated_url)
    assert said in str(refused.value)
    assert "Nothing was changed" in str(refused.value)
    assert rows(unmigrated_url) == before
