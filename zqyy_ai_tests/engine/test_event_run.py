"""Runs that take members' jobs as they come: what they take and in which order, how they end, and what becomes of their jobs when they don't."""

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from uuid import uuid4

import psycopg
import pytest

from zqyy_ai.domain.apps import APPS, AppType
from zqyy_ai.domain.events import EventName
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.engine.assembly import build_budget_guard
from zqyy_ai.engine.event_run import EventRun
from zqyy_ai.engine.member_chain import CHAIN_CLAIM
from zqyy_ai.engine.member_requests import plan_backfill, request_app, request_backfill
from zqyy_ai.engine.recovery import recover_cancelled_run, recover_dead_run, recover_lost_leases
from zqyy_ai.engine.step import StepStatus
from zqyy_ai.store import event_runs, step_claims, trigger_jobs
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.trigger_jobs import TriggerJob
from zqyy_ai_tests.engine.member_bench import OTHER_SITE, SITE, MemberBench, Row, app_id, names, results, told
from zqyy_ai_tests.engine.workbench import alerts, held_rows, logs, settings_for, spent, wait_until

ANSWERED, REUSED, REFUSED = StepStatus.ANSWERED, StepStatus.REUSED, StepStatus.REFUSED
DONE, PENDING = "completed", "pending"


def all_are(status: str, jobs: int) -> list[str]:
    return [status] * jobs


def member_of(row: Row) -> tuple[int, int]:
    return row["site_id"], row["member_id"]


def cut(bench: MemberBench, application_name: str) -> None:
    bench.connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s",
        [application_name],
    )


# What a run takes


def test_an_open_run_is_woken_by_each_event(bench: MemberBench) -> None:
    members = bench.visitors()[:5]
    waits = []
    with bench.open_run():
        for number, member in enumerate(members, start=1):
            fired_at = datetime.now(UTC)
            bench.note(member)
            bench.wait_for_jobs(lambda statuses: statuses == all_are(DONE, number))  # noqa: B023 - it is called at once
            first = bench.prompts(AppType.NOTE)[-1]
            waits.append((datetime.fromisoformat(first.received_at) - fired_at).total_seconds())
    assert statistics.median(waits) < 0.5, "without a notification it looks once a second"


def test_a_thousand_firings_of_one_event_at_once_are_one_job_and_one_call_of_each_application(bench: MemberBench) -> None:
    member = bench.visitors()[0]

    def fire_often(_: int) -> None:
        with psycopg.connect(bench.database.url, autocommit=True) as connection:
            for _ in range(125):
                connection.execute(
                    "SELECT biz.fire_ai_event(%s, jsonb_build_object('site_id', %s::bigint, 'member_id', %s::bigint))",
                    [EventName.CONSUMPTION_SETTLED, SITE, member],
                )

    with bench.open_run(), ThreadPoolExecutor(8) as threads:
        list(threads.map(fire_often, range(8)))
        wait_until(lambda: [(job["duplicate_count"], job["status"]) for job in bench.jobs()] == [(999, DONE)])
    assert bench.posts() == {"app3": 1, "app8": 1, "app7": 1}


def test_a_job_that_becomes_due_while_nothing_happens_is_taken(bench: MemberBench) -> None:
    bench.note(bench.visitors()[0])
    bench.take_in()
    bench.connection.execute("UPDATE biz.ai_trigger_jobs SET not_before = clock_timestamp() + interval '0.5 seconds'")
    with bench.open_run():
        bench.wait_for_jobs(lambda statuses: statuses == [DONE])


def test_a_follow_up_sees_what_came_while_its_predecessor_was_at_work(bench: MemberBench) -> None:
    bench.set_policy(EventName.CONSUMPTION_SETTLED, "coalesce")
    member = bench.visitors()[0]
    bench.emulator.plan(latency={"seconds": 0.5})
    with bench.open_run():
        bench.consumption(member)
        wait_until(lambda: bench.emulator.in_flight == 1)
        bench.add_visit(member, paid_cny=7654)
        for _ in range(3):
            bench.consumption(member)
        wait_until(lambda: [job["duplicate_count"] for job in bench.jobs()] == [0, 2])
        bench.emulator.plan()
        bench.wait_for_jobs(lambda statuses: statuses == all_are(DONE, 2))
    first, second = bench.prompts(AppType.CLUE)
    assert "7654" not in first.text
    assert "7654" in second.text


