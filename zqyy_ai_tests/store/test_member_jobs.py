"""Members' jobs: who gets which, in which order, and what looking for them costs."""

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from zqyy_ai.domain.events import EventType
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.domain.runtime_context import LIVE
from zqyy_ai.store import run_logs, step_claims, trigger_jobs
from zqyy_ai.store.database import Connection, Database
from zqyy_ai.store.queries import named_queries
from zqyy_ai.store.run_logs import RunSubject
from zqyy_ai.store.trigger_jobs import NewJob, TriggerJob

TODAY = date(2025, 6, 18)
MINUTE, STUCK = timedelta(minutes=1), timedelta(minutes=10)
WORKER = uuid4()
LEAST = -1000


@pytest.fixture(autouse=True)
def three_sites(connection: Connection) -> None:
    connection.execute("INSERT INTO biz.sites (site_id) VALUES (1001), (1002), (1003)")


def member_job(site_id: int, member_id: int, *, event_type: EventType = EventType.CONSUMPTION, **more: Any) -> NewJob:
    key = f"{event_type.value}|{site_id}|{member_id}|-|{TODAY}|live"
    return NewJob(event_type, site_id, TODAY, key, "app3→app8→app7", {"site_id": site_id}, LIVE, member_id=member_id, **more)


def add(connection: Connection, site_id: int, *members: int, **more: Any) -> list[int]:
    return trigger_jobs.add_all(connection, [member_job(site_id, member_id, **more) for member_id in members])


def claim(
    connection: Connection,
    *,
    most: int = 10,
    most_of_site: int = 10,
    least_priority: int = LEAST,
    held: Mapping[int, int] | None = None,
    run_id: str = "run-1",
) -> list[TriggerJob]:
    return trigger_jobs.claim_member_jobs(
        connection,
        run_id=run_id,
        worker_id=WORKER,
        lease=MINUTE,
        most=most,
        most_of_site=most_of_site,
        least_priority=least_priority,
        held=held or {},
    )


def ids(jobs: Iterable[TriggerJob]) -> list[int]:
    return [job.id for job in jobs]


def sites(jobs: Iterable[TriggerJob]) -> list[int]:
    return sorted(job.site_id for job in jobs)


def set_all(connection: Connection, change: str, *parameters: object) -> None:
    connection.execute(f"UPDATE biz.ai_trigger_jobs SET {change}".encode(), parameters)


def test_a_claimed_job_is_its_runs_and_nobody_elses(connection: Connection) -> None:
    [job_id] = add(connection, 1001, 7)
    [job] = claim(connection)
    assert (job.id, job.status, job.attempt, job.run_id, job.member_id) == (job_id, JobStatus.RUNNING, 1, "run-1", 7)
    assert job.started_at is not None and job.fencing_token == 1
    assert claim(connection) == []
    told = connection.execute("SELECT payload FROM biz.ai_live_events WHERE event_type = 'job_updated' ORDER BY id").fetchall()
    assert [row["payload"]["status"] for row in told] == ["pending", "running"]


def test_sites_get_their_jobs_in_turn_whoever_was_first(connection: Connection) -> None:
    first, *_ = add(connection, 1001, *range(1, 51))
    [of_another] = add(connection, 1002, 1)
    [of_a_third] = add(connection, 1003, 1)
    assert set(ids(claim(connection, most=3))) == {first, of_another, of_a_third}
    add(connection, 1002, 2, 3)
    assert sites(claim(connection, most=5)) == [1001, 1001, 1001, 1002, 1002]


def test_a_site_gets_no_more_than_its_room_beside_what_it_holds_already(connection: Connection) -> None:
    for site_id in (1001, 1002, 1003):
        add(connection, site_id, *range(1, 10))
    assert sites(claim(connection, most=100, most_of_site=3, held={1001: 2, 1002: 3, 9999: 1})) == [1001, 1003, 1003, 1003]
    assert claim(connection, most=100, most_of_site=1, held={1001: 5, 1002: 1, 1003: 1}) == []


