"""Work that is started through the API and done by a run: one application waited for, and batches. On demo members, with the emulator."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from fastapi.testclient import TestClient
from starlette.types import Message, Scope

from zqyy_ai.admin.routes import app_runs
from zqyy_ai.domain.access import Role
from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.runtime_context import LIVE, RuntimeContext, RuntimeMode
from zqyy_ai.engine.batches import CANCELLED
from zqyy_ai.engine.call_pauses import pause_calls
from zqyy_ai.store import runtime_contexts
from zqyy_ai_tests.admin.callers import Api, open_api
from zqyy_ai_tests.admin.rows import today
from zqyy_ai_tests.engine.member_bench import FINAL, OTHER_SITE, PASSING, SITE, MemberBench
from zqyy_ai_tests.engine.workbench import wait_until

AI = "/api/admin/ai"
Row = dict[str, Any]


@pytest.fixture
def api(bench: MemberBench) -> Iterator[Api]:
    with open_api(bench.database.url) as opened:
        yield opened


@pytest.fixture
def operator(api: Api) -> TestClient:
    return api.caller(Role.OPERATOR, [SITE], "值班")


def audited(bench: MemberBench) -> list[Row]:
    return bench.connection.execute("SELECT * FROM biz.ai_audit ORDER BY id").fetchall()


# One application


def body_for(bench: MemberBench, app: AppType) -> Row:
    body: Row = {"site_id": SITE}
    match app:
        case AppType.FINANCE:
            return body | {"time_dimension": "last_month"}
        case AppType.FINANCE_AREA:
            return body | {"time_dimension": "last_month", "area": "vip"}
        case AppType.ANALYSIS | AppType.TACTICS:
            member, assistant = bench.visitors()[0], bench.assistants()[0]
            bench.add_task(member, assistant)
            return body | {"member_id": member, "assistant_id": assistant}
        case AppType.NOTE:
            return body | {"member_id": bench.visitors()[0], "note_content": "周末要带同事来打球", "noted_by_name": "小王"}
        case _:
            return body | {"member_id": bench.visitors()[0]}


def test_each_application_is_run_and_answers_with_what_it_wrote(bench: MemberBench, operator: TestClient) -> None:
    with bench.open_run():
        # App8 merges what App3 has found.
        for app in AppType:
            posts = bench.emulator.posts
            answer = operator.post(f"{AI}/run/{app.value}", json=body_for(bench, app) | {"unknown": 1})
            assert answer.status_code == 200, answer.text
            told = answer.json()
            assert (told["app_type"], told["success"], told["error"], told["status"]) == (app.value, True, None, "completed")
            newest = bench.cached(app)[-1]
            assert told["result"] == newest["result_json"]
            assert bench.emulator.posts == posts + 1
            job = bench.jobs()[-1]
            assert (job["id"], job["event_type"], job["is_forced"], job["priority"]) == (told["trigger_job_id"], "run_app", True, 10)
    assert [row["action"] for row in audited(bench)] == ["app.run"] * len(AppType)
    assert "同事" not in str(audited(bench))


@pytest.mark.parametrize(
    ("app", "body", "field"),
    [
        ("app2_finance", {}, "time_dimension"),
        ("app2_finance", {"time_dimension": "this_month", "area": "vip"}, "area"),
        ("app2_finance", {"time_dimension": "yesterday"}, "time_dimension"),
        ("app2a_finance_area", {"area": "vip"}, "time_dimension"),
        ("app2a_finance_area", {"time_dimension": "this_month"}, "area"),
        ("app2a_finance_area", {"time_dimension": "this_month", "area": "all"}, "area"),
        ("app3_clue", {}, "member_id"),
        ("app4_analysis", {"assistant_id": 12}, "member_id"),
        ("app4_analysis", {"member_id": 7}, "assistant_id"),
        ("app5_tactics", {"member_id": 7}, "assistant_id"),
        ("app6_note", {"note_content": "x"}, "member_id"),
        ("app6_note", {"member_id": 7, "note_content": " "}, "note_content"),
        ("app7_customer", {"member_id": 0}, "member_id"),
        ("app8_consolidation", {}, "member_id"),
    ],
)
def test_a_field_that_the_application_needs_is_named_where_it_is_missing(operator: TestClient, app: str, body: Row, field: str) -> None:
    answer = operator.post(f"{AI}/run/{app}", json={"site_id": SITE} | body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [f"body.{field}"]


def test_an_unknown_application_or_member_is_refused_before_any_job(bench: MemberBench, operator: TestClient) -> None:
    assert operator.post(f"{AI}/run/app9", json={"site_id": SITE}).status_code == 422
    unknown = operator.post(f"{AI}/run/app3_clue", json={"site_id": SITE, "member_id": 999})
    theirs = operator.post(f"{AI}/run/app3_clue", json={"site_id": SITE, "member_id": bench.visitors(OTHER_SITE)[0]})
    assert (unknown.status_code, theirs.status_code) == (422, 422)
    assert "没有会员 999" in unknown.json()["detail"]
    assert bench.jobs() == []


def test_a_failure_and_nothing_to_ask_about_are_told_as_what_they_are(bench: MemberBench, operator: TestClient) -> None:
    bench.emulator.plan(FINAL)
    with bench.open_run():
        failed = operator.post(f"{AI}/run/app7_customer", json={"site_id": SITE, "member_id": bench.visitors()[0]}).json()
        silent = operator.post(f"{AI}/run/app3_clue", json={"site_id": SITE, "member_id": bench.strangers()[0]}).json()
    assert (failed["success"], failed["result"], failed["status"]) == (False, None, "failed")
    assert "1 个步骤未完成" in failed["error"]
    assert (silent["success"], silent["result"], silent["status"]) == (False, None, "completed")
    assert "没有可询问的内容" in silent["error"]


def test_what_was_sent_back_for_longer_than_anybody_waits_is_told_at_once(bench: MemberBench) -> None:
    bench.emulator.plan(PASSING)
    with open_api(bench.database.url, ZQYY_STEP_TIMEOUT_SECONDS="1") as api, bench.open_run():
        told = api.caller(Role.OPERATOR).post(f"{AI}/run/app7_customer", json={"site_id": SITE, "member_id": bench.visitors()[0]}).json()
    assert (told["success"], told["status"]) == (False, "pending")
    assert "之后自动继续" in told["error"]


def test_at_the_bound_the_job_is_named_and_goes_on(bench: MemberBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_runs, "_MARGIN_SECONDS", 0.0)
    with open_api(bench.database.url, ZQYY_STEP_TIMEOUT_SECONDS="0.5") as api:
        answer = api.caller(Role.OPERATOR).post(f"{AI}/run/app7_customer", json={"site_id": SITE, "member_id": bench.visitors()[0]})
    assert (answer.status_code, answer.json()["code"]) == (504, "timeout")
    assert answer.json()["trigger_job_id"] == bench.job()["id"]
    bench.drain()
    assert bench.statuses() == ["completed"]


def test_who_leaves_is_waited_for_no_longer_and_the_job_goes_on(bench: MemberBench, api: Api) -> None:
    body = json.dumps({"site_id": SITE, "member_id": bench.visitors()[0]}).encode()
    incoming: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": f"{AI}/run/app7_customer",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"authorization", f"Bearer {api.token(Role.OPERATOR)}".encode())],
        "client": ("10.0.0.9", 40_000),
    }

    async def receive() -> Message:
        return next(incoming, {"type": "http.disconnect"})

    async def send(_message: Message) -> None:
        """Nobody reads it."""

    started = time.monotonic()

    async def call() -> None:
        await api.anonymous.app(scope, receive, send)

    anyio.run(call)
    assert time.monotonic() - started < api.services.settings.step_timeout_seconds / 10
    assert bench.statuses() == ["pending"]
    bench.drain()
    assert bench.statuses() == ["completed"]


def test_many_who_wait_hold_neither_thread_nor_connection(bench: MemberBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty wait on a pool of ten connections and forty threads, while others are served."""
    monkeypatch.setattr(app_runs, "_MARGIN_SECONDS", 60.0)
    members = bench.visitors()[:3]
    with open_api(bench.database.url) as api, ThreadPoolExecutor(60) as waiting:
        caller, other = api.caller(Role.OPERATOR), api.caller(Role.VIEWER)
        asked = [
            waiting.submit(caller.post, f"{AI}/run/app7_customer", json={"site_id": SITE, "member_id": members[number % 3]})
            for number in range(60)
        ]
        wait_until(lambda: len(bench.jobs()) == 60)
        assert other.get("/api/session").status_code == 200
        bench.connection.execute("UPDATE biz.ai_trigger_jobs SET status = 'failed', error_message = '已取消', finished_at = now()")
        answers = [one.result() for one in asked]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["error"] for answer in answers} == {"已取消"}


