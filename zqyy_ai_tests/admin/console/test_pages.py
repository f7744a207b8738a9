"""The pages as the server sends them: for whom, what is on them, and what is not."""

import re

import pytest
from fastapi.routing import APIRoute

from zqyy_ai.admin.console.pages import PAGES
from zqyy_ai.domain.access import Role
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.admin.callers import OTHER_SITE, SITE, Api, open_api
from zqyy_ai_tests.admin.console.furniture import MEMBER, OTHERS_SECRET, Furniture, pages_of, parts_of
from zqyy_ai_tests.admin.console.visitors import sign_in
from zqyy_ai_tests.admin.rows import add_alert

POLICY = "default-src 'none'; script-src 'self'; style-src 'self';"


def test_whoever_is_not_logged_in_comes_to_the_login_and_back_to_the_page(api: Api) -> None:
    page = api.anonymous.get("/logs?app_type=app3_clue", headers={"Accept": "text/html"}, follow_redirects=False)
    assert (page.status_code, page.headers["location"]) == (303, "/login?next=/logs%3Fapp_type%3Dapp3_clue")
    form = api.anonymous.get(page.headers["location"]).text
    assert 'value="/logs?app_type=app3_clue"' in form
    part = api.anonymous.get("/logs/1", headers={"HX-Request": "true"})
    assert (part.status_code, part.headers["hx-redirect"]) == (204, "/login?next=/")
    part = api.anonymous.get("/logs/1", headers={"HX-Request": "true", "HX-Current-URL": "http://testserver/logs?page=2"})
    assert part.headers["hx-redirect"] == "/login?next=/logs%3Fpage%3D2"
    assert api.anonymous.get("/logs", headers={"X-Console-Refresh": "yes"}).status_code == 401


@pytest.mark.parametrize("elsewhere", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/login"])
def test_a_login_leads_nowhere_else(api: Api, elsewhere: str) -> None:
    answer = api.anonymous.post("/login", data={"token": api.token(Role.VIEWER), "next": elsewhere}, follow_redirects=False)
    assert answer.headers["location"] == "/"


def test_a_wrong_token_is_told_on_the_form_and_too_many_are_made_to_wait(api: Api) -> None:
    wrong = api.anonymous.post("/login", data={"token": "zqyy_nonsense"})
    assert wrong.status_code == 401
    assert "令牌无效" in wrong.text
    assert "请粘贴令牌" in api.anonymous.post("/login", data={"token": " "}).text
    answers = [api.anonymous.post("/login", data={"token": "zqyy_nonsense"}) for _ in range(30)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) > 0


@pytest.mark.parametrize("role", [Role.INTERNAL, Role.READER])
def test_a_services_token_is_told_that_the_console_is_not_for_it(api: Api, role: Role) -> None:
    answer = api.anonymous.post("/login", data={"token": api.token(role)}, follow_redirects=False)
    assert answer.status_code == 403
    assert "不能使用控制台" in answer.text
    assert "set-cookie" not in answer.headers


def test_a_logout_ends_the_session(api: Api) -> None:
    visitor = sign_in(api, api.token(Role.VIEWER))
    cookie = visitor.client.cookies["zqyy_session"]
    assert visitor.post("/logout").headers["hx-redirect"] == "/login"
    visitor.client.cookies.set("zqyy_session", cookie)
    assert visitor.get("/").status_code == 303


def test_every_page_is_whole_for_every_role_and_says_whose_scripts_it_runs(api: Api, furniture: Furniture) -> None:
    for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN):
        visitor = sign_in(api, api.token(role))
        for path in pages_of(furniture):
            page = visitor.get(path)
            assert page.status_code == 200, f"{path}: {page.text}"
            assert page.headers["content-security-policy"].startswith(POLICY)
            assert page.headers["cache-control"] == "no-store"
            assert "<style" not in page.text
            assert not re.search(r"\sstyle=|\son\w+=\"|<script(?![^>]* src=)", page.text)
        for path in parts_of(furniture):
            assert visitor.part(path).status_code == 200, path


