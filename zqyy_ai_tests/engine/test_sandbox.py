"""A site in the sandbox: what reaches its prompts, where its answers and its money go, and that nothing live notices."""

import json
import re
from datetime import date, datetime, time, timedelta
from typing import Any

import psycopg
import pytest

from zqyy_ai.domain.apps import APPS, AppType, finance_app_of
from zqyy_ai.domain.business_clock import MIDNIGHT, SHANGHAI, SystemClock, business_date_at
from zqyy_ai.domain.errors import InvalidRequest
from zqyy_ai.domain.events import ASSISTANT_APPS, MEMBER_APPS, EventName
from zqyy_ai.domain.runtime_context import LIVE, RuntimeContext, RuntimeMode
from zqyy_ai.domain.windows import WINDOW_KEYS
from zqyy_ai.engine.assembly import Engine
from zqyy_ai.engine.member_requests import plan_backfill, request_app, request_backfill, retry_job
from zqyy_ai.engine.member_run import MemberRun
from zqyy_ai.engine.prewarm import PrewarmRun, WindowOutcome
from zqyy_ai.engine.prewarm_requests import fire_for_unprewarmed_sites
from zqyy_ai.engine.sandbox import set_context
from zqyy_ai.engine.step import StepStatus
from zqyy_ai.settings import load_settings
from zqyy_ai.store import runtime_contexts, sites, trigger_jobs
from zqyy_ai_tests.engine.member_bench import (
    FINAL,
    INVALID,
    OTHER_SITE,
    SITE,
    UNTIL,
    MemberBench,
    Row,
    app_id,
    codes,
    names,
    results,
    told,
)
from zqyy_ai_tests.engine.workbench import held_rows, logs

DAY = date(2026, 3, 31)
"""In the demo's data, three weeks before their end."""
SANDBOX = RuntimeContext(RuntimeMode.SANDBOX, DAY)
ANSWERED, REUSED, SKIPPED = StepStatus.ANSWERED, StepStatus.REUSED, StepStatus.SKIPPED
A_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def switch(bench: MemberBench, context: RuntimeContext = SANDBOX, site_id: int = SITE) -> None:
    runtime_contexts.put(bench.connection, site_id, context, "小李")


def sandbox_answers(bench: MemberBench, app: AppType | None = None) -> list[Row]:
    rows = bench.connection.execute("SELECT * FROM biz.ai_sandbox_answers ORDER BY id").fetchall()
    return [row for row in rows if app is None or row["cache_type"] == APPS[app].cache_type]


def windows(bench: MemberBench) -> dict[str, int]:
    """Tokens used by scope and kind."""
    rows = bench.connection.execute("SELECT scope, kind, used_tokens, reserved_tokens FROM biz.ai_budget_windows")
    found = {}
    for row in rows:
        assert row["reserved_tokens"] == 0
        found[f"{row['scope']} {row['kind']}"] = row["used_tokens"]
    return found


def live_rows(bench: MemberBench) -> dict[str, list[Row]]:
    """All that a sandbox must leave as it is."""
    tables = ("biz.ai_cache", "public.member_retention_clue", "biz.ai_alerts")
    rows = {table: bench.connection.execute(f"SELECT * FROM {table} t ORDER BY t::text".encode()).fetchall() for table in tables}
    rows["triggers"] = bench.connection.execute("SELECT id, last_error FROM biz.trigger_jobs ORDER BY id").fetchall()
    rows["windows"] = bench.connection.execute(
        "SELECT * FROM biz.ai_budget_windows WHERE scope NOT LIKE 'sandbox%' ORDER BY 1, 2, 3"
    ).fetchall()
    rows["updates"] = bench.connection.execute("SELECT * FROM biz.ai_live_events WHERE event_type = 'cache_updated' ORDER BY id").fetchall()
    return rows


