"""Members' events on their way from the inbox to jobs: what is one job, what is several, and what is none."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.business_clock import HandClock, SystemClock
from zqyy_ai.domain.events import EventName
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.domain.runtime_context import LIVE, RuntimeContext, RuntimeMode
from zqyy_ai.engine.intake import LARGEST_PAYLOAD_BYTES, IntakeCount, take_in
from zqyy_ai.store import events, trigger_jobs
from zqyy_ai.store.trigger_jobs import TriggerJob
from zqyy_ai_tests.engine.member_bench import CLOSED_SITE, OTHER_SITE, SITE, MemberBench
from zqyy_ai_tests.engine.workbench import alerts, wait_until

CONSUMPTION, NOTE, TASK = EventName.CONSUMPTION_SETTLED, EventName.NOTE_CREATED, EventName.TASK_ASSIGNED
MEMBER, ASSISTANT = 7, 12


def taken(bench: MemberBench, event_id: int) -> int:
    """Takes the event in; the job that stands for it."""
    bench.take_in()
    [job_id] = [event["trigger_job_id"] for event in bench.inbox() if event["id"] == event_id]
    assert isinstance(job_id, int)
    return job_id


def start(bench: MemberBench) -> TriggerJob:
    [job] = trigger_jobs.claim_member_jobs(
        bench.connection,
        run_id="run-1",
        worker_id=uuid4(),
        lease=timedelta(minutes=1),
        most=1,
        most_of_site=1,
        least_priority=0,
        held={},
    )
    return job


def end(bench: MemberBench, status: JobStatus) -> None:
    assert trigger_jobs.finish(bench.connection, start(bench), status)


# What becomes a job


def test_a_consumption_becomes_a_job_that_keeps_what_nobody_of_ours_knows(bench: MemberBench) -> None:
    payload = {"site_id": SITE, "member_id": MEMBER, "connector_type": "till-9", "单号": "A1", "行": [1, {"x": None}]}
    bench.fire(CONSUMPTION, payload)
    assert bench.take_in() == IntakeCount(accepted=1)
    job, [event] = bench.job(), bench.inbox()
    assert (job["event_type"], job["site_id"], job["member_id"], job["status"]) == ("consumption", SITE, MEMBER, "pending")
    assert (job["payload"], job["connector_type"], job["is_forced"]) == (payload, "till-9", False)
    today = LIVE.business_date(SystemClock().now())
    assert (job["business_date"], job["dedup_key"]) == (today, f"consumption|{SITE}|{MEMBER}|-|{today}|live")
    assert (event["trigger_job_id"], event["rejected_reason"]) == (job["id"], None)
    assert event["handled_at"] is not None


def test_what_we_keep_in_payloads_ourselves_no_caller_can_set(bench: MemberBench) -> None:
    bench.consumption(MEMBER, given_up={"app3_clue": "x"}, done_by_job=1, etl_run_ids=["x"])
    bench.take_in()
    assert bench.job()["payload"] == {"site_id": SITE, "member_id": MEMBER}


@pytest.mark.parametrize(
    ("name", "more", "chain"),
    [
        (CONSUMPTION, {}, "app3→app8→app7"),
        (CONSUMPTION, {"has_assistant": True, "assistant_id": ASSISTANT}, "app3→app8→app7→app4→app5"),
        (CONSUMPTION, {"has_assistant": False, "assistant_id": ASSISTANT}, "app3→app8→app7"),
        (CONSUMPTION, {"assistant_id": ASSISTANT}, "app3→app8→app7"),
        (CONSUMPTION, {"has_assistant": True}, "app3→app8→app7"),
        (NOTE, {"note_content": "怕吵"}, "app6→app8"),
        (TASK, {"assistant_id": ASSISTANT}, "app4→app5"),
    ],
)
def test_a_job_names_its_chain_which_goes_on_to_the_assistant_only_where_there_is_one(
    bench: MemberBench, name: str, more: dict[str, Any], chain: str
) -> None:
    bench.fire(name, {"site_id": SITE, "member_id": MEMBER} | more)
    bench.take_in()
    assert bench.job()["app_chain"] == chain


def test_the_trigger_of_the_event_shows_when_it_last_ran_and_no_other_one(bench: MemberBench) -> None:
    before = SystemClock().now()
    bench.note(MEMBER)
    bench.take_in()
    assert before <= bench.trigger(NOTE)["last_run_at"] <= SystemClock().now()
    assert bench.trigger(CONSUMPTION)["last_run_at"] is None


# What is one job


def test_consumptions_of_a_member_on_one_day_are_one_job(bench: MemberBench) -> None:
    first = taken(bench, bench.consumption(MEMBER))
    assert taken(bench, bench.consumption(MEMBER, ASSISTANT)) == first
    end(bench, JobStatus.COMPLETED)
    assert taken(bench, bench.consumption(MEMBER)) == first
    assert bench.job()["duplicate_count"] == 2


def test_each_member_of_each_site_has_jobs_of_its_own(bench: MemberBench) -> None:
    for site_id, member_id in ((SITE, 7), (SITE, 8), (OTHER_SITE, 7)):
        bench.consumption(member_id, site_id=site_id)
    assert bench.take_in() == IntakeCount(accepted=3)


def test_the_kinds_of_events_of_a_member_are_jobs_of_their_own(bench: MemberBench) -> None:
    bench.consumption(MEMBER)
    bench.note(MEMBER)
    bench.assignment(MEMBER, ASSISTANT)
    assert bench.take_in() == IntakeCount(accepted=3)


def test_the_next_business_day_has_a_job_of_its_own(bench: MemberBench) -> None:
    bench.consumption(MEMBER)
    bench.take_in()
    bench.consumption(MEMBER)
    tomorrow = HandClock(SystemClock().now() + timedelta(days=1))
    assert take_in(bench.database, tomorrow, LIVE) == IntakeCount(accepted=1)


def test_a_note_is_told_apart_by_its_id_and_without_one_by_its_words(bench: MemberBench) -> None:
    by_id = taken(bench, bench.note(MEMBER, "怕吵", note_id=1))
    assert taken(bench, bench.note(MEMBER, "怕吵,要靠窗", note_id=1)) == by_id
    by_words = taken(bench, bench.note(MEMBER, "怕吵"))
    assert taken(bench, bench.note(MEMBER, " 怕吵\n", noted_by_name="小李")) == by_words
    assert len({by_id, by_words, taken(bench, bench.note(MEMBER, "怕吵", note_id=2)), taken(bench, bench.note(MEMBER, "怕热"))}) == 4


def test_a_task_assigned_to_another_assistant_is_another_job(bench: MemberBench) -> None:
    first = taken(bench, bench.assignment(MEMBER, 12))
    assert taken(bench, bench.assignment(MEMBER, 13)) != first
    assert taken(bench, bench.assignment(MEMBER, 12)) == first


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.PARTIAL, JobStatus.DEAD])
def test_a_job_that_did_not_succeed_does_not_block_its_successor(bench: MemberBench, status: JobStatus) -> None:
    first = taken(bench, bench.consumption(MEMBER))
    end(bench, status)
    assert taken(bench, bench.consumption(MEMBER)) != first


def test_a_forced_event_skips_dedup_and_nothing_else(bench: MemberBench) -> None:
    bench.consumption(MEMBER)
    bench.consumption(MEMBER, is_forced=True)
    bench.consumption(MEMBER, is_forced=True)
    assert bench.take_in() == IntakeCount(accepted=3)
    assert [job["is_forced"] for job in bench.jobs()] == [False, True, True]
    bench.set_trigger(CONSUMPTION, status="disabled")
    bench.consumption(MEMBER, is_forced=True)
    assert bench.take_in() == IntakeCount(ignored=1)


def test_a_sandbox_has_jobs_of_its_own(bench: MemberBench) -> None:
    bench.consumption(MEMBER)
    bench.take_in()
    bench.consumption(MEMBER)
    today = LIVE.business_date(SystemClock().now())
    assert bench.take_in(RuntimeContext(RuntimeMode.SANDBOX, today)) == IntakeCount(accepted=1)
    assert [job["dedup_key"].rpartition("|")[2] for job in bench.jobs()] == ["live", "sandbox"]


def test_with_the_policy_coalesce_events_merge_while_their_job_waits_and_get_one_follow_up_while_it_runs(bench: MemberBench) -> None:
    bench.set_policy(CONSUMPTION, "coalesce")
    first = taken(bench, bench.consumption(MEMBER))
    assert taken(bench, bench.consumption(MEMBER)) == first
    running = start(bench)
    follow_up = taken(bench, bench.consumption(MEMBER))
    assert follow_up != first
    assert taken(bench, bench.consumption(MEMBER)) == follow_up
    trigger_jobs.finish(bench.connection, running, JobStatus.COMPLETED)
    end(bench, JobStatus.COMPLETED)
    assert taken(bench, bench.consumption(MEMBER)) not in (first, follow_up)


@pytest.mark.parametrize("is_one_batch", [True, False])
def test_what_merges_into_a_waiting_job_brings_its_newest_words_and_its_assistants(bench: MemberBench, is_one_batch: bool) -> None:
    one, other = bench.assistants()[:2]
    fired: list[Callable[[], int]] = [
        lambda: bench.consumption(MEMBER, table="A08"),
        lambda: bench.consumption(MEMBER, one),
        lambda: bench.consumption(MEMBER, other, table="V1"),
        lambda: bench.consumption(MEMBER),
        lambda: bench.note(MEMBER, "客人喜欢安静的台", note_id=7),
        lambda: bench.note(MEMBER, "改了:客人喜欢热闹的台", note_id=7),
    ]
    for fire in fired:
        fire()
        if not is_one_batch:
            bench.take_in()
    bench.take_in()
    consumption, note = bench.jobs()
    assert (consumption["app_chain"], consumption["duplicate_count"]) == ("app3→app8→app7→app4→app5", 3)
    assert consumption["payload"]["assistant_ids"] == [one, other]
    assert consumption["payload"]["table"] == "V1"
    assert (note["payload"]["note_content"], note["duplicate_count"]) == ("改了:客人喜欢热闹的台", 1)


def test_assistants_of_merged_events_are_each_served(bench: MemberBench) -> None:
    member, assistants = bench.visitors()[0], bench.assistants()[:2]
    for assistant in assistants:
        bench.consumption(member, assistant)
    bench.drain()
    assert bench.job()["status"] == JobStatus.COMPLETED
    assert {row["target_id"] for row in bench.cached(AppType.TACTICS)} == {f"{assistant}_{member}" for assistant in assistants}


def test_with_the_policy_coalesce_nothing_merges_into_a_forced_job(bench: MemberBench) -> None:
    bench.set_policy(CONSUMPTION, "coalesce")
    forced = taken(bench, bench.consumption(MEMBER, is_forced=True))
    assert taken(bench, bench.consumption(MEMBER)) != forced


def test_with_the_policy_coalesce_no_event_merges_into_a_job_that_was_begun_and_sent_back(bench: MemberBench) -> None:
    """It takes its own answers again, whatever the data say now."""
    bench.set_policy(CONSUMPTION, "coalesce")
    first = taken(bench, bench.consumption(MEMBER))
    trigger_jobs.send_back(bench.connection, start(bench), SystemClock().now(), "x", {})
    follow_up = taken(bench, bench.consumption(MEMBER))
    assert follow_up != first
    assert taken(bench, bench.consumption(MEMBER)) == follow_up


def test_a_duplicate_lets_what_had_failed_for_good_be_asked_again(bench: MemberBench) -> None:
    first = taken(bench, bench.consumption(MEMBER))
    trigger_jobs.send_back(bench.connection, start(bench), SystemClock().now(), "x", {"app3_clue": "reply_invalid"})
    assert taken(bench, bench.consumption(MEMBER)) == first
    assert "given_up" not in bench.job()["payload"]


def test_what_a_duplicate_lets_be_asked_again_stays_so_when_the_running_job_goes_back(bench: MemberBench) -> None:
    first = taken(bench, bench.consumption(MEMBER))
    trigger_jobs.send_back(bench.connection, start(bench), SystemClock().now(), "x", {"app3_clue": "reply_invalid"})
    running = start(bench)
    assert running.given_up == {"app3_clue": "reply_invalid"}
    assert taken(bench, bench.consumption(MEMBER)) == first
    trigger_jobs.send_back(bench.connection, running, SystemClock().now(), "x", {"app7_customer": "reply_invalid"})
    assert bench.job()["payload"]["given_up"] == {"app7_customer": "reply_invalid"}


def test_within_one_batch_events_are_told_apart_as_well(bench: MemberBench) -> None:
    """What the batch itself makes is not in the table yet when its later events are looked at."""
    events = [bench.consumption(7), bench.consumption(8), bench.consumption(7), bench.consumption(7, is_forced=True), bench.consumption(7)]
    assert bench.take_in() == IntakeCount(accepted=3, duplicates=2)
    stands_for = {event["id"]: event["trigger_job_id"] for event in bench.inbox()}
    plain, other, again, forced, last = (stands_for[event_id] for event_id in events)
    assert plain == again == last
    assert len({plain, other, forced}) == 3
    assert [job["duplicate_count"] for job in bench.jobs()] == [2, 0, 0]


# Many at once


def test_a_thousand_events_of_one_member_are_one_job(bench: MemberBench) -> None:
    payload = Jsonb({"site_id": SITE, "member_id": MEMBER})
    bench.connection.execute("SELECT biz.fire_ai_event(%s, %s) FROM generate_series(1, 1000)", [CONSUMPTION, payload])
    assert bench.take_in() == IntakeCount(accepted=1, duplicates=999)
    job = bench.job()
    assert job["duplicate_count"] == 999
    assert {event["trigger_job_id"] for event in bench.inbox()} == {job["id"]}


def test_five_thousand_events_of_a_site_hold_up_another_sites_for_a_moment_only(bench: MemberBench) -> None:
    bench.connection.execute(
        "SELECT biz.fire_ai_event(%s, jsonb_build_object('site_id', %s::bigint, 'member_id', number)) FROM generate_series(1, 5000) AS number",
        [CONSUMPTION, SITE],
    )
    bench.consumption(MEMBER, site_id=OTHER_SITE)
    began = time.monotonic()
    assert bench.take_in() == IntakeCount(accepted=5001)
    assert time.monotonic() - began < 8, "some 0.6 s on a quiet machine"
    assert [job["site_id"] for job in bench.jobs()][-1] == OTHER_SITE


# What does not become a job

_MEMBER = {"site_id": SITE, "member_id": MEMBER}
UNMEANT: list[tuple[str, Any, str]] = [
    (CONSUMPTION, None, "payload 必须是 JSON 对象"),
    (CONSUMPTION, [SITE, MEMBER], "payload 必须是 JSON 对象"),
    (CONSUMPTION, {"member_id": MEMBER}, "缺少 site_id"),
    (CONSUMPTION, {"site_id": "1001", "member_id": MEMBER}, "site_id 必须是正整数"),
    (CONSUMPTION, {"site_id": 9, "member_id": MEMBER}, "门店 9 不存在"),
    (CONSUMPTION, {"site_id": SITE}, "缺少 member_id"),
    (CONSUMPTION, {"site_id": SITE, "member_id": "7"}, "member_id 必须是正整数"),
    (CONSUMPTION, {"site_id": SITE, "member_id": True}, "member_id 必须是正整数"),
    (CONSUMPTION, {"site_id": SITE, "member_id": 0}, "member_id 必须是正整数"),
    (CONSUMPTION, {"site_id": SITE, "member_id": 2**63}, "member_id 必须是正整数"),
    (CONSUMPTION, _MEMBER | {"has_assistant": "yes", "assistant_id": 12}, "has_assistant 必须是 true 或 false"),
    (CONSUMPTION, _MEMBER | {"has_assistant": True, "assistant_id": "12"}, "assistant_id 必须是正整数"),
    (CONSUMPTION, _MEMBER | {"regenerate": 1}, "regenerate 必须是 true 或 false"),
    (CONSUMPTION, _MEMBER | {"connector_type": []}, "connector_type 必须是字符串"),
    (CONSUMPTION, _MEMBER | {"x": "长" * LARGEST_PAYLOAD_BYTES}, "payload 超过 256 KiB"),
    (NOTE, {"site_id": SITE, "note_content": "怕吵"}, "缺少 member_id"),
    (NOTE, _MEMBER, "note_content 必须是非空字符串"),
    (NOTE, _MEMBER | {"note_content": " \n "}, "note_content 必须是非空字符串"),
    (NOTE, _MEMBER | {"note_content": 7}, "note_content 必须是非空字符串"),
    (NOTE, _MEMBER | {"note_content": "怕吵", "noted_by_name": {}}, "noted_by_name 必须是字符串"),
    (TASK, _MEMBER, "缺少 assistant_id"),
    (TASK, _MEMBER | {"assistant_id": 1.5}, "assistant_id 必须是正整数"),
    ("ai_consumption", _MEMBER, "未知事件 ai_consumption"),
]


@pytest.mark.parametrize(("name", "payload", "said"), UNMEANT)
def test_an_event_that_cannot_be_meant_keeps_its_row_with_the_reason_and_shows_as_an_alert(
    bench: MemberBench, name: str, payload: Any, said: str
) -> None:
    bench.connection.execute("SELECT biz.fire_ai_event(%s, %s)", [name, None if payload is None else Jsonb(payload)])
    assert bench.take_in() == IntakeCount(rejected=1)
    [event] = bench.inbox()
    assert event["rejected_reason"].startswith(said)
    assert (event["payload"], event["trigger_job_id"]) == (payload, None)
    assert event["handled_at"] is not None
    assert alerts(bench.connection) == [("event_rejected", 1)]
    assert bench.jobs() == []
    assert bench.take_in() == IntakeCount(), "it is not looked at again"


def test_a_members_event_that_nobody_took_for_a_week_is_not_worked_off_behind_peoples_backs(bench: MemberBench) -> None:
    bench.consumption(MEMBER)
    bench.fire(EventName.DWS_COMPLETED, {"site_id": SITE})
    bench.connection.execute("UPDATE biz.ai_events SET created_at = created_at - interval '7 days 1 minute'")
    bench.consumption(8)
    bench.connection.execute(
        "UPDATE biz.ai_events SET created_at = created_at - interval '6 days' WHERE (payload ->> 'member_id')::bigint = 8"
    )
    assert bench.take_in() == IntakeCount(accepted=2, rejected=1)
    assert [event["rejected_reason"] for event in bench.inbox()] == ["事件已超过 7 天未处理", None, None]
    assert alerts(bench.connection) == [("event_rejected", 1)]


def test_a_disabled_trigger_is_obeyed_at_once_and_so_is_an_enabled_one(bench: MemberBench) -> None:
    bench.set_trigger(CONSUMPTION, status="disabled")
    bench.consumption(MEMBER)
    bench.note(MEMBER)
    assert bench.take_in() == IntakeCount(accepted=1, ignored=1)
    assert [event["rejected_reason"] for event in bench.inbox()] == ["触发器未启用", None]
    bench.set_trigger(CONSUMPTION, status="enabled")
    bench.consumption(MEMBER)
    assert bench.take_in() == IntakeCount(accepted=1)
    assert alerts(bench.connection) == []


def test_an_event_of_a_closed_site_is_noted_without_an_alert(bench: MemberBench) -> None:
    bench.consumption(MEMBER, site_id=CLOSED_SITE)
    assert bench.take_in() == IntakeCount(ignored=1)
    assert bench.inbox()[0]["rejected_reason"] == "门店已停用"
    assert alerts(bench.connection) == []


@pytest.mark.parametrize(
    "poison",
    [
        '{"site_id": 1001, "member_id": 7, "x": ' + "[" * 2000 + "]" * 2000 + "}",
        '{"site_id": 1001, "member_id": 7, "x": 1e5000}',
    ],
    ids=["too deep", "too large a number"],
)
def test_a_poison_payload_among_five_hundred_good_ones_is_refused_alone(bench: MemberBench, poison: str) -> None:
    for first in (1, 251):
        bench.connection.execute(
            "SELECT biz.fire_ai_event(%s, jsonb_build_object('site_id', %s::bigint, 'member_id', number))"
            " FROM generate_series(%s::integer, %s::integer) AS number",
            [CONSUMPTION, SITE, first, first + 249],
        )
        bench.connection.execute("SELECT biz.fire_ai_event(%s, %s::text::jsonb)", [CONSUMPTION, poison])
    assert bench.take_in() == IntakeCount(accepted=500, rejected=2)
    refused = bench.connection.execute("SELECT id, rejected_reason FROM biz.ai_events WHERE trigger_job_id IS NULL").fetchall()
    assert {event["rejected_reason"] for event in refused} == {"payload 无法读取:嵌套过深或数值过大"}
    assert [job["member_id"] for job in bench.jobs()] == list(range(1, 501))
    assert alerts(bench.connection) == [("event_rejected", 2)]


def test_an_event_that_a_table_of_somebody_elses_making_cannot_hold_is_refused_alone(own_bench: MemberBench) -> None:
    """An adopted table may have narrower columns than ours."""
    bench = own_bench
    bench.connection.execute("ALTER TABLE biz.ai_trigger_jobs ALTER COLUMN connector_type TYPE varchar(20)")
    bench.consumption(7)
    bench.consumption(8, connector_type="a-till-of-a-very-long-name")
    bench.note(9)
    assert bench.take_in() == IntakeCount(accepted=2, rejected=1)
    assert bench.inbox()[1]["rejected_reason"] == "payload 无法保存(StringDataRightTruncation)"
    assert [job["member_id"] for job in bench.jobs()] == [7, 9]
    assert alerts(bench.connection) == [("event_rejected", 1)]


def test_a_trigger_whose_only_event_no_table_could_hold_has_not_fired(own_bench: MemberBench) -> None:
    bench = own_bench
    bench.connection.execute("ALTER TABLE biz.ai_trigger_jobs ALTER COLUMN connector_type TYPE varchar(20)")
    bench.consumption(8, connector_type="a-till-of-a-very-long-name")
    bench.note(9)
    assert bench.take_in() == IntakeCount(accepted=1, rejected=1)
    assert bench.trigger(CONSUMPTION)["last_run_at"] is None
    assert bench.trigger(NOTE)["last_run_at"] is not None


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ("jsonb_build_object('gigabytes', 1)", "payload 无法读取:展开后超出数据库的上限"),
        (
            "(SELECT jsonb_build_object('gigabytes', string_agg(md5(n::text), '')) FROM generate_series(1, 100000) AS n)",
            "payload 超过 256 KiB",
        ),
    ],
    ids=["small as it is stored", "large as it is stored"],
)
def test_a_payload_that_the_database_itself_cannot_read_out_is_refused_alone(own_bench: MemberBench, payload: str, said: str) -> None:
    """`{"x": repeat(chr(1), 190000000)}` fits into a row, but not as a text into the server's memory: here one that fails so at once."""
    bench = own_bench
    bench.connection.execute(
        "CREATE FUNCTION read_out(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$ BEGIN"
        " IF payload ? 'gigabytes' THEN RAISE 'string buffer exceeds maximum allowed length' USING ERRCODE = 'program_limit_exceeded'; END IF;"
        " RETURN format('%s', payload); END $$;"
        "CREATE CAST (jsonb AS text) WITH FUNCTION read_out(jsonb)"
    )
    bench.consumption(7)
    bench.connection.execute(f"SELECT biz.fire_ai_event('ai_note_created', {payload})".encode())
    bench.note(9)
    assert bench.take_in() == IntakeCount(accepted=2, rejected=1)
    assert [event["rejected_reason"] for event in bench.inbox()] == [None, said, None]
    assert alerts(bench.connection) == [("event_rejected", 1)]


