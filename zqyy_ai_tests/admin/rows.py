"""Rows of tables as tests need them, with the columns that matter to them."""

from datetime import date, datetime, timedelta
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from zqyy_ai.domain.business_clock import SHANGHAI
from zqyy_ai.store.database import Connection
from zqyy_ai_tests.admin.callers import SITE


def add(connection: Connection, table: str, **columns: Any) -> int:
    """Inserts into `biz.<table>`; dicts become JSON. Returns the id."""
    statement = sql.SQL("INSERT INTO biz.{} ({}) VALUES ({}) RETURNING id").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join(map(sql.Placeholder, columns))
    )
    row = connection.execute(
        statement, {name: Jsonb(value) if isinstance(value, dict) else value for name, value in columns.items()}
    ).fetchone()
    assert row is not None
    return int(row["id"])


def add_log(connection: Connection, **columns: Any) -> int:
    """A successful call of 100 tokens and 2 s, now."""
    usual: dict[str, Any] = {
        "app_type": "app3_clue",
        "site_id": SITE,
        "trigger_type": "event",
        "status": "success",
        "tokens_used": 100,
        "input_tokens": 80,
        "output_tokens": 20,
        "latency_ms": 2_000,
    }
    return add(connection, "ai_run_logs", **{**usual, **columns})


def add_refusal(connection: Connection, reason: str = "circuit_open", **columns: Any) -> int:
    code = reason.partition(":")[0]
    none = {"tokens_used": 0, "input_tokens": None, "output_tokens": None, "latency_ms": 0}
    return add_log(connection, status="failed", error_code=code, error_message=reason, **{**none, **columns})


def add_reuse(connection: Connection, **columns: Any) -> int:
    none = {"tokens_used": 0, "input_tokens": None, "output_tokens": None, "latency_ms": 0}
    return add_log(connection, status="reused", **{**none, **columns})


def add_job(connection: Connection, **columns: Any) -> int:
    """A completed consumption of today, of ours."""
    usual: dict[str, Any] = {
        "event_type": "consumption",
        "site_id": SITE,
        "member_id": 7,
        "status": "completed",
        "app_chain": "app3→app8→app7",
        "dedup_key": "x",
        "payload": {"site_id": SITE, "member_id": 7},
    }
    return add(connection, "ai_trigger_jobs", **{**usual, **columns})


def add_alert(connection: Connection, **columns: Any) -> int:
    usual: dict[str, Any] = {"alert_type": "failed", "severity": "warning", "site_id": SITE, "message": "调用失败", "alert_status": "open"}
    return add(connection, "ai_alerts", **{**usual, **columns})


def today() -> date:
    return datetime.now(SHANGHAI).date()


def days_ago(number: int) -> datetime:
    return datetime.now(SHANGHAI) - timedelta(days=number)