def test_during_a_pause_nobody_is_left_waiting(bench: MemberBench, operator: TestClient) -> None:
    pause_calls(bench.database, reason="核对账单", by="王店长")
    answer = operator.post(f"{AI}/run/app7_customer", json={"site_id": SITE, "member_id": bench.visitors()[0]})
    assert (answer.status_code, answer.json()["code"]) == (409, "paused")
    assert bench.jobs() == []


# Batches


def estimate(caller: TestClient, apps: list[str], members: list[int]) -> Row:
    answer = caller.post(f"{AI}/batch-run", json={"site_id": SITE, "app_types": apps, "member_ids": members})
    assert answer.status_code == 200, answer.text
    told: Row = answer.json()
    return told


def confirm(caller: TestClient, batch_id: str) -> Any:
    return caller.post(f"{AI}/batch-run/confirm", json={"batch_id": batch_id})


def test_a_batch_is_estimated_confirmed_and_done_with_its_progress_told(bench: MemberBench, operator: TestClient) -> None:
    members = bench.visitors()[:3]
    told = estimate(operator, ["app7_customer", "app3_clue"], [*members, members[0]])
    assert str(UUID(told["batch_id"])) == told["batch_id"]
    assert (told["estimated_calls"], told["calls_by_app"]) == (6, {"app3_clue": 3, "app7_customer": 3})
    assert told["estimated_tokens"] > 0
    assert told["estimated_cny"] > 0
    assert (told["member_count"], bench.jobs()) == (3, [])
    path = f"{AI}/batch-run/{told['batch_id']}"
    assert operator.get(path).json()["status"] == "estimated"

    started = confirm(operator, told["batch_id"])
    assert started.status_code == 200
    assert (started.json()["status"], started.json()["job_count"]) == ("started", 3)
    assert {(job["event_type"], str(job["batch_id"]), job["app_chain"], job["priority"] < 0) for job in bench.jobs()} == {
        ("batch_run", told["batch_id"], "app3→app7", True)
    }
    assert operator.get(path).json()["status"] == "waiting"
    bench.drain()
    progress = operator.get(path).json()
    assert (progress["status"], progress["job_count"], progress["ended_count"], progress["done"], progress["calls"]) == (
        "completed",
        3,
        3,
        6,
        6,
    )
    assert progress["jobs_by_status"] == {"completed": 3}
    assert [row["action"] for row in audited(bench)] == ["batch.estimate", "batch.confirm"]


