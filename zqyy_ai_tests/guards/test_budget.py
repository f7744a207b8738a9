from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, time, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from zqyy_ai.domain.errors import GuardRefusal
from zqyy_ai.guards.budget import BudgetGuard, BudgetPolicy, Reservation, current_windows
from zqyy_ai.store import leases, run_logs
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.run_logs import RunSubject

WIDE = BudgetPolicy(daily_tokens=10_000, monthly_tokens=10_000, site_daily_tokens=10_000, site_monthly_tokens=10_000)
GUARD = BudgetGuard(WIDE)
SITE, WORKER = 1001, uuid4()
SUBJECT = RunSubject("app2_finance", SITE, "this_month__all", "event")
MINUTE, OVER = timedelta(minutes=1), timedelta(seconds=-1)


def reserve(
    connection: Connection,
    tokens: int = 100,
    *,
    guard: BudgetGuard = GUARD,
    site_id: int = SITE,
    cutoff: time = time(0, 0),
    worker_id: UUID = WORKER,
    lease: timedelta = MINUTE,
) -> Reservation:
    return guard.reserve(
        connection, site_id=site_id, site_cutoff=cutoff, app_type="app2_finance", tokens=tokens, worker_id=worker_id, lease=lease
    )


def mark_sent(connection: Connection, reservation: Reservation, *, run_log_id: int = 0, lease: timedelta = MINUTE) -> bool:
    return GUARD.mark_sent(connection, reservation, run_log_id=run_log_id, lease=lease)


def windows(connection: Connection) -> dict[str, tuple[int, int, int]]:
    """Used, reserved and overshoot tokens by scope and kind."""
    rows = connection.execute("SELECT * FROM biz.ai_budget_windows").fetchall()
    return {f"{row['scope']} {row['kind']}": (row["used_tokens"], row["reserved_tokens"], row["overshoot_tokens"]) for row in rows}


def everywhere(used: int, reserved: int, overshoot: int = 0) -> dict[str, tuple[int, int, int]]:
    return dict.fromkeys(("chain day", "chain month", "site:1001 day", "site:1001 month"), (used, reserved, overshoot))


def test_a_reservation_is_set_aside_in_all_four_windows(connection: Connection) -> None:
    reserve(connection, 100)
    reserve(connection, 20)
    assert windows(connection) == everywhere(0, 120)


def test_settling_books_what_was_spent_and_frees_the_rest(connection: Connection) -> None:
    assert GUARD.settle(connection, reserve(connection, 100), 60)
    assert windows(connection) == everywhere(60, 0)


def test_settling_twice_changes_nothing(connection: Connection) -> None:
    reservation = reserve(connection, 100)
    assert GUARD.settle(connection, reservation, 60)
    assert not GUARD.settle(connection, reservation, 60)
    assert windows(connection) == everywhere(60, 0)


def test_settling_with_nothing_releases(connection: Connection) -> None:
    assert GUARD.settle(connection, reserve(connection, 100), 0)
    assert windows(connection) == everywhere(0, 0)


def test_what_a_call_uses_beyond_its_reservation_is_booked_and_told_as_overshoot(connection: Connection) -> None:
    GUARD.settle(connection, reserve(connection, 100), 130)
    GUARD.settle(connection, reserve(connection, 100), 90)
    assert windows(connection) == everywhere(220, 0, 30)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (replace(WIDE, daily_tokens=150), "daily"),
        (replace(WIDE, monthly_tokens=150), "monthly"),
        (replace(WIDE, site_daily_tokens=150), "site_daily"),
        (replace(WIDE, site_monthly_tokens=150), "site_monthly"),
    ],
)
def test_a_limit_that_would_be_passed_refuses_by_its_name_and_sets_nothing_aside(
    connection: Connection, policy: BudgetPolicy, reason: str
) -> None:
    guard = BudgetGuard(policy)
    reserve(connection, 100, guard=guard)
    with pytest.raises(GuardRefusal) as refused:
        reserve(connection, 51, guard=guard)
    assert refused.value.reason == f"budget_exceeded:{reason}"
    assert windows(connection) == everywhere(0, 100)
    reserve(connection, 50, guard=guard)
    assert windows(connection) == everywhere(0, 150)


