"""The budget day, on a database whose clock the tests turn: a schema before `pg_catalog` in the search path holds a clock of its own, so
that the functions run unchanged. The host's clock shows another year all the while."""

import random
import time as host_time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, time, timedelta
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from zqyy_ai.domain.business_clock import SHANGHAI, business_date_at
from zqyy_ai.domain.errors import GuardRefusal
from zqyy_ai.guards.budget import BudgetGuard, BudgetPolicy, Reservation
from zqyy_ai.store.database import Connection, Database

WIDE = BudgetPolicy(daily_tokens=10**6, monthly_tokens=10**6, site_daily_tokens=10**6, site_monthly_tokens=10**6)
GUARD = BudgetGuard(WIDE)
MIDNIGHT, SIX, HALF_PAST_FOUR = time(0, 0), time(6, 0), time(4, 30)
MINUTE, WORKER = timedelta(minutes=1), uuid4()
INSTANT = timedelta(microseconds=1)

_CLOCK = """
CREATE SCHEMA turned;
CREATE FUNCTION turned.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT current_setting('turned.clock')::timestamptz
$$;
"""


@contextmanager
def turned(connection: Connection) -> Iterator[Connection]:
    """The connection, on the turned clock inside the block."""
    connection.execute("SET search_path = turned, pg_catalog")
    try:
        yield connection
    finally:
        connection.execute("RESET search_path")


@pytest.fixture
def clocked(database: Database, connection: Connection) -> Iterator[Connection]:
    if connection.execute("SELECT to_regnamespace('turned') IS NULL AS is_missing").fetchone() == {"is_missing": True}:
        connection.execute(_CLOCK)
    with turned(connection):
        yield connection


def at(connection: Connection, moment: datetime | str) -> datetime:
    """Turns the database's clock; a text is a time in Shanghai."""
    when = datetime.fromisoformat(moment).replace(tzinfo=SHANGHAI) if isinstance(moment, str) else moment
    connection.execute("SELECT set_config('turned.clock', %s, false)", [when.isoformat()])
    return when


def reserve(connection: Connection, cutoff: time = MIDNIGHT, tokens: int = 100, guard: BudgetGuard = GUARD) -> Reservation:
    return guard.reserve(
        connection, site_id=1001, site_cutoff=cutoff, app_type="app2_finance", tokens=tokens, worker_id=WORKER, lease=MINUTE
    )


def windows(connection: Connection) -> dict[str, list[tuple[str, int, int]]]:
    """First day, used and reserved tokens of the windows by scope and kind, oldest first."""
    found: dict[str, list[tuple[str, int, int]]] = {}
    for row in connection.execute("SELECT * FROM biz.ai_budget_windows ORDER BY starts_on").fetchall():
        window = (str(row["starts_on"]), row["used_tokens"], row["reserved_tokens"])
        found.setdefault(f"{row['scope'].partition(':')[0]} {row['kind']}", []).append(window)
    return found


def first_days(connection: Connection) -> tuple[str, str, str, str]:
    """Of the only windows: chain's day and month, site's day and month."""
    found = {name: [first_day for first_day, _, _ in of_name] for name, of_name in windows(connection).items()}
    [[chain_day], [chain_month], [site_day], [site_month]] = (
        found[name] for name in ("chain day", "chain month", "site day", "site month")
    )
    return chain_day, chain_month, site_day, site_month


TURNS = [
    ("2025-06-18 05:59:59.999999", SIX, ("2025-06-18", "2025-06-01", "2025-06-17", "2025-06-01")),
    ("2025-06-18 06:00:00", SIX, ("2025-06-18", "2025-06-01", "2025-06-18", "2025-06-01")),
    ("2025-06-18 04:29:59.999999", HALF_PAST_FOUR, ("2025-06-18", "2025-06-01", "2025-06-17", "2025-06-01")),
    ("2025-06-18 04:30:00", HALF_PAST_FOUR, ("2025-06-18", "2025-06-01", "2025-06-18", "2025-06-01")),
    ("2025-06-17 23:59:59.999999", MIDNIGHT, ("2025-06-17", "2025-06-01", "2025-06-17", "2025-06-01")),
    ("2025-06-18 00:00:00", MIDNIGHT, ("2025-06-18", "2025-06-01", "2025-06-18", "2025-06-01")),
    ("2025-07-01 04:29:59", HALF_PAST_FOUR, ("2025-07-01", "2025-07-01", "2025-06-30", "2025-06-01")),
    ("2025-07-01 04:30:00", HALF_PAST_FOUR, ("2025-07-01", "2025-07-01", "2025-07-01", "2025-07-01")),
    ("2025-03-01 05:00:00", SIX, ("2025-03-01", "2025-03-01", "2025-02-28", "2025-02-01")),
    ("2024-03-01 05:00:00", SIX, ("2024-03-01", "2024-03-01", "2024-02-29", "2024-02-01")),
    ("2026-01-01 00:00:00", SIX, ("2026-01-01", "2026-01-01", "2025-12-31", "2025-12-01")),
]