def test_windows_of_the_finance_applications_are_a_batch_too(bench: MemberBench, operator: TestClient) -> None:
    told = estimate(operator, ["app2_finance", "app2a_finance_area"], [])
    assert told["calls_by_app"] == {"app2_finance": 8, "app2a_finance_area": 64}
    assert confirm(operator, told["batch_id"]).json()["job_count"] == 72
    assert len({job["dedup_key"] for job in bench.jobs()}) == 72
    bench.drain_all()
    assert set(bench.statuses()) == {"completed"}
    assert len({row["target_id"] for row in bench.cached()}) == 72


def test_no_members_named_are_the_active_ones(bench: MemberBench, operator: TestClient) -> None:
    bench.connection.execute("UPDATE demo_dws.members SET last_visit_on = '2020-01-01'")
    assert estimate(operator, ["app3_clue"], [])["member_count"] == 0
    active = bench.visitors()[0]
    bench.connection.execute("UPDATE demo_dws.members SET last_visit_on = current_date WHERE member_id = %s", [active])
    told = estimate(operator, ["app3_clue"], [])
    assert told["member_count"] == 1
    assert confirm(operator, told["batch_id"]).status_code == 200
    assert [job["member_id"] for job in bench.jobs()] == [active]


def test_fifty_confirmations_at_once_start_a_batch_once(bench: MemberBench, api: Api) -> None:
    operator = api.caller(Role.OPERATOR, [SITE])
    batch_id = estimate(operator, ["app3_clue"], bench.visitors())["batch_id"]
    callers = [api.caller(Role.OPERATOR, [SITE]) for _ in range(50)]
    ready = threading.Barrier(50)

    def at_once(caller: TestClient) -> Any:
        ready.wait()
        return confirm(caller, batch_id)

    with ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(at_once, callers))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 49
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {"batch_confirmed", "batch_busy"}
    assert len(bench.jobs()) == len(bench.visitors())
    assert confirm(operator, batch_id).json()["code"] == "batch_confirmed"