def test_used_tokens_count_like_reserved_ones(connection: Connection) -> None:
    guard = BudgetGuard(replace(WIDE, daily_tokens=150))
    guard.settle(connection, reserve(connection, 100, guard=guard), 120)
    with pytest.raises(GuardRefusal):
        reserve(connection, 31, guard=guard)
    reserve(connection, 30, guard=guard)


def test_another_sites_spending_counts_for_the_chain_and_not_for_this_site(connection: Connection) -> None:
    guard = BudgetGuard(replace(WIDE, daily_tokens=250, site_daily_tokens=150))
    reserve(connection, 150, guard=guard, site_id=1002)
    reserve(connection, 100, guard=guard)
    with pytest.raises(GuardRefusal, match="全店群每日"):
        reserve(connection, 1, guard=guard)


def test_sixteen_threads_never_pass_the_limit_between_them(database: Database, connection: Connection) -> None:
    guard = BudgetGuard(replace(WIDE, daily_tokens=1_000))

    def spend(number: int) -> int:
        try:
            with database.autocommit() as own:
                reservation = reserve(own, 70, guard=guard, site_id=1001 + number % 3)
                if number % 2:
                    guard.settle(own, reservation, 65)
        except GuardRefusal:
            return 0
        return 65 if number % 2 else 70

    with ThreadPoolExecutor(16) as threads:
        spent = sum(threads.map(spend, range(48)))
    used, reserved, overshoot = windows(connection)["chain day"]
    assert used + reserved == spent
    assert 1_000 - 70 < used + reserved <= 1_000
    assert overshoot == 0
    by_site = [window for name, window in windows(connection).items() if name.startswith("site:") and name.endswith("day")]
    assert sum(used + reserved for used, reserved, _ in by_site) == spent


def test_of_the_dead_what_was_sent_is_charged_and_the_rest_released(connection: Connection) -> None:
    sent = reserve(connection, 100, lease=OVER)
    assert mark_sent(connection, sent, lease=OVER)
    reserve(connection, 30, lease=OVER)
    alive = reserve(connection, 7)
    assert GUARD.settle_of_the_dead(connection) == (1, 1)
    assert windows(connection) == everywhere(100, 7)
    assert GUARD.settle_of_the_dead(connection) == (0, 0)
    assert GUARD.settle(connection, alive, 7)


def test_a_worker_known_to_be_dead_is_not_waited_for(connection: Connection) -> None:
    reserve(connection, 100)
    other = reserve(connection, 30, worker_id=uuid4())
    assert GUARD.settle_of_the_dead(connection, [WORKER]) == (0, 1)
    assert windows(connection) == everywhere(0, 30)
    assert mark_sent(connection, other)


def test_a_zombies_settlement_after_its_death_was_charged_changes_nothing(connection: Connection) -> None:
    zombie = reserve(connection, 100, lease=OVER)
    mark_sent(connection, zombie, lease=OVER)
    GUARD.settle_of_the_dead(connection)
    assert not GUARD.settle(connection, zombie, 80)
    assert not mark_sent(connection, zombie)
    assert windows(connection) == everywhere(100, 0)


def test_the_charge_of_a_dead_call_is_written_into_its_log(connection: Connection) -> None:
    running, closed_early, answered = (run_logs.start(connection, SUBJECT, "提示词") for _ in range(3))
    connection.execute("UPDATE biz.ai_run_logs SET status = 'failed', error_code = 'worker_died' WHERE id = %s", [closed_early])
    connection.execute("UPDATE biz.ai_run_logs SET status = 'success', tokens_used = 80 WHERE id = %s", [answered])
    for log_id, tokens in ((running, 100), (closed_early, 30), (answered, 7)):
        mark_sent(connection, reserve(connection, tokens), run_log_id=log_id, lease=OVER)
    assert GUARD.settle_of_the_dead(connection) == (3, 0)
    rows = connection.execute("SELECT status, error_code, tokens_used FROM biz.ai_run_logs ORDER BY id").fetchall()
    assert [tuple(row.values()) for row in rows] == [("failed", "worker_died", 100), ("failed", "worker_died", 30), ("success", None, 80)]


