"""The pause switch, on real steps of several engines (each a process of its own, so to speak)."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from zqyy_ai.domain.errors import InvalidRequest
from zqyy_ai.domain.windows import WINDOW_KEYS
from zqyy_ai.engine.call_pauses import pause_calls, pause_in_force, resume_calls
from zqyy_ai.engine.step import StepStatus
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.engine.workbench import EmulatorControl, EngineMaker, cached, held_rows, logs, request, wait_until

TARGETS = [str(window) for window in WINDOW_KEYS[:24]]


def test_after_a_pause_no_call_leaves_any_process_and_what_was_paid_is_written(
    database: Database, emulator: EmulatorControl, make_engine: EngineMaker, connection: Connection
) -> None:
    emulator.plan(latency={"kind": "fixed", "seconds": 4})
    engines = [make_engine(ZQYY_LLM_CONCURRENCY="6") for _ in range(2)]
    with ThreadPoolExecutor(len(TARGETS)) as threads:
        steps = [threads.submit(engines[index % 2].step.run, request(target)) for index, target in enumerate(TARGETS)]
        wait_until(lambda: emulator.in_flight == 6)
        begun = pause_calls(database, reason="核对账单", by="王店长")
        results = [step.result() for step in steps]

    assert begun.calls_in_flight == 6
    assert emulator.posts == 6
    answered = [result for result in results if result.status is StepStatus.ANSWERED]
    refused = [result for result in results if result.status is StepStatus.REFUSED]
    assert len(answered) == len(cached(connection)) == 6
    assert len(answered) + len(refused) == len(TARGETS)
    assert {result.error_code for result in refused} == {"paused"}
    assert all(result.retry_at is not None for result in refused)
    assert held_rows(connection) == 0
    assert {row["error_message"] for row in logs(connection) if row["status"] == "failed"} == {"paused"}


def test_calls_go_on_after_resuming_and_who_did_it_is_kept(
    database: Database, emulator: EmulatorControl, make_engine: EngineMaker, connection: Connection
) -> None:
    engine = make_engine()
    pause_calls(database, reason="核对账单", by="王店长")
    assert engine.step.run(request()).error_code == "paused"
    assert emulator.posts == 0
    ended = resume_calls(database, by="李店长")
    assert (ended.reason, ended.paused_by) == ("核对账单", "王店长")
    assert engine.step.run(request()).status is StepStatus.ANSWERED
    row = connection.execute("SELECT paused_by, resumed_by, resumed_at >= paused_at AS in_order FROM biz.ai_call_pauses").fetchone()
    assert row == {"paused_by": "王店长", "resumed_by": "李店长", "in_order": True}


def test_an_unchanged_answer_is_reused_during_a_pause_because_that_calls_nothing(database: Database, make_engine: EngineMaker) -> None:
    engine = make_engine()
    assert engine.step.run(request()).status is StepStatus.ANSWERED
    pause_calls(database, reason="核对账单", by="王店长")
    assert engine.step.run(request()).status is StepStatus.REUSED


def test_one_pause_at_a_time_and_only_with_a_reason(database: Database) -> None:
    with pytest.raises(InvalidRequest, match="请说明暂停的原因"):
        pause_calls(database, reason="  ", by="王店长")
    with pytest.raises(InvalidRequest, match="没有暂停"):
        resume_calls(database, by="王店长")
    pause_calls(database, reason="核对账单", by="王店长")
    with pytest.raises(InvalidRequest, match=r"已处于暂停状态.*王店长.*核对账单"):
        pause_calls(database, reason="别的原因", by="李店长")
    found = pause_in_force(database)
    assert found is not None
    assert found.reason == "核对账单"


def test_of_many_who_pause_at_once_one_does(database: Database) -> None:
    def pauses(name: str) -> bool:
        try:
            pause_calls(database, reason="核对账单", by=name)
        except InvalidRequest:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(pauses, [f"第{n}人" for n in range(8)])) == 1