def test_the_more_urgent_comes_first_then_the_older_and_below_the_least_priority_nothing(connection: Connection) -> None:
    [later] = add(connection, 1001, 1, priority=-10)
    [old, young] = add(connection, 1001, 2, 3)
    [urgent] = add(connection, 1001, 4, priority=10)
    assert ids(claim(connection, most=1)) == [urgent]
    assert ids(claim(connection, least_priority=0)) == [old, young]
    assert claim(connection, least_priority=0) == []
    assert ids(claim(connection)) == [later]


def test_of_one_member_one_job_at_a_time_the_oldest_first(connection: Connection) -> None:
    jobs = add(connection, 1001, 7, 7, 7)
    [of_another_site] = add(connection, 1002, 7)
    assert ids(claim(connection)) == [jobs[0], of_another_site]
    assert claim(connection) == []
    running = trigger_jobs.get(connection, jobs[0])
    assert running is not None and trigger_jobs.finish(connection, running, JobStatus.FAILED, "x")
    assert ids(claim(connection)) == [jobs[1]]


def test_a_members_more_urgent_job_goes_ahead_and_one_that_waits_for_its_moment_holds_up_none(connection: Connection) -> None:
    [old, young] = add(connection, 1001, 7, 7)
    [urgent] = add(connection, 1001, 7, priority=10, event_type=EventType.RUN_APP)
    [job] = claim(connection)
    assert job.id == urgent
    trigger_jobs.finish(connection, job, JobStatus.COMPLETED)
    connection.execute("UPDATE biz.ai_trigger_jobs SET not_before = clock_timestamp() + interval '1 hour' WHERE id = %s", [old])
    assert ids(claim(connection)) == [young]


def test_a_backfill_of_a_member_waits_while_events_of_the_member_do_and_is_not_in_their_way(connection: Connection) -> None:
    [backfill] = add(connection, 1001, 7, event_type=EventType.BACKFILL, priority=-10)
    [event] = add(connection, 1001, 7)
    [job] = claim(connection)
    assert job.id == event
    assert claim(connection) == []
    trigger_jobs.finish(connection, job, JobStatus.COMPLETED)
    assert ids(claim(connection)) == [backfill]


@pytest.mark.parametrize(
    "change",
    [
        "not_before = clock_timestamp() + interval '1 minute'",
        "event_type = 'dws_completed'",
        "dedup_key = NULL",
        "is_own_run = true",
        "site_id = 4711",
        *(f"status = '{status}'" for status in ("running", "completed", "failed", "partial", "dead")),
    ],
)
def test_what_nobody_may_take_now_is_neither_claimed_nor_asked_for(connection: Connection, change: str) -> None:
    add(connection, 1001, 7)
    assert trigger_jobs.has_member_work(connection)
    set_all(connection, change)
    assert not trigger_jobs.has_member_work(connection)
    assert claim(connection) == []


def test_a_closed_sites_jobs_wait_until_it_is_open_again(connection: Connection) -> None:
    add(connection, 1001, 7)
    connection.execute("UPDATE biz.sites SET is_active = false WHERE site_id = 1001")
    assert claim(connection) == []
    assert not trigger_jobs.has_member_work(connection)
    connection.execute("UPDATE biz.sites SET is_active = true WHERE site_id = 1001")
    assert trigger_jobs.has_member_work(connection)
    assert len(claim(connection)) == 1


def test_a_job_sent_back_is_due_at_its_moment_and_says_meanwhile_what_for(connection: Connection) -> None:
    add(connection, 1001, 7)
    [job] = claim(connection)
    trigger_jobs.send_back(connection, job, datetime.now(UTC) + MINUTE, "熔断器已打开", {"app3_clue": "reply_invalid"})
    assert not trigger_jobs.has_member_work(connection)
    set_all(connection, "not_before = clock_timestamp()")
    [again] = claim(connection)
    assert (again.id, again.attempt, again.sent_back_count, again.given_up) == (job.id, 1, 1, {"app3_clue": "reply_invalid"})
    assert (again.not_before, again.error_message) == (None, None)


