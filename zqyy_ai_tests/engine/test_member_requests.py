"""Asking for members' answers from the command line: single applications, backfills and retries."""

import re
from collections.abc import Sequence
from datetime import timedelta

import pytest

from zqyy_ai.domain.apps import APPS, AppType
from zqyy_ai.domain.business_clock import SystemClock
from zqyy_ai.domain.errors import InvalidRequest
from zqyy_ai.domain.events import MEMBER_APPS, chain_text
from zqyy_ai.domain.jobs import JobStatus
from zqyy_ai.domain.runtime_context import LIVE
from zqyy_ai.engine.call_pauses import pause_calls
from zqyy_ai.engine.member_requests import (
    BackfillPlan,
    batch_progress,
    job_report,
    plan_backfill,
    request_app,
    request_backfill,
    retry_job,
    wanted_apps,
)
from zqyy_ai.engine.member_run import MemberRun
from zqyy_ai.engine.step import StepStatus
from zqyy_ai.store import cache
from zqyy_ai_tests.engine.member_bench import CLOSED_SITE, FINAL, OTHER_SITE, SITE, MemberBench, results, told

ANSWERED, REUSED = StepStatus.ANSWERED, StepStatus.REUSED
CUSTOMER = (AppType.CUSTOMER,)


def plan(bench: MemberBench, members: str | Sequence[int], *apps: AppType, only_missing: bool = False, **environment: str) -> BackfillPlan:
    named = members if isinstance(members, str) else ",".join(map(str, members))
    return plan_backfill(bench.database, bench.engine(**environment).settings, SITE, apps or MEMBER_APPS, named, only_missing=only_missing)


def today() -> str:
    return LIVE.business_date(SystemClock().now()).isoformat()


# One application


def test_an_application_asked_for_is_a_forced_job_before_all_others_that_reuses_nothing_older(bench: MemberBench) -> None:
    member, assistant = bench.visitors()[0], bench.assistants()[0]
    bench.add_task(member, assistant)
    job_id = request_app(bench.database, AppType.ANALYSIS, SITE, member, assistant_id=assistant)
    job = bench.job()
    assert (job["id"], job["event_type"], job["status"], job["is_forced"], job["app_chain"]) == (job_id, "run_app", "pending", True, "app4")
    assert job["priority"] > 0
    assert job["payload"] == {
        "app_type": "app4_analysis",
        "apps": ["app4_analysis"],
        "regenerate": True,
        "source": "cli",
        "assistant_id": assistant,
    }
    assert job["dedup_key"] == f"run_app|{SITE}|{member}|app4_analysis:{assistant}|{today()}|live"
    assert told(bench.drain()) == [("app4", ANSWERED)]
    request_app(bench.database, AppType.ANALYSIS, SITE, member, assistant_id=assistant)
    assert told(bench.drain(run_id="run-2")) == [("app4", ANSWERED)], "each time it is paid"


def test_without_an_assistant_those_with_an_open_task_are_meant(bench: MemberBench) -> None:
    member, assistants = bench.visitors()[0], bench.assistants()[:2]
    for assistant in assistants:
        bench.add_task(member, assistant)
    request_app(bench.database, AppType.TACTICS, SITE, member)
    assert [outcome.step.assistant_id for outcome in bench.drain()] == assistants