def test_a_selection_that_finds_others_than_estimated_is_refused_with_both_numbers(bench: MemberBench, operator: TestClient) -> None:
    member, assistant = bench.visitors()[0], bench.assistants()[0]
    told = estimate(operator, ["app3_clue", "app4_analysis"], [member])
    bench.add_task(member, assistant)
    refused = confirm(operator, told["batch_id"])
    assert refused.status_code == 409
    problem = refused.json()
    assert (problem["code"], problem["estimated_calls"], problem["present_calls"]) == ("batch_changed", 1, 2)
    assert problem["present_calls_by_app"] == {"app3_clue": 1, "app4_analysis": 1}
    assert bench.jobs() == []


def test_an_estimate_expires(bench: MemberBench, operator: TestClient) -> None:
    told = estimate(operator, ["app3_clue"], bench.visitors()[:1])
    bench.connection.execute("UPDATE biz.ai_batches SET expires_at = now()")
    assert confirm(operator, told["batch_id"]).json()["code"] == "batch_expired"
    assert operator.get(f"{AI}/batch-run/{told['batch_id']}").json()["status"] == "expired"


@pytest.mark.parametrize(
    ("limit", "name"),
    [
        ("ZQYY_SITE_DAILY_TOKEN_LIMIT", "site_daily"),
        ("ZQYY_SITE_MONTHLY_TOKEN_LIMIT", "site_monthly"),
        ("ZQYY_DAILY_TOKEN_LIMIT", "daily"),
        ("ZQYY_MONTHLY_TOKEN_LIMIT", "monthly"),
    ],
)
def test_a_budget_that_cannot_hold_the_batch_refuses_it_with_the_numbers(bench: MemberBench, limit: str, name: str) -> None:
    bench.connection.execute(
        "INSERT INTO biz.ai_budget_windows (scope, kind, starts_on, used_tokens, reserved_tokens)"
        " SELECT scope, kind, CASE kind WHEN 'day' THEN today ELSE date_trunc('month', today)::date END, 300, 100"
        " FROM (VALUES ('chain'), ('site:1001')) AS scopes (scope), (VALUES ('day'), ('month')) AS kinds (kind),"
        " (SELECT (now() AT TIME ZONE 'Asia/Shanghai')::date AS today) AS clock"
    )
    with open_api(bench.database.url, **{limit: "1000"}) as api:
        of_the_chain, of_the_site = api.caller(Role.OPERATOR), api.caller(Role.OPERATOR, [SITE])
        told = estimate(of_the_chain, ["app3_clue"], bench.visitors()[:1])
        problem = confirm(of_the_chain, told["batch_id"]).json()
        assert (problem["status"], problem["code"], problem["limit"]) == (409, "budget_insufficient", name)
        assert (problem["limit_tokens"], problem["spoken_for_tokens"], problem["available_tokens"]) == (1000, 400, 600)
        assert problem["needed_tokens"] == told["estimated_tokens"]
        narrow = confirm(of_the_site, told["batch_id"]).json()
        assert narrow["available_tokens"] == (600 if name.startswith("site") else None), "others' spending is not a site's to see"
    assert bench.jobs() == []