def later_dates(bench: MemberBench) -> set[str]:
    """Dates after the sandbox's in any prompt, but for the calendar's end of a running period, which is no data."""
    found: set[str] = set()
    for prompt in bench.prompts():
        text = re.sub(r'"名义期间":\{[^}]*\}', "", prompt.text)
        found |= {day for day in A_DATE.findall(text) if day > DAY.isoformat()}
    return found


def busy_member(bench: MemberBench) -> tuple[int, int]:
    """A member with visits before and after the sandbox's date; and, once made, notes and tasks on either side of it. With an assistant."""
    [row] = bench.connection.execute(
        "SELECT member_id FROM ai_source.visits v JOIN ai_source.members m USING (site_id, member_id) WHERE site_id = %s"
        " AND (joined_on IS NULL OR joined_on <= %s) GROUP BY member_id"
        " HAVING bool_or(business_date < %s) AND bool_or(business_date > %s) ORDER BY count(*) DESC, member_id LIMIT 1",
        [SITE, DAY, DAY, DAY],
    ).fetchall()
    member, assistant = int(row["member_id"]), bench.assistants()[0]
    for table in ("notes", "tasks"):
        bench.connection.execute(f"DELETE FROM demo_dws.{table} WHERE (site_id, member_id) = (%s, %s)".encode(), [SITE, member])
    for day, content in (("2026-03-20", "客人喜欢靠窗的台"), ("2026-04-10", "客人说下月搬家")):
        bench.connection.execute(
            "INSERT INTO demo_dws.notes (site_id, note_id, member_id, content, noted_by_name, created_at)"
            " SELECT %s, coalesce(max(note_id), 0) + 1, %s, %s, '小王', %s FROM demo_dws.notes",
            [SITE, member, content, f"{day} 12:00+08"],
        )
    for day, due, title in (
        ("2026-03-20", "2026-04-05", "生日前关怀"),
        ("2026-03-21", "2026-03-30", "送券提醒"),
        ("2026-04-10", "2026-04-20", "新店邀请"),
    ):
        bench.connection.execute(
            "INSERT INTO demo_dws.tasks (site_id, task_id, member_id, assistant_id, task_type, title, created_at, due_on)"
            " SELECT %s, coalesce(max(task_id), 0) + 1, %s, %s, 'birthday', %s, %s, %s FROM demo_dws.tasks",
            [SITE, member, assistant, title, f"{day} 12:00+08", due],
        )
    return member, assistant


def fire_everything(bench: MemberBench, member: int, assistant: int) -> None:
    """Events that ask all six applications of the member."""
    bench.consumption(member, assistant)
    bench.note(member, noted_by_created_at="2026-04-20T10:00:00+08:00")


def prewarm(engine: Engine, run_id: str = "prewarm-1", *, asked_by_sensor: bool = True, **how: Any) -> list[WindowOutcome]:
    with PrewarmRun(engine, SITE, list(WINDOW_KEYS), run_id=run_id, asked_by_sensor=asked_by_sensor, **how) as run:
        return list(run.outcomes())


@pytest.fixture
def live_before(bench: MemberBench) -> dict[str, list[Row]]:
    """Live answers, clues and windows of another member, as they were before the sandbox; and after it just so."""
    bench.consumption(bench.visitors()[0])
    bench.drain(run_id="live")
    before = live_rows(bench)
    assert before["biz.ai_cache"]
    assert before["public.member_retention_clue"]
    assert before["windows"]
    bench.emulator.reset()
    return before


# The date


def test_the_sandbox_has_the_same_time_of_day_on_its_own_date() -> None:
    now = datetime(2026, 4, 20, 2, 30, tzinfo=SHANGHAI)
    assert LIVE.moment(now) == now
    assert SANDBOX.moment(now) == datetime(2026, 3, 31, 2, 30, tzinfo=SHANGHAI)
    late = time(6, 0)
    # 02:30 belongs to the business date before: of the sandbox's date it is the night that follows it.
    assert SANDBOX.moment(now, late) == datetime(2026, 4, 1, 2, 30, tzinfo=SHANGHAI)
    assert business_date_at(SANDBOX.moment(now, late), late) == DAY
    assert SANDBOX.until() == datetime(2026, 4, 1, tzinfo=SHANGHAI)
    assert SANDBOX.until(late) == datetime(2026, 4, 1, 6, 0, tzinfo=SHANGHAI)
    assert LIVE.until() is None


