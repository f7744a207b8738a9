"""Budget, alerts, triggers and the prewarm's progress, each in the caller's sites."""

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from zqyy_ai.domain.access import Role
from zqyy_ai.domain.business_clock import SHANGHAI
from zqyy_ai.domain.windows import WINDOW_KEYS
from zqyy_ai.store.database import Connection
from zqyy_ai_tests.admin.callers import OTHER_SITE, SITE, Api
from zqyy_ai_tests.admin.rows import add, add_alert, add_job, days_ago, today


def read(api: Api, path: str, *sites: int, **query: Any) -> Any:
    answer = api.caller(Role.VIEWER, sites or None).get(f"/api/admin/ai/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def spend(connection: Connection, scope: str, used: int) -> None:
    for kind, starts_on in (("day", today()), ("month", today().replace(day=1))):
        connection.execute(
            "INSERT INTO biz.ai_budget_windows (scope, kind, starts_on, used_tokens, reserved_tokens, overshoot_tokens) VALUES (%s, %s, %s, %s, 7, 3)",
            [scope, kind, starts_on, used],
        )


def test_the_budget_of_the_chain_with_each_of_its_sites(api: Api, connection: Connection) -> None:
    spend(connection, "chain", 4_000_000)
    spend(connection, f"site:{SITE}", 3_000_000)
    found = read(api, "budget")
    assert {name: found[name] for name in ("daily_used", "daily_limit", "daily_pct", "monthly_used", "monthly_limit", "monthly_pct")} == {
        "daily_used": 4_000_000,
        "daily_limit": 20_000_000,
        "daily_pct": 20.0,
        "monthly_used": 4_000_000,
        "monthly_limit": 400_000_000,
        "monthly_pct": 1.0,
    }
    assert (found["daily_reserved"], found["monthly_overshoot"]) == (7, 3)
    assert [(site["site_id"], site["site_name"], site["daily_used"], site["daily_pct"]) for site in found["by_site"]] == [
        (1001, "春熙路店", 3_000_000, 75.0),
        (1002, "高新店", 0, 0.0),
        (1003, "武侯店", 0, 0.0),
    ]


def test_who_sees_one_site_sees_its_budget_and_not_the_chains(api: Api, connection: Connection) -> None:
    spend(connection, "chain", 4_000_000)
    spend(connection, f"site:{SITE}", 3_000_000)
    spend(connection, f"site:{OTHER_SITE}", 900_000)
    found = read(api, "budget", SITE)
    assert (found["daily_used"], found["daily_limit"]) == (3_000_000, 4_000_000)
    assert [site["site_id"] for site in found["by_site"]] == [SITE]
    assert "900000" not in str(found)


def test_alerts_with_what_an_operator_needs(api: Api, connection: Connection) -> None:
    older = add_alert(connection, last_seen_at=days_ago(2), alert_status="acked", status_reason="已通知", status_changed_by="小李")
    chain = add_alert(
        connection,
        alert_type="circuit_open",
        severity="critical",
        site_id=None,
        app_type="app3_clue",
        fingerprint="circuit_open|-|app3_clue|-",
        occurrences=4,
        log_id=9,
    )
    theirs = add_alert(connection, site_id=OTHER_SITE, last_seen_at=days_ago(3), alert_status="resolved")
    found = read(api, "alerts")
    assert [alert["id"] for alert in found["items"]] == [chain, older, theirs]
    first, second = found["items"][:2]
    assert (first["status"], first["severity"], first["occurrences"], first["log_id"]) == ("circuit_open", "critical", 4, 9)
    assert (first["fingerprint"], first["runbook"]) == ("circuit_open|-|app3_clue|-", "docs/operations.md#circuit_open")
    assert (second["alert_status"], second["reason"], second["status_changed_by"], second["app_type"]) == ("acked", "已通知", "小李", "")
    assert [alert["id"] for alert in read(api, "alerts", alert_status="acked")["items"]] == [older]
    assert [alert["id"] for alert in read(api, "alerts", page=2, page_size=1)["items"]] == [older]
    assert read(api, "alerts", SITE)["total"] == 1
    assert read(api, "alerts", SITE, site_id=OTHER_SITE)["items"] == []


def test_an_alert_of_another_system_is_open_and_shown(api: Api, connection: Connection) -> None:
    alert_id = add_alert(connection, alert_type=None, severity=None, message=None, alert_status=None, created_at=None, last_seen_at=None)
    [alert] = read(api, "alerts", alert_status="open")["items"]
    assert (alert["id"], alert["status"], alert["alert_status"], alert["runbook"]) == (alert_id, "", "open", None)


def test_an_unknown_alert_status_is_refused(api: Api) -> None:
    assert api.caller(Role.VIEWER).get("/api/admin/ai/alerts", params={"alert_status": "closed"}).status_code == 422


def test_the_five_triggers_with_the_next_fires_of_the_cron(api: Api, connection: Connection) -> None:
    connection.execute("INSERT INTO biz.trigger_jobs (job_name, job_type) VALUES ('nightly', 'somebody_elses')")
    connection.execute("UPDATE biz.trigger_jobs SET last_error = '门店 1002 的任务失败' WHERE job_name = 'ai_note_created'")
    found = {trigger["job_name"]: trigger for trigger in read(api, "triggers")}
    assert sorted(found) == ["ai_consumption_settled", "ai_dws_completed", "ai_dws_prewarm_0830", "ai_note_created", "ai_task_assigned"]
    fires = [datetime.fromisoformat(text) for text in found["ai_dws_prewarm_0830"]["next_fire_times"]]
    assert len(fires) == 5
    assert {f"{fire.astimezone(SHANGHAI):%H:%M}" for fire in fires} == {"08:30"}
    assert fires[0] > datetime.now(SHANGHAI)
    assert {later - earlier for earlier, later in pairwise(fires)} == {timedelta(days=1)}
    assert found["ai_note_created"]["last_error"] == "门店 1002 的任务失败"
    assert found["ai_note_created"]["next_fire_times"] == []
    # It may name any site.
    assert {trigger["last_error"] for trigger in read(api, "triggers", SITE)} == {None}


def test_a_trigger_that_is_disabled_or_unreadable_has_no_next_fires(api: Api, connection: Connection) -> None:
    for change in ("status = 'disabled'", "status = 'enabled', trigger_config = '{\"cron_expression\": \"x\"}'", "trigger_config = '[]'"):
        connection.execute(f"UPDATE biz.trigger_jobs SET {change} WHERE job_type = 'ai_dws_prewarm'".encode())
        [prewarm] = [trigger for trigger in read(api, "triggers") if trigger["job_type"] == "ai_dws_prewarm"]
        assert prewarm["next_fire_times"] == []


def test_the_prewarms_progress_counts_valid_answers_that_have_not_expired(api: Api, connection: Connection) -> None:
    empty = read(api, "prewarm/progress", site_id=SITE)
    assert (empty["total"], empty["done"], len(empty["missing"]), empty["last_updated"], empty["job"]) == (72, 0, 72, None, None)
    states: list[dict[str, Any]] = [
        {"status": "valid", "expires_at": datetime.now(SHANGHAI) + timedelta(hours=1)},
        {"status": None, "expires_at": None},
        {"status": "valid", "expires_at": datetime.now(SHANGHAI) - timedelta(seconds=1)},
        {"status": "invalidated", "expires_at": None},
        {"status": "valid", "site_id": OTHER_SITE},
    ]
    for window, state in zip(WINDOW_KEYS, states, strict=False):
        usual = {"cache_type": "app2_finance", "site_id": SITE, "target_id": str(window), "result_json": {}}
        add(connection, "ai_cache", **{**usual, **state})
    add_job(connection, event_type="dws_completed", status="completed", member_id=None)
    running = add_job(
        connection, event_type="dws_completed", status="running", member_id=None, progress={"total": 72, "done": 2}, run_id="r"
    )
    add_job(connection, event_type="dws_completed", status="pending", member_id=None)
    found = read(api, "prewarm/progress", SITE, site_id=SITE)
    assert (found["done"], len(found["missing"])) == (2, 70)
    assert found["missing"][0] == {"target_id": "this_month__hallA", "time_dimension": "this_month", "area": "hallA"}
    assert datetime.fromisoformat(found["last_updated"]) <= datetime.now(SHANGHAI)
    assert (found["job"]["id"], found["job"]["status"], found["job"]["progress"]) == (running, "running", {"total": 72, "done": 2})


def test_the_progress_of_a_site_that_is_not_the_callers_looks_like_that_of_none(api: Api) -> None:
    caller = api.caller(Role.VIEWER, [SITE])
    for site_id in (OTHER_SITE, 99_999):
        answer = caller.get("/api/admin/ai/prewarm/progress", params={"site_id": site_id})
        assert (answer.status_code, answer.json()["detail"]) == (404, f"门店 {site_id} 不存在")
    assert api.caller(Role.VIEWER).get("/api/admin/ai/prewarm/progress", params={"site_id": 99_999}).status_code == 404
    assert caller.get("/api/admin/ai/prewarm/progress").status_code == 422
