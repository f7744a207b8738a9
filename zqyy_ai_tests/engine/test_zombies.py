"""A process that is stopped for longer than its lease and then continued: somebody else has done its work meanwhile."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from zqyy_ai.engine.recovery import recover_lost_leases
from zqyy_ai.engine.step import StepStatus
from zqyy_ai.guards.budget import BudgetGuard, BudgetPolicy
from zqyy_ai.llm.estimates import estimate_tokens
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.engine.workbench import (
    TARGET,
    EmulatorControl,
    EngineMaker,
    cached,
    held_rows,
    log_statuses,
    logs,
    prompt_about,
    request,
    spent,
    wait_until,
)

BUDGET = BudgetGuard(BudgetPolicy(10**9, 10**9, 10**9, 10**9))


class Zombie:
    """A step at the usual target, in a process of its own with a lease of a second."""

    def __init__(self, database: Database, emulator: EmulatorControl, environment: dict[str, str]) -> None:
        settings = {
            "ZQYY_DATABASE_URL": database.url,
            "DASHSCOPE_API_KEY": "sk-test",
            "DASHSCOPE_HTTP_BASE_URL": emulator.running.base_url,
            "ZQYY_APP_ID_2_FINANCE": "id-finance",
            "ZQYY_LEASE_SECONDS": "1",
            **environment,
        }
        self._database = database
        command = [sys.executable, "-m", "zqyy_ai_tests.engine.stoppable", json.dumps(settings)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def stop_past_its_lease(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        over = (
            "SELECT NOT EXISTS (SELECT FROM biz.ai_step_claims WHERE lease_expires_at >= clock_timestamp())"
            " AND NOT EXISTS (SELECT FROM biz.ai_budget_reservations WHERE lease_expires_at >= clock_timestamp()) AS is_over"
        )

        def is_over() -> bool:
            with self._database.autocommit() as connection:
                return bool((connection.execute(over).fetchone() or {})["is_over"])

        wait_until(is_over)

    def continue_to_its_end(self) -> dict[str, Any]:
        os.kill(self.process.pid, signal.SIGCONT)
        said, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        result: dict[str, Any] = json.loads(said)
        return result

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class ZombieMaker(Protocol):
    def __call__(self, **environment: str) -> Zombie: ...


@pytest.fixture
def make_zombie(database: Database, emulator: EmulatorControl) -> Iterator[ZombieMaker]:
    made: list[Zombie] = []

    def make(**environment: str) -> Zombie:
        made.append(Zombie(database, emulator, environment))
        return made[-1]

    yield make
    for zombie in made:
        zombie.end()


@pytest.mark.parametrize("is_recovered_first", [True, False], ids=["taken for dead meanwhile", "not yet taken for dead"])
def test_a_zombie_writes_nothing_and_its_call_is_settled_once(
    is_recovered_first: bool,
    make_zombie: ZombieMaker,
    make_engine: EngineMaker,
    database: Database,
    connection: Connection,
    emulator: EmulatorControl,
) -> None:
    emulator.plan(latency={"seconds": 0.5})
    zombie = make_zombie()
    wait_until(lambda: emulator.in_flight == 1)
    zombie.stop_past_its_lease()
    if is_recovered_first:
        assert recover_lost_leases(database, BUDGET, max_attempts=3).reservations_charged == 1
    heir = make_engine().step.run(request())
    assert heir.status is StepStatus.ANSWERED

    result = zombie.continue_to_its_end()

    assert (result["status"], result["error_code"]) == ("failed", "claim_lost")
    assert [row["id"] for row in cached(connection)] == [heir.cache_id], "the cache has one answer"
    assert emulator.posts == 2
    prompt = prompt_about(zombie.process.pid)
    estimate = estimate_tokens(
        prompt, overhead_tokens=request().app.overhead_tokens, largest_output_tokens=request().app.largest_output_tokens
    )
    late = next(row for row in logs(connection) if row["request_prompt"] == prompt)
    if is_recovered_first:
        assert (late["status"], late["error_code"], late["tokens_used"]) == ("failed", "worker_died", estimate)
    else:
        assert late["status"] == "success"
        assert late["tokens_used"] == late["input_tokens"] + late["output_tokens"] > 0
    assert spent(connection) == (heir.tokens + late["tokens_used"], 0)
    assert recover_lost_leases(database, BUDGET, max_attempts=3).is_nothing
    assert held_rows(connection) == 0


@pytest.mark.parametrize("is_recovered_first", [True, False], ids=["taken for dead meanwhile", "not yet taken for dead"])
def test_a_zombie_that_had_not_sent_its_call_yet_does_not_pay(
    is_recovered_first: bool,
    make_zombie: ZombieMaker,
    make_engine: EngineMaker,
    database: Database,
    connection: Connection,
    emulator: EmulatorControl,
) -> None:
    connection.execute(
        "INSERT INTO biz.ai_call_slots VALUES (1, gen_random_uuid(), gen_random_uuid(), clock_timestamp() + interval '1 hour')"
    )
    zombie = make_zombie(ZQYY_LLM_CONCURRENCY="1")
    wait_until(lambda: connection.execute("SELECT FROM biz.ai_budget_reservations").rowcount == 1)
    zombie.stop_past_its_lease()
    if is_recovered_first:
        assert recover_lost_leases(database, BUDGET, max_attempts=3).reservations_released == 1
    connection.execute("UPDATE biz.ai_call_slots SET token = NULL, worker_id = NULL, lease_expires_at = NULL")
    heir = make_engine().step.run(request())
    assert heir.status is StepStatus.ANSWERED

    result = zombie.continue_to_its_end()

    assert (result["status"], result["error_code"], result["calls"]) == ("failed", "claim_lost", 0)
    assert emulator.posts == 1
    assert log_statuses(connection) == [("success", None)]
    assert [row["target_id"] for row in cached(connection)] == [TARGET]
    assert spent(connection) == (heir.tokens, 0)
    assert held_rows(connection) == 0


def test_a_call_that_is_longer_than_its_lease_is_not_taken_for_dead_while_its_process_lives(
    make_zombie: ZombieMaker, database: Database, connection: Connection, emulator: EmulatorControl
) -> None:
    emulator.plan(latency={"seconds": 4})
    alive = make_zombie()
    wait_until(lambda: emulator.in_flight == 1)

    def is_recovered_in_vain() -> bool:
        assert recover_lost_leases(database, BUDGET, max_attempts=3).is_nothing
        return emulator.in_flight == 0

    wait_until(is_recovered_in_vain)
    assert alive.continue_to_its_end()["status"] == "answered"
    [log] = logs(connection)
    assert (log["status"], spent(connection)) == ("success", (log["tokens_used"], 0))
