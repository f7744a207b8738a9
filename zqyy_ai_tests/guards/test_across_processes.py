"""Each guard with ten processes at once, three of which are killed with -9 at random, before the eyes of a witness of its own."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from zqyy_ai.engine.recovery import recover_lost_leases
from zqyy_ai.guards.budget import BudgetGuard, BudgetPolicy
from zqyy_ai.store.database import Database
from zqyy_ai_tests.guards.fleet import fleet, held_rows, kill_some, one, until

LEASE_SECONDS = 3.0
BUDGET = {"daily_tokens": 20_000, "monthly_tokens": 10**9, "site_daily_tokens": 9_000, "site_monthly_tokens": 10**9}
GUARD = BudgetGuard(BudgetPolicy(**BUDGET))
NOTHING_HELD = {"claims": 0, "slots": 0, "reservations": 0, "reserved_tokens": 0}
SLOTS = 3
SITE_RATE = {"calls": 10, "seconds": 1, "burst": 4}
APP_RATE = {"calls": 20, "seconds": 1, "burst": 8}
SECOND = timedelta(seconds=1)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database of the test's own: the witness changes its schema."""
    with Database(database_url, max_connections=4) as opened:
        yield opened


def recover(database: Database) -> None:
    recover_lost_leases(database, GUARD, max_attempts=3)


def recover_until_nothing_is_held(database: Database) -> None:
    def is_all_put_right() -> bool:
        recover(database)
        with database.autocommit() as connection:
            return held_rows(connection) == NOTHING_HELD

    until(is_all_put_right)


def test_admission_never_passes_a_limit_and_every_token_of_the_living_and_the_dead_is_accounted_for(database: Database) -> None:
    with fleet(database, "spend", seed=1, lease_seconds=LEASE_SECONDS, budget=BUDGET) as running:
        kill_some(running, 1, "SELECT count(*) FROM witness.spending", from_=10, to=220, meanwhile=lambda: recover(database))
        until(lambda: one(database, "SELECT count(*) FROM witness.refusals") >= 50)
        running.stop()
    recover_until_nothing_is_held(database)

    with database.autocommit() as connection:
        largest = connection.execute("SELECT scope, kind, max(spoken_for) AS tokens FROM witness.admissions GROUP BY 1, 2").fetchall()
        by_window = {(row["scope"], row["kind"]): row["tokens"] for row in largest}
        assert 20_000 - 120 < by_window["chain", "day"] <= 20_000, "the limit was reached, and never passed"
        assert all(tokens <= 9_000 for (scope, kind), tokens in by_window.items() if scope != "chain" and kind == "day")

        # What was settled counts as it was spent, what was sent by a process that died as it was reserved, the rest not at all.
        accounts = "sum(CASE WHEN was_settled THEN spent_tokens WHEN log_id IS NOT NULL THEN tokens ELSE 0 END)"
        overshoot = "sum(CASE WHEN was_settled THEN greatest(0, spent_tokens - tokens) ELSE 0 END)"
        witnessed = connection.execute(
            f"SELECT coalesce('site:' || site_id, 'chain') AS scope, {accounts}::bigint AS used, {overshoot}::bigint AS overshoot"
            " FROM witness.spending GROUP BY ROLLUP (site_id)".encode()
        ).fetchall()
        windows = connection.execute("SELECT * FROM biz.ai_budget_windows").fetchall()
        assert {(row["scope"], row["used_tokens"], row["overshoot_tokens"]) for row in windows} == {
            (row["scope"], row["used"], row["overshoot"]) for row in witnessed
        }

        dead = connection.execute(
            "SELECT s.*, log.status, log.error_code, log.tokens_used, d.process IS NOT NULL AS is_of_a_dead FROM witness.spending s"
            " LEFT JOIN witness.deaths d USING (process) LEFT JOIN biz.ai_run_logs log ON log.id = s.log_id WHERE was_settled IS NOT TRUE"
        ).fetchall()
        assert all(row["is_of_a_dead"] for row in dead), "nobody who lived was taken for dead"
        assert [(row["status"], row["error_code"], row["tokens_used"]) for row in dead if row["log_id"]] == [
            ("failed", "worker_died", row["tokens"]) for row in dead if row["log_id"]
        ]
        # Beyond a limit there is only overshoot, and then people were told.
        beyond = {
            row["scope"] for row in windows if row["kind"] == "day" and row["used_tokens"] > (20_000 if row["scope"] == "chain" else 9_000)
        }
        told = connection.execute("SELECT coalesce('site:' || site_id, 'chain') AS scope FROM biz.ai_alerts").fetchall()
        assert beyond <= {row["scope"] for row in told}


def most_at_once(intervals: list[tuple[object, object]]) -> int:
    """Of intervals (start, end) the largest number that overlap; an end and a start at the same moment do not."""
    flights = most = 0
    for _, change in sorted([(start, 1) for start, _ in intervals] + [(end, -1) for _, end in intervals]):
        flights += change
        most = max(most, flights)
    return most