def test_what_others_wrote_is_text_and_never_markup(api: Api, furniture: Furniture) -> None:
    visitor = sign_in(api, api.token(Role.ADMIN))
    shown = 0
    for page in [*map(visitor.get, pages_of(furniture)), *map(visitor.part, parts_of(furniture))]:
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text
        shown += page.text.count("&lt;script&gt;alert")
    assert shown > 15


def test_a_viewer_sees_no_action(api: Api, furniture: Furniture) -> None:
    visitor = sign_in(api, api.token(Role.VIEWER))
    for path in pages_of(furniture):
        posts = set(re.findall(r'hx-post="([^"]+)"', visitor.get(path).text))
        assert posts == {"/logout"}, path
    for path in parts_of(furniture):
        assert "hx-post" not in visitor.part(path).text, path
    assert visitor.part("/jobs/new").status_code == 403


def test_an_operator_sees_no_switch_of_the_whole_chain(api: Api) -> None:
    visitor = sign_in(api, api.token(Role.OPERATOR))
    assert 'hx-post="/triggers' not in visitor.get("/triggers").text
    assert 'hx-post="/cache/pause' not in visitor.get("/cache").text


ACTIONS: list[tuple[str, dict[str, object], Role]] = [
    ("/prewarm/run", {"site_id": SITE, "target_id": "this_month__all"}, Role.OPERATOR),
    ("/prewarm/run-missing", {"site_id": SITE}, Role.OPERATOR),
    ("/jobs", {"event_type": "consumption", "event_site_id": SITE, "member_id": 7}, Role.OPERATOR),
    ("/jobs/1/retry", {}, Role.OPERATOR),
    ("/alerts/act", {"action": "ack", "alert_id": 1}, Role.OPERATOR),
    ("/members/run", {"app_type": "app3_clue", "site_id": SITE, "member_id": 7}, Role.OPERATOR),
    ("/batches/estimate", {"batch_site_id": SITE, "app_types": "app2_finance"}, Role.OPERATOR),
    ("/batches/confirm", {"batch_id": "5f6f5ec0-0000-4000-8000-000000000000"}, Role.OPERATOR),
    ("/batches/5f6f5ec0-0000-4000-8000-000000000000/cancel", {}, Role.OPERATOR),
    ("/cache/invalidate", {"cache_site_id": SITE, "is_confirmed": "true"}, Role.OPERATOR),
    ("/triggers/1", {"status": "disabled"}, Role.ADMIN),
    ("/cache/pause", {"reason": "x"}, Role.ADMIN),
    ("/cache/resume", {}, Role.ADMIN),
]


def test_an_action_needs_its_role_and_the_pages_own_token(api: Api, connection: Connection) -> None:
    visitors = {role: sign_in(api, api.token(role)) for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN)}
    for path, form, role in ACTIONS:
        below = Role.VIEWER if role is Role.OPERATOR else Role.OPERATOR
        refused = visitors[below].post(path, form)
        assert refused.status_code == 403, path
        assert 'role="alert"' in refused.text, path
        forged = visitors[Role.ADMIN].post(path, form, csrf_token="")
        assert forged.status_code == 403, path
        assert "请刷新页面后重试" in forged.text, path
    assert connection.execute("SELECT count(*) AS rows FROM biz.ai_audit").fetchone() == {"rows": 0}


def test_every_action_is_among_those_that_are_tested() -> None:
    routes = [route for page in PAGES for route in page.router.routes if isinstance(route, APIRoute)]
    posts = {re.sub(r"\{\w+\}", "{}", route.path) for route in routes if "POST" in (route.methods or ())}
    assert posts == {re.sub(r"/[0-9a-f-]{36}|/\d+", "/{}", path) for path, _, _ in ACTIONS}