# Members


def test_a_members_sandbox_answers_are_apart_and_nothing_live_notices(bench: MemberBench, live_before: dict[str, list[Row]]) -> None:
    member, assistant = busy_member(bench)
    switch(bench)
    fire_everything(bench, member, assistant)
    outcomes = bench.drain()
    assert sorted(names(outcomes)) == sorted(["app3", "app8", "app7", "app4", "app5", "app6", "app8"])
    assert results(outcomes) == {ANSWERED}
    assert all(outcome.is_sandbox for outcome in outcomes)
    assert live_rows(bench) == live_before
    answers = sandbox_answers(bench)
    assert {(row["site_id"], row["sandbox_date"], row["status"]) for row in answers} == {(SITE, DAY, "valid")}
    assert len(answers) == 7
    for row in answers:
        days = 30 if row["cache_type"] == "app6_note_analysis" else 7
        assert (row["expires_at"].astimezone(SHANGHAI).date() - DAY).days == days
    assert {row["status"] for row in bench.jobs()} == {"completed"}
    assert held_rows(bench.connection) == 0


def test_no_members_prompt_holds_a_later_date_and_later_rows_are_not_there(bench: MemberBench) -> None:
    member, assistant = busy_member(bench)
    switch(bench)
    # Twice: the second round is told of the first one's answers.
    for _ in range(2):
        fire_everything(bench, member, assistant)
        request_app(bench.database, AppType.NOTE, SITE, member)
        for app in (AppType.CLUE, AppType.CUSTOMER, *ASSISTANT_APPS):
            request_app(bench.database, app, SITE, member)
        assert {row["error_code"] for row in logs(bench.connection)} <= {None}
        bench.drain()
    asked = {prompt.app_id for prompt in bench.prompts()}
    assert asked == {app_id(app) for app in MEMBER_APPS}
    assert later_dates(bench) == set()
    texts = "".join(prompt.text for prompt in bench.prompts())
    assert "<history>" in texts
    assert "2026-03-31" in texts
    assert "客人喜欢靠窗的台" in texts
    assert "下月搬家" not in texts
    assert "生日前关怀" in texts
    assert "新店邀请" not in texts
    [customer, *_] = bench.prompts(AppType.CUSTOMER)
    assert (customer.facts["会员"]["储值余额_元"], customer.facts["会员"]["积分"]) == (None, None)
    references = json.dumps([row["result_json"]["_references"] for row in sandbox_answers(bench)])
    assert {day for day in A_DATE.findall(references) if day > DAY.isoformat()} == set()


