"""What a full disk and lost connections do to a step and a prewarm: nothing is called without a log, nothing that was paid is lost."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.domain.windows import WINDOW_KEYS, WindowKey
from zqyy_ai.engine import prewarm
from zqyy_ai.engine.assembly import Engine, build_budget_guard
from zqyy_ai.engine.prewarm import PrewarmRun, WindowOutcome
from zqyy_ai.engine.recovery import recover_lost_leases
from zqyy_ai.engine.step import StepStatus
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.conftest import fresh_database, template_database
from zqyy_ai_tests.engine.test_prewarm import fill, fire_load
from zqyy_ai_tests.engine.workbench import (
    EmulatorControl,
    EngineMaker,
    alerts,
    cached,
    held_rows,
    jobs,
    log_statuses,
    logs,
    request,
    spent,
    wait_until,
)


@pytest.fixture(scope="module")
def module_database(server_url: str, migrated_template: str) -> Iterator[Database]:
    template = template_database(server_url, "zqyy_prewarmed", fill, source=migrated_template)
    with fresh_database(server_url, template) as url, Database(url, max_connections=16) as opened:
        yield opened


@contextmanager
def no_room(connection: Connection, *, operations: str = "INSERT OR UPDATE") -> Iterator[None]:
    """The disk under the run logs is full: each write of that table ends as PostgreSQL ends it then."""
    connection.execute(
        f"""
        CREATE FUNCTION biz.no_room() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
        CREATE TRIGGER no_room BEFORE {operations} ON biz.ai_run_logs FOR EACH STATEMENT EXECUTE FUNCTION biz.no_room();
        """.encode()
    )
    try:
        yield
    finally:
        connection.execute("DROP FUNCTION IF EXISTS biz.no_room() CASCADE")


def test_without_room_for_its_log_no_call_is_made(engine: Engine, connection: Connection, emulator: EmulatorControl) -> None:
    with no_room(connection):
        result = engine.step.run(request())
    assert (result.status, result.error_code) == (StepStatus.REFUSED, "log_unwritable")
    assert result.retry_at is not None
    assert (emulator.posts, held_rows(connection), spent(connection)) == (0, 0, (0, 0))
    assert alerts(connection) == [("log_unwritable", 1)]


def test_an_answer_that_came_is_written_and_accounted_for_though_its_log_cannot_be_ended(
    engine: Engine, connection: Connection, emulator: EmulatorControl
) -> None:
    with no_room(connection, operations="UPDATE"):
        result = engine.step.run(request())
        assert (result.status, log_statuses(connection)) == (StepStatus.ANSWERED, [("running", None)])
        assert len(cached(connection)) == 1
        used, reserved = spent(connection)
        assert (used, reserved, held_rows(connection)) == (result.tokens, 0, 0)
    engine.step.write_late_log_ends()
    (log,) = logs(connection)
    assert (log["status"], log["tokens_used"], emulator.posts) == ("success", result.tokens, 1)
    assert log["response_text"]


def test_a_failure_is_accounted_for_though_its_log_cannot_be_ended(
    engine: Engine, connection: Connection, emulator: EmulatorControl
) -> None:
    emulator.plan({"kind": "data_inspection"})
    with no_room(connection, operations="UPDATE"):
        result = engine.step.run(request())
    assert (result.status, result.error_code, held_rows(connection)) == (StepStatus.FAILED, "DataInspectionFailed", 0)


def test_a_log_that_stayed_open_is_closed_by_what_the_cache_says(engine: Engine, connection: Connection) -> None:
    windows = [WindowKey.parse("this_month__all")]
    with no_room(connection, operations="UPDATE"), PrewarmRun(engine, 1001, windows, run_id="run-a") as run:
        list(run.outcomes())
        engine.worker.stopping.set()  # so that the run does not wait for room
    assert (jobs(connection)[0]["status"], log_statuses(connection)) == (JobStatus.COMPLETED, [("running", None)])

    recover_lost_leases(engine.database, build_budget_guard(engine.settings), max_attempts=3)

    assert log_statuses(connection) == [("success", None)]


def test_a_job_without_room_goes_back_for_seconds_and_pays_nothing(
    engine: Engine, connection: Connection, emulator: EmulatorControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prewarm, "_NO_ROOM_PAUSES_SECONDS", (0.1,))
    fire_load(engine)
    with no_room(connection), PrewarmRun(engine, 1001, list(WINDOW_KEYS), run_id="run-a", asked_by_sensor=True) as run:
        list(run.outcomes())
    (job,) = jobs(connection)
    assert (job["status"], job["attempt"], emulator.posts) == ("pending", 0, 0)
    assert (job["not_before"] - engine.clock.now()).total_seconds() <= 6
    assert [kind for kind, _ in alerts(connection)] == ["log_unwritable"]


def test_a_run_goes_on_as_soon_as_there_is_room_again(engine: Engine, connection: Connection, emulator: EmulatorControl) -> None:
    with no_room(connection), PrewarmRun(engine, 1001, list(WINDOW_KEYS), run_id="run-a") as run:
        outcomes = run.outcomes()
        first = threading.Thread(target=lambda: ended.extend(outcomes))
        ended: list[WindowOutcome] = []
        first.start()
        wait_until(lambda: bool(alerts(connection)))
        connection.execute("DROP FUNCTION biz.no_room() CASCADE")
        first.join()
    assert (len(ended), emulator.posts, {outcome.result.status.is_good for outcome in ended}) == (72, 72, {True})


def test_connections_that_are_cut_again_and_again_cost_no_window_and_no_second_call(
    make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl
) -> None:
    engine = make_engine()
    emulator.plan(latency={"seconds": 0.3})
    windows = list(WINDOW_KEYS)[:24]
    over = threading.Event()

    def cut() -> None:
        # Ever more rarely: a machine that is busy with something else gets through its transactions as well.
        pause_seconds = 0.2
        while not over.wait(pause_seconds):
            pause_seconds *= 1.2
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'zqyy_ai' AND pid <> pg_backend_pid()"
            )

    cutting = threading.Thread(target=cut)
    with PrewarmRun(engine, 1001, windows, run_id="run-a") as run:
        cutting.start()
        try:
            outcomes = list(run.outcomes())
        finally:
            over.set()
            cutting.join()
    assert {outcome.result.status.is_good for outcome in outcomes} == {True}
    assert len({(row["cache_type"], row["target_id"]) for row in cached(connection)}) == len(cached(connection))
    wait_until(lambda: held_rows(connection) == 0)