def test_the_end_of_a_hold_lets_jobs_go_on_at_once_but_those_that_wait_for_a_budget_window(connection: Connection) -> None:
    add(connection, 1001, 7, 8)
    held, poor = claim(connection)
    for job, waits_for_budget in ((held, False), (poor, True)):
        trigger_jobs.send_back(connection, job, datetime.now(UTC) + MINUTE, "x", {}, waits_for_budget=waits_for_budget)
    assert trigger_jobs.hasten(connection) == 1
    assert ids(claim(connection)) == [held.id]


def test_jobs_are_hastened_in_the_order_in_which_everybody_locks_them(database: Database) -> None:
    with database.autocommit() as connection:
        first, second = add(connection, 1001, 1, 2)
        for job in claim(connection):
            trigger_jobs.send_back(connection, job, datetime.now(UTC) + MINUTE, "x", {})
        # The table holds the second one first now.
        connection.execute("UPDATE biz.ai_trigger_jobs SET priority = priority WHERE id = %s", [first])
    with ThreadPoolExecutor() as threads, database.transaction() as holder:
        holder.execute("SELECT FROM biz.ai_trigger_jobs WHERE id = %s FOR UPDATE", [first])
        hastening = threads.submit(database.patiently, trigger_jobs.hasten)
        with database.autocommit() as connection:
            waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            while connection.execute(waiting).fetchone() is None:
                pass
            connection.execute("SELECT FROM biz.ai_trigger_jobs WHERE id = %s FOR UPDATE NOWAIT", [second])
        holder.execute("SELECT")
    assert hastening.result() == 2


def test_two_who_claim_at_once_never_take_the_same_job_and_wait_for_nothing(database: Database) -> None:
    with database.autocommit() as connection:
        wanted = set(add(connection, 1001, *range(1, 7)))
    with database.transaction() as first, database.transaction() as second:
        second.execute("SET LOCAL lock_timeout = '2s'")
        taken = [ids(claim(first, most=2)), ids(claim(second, most=2, run_id="run-2")), ids(claim(first, most=2))]
    assert [len(part) for part in taken] == [2, 2, 2]
    assert {job_id for part in taken for job_id in part} == wanted


def test_many_claimers_share_out_all_jobs_without_a_job_or_a_member_twice(database: Database) -> None:
    with database.autocommit() as connection:
        wanted = [job_id for site_id in (1001, 1002, 1003) for job_id in add(connection, site_id, *range(1, 41))]
        again = add(connection, 1001, *range(1, 41))
    claimers = 8
    together = threading.Barrier(claimers)

    def take_all(number: int) -> list[int]:
        taken: list[int] = []
        together.wait()
        while jobs := database.patiently(lambda connection: claim(connection, most=3, run_id=f"run-{number}")):
            taken += ids(jobs)
        return taken

    with ThreadPoolExecutor(claimers) as threads:
        taken = [job_id for part in threads.map(take_all, range(claimers)) for job_id in part]
    assert len(taken) == len(set(taken))
    assert not set(taken) & set(again)
    with database.autocommit() as connection:
        running = connection.execute("SELECT site_id, member_id FROM biz.ai_trigger_jobs WHERE status = 'running'").fetchall()
    assert len({(row["site_id"], row["member_id"]) for row in running}) == len(running) == len(wanted)


