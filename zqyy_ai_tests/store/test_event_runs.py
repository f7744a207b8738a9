from datetime import timedelta
from uuid import uuid4

from zqyy_ai.store import event_runs, leases
from zqyy_ai.store.database import Connection

WORKER = uuid4()
MINUTE, OVER = timedelta(minutes=1), timedelta(seconds=-1)


def open_run(connection: Connection, run_id: str, *, lease: timedelta = MINUTE) -> None:
    event_runs.open_run(connection, run_id, worker_id=WORKER, lease=lease)


def open_ids(connection: Connection) -> list[str]:
    return [run.run_id for run in event_runs.open_runs(connection)]


def test_a_run_is_open_from_its_word_to_its_word(connection: Connection) -> None:
    assert not event_runs.is_open(connection, "run-1")
    open_run(connection, "run-1")
    assert event_runs.is_open(connection, "run-1")
    assert open_ids(connection) == ["run-1"]
    event_runs.close_run(connection, "run-1")
    assert not event_runs.is_open(connection, "run-1")
    assert open_ids(connection) == []


def test_a_run_that_found_work_after_it_had_closed_opens_again_and_keeps_its_age(connection: Connection) -> None:
    open_run(connection, "run-1")
    [first] = event_runs.open_runs(connection)
    event_runs.close_run(connection, "run-1")
    open_run(connection, "run-1")
    [again] = event_runs.open_runs(connection)
    assert again.opened_at == first.opened_at
    assert again.age > first.age


def test_the_oldest_open_run_comes_first_and_ages_are_the_databases(connection: Connection) -> None:
    for run_id in ("run-1", "run-2"):
        open_run(connection, run_id)
    connection.execute("UPDATE biz.ai_event_runs SET opened_at = opened_at - interval '1 hour' WHERE run_id = 'run-2'")
    old, young = event_runs.open_runs(connection)
    assert (old.run_id, young.run_id) == ("run-2", "run-1")
    assert old.age > timedelta(hours=1) > young.age


def test_a_run_whose_lease_is_over_takes_nothing_and_counts_as_dead_until_somebody_closes_it(connection: Connection) -> None:
    open_run(connection, "run-1", lease=OVER)
    open_run(connection, "run-2")
    assert open_ids(connection) == ["run-2"]
    assert event_runs.dead_runs(connection, ["run-1", "run-2", "run-3"]) == {"run-1"}
    event_runs.close_run(connection, "run-1")
    assert event_runs.dead_runs(connection, ["run-1"]) == set()


def test_a_run_that_has_closed_and_holds_no_job_is_dead_when_it_has_not_ended_for_a_while(connection: Connection) -> None:
    open_run(connection, "run-1")
    event_runs.close_run(connection, "run-1")
    connection.execute("UPDATE biz.ai_event_runs SET closed_at = closed_at - interval '2 minutes'")
    connection.execute(
        "INSERT INTO biz.ai_trigger_jobs (event_type, site_id, run_id, status) VALUES ('consumption', 1001, 'run-1', 'running')"
    )
    assert event_runs.dead_runs(connection, ["run-1"]) == set()
    connection.execute("UPDATE biz.ai_trigger_jobs SET status = 'completed'")
    assert event_runs.dead_runs(connection, ["run-1"]) == {"run-1"}


def test_a_heartbeat_keeps_a_run_open(connection: Connection) -> None:
    open_run(connection, "run-1", lease=OVER)
    leases.renew(connection, WORKER, MINUTE)
    assert open_ids(connection) == ["run-1"]


def test_a_run_that_was_ever_open_is_known_whatever_became_of_it(connection: Connection) -> None:
    open_run(connection, "run-1")
    open_run(connection, "run-2", lease=OVER)
    event_runs.close_run(connection, "run-1")
    assert event_runs.known_runs(connection, ["run-1", "run-2", "run-3"]) == {"run-1", "run-2"}


def test_closing_a_run_that_never_opened_does_nothing_and_closing_twice_keeps_the_first_moment(connection: Connection) -> None:
    event_runs.close_run(connection, "run-1")
    open_run(connection, "run-1")
    closed = []
    for _ in range(2):
        event_runs.close_run(connection, "run-1")
        closed.append(connection.execute("SELECT closed_at FROM biz.ai_event_runs").fetchall())
    assert closed[0] == closed[1] and len(closed[0]) == 1