def overshoot_alerts(connection: Connection) -> list[tuple[int | None, str, int]]:
    rows = connection.execute("SELECT * FROM biz.ai_alerts ORDER BY fingerprint").fetchall()
    assert {row["alert_type"] for row in rows} <= {"budget_exceeded"}
    return [(row["site_id"], row["fingerprint"].split("|")[3].rpartition(":")[0], row["occurrences"]) for row in rows]


def settle_and_report(connection: Connection, guard: BudgetGuard, spent_tokens: int) -> None:
    with connection.transaction():
        guard.report_overshoot(connection, guard.settle(connection, reserve(connection, 100, guard=guard), spent_tokens))


def test_overshoot_beyond_a_limit_is_told_once_a_window_and_counted(connection: Connection) -> None:
    guard = BudgetGuard(replace(WIDE, daily_tokens=500, site_daily_tokens=250))
    settle_and_report(connection, guard, 140)
    assert overshoot_alerts(connection) == [], "the limits still hold"
    settle_and_report(connection, guard, 120)
    assert overshoot_alerts(connection) == [(SITE, "overshoot:site_daily", 1)]
    wider = BudgetGuard(replace(WIDE, daily_tokens=500))
    settle_and_report(connection, wider, 300)
    assert overshoot_alerts(connection) == [(None, "overshoot:daily", 1), (SITE, "overshoot:site_daily", 1)]
    raised = BudgetGuard(replace(WIDE, daily_tokens=700))
    settle_and_report(connection, raised, 200)
    assert overshoot_alerts(connection) == [(None, "overshoot:daily", 2), (SITE, "overshoot:site_daily", 1)]


def test_a_limit_that_was_lowered_under_what_is_used_is_no_overshoot(connection: Connection) -> None:
    last = reserve(connection, 100)
    guard = BudgetGuard(replace(WIDE, daily_tokens=50))
    with connection.transaction():
        guard.report_overshoot(connection, guard.settle(connection, last, 100))
    assert overshoot_alerts(connection) == []


def test_the_windows_of_the_present_are_those_of_the_chain_and_of_each_site_by_its_own_cutoff(connection: Connection) -> None:
    connection.execute("INSERT INTO biz.sites (site_id, business_day_cutoff) VALUES (1001, '00:00'), (1002, '23:59:59')")
    GUARD.settle(connection, reserve(connection, 100), 130)
    reserve(connection, 7, site_id=1002, cutoff=time(23, 59, 59))
    connection.execute("INSERT INTO biz.ai_budget_windows SELECT scope, kind, starts_on - 70, 999, 0, 0 FROM biz.ai_budget_windows")
    found = {f"{window.scope} {window.kind}": window for window in current_windows(connection)}
    assert {name: (window.used_tokens, window.reserved_tokens, window.overshoot_tokens) for name, window in found.items()} == {
        "chain day": (130, 7, 30),
        "chain month": (130, 7, 30),
        "site:1001 day": (130, 0, 30),
        "site:1001 month": (130, 0, 30),
        "site:1002 day": (0, 7, 0),
        "site:1002 month": (0, 7, 0),
    }
    assert found["site:1002 day"].starts_on == found["chain day"].starts_on - timedelta(days=1)


def test_two_that_settle_for_the_dead_of_two_days_never_wait_for_each_other_in_a_circle(database: Database, connection: Connection) -> None:
    """Each finds a call of today and one of yesterday; tokens, by which they are taken in turn, know nothing of days."""
    connection.execute(
        "INSERT INTO biz.ai_budget_windows (scope, kind, starts_on, reserved_tokens)"
        " SELECT scope, kind, CASE kind WHEN 'day' THEN d::date ELSE date '2025-06-01' END, 20 * CASE kind WHEN 'day' THEN 1 ELSE 2 END"
        " FROM (VALUES ('chain'), ('site:1001')) s (scope), (VALUES ('day'), ('month')) k (kind),"
        " (VALUES ('2025-06-18'), ('2025-06-19')) days (d) ON CONFLICT DO NOTHING"
    )
    workers = [uuid4(), uuid4()]
    for worker_id, days in zip(workers, (("2025-06-18", "2025-06-19"), ("2025-06-19", "2025-06-18")), strict=True):
        for rank, on_day in enumerate(days):
            connection.execute(
                "INSERT INTO biz.ai_budget_reservations (token, site_id, app_type, tokens, chain_day, site_day, worker_id, lease_expires_at)"
                " VALUES (%s, 1001, 'app2_finance', 10, %s, %s, %s, now())",
                [UUID(int=rank), on_day, on_day, worker_id] if worker_id == workers[0] else [UUID(int=rank + 2), on_day, on_day, worker_id],
            )

    def settle(worker_id: UUID) -> tuple[int, int]:
        with database.transaction() as own:
            return GUARD.settle_of_the_dead(own, [worker_id])

    with ThreadPoolExecutor(2) as threads:
        with database.transaction() as blocker:
            blocker.execute("SELECT FROM biz.ai_budget_windows WHERE kind = 'month' AND scope = 'chain' FOR UPDATE")
            settled = [threads.submit(settle, worker_id) for worker_id in workers]
            waiting = "SELECT count(*) AS waiting FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            while (connection.execute(waiting).fetchone() or {})["waiting"] < 2:
                pass
        assert [one.result(20) for one in settled] == [(0, 2), (0, 2)]
    assert {window[1] for window in windows(connection).values()} == {0}