def test_nobody_sees_another_sites_rows_on_any_page(api: Api, furniture: Furniture) -> None:
    visitor = sign_in(api, api.token(Role.OPERATOR, [SITE]))
    for page in [*map(visitor.get, pages_of(furniture)), *map(visitor.part, parts_of(furniture))]:
        assert page.status_code == 200
        assert OTHERS_SECRET not in page.text
        assert "高新店" not in page.text
    for path in (
        f"/logs/{furniture.others_log_id}",
        f"/jobs/{furniture.others_job_id}",
        f"/prewarm?site_id={OTHER_SITE}",
        "/?site_id=1009",
    ):
        page = visitor.part(path)
        assert page.status_code == 404, path
        assert OTHERS_SECRET not in page.text


def test_another_site_is_refused_to_every_action(api: Api, connection: Connection, furniture: Furniture) -> None:
    visitor = sign_in(api, api.token(Role.OPERATOR, [SITE]))
    others: list[tuple[str, dict[str, object]]] = [
        ("/prewarm/run", {"site_id": OTHER_SITE, "target_id": "this_month__all"}),
        ("/prewarm/run-missing", {"site_id": OTHER_SITE}),
        ("/jobs", {"event_type": "consumption", "event_site_id": OTHER_SITE, "member_id": 7}),
        (f"/jobs/{furniture.others_job_id}/retry", {}),
        ("/members/run", {"app_type": "app3_clue", "site_id": OTHER_SITE, "member_id": 7}),
        ("/batches/estimate", {"batch_site_id": OTHER_SITE, "app_types": "app2_finance"}),
        ("/cache/invalidate", {"cache_site_id": OTHER_SITE, "is_confirmed": "true"}),
    ]
    before = connection.execute("SELECT count(*) AS jobs FROM biz.ai_trigger_jobs").fetchone()
    for path, form in others:
        assert visitor.post(path, form).status_code == 404, path
    assert connection.execute("SELECT count(*) AS jobs FROM biz.ai_trigger_jobs").fetchone() == before


def test_an_empty_database_says_what_to_do(api: Api) -> None:
    visitor = sign_in(api, api.token(Role.ADMIN))
    for path, advice in {
        "/": "在「预热矩阵」运行一家门店",
        "/jobs": "用「手动触发」登记一个",
        "/jobs/rejected": "不符合约定的事件会留在这里",
        "/logs": "调用由事件、预热或手动触发产生",
        "/alerts": "不需要刷新",
        "/members": "输入会员编号查看",
        f"/members?member_id={MEMBER}": "还没有生成",
        "/batches": "先估算再确认",
    }.items():
        assert advice in visitor.get(path).text, path


def test_a_site_in_the_sandbox_is_marked_on_every_page(api: Api, connection: Connection, furniture: Furniture) -> None:
    connection.execute(
        "INSERT INTO biz.ai_runtime_contexts (site_id, mode, business_date, updated_by) VALUES (%s, 'sandbox', '2026-04-20', '店长')",
        [SITE],
    )
    visitor = sign_in(api, api.token(Role.VIEWER))
    for path in pages_of(furniture):
        page = visitor.get(path).text
        assert 'class="banner sandbox"' in page, path
        assert "2026-04-20" in page, path
    elsewhere = sign_in(api, api.token(Role.VIEWER, [OTHER_SITE]))
    assert 'class="banner sandbox"' not in elsewhere.get("/").text


