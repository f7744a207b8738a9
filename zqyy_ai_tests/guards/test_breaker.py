from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from uuid import uuid4

import pytest

from zqyy_ai.domain.errors import GuardRefusal
from zqyy_ai.guards.breaker import (
    EVERY_APP,
    Breaker,
    BreakerGuard,
    BreakerPolicy,
    BreakerState,
    Permit,
    after_failure,
    after_success,
    decide,
)
from zqyy_ai.store.database import Connection, Database

NOW = datetime(2025, 6, 18, 2, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
POLICY = BreakerPolicy(failures=3, cooldown=MINUTE, probe_lease=4 * MINUTE)
PROBE = uuid4()

CLOSED = Breaker()
SHAKY = Breaker(failures=2, reason="InternalError")
OPEN = Breaker(BreakerState.OPEN, 3, retry_at=NOW + MINUTE, reason="InternalError")
COOLED = Breaker(BreakerState.OPEN, 3, retry_at=NOW, reason="InternalError")
PROBING = Breaker(BreakerState.HALF_OPEN, 3, retry_at=NOW, probe_token=PROBE, probe_lease_expires_at=NOW + 2 * MINUTE)
PROBE_LOST = Breaker(BreakerState.HALF_OPEN, 3, retry_at=NOW, probe_token=PROBE, probe_lease_expires_at=NOW)

# The decisions, purely.


@pytest.mark.parametrize("breaker", [CLOSED, SHAKY])
def test_a_closed_breaker_lets_calls_through_as_they_come(breaker: Breaker) -> None:
    assert decide(breaker, POLICY, NOW) == (breaker, None, None)


@pytest.mark.parametrize(
    ("breaker", "retry_at"),
    [(OPEN, OPEN.retry_at), (PROBING, NOW + MINUTE)],
    ids=["open: when it has cooled down", "half-open: after a cool-down, not after the probe's whole lease"],
)
def test_a_refusal_says_when_to_ask_again(breaker: Breaker, retry_at: datetime) -> None:
    assert decide(breaker, POLICY, NOW) == (breaker, None, retry_at)


@pytest.mark.parametrize("breaker", [COOLED, PROBE_LOST], ids=["cooled down", "its probe's lease ran out"])
def test_a_breaker_that_may_try_again_lets_one_probe_through(breaker: Breaker) -> None:
    probing, token, retry_at = decide(breaker, POLICY, NOW)
    assert (probing.state, probing.probe_token, probing.probe_lease_expires_at) == (BreakerState.HALF_OPEN, token, NOW + 4 * MINUTE)
    assert token not in (None, PROBE)
    assert retry_at is None
    assert decide(probing, POLICY, NOW)[2] is not None


@pytest.mark.parametrize(
    ("breaker", "token", "closes"),
    [
        (CLOSED, None, True),
        (SHAKY, None, True),
        (OPEN, None, False),
        (PROBING, PROBE, True),
        (PROBING, None, False),
        (PROBING, uuid4(), False),
    ],
)
def test_a_success_closes_for_its_own_probe_and_not_for_a_straggler(breaker: Breaker, token: object, closes: bool) -> None:
    assert after_success(breaker, token) == (Breaker() if closes else breaker)  # type: ignore[arg-type]


def test_failures_in_a_row_open_the_breaker() -> None:
    breaker = CLOSED
    states = []
    for _ in range(3):
        breaker = after_failure(breaker, None, "InternalError", POLICY, NOW)
        states.append(breaker.state)
    assert states == [BreakerState.CLOSED, BreakerState.CLOSED, BreakerState.OPEN]
    assert (breaker.retry_at, breaker.reason) == (NOW + MINUTE, "InternalError")


def test_a_failed_probe_opens_it_again_for_a_whole_cooldown() -> None:
    opened = after_failure(PROBING, PROBE, "timeout", POLICY, NOW)
    assert opened == Breaker(BreakerState.OPEN, 4, retry_at=NOW + MINUTE, reason="timeout")


@pytest.mark.parametrize("breaker", [OPEN, COOLED, PROBING])
@pytest.mark.parametrize("token", [None, uuid4()])
def test_a_stragglers_failure_changes_nothing(breaker: Breaker, token: object) -> None:
    assert after_failure(breaker, token, "timeout", POLICY, NOW) == breaker  # type: ignore[arg-type]


# The same, stored and shared.

APP, OTHER_APP = "app2_finance", "app3_clue"
GUARD = BreakerGuard(POLICY, POLICY)


def admit(database: Database, app: str = APP) -> Permit:
    with database.transaction() as connection:
        return GUARD.admit(connection, app)


def is_refused(database: Database, app: str = APP) -> bool:
    try:
        admit(database, app)
    except GuardRefusal as refusal:
        assert refusal.reason == "circuit_open"
        assert refusal.retry_at is not None
        return True
    return False


def fail(database: Database, permit: Permit | None = None) -> bool:
    with database.transaction() as connection:
        return GUARD.record_failure(connection, permit or Permit(APP), "InternalError")


def open_by_failures(database: Database) -> None:
    assert [fail(database) for _ in range(3)] == [False, False, True]


def hold(database: Database, permit: Permit | None = None) -> bool:
    with database.transaction() as connection:
        return GUARD.hold_every_app(connection, permit or Permit(APP), "Arrearage")


def cool_down(connection: Connection) -> None:
    connection.execute("UPDATE biz.ai_breakers SET retry_at = clock_timestamp() WHERE state = 'open'")


def states(connection: Connection) -> dict[str, str]:
    rows = connection.execute("SELECT app_type, state FROM biz.ai_breakers WHERE state <> 'closed'").fetchall()
    return {row["app_type"]: row["state"] for row in rows}


def test_a_breaker_opens_for_its_own_application_and_says_so_once(database: Database, connection: Connection) -> None:
    open_by_failures(database)
    assert not fail(database)
    assert is_refused(database)
    assert not is_refused(database, OTHER_APP)
    assert states(connection) == {APP: "open"}


def test_a_success_between_failures_forgets_them(database: Database, connection: Connection) -> None:
    for _ in range(2):
        fail(database)
    GUARD.record_success(connection, admit(database))
    fail(database)
    assert not is_refused(database)


def test_of_sixteen_threads_exactly_one_is_the_probe(database: Database, connection: Connection) -> None:
    open_by_failures(database)
    cool_down(connection)
    start = Barrier(16)

    def try_to_probe(_: int) -> bool:
        start.wait(10)
        return not is_refused(database)

    with ThreadPoolExecutor(16) as threads:
        admitted = list(threads.map(try_to_probe, range(16)))
    assert admitted.count(True) == 1
    assert states(connection) == {APP: "half_open"}


def test_a_probe_that_succeeds_closes_the_breaker(database: Database, connection: Connection) -> None:
    open_by_failures(database)
    cool_down(connection)
    GUARD.record_success(connection, admit(database))
    assert states(connection) == {}
    assert admit(database) == Permit(APP, None)


def test_a_probe_that_fails_opens_it_again(database: Database, connection: Connection) -> None:
    open_by_failures(database)
    cool_down(connection)
    assert fail(database, admit(database))
    assert states(connection) == {APP: "open"}
    assert is_refused(database)


def test_a_straggler_from_before_neither_closes_nor_reopens(database: Database, connection: Connection) -> None:
    straggler = admit(database)
    open_by_failures(database)
    GUARD.record_success(connection, straggler)
    assert states(connection) == {APP: "open"}
    cool_down(connection)
    probe = admit(database)
    GUARD.record_success(connection, straggler)
    assert not fail(database, straggler)
    assert states(connection) == {APP: "half_open"}
    GUARD.record_success(connection, probe)
    assert states(connection) == {}


def test_a_probe_that_told_nothing_makes_room_for_the_next(database: Database, connection: Connection) -> None:
    open_by_failures(database)
    cool_down(connection)
    probe = admit(database)
    assert is_refused(database)
    GUARD.end_probe(connection, probe)
    assert admit(database).probe_token not in (None, probe.probe_token)


def test_a_held_account_stops_every_application_at_once(database: Database, connection: Connection) -> None:
    assert hold(database)
    assert not hold(database), "it was held already"
    assert is_refused(database, APP)
    assert is_refused(database, OTHER_APP)
    assert states(connection) == {EVERY_APP: "open"}


def test_one_probe_of_any_application_releases_the_account(database: Database, connection: Connection) -> None:
    hold(database)
    cool_down(connection)
    probe = admit(database, OTHER_APP)
    assert is_refused(database, APP)
    GUARD.record_success(connection, probe)
    assert states(connection) == {}
    assert not is_refused(database, APP)


def test_an_account_that_is_refused_again_stays_held(database: Database, connection: Connection) -> None:
    hold(database)
    cool_down(connection)
    hold(database, admit(database))
    assert states(connection) == {EVERY_APP: "open"}
    assert is_refused(database, OTHER_APP)


def test_one_call_probes_a_held_account_and_its_own_open_breaker_alike(database: Database, connection: Connection) -> None:
    open_by_failures(database)
    hold(database)
    cool_down(connection)
    GUARD.record_success(connection, admit(database))
    assert states(connection) == {}


def test_a_probe_of_the_account_that_failed_for_another_cause_makes_room_for_the_next(database: Database, connection: Connection) -> None:
    """A 500 says nothing about the account; without room the account stays held for the rest of the probe's lease."""
    hold(database)
    cool_down(connection)
    fail(database, admit(database))
    assert not is_refused(database, OTHER_APP)


def test_a_refusal_by_the_application_takes_back_the_accounts_probe(database: Database, connection: Connection) -> None:
    open_by_failures(database)
    hold(database)
    connection.execute("UPDATE biz.ai_breakers SET retry_at = clock_timestamp() WHERE app_type = %s", [EVERY_APP])
    assert is_refused(database, APP)
    assert not is_refused(database, OTHER_APP)


def readmit(database: Database, permit: Permit) -> Permit:
    with database.transaction() as connection:
        return GUARD.readmit(connection, permit)


def expire_probe(connection: Connection) -> None:
    connection.execute("UPDATE biz.ai_breakers SET probe_lease_expires_at = clock_timestamp() WHERE state = 'half_open'")


def test_a_probe_that_waited_for_its_slot_gets_its_whole_lease_when_it_is_sent(database: Database, connection: Connection) -> None:
    open_by_failures(database)
    hold(database)
    cool_down(connection)
    probe = admit(database)
    expire_probe(connection)
    assert readmit(database, probe) == probe
    assert is_refused(database), "nobody joins it while it is under way"
    rows = connection.execute("SELECT probe_lease_expires_at > clock_timestamp() + interval '3 minutes' AS is_long FROM biz.ai_breakers")
    assert [row["is_long"] for row in rows] == [True, True]


def test_a_probe_that_was_replaced_while_it_waited_is_not_sent(database: Database, connection: Connection) -> None:
    open_by_failures(database)
    cool_down(connection)
    late = admit(database)
    expire_probe(connection)
    heir = admit(database)
    with pytest.raises(GuardRefusal) as refused:
        readmit(database, late)
    assert refused.value.reason == "circuit_open"
    GUARD.end_probe(connection, late)
    assert readmit(database, heir) == heir, "what the late one gives back is not its probe any more"


def test_a_probe_whose_breaker_was_closed_meanwhile_is_sent_as_an_ordinary_call(database: Database, connection: Connection) -> None:
    open_by_failures(database)
    cool_down(connection)
    late = admit(database)
    expire_probe(connection)
    GUARD.record_success(connection, admit(database))
    assert readmit(database, late) == Permit(APP, None)


def test_a_call_that_waited_while_the_breaker_opened_is_not_sent(database: Database) -> None:
    waiting = admit(database)
    open_by_failures(database)
    with pytest.raises(GuardRefusal):
        readmit(database, waiting)


@pytest.mark.parametrize("ending", ["failure", "success", "nothing", "hold"])
def test_a_probe_that_ends_and_a_call_that_asks_never_wait_for_each_other_in_a_circle(
    database: Database, connection: Connection, ending: str
) -> None:
    open_by_failures(database)
    hold(database)
    cool_down(connection)
    probe = admit(database)
    expire_probe(connection)

    def end() -> None:
        with database.transaction() as own:
            match ending:
                case "failure":
                    GUARD.record_failure(own, probe, "InternalError")
                case "success":
                    GUARD.record_success(own, probe)
                case "nothing":
                    GUARD.end_probe(own, probe)
                case _:
                    GUARD.hold_every_app(own, probe, "Arrearage")

    def wait_for_waiters(count: int) -> None:
        waiting = "SELECT count(*) AS waiting FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while (connection.execute(waiting).fetchone() or {})["waiting"] < count:
            pass

    with ThreadPoolExecutor(2) as threads:
        with database.transaction() as blocker:
            blocker.execute("SELECT FROM biz.ai_breakers WHERE app_type = '*' FOR UPDATE")
            asking = threads.submit(is_refused, database)
            wait_for_waiters(1)
            ended = threads.submit(end)
            wait_for_waiters(2)
        assert not asking.result(10), "it asked first, and the old probe's lease was over"
        ended.result(10)