def test_a_heartbeat_keeps_a_reservation(connection: Connection) -> None:
    reserve(connection, 100, lease=OVER)
    leases.renew(connection, WORKER, MINUTE)
    assert GUARD.settle_of_the_dead(connection) == (0, 0)


def test_a_sites_day_turns_at_its_cutoff_and_the_chains_at_midnight(connection: Connection) -> None:
    cutoff = time(23, 59, 59)
    days: dict[str, Any] = (
        connection.execute(
            "SELECT (clock_timestamp() AT TIME ZONE 'Asia/Shanghai')::date AS chain_day,"
            " (clock_timestamp() AT TIME ZONE 'Asia/Shanghai' - interval '23:59:59')::date AS site_day"
        ).fetchone()
        or {}
    )
    reserve(connection, 100, cutoff=cutoff)
    rows = connection.execute("SELECT scope, kind, starts_on FROM biz.ai_budget_windows").fetchall()
    chain_day: date = days["chain_day"]
    site_day: date = days["site_day"]
    assert {(row["scope"], row["kind"]): row["starts_on"] for row in rows} == {
        ("chain", "day"): chain_day,
        ("chain", "month"): chain_day.replace(day=1),
        ("site:1001", "day"): site_day,
        ("site:1001", "month"): site_day.replace(day=1),
    }


@pytest.mark.parametrize("session_zone", ["UTC", "America/Los_Angeles", "Asia/Shanghai"])
def test_the_day_is_shanghais_whatever_the_sessions_time_zone(database: Database, session_zone: str) -> None:
    with database.transaction() as connection:
        connection.execute("SELECT set_config('timezone', %s, true)", [session_zone])
        reserve(connection, 100)
        rows = connection.execute(
            "SELECT starts_on = (clock_timestamp() AT TIME ZONE 'Asia/Shanghai')::date AS is_today, extract(day FROM starts_on) AS day"
            " FROM biz.ai_budget_windows WHERE scope = 'chain' ORDER BY kind"
        ).fetchall()
    assert rows[0]["is_today"]
    assert rows[1]["day"] == 1


def test_a_call_is_settled_against_the_windows_that_it_was_taken_from(connection: Connection) -> None:
    """A call that started before midnight is yesterday's, whenever it ends."""
    reservation = reserve(connection, 100)
    connection.execute("UPDATE biz.ai_budget_reservations SET chain_day = chain_day - 1, site_day = site_day - 1")
    connection.execute("UPDATE biz.ai_budget_windows SET starts_on = starts_on - 1 WHERE kind = 'day'")
    connection.execute(
        "UPDATE biz.ai_budget_windows SET starts_on = date_trunc('month', d.starts_on) FROM biz.ai_budget_windows d"
        " WHERE ai_budget_windows.kind = 'month' AND d.kind = 'day' AND d.scope = ai_budget_windows.scope"
    )
    reserve(connection, 30)
    GUARD.settle(connection, reservation, 80)
    rows = connection.execute(
        "SELECT used_tokens, reserved_tokens FROM biz.ai_budget_windows WHERE scope = 'chain' AND kind = 'day' ORDER BY starts_on"
    ).fetchall()
    assert [(row["used_tokens"], row["reserved_tokens"]) for row in rows] == [(80, 0), (0, 30)]