def test_what_the_sandbox_has_brought_is_beside_what_readers_get(api: Api, connection: Connection) -> None:
    for cache_type, target_id in (("app2_finance", "this_month__all"), ("app3_clue", str(MEMBER))):
        connection.execute(
            "INSERT INTO biz.ai_sandbox_answers (cache_type, site_id, target_id, sandbox_date, result_json)"
            " VALUES (%s, %s, %s, '2026-04-20', '{\"summary\": \"沙箱里的话\"}')",
            [cache_type, SITE, target_id],
        )
    visitor = sign_in(api, api.token(Role.VIEWER))
    for path in (
        f"/prewarm/cell?site_id={SITE}&target_id=this_month__all",
        f"/members/history?site_id={SITE}&app_type=app3_clue&target_id={MEMBER}",
    ):
        part = visitor.part(path).text
        assert "业务日 2026-04-20" in part
        assert "沙箱里的话" in part
    assert "沙箱里的话" not in visitor.get(f"/members?site_id={SITE}&member_id={MEMBER}").text


def test_a_pause_is_told_on_every_page(api: Api, connection: Connection, furniture: Furniture) -> None:
    connection.execute("INSERT INTO biz.ai_call_pauses (reason, paused_by) VALUES ('核对账单', '店长')")
    visitor = sign_in(api, api.token(Role.VIEWER))
    for path in pages_of(furniture):
        assert "暂停了全部模型调用：核对账单" in visitor.get(path).text, path


WRONG_ADDRESSES = [
    ("/?range_days=5", 422, "天数应为"),
    ("/?range_days=x", 422, "天数 &#39;x&#39; 无效"),
    ("/?date_from=2026-04-20", 422, "需成对给出"),
    ("/?date_from=2026-04-20&date_to=2026-04-01", 422, "截止日不能早于起始日"),
    ("/?date_from=yesterday&date_to=2026-04-01", 422, "应为日期"),
    ("/?site_id=abc", 422, "应为正整数"),
    ("/?site_id=99999999999999999999", 422, ""),
    ("/jobs?status=broken", 422, "应为 pending"),
    ("/jobs?member_id=-1", 422, "应为正整数"),
    ("/jobs?page=0", 422, "应为正整数"),
    ("/jobs/999999", 404, "任务 999999 不存在"),
    ("/logs?trigger_type=x", 422, "触发方式应为"),
    ("/logs/999999", 404, "调用记录 999999 不存在"),
    ("/members?member_id=x", 422, "应为正整数"),
    ("/prewarm/cell?target_id=x", 404, "不存在"),
    ("/alerts/runbook/x", 422, "告警类型"),
    ("/cache?date_from=2020-01-01", 422, "最多 400 天"),
    ("/nowhere", 404, "没有这个地址"),
    ("/static/0000000000000000/console.css", 404, "不存在"),
]


def test_a_wrong_address_is_answered_with_a_page_that_says_what_is_right(api: Api) -> None:
    visitor = sign_in(api, api.token(Role.ADMIN))
    for path, status, told in WRONG_ADDRESSES:
        page = visitor.get(path)
        assert page.status_code == status, path
        assert page.headers["content-type"].startswith("text/html"), path
        assert told in page.text, path
        assert page.headers["content-security-policy"].startswith(POLICY), path


