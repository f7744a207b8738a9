from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

from zqyy_ai.store import leases, step_claims
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.step_claims import StepClaim

MINUTE = timedelta(minutes=1)
OVER = timedelta(seconds=-1)
WORKER, OTHER = uuid4(), uuid4()


def take(
    connection: Connection, *, worker_id: object = WORKER, lease: timedelta = MINUTE, target_id: str = "this_month__all"
) -> StepClaim | None:
    return step_claims.take(connection, "app2_finance", 1001, target_id, worker_id=worker_id, lease=lease)  # type: ignore[arg-type]


def test_one_holder_at_a_time(connection: Connection) -> None:
    assert take(connection) is not None
    assert take(connection, worker_id=OTHER) is None
    assert take(connection) is None, "nor twice by the same worker: its threads share the id"
    assert take(connection, worker_id=OTHER, target_id="last_month__all") is not None


def test_of_eight_threads_one_gets_the_claim(database: Database) -> None:
    def try_to_take(_: int) -> StepClaim | None:
        with database.autocommit() as connection:
            return take(connection, worker_id=uuid4())

    with ThreadPoolExecutor(8) as threads:
        claims = list(threads.map(try_to_take, range(24)))
    assert len([claim for claim in claims if claim]) == 1


def test_an_ended_claim_is_free_at_once(connection: Connection) -> None:
    claim = take(connection)
    assert claim is not None
    assert step_claims.end(connection, claim)
    assert not step_claims.end(connection, claim)
    assert take(connection, worker_id=OTHER) is not None


def test_an_expired_claim_is_taken_over_and_its_zombie_may_not_write(connection: Connection) -> None:
    zombie = take(connection, lease=OVER)
    assert zombie is not None
    heir = take(connection, worker_id=OTHER)
    assert heir is not None
    assert not step_claims.end(connection, zombie)
    assert step_claims.end(connection, heir), "and the zombie's end took nothing from its heir"


def test_an_expired_claim_that_nobody_took_is_still_its_holders(connection: Connection) -> None:
    late = take(connection, lease=OVER)
    assert late is not None
    assert step_claims.end(connection, late)


def test_a_heartbeat_keeps_a_workers_claims_and_nobody_elses(connection: Connection) -> None:
    take(connection, lease=OVER)
    take(connection, worker_id=OTHER, lease=OVER, target_id="last_month__all")
    leases.renew(connection, WORKER, MINUTE)
    assert take(connection, worker_id=uuid4()) is None
    assert take(connection, worker_id=uuid4(), target_id="last_month__all") is not None


def test_what_a_dead_worker_held_can_be_freed_at_once(connection: Connection) -> None:
    claim = take(connection)
    assert claim is not None
    leases.free_all(connection, WORKER)
    assert not step_claims.end(connection, claim)
    assert take(connection, worker_id=OTHER) is not None