def test_a_member_who_joined_later_is_not_known_yet(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.connection.execute("UPDATE demo_dws.members SET joined_on = %s WHERE (site_id, member_id) = (%s, %s)", [UNTIL, SITE, member])
    bench.connection.execute(
        "DELETE FROM demo_dws.visits WHERE (site_id, member_id) = (%s, %s) AND business_date <= %s", [SITE, member, DAY]
    )
    switch(bench)
    bench.consumption(member)
    assert told(bench.drain()) == [("app3", SKIPPED), ("app8", SKIPPED), ("app7", SKIPPED)]
    assert bench.posts() == {}


def test_each_application_is_told_what_the_sandbox_answered_and_never_what_is_live(bench: MemberBench) -> None:
    member, assistant = busy_member(bench)
    fire_everything(bench, member, assistant)
    bench.drain(run_id="live")
    marked = bench.connection.execute(
        "UPDATE biz.ai_cache SET result_json = replace(result_json::text, '，', '鑫，')::jsonb WHERE result_json::text LIKE '%%，%%' RETURNING cache_type"
    ).fetchall()
    assert {row["cache_type"] for row in marked} >= {"app4_analysis", "app5_tactics"}
    bench.emulator.reset()
    switch(bench)
    request_app(bench.database, AppType.TACTICS, SITE, member, assistant_id=assistant)
    bench.drain(run_id="first")
    [alone] = bench.prompts(AppType.TACTICS)
    assert alone.facts["助教分析"] is None
    assert "<history>" not in alone.text

    request_app(bench.database, AppType.ANALYSIS, SITE, member, assistant_id=assistant)
    bench.drain(run_id="second")
    request_app(bench.database, AppType.TACTICS, SITE, member, assistant_id=assistant)
    bench.drain(run_id="third")
    newest = bench.prompts(AppType.TACTICS)[-1]
    assert newest.facts["助教分析"] is not None
    assert "<history>" in newest.text
    [analysis] = sandbox_answers(bench, AppType.ANALYSIS)
    assert analysis["result_json"]["_references"]["member_id"] == member
    assert "鑫" not in "".join(prompt.text for prompt in bench.prompts())


def test_an_unchanged_prompt_is_reused_within_its_date_alone(bench: MemberBench) -> None:
    member, assistant = bench.visitors()[0], bench.assistants()[0]
    bench.assignment(member, assistant)
    bench.drain(run_id="live")
    for day, expected in ((UNTIL, ANSWERED), (UNTIL, REUSED), (UNTIL - timedelta(days=1), ANSWERED)):
        switch(bench, RuntimeContext(RuntimeMode.SANDBOX, day))
        bench.assignment(member, assistant, is_forced=True)
        assert results(bench.drain(run_id=f"{day} {expected}")) == {expected}
    assert bench.posts() == {"app4": 3, "app5": 3}
    assert sorted((row["cache_type"], row["sandbox_date"]) for row in sandbox_answers(bench)) == sorted(
        (cache_type, day) for cache_type in ("app4_analysis", "app5_tactics") for day in (UNTIL, UNTIL - timedelta(days=1))
    )


def test_a_retry_of_a_sandboxs_job_stays_in_it_and_pays_for_nothing_twice(bench: MemberBench) -> None:
    member, _ = busy_member(bench)
    switch(bench)
    bench.emulator.plan({"app_id": app_id(AppType.CUSTOMER), **INVALID})
    bench.consumption(member)
    bench.drain(run_id="first")
    first = bench.job()
    assert first["status"] == "partial"
    # A failure of an experiment is nobody's alarm.
    assert bench.connection.execute("SELECT FROM biz.ai_alerts").fetchall() == []
    assert bench.trigger(EventName.CONSUMPTION_SETTLED)["last_error"] is None
    bench.emulator.reset()
    switch(bench, LIVE)
    retry_id = retry_job(bench.database, first["id"])
    outcomes = bench.drain(run_id="second")
    assert told(outcomes) == [("app3", REUSED), ("app8", REUSED), ("app7", ANSWERED)]
    retry = trigger_jobs.get(bench.connection, retry_id)
    assert retry is not None
    assert (retry.context, retry.business_date, retry.dedup_key) == (SANDBOX, DAY, first["dedup_key"])
    assert bench.cached() == bench.clues() == []


# Finance


def test_a_sandboxs_prewarm_asks_about_nothing_later_and_writes_apart(bench: MemberBench, live_before: dict[str, list[Row]]) -> None:
    switch(bench)
    bench.fire(EventName.DWS_COMPLETED, {"site_id": SITE})
    bench.take_in()
    engine = bench.engine()
    outcomes = prewarm(engine)
    assert {outcome.result.status for outcome in outcomes} <= {ANSWERED, StepStatus.FIXED}
    assert len(outcomes) == 72
    assert {prompt.app_id for prompt in bench.prompts()} == {app_id(AppType.FINANCE), app_id(AppType.FINANCE_AREA)}
    assert later_dates(bench) == set()
    assert {row["cache_type"] for row in sandbox_answers(bench)} == {finance_app_of(window).cache_type for window in WINDOW_KEYS}
    for row in sandbox_answers(bench):
        assert row["expires_at"].astimezone(SHANGHAI) == datetime(2026, 3, 31, 23, 59, 59, tzinfo=SHANGHAI)
        period = row["result_json"]["_references"]["data"]
        assert period is None or period["end"] <= DAY.isoformat()
    assert live_rows(bench) == live_before
    # What the sandbox holds is valid in its own time.
    bench.fire(EventName.DWS_COMPLETED, {"site_id": SITE, "only_missing": True, "is_forced": True})
    bench.take_in()
    posts = bench.emulator.posts
    assert {outcome.result.status for outcome in prewarm(engine, "prewarm-2")} == {REUSED}
    assert bench.emulator.posts == posts


def test_midnight_does_not_supersede_a_sandboxs_prewarm(bench: MemberBench) -> None:
    switch(bench)
    bench.fire(EventName.DWS_COMPLETED, {"site_id": SITE})
    bench.take_in()
    trigger_jobs.supersede_past(bench.connection, SITE, UNTIL)
    assert bench.statuses() == ["pending"]


def test_the_schedule_prewarms_each_site_in_its_own_context(bench: MemberBench) -> None:
    assert fire_for_unprewarmed_sites(bench.connection, SystemClock(), LIVE) == [SITE, OTHER_SITE]
    bench.take_in()
    switch(bench)
    assert fire_for_unprewarmed_sites(bench.connection, SystemClock(), LIVE) == [SITE]
    bench.take_in()
    assert fire_for_unprewarmed_sites(bench.connection, SystemClock(), LIVE) == []
    assert [(job["site_id"], job["runtime_mode"], job["sandbox_date"]) for job in bench.jobs()] == [
        (SITE, "live", None),
        (OTHER_SITE, "live", None),
        (SITE, "sandbox", DAY),
    ]


def test_a_persons_own_run_in_dagster_is_refused_in_the_sandbox(bench: MemberBench) -> None:
    switch(bench)
    engine = bench.engine()
    with pytest.raises(InvalidRequest, match="沙箱模式"):
        prewarm(engine, asked_by_sensor=False)
    with pytest.raises(InvalidRequest, match="沙箱模式"), MemberRun(engine, SITE, bench.visitors()[:1], MEMBER_APPS, run_id="mine"):
        pass
    assert bench.jobs() == []


def test_a_persons_run_on_a_live_site_leaves_a_sandboxs_waiting_job_alone(bench: MemberBench) -> None:
    switch(bench)
    bench.fire(EventName.DWS_COMPLETED, {"site_id": SITE})
    bench.take_in()
    switch(bench, LIVE)
    engine = bench.engine()
    with PrewarmRun(engine, SITE, list(WINDOW_KEYS), run_id="mine") as run:
        assert run.job is not None
        assert (run.job.is_own_run, run.job.context) == (True, LIVE)
        list(run.outcomes())
    assert bench.statuses() == ["pending", "completed"]
    assert sandbox_answers(bench) == []


# Jobs and modes


def test_a_job_runs_in_the_context_that_it_was_made_in_whatever_is_switched_while_it_waits(bench: MemberBench) -> None:
    first, second = bench.visitors()[:2]
    bench.consumption(first)
    bench.take_in()
    switch(bench)
    bench.consumption(second)
    bench.take_in()
    switch(bench, LIVE)
    bench.drain()
    assert [(job["member_id"], job["runtime_mode"], job["sandbox_date"], job["business_date"] == DAY) for job in bench.jobs()] == [
        (first, "live", None, False),
        (second, "sandbox", DAY, True),
    ]
    assert {row["target_id"] for row in bench.cached()} == {str(first)}
    assert {row["member_id"] for row in bench.clues()} == {first}
    assert {row["target_id"] for row in sandbox_answers(bench)} == {str(second)}


def test_a_live_job_right_after_is_asked_anew_with_all_that_is_known(bench: MemberBench) -> None:
    member, _ = busy_member(bench)
    switch(bench)
    bench.consumption(member)
    bench.drain(run_id="sandbox")
    switch(bench, LIVE)
    bench.consumption(member)
    assert told(bench.drain(run_id="live")) == [("app3", ANSWERED), ("app8", ANSWERED), ("app7", ANSWERED)]
    assert bench.posts() == {"app3": 2, "app8": 2, "app7": 2}
    assert len(bench.cached()) == 3
    assert bench.clues()
    newest = bench.prompts(AppType.CUSTOMER)[-1]
    assert newest.facts["会员"]["最近到店"] > DAY.isoformat()
    assert "<history>" not in newest.text


def test_keys_of_the_modes_are_apart_and_one_sandbox_date_is_one_business_day(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    for context in (LIVE, SANDBOX, SANDBOX, RuntimeContext(RuntimeMode.SANDBOX, UNTIL), LIVE):
        switch(bench, context)
        bench.consumption(member)
        bench.take_in()
    keys = [job["dedup_key"] for job in bench.jobs()]
    today = LIVE.business_date(SystemClock().now())
    assert keys == [
        f"consumption|{SITE}|{member}|-|{today}|live",
        f"consumption|{SITE}|{member}|-|{DAY}|sandbox",
        f"consumption|{SITE}|{member}|-|{UNTIL}|sandbox",
    ]
    assert [job["duplicate_count"] for job in bench.jobs()] == [1, 1, 0]


def test_another_site_stays_live(bench: MemberBench) -> None:
    switch(bench)
    member = bench.visitors(OTHER_SITE)[0]
    bench.fire(EventName.CONSUMPTION_SETTLED, {"site_id": OTHER_SITE, "member_id": member})
    bench.drain()
    assert len(bench.cached()) == 3
    assert sandbox_answers(bench) == []


def test_people_ask_in_the_sites_context_too(bench: MemberBench) -> None:
    member, assistant = busy_member(bench)
    settings = load_settings({})
    bench.consumption(member, assistant)
    bench.drain(run_id="live")
    live = plan_backfill(bench.database, settings, SITE, (AppType.CLUE,), str(member), only_missing=True)
    switch(bench)
    plan = plan_backfill(bench.database, settings, SITE, (AppType.CLUE,), str(member), only_missing=True)
    assert (live.calls, plan.calls) == (0, 1)
    request_backfill(bench.database, plan)
    request_app(bench.database, AppType.CUSTOMER, SITE, member)
    assert {(job["runtime_mode"], job["business_date"]) for job in bench.jobs()[1:]} == {("sandbox", DAY)}


# Money and logs


def test_spending_counts_apart(bench: MemberBench, live_before: dict[str, list[Row]]) -> None:
    member, _ = busy_member(bench)
    switch(bench)
    bench.consumption(member)
    bench.drain()
    spent = sum(row["tokens_used"] for row in logs(bench.connection) if row["runtime_mode"] == "sandbox")
    assert spent > 0
    found = windows(bench)
    assert {name: used for name, used in found.items() if name.startswith("sandbox")} == {
        "sandbox day": spent,
        f"sandbox:{SITE} day": spent,
    }
    assert live_rows(bench)["windows"] == live_before["windows"]
    assert {row["sandbox_date"] for row in logs(bench.connection) if row["runtime_mode"] == "sandbox"} == {DAY}


def test_a_full_sandbox_budget_refuses_the_sandbox_alone(bench: MemberBench) -> None:
    first, second = bench.visitors()[:2]
    engine = bench.engine(ZQYY_SANDBOX_DAILY_TOKEN_LIMIT="6000")
    bench.connection.execute(
        "INSERT INTO biz.ai_budget_windows (scope, kind, starts_on, used_tokens) VALUES ('sandbox', 'day', %s, 5999)",
        [business_date_at(SystemClock().now(), MIDNIGHT)],
    )
    switch(bench)
    bench.consumption(first)
    bench.take_in()
    switch(bench, LIVE)
    bench.consumption(second)
    outcomes = bench.drain(engine)
    by_member = {member: {out.result.error_code for out in outcomes if out.member_id == member} for member in (first, second)}
    assert by_member[first] <= {"budget_exceeded:sandbox_daily", "nothing_to_ask"}
    assert "budget_exceeded:sandbox_daily" in by_member[first]
    assert by_member[second] == {None}
    waiting = bench.jobs()[0]
    assert (waiting["status"], waiting["waits_for"]) == ("pending", "budget")
    assert waiting["not_before"].astimezone(SHANGHAI).time() == MIDNIGHT
    assert bench.connection.execute("SELECT FROM biz.ai_alerts").fetchall() == []
    assert held_rows(bench.connection) == 0


def test_a_call_whose_process_died_is_charged_to_the_sandbox(bench: MemberBench) -> None:
    budget, worker = bench.engine().guards.budget, bench.engine().worker
    with bench.database.transaction() as connection:
        reservation = budget.reserve(
            connection,
            site_id=SITE,
            site_cutoff=MIDNIGHT,
            app_type="app3_clue",
            tokens=700,
            worker_id=worker.id,
            lease=timedelta(0),
            is_sandbox=True,
        )
        budget.mark_sent(connection, reservation, run_log_id=1, lease=timedelta(0))
    with bench.database.transaction() as connection:
        assert budget.settle_of_the_dead(connection, [worker.id]) == (1, 0)
    assert windows(bench) == {"sandbox day": 700, f"sandbox:{SITE} day": 700}


def test_a_failing_sandbox_neither_raises_nor_resolves_the_alerts_of_what_is_live(bench: MemberBench) -> None:
    first, second = bench.visitors()[:2]
    bench.emulator.plan(FINAL)
    bench.consumption(first)
    outcomes = bench.drain(run_id="live")
    assert codes(outcomes)
    before = bench.connection.execute("SELECT * FROM biz.ai_alerts ORDER BY id").fetchall()
    assert before
    switch(bench)
    bench.consumption(second)
    bench.drain(run_id="bad")
    bench.emulator.reset()
    bench.consumption(second, is_forced=True)
    assert results(bench.drain(run_id="good")) <= {ANSWERED, SKIPPED}
    assert bench.connection.execute("SELECT * FROM biz.ai_alerts ORDER BY id").fetchall() == before


# The switch itself


@pytest.mark.parametrize(
    ("mode", "day", "why"),
    [
        (RuntimeMode.SANDBOX, None, "需要 business_date"),
        (RuntimeMode.LIVE, DAY, "live 模式不接受"),
        (RuntimeMode.SANDBOX, date(2099, 1, 1), "不能晚于今天"),
    ],
)
def test_a_context_that_cannot_be_is_refused(bench: MemberBench, mode: RuntimeMode, day: date | None, why: str) -> None:
    site = sites.get_site(bench.connection, SITE)
    with pytest.raises(InvalidRequest, match=why):
        set_context(bench.connection, site, mode, day, clock=SystemClock(), updated_by="小李")
    assert runtime_contexts.context_of(bench.connection, SITE) == LIVE


def test_the_table_takes_no_sandbox_without_a_date(bench: MemberBench) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        bench.connection.execute("INSERT INTO biz.ai_runtime_contexts (site_id, mode, updated_by) VALUES (%s, 'sandbox', 'x')", [SITE])