def test_jobs_are_claimed_by_the_attempts_that_they_have_spent(connection: Connection) -> None:
    fresh, tried = add(connection, 1001, 7, 8)
    connection.execute("UPDATE biz.ai_trigger_jobs SET attempt = 2 WHERE id = %s", [tried])

    def claim_with(attempts: range) -> list[int]:
        return ids(
            trigger_jobs.claim_member_jobs(
                connection,
                run_id="run-1",
                worker_id=WORKER,
                lease=MINUTE,
                most=10,
                most_of_site=10,
                least_priority=LEAST,
                held={},
                attempts=attempts,
            )
        )

    assert claim_with(range(2)) == [fresh]
    assert claim_with(range(2, 100)) == [tried]


def test_a_process_that_died_costs_an_attempt_of_those_jobs_alone_whose_chain_had_begun(connection: Connection) -> None:
    """What a process dies of is one of the chains that it was at, not what waited in it."""
    add(connection, 1001, 7, 8)
    begun, waiting = claim(connection)
    assert step_claims.take(connection, "member_chain", 1001, str(begun.member_id), worker_id=WORKER, lease=MINUTE)
    lost = {job.id: job for job in trigger_jobs.give_up_lost(connection, max_attempts=1, dead_run_id="run-1")}
    assert (lost[begun.id].status, lost[begun.id].attempt) == (JobStatus.DEAD, 1)
    assert (lost[waiting.id].status, lost[waiting.id].attempt) == (JobStatus.PENDING, 0)


def test_who_cancels_a_run_ends_its_own_job_and_sends_back_those_of_others(connection: Connection) -> None:
    add(connection, 1001, 7)
    [event] = claim(connection)
    new = member_job(1001, 8, event_type=EventType.RUN_APP)
    own = trigger_jobs.add_running(connection, new, run_id="run-1", worker_id=WORKER, lease=MINUTE)
    told = {job.id: job for job in trigger_jobs.cancel_of_run(connection, "run-1")}
    assert (told[own.id].status, told[own.id].error_message) == (JobStatus.FAILED, "运行被取消")
    assert (told[event.id].status, told[event.id].attempt) == (JobStatus.PENDING, 0)
    assert ids(claim(connection)) == [event.id]


def test_a_claim_whose_confirmation_got_lost_is_found_again(connection: Connection) -> None:
    add(connection, 1001, 7, 8, 9)
    known, *lost = claim(connection)
    found = trigger_jobs.held_by_worker(connection, run_id="run-1", worker_id=WORKER, known=[known.id])
    assert sorted(ids(found)) == sorted(ids(lost))
    assert trigger_jobs.held_by_worker(connection, run_id="run-1", worker_id=uuid4(), known=[]) == []
    assert trigger_jobs.held_by_worker(connection, run_id="run-2", worker_id=WORKER, known=[]) == []


def test_a_retrys_ancestors_are_itself_its_job_and_what_that_retried(connection: Connection) -> None:
    [first] = add(connection, 1001, 7)
    [second] = add(connection, 1001, 7, retry_of=first)
    [third] = add(connection, 1001, 7, retry_of=second)
    found = trigger_jobs.ancestry(connection, third)
    oldest = trigger_jobs.get(connection, first)
    assert oldest is not None
    assert (found.job_ids, found.first_created_at) == ((third, second, first), oldest.created_at)
    open_retry = trigger_jobs.open_retry_of(connection, first)
    assert open_retry is not None and open_retry.id == second
    set_all(connection, "status = 'failed'")
    assert trigger_jobs.open_retry_of(connection, first) is None


