"""How members' jobs end, or go back to the queue for what time cures: told by what is left in the tables."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.events import EventName
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.engine.assembly import build_budget_guard
from zqyy_ai.engine.call_pauses import pause_calls, resume_calls
from zqyy_ai.engine.event_run import EventRun
from zqyy_ai.engine.job_ending import MOST_FAILED_ROUNDS, Ends, GoesBack, ending_of, write_ending
from zqyy_ai.engine.member_chain import MemberChain, work_of_job
from zqyy_ai.engine.recovery import recover_dead_run
from zqyy_ai.engine.step import StepStatus
from zqyy_ai.store import database, sites, trigger_jobs
from zqyy_ai_tests.engine.member_bench import FINAL, PASSING, SITE, MemberBench, codes, told
from zqyy_ai_tests.engine.workbench import alerts, breakers, held_rows, logs, wait_until

ANSWERED, REUSED, FAILED, REFUSED = StepStatus.ANSWERED, StepStatus.REUSED, StepStatus.FAILED, StepStatus.REFUSED


def now() -> datetime:
    return datetime.now(UTC)


def claimed_chain(bench: MemberBench) -> MemberChain:
    """The chain of the job that waits, claimed by a process that has not begun it."""
    bench.take_in()
    engine = bench.engine()
    worker = engine.worker
    [job] = trigger_jobs.claim_member_jobs(
        bench.connection,
        run_id="run-1",
        worker_id=worker.id,
        lease=worker.lease,
        most=1,
        most_of_site=1,
        least_priority=0,
        held={},
    )
    return MemberChain(engine, work_of_job(bench.connection, job, sites.get_site(bench.connection, SITE), "run-1"))


# Back to the queue


def test_chains_wait_for_an_open_breaker_without_spending_attempts_and_its_end_lets_them_go_on_at_once(bench: MemberBench) -> None:
    members = bench.visitors()[:3]
    bench.emulator.plan({**PASSING, "app": "app3_clue"})
    for member in members:
        bench.consumption(member)
    outcomes = bench.drain(ZQYY_BREAKER_FAILURES="1", ZQYY_LLM_CONCURRENCY="1")
    assert breakers(bench.connection)["app3_clue"][0] == "open"
    first = [outcome.result for outcome in outcomes if outcome.step.app_type is AppType.CLUE]
    assert [(result.status, result.error_code) for result in first] == [
        (FAILED, "ServiceUnavailable"),
        (REFUSED, "circuit_open"),
        (REFUSED, "circuit_open"),
    ]
    for job in bench.jobs():
        assert (job["status"], job["attempt"], job["sent_back_count"]) == ("pending", 0, 1)
        assert job["not_before"] > now() + timedelta(seconds=40)
    assert [kind for kind, _ in alerts(bench.connection)] == ["circuit_open", "failed"]
    assert bench.posts()["app3"] == 1

    bench.emulator.plan()
    bench.connection.execute("UPDATE biz.ai_breakers SET retry_at = now() WHERE app_type = 'app3_clue'")
    bench.connection.execute("UPDATE biz.ai_trigger_jobs SET not_before = NULL WHERE member_id = %s", [members[0]])
    bench.drain(run_id="run-2", ZQYY_BREAKER_FAILURES="1", ZQYY_LLM_CONCURRENCY="1")
    assert bench.statuses() == ["completed"] * 3, "the first one's call was the probe that ended it for all"
    assert {job["attempt"] for job in bench.jobs()} == {1}
    assert bench.posts()["app3"] == 4
    assert breakers(bench.connection) == {}


def test_a_chain_refused_by_the_rate_goes_on_later_and_is_not_asked_again_and_again_meanwhile(bench: MemberBench) -> None:
    bench.consumption(bench.visitors()[0])
    slow = {"ZQYY_SITE_CALLS_BURST": "1", "ZQYY_SITE_CALLS_PER_MINUTE": "1", "ZQYY_GUARD_WAIT_SECONDS": "0.1"}
    outcomes = bench.drain(bench.engine(**slow))
    assert told(outcomes) == [("app3", ANSWERED), ("app8", REFUSED), ("app7", REFUSED)]
    assert codes(outcomes) == {"app8": "rate_limited", "app7": "rate_limited"}
    job = bench.job()
    assert (job["status"], job["attempt"], job["sent_back_count"]) == ("pending", 0, 1)
    assert job["not_before"] > now() + timedelta(seconds=40)
    bench.make_due()
    assert told(bench.drain(run_id="run-2")) == [("app3", REUSED), ("app8", ANSWERED), ("app7", ANSWERED)]
    assert (bench.job()["status"], bench.job()["attempt"], bench.posts()["app3"]) == ("completed", 1, 1)


def test_a_pause_sends_the_chain_under_way_back_and_nothing_is_claimed_until_it_ends(bench: MemberBench) -> None:
    members = bench.visitors()[:2]
    bench.emulator.plan(latency={"seconds": 0.7})
    with bench.open_run(ZQYY_LLM_CONCURRENCY="1") as run:
        bench.consumption(members[0])
        wait_until(lambda: bench.emulator.in_flight == 1)
        pause_calls(bench.database, reason="核对账单", by="王店长")
        bench.wait_for_jobs(lambda statuses: statuses == ["pending"])
        bench.consumption(members[1])
        bench.wait_for_jobs(lambda statuses: statuses == ["pending"] * 2)
        assert told(run.outcomes) == [("app3", ANSWERED), ("app8", REFUSED), ("app7", REFUSED)]
        assert [(job["attempt"], job["sent_back_count"]) for job in bench.jobs()] == [(0, 1), (0, 0)]
        assert bench.emulator.posts == 1
        bench.emulator.plan()
        resume_calls(bench.database, by="王店长")
        bench.wait_for_jobs(lambda statuses: statuses == ["completed"] * 2)
    assert bench.posts() == {"app3": 2, "app8": 2, "app7": 2}, "what was paid before the pause was kept"
    assert len(logs(bench.connection)) == 3 + 6, "the pause was run into once"


def test_a_budget_refusal_waits_for_the_next_window_and_nothing_but_it_lets_the_job_go_on(bench: MemberBench) -> None:
    first, second = bench.visitors()[:2]
    limit = {"ZQYY_SITE_DAILY_TOKEN_LIMIT": "30000"}
    bench.note(first)
    bench.drain(bench.engine(**limit))
    bench.connection.execute("UPDATE biz.ai_budget_windows SET used_tokens = 30000 WHERE scope = 'site:1001' AND kind = 'day'")
    bench.consumption(second)
    outcomes = bench.drain(bench.engine(**limit), "run-2")
    assert codes(outcomes) == {"app3": "budget_exceeded:site_daily", "app7": "budget_exceeded:site_daily"}
    job = bench.jobs()[-1]
    assert (job["status"], job["attempt"], job["waits_for"]) == ("pending", 0, "budget")
    midnight = bench.connection.execute(
        "SELECT (date_trunc('day', now() AT TIME ZONE 'Asia/Shanghai') + interval '1 day') AT TIME ZONE 'Asia/Shanghai' AS at"
    ).fetchone()
    assert midnight == {"at": job["not_before"]}
    assert alerts(bench.connection) == [("budget_exceeded", 2)]
    assert trigger_jobs.hasten(bench.connection) == 0
    assert bench.drain(bench.engine(**limit), "run-3") == []

    bench.connection.execute("UPDATE biz.ai_budget_windows SET used_tokens = 0 WHERE scope = 'site:1001' AND kind = 'day'")
    bench.make_due()
    bench.drain(bench.engine(**limit), "run-4")
    job = bench.jobs()[-1]
    assert (job["status"], job["waits_for"], job["not_before"]) == ("completed", None, None)


def test_a_call_that_is_larger_than_a_whole_budget_is_for_no_window_to_cure(bench: MemberBench) -> None:
    bench.consumption(bench.visitors()[0])
    bench.drain(ZQYY_SITE_DAILY_TOKEN_LIMIT="100")
    assert (bench.job()["status"], bench.posts()) == ("failed", {})
    assert {kind for kind, _ in alerts(bench.connection)} == {"budget_exceeded", "failed"}


def test_a_step_that_fails_for_passing_causes_is_tried_in_so_many_rounds_and_no_more(bench: MemberBench) -> None:
    bench.emulator.plan({**PASSING, "app": "app7_customer"})
    bench.consumption(bench.visitors()[0])
    with bench.open_run():
        for rounds in range(1, MOST_FAILED_ROUNDS + 1):
            wait_until(lambda: [job["failed_rounds"] for job in bench.jobs()] == [rounds])  # noqa: B023 - it is called at once
            assert (bench.job()["status"], bench.job()["attempt"]) == ("pending", 0)
            bench.make_due()
        bench.wait_for_jobs(lambda statuses: statuses == ["partial"])
    assert bench.posts() == {"app3": 1, "app8": 1, "app7": 1 + MOST_FAILED_ROUNDS}
    job = bench.job()
    assert job["error_message"].startswith("1 个步骤未完成:ServiceUnavailable × 1;首个 app7_customer:")
    assert job["progress"]["calls"] == 3 + MOST_FAILED_ROUNDS
    found = bench.connection.execute("SELECT fingerprint, occurrences FROM biz.ai_alerts").fetchall()
    assert found == [{"fingerprint": f"failed|{SITE}|app7_customer|ServiceUnavailable", "occurrences": 1 + MOST_FAILED_ROUNDS}]


def test_an_outage_ends_no_job_however_long_it_lasts(bench: MemberBench) -> None:
    """The call that fails is each time the breaker's probe: the breaker is open, and DashScope's trouble is not the job's fault."""
    bench.emulator.plan({**PASSING, "app": "app3_clue"})
    bench.consumption(bench.visitors()[0])
    bench.take_in()
    bench.connection.execute("UPDATE biz.ai_trigger_jobs SET failed_rounds = %s", [MOST_FAILED_ROUNDS])
    outcomes = bench.drain(ZQYY_BREAKER_FAILURES="1")
    assert codes(outcomes) == {"app3": "ServiceUnavailable"}
    job = bench.job()
    assert (job["status"], job["attempt"], job["failed_rounds"]) == ("pending", 0, MOST_FAILED_ROUNDS + 1)
    assert job["not_before"] > now() + timedelta(seconds=40)


