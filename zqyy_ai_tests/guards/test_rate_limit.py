import math
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from zqyy_ai.domain.errors import GuardRefusal
from zqyy_ai.guards.rate_limit import Rate, RateGuard, RatePolicy
from zqyy_ai.store.database import Connection, Database

# A call each ten minutes: a test is over long before the next one is due, whatever the machine is doing.
INTERVAL = timedelta(minutes=10)
BURST = 5
NO_WAIT, LONG = timedelta(0), timedelta(days=9)
UNLIMITED = Rate(calls=1000, seconds=1, burst=1000)
SITE_LIMITED = RateGuard(RatePolicy(site=Rate(calls=6, seconds=3600, burst=BURST), app=UNLIMITED))
APP_LIMITED = RateGuard(RatePolicy(site=UNLIMITED, app=Rate(calls=6, seconds=3600, burst=BURST)))
APP, SITE = "app2_finance", 1001


def take(
    database: Database, guard: RateGuard = SITE_LIMITED, *, site_id: int = SITE, app: str = APP, longest_wait: timedelta = LONG
) -> timedelta:
    with database.transaction() as connection:
        return guard.take(connection, site_id, app, longest_wait=longest_wait)


def turns(waits: list[timedelta]) -> list[int]:
    """Waits in whole intervals, rounded up: 0 for at once, 1 for the next turn."""
    return [math.ceil(wait / INTERVAL) for wait in waits]


def is_refused(database: Database, guard: RateGuard = SITE_LIMITED, *, site_id: int = SITE, longest_wait: timedelta = NO_WAIT) -> bool:
    try:
        take(database, guard, site_id=site_id, longest_wait=longest_wait)
    except GuardRefusal as refusal:
        assert refusal.reason == "rate_limited"
        return True
    return False


@pytest.mark.parametrize("guard", [SITE_LIMITED, APP_LIMITED], ids=["site", "app"])
def test_a_burst_goes_at_once_and_then_one_call_each_interval(database: Database, guard: RateGuard) -> None:
    waits = [take(database, guard) for _ in range(BURST + 3)]
    assert turns(waits) == [0] * BURST + [1, 2, 3]
    assert waits[0] == timedelta(0)


def test_each_site_has_its_own_limit(database: Database) -> None:
    for _ in range(BURST):
        take(database)
    assert is_refused(database)
    assert take(database, site_id=1002) == timedelta(0)


def test_each_application_has_its_own_limit_and_all_sites_share_it(database: Database) -> None:
    for site_id in range(BURST):
        take(database, APP_LIMITED, site_id=site_id)
    assert is_refused(database, APP_LIMITED, site_id=9)
    assert take(database, APP_LIMITED, app="app3_clue") == timedelta(0)


def test_who_would_wait_too_long_is_refused_and_takes_no_turn(database: Database) -> None:
    for _ in range(BURST):
        take(database)
    assert [is_refused(database, longest_wait=INTERVAL / 2) for _ in range(3)] == [True] * 3
    assert turns([take(database, longest_wait=INTERVAL)]) == [1]
    assert is_refused(database, longest_wait=INTERVAL)


def test_a_refusal_at_the_application_takes_back_the_turn_at_the_site(database: Database) -> None:
    both = RateGuard(RatePolicy(site=Rate(calls=6, seconds=3600, burst=BURST), app=Rate(calls=6, seconds=3600, burst=1)))
    take(database, both)
    for _ in range(10):
        assert is_refused(database, both)
    assert [take(database, both, app=f"app-{number}") for number in range(BURST - 1)] == [timedelta(0)] * (BURST - 1)


def test_after_a_long_rest_no_more_than_a_burst_has_gathered(database: Database, connection: Connection) -> None:
    take(database)
    connection.execute("UPDATE biz.ai_rate_limits SET theoretical_arrival_at = theoretical_arrival_at - interval '30 days'")
    assert turns([take(database) for _ in range(BURST + 1)]) == [0] * BURST + [1]


def test_eight_threads_together_get_a_burst_and_one_turn_an_interval_each_its_own(database: Database) -> None:
    """So no window of any length holds more than a burst and what the rate gives for that length."""
    with ThreadPoolExecutor(8) as threads:
        waits = list(threads.map(lambda _: take(database), range(120)))
    assert sorted(turns(waits)) == [0] * BURST + list(range(1, 120 - BURST + 1))


def test_after_throttling_nobody_calls_the_application_for_as_long_as_was_asked(database: Database, connection: Connection) -> None:
    take(database, APP_LIMITED)
    APP_LIMITED.push_forward(connection, APP, 3 * INTERVAL)
    assert is_refused(database, APP_LIMITED, site_id=1002, longest_wait=2 * INTERVAL)
    # The pause itself, and then one call each interval: throttling also ends the burst.
    assert turns([take(database, APP_LIMITED) for _ in range(2)]) == [4, 5]
    assert take(database, APP_LIMITED, app="app3_clue") == timedelta(0)


def test_a_shorter_pause_never_shortens_a_longer_one(database: Database, connection: Connection) -> None:
    take(database, APP_LIMITED)
    APP_LIMITED.push_forward(connection, APP, 3 * INTERVAL)
    APP_LIMITED.push_forward(connection, APP, INTERVAL)
    assert turns([take(database, APP_LIMITED)]) == [4]