def test_a_batch_is_told_by_the_statuses_of_its_jobs_with_what_was_spent(connection: Connection) -> None:
    batch_id = uuid4()
    add(connection, 1001, 1, 2, 3, batch_id=batch_id, event_type=EventType.BACKFILL)
    add(connection, 1001, 4)
    done, waiting, _ = claim(connection, most=3)
    trigger_jobs.record_progress(connection, done, {"done": 2, "reused": 1, "failed": 0, "calls": 3, "tokens": 900})
    trigger_jobs.finish(connection, done, JobStatus.COMPLETED)
    trigger_jobs.send_back(connection, waiting, datetime.now(UTC) + MINUTE, "限流", {})
    shares = {share.status: share for share in trigger_jobs.batch_shares(connection, batch_id)}
    assert {status: share.jobs for status, share in shares.items()} == {
        JobStatus.COMPLETED: 1,
        JobStatus.PENDING: 1,
        JobStatus.RUNNING: 1,
    }
    completed = shares[JobStatus.COMPLETED]
    assert (completed.done, completed.reused, completed.calls, completed.tokens) == (2, 1, 3, 900)
    assert shares[JobStatus.PENDING].error_message == "限流"
    assert trigger_jobs.batch_shares(connection, uuid4()) == []


def test_the_newest_jobs_are_listed_by_status_site_and_member(connection: Connection) -> None:
    first, second = add(connection, 1001, 7, 8)
    [third] = add(connection, 1002, 7)
    connection.execute("UPDATE biz.ai_trigger_jobs SET status = 'failed' WHERE id = %s", [second])
    connection.execute("INSERT INTO biz.ai_trigger_jobs (event_type, site_id, member_id) VALUES ('consumption', 1001, 7)")  # not ours
    assert ids(trigger_jobs.newest(connection, limit=10)) == [third, second, first]
    assert ids(trigger_jobs.newest(connection, limit=1)) == [third]
    assert ids(trigger_jobs.newest(connection, statuses=[JobStatus.FAILED], limit=10)) == [second]
    assert ids(trigger_jobs.newest(connection, site_id=1001, member_id=7, limit=10)) == [first]


def test_members_of_recent_jobs_are_known_once_each(connection: Connection) -> None:
    add(connection, 1001, 7, 7, 8)
    [old] = add(connection, 1002, 9)
    connection.execute("UPDATE biz.ai_trigger_jobs SET created_at = created_at - interval '200 days' WHERE id = %s", [old])
    assert trigger_jobs.members_with_jobs(connection, datetime.now(UTC) - timedelta(days=180)) == {(1001, 7), (1001, 8)}


def test_twenty_thousand_waiting_jobs_are_looked_for_by_index(connection: Connection) -> None:
    """Every look of every run and every sensor asks this: by reading the whole table they would hold each other up."""
    connection.execute(
        "INSERT INTO biz.ai_trigger_jobs (event_type, site_id, member_id, payload, status, dedup_key, business_date)"
        " SELECT 'consumption', 1001 + n % 3, n, '{}', 'pending', 'consumption|' || n, '2025-06-18' FROM generate_series(1, 20000) AS n"
    )
    connection.execute(
        "INSERT INTO biz.ai_trigger_jobs (event_type, site_id, member_id, payload, status, dedup_key, business_date)"
        " SELECT 'consumption', 1001 + n % 3, n, '{}', 'completed', 'consumption|' || n, '2025-06-17' FROM generate_series(1, 20000) AS n"
    )
    connection.execute("ANALYZE biz.ai_trigger_jobs, biz.sites")
    questions: dict[str, dict[str, Any]] = {
        "claim_member_jobs": {
            "run_id": "run-1",
            "worker_id": WORKER,
            "lease": MINUTE,
            "most": 64,
            "most_of_site": 64,
            "least_priority": 0,
            "least_attempt": 0,
            "most_attempt": 1,
            "site_ids": [1001],
            "chains": [3],
        },
        "has_member_work": {},
        "standing": {"dedup_keys": [f"consumption|{number}" for number in range(1, 500)]},
    }
    for name, parameters in questions.items():
        explained = connection.execute(b"EXPLAIN " + named_queries("trigger_jobs")[name], parameters).fetchall()
        plan = "\n".join(row["QUERY PLAN"] for row in explained)
        assert "Seq Scan on ai_trigger_jobs" not in plan, plan
        assert "Index" in plan
    assert len(claim(connection, most=64, most_of_site=64)) == 64


