"""Run logs page by page, with totals out of the sums, and one of them in full."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest

from zqyy_ai.domain.access import ALL_SITES, Role
from zqyy_ai.domain.business_clock import SHANGHAI
from zqyy_ai.engine.run_log_closing import close_hours
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.admin.callers import OTHER_SITE, SITE, Api
from zqyy_ai_tests.admin.rows import add, add_log, add_refusal, add_reuse, days_ago

URL = "/api/admin/ai/run-logs"
CLIENTS_FIELDS = {"id", "app_type", "trigger_type", "member_id", "tokens_used", "latency_ms", "status", "site_id", "created_at"}
CLIENTS_DETAIL = {"request_prompt", "response_text", "error_message", "session_id", "finished_at"}


def page(api: Api, *sites: int, **query: Any) -> dict[str, Any]:
    answer = api.caller(Role.VIEWER, sites or None).get(URL, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(found: dict[str, Any]) -> list[int]:
    return [item["id"] for item in found["items"]]


def test_the_newest_come_first_page_by_page(api: Api, database: Database, connection: Connection) -> None:
    noon = datetime(2026, 4, 20, 12, tzinfo=SHANGHAI)
    logs = [add_log(connection, created_at=noon - timedelta(hours=7 * number)) for number in range(23)]
    now = add_log(connection)
    wanted = [now, *logs]
    for _ in range(2):
        for size in (1, 5, 10, 200):
            seen: list[int] = []
            for number in range(1, 24 // size + 2):
                found = page(api, page=number, page_size=size)
                assert (found["total"], found["page"], found["page_size"]) == (24, number, size)
                seen += ids(found)
            assert seen == wanted
        assert ids(page(api, page=100_000, page_size=200)) == []
        close_hours(database.within(ALL_SITES))


def test_each_filter_alone_and_together(api: Api, database: Database, connection: Connection) -> None:
    noon = datetime(2026, 4, 20, 12, tzinfo=SHANGHAI)
    plain = add_log(connection, created_at=noon, member_id=7, trigger_job_id=88)
    timeout = add_log(connection, created_at=noon - timedelta(days=1), status="timeout", trigger_type="cron", app_type="app8_consolidate")
    refused = add_refusal(connection, created_at=noon - timedelta(days=2), site_id=OTHER_SITE)
    failed = add_log(connection, created_at=noon - timedelta(days=3), status="failed", error_message="boom", member_id=8)
    running = add_log(connection, status="running")
    reused = add_reuse(connection, trigger_type="manual")
    for _ in range(2):
        for query, wanted in (
            ({"app_type": "app8_consolidation"}, [timeout]),
            ({"status": "timeout"}, [timeout]),
            ({"status": "failed"}, [refused, failed]),
            ({"status": "running"}, [running]),
            ({"status": "reused", "trigger_type": "manual"}, [reused]),
            ({"trigger_type": "cron"}, [timeout]),
            ({"site_id": OTHER_SITE}, [refused]),
            ({"member_id": 7}, [plain]),
            ({"trigger_job_id": 88, "member_id": 7}, [plain]),
            ({"date_from": "2026-04-18", "date_to": "2026-04-19"}, [timeout, refused]),
            ({"date_to": "2026-04-17"}, [failed]),
            ({"date_from": "2026-04-20", "status": "success"}, [plain]),
            ({"date_from": "2026-04-17", "date_to": "2026-04-20", "member_id": 8}, [failed]),
            ({"app_type": "app5_tactics"}, []),
        ):
            found = page(api, **query)
            assert (ids(found), found["total"]) == (wanted, len(wanted)), query
        close_hours(database.within(ALL_SITES))


def test_a_refusal_and_a_failure_are_told_apart(api: Api, connection: Connection) -> None:
    add_refusal(connection, "budget_exceeded:daily")
    add_log(connection, status="failed", error_message="boom")
    assert Counter((item["status"], item["outcome"]) for item in page(api)["items"]) == {("failed", "refused"): 1, ("failed", "failed"): 1}


def test_each_caller_sees_its_own_sites(api: Api, database: Database, connection: Connection) -> None:
    mine, theirs, nobodys = (add_log(connection, site_id=site, member_id=7, created_at=days_ago(1)) for site in (SITE, OTHER_SITE, None))
    viewer = api.caller(Role.VIEWER, [SITE])
    for _ in range(2):
        assert page(api)["total"] == 3
        for query in ({}, {"member_id": 7}, {"site_id": SITE}):
            found = page(api, SITE, **query)
            assert (ids(found), found["total"]) == ([mine], 1)
        for other in (OTHER_SITE, 99_999):
            assert page(api, SITE, site_id=other) == {"items": [], "total": 0, "page": 1, "page_size": 20}
        close_hours(database.within(ALL_SITES))
    answers = {viewer.get(f"{URL}/{log_id}").json()["detail"].replace(str(log_id), "#") for log_id in (theirs, nobodys, 999_999)}
    assert answers == {"调用记录 # 不存在"}
    assert viewer.get(f"{URL}/{mine}").status_code == 200
    assert api.caller(Role.VIEWER).get(f"{URL}/{nobodys}").json()["site_id"] == 0


def test_a_log_in_full(api: Api, connection: Connection) -> None:
    log_id = add_log(
        connection,
        request_prompt="问",
        response_text="答",
        request_id="r-1",
        dagster_run_id="d-1",
        target_id="7",
        session_id="s-1",
        model_ids=["qwen-plus"],
        usage_reported=True,
        input_hash="h",
    )
    cache_id = add(
        connection,
        "ai_cache",
        cache_type="app3_clue",
        site_id=SITE,
        target_id="7",
        run_log_id=log_id,
        input_hash="h",
        result_json={"_number_check": {"checked": 3, "unexplained": []}},
    )
    reused_id = add_reuse(connection, target_id="7", input_hash="h")
    caller = api.caller(Role.VIEWER)
    found = caller.get(f"{URL}/{log_id}").json()
    assert found.keys() >= CLIENTS_FIELDS | CLIENTS_DETAIL
    assert (found["request_prompt"], found["response_text"], found["request_id"], found["dagster_run_id"]) == ("问", "答", "r-1", "d-1")
    assert (found["cache_id"], found["number_check"]) == (cache_id, {"checked": 3, "unexplained": []})
    assert found["cost_cny"] == pytest.approx((80 * 0.8 + 20 * 2) / 1e6, abs=1e-6)
    assert datetime.fromisoformat(found["created_at"]).utcoffset() is not None
    assert caller.get(f"{URL}/{reused_id}").json()["cache_id"] == cache_id


def test_rows_of_the_old_dispatcher_are_read_like_ours(api: Api, connection: Connection) -> None:
    bare = add(connection, "ai_run_logs", app_type="app8_consolidate", site_id=SITE, tokens_used=None, trigger_type=None, status=None)
    [item] = page(api)["items"]
    assert (item["id"], item["app_type"], item["tokens_used"], item["trigger_type"]) == (bare, "app8_consolidation", 0, "")
    assert api.caller(Role.VIEWER).get(f"{URL}/{bare}").status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        {"app_type": "app1_chat"},
        {"status": "x"},
        {"page": 0},
        {"page": 100_001},
        {"page_size": 201},
        {"member_id": 2**63},
        {"trigger_type": "a\0b"},
        {"trigger_type": "x" * 51},
        {"date_from": "2026-02-30"},
        {"date_from": "2026-04-20", "date_to": "2026-04-19"},
    ],
)
def test_what_cannot_be_meant_is_refused(api: Api, query: dict[str, Any]) -> None:
    answer = api.caller(Role.VIEWER).get(URL, params=query)
    assert answer.status_code == 422
    assert answer.json()["errors"]


def test_an_unknown_value_of_a_list_is_answered_with_what_is_allowed(api: Api) -> None:
    told = api.caller(Role.VIEWER).get(URL, params={"status": "done"}).json()["errors"]
    assert told == [{"field": "query.status", "message": "应为 'pending', 'running', 'success', 'failed', 'timeout', 'reused' 之一"}]


@pytest.mark.parametrize("log_id", ["0", "-1", str(2**63), "x", "1' OR 1=1"])
def test_an_id_that_is_none_is_refused(api: Api, log_id: str) -> None:
    assert api.caller(Role.VIEWER).get(f"{URL}/{log_id}").status_code == 422