@pytest.mark.parametrize("session_zone", ["UTC", "America/Los_Angeles", "Pacific/Kiritimati"])
@pytest.mark.parametrize(("moment", "cutoff", "expected"), TURNS)
def test_the_chains_day_turns_at_midnight_and_a_sites_at_its_cutoff_in_shanghai_whatever_the_sessions_zone(
    clocked: Connection, session_zone: str, moment: str, cutoff: time, expected: tuple[str, str, str, str]
) -> None:
    clocked.execute("SELECT set_config('timezone', %s, false)", [session_zone])
    try:
        at(clocked, moment)
        reserve(clocked, cutoff)
    finally:
        clocked.execute("RESET timezone")
    assert first_days(clocked) == expected


def test_the_budget_day_is_the_business_date_of_every_moment_and_cutoff(clocked: Connection) -> None:
    chance = random.Random(7)
    for _ in range(60):
        moment = datetime(2025, 1, 1, tzinfo=SHANGHAI) + timedelta(seconds=chance.randrange(2 * 365 * 86_400))
        cutoff = time(chance.randrange(24), chance.choice((0, 30, 59)))
        clocked.execute("DELETE FROM biz.ai_budget_windows")
        at(clocked, moment)
        reserve(clocked, cutoff)
        on_chain, on_site = business_date_at(moment), business_date_at(moment, cutoff)
        assert first_days(clocked) == tuple(day.isoformat() for day in (on_chain, on_chain.replace(day=1), on_site, on_site.replace(day=1)))


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Pacific/Kiritimati", "Africa/Cairo"])
def test_the_zones_of_the_host_the_client_the_role_and_the_database_change_nothing(
    database_url: str, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(_CLOCK)
        name = owner.info.dbname
        owner.execute(sql.SQL("ALTER DATABASE {} SET timezone = {}").format(sql.Identifier(name), sql.Literal(zone)))
        owner.execute(
            sql.SQL("ALTER ROLE {} IN DATABASE {} SET timezone = {}").format(
                sql.Identifier(owner.info.user), sql.Identifier(name), sql.Literal(zone)
            )
        )
    try:
        monkeypatch.setenv("TZ", zone)
        monkeypatch.setenv("PGTZ", zone)
        host_time.tzset()
        with Database(database_url) as database, database.autocommit() as connection:
            assert connection.execute("SHOW timezone").fetchone() == {"TimeZone": zone}
            with turned(connection):
                at(connection, "2025-07-01 04:29:59")
                reservation = reserve(connection, HALF_PAST_FOUR)
                GUARD.settle(connection, reservation, 60)
            assert windows(connection) == {
                "chain day": [("2025-07-01", 60, 0)],
                "chain month": [("2025-07-01", 60, 0)],
                "site day": [("2025-06-30", 60, 0)],
                "site month": [("2025-06-01", 60, 0)],
            }
    finally:
        monkeypatch.undo()
        host_time.tzset()


def test_a_call_that_started_before_the_turn_is_settled_against_the_windows_that_it_was_taken_from(clocked: Connection) -> None:
    tight = BudgetGuard(replace(WIDE, site_daily_tokens=100))
    at(clocked, "2025-07-01 04:29:59")
    before = reserve(clocked, HALF_PAST_FOUR, guard=tight)
    with pytest.raises(GuardRefusal):
        reserve(clocked, HALF_PAST_FOUR, 1, guard=tight)
    at(clocked, "2025-07-01 04:30:00")
    after = reserve(clocked, HALF_PAST_FOUR, guard=tight)
    GUARD.settle(clocked, before, 80)
    found = windows(clocked)
    assert found["site day"] == [("2025-06-30", 80, 0), ("2025-07-01", 0, 100)]
    assert found["site month"] == [("2025-06-01", 80, 0), ("2025-07-01", 0, 100)]
    assert found["chain day"] == [("2025-07-01", 80, 100)]
    GUARD.settle(clocked, after, 0)
    assert windows(clocked)["site day"] == [("2025-06-30", 80, 0), ("2025-07-01", 0, 0)]


def test_the_dead_of_yesterday_are_charged_to_yesterday(clocked: Connection) -> None:
    at(clocked, "2025-06-17 23:59:30")
    GUARD.mark_sent(clocked, reserve(clocked), run_log_id=1, lease=MINUTE)
    at(clocked, "2025-06-18 00:05:00")
    with clocked.transaction():
        assert GUARD.settle_of_the_dead(clocked, [WORKER]) == (1, 0)
    assert windows(clocked)["chain day"] == [("2025-06-17", 100, 0)]


NEXT_WINDOWS = [
    ("daily", "2025-06-18 23:59:59", SIX, "2025-06-19 00:00"),
    ("daily", "2025-06-18 00:00:00", SIX, "2025-06-19 00:00"),
    ("site_daily", "2025-06-18 05:59:59", SIX, "2025-06-18 06:00"),
    ("site_daily", "2025-06-18 06:00:00", SIX, "2025-06-19 06:00"),
    ("site_daily", "2025-12-31 23:00:00", HALF_PAST_FOUR, "2026-01-01 04:30"),
    ("monthly", "2025-12-31 23:59:59", HALF_PAST_FOUR, "2026-01-01 00:00"),
    ("monthly", "2024-02-01 00:00:00", HALF_PAST_FOUR, "2024-03-01 00:00"),
    ("site_monthly", "2025-07-01 04:00:00", HALF_PAST_FOUR, "2025-07-01 04:30"),
    ("site_monthly", "2025-01-31 04:30:00", HALF_PAST_FOUR, "2025-02-01 04:30"),
]


@pytest.mark.parametrize(("limit", "moment", "cutoff", "next_window"), NEXT_WINDOWS)
def test_a_refusal_says_when_the_next_window_starts_and_then_the_call_is_admitted(
    clocked: Connection, limit: str, moment: str, cutoff: time, next_window: str
) -> None:
    guard = BudgetGuard(replace(WIDE, **{f"{limit}_tokens": 100}))
    at(clocked, moment)
    reserve(clocked, cutoff, guard=guard)
    with pytest.raises(GuardRefusal) as refused:
        reserve(clocked, cutoff, guard=guard)
    assert refused.value.reason == f"budget_exceeded:{limit}"
    assert refused.value.retry_at == datetime.fromisoformat(next_window).replace(tzinfo=SHANGHAI)

    at(clocked, refused.value.retry_at - INSTANT)
    with pytest.raises(GuardRefusal):
        reserve(clocked, cutoff, guard=guard)
    at(clocked, refused.value.retry_at)
    reserve(clocked, cutoff, guard=guard)


def test_of_several_limits_the_one_that_lasts_longest_is_named(clocked: Connection) -> None:
    guard = BudgetGuard(BudgetPolicy(100, 100, 100, 100))
    at(clocked, "2025-06-18 12:00")
    reserve(clocked, SIX, guard=guard)
    with pytest.raises(GuardRefusal) as refused:
        reserve(clocked, SIX, guard=guard)
    assert refused.value.reason == "budget_exceeded:site_monthly"
    assert refused.value.retry_at == datetime(2025, 7, 1, 6, tzinfo=SHANGHAI)


def test_a_call_larger_than_the_whole_limit_is_cured_by_no_window(clocked: Connection) -> None:
    at(clocked, "2025-06-18 12:00")
    with pytest.raises(GuardRefusal) as refused:
        reserve(clocked, tokens=101, guard=BudgetGuard(BudgetPolicy(10**6, 10**6, 100, 10**6)))
    assert (refused.value.reason, refused.value.retry_at) == ("budget_exceeded:site_daily", None)