def test_a_batch_without_anything_to_do_is_not_started(bench: MemberBench, operator: TestClient) -> None:
    told = estimate(operator, ["app3_clue"], bench.strangers()[:1])
    assert told["estimated_calls"] == 0
    assert confirm(operator, told["batch_id"]).json()["code"] == "batch_empty"


def test_cancelling_keeps_what_is_done_and_begins_nothing_more(bench: MemberBench, operator: TestClient) -> None:
    members = bench.visitors()[:4]
    batch_id = estimate(operator, ["app7_customer"], members)["batch_id"]
    confirm(operator, batch_id)
    done, running = bench.jobs()[:2]
    bench.connection.execute("UPDATE biz.ai_trigger_jobs SET status = 'completed' WHERE id = %s", [done["id"]])
    bench.connection.execute("UPDATE biz.ai_trigger_jobs SET status = 'running' WHERE id = %s", [running["id"]])

    answer = operator.post(f"{AI}/batch-run/{batch_id}/cancel")
    assert answer.json() == {"status": "cancelling", "batch_id": batch_id, "cancelled_jobs": 2}
    assert [(job["status"], job["error_message"]) for job in bench.jobs()] == [
        ("completed", None), ("running", None), ("failed", CANCELLED), ("failed", CANCELLED),
    ]  # fmt: skip
    assert operator.post(f"{AI}/batch-run/{batch_id}/cancel").status_code == 409

    # The one under way comes back to the queue, and is not begun again.
    bench.connection.execute("UPDATE biz.ai_trigger_jobs SET status = 'pending', sent_back_count = 1 WHERE id = %s", [running["id"]])
    assert bench.drain() == []
    assert (bench.jobs()[1]["status"], bench.jobs()[1]["error_message"]) == ("failed", CANCELLED)
    assert operator.get(f"{AI}/batch-run/{batch_id}").json()["status"] == "cancelled"
    assert bench.connection.execute("SELECT FROM biz.ai_alerts").fetchall() == []
    assert bench.emulator.posts == 0


def test_an_estimate_may_be_cancelled_and_is_then_no_more_confirmed(bench: MemberBench, operator: TestClient) -> None:
    batch_id = estimate(operator, ["app3_clue"], bench.visitors()[:1])["batch_id"]
    assert operator.post(f"{AI}/batch-run/{batch_id}/cancel").json()["cancelled_jobs"] == 0
    assert confirm(operator, batch_id).json()["code"] == "batch_cancelled"


def test_a_batch_that_is_over_is_not_cancelled(bench: MemberBench, operator: TestClient) -> None:
    batch_id = estimate(operator, ["app3_clue"], bench.visitors()[:1])["batch_id"]
    confirm(operator, batch_id)
    bench.drain()
    assert operator.post(f"{AI}/batch-run/{batch_id}/cancel").status_code == 409


def test_a_batch_of_another_site_is_not_there(bench: MemberBench, api: Api, operator: TestClient) -> None:
    batch_id = estimate(operator, ["app3_clue"], bench.visitors()[:1])["batch_id"]
    stranger = api.caller(Role.OPERATOR, [OTHER_SITE])
    for there, nowhere in zip(reach(stranger, batch_id), reach(stranger, str(uuid4())), strict=True):
        assert there.status_code == nowhere.status_code == 404
    assert bench.jobs() == []


def reach(caller: TestClient, batch_id: str) -> list[Any]:
    return [confirm(caller, batch_id), caller.get(f"{AI}/batch-run/{batch_id}"), caller.post(f"{AI}/batch-run/{batch_id}/cancel")]


@pytest.mark.parametrize(
    "body",
    [
        {"app_types": [], "member_ids": []},
        {"app_types": ["app9"], "member_ids": []},
        {"app_types": ["app3_clue"]},
        {"app_types": ["app3_clue"], "member_ids": [0]},
        {"app_types": ["app3_clue"], "member_ids": [2**63]},
        {"app_types": ["app3_clue"], "member_ids": ["x"]},
        {"app_types": ["app3_clue"], "member_ids": list(range(1, 5002))},
        {"app_types": ["app3_clue"], "member_ids": [999]},
    ],
)
def test_a_selection_that_cannot_be_meant_is_refused(operator: TestClient, body: Row) -> None:
    assert operator.post(f"{AI}/batch-run", json={"site_id": SITE} | body).status_code == 422