def test_a_batch_that_a_deadlock_chose_as_its_victim_is_handled_again(bench: MemberBench) -> None:
    bench.consumption(7)
    bench.take_in()
    bench.consumption(7)
    with ThreadPoolExecutor() as threads, psycopg.connect(bench.database.url) as other:
        other.execute("SET deadlock_timeout = '1min'")
        other.execute("UPDATE biz.ai_trigger_jobs SET priority = priority")
        taking = threads.submit(bench.take_in)
        waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        wait_until(lambda: bench.connection.execute(waiting).fetchone() is not None)
        events.lock_intake(other)  # type: ignore[arg-type]
        other.rollback()
        assert taking.result() == IntakeCount(duplicates=1)
    assert bench.job()["duplicate_count"] == 1


def test_a_mixed_batch_gives_each_event_its_due(bench: MemberBench) -> None:
    bench.fire(EventName.DWS_COMPLETED, {"site_id": SITE, "etl_run_id": "load-1"})
    bench.consumption(7)
    bench.fire(EventName.DWS_COMPLETED, {"site_id": SITE, "etl_run_id": "load-1"})
    bench.note(7)
    bench.consumption(0)
    bench.consumption(7)
    bench.consumption(7, site_id=CLOSED_SITE)
    bench.assignment(7, 12)
    assert bench.take_in() == IntakeCount(accepted=4, duplicates=2, rejected=1, ignored=1)
    assert [(job["event_type"], job["duplicate_count"]) for job in bench.jobs()] == [
        ("dws_completed", 1),
        ("consumption", 1),
        ("note_created", 0),
        ("task_assigned", 0),
    ]