WRONG_FORMS: list[tuple[str, dict[str, object], str]] = [
    ("/prewarm/run", {"site_id": SITE}, "请指定窗口"),
    ("/prewarm/run", {"site_id": SITE, "area": "roof"}, "区域"),
    ("/prewarm/run", {"target_id": "this_month__all"}, "门店编号"),
    ("/prewarm/run-missing", {"site_id": SITE, "scope": "some"}, "missing 或 all"),
    ("/jobs", {"event_type": "note_created", "event_site_id": SITE, "member_id": 7}, "备注"),
    ("/jobs", {"event_type": "consumption", "event_site_id": SITE}, "请填写会员编号"),
    ("/jobs", {"event_type": "task_assigned", "event_site_id": SITE, "member_id": 7}, "助教编号"),
    ("/jobs", {"event_type": "party", "event_site_id": SITE}, "事件"),
    ("/alerts/act", {"action": "ack"}, "请先勾选告警"),
    ("/alerts/act", {"action": "forget", "alert_id": 1}, "操作应为"),
    ("/alerts/act", {"action": "ack", "alert_id": 999_999}, "告警 999999 不存在"),
    ("/members/run", {"app_type": "app2_finance", "site_id": SITE, "member_id": 7}, "会员应用"),
    ("/members/run", {"app_type": "app4_analysis", "site_id": SITE, "member_id": 7}, "助教编号"),
    ("/batches/estimate", {"batch_site_id": SITE}, "请至少选择一个应用"),
    ("/batches/estimate", {"batch_site_id": SITE, "app_types": "app3_clue", "members": "pasted"}, "请粘贴会员编号"),
    ("/batches/estimate", {"batch_site_id": SITE, "app_types": "app3_clue", "members": "pasted", "pasted_ids": "1, zwei"}, "zwei"),
    ("/batches/estimate", {"batch_site_id": SITE, "app_types": "app4_analysis", "members": "filtered", "only_missing": "true"}, ""),
    ("/batches/confirm", {"batch_id": "nothing"}, "应为 UUID"),
    ("/triggers/5", {"cron_expression": "every day"}, "应为五段"),
    ("/triggers/1", {"cron_expression": "30 8 * * *"}, "只有 cron 触发器"),
    ("/triggers/1", {}, "没有要修改的内容"),
    ("/cache/pause", {"reason": " "}, "请填写暂停的原因"),
    ("/cache/resume", {}, ""),
    ("/cache/invalidate", {"cache_site_id": SITE, "app_type": "app2_finance", "member_id": 7}, "没有会员"),
    ("/cache/invalidate", {"cache_site_id": SITE, "target_id": "\0"}, "NUL"),
]


def test_a_wrong_form_is_answered_with_what_is_wrong_and_changes_nothing(api: Api, connection: Connection) -> None:
    visitor = sign_in(api, api.token(Role.ADMIN))
    for path, form, told in WRONG_FORMS:
        answer = visitor.post(path, form)
        assert answer.status_code in {404, 409, 422, 503}, (path, form, answer.text)
        assert told in answer.text, (path, form)
        assert 'role="alert"' in answer.text, (path, form)
    assert connection.execute("SELECT count(*) AS rows FROM biz.ai_audit").fetchone() == {"rows": 0}


def test_the_number_that_no_fact_explains_is_marked_where_it_stands(api: Api, furniture: Furniture) -> None:
    visitor = sign_in(api, api.token(Role.VIEWER))
    for path in (f"/logs/{furniture.log_id}", f"/prewarm/cell?site_id={SITE}&target_id=this_month__all"):
        assert re.findall(r"<mark[^>]*>([^<]*)<", visitor.part(path).text)[0] == "99.9%"
    log = visitor.part(f"/logs/{furniture.log_id}").text
    assert "<strong>1</strong> 个在数据中找不到依据" in log
    assert "&#34;净收入_元&#34;: 12345" in log
    assert "http://testserver:3000/runs/run-abc" in log


def test_the_matrix_tells_fresh_stale_missing_and_failed_apart(api: Api, furniture: Furniture) -> None:
    page = sign_in(api, api.token(Role.OPERATOR)).get(f"/prewarm?site_id={SITE}").text
    states = re.findall(r'class="cell (\w+)"', page)
    assert len(states) == 72
    assert {state: states.count(state) for state in set(states)} == {"fresh": 1, "stale": 1, "failed": 1, "missing": 69}


