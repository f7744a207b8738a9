"""The sums of the run logs say what the logs say, before, while and after hours are closed."""

from datetime import date, datetime, timedelta
from typing import Any

import pytest

from zqyy_ai.domain.access import ALL_SITES, SiteScope
from zqyy_ai.domain.business_clock import SHANGHAI
from zqyy_ai.store import run_log_sums
from zqyy_ai.store.database import Connection, Database, database_now
from zqyy_ai.store.queries import named_queries
from zqyy_ai.store.run_log_sums import LATENCY_BOUNDS_MS, DaySum

DAY = date(2026, 4, 20)
NOON = datetime(2026, 4, 20, 12, 30, tzinfo=SHANGHAI)


def log(connection: Connection, at: datetime, **columns: Any) -> int:
    values: dict[str, Any] = {
        "app_type": "app3_clue",
        "site_id": 1001,
        "trigger_type": "event",
        "status": "success",
        "tokens_used": 100,
        "input_tokens": 80,
        "output_tokens": 20,
        "latency_ms": 1_500,
        **columns,
        "created_at": at,
    }
    names = ", ".join(values)
    row = connection.execute(
        f"INSERT INTO biz.ai_run_logs ({names}) VALUES ({', '.join(f'%({name})s' for name in values)}) RETURNING id".encode(), values
    ).fetchone()
    assert row is not None
    return int(row["id"])


def close_all(database: Database) -> int:
    """Closes whatever may be closed; returns in how many spans."""
    spans = 0
    while True:
        with database.transaction() as connection:
            if not run_log_sums.close_next(connection):
                return spans
        spans += 1


def sums(connection: Connection, scope: SiteScope = ALL_SITES, day: date = DAY) -> list[DaySum]:
    return sorted(run_log_sums.by_day(connection, scope, [day]), key=lambda row: (row.app_type, row.outcome))


def closed_until(connection: Connection) -> datetime | None:
    row = connection.execute("SELECT closed_until FROM biz.ai_run_log_watermark").fetchone()
    assert row is not None
    found: datetime | None = row["closed_until"]
    return found


def test_the_sums_are_the_same_before_and_after_their_hours_are_closed(database: Database, connection: Connection) -> None:
    log(connection, NOON)
    log(
        connection, NOON + timedelta(minutes=1), status="timeout", tokens_used=50, input_tokens=None, output_tokens=None, latency_ms=180_100
    )
    log(connection, NOON + timedelta(hours=3), site_id=1002, latency_ms=400)
    log(connection, NOON + timedelta(hours=3), status="reused", tokens_used=0, input_tokens=None, output_tokens=None, latency_ms=0)
    log(connection, NOON - timedelta(days=1), site_id=None, app_type="app7_customer")
    before = sums(connection), run_totals(connection)
    assert close_all(database) == 2
    assert (sums(connection), run_totals(connection)) == before
    assert connection.execute("SELECT sum(logs)::integer AS n FROM biz.ai_run_log_days").fetchone() == {"n": 5}
    assert sums(connection) == [
        DaySum(DAY, "app3_clue", "reused", 1, 0, 0, 0, 0),
        DaySum(DAY, "app3_clue", "success", 2, 200, 160, 40, 1_900),
        DaySum(DAY, "app3_clue", "timeout", 1, 50, 0, 0, 180_100),
    ]


def run_totals(connection: Connection) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    added: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for row in run_log_sums.since_ever(connection, ALL_SITES):
        key = (row.site_id, row.app_type, row.outcome, row.refusal)
        numbers = (row.logs, row.tokens, row.input_tokens, row.output_tokens, row.latency_ms, *row.latency_counts)
        added[key] = tuple(a + b for a, b in zip(added[key], numbers, strict=True)) if key in added else numbers
    return added


def test_a_day_grows_with_each_of_its_hours(database: Database, connection: Connection) -> None:
    now = database_now(connection)
    early = now - timedelta(hours=5)
    log(connection, early)
    close_all(database)
    first = closed_until(connection)
    assert first is not None and early < first <= now - timedelta(hours=2)
    # The clock can't be turned: the same is asked of hours that were closed one after the other.
    connection.execute("UPDATE biz.ai_run_log_watermark SET closed_until = %s", [early.replace(minute=0, second=0, microsecond=0)])
    connection.execute("DELETE FROM biz.ai_run_log_days")
    connection.execute("DELETE FROM biz.ai_run_log_totals")
    day = early.astimezone(SHANGHAI).date()
    hour = early.replace(minute=0, second=0, microsecond=0)
    log(connection, hour + timedelta(hours=1, minutes=1))
    with database.transaction() as closing:
        queries = named_queries("run_log_sums")
        for begins_at in (hour, hour + timedelta(hours=1)):
            span = {"begins_at": begins_at, "ends_at": begins_at + timedelta(hours=1), "day": day, "bounds": list(LATENCY_BOUNDS_MS)}
            closing.execute(queries["close"], span)
    rows = connection.execute("SELECT day, logs, latency_ms FROM biz.ai_run_log_days").fetchall()
    assert rows == [{"day": day, "logs": 2, "latency_ms": 3_000}]
    [total] = run_log_sums.since_ever(connection, ALL_SITES)
    assert total.latency_counts == [0, 0, 2, 2, 2, 2, 2, 2, 2, 2]
    assert total.last_at == hour + timedelta(hours=1, minutes=1)