@pytest.mark.parametrize("batch_id", ["x", "", "1; DROP TABLE", None, 5])
def test_a_batch_id_that_is_none_is_refused(operator: TestClient, batch_id: object) -> None:
    assert operator.post(f"{AI}/batch-run/confirm", json={"batch_id": batch_id}).status_code == 422


# In the sandbox


def switch(bench: MemberBench, day: date | None) -> None:
    context = RuntimeContext(RuntimeMode.SANDBOX, day) if day else LIVE
    with bench.database.transaction() as connection:
        runtime_contexts.put(connection, SITE, context, "小李")


def test_what_people_start_in_the_sandbox_is_answered_there_and_is_in_no_figure(bench: MemberBench, operator: TestClient) -> None:
    day = today() - timedelta(days=3)
    switch(bench, day)
    member = bench.visitors()[0]
    with bench.open_run():
        of_member = operator.post(f"{AI}/run/app3_clue", json={"site_id": SITE, "member_id": member}).json()
        of_window = operator.post(f"{AI}/run/app2_finance", json={"site_id": SITE, "time_dimension": "last_month"}).json()
    batch_id = estimate(operator, ["app3_clue", "app2_finance"], [member])["batch_id"]
    assert confirm(operator, batch_id).json()["job_count"] == 9
    bench.drain()

    assert of_member["success"] and of_window["success"], (of_member, of_window)
    assert bench.cached() == []
    answered = bench.connection.execute("SELECT cache_type, sandbox_date FROM biz.ai_sandbox_answers ORDER BY id").fetchall()
    assert [row["cache_type"] for row in answered[:2]] == ["app3_clue", "app2_finance"]
    assert {row["sandbox_date"] for row in answered} == {day}
    assert operator.get(f"{AI}/batch-run/{batch_id}").json()["status"] == "completed"

    logs = operator.get(f"{AI}/run-logs").json()
    of_sandbox = operator.get(f"{AI}/run-logs", params={"runtime_mode": "sandbox"}).json()
    dashboard = operator.get(f"{AI}/dashboard").json()
    assert (logs["items"], logs["total"], dashboard["today_calls"], dashboard["today_tokens"]) == ([], 0, 0, 0)
    assert dashboard["budget"]["daily_used"] == 0
    assert of_sandbox["total"] == len(of_sandbox["items"]) >= 10
    assert {(item["runtime_mode"], item["sandbox_date"]) for item in of_sandbox["items"]} == {("sandbox", day.isoformat())}
    job = operator.get(f"{AI}/trigger-jobs/{of_member['trigger_job_id']}").json()
    assert (job["runtime_mode"], job["business_date"], len(job["steps"])) == ("sandbox", day.isoformat(), 1)


def test_what_was_estimated_for_the_sandbox_is_not_confirmed_for_live(bench: MemberBench, operator: TestClient) -> None:
    switch(bench, today() - timedelta(days=3))
    batch_id = estimate(operator, ["app2_finance"], [])["batch_id"]
    switch(bench, None)

    refused = confirm(operator, batch_id)

    assert (refused.status_code, refused.json()["code"]) == (409, "batch_changed")
    assert bench.jobs() == []


def test_a_batch_in_the_sandbox_is_held_against_the_sandboxs_budget(bench: MemberBench) -> None:
    switch(bench, today() - timedelta(days=3))
    with open_api(bench.database.url, ZQYY_SANDBOX_DAILY_TOKEN_LIMIT="1000") as api:
        operator = api.caller(Role.OPERATOR)
        refused = confirm(operator, estimate(operator, ["app2_finance"], [])["batch_id"])
    assert (refused.status_code, refused.json()["limit"], refused.json()["limit_tokens"]) == (409, "sandbox_daily", 1000)
