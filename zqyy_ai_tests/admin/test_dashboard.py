"""The operators' overview: what is counted as what, over which days, and for whom."""

from datetime import timedelta
from typing import Any

import pytest

from zqyy_ai.domain.access import ALL_SITES, Role
from zqyy_ai.domain.apps import AppType
from zqyy_ai.engine.run_log_closing import close_hours
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.admin.callers import OTHER_SITE, SITE, THIRD_SITE, Api
from zqyy_ai_tests.admin.rows import add_alert, add_job, add_log, add_refusal, add_reuse, days_ago, today

# The fields of the front end's `DashboardResponse`.
CLIENTS_FIELDS = {
    "today_calls",
    "today_success_rate",
    "today_tokens",
    "today_avg_latency_ms",
    "trend_7d",
    "app_distribution",
    "budget",
    "recent_alerts",
    "app_health",
}


def dashboard(api: Api, *sites: int, **query: Any) -> dict[str, Any]:
    answer = api.caller(Role.VIEWER, sites or None).get("/api/admin/ai/dashboard", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_without_any_data_all_is_zero_and_nothing_is_missing(api: Api) -> None:
    found = dashboard(api)
    assert found.keys() >= CLIENTS_FIELDS
    assert (found["today_calls"], found["today_success_rate"], found["today_avg_latency_ms"]) == (0, 0, 0)
    assert [day["date"] for day in found["trend_7d"]] == [str(today() - timedelta(days=back)) for back in range(6, -1, -1)]
    assert {(app["app_type"], app["last_status"], app["last_call_at"]) for app in found["app_health"]} == {
        (app.value, None, None) for app in AppType
    }
    assert found["app_distribution"] == found["recent_alerts"] == []


def test_a_call_is_what_reached_the_model(api: Api, connection: Connection) -> None:
    add_log(connection)
    none = {"tokens_used": 0, "input_tokens": None, "output_tokens": None}
    add_log(connection, status="failed", error_code="http_502", error_message="DashScope answered 502", latency_ms=1_000, **none)
    add_log(connection, status="timeout", tokens_used=500, input_tokens=None, output_tokens=None, latency_ms=180_000)
    add_log(connection, status="running", tokens_used=0, latency_ms=None)
    add_refusal(connection, "budget_exceeded:daily")
    add_refusal(connection)
    add_reuse(connection)
    found = dashboard(api)
    assert (found["today_calls"], found["today_success_rate"]) == (3, 33.33)
    assert (found["today_refused"], found["today_reused"]) == (2, 1)
    assert (found["today_tokens"], found["today_avg_latency_ms"]) == (600, 61_000)
    # 80 at 0.8 and 20 at 2 yuan a million; the timeout's 500 were not reported: at the dearer price.
    assert found["today_cost_cny"] == pytest.approx((80 * 0.8 + 20 * 2 + 500 * 2) / 1e6, abs=1e-4)
    assert found["app_distribution"] == [{"app_type": "app3_clue", "count": 3, "percentage": 100.0}]


def test_the_trend_has_each_day_of_the_range(api: Api, connection: Connection) -> None:
    for back, calls in ((0, 1), (2, 2), (9, 3), (30, 4)):
        for _ in range(calls):
            add_log(connection, created_at=days_ago(back), app_type="app7_customer" if back == 9 else "app3_clue")
    by_range = {days: [day["calls"] for day in dashboard(api, range_days=days)["trend_7d"]] for days in (1, 3, 7, 10)}
    assert by_range == {1: [1], 3: [2, 0, 1], 7: [0, 0, 0, 0, 2, 0, 1], 10: [3, 0, 0, 0, 0, 0, 0, 2, 0, 1]}
    assert dashboard(api, range_days=10)["app_distribution"] == [
        {"app_type": "app3_clue", "count": 3, "percentage": 50.0},
        {"app_type": "app7_customer", "count": 3, "percentage": 50.0},
    ]
    pair = dashboard(api, date_from=str(today() - timedelta(days=30)), date_to=str(today() - timedelta(days=29)))
    assert [day["calls"] for day in pair["trend_7d"]] == [4, 0]
    assert pair["today_calls"] == 1
    assert len(dashboard(api, date_from=str(today() - timedelta(days=399)), date_to=str(today()))["trend_7d"]) == 400


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"range_days": 2}, "query.range_days"),
        ({"range_days": "x"}, "query.range_days"),
        ({"range_days": 10**30}, "query.range_days"),
        ({"date_from": "2026-04-20"}, "query.date_to"),
        ({"date_to": "2026-04-20"}, "query.date_from"),
        ({"date_from": "2026-04-20", "date_to": "2026-04-19"}, "query.date_to"),
        ({"date_from": "2024-01-01", "date_to": "2026-04-19"}, "query.date_to"),
        ({"date_from": "0001-01-01", "date_to": "9999-12-31"}, "query.date_from"),
        ({"site_id": 0}, "query.site_id"),
        ({"site_id": 2**63}, "query.site_id"),
    ],
)
def test_a_range_that_cannot_be_meant_is_refused_by_its_field(api: Api, query: dict[str, Any], field: str) -> None:
    answer = api.caller(Role.VIEWER).get("/api/admin/ai/dashboard", params=query)
    assert answer.status_code == 422
    assert field in [error["field"] for error in answer.json()["errors"]]