def test_an_application_that_cannot_be_asked_so_is_refused_with_a_reason(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    for app, site_id, member_id, assistant_id, said in (
        (AppType.FINANCE, SITE, member, None, "app2_finance 不是会员应用"),
        (AppType.CLUE, SITE, member, 12, "app3_clue 不按助教生成"),
        (AppType.CLUE, 9, member, None, "9"),
        (AppType.CLUE, CLOSED_SITE, member, None, str(CLOSED_SITE)),
        (AppType.CLUE, SITE, 999, None, "门店 1001 没有会员 999"),
        (AppType.CLUE, OTHER_SITE, member, None, f"门店 1002 没有会员 {member}"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            request_app(bench.database, app, site_id, member_id, assistant_id=assistant_id)
    assert bench.jobs() == []


def test_an_assistant_who_has_nothing_to_do_with_the_member_is_refused_before_anything_is_asked(bench: MemberBench) -> None:
    member, stranger, assistants = bench.visitors()[0], bench.strangers()[0], bench.assistants()
    bench.connection.execute("UPDATE demo_dws.visits SET assistants = NULL WHERE member_id = %s", [member])
    bench.add_task(member, assistants[1])
    bench.serve(member, assistants[2])
    choice = f"请改为与该会员有关的助教 {assistants[1]}、{assistants[2]}"
    for member_id, assistant_id, said in (
        (member, 999, f"门店 {SITE} 没有助教 999（ai_source.assistants）；{choice}"),
        (member, bench.assistants(OTHER_SITE)[0], f"没有助教 {bench.assistants(OTHER_SITE)[0]}"),
        (member, assistants[0], f"助教 {assistants[0]} 与会员 {member} 没有关系（没有服务过，也没有未完成的任务）；{choice}"),
        (stranger, assistants[0], "该会员还没有相关的助教，请核对"),
    ):
        for app in (AppType.ANALYSIS, AppType.TACTICS):
            with pytest.raises(InvalidRequest, match=re.escape(said)):
                request_app(bench.database, app, SITE, member_id, assistant_id=assistant_id)
    assert (bench.jobs(), bench.posts()) == ([], {})
    for assistant in assistants[1:3]:
        request_app(bench.database, AppType.ANALYSIS, SITE, member, assistant_id=assistant)
    assert told(bench.drain()) == [("app4", ANSWERED)] * 2


def test_applications_are_named_in_full_in_short_or_all_at_once() -> None:
    assert wanted_apps(["app7_customer, app3"]) == (AppType.CLUE, AppType.CUSTOMER)
    assert wanted_apps(["app4", "app4_analysis"]) == (AppType.ANALYSIS,)
    assert wanted_apps(["all"]) == MEMBER_APPS
    assert wanted_apps(["app3,", " ,app7 ,"]) == (AppType.CLUE, AppType.CUSTOMER), "a comma too many is no matter"
    for unknown, said in (
        ("app2", "应用 'app2' 无效：可用 app3_clue"),
        ("app9", "无效"),
        ("", "没有指定应用：可用 app3_clue"),
        (" , ", "没有指定应用"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            wanted_apps([unknown])


# Backfills


def test_a_plan_counts_what_there_is_to_ask_about_and_writes_nothing(bench: MemberBench) -> None:
    visitors, stranger, assistants = bench.visitors()[:3], bench.strangers()[0], bench.assistants()[:2]
    for assistant in assistants:
        bench.add_task(visitors[0], assistant)
    planned = plan(bench, [*visitors, stranger])
    assert planned.member_ids == tuple(visitors), "whom there is nothing to ask about needs no job"
    assert planned.calls_by_app == {
        AppType.CLUE: 3,
        AppType.NOTE: 0,
        AppType.CONSOLIDATION: 3,
        AppType.CUSTOMER: 3,
        AppType.ANALYSIS: 2,
        AppType.TACTICS: 2,
    }
    assert planned.calls == 13
    assert 13 * 3000 < planned.tokens < 13 * 8000, "there is no history yet: the size of usual prompts and of the largest answers"
    assert (bench.jobs(), bench.posts()) == ([], {})


def test_a_plan_takes_as_long_as_its_calls_side_by_side_and_never_less_than_one_members_steps_in_a_row(bench: MemberBench) -> None:
    members, assistants = bench.visitors()[:4], bench.assistants()[:2]
    for assistant in assistants:
        bench.add_task(members[0], assistant)
    side_by_side = plan(bench, members, ZQYY_LLM_CONCURRENCY="1")
    assert side_by_side.calls == 16
    assert side_by_side.minutes == pytest.approx(16 * 30 / 60)
    in_a_row = plan(bench, members, ZQYY_LLM_CONCURRENCY="64")
    assert in_a_row.minutes == pytest.approx(7 * 30 / 60), "app3, app8, app7, and app4 and app5 for each of two assistants"


def a_mixed_set(bench: MemberBench) -> list[int]:
    """Members with visits, with a note, with a note that says nothing, with a task, with clues from before, with nothing at all."""
    members = bench.visitors()[:7]
    _, assigned, noted, blank, tasked, clued, _ = members
    bench.connection.execute("DELETE FROM demo_dws.visits WHERE member_id = ANY(%s)", [members[2:]])
    bench.add_note(noted, "客人说周末要带同事来打球", "小王")
    bench.add_note(blank, "以前写过", "小王")
    bench.add_note(blank, " \u200b\n ", "小王")
    for member in (assigned, tasked):
        for assistant in bench.assistants()[:2]:
            bench.add_task(member, assistant)
    clues = [{"category": "消费习惯", "summary": "周末下午常来", "detail": "", "emoji": ""}]
    for member, found in ((clued, clues), (blank, [])):
        cache.write_cache(
            bench.connection, "app6_note_analysis", SITE, str(member), {"score": 7, "clues": found, "summary": ""}, expires_at=None
        )
    return members


@pytest.mark.parametrize(
    "apps",
    [
        MEMBER_APPS,
        *((app,) for app in MEMBER_APPS),
        (AppType.CLUE, AppType.CONSOLIDATION),
        (AppType.NOTE, AppType.CONSOLIDATION, AppType.CUSTOMER),
    ],
    ids=chain_text,
)
def test_what_a_plan_counts_is_what_its_backfill_calls(bench: MemberBench, apps: tuple[AppType, ...]) -> None:
    members = a_mixed_set(bench)
    planned = plan(bench, members, *apps)
    request_backfill(bench.database, planned)
    outcomes = bench.drain()
    assert bench.posts() == {chain_text((app,)): calls for app, calls in planned.calls_by_app.items() if calls}
    assert {outcome.member_id for outcome in outcomes if outcome.result.calls} == set(planned.member_ids)
    assert set(bench.statuses()) <= {"completed"}


def test_what_a_plan_of_what_is_missing_counts_is_what_its_backfill_calls(bench: MemberBench) -> None:
    members = a_mixed_set(bench)
    request_backfill(bench.database, plan(bench, members[:3], AppType.CLUE, AppType.NOTE))
    bench.drain()
    before = bench.posts()
    assert before == {"app3": 2, "app6": 1}
    planned = plan(bench, members, only_missing=True)
    assert (planned.calls_by_app[AppType.CLUE], planned.calls_by_app[AppType.NOTE]) == (0, 0)
    request_backfill(bench.database, planned)
    bench.drain(run_id="run-2")
    made = {name: calls - before.get(name, 0) for name, calls in bench.posts().items()}
    assert {name: calls for name, calls in made.items() if calls} == {
        chain_text((app,)): calls for app, calls in planned.calls_by_app.items() if calls
    }


def test_a_plan_learns_from_the_calls_of_the_last_month_and_never_promises_more_than_the_rate(bench: MemberBench) -> None:
    members = bench.visitors()[:6]
    request_backfill(bench.database, plan(bench, members[:3], *CUSTOMER))
    bench.drain()
    rows = bench.connection.execute("SELECT avg(tokens_used)::float AS tokens FROM biz.ai_run_logs").fetchall()
    planned = plan(bench, members, *CUSTOMER)
    assert planned.tokens == pytest.approx(6 * rows[0]["tokens"], rel=0.01)
    assert planned.minutes < 0.1
    slow = plan(bench, members, *CUSTOMER, ZQYY_SITE_CALLS_BURST="1", ZQYY_SITE_CALLS_PER_MINUTE="2")
    assert slow.minutes == pytest.approx((6 - 1) / 2)


def test_members_are_the_active_ones_all_of_them_or_named(bench: MemberBench) -> None:
    everybody = [
        row["member_id"]
        for row in bench.connection.execute(
            "SELECT member_id FROM ai_source.members WHERE site_id = %s AND is_active AND last_visit_on IS NOT NULL ORDER BY 1", [SITE]
        )
    ]
    came_lately = bench.visitors()[1]
    assert plan(bench, "active", *CUSTOMER).member_ids == (), "the demo ends long ago"
    bench.connection.execute("UPDATE demo_dws.members SET last_visit_on = current_date - 30 WHERE member_id = %s", [came_lately])
    assert plan(bench, "active", *CUSTOMER).member_ids == (came_lately,)
    assert plan(bench, "active", *CUSTOMER, ZQYY_ACTIVE_MEMBER_DAYS="10").member_ids == ()
    assert plan(bench, "all", *CUSTOMER).member_ids == tuple(everybody)
    assert plan(bench, f" {everybody[1]}, {everybody[0]},{everybody[1]}", *CUSTOMER).member_ids == (everybody[1], everybody[0])


def test_members_that_cannot_be_meant_are_refused_with_a_reason(bench: MemberBench) -> None:
    for members, said in (
        ("", "没有指定会员"),
        (" , ", "没有指定会员"),
        ("everybody", "会员编号 'everybody' 无效"),
        ("-1", "会员编号 '-1' 无效"),
        ("9" * 30, "无效"),
        ("998,999", "门店 1001 没有会员 998、999"),
        (",".join(map(str, range(1, 20))), "没有会员 1、2、3、4、5、6、7、8、9、10 等"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            plan(bench, members, *CUSTOMER)
    with pytest.raises(InvalidRequest):
        plan_backfill(bench.database, bench.engine().settings, CLOSED_SITE, CUSTOMER, "all", only_missing=False)


def test_a_backfill_is_a_job_for_each_member_behind_all_events_and_its_progress_is_that_of_its_jobs(bench: MemberBench) -> None:
    members = bench.visitors()[:3]
    batch_id = request_backfill(bench.database, plan(bench, members, AppType.CLUE, AppType.CUSTOMER))
    jobs = bench.jobs()
    assert [(job["member_id"], job["event_type"], job["app_chain"], job["batch_id"]) for job in jobs] == [
        (member, "backfill", "app3→app7", batch_id) for member in members
    ]
    assert all(job["priority"] < 0 and job["is_forced"] for job in jobs)
    before = batch_progress(bench.database, batch_id)
    assert (before.total, before.ended, before.is_good, before.why_waiting) == (3, 0, False, None)
    bench.emulator.plan({**FINAL, "app": "app7_customer", "count": 1})
    bench.drain()
    after = batch_progress(bench.database, batch_id)
    assert after.jobs_by_status == {JobStatus.COMPLETED: 2, JobStatus.PARTIAL: 1}
    assert (after.ended, after.is_good, after.done, after.failed, after.reused, after.calls) == (3, False, 5, 1, 0, 6)
    assert after.error_message is not None and "InvalidParameter" in after.error_message


def test_a_second_backfill_of_unchanged_data_costs_nothing(bench: MemberBench) -> None:
    members = bench.visitors()[:2]
    request_backfill(bench.database, plan(bench, members, *CUSTOMER))
    bench.drain()
    batch_id = request_backfill(bench.database, plan(bench, members, *CUSTOMER))
    assert results(bench.drain(run_id="run-2")) == {REUSED}
    progress = batch_progress(bench.database, batch_id)
    assert (progress.is_good, progress.reused, progress.calls, progress.tokens) == (True, 2, 0, 0)


def test_a_backfill_of_what_is_missing_plans_and_asks_for_nothing_else(bench: MemberBench) -> None:
    members = bench.visitors()[:3]
    request_backfill(bench.database, plan(bench, members[:2], *CUSTOMER))
    bench.drain()
    bench.connection.execute("UPDATE biz.ai_cache SET expires_at = now() - interval '1 minute' WHERE target_id = %s", [str(members[0])])
    for member in members:
        bench.add_visit(member)
    missing = plan(bench, members, *CUSTOMER, only_missing=True)
    assert missing.calls_by_app == {AppType.CUSTOMER: 2}
    assert missing.member_ids == (members[0], members[2]), "who has a valid answer needs no job"
    request_backfill(bench.database, missing)
    assert results(bench.drain(run_id="run-2")) == {ANSWERED}
    assert bench.posts() == {"app7": 4}


def test_what_got_its_answer_since_the_plan_was_made_is_left_as_it_is(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    planned = plan(bench, [member], *CUSTOMER, only_missing=True)
    request_app(bench.database, AppType.CUSTOMER, SITE, member)
    bench.drain()
    bench.add_visit(member)
    request_backfill(bench.database, planned)
    assert told(bench.drain(run_id="run-2")) == [("app7", REUSED)]


def test_a_backfill_that_waits_says_for_what(bench: MemberBench) -> None:
    batch_id = request_backfill(bench.database, plan(bench, bench.visitors()[:2], *CUSTOMER))
    bench.connection.execute(
        "UPDATE biz.ai_trigger_jobs SET not_before = '2099-01-02 03:04:05+08', error_message = '1 个步骤未完成:circuit_open × 1'"
    )
    assert batch_progress(bench.database, batch_id).why_waiting == "01-02 03:04:05 之后继续：1 个步骤未完成:circuit_open × 1"
    pause_calls(bench.database, reason="核对账单", by="王店长")
    why = batch_progress(bench.database, batch_id).why_waiting
    assert why is not None and "王店长" in why
    bench.connection.execute("UPDATE biz.ai_trigger_jobs SET status = 'running' WHERE id = (SELECT min(id) FROM biz.ai_trigger_jobs)")
    assert batch_progress(bench.database, batch_id).why_waiting is None


# Retries


def failed_job(bench: MemberBench) -> int:
    bench.emulator.plan({**FINAL, "app": "app7_customer"})
    bench.consumption(bench.visitors()[0])
    bench.drain()
    bench.emulator.plan()
    job_id: int = bench.jobs()[-1]["id"]
    return job_id


def test_a_retry_is_a_new_job_that_names_the_old_one_and_leaves_out_what_the_old_one_had_given_up(bench: MemberBench) -> None:
    first = failed_job(bench)
    bench.connection.execute(
        'UPDATE biz.ai_trigger_jobs SET payload = payload || \'{"given_up": {"app7_customer": "x"}}\', business_date = business_date - 2,'
        " dedup_key = replace(dedup_key, %s, '2020-01-01')",
        [today()],
    )
    bench.connection.execute("UPDATE biz.ai_trigger_jobs SET business_date = '2020-01-01'")
    second = retry_job(bench.database, first)
    old, new = bench.jobs()
    assert (new["id"], new["retry_of"], new["status"], new["is_forced"]) == (second, first, "pending", True)
    assert new["business_date"].isoformat() == today()
    assert new["dedup_key"] == old["dedup_key"].replace("2020-01-01", today())
    assert "given_up" not in new["payload"]
    assert (new["event_type"], new["app_chain"], new["member_id"]) == (old["event_type"], old["app_chain"], old["member_id"])
    assert new["priority"] > old["priority"]
    assert told(bench.drain(run_id="run-2"))[-1] == ("app7", ANSWERED)


def test_a_retry_moves_its_key_to_today_and_leaves_a_note_id_that_looks_like_a_date(bench: MemberBench) -> None:
    bench.emulator.plan({**FINAL, "app": "app6_note"})
    bench.note(bench.visitors()[0], note_id="a|2020-01-01|b")
    bench.drain()
    bench.connection.execute(
        "UPDATE biz.ai_trigger_jobs SET business_date = '2020-01-01', dedup_key = replace(dedup_key, %s, '2020-01-01')", [today()]
    )
    retry_job(bench.database, bench.job()["id"])
    assert bench.jobs()[-1]["dedup_key"] == f"note_created|{SITE}|{bench.visitors()[0]}|note:a|2020-01-01|b|{today()}|live"


def test_a_retry_of_a_retry_still_takes_over_what_the_first_one_paid_for(bench: MemberBench) -> None:
    first = failed_job(bench)
    bench.emulator.plan({**FINAL, "app": "app7_customer"})
    second = retry_job(bench.database, first)
    bench.drain(run_id="run-2")
    bench.emulator.plan()
    bench.add_visit(bench.visitors()[0])
    retry_job(bench.database, second)
    assert told(bench.drain(run_id="run-3")) == [("app3", REUSED), ("app8", REUSED), ("app7", ANSWERED)]


def test_a_retry_takes_over_what_its_job_had_found_unchanged(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.consumption(member)
    bench.drain()
    bench.emulator.plan({**FINAL, "app": "app7_customer"})
    bench.connection.execute("UPDATE biz.ai_cache SET input_hash = 'other' WHERE cache_type = %s", [APPS[AppType.CUSTOMER].cache_type])
    bench.consumption(member, is_forced=True)
    assert told(bench.drain(run_id="run-2"))[:2] == [("app3", REUSED), ("app8", REUSED)]
    bench.emulator.plan()
    bench.add_visit(member)
    retry_job(bench.database, bench.jobs()[-1]["id"])
    assert told(bench.drain(run_id="run-3")) == [("app3", REUSED), ("app8", REUSED), ("app7", ANSWERED)]


def test_only_what_came_to_nothing_is_retried_and_only_once_at_a_time(bench: MemberBench) -> None:
    first = failed_job(bench)
    retry = retry_job(bench.database, first)
    with pytest.raises(InvalidRequest, match=f"任务 {first} 已有重试在进行：任务 {retry}"):
        retry_job(bench.database, first)
    with pytest.raises(InvalidRequest, match=f"任务 {retry} 的状态是 pending"):
        retry_job(bench.database, retry)
    bench.drain(run_id="run-2")
    with pytest.raises(InvalidRequest, match=f"任务 {retry} 的状态是 completed"):
        retry_job(bench.database, retry)
    with pytest.raises(InvalidRequest, match="任务 999 不存在"):
        retry_job(bench.database, 999)
    assert retry_job(bench.database, first) > retry, "an ended retry bars no other"


def test_a_job_of_the_old_dispatcher_or_of_a_run_of_dagsters_is_retried_where_it_came_from(bench: MemberBench) -> None:
    bench.emulator.plan(FINAL)
    with MemberRun(bench.engine(), SITE, [bench.visitors()[0]], CUSTOMER, run_id="run-1") as run:
        list(run.outcomes())
    bench.connection.execute(
        "INSERT INTO biz.ai_trigger_jobs (event_type, site_id, member_id, status) VALUES ('consumption', 1001, 7, 'failed')"
    )
    for job in bench.jobs():
        with pytest.raises(InvalidRequest, match="不能重试"):
            retry_job(bench.database, job["id"])


def test_a_report_shows_a_job_and_each_of_its_steps(bench: MemberBench) -> None:
    report = job_report(bench.database, failed_job(bench))
    assert report.job.status is JobStatus.PARTIAL
    assert [step.app_type for step in report.steps] == [app.value for app in (AppType.CLUE, AppType.CONSOLIDATION, AppType.CUSTOMER)]
    assert [step.status for step in report.steps] == ["success", "success", "failed"]
    assert report.steps[-1].error_code == "InvalidParameter"
    assert report.pause is None
    with pytest.raises(InvalidRequest, match="任务 999 不存在"):
        job_report(bench.database, 999)


def test_answers_of_a_backfill_live_as_long_as_those_of_events(bench: MemberBench) -> None:
    request_backfill(bench.database, plan(bench, bench.visitors()[:1], *CUSTOMER))
    bench.drain()
    [row] = bench.cached()
    assert row["triggered_by"] == "backfill"
    assert row["expires_at"] - row["created_at"] > timedelta(days=APPS[AppType.CUSTOMER].expires_after_days, seconds=-60)