def test_a_job_says_completed_only_after_its_consumer_has_taken_all_outcomes(bench: MemberBench) -> None:
    """What the consumer writes of an outcome is there when the job's end is seen."""
    bench.note(bench.visitors()[0])
    outcomes = EventRun(bench.engine(), "run-1").outcomes()
    with bench.woken_often():
        assert names([next(outcomes), next(outcomes)]) == ["app6", "app8"]
        assert bench.statuses() == ["running"]
        assert next(outcomes, None) is None
    assert bench.statuses() == [DONE]


def test_a_listener_that_is_cut_off_is_made_anew(bench: MemberBench) -> None:
    with bench.open_run():
        cut(bench, "zqyy_ai listener")
        bench.note(bench.visitors()[0])
        bench.wait_for_jobs(lambda statuses: statuses == [DONE])


def test_connections_that_are_cut_again_and_again_cost_no_job_and_no_second_call(bench: MemberBench) -> None:
    bench.emulator.plan(latency={"seconds": 0.2})
    members = bench.visitors()
    for member in members:
        bench.consumption(member)
    with bench.open_run(ZQYY_LLM_CONCURRENCY="4"):
        for cuts in range(1, 7):
            wait_until(lambda: bench.emulator.posts >= 4 * cuts)  # noqa: B023 - it is called at once
            cut(bench, "zqyy_ai")
        bench.wait_for_jobs(lambda statuses: statuses == all_are(DONE, len(members)))
    assert {job["attempt"] for job in bench.jobs()} == {1}
    assert bench.posts() == dict.fromkeys(("app3", "app8", "app7"), len(members))
    assert (held_rows(bench.connection), spent(bench.connection)[1]) == (0, 0)