def stuck(connection: Connection, job: TriggerJob) -> list[TriggerJob]:
    """What is given up after the job has shown no progress for longer than that."""
    connection.execute("UPDATE biz.ai_trigger_jobs SET progress_at = clock_timestamp() - interval '11 minutes' WHERE id = %s", [job.id])
    return trigger_jobs.give_up_stuck(connection, max_attempts=3, stuck_after=STUCK)


def test_a_job_without_progress_is_given_up_though_its_lease_lives_and_its_zombie_holds_nothing_more(connection: Connection) -> None:
    add(connection, 1001, 7, 77)
    job, other = claim(connection)
    for cache_type, target_id in (("member_chain", "7"), ("app4_analysis", "12_7"), ("app3_clue", "77"), ("app4_analysis", "7_77")):
        assert step_claims.take(connection, cache_type, 1001, target_id, worker_id=WORKER, lease=MINUTE)

    [given_up] = stuck(connection, job)

    assert (given_up.id, given_up.status, given_up.error_message) == (job.id, JobStatus.PENDING, "长时间没有进展,已收回")
    left = connection.execute("SELECT target_id FROM biz.ai_step_claims").fetchall()
    assert {row["target_id"] for row in left} == {"7_77", "77"}
    assert not trigger_jobs.finish(connection, job, JobStatus.COMPLETED)
    assert not trigger_jobs.record_progress(connection, job, {"done": 1})
    assert trigger_jobs.record_progress(connection, other, {"done": 1})


def test_a_job_that_stays_stuck_is_dead_in_the_end_and_a_persons_own_run_fails_at_once(connection: Connection) -> None:
    add(connection, 1001, 7)
    ends = [stuck(connection, job)[0].status for _ in range(3) for job in claim(connection)]
    assert ends == [JobStatus.PENDING, JobStatus.PENDING, JobStatus.DEAD]
    own = trigger_jobs.add_running(
        connection, member_job(1001, 8, event_type=EventType.RUN_APP), run_id="run-1", worker_id=WORKER, lease=MINUTE
    )
    assert [job.status for job in stuck(connection, own)] == [JobStatus.FAILED]


def test_a_job_that_waits_for_a_turn_within_its_worker_is_not_stuck(connection: Connection) -> None:
    add(connection, 1001, 7)
    [job] = claim(connection)
    connection.execute("UPDATE biz.ai_trigger_jobs SET progress_at = clock_timestamp() - interval '11 minutes'")
    trigger_jobs.touch(connection, [job.id], uuid4())
    assert connection.execute("SELECT FROM biz.ai_trigger_jobs WHERE progress_at > clock_timestamp() - interval '1 minute'").rowcount == 0
    trigger_jobs.touch(connection, [job.id], WORKER)
    assert trigger_jobs.give_up_stuck(connection, max_attempts=3, stuck_after=STUCK) == []


def test_a_job_with_a_call_under_way_is_not_stuck_until_the_calls_lease_is_over(connection: Connection) -> None:
    add(connection, 1001, 7)
    [job] = claim(connection)
    log_id = run_logs.start(connection, RunSubject("app3_clue", 1001, "7", "event", trigger_job_id=job.id), "")
    connection.execute(
        "INSERT INTO biz.ai_budget_reservations (token, site_id, app_type, tokens, chain_day, site_day, worker_id, sent_at, lease_expires_at,"
        " run_log_id) VALUES (gen_random_uuid(), 1001, 'app3_clue', 1, '2025-06-18', '2025-06-18', %s, clock_timestamp(),"
        " clock_timestamp() + interval '1 minute', %s)",
        [WORKER, log_id],
    )
    assert stuck(connection, job) == []
    connection.execute("UPDATE biz.ai_budget_reservations SET lease_expires_at = clock_timestamp() - interval '1 second'")
    assert [given_up.id for given_up in stuck(connection, job)] == [job.id]