def test_hours_that_ended_less_than_two_hours_ago_stay_open(database: Database, connection: Connection) -> None:
    now = database_now(connection)
    log(connection, now - timedelta(minutes=90))
    log(connection, now + timedelta(days=2))
    assert close_all(database) == 0
    assert closed_until(connection) is None


def test_an_hour_with_a_row_that_has_not_ended_waits_for_it(database: Database, connection: Connection) -> None:
    now = database_now(connection)
    log(connection, now - timedelta(hours=8))
    running = log(connection, now - timedelta(hours=6), status="running", latency_ms=None, tokens_used=0)
    close_all(database)
    mark = closed_until(connection)
    assert mark is not None and mark <= now - timedelta(hours=6)
    connection.execute(
        "UPDATE biz.ai_run_logs SET status = 'failed', error_code = 'worker_died', error_message = 'x y' WHERE id = %s", [running]
    )
    close_all(database)
    later = closed_until(connection)
    assert later is not None and later > now - timedelta(hours=6)


def test_what_never_ended_is_given_up_after_a_week(database: Database, connection: Connection) -> None:
    log(connection, NOON, status="running", latency_ms=None)
    assert database_now(connection) > NOON + timedelta(days=8)
    close_all(database)
    assert [(row.outcome, row.logs) for row in sums(connection)] == [("running", 1)]
    assert closed_until(connection) is not None


def test_one_at_a_time_closes_hours(database: Database, connection: Connection) -> None:
    log(connection, NOON)
    with database.transaction() as first, database.transaction() as second:
        assert run_log_sums.close_next(first) is True
        assert run_log_sums.close_next(second) is None
    assert sums(connection)[0].logs == 1


def test_gaps_of_years_are_stepped_over(database: Database, connection: Connection) -> None:
    log(connection, datetime(1999, 1, 1, tzinfo=SHANGHAI))
    log(connection, NOON)
    assert close_all(database) == 2


@pytest.mark.parametrize(
    ("error_code", "error_message", "outcome", "refusal"),
    [
        ("circuit_open", "circuit_open", "refused", "circuit_open"),
        ("budget_exceeded", "budget_exceeded:site_daily", "refused", "budget_exceeded"),
        (None, "rate_limited", "refused", "rate_limited"),
        (None, "budget_exceeded:daily", "refused", "budget_exceeded"),
        ("not_sent", "数据库连接中断,未发起调用", "refused", "not_sent"),
        ("http_502", "DashScope answered 502", "failed", ""),
        ("worker_died", "the run process died during the call; the outcome is unknown", "failed", ""),
        (None, "boom", "failed", ""),
        (None, None, "failed", ""),
    ],
)
def test_a_refusal_is_told_from_a_call_that_failed(
    database: Database, connection: Connection, error_code: str | None, error_message: str | None, outcome: str, refusal: str
) -> None:
    log(connection, NOON, status="failed", error_code=error_code, error_message=error_message)
    for _ in range(2):
        [row] = run_log_sums.since_ever(connection, ALL_SITES)
        assert (row.outcome, row.refusal) == (outcome, refusal)
        close_all(database)


def test_the_old_dispatchers_name_of_app8_reads_as_ours(database: Database, connection: Connection) -> None:
    log(connection, NOON, app_type="app8_consolidate")
    log(connection, NOON, app_type="app8_consolidation")
    for _ in range(2):
        assert [(row.app_type, row.logs) for row in sums(connection)] == [("app8_consolidation", 2)]
        close_all(database)


def test_each_caller_sums_its_own_sites(database: Database, connection: Connection) -> None:
    log(connection, NOON)
    log(connection, NOON, site_id=1002)
    log(connection, NOON, site_id=None)
    for _ in range(2):
        for scope, logs in ((SiteScope(frozenset({1001})), 1), (SiteScope(frozenset({1001, 1002})), 2), (ALL_SITES, 3)):
            with database.within(scope).transaction() as theirs:
                assert [row.logs for row in sums(theirs, scope)] == [logs]
                # Row-level security narrows what a query forgot to.
                assert [row.logs for row in sums(theirs)] == [logs]
                assert sum(row.logs for row in run_log_sums.since_ever(theirs, ALL_SITES)) == logs
        assert sums(connection, SiteScope(frozenset())) == []
        close_all(database)


def test_days_are_those_of_shanghai(database: Database, connection: Connection) -> None:
    log(connection, datetime(2026, 4, 19, 23, 59, 59, tzinfo=SHANGHAI))
    log(connection, datetime(2026, 4, 20, 0, 0, tzinfo=SHANGHAI))
    log(connection, datetime(2026, 4, 20, 23, 59, 59, tzinfo=SHANGHAI))
    for _ in range(2):
        assert [row.logs for row in sums(connection)] == [2]
        close_all(database)


def test_the_apis_own_account_may_close_hours(database: Database, connection: Connection) -> None:
    log(connection, NOON)
    log(connection, NOON + timedelta(days=1), site_id=None)
    assert close_all(database.within(ALL_SITES)) == 2
    assert sums(connection)[0].logs == 1