def test_closing_hours_changes_nothing(api: Api, database: Database, connection: Connection) -> None:
    for back in (0, 1, 2, 3):
        add_log(connection, created_at=days_ago(back))
        add_refusal(connection, created_at=days_ago(back))
    before = dashboard(api)
    close_hours(database.within(ALL_SITES))
    assert connection.execute("SELECT closed_until FROM biz.ai_run_log_watermark WHERE closed_until IS NOT NULL").fetchone()
    assert dashboard(api) == before


def test_each_caller_sees_its_own_sites(api: Api, connection: Connection) -> None:
    for site in (SITE, SITE, OTHER_SITE, None):
        add_log(connection, site_id=site)
    for site in (SITE, OTHER_SITE, None):
        add_alert(connection, site_id=site)
        if site:
            add_job(connection, site_id=site, status="pending")

    def counts(found: dict[str, Any]) -> tuple[int, ...]:
        return found["today_calls"], found["open_alerts"], found["waiting_jobs"], len(found["recent_alerts"])

    assert counts(dashboard(api)) == (4, 3, 2, 3)
    assert counts(dashboard(api, SITE)) == counts(dashboard(api, site_id=SITE)) == (2, 1, 1, 1)
    assert counts(dashboard(api, SITE, OTHER_SITE)) == (3, 2, 2, 2)
    # Somebody else's site and one that does not exist look the same.
    assert dashboard(api, SITE, site_id=OTHER_SITE) == dashboard(api, SITE, site_id=99_999)
    assert counts(dashboard(api, SITE, site_id=OTHER_SITE)) == (0, 0, 0, 0)
    assert counts(dashboard(api, THIRD_SITE)) == (0, 0, 0, 0)


def test_an_applications_health_is_its_newest_call(api: Api, database: Database, connection: Connection) -> None:
    add_log(connection, created_at=days_ago(3), status="timeout")
    add_log(connection, created_at=days_ago(4))
    add_refusal(connection, created_at=days_ago(1))
    add_log(connection, created_at=days_ago(50), app_type="app8_consolidate", status="failed", error_message="boom")
    for _ in range(2):
        health = {app["app_type"]: app["last_status"] for app in dashboard(api)["app_health"]}
        assert health["app3_clue"] == "timeout"
        assert health["app8_consolidation"] == "failed"
        assert health["app5_tactics"] is None
        close_hours(database.within(ALL_SITES))


def test_an_alerts_status_is_its_type(api: Api, connection: Connection) -> None:
    alert_id = add_alert(connection, alert_type="circuit_open", app_type="app3_clue", message="熔断")
    [alert] = dashboard(api)["recent_alerts"]
    assert alert["id"] == alert_id
    assert (alert["status"], alert["alert_status"], alert["error_message"]) == ("circuit_open", "open", "熔断")


def test_the_budget_is_the_chains_or_that_of_the_callers_sites(api: Api, connection: Connection) -> None:
    windows = [("chain", 5_000), (f"site:{SITE}", 1_000), (f"site:{OTHER_SITE}", 3_000)]
    for scope, used in windows:
        for kind, starts_on in (("day", today()), ("month", today().replace(day=1))):
            connection.execute(
                "INSERT INTO biz.ai_budget_windows (scope, kind, starts_on, used_tokens, reserved_tokens, overshoot_tokens) VALUES (%s, %s, %s, %s, 10, 1)",
                [scope, kind, starts_on, used],
            )
    chain, one, two = (dashboard(api, *sites)["budget"] for sites in ((), (SITE,), (SITE, OTHER_SITE)))
    assert (chain["daily_used"], chain["daily_limit"], chain["daily_pct"]) == (5_000, 20_000_000, 0.03)
    assert (one["daily_used"], one["daily_limit"], one["monthly_limit"]) == (1_000, 4_000_000, 80_000_000)
    assert (two["daily_used"], two["daily_limit"], two["daily_reserved"], two["daily_overshoot"]) == (4_000, 8_000_000, 20, 2)
    assert dashboard(api, site_id=SITE)["budget"] == one


def test_who_is_no_viewer_is_refused(api: Api) -> None:
    for role in (Role.INTERNAL, Role.READER):
        assert api.caller(role).get("/api/admin/ai/dashboard").status_code == 403
    assert api.anonymous.get("/api/admin/ai/dashboard").status_code == 401