def test_refusals_count_as_no_round_of_failing(bench: MemberBench) -> None:
    bench.consumption(bench.visitors()[0])
    bench.take_in()
    bench.connection.execute("UPDATE biz.ai_trigger_jobs SET sent_back_count = 40")
    bench.connection.execute(
        "INSERT INTO biz.ai_breakers (app_type, state, failures, retry_at) VALUES ('app3_clue', 'open', 5, now() + interval '1 minute')"
    )
    bench.drain()
    job = bench.job()
    assert (job["status"], job["sent_back_count"], job["failed_rounds"]) == ("pending", 41, 0)


# Ends


def test_a_job_that_came_to_nothing_shows_at_its_trigger_until_one_completes(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.emulator.plan(FINAL)
    bench.consumption(member)
    bench.drain()
    job = bench.job()
    assert job["status"] == "failed"
    last_error = bench.trigger(EventName.CONSUMPTION_SETTLED)["last_error"]
    assert last_error == f"任务 {job['id']}(门店 {SITE}):{job['error_message']}"
    assert [kind for kind, _ in alerts(bench.connection)].count("failed") == 3, "each application's, and the job's"
    bench.note(member)
    bench.emulator.plan()
    bench.drain(run_id="run-2")
    assert bench.trigger(EventName.NOTE_CREATED)["last_error"] is None
    assert bench.trigger(EventName.CONSUMPTION_SETTLED)["last_error"] == last_error, "another trigger's job says nothing about it"
    bench.consumption(member)
    bench.drain(run_id="run-3")
    assert bench.jobs()[-1]["status"] == "completed"
    assert bench.trigger(EventName.CONSUMPTION_SETTLED)["last_error"] is None
    still_open = bench.connection.execute("SELECT fingerprint FROM biz.ai_alerts WHERE alert_status = 'open'").fetchall()
    assert {"fingerprint": f"failed|{SITE}|-|consumption"} not in still_open


def test_a_job_whose_payload_makes_no_chain_fails_alone(bench: MemberBench) -> None:
    bench.consumption(bench.visitors()[0])
    bench.consumption(bench.visitors()[1])
    bench.take_in()
    bench.connection.execute(
        "UPDATE biz.ai_trigger_jobs SET event_type = 'run_app', payload = '{\"apps\": [\"app9_fortune\"]}' WHERE id = (SELECT min(id) FROM biz.ai_trigger_jobs)"
    )
    bench.drain()
    first, second = bench.jobs()
    assert (first["status"], first["error_message"]) == ("failed", "任务无法执行:任务没有指明会员应用:['app9_fortune']")
    assert second["status"] == "completed"
    assert alerts(bench.connection) == [("failed", 1)]


def test_a_job_whose_site_was_deleted_meanwhile_waits_and_stops_nobody(bench: MemberBench) -> None:
    bench.consumption(bench.visitors()[0])
    bench.consumption(bench.visitors(1002)[0], site_id=1002)
    bench.take_in()
    bench.connection.execute("DELETE FROM biz.sites WHERE site_id = %s", [SITE])
    bench.drain()
    assert bench.statuses() == ["pending", "completed"]


def test_data_that_break_the_contract_fail_the_job_with_the_row_that_breaks_it(bench: MemberBench) -> None:
    member, sound = bench.visitors()[:2]
    bench.add_visit(member)
    bench.connection.execute("UPDATE demo_dws.visits SET tables = '{}' WHERE business_date = '2026-04-21'")
    bench.consumption(member)
    bench.consumption(sound)
    bench.drain()
    first, second = bench.jobs()
    assert (first["status"], second["status"]) == ("failed", "completed")
    assert first["error_message"].startswith("SourceContractError: ai_source.visits, site 1001, member")
    assert alerts(bench.connection) == [("failed", 1)]
    assert held_rows(bench.connection) == 0


@pytest.mark.parametrize(
    ("failure", "wanted"),
    [
        (psycopg.OperationalError("gone"), GoesBack),
        (psycopg.InterfaceError("gone"), GoesBack),
        (ValueError("a bug"), Ends),
    ],
)
def test_a_chain_that_could_not_go_on_goes_back_for_a_lost_database_and_ends_for_a_bug(
    bench: MemberBench, failure: Exception, wanted: type[Any]
) -> None:
    bench.consumption(bench.visitors()[0])
    chain = claimed_chain(bench)
    chain.failure = failure
    ending = ending_of(chain, now=now(), is_any_held=lambda: False)
    assert isinstance(ending, wanted)
    write_ending(bench.connection, chain, ending)
    job = bench.job()
    if isinstance(ending, Ends):
        assert (job["status"], job["error_message"]) == ("failed", "ValueError: a bug")
    else:
        assert (job["status"], job["attempt"], job["error_message"]) == ("pending", 0, "数据库连接中断,等待重新执行")


def test_a_job_that_somebody_else_has_got_meanwhile_is_left_alone(bench: MemberBench) -> None:
    bench.consumption(bench.visitors()[0])
    chain = claimed_chain(bench)
    bench.connection.execute("UPDATE biz.ai_trigger_jobs SET fencing_token = fencing_token + 1, run_id = 'run-2'")
    before = bench.job()
    write_ending(bench.connection, chain, Ends(JobStatus.FAILED, "x"))
    write_ending(bench.connection, chain, GoesBack(now(), "x"))
    assert bench.job() == before
    assert alerts(bench.connection) == []
    assert bench.trigger(EventName.CONSUMPTION_SETTLED)["last_error"] is None


def test_a_chain_past_its_time_begins_no_step_that_would_be_cut_off_and_goes_on_in_another_round(bench: MemberBench) -> None:
    bench.emulator.plan(latency={"seconds": 1.0})
    bench.consumption(bench.visitors()[0])
    outcomes = bench.drain(ZQYY_CHAIN_TIMEOUT_SECONDS="1.4")
    assert told(outcomes) == [
        *(("app3", ANSWERED), ("app8", REFUSED), ("app7", REFUSED)),
        *(("app3", REUSED), ("app8", ANSWERED), ("app7", REFUSED)),
        *(("app3", REUSED), ("app8", REUSED), ("app7", ANSWERED)),
    ]
    assert {outcome.result.error_code for outcome in outcomes if outcome.result.status is REFUSED} == {"chain_timeout"}
    assert bench.posts() == {"app3": 1, "app8": 1, "app7": 1}
    job = bench.job()
    assert (job["status"], job["attempt"], job["sent_back_count"]) == ("completed", 1, 2)


def test_a_job_goes_back_when_nobody_can_say_whether_its_application_is_held(
    own_bench: MemberBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rounds of failing are used up, but the breakers can't be read: it is not ended for trouble of our database."""
    bench = own_bench
    monkeypatch.setattr(database, "_PATIENT_SECONDS", 0.2)
    bench.connection.execute("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET lock_timeout = 100', current_database()); END $$")
    bench.emulator.plan({**PASSING, "app": "app7_customer"})
    bench.consumption(bench.visitors()[0])
    bench.take_in()
    bench.connection.execute("UPDATE biz.ai_trigger_jobs SET failed_rounds = %s", [MOST_FAILED_ROUNDS])
    outcomes = EventRun(bench.engine(), "run-1").outcomes()
    with bench.woken_often(), psycopg.connect(bench.database.url) as other:
        for outcome in outcomes:
            if outcome.step.app_type is AppType.CUSTOMER:
                other.execute("LOCK TABLE biz.ai_breakers")
    job = bench.job()
    assert (job["status"], job["attempt"], job["failed_rounds"]) == ("pending", 0, MOST_FAILED_ROUNDS + 1)


# Ends that the database refuses


def test_an_error_whose_words_no_text_column_takes_ends_its_job_like_any_other(bench: MemberBench) -> None:
    bench.emulator.plan({**FINAL, "app": "app6_note", "message": "bad\0thing", "code": "Broken\0Code"})
    bench.note(bench.visitors()[0])
    bench.consumption(bench.visitors()[1])
    bench.drain()
    first, second = bench.jobs()
    assert (first["status"], second["status"]) == ("failed", "completed")
    assert "badthing" in first["error_message"]
    assert "badthing" in str(bench.trigger(EventName.NOTE_CREATED)["last_error"])
    assert held_rows(bench.connection) == 0


@pytest.mark.parametrize("ending", [Ends(JobStatus.FAILED, "bad\ud83d thing\0"), GoesBack(now(), "bad\ud83d thing\0")])
def test_half_a_surrogate_pair_and_a_nul_are_left_out_of_what_a_job_says(bench: MemberBench, ending: Ends | GoesBack) -> None:
    bench.consumption(bench.visitors()[0])
    write_ending(bench.connection, claimed_chain(bench), ending)
    assert bench.job()["error_message"] == "bad? thing"


@pytest.mark.parametrize(
    "narrower",
    [
        "ALTER TABLE biz.trigger_jobs ALTER COLUMN last_error TYPE varchar(50)",
        "ALTER TABLE biz.trigger_jobs ADD CHECK (last_error IS NULL)",
        "ALTER TABLE biz.ai_alerts ADD CHECK (message NOT LIKE '任务%')",
        "ALTER TABLE biz.ai_trigger_jobs ADD CHECK (length(error_message) < 50)",
    ],
)
def test_a_table_with_a_rule_of_somebody_elses_takes_no_jobs_end_away(own_bench: MemberBench, narrower: str) -> None:
    bench = own_bench
    bench.connection.execute(narrower.encode())
    bench.emulator.plan({**FINAL, "app": "app6_note"})
    bench.note(bench.visitors()[0])
    bench.consumption(bench.visitors()[1])
    bench.drain()
    assert bench.statuses() == ["failed", "completed"]
    assert bench.jobs()[0]["error_message"]
    assert held_rows(bench.connection) == 0


def test_a_job_that_the_database_lets_nobody_end_stops_no_other_and_spends_its_attempts(own_bench: MemberBench) -> None:
    bench = own_bench
    bench.connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON biz.ai_trigger_jobs FOR EACH ROW"
        " WHEN (new.status = 'completed' AND new.event_type = 'note_created') EXECUTE FUNCTION refuse()"
    )
    bench.note(bench.visitors()[0])
    bench.consumption(bench.visitors()[1])
    for attempt in (1, 2, 3):
        engine = bench.engine()
        bench.drain(engine, f"run-{attempt}")
        stuck, other = bench.jobs()
        assert (stuck["status"], stuck["attempt"], other["status"]) == ("running", attempt, "completed")
        recover_dead_run(bench.database, build_budget_guard(engine.settings), f"run-{attempt}", max_attempts=3)
    assert bench.statuses() == ["dead", "completed"]
    assert bench.posts() == {"app3": 1, "app6": 1, "app7": 1, "app8": 2}, "what was paid once is not paid again"