def test_an_answer_of_another_writer_is_shown_as_far_as_it_can_be(api: Api, connection: Connection) -> None:
    """Without our numbers check, without insights, with whatever there is."""
    odd = [
        '{"text": "旧系统的回答"}',
        '{"insights": "没有结构"}',
        '{"insights": [1, null, {"title": 3}], "_number_check": "?"}',
        '{"clues": {"a": 1}}',
    ]
    for result in odd:
        connection.execute(
            "INSERT INTO biz.ai_cache (cache_type, site_id, target_id, result_json, status, created_at)"
            " VALUES ('app2_finance', %s, 'this_month__all', %s, NULL, now()), ('app3_clue', %s, %s, %s, 'valid', now())",
            [SITE, result, SITE, str(MEMBER), result],
        )
    visitor = sign_in(api, api.token(Role.OPERATOR))
    for path in (
        f"/prewarm/cell?site_id={SITE}&target_id=this_month__all",
        f"/members?site_id={SITE}&member_id={MEMBER}",
        f"/members/history?site_id={SITE}&app_type=app3_clue&target_id={MEMBER}",
    ):
        page = visitor.part(path)
        assert page.status_code == 200, page.text
    assert "旧系统的回答" in visitor.part(f"/prewarm/cell?site_id={SITE}&target_id=this_month__all").text


def test_a_page_beyond_the_last_one_is_the_last_one(api: Api, connection: Connection) -> None:
    for number in range(21):
        add_alert(connection, message=f"问题 {number}")
    visitor = sign_in(api, api.token(Role.OPERATOR))
    assert "第 2 / 2 页" in visitor.get("/alerts?page=2").text
    assert "第 2 / 2 页" in visitor.get("/alerts?page=7").text
    connection.execute("UPDATE biz.ai_alerts SET alert_status = 'acked' WHERE id = (SELECT min(id) FROM biz.ai_alerts)")
    assert "第 1 / 1 页" in visitor.get("/alerts?page=2").text


def test_a_row_of_windows_has_its_progress_until_it_is_over_whatever_was_asked_for_since(api: Api, connection: Connection) -> None:
    visitor = sign_in(api, api.token(Role.OPERATOR))
    visitor.post("/prewarm/run", {"site_id": SITE, "area": "vip"})
    visitor.post("/prewarm/run", {"site_id": SITE, "target_id": "this_month__all"})
    page = visitor.get(f"/prewarm?site_id={SITE}").text
    assert "手动运行 8 个窗口" in page
    assert "手动运行 1 个窗口" in page
    connection.execute("UPDATE biz.ai_trigger_jobs SET status = 'completed', finished_at = now()")
    page = visitor.get(f"/prewarm?site_id={SITE}").text
    assert "手动运行 8 个窗口" not in page
    assert "手动运行 1 个窗口" in page


def test_a_problem_of_the_api_stays_a_problem_document(api: Api) -> None:
    answer = api.caller(Role.VIEWER).get("/api/admin/ai/run-logs/999999", headers={"Accept": "text/html"})
    assert answer.headers["content-type"] == "application/problem+json"
    assert api.anonymous.get("/nowhere").headers["content-type"] == "application/problem+json"


def test_every_page_needs_no_more_rights_than_the_apis_own_role_has(database: Database, furniture: Furniture) -> None:
    """As docs/operations.md sets it up: rows of other sites are then kept back by the database too."""
    narrowed = database.url + ("&" if "?" in database.url else "?") + "options=-c%20role%3Dzqyy_api"
    with open_api(database.url, ZQYY_API_DATABASE_URL=narrowed) as api:
        visitor = sign_in(api, api.token(Role.ADMIN, [SITE]))
        for path in [*pages_of(furniture), *parts_of(furniture)]:
            page = visitor.get(path)
            assert page.status_code == 200, f"{path}: {page.text}"
            assert OTHERS_SECRET not in page.text
        assert visitor.post("/alerts/act", {"action": "ack", "alert_id": furniture.alert_id}).status_code == 204
        assert visitor.post("/prewarm/run", {"site_id": SITE, "area": "vip"}).status_code == 204
        assert visitor.post("/prewarm/run-missing", {"site_id": SITE}).status_code == 204
        assert visitor.post(f"/jobs/{furniture.failed_job_id}/retry").status_code == 204
        assert visitor.post("/cache/invalidate", {"cache_site_id": SITE, "is_confirmed": "true"}).status_code == 204