def test_jobs_whose_claim_was_never_confirmed_are_taken_by_the_next_look(bench: MemberBench, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[TriggerJob] = []
    patiently = Database.patiently

    def lose_the_first_claim(database: Database, work: Callable[[Connection], object], **how: bool) -> object:
        result = patiently(database, work, **how)
        if isinstance(result, list) and result and not lost:
            lost.extend(result)
            raise psycopg.OperationalError("the database was away for longer than anybody waits")
        return result

    monkeypatch.setattr(Database, "patiently", lose_the_first_claim)
    for member in bench.visitors()[:3]:
        bench.note(member)
    with bench.open_run():
        bench.wait_for_jobs(lambda statuses: statuses == all_are(DONE, 3))
    assert len(lost) == 3
    assert {job["attempt"] for job in bench.jobs()} == {1}


def test_two_runs_share_the_work_and_no_job_is_done_twice(bench: MemberBench) -> None:
    bench.emulator.plan(latency={"seconds": 0.05})
    members = [(site, member) for site in (SITE, OTHER_SITE) for member in bench.visitors(site)]
    for site_id, member in members:
        bench.note(member, site_id=site_id)
    few = {"ZQYY_LLM_CONCURRENCY": "2"}
    with bench.open_run("run-1", **few), bench.open_run("run-2", **few):
        bench.wait_for_jobs(lambda statuses: statuses == all_are(DONE, len(members)))
    assert {job["run_id"] for job in bench.jobs()} == {"run-1", "run-2"}
    assert {job["attempt"] for job in bench.jobs()} == {1}
    assert bench.posts() == {"app6": len(members), "app8": len(members)}


# One chain of a member at a time


def test_chains_of_one_member_come_one_after_the_other_whichever_run_takes_them(bench: MemberBench) -> None:
    bench.emulator.plan(latency={"seconds": 0.1})
    members, assistant = bench.visitors()[:3], bench.assistants()[0]
    for member in members:
        bench.consumption(member)
        bench.note(member)
        bench.assignment(member, assistant)
    with bench.open_run("run-1"), bench.open_run("run-2"):
        bench.wait_for_jobs(lambda statuses: statuses == all_are(DONE, 9))
    rows = sorted(logs(bench.connection), key=lambda row: (row["member_id"], row["created_at"]))
    for _, calls in groupby(rows, key=lambda row: row["member_id"]):
        of_member = list(calls)
        assert len(of_member) == 7
        assert all(former["finished_at"] <= later["created_at"] for former, later in pairwise(of_member))
        in_turn = [job_id for job_id, _ in groupby(row["trigger_job_id"] for row in of_member)]
        assert in_turn == sorted(set(in_turn)), "a chain ends before the next one begins, the oldest first"


def test_a_chain_waits_for_a_persons_run_of_its_member_and_nobody_else_waits(bench: MemberBench) -> None:
    member, other = bench.visitors()[:2]
    theirs = step_claims.take(
        bench.connection, CHAIN_CLAIM, SITE, str(member), worker_id=uuid4(), lease=timedelta(minutes=1), token=uuid4()
    )
    assert theirs is not None
    bench.note(member)
    bench.note(other)
    with bench.open_run():
        bench.wait_for_jobs(lambda statuses: statuses == ["running", DONE])
        assert step_claims.end(bench.connection, theirs)
        bench.wait_for_jobs(lambda statuses: statuses == all_are(DONE, 2))
    assert [job["attempt"] for job in bench.jobs()] == [1, 1]


# Who comes first


@pytest.mark.parametrize("calls_before", [0, 8], ids=["fired together", "in the midst of them"])
def test_five_thousand_events_of_one_site_delay_another_sites_first_call_by_one_call_at_most(bench: MemberBench, calls_before: int) -> None:
    call_seconds = 3.0
    bench.emulator.plan(latency={"seconds": call_seconds})
    with bench.open_run(ZQYY_LLM_CONCURRENCY="4"):
        flood(bench, SITE, 5000)
        wait_until(lambda: bench.emulator.posts >= calls_before)
        fired_at = datetime.now(UTC)
        bench.note(bench.visitors(OTHER_SITE)[0], "客人要充值", site_id=OTHER_SITE)
        wait_until(lambda: any("客人要充值" in prompt.text for prompt in bench.prompts(AppType.NOTE)))
    [first] = [prompt for prompt in bench.prompts(AppType.NOTE) if "客人要充值" in prompt.text]
    waited_seconds = (datetime.fromisoformat(first.received_at) - fired_at).total_seconds()
    assert waited_seconds < 2 * call_seconds, "one call and the intake of the five thousand"
    assert set(bench.statuses()) <= {DONE, PENDING}
    assert held_rows(bench.connection) == 0


def flood(bench: MemberBench, site_id: int, events: int) -> None:
    """Notes of as many members, whom the warehouse need not know."""
    bench.connection.execute(
        "SELECT biz.fire_ai_event(%s, jsonb_build_object('site_id', %s::bigint, 'member_id', number, 'note_content', '客人喜欢安静的台'))"
        " FROM generate_series(1, %s) AS number",
        [EventName.NOTE_CREATED, site_id, events],
    )


def running(bench: MemberBench) -> dict[int, int]:
    """How many jobs each site has under way."""
    return dict(Counter(job["site_id"] for job in bench.jobs() if job["status"] == "running"))


def test_a_site_that_is_alone_keeps_all_threads_at_work(bench: MemberBench) -> None:
    """As many chains wait behind those in a call as there are threads, so that none stands idle until the next look."""
    bench.emulator.plan(latency={"seconds": 1.0})
    with bench.open_run(ZQYY_LLM_CONCURRENCY="4"):
        flood(bench, SITE, 20)
        wait_until(lambda: bench.emulator.in_flight == 4)
        wait_until(lambda: running(bench) == {SITE: 8})
        bench.emulator.plan()
        bench.wait_for_jobs(lambda statuses: statuses == all_are(DONE, 20))


def test_a_site_that_comes_after_several_flooded_ones_gets_its_share(bench: MemberBench) -> None:
    bench.emulator.plan(latency={"seconds": 4.0})
    flooded, late = (SITE, OTHER_SITE, 2001, 2002), 2003
    bench.connection.execute("INSERT INTO biz.sites (site_id, site_name) SELECT id, '新店' FROM generate_series(2001, 2003) AS id")
    with bench.open_run(ZQYY_LLM_CONCURRENCY="16"):
        for site_id in flooded:
            flood(bench, site_id, 30)
        wait_until(lambda: sum(running(bench).values()) >= 32)
        flood(bench, late, 30)
        wait_until(lambda: running(bench).get(late, 0) >= 6)
        assert DONE not in bench.statuses(), "it waited for no chain of the others"


def test_what_a_person_asks_for_is_taken_though_the_run_is_full(bench: MemberBench) -> None:
    bench.emulator.plan(latency={"seconds": 2.0})
    with bench.open_run(ZQYY_LLM_CONCURRENCY="2"):
        flood(bench, SITE, 20)
        wait_until(lambda: running(bench) == {SITE: 4})
        job_id = request_app(bench.database, AppType.CUSTOMER, SITE, bench.visitors()[0])
        wait_until(lambda: any(prompt.app_id == app_id(AppType.CUSTOMER) for prompt in bench.prompts()))
        assert DONE not in [job["status"] for job in bench.jobs() if job["id"] != job_id], "it waited for a call, not for a chain"


def test_the_first_events_of_a_full_inbox_are_asked_about_before_the_last_ones_are_read(bench: MemberBench) -> None:
    bench.connection.execute(
        "SELECT biz.fire_ai_event('ai_note_created', jsonb_build_object('site_id', %s::bigint, 'member_id', number, 'note_content', '怕吵'))"
        " FROM generate_series(1, 5000) AS number",
        [SITE],
    )
    engine = bench.engine()
    outcomes = EventRun(engine, "run-1").outcomes()
    next(outcomes)
    wait_until(lambda: not any(event["handled_at"] is None for event in bench.inbox()))
    outcomes.close()
    first_call = bench.connection.execute("SELECT min(created_at) AS at FROM biz.ai_run_logs").fetchone()
    last_read = bench.connection.execute("SELECT max(handled_at) AS at FROM biz.ai_events").fetchone()
    assert first_call is not None and last_read is not None and first_call["at"] < last_read["at"]


def test_a_trigger_row_in_an_operators_open_transaction_holds_up_no_event(bench: MemberBench) -> None:
    with psycopg.connect(bench.database.url) as operator:
        operator.execute("UPDATE biz.trigger_jobs SET description = description")
        bench.consumption(bench.visitors()[0])
        bench.note(bench.visitors()[1])
        bench.drain()
        assert bench.statuses() == all_are(DONE, 2)
        operator.rollback()
    assert bench.trigger(EventName.CONSUMPTION_SETTLED)["last_run_at"] is None, "it is only shown, and is shown again by the next event"


def test_what_a_person_asks_for_comes_first_then_events_and_backfills_take_what_is_left(bench: MemberBench) -> None:
    members = bench.visitors()[:5]
    plan = plan_backfill(
        bench.database, bench.engine().settings, SITE, (AppType.CUSTOMER,), ",".join(map(str, members[:3])), only_missing=False
    )
    request_backfill(bench.database, plan)
    bench.note(members[3])
    request_app(bench.database, AppType.CUSTOMER, SITE, members[4])
    outcomes = bench.drain(ZQYY_LLM_CONCURRENCY="1")
    assert [outcome.member_id for outcome in outcomes] == [members[4], members[3], members[3], *members[:3]]


def test_an_event_that_comes_during_a_backfill_waits_for_one_step_and_not_for_a_chain(bench: MemberBench) -> None:
    bench.emulator.plan(latency={"seconds": 0.3})
    members = bench.visitors()[:4]
    apps = (AppType.CLUE, AppType.CONSOLIDATION, AppType.CUSTOMER)
    plan = plan_backfill(bench.database, bench.engine().settings, SITE, apps, ",".join(map(str, members[:3])), only_missing=False)
    request_backfill(bench.database, plan)
    with bench.open_run(ZQYY_LLM_CONCURRENCY="1") as run:
        wait_until(lambda: bench.emulator.in_flight == 1)
        bench.note(members[3])
        bench.wait_for_jobs(lambda statuses: statuses[-1] == DONE)
        order = [outcome.member_id for outcome in run.outcomes]
    assert members[3] in order[1:3]
    assert order.count(members[0]) < 3, "the backfill's chain went on afterwards"


# How a run closes


def test_a_run_closes_after_a_while_without_work_and_holds_nothing(bench: MemberBench) -> None:
    engine = bench.engine(ZQYY_EVENT_RUN_IDLE_SECONDS="0.3")
    bench.note(bench.visitors()[0])
    assert results(bench.drain(engine)) == {ANSWERED}
    assert event_runs.open_runs(bench.connection) == []
    assert event_runs.known_runs(bench.connection, ["run-1"]) == {"run-1"}
    assert not engine.worker.stopping.is_set(), "the process itself goes on"
    assert held_rows(bench.connection) == 0
    assert [thread.name for thread in threading.enumerate() if thread.name in ("zqyy-ai feeder", "zqyy-ai chain")] == []


def test_an_event_that_comes_as_the_run_closes_is_taken_by_it(own_bench: MemberBench) -> None:
    """The row says closed, and only then the run looks a last time: here the event is committed together with the row."""
    bench = own_bench
    bench.connection.execute(
        f"""
        CREATE FUNCTION public.fire_as_it_closes() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.closed_at IS NOT NULL AND (SELECT count(*) FROM biz.ai_events) < 3 THEN
                INSERT INTO biz.ai_events (event_name, payload) VALUES ('ai_note_created', jsonb_build_object(
                    'site_id', {SITE}, 'member_id', {bench.visitors()[0]}, 'note_content', '备注 ' || clock_timestamp()));
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER fire_as_it_closes AFTER UPDATE ON biz.ai_event_runs FOR EACH ROW EXECUTE FUNCTION public.fire_as_it_closes();
        """.encode()
    )
    bench.drain()
    assert bench.statuses() == all_are(DONE, 3)
    assert {job["run_id"] for job in bench.jobs()} == {"run-1"}
    assert event_runs.open_runs(bench.connection) == []


def test_an_old_run_goes_on_until_a_younger_one_is_open_and_then_ends_with_what_it_has(bench: MemberBench) -> None:
    members = bench.visitors()[:3]
    bench.emulator.plan(latency={"seconds": 0.7})
    with bench.open_run("old", ZQYY_EVENT_RUN_MAX_AGE_SECONDS="0.1") as old:
        bench.note(members[0])
        wait_until(lambda: bench.emulator.in_flight == 1)
        assert old.is_open, "it is too old, and still it takes events"
        with bench.open_run("young"):
            wait_until(lambda: not old.is_open)
            bench.note(members[1])
            wait_until(lambda: old.is_over)
            bench.wait_for_jobs(lambda statuses: statuses == all_are(DONE, 2))
    assert [job["run_id"] for job in bench.jobs()] == ["old", "young"]
    assert names(old.outcomes) == ["app6", "app8"]
    assert not old.engine.worker.stopping.is_set()


# Runs that are given up, left or killed


def test_leaving_a_run_early_lets_its_call_end_and_gives_the_jobs_back_at_once_without_an_attempt(bench: MemberBench) -> None:
    members = bench.visitors()[:4]
    for member in members:
        bench.consumption(member)
    bench.emulator.plan(latency={"seconds": 0.4})
    engine = bench.engine(ZQYY_LLM_CONCURRENCY="2")
    outcomes = EventRun(engine, "run-1").outcomes()
    with bench.woken_often():
        first = next(outcomes)
        wait_until(lambda: bench.emulator.in_flight == 2)
        del outcomes  # closes the generator, as Dagster does when a run is interrupted
    assert bench.emulator.in_flight == 0
    posts = bench.emulator.posts
    jobs = bench.jobs()
    assert [(job["status"], job["attempt"]) for job in jobs] == [(PENDING, 0)] * 4
    assert {job["error_message"] for job in jobs} <= {None, "运行进程被停止,等待重新执行"}
    assert all(job["not_before"] is None or job["not_before"] <= datetime.now(UTC) for job in jobs)
    assert held_rows(bench.connection) == 0
    assert event_runs.open_runs(bench.connection) == []
    assert len(bench.cached()) == posts, "what was under way was written"
    assert first.result.status is ANSWERED
    bench.emulator.plan()
    bench.drain(run_id="run-2")
    assert bench.statuses() == all_are(DONE, 4)
    assert bench.posts() == {"app3": 4, "app8": 4, "app7": 4}, "and is not paid again"


def test_leaving_a_run_that_was_handed_over_sends_nothing_of_what_waits_at_its_guards(bench: MemberBench) -> None:
    bench.consumption(bench.visitors()[0])
    once_in_ten_seconds = {"ZQYY_SITE_CALLS_BURST": "1", "ZQYY_SITE_CALLS_PER_MINUTE": "6"}
    engine = bench.engine(ZQYY_EVENT_RUN_MAX_AGE_SECONDS="0.1", **once_in_ten_seconds)
    outcomes = EventRun(engine, "old").outcomes()
    with bench.woken_often():
        next(outcomes)
        event_runs.open_run(bench.connection, "young", worker_id=uuid4(), lease=timedelta(minutes=1))
        wait_until(lambda: not event_runs.is_open(bench.connection, "old"))
        outcomes.close()
    assert bench.posts() == {"app3": 1}
    assert (bench.job()["status"], bench.job()["attempt"], held_rows(bench.connection)) == (PENDING, 0, 0)


def test_an_outcome_that_fails_its_consumer_costs_its_job_an_attempt_and_no_other(bench: MemberBench) -> None:
    for member in bench.visitors()[:3]:
        bench.note(member)
    engine = bench.engine()
    outcomes = EventRun(engine, "run-1").outcomes()
    with bench.woken_often():
        failing = next(outcomes)
        with pytest.raises(ValueError, match="cannot be shown"):
            outcomes.throw(ValueError("cannot be shown"))
    recover_dead_run(bench.database, build_budget_guard(engine.settings), "run-1", max_attempts=3)
    assert {job["id"]: job["attempt"] for job in bench.jobs()} == {job["id"]: int(job["id"] == failing.job_id) for job in bench.jobs()}
    assert bench.statuses() == all_are(PENDING, 3)


def test_a_process_that_is_told_to_stop_begins_no_further_call_and_its_run_ends(bench: MemberBench) -> None:
    bench.note(bench.visitors()[0])
    bench.emulator.plan(latency={"seconds": 0.4})
    with bench.open_run() as run:
        wait_until(lambda: bench.emulator.in_flight == 1)
        run.engine.worker.stopping.set()
        wait_until(lambda: run.is_over)
    assert len(bench.cached(AppType.NOTE)) == 1, "what was under way is written, whether it was still told or not"
    assert (bench.emulator.posts, bench.job()["status"], bench.job()["attempt"]) == (1, PENDING, 0)
    assert event_runs.open_runs(bench.connection) == []


def test_a_run_that_was_given_up_while_its_process_lives_ends_and_sends_nothing_more(bench: MemberBench) -> None:
    """As when Dagster has lost its code server: others do the work meanwhile."""
    bench.consumption(bench.visitors()[0])
    bench.emulator.plan(latency={"seconds": 1.0})
    with bench.open_run("run-1") as run:
        wait_until(lambda: bench.emulator.in_flight == 1)
        found = recover_dead_run(bench.database, build_budget_guard(run.engine.settings), "run-1", max_attempts=3)
        assert (found.jobs_requeued, found.reservations_charged) == (1, 1)
        wait_until(lambda: run.is_over)
    assert bench.emulator.posts == 1
    assert bench.cached() == [], "its call came back to nobody"
    assert bench.job()["status"] == PENDING
    bench.emulator.plan()
    bench.drain(run_id="run-2")
    job = bench.job()
    assert (job["status"], job["attempt"], job["run_id"]) == (DONE, 2, "run-2")
    assert bench.posts() == {"app3": 2, "app8": 1, "app7": 1}
    assert spent(bench.connection)[1] == 0


def test_a_chain_that_waited_while_its_job_became_somebody_elses_never_begins(bench: MemberBench) -> None:
    """As in a process that was stopped for longer than its lease, and goes on."""
    first, second, third = bench.visitors(OTHER_SITE)[0], *bench.visitors()[:2]
    bench.emulator.plan(latency={"seconds": 1.5})
    bench.note(first, site_id=OTHER_SITE)
    bench.take_in()
    bench.consumption(second)
    with bench.open_run("zombie", ZQYY_LLM_CONCURRENCY="1") as zombie:
        wait_until(lambda: bench.emulator.in_flight == 1 and bench.statuses() == ["running", "running"])
        bench.connection.execute(
            "UPDATE biz.ai_trigger_jobs SET status = 'pending', fencing_token = fencing_token + 1, worker_id = NULL, lease_expires_at = NULL"
            " WHERE member_id = %s",
            [second],
        )
        bench.emulator.plan()
        bench.drain(run_id="other")
        bench.add_visit(second)
        bench.wait_for_jobs(lambda statuses: statuses == [DONE, DONE])
        bench.note(third)
        bench.wait_for_jobs(lambda statuses: statuses == [DONE, DONE, DONE])
    assert {outcome.member_id for outcome in zombie.outcomes} == {first, third}
    assert {row["dagster_run_id"] for row in logs(bench.connection) if row["member_id"] == second} == {"other"}


def test_what_a_cancelled_run_had_paid_for_is_not_paid_again(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.consumption(member)
    bench.emulator.plan({"kind": "stall", "app": "app8_consolidation", "count": 1})
    with bench.open_run("run-1", ZQYY_STEP_TIMEOUT_SECONDS="3") as run:
        wait_until(lambda: bench.posts().get("app8") == 1)
        recover_cancelled_run(bench.database, build_budget_guard(run.engine.settings), "run-1")
        bench.emulator.plan()
        bench.add_visit(member)
        outcomes = bench.drain(run_id="run-2")
        run.engine.worker.stopping.set()
    assert ("app3", REUSED) in told(outcomes)
    assert len(bench.cached(AppType.CLUE)) == 1


def test_when_a_person_cancels_a_run_the_jobs_that_it_had_taken_for_others_go_back(bench: MemberBench) -> None:
    bench.consumption(bench.visitors()[0])
    bench.emulator.plan(latency={"seconds": 0.5})
    with bench.open_run("run-1") as run:
        wait_until(lambda: bench.emulator.in_flight == 1)
        recover_cancelled_run(bench.database, build_budget_guard(run.engine.settings), "run-1")
        wait_until(lambda: run.is_over)
    job = bench.job()
    assert (job["status"], job["attempt"], job["error_message"]) == (PENDING, 0, "运行被取消,等待重新执行")
    assert alerts(bench.connection) == []
    assert bench.emulator.posts == 1


class Process:
    """An event run in a process of its own, with a lease of a second."""

    def __init__(self, bench: MemberBench, run_id: str) -> None:
        environment = {app.app_id_setting: app_id(app.app_type) for app in APPS.values()}
        settings = settings_for(bench.database, bench.emulator, **environment)
        told_settings = {
            "ZQYY_DATABASE_URL": settings.required_database_url(),
            "DASHSCOPE_API_KEY": settings.required_api_key(),
            "DASHSCOPE_HTTP_BASE_URL": bench.emulator.running.base_url,
            "ZQYY_LEASE_SECONDS": "1",
            **environment,
        }
        command = [sys.executable, "-m", "zqyy_ai_tests.engine.event_run_process", json.dumps(told_settings), run_id]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running_process(bench: MemberBench, run_id: str) -> Iterator[Process]:
    process = Process(bench, run_id)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()


def test_what_a_killed_process_had_paid_for_is_kept_and_another_run_does_the_rest(bench: MemberBench) -> None:
    bench.consumption(bench.visitors()[0], bench.assistants()[0])
    bench.emulator.plan({"kind": "stall", "app": "app7_customer", "count": 1})
    with running_process(bench, "run-1") as process:
        wait_until(lambda: bench.posts().get("app7") == 1)
        process.kill()
    budget = build_budget_guard(bench.engine().settings)

    def is_recovered() -> bool:
        recover_lost_leases(bench.database, budget, max_attempts=3)
        return held_rows(bench.connection) == 0 and event_runs.open_runs(bench.connection) == []

    wait_until(is_recovered)
    job = bench.job()
    assert (job["status"], job["attempt"], job["error_message"]) == (PENDING, 1, "执行进程中断,等待重新执行")
    assert spent(bench.connection)[1] == 0
    # The data have moved on: the answers of the first round are the job's own all the same.
    bench.add_visit(job["member_id"])
    assert told(bench.drain(run_id="run-2")) == [
        ("app3", REUSED),
        ("app8", REUSED),
        *((name, ANSWERED) for name in ("app7", "app4", "app5")),
    ]
    job = bench.job()
    assert (job["status"], job["attempt"], job["run_id"]) == (DONE, 2, "run-2")
    assert bench.posts() == {"app3": 1, "app8": 1, "app7": 2, "app4": 1, "app5": 1}


def claim_and_die(bench: MemberBench, run_id: str, *, has_begun: bool = True) -> None:
    """A process that dies after it has taken a job, and, where its chain `has_begun`, the job's member."""
    worker_id, over = uuid4(), timedelta(seconds=-1)
    [job] = trigger_jobs.claim_member_jobs(
        bench.connection, run_id=run_id, worker_id=worker_id, lease=over, most=1, most_of_site=1, least_priority=0, held={}
    )
    if has_begun:
        step_claims.take(bench.connection, CHAIN_CLAIM, SITE, str(job.member_id), worker_id=worker_id, lease=over)


def test_a_job_whose_chain_had_not_begun_has_spent_no_attempt_when_its_process_dies(bench: MemberBench) -> None:
    """It can't be what the process died of."""
    bench.consumption(bench.visitors()[0])
    bench.take_in()
    budget = build_budget_guard(bench.engine().settings)
    for number in range(5):
        claim_and_die(bench, f"run-{number}", has_begun=False)
        recover_lost_leases(bench.database, budget, max_attempts=3)
    assert (bench.job()["status"], bench.job()["attempt"]) == (PENDING, 0)


def test_jobs_that_two_processes_died_with_are_tried_one_at_a_time_and_hold_up_nobody(bench: MemberBench) -> None:
    suspects, others = bench.visitors()[:3], bench.visitors()[3:6]
    for member in [*suspects, *others]:
        bench.note(member)
    bench.take_in()
    bench.connection.execute("UPDATE biz.ai_trigger_jobs SET attempt = 2 WHERE member_id = ANY(%s)", [suspects])
    bench.emulator.plan(latency={"seconds": 0.2})
    bench.drain()
    assert bench.statuses() == all_are(DONE, 6)
    assert [job["attempt"] for job in bench.jobs()] == [3, 3, 3, 1, 1, 1]
    calls = [row for row in logs(bench.connection) if row["member_id"] in suspects]
    assert all(former["finished_at"] <= later["created_at"] for former, later in pairwise(calls))
    assert max(row["created_at"] for row in logs(bench.connection) if row["member_id"] in others) < calls[-1]["created_at"]


def test_a_job_whose_processes_died_three_times_is_dead_with_an_alert_and_shows_at_its_trigger(bench: MemberBench) -> None:
    bench.consumption(bench.visitors()[0])
    bench.take_in()
    budget = build_budget_guard(bench.engine().settings)
    for attempt in (1, 2, 3):
        claim_and_die(bench, f"run-{attempt}")
        recover_lost_leases(bench.database, budget, max_attempts=3)
        assert (bench.job()["status"], bench.job()["attempt"]) == (PENDING if attempt < 3 else "dead", attempt)
    job = bench.job()
    assert bench.trigger(EventName.CONSUMPTION_SETTLED)["last_error"] == f"任务 {job['id']}(门店 {SITE}):执行进程多次中断,已放弃"
    assert alerts(bench.connection) == [("job_dead", 1)]
    bench.consumption(job["member_id"])
    bench.drain()
    assert bench.statuses() == ["dead", DONE], "it blocks no successor"
    assert bench.connection.execute("SELECT alert_status FROM biz.ai_alerts").fetchall() == [{"alert_status": "resolved"}]


# Jobs that are stuck

STUCK = timedelta(minutes=10)


def seem_stuck(bench: MemberBench) -> None:
    bench.connection.execute("UPDATE biz.ai_trigger_jobs SET progress_at = now() - interval '11 minutes' WHERE status = 'running'")


def test_a_job_without_progress_is_left_alone_while_its_call_is_under_way(bench: MemberBench) -> None:
    bench.note(bench.visitors()[0])
    bench.emulator.plan(latency={"seconds": 0.5})
    with bench.open_run() as run:
        wait_until(lambda: bench.emulator.in_flight == 1)
        seem_stuck(bench)
        assert recover_lost_leases(bench.database, build_budget_guard(run.engine.settings), max_attempts=3, stuck_after=STUCK).is_nothing
        bench.wait_for_jobs(lambda statuses: statuses == [DONE])


def test_a_job_without_progress_and_without_a_call_is_taken_from_its_run_which_then_sends_nothing_for_it(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.consumption(member)
    with bench.open_run("run-1", ZQYY_SITE_CALLS_BURST="1", ZQYY_SITE_CALLS_PER_MINUTE="30") as run:
        # The second call waits two seconds for its turn at the site's rate: as long as that, it hangs.
        wait_until(lambda: len(run.outcomes) == 1)
        wait_until(
            lambda: bench.connection.execute("SELECT 1 FROM biz.ai_step_claims WHERE cache_type LIKE 'app8%'").fetchone() is not None
        )
        seem_stuck(bench)
        budget = build_budget_guard(run.engine.settings)
        assert recover_lost_leases(bench.database, budget, max_attempts=3, stuck_after=STUCK).jobs_requeued == 1
        # Nobody else shall take it back before the first chain has found out.
        bench.connection.execute("UPDATE biz.ai_trigger_jobs SET not_before = now() + interval '1 hour'")
        wait_until(lambda: len(run.outcomes) == 2)
    assert run.outcomes[1].result.error_code == "claim_lost"
    job = bench.job()
    assert (bench.posts(), job["status"], job["attempt"], job["error_message"]) == ({"app3": 1}, PENDING, 1, "长时间没有进展,已收回")
    bench.make_due()
    bench.drain(run_id="run-2")
    assert (bench.job()["status"], bench.job()["attempt"]) == (DONE, 2)
    assert bench.posts() == {"app3": 1, "app8": 1, "app7": 1}


@pytest.mark.parametrize("status", list(JobStatus))
def test_only_pending_jobs_are_taken(bench: MemberBench, status: JobStatus) -> None:
    bench.note(bench.visitors()[0])
    bench.take_in()
    bench.connection.execute("UPDATE biz.ai_trigger_jobs SET status = %s", [status])
    assert bool(bench.drain()) is (status is JobStatus.PENDING)