def test_a_claim_has_one_holder(database: Database) -> None:
    with fleet(database, "claim", seed=3, lease_seconds=LEASE_SECONDS) as running:
        kill_some(running, 3, "SELECT count(*) FROM witness.holdings", from_=10, to=300, meanwhile=lambda: recover(database))
        running.stop()
    with database.autocommit() as connection:
        rows = connection.execute(
            "SELECT what, started_at, coalesce(ended_at, died_at) AS ended_at, was_lost FROM witness.holdings"
            " LEFT JOIN witness.deaths USING (process)"
        ).fetchall()
    assert not any(row["was_lost"] for row in rows), "nobody who lived lost a claim"
    for target_id in {row["what"] for row in rows}:
        assert most_at_once([(row["started_at"], row["ended_at"]) for row in rows if row["what"] == target_id]) == 1
    recover_until_nothing_is_held(database)


def test_turns_keep_to_rate_and_burst_in_every_second(database: Database) -> None:
    with fleet(database, "take_turn", seed=6, lease_seconds=LEASE_SECONDS, site_rate=SITE_RATE, app_rate=APP_RATE) as running:
        kill_some(running, 6, "SELECT count(*) FROM witness.turns", from_=10, to=90, meanwhile=lambda: None)
        running.stop()
    with database.autocommit() as connection:
        turns = connection.execute("SELECT * FROM witness.turns ORDER BY earliest_at").fetchall()

    def fullest_second(own: list[dict[str, Any]]) -> int:
        # A turn lies somewhere between its two moments: counted is what was within the second for certain.
        return max(
            len(
                [turn for turn in own if first["earliest_at"] <= turn["earliest_at"] and turn["latest_at"] - first["earliest_at"] <= SECOND]
            )
            for first in own
        )

    assert APP_RATE["calls"] / 2 < fullest_second(turns) <= APP_RATE["calls"] + APP_RATE["burst"]
    fullest_of_sites = [fullest_second([turn for turn in turns if turn["site_id"] == site_id]) for site_id in (1001, 1002, 1003)]
    assert SITE_RATE["calls"] / 2 < max(fullest_of_sites) <= SITE_RATE["calls"] + SITE_RATE["burst"]


def test_calls_in_flight_keep_to_the_slots_when_everybody_asks_all_the_time(database: Database) -> None:
    flights = "SELECT count(*) FROM witness.holdings"
    with fleet(database, "fly", seed=5, lease_seconds=LEASE_SECONDS, slots=SLOTS) as running:
        # The dead keep their slots for a lease; the last of the three goes on alone until then.
        kill_some(running, 5, flights, from_=10, to=400, meanwhile=lambda: None)
        running.stop()
    with database.autocommit() as connection:
        rows = connection.execute(
            "SELECT started_at, coalesce(ended_at, died_at) AS ended_at FROM witness.holdings LEFT JOIN witness.deaths USING (process)"
        ).fetchall()
    assert most_at_once([(row["started_at"], row["ended_at"]) for row in rows]) == SLOTS
    recover_until_nothing_is_held(database)


def test_a_half_open_breaker_has_exactly_one_probe_also_when_the_prober_is_killed(database: Database) -> None:
    lease_seconds = 1.5
    probes = "SELECT count(*) FROM witness.holdings"
    prober = "SELECT max(process) FROM witness.holdings LEFT JOIN witness.deaths USING (process) WHERE ended_at IS NULL AND died_at IS NULL"
    with database.autocommit() as connection:
        connection.execute(
            "INSERT INTO biz.ai_breakers (app_type, state, failures, retry_at) VALUES ('app2_finance', 'open', 5, clock_timestamp())"
        )
    with fleet(database, "probe", seed=4, lease_seconds=lease_seconds) as running:
        for moment in (4, 9, 14):
            until(lambda least=moment: one(database, probes) >= least)  # type: ignore[misc]
            # The one who is probing: the worst moment.
            until(lambda: one(database, prober) is not None)
            running.kill(one(database, prober) or running.alive[0])
        until(lambda: one(database, probes) >= 24)
        running.stop()

    with database.autocommit() as connection:
        made = connection.execute("SELECT * FROM witness.holdings LEFT JOIN witness.deaths USING (process) ORDER BY started_at").fetchall()
    assert len({row["what"] for row in made}) == len(made), "each with a token of its own"
    assert "None" not in {row["what"] for row in made}, "none without"
    killed = [row for row in made if row["ended_at"] is None]
    assert killed
    assert all(row["died_at"] for row in killed)
    for row, heir in pairwise(made):
        if row["ended_at"] is not None:
            assert row["ended_at"] <= heir["started_at"]
        else:
            assert (heir["started_at"] - row["asked_at"]).total_seconds() >= lease_seconds, "the dead prober's lease was waited for"
