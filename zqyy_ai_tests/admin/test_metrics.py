"""Figures for Prometheus: right, for those who see all, and never smaller than before."""

from datetime import timedelta

from httpx import Response
from prometheus_client.parser import text_string_to_metric_families

from zqyy_ai.domain.access import ALL_SITES, Role
from zqyy_ai.engine.retention import carry_out
from zqyy_ai.engine.run_log_closing import close_hours
from zqyy_ai.settings import load_settings
from zqyy_ai.store.cache import write_cache
from zqyy_ai.store.database import Connection, Database, database_now
from zqyy_ai_tests.admin.callers import OTHER_SITE, SITE, Api
from zqyy_ai_tests.admin.rows import add_alert, add_job, add_log, add_refusal, add_reuse, days_ago

Figures = dict[tuple[str, frozenset[str]], float]


def scrape(api: Api) -> Figures:
    answer = api.caller(Role.VIEWER).get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def counters(figures: Figures) -> Figures:
    return {key: value for key, value in figures.items() if key[0].endswith(("_total", "_bucket", "_sum", "_count"))}


def test_the_figures_of_calls_refusals_reuse_queue_and_alerts(api: Api, connection: Connection) -> None:
    for _ in range(2):
        add_log(connection)
    add_log(connection, status="timeout", latency_ms=180_500, tokens_used=50, input_tokens=None, output_tokens=None)
    add_refusal(connection, "budget_exceeded:daily", site_id=OTHER_SITE)
    add_reuse(connection)
    now = database_now(connection)
    add_job(connection, status="pending", created_at=now - timedelta(seconds=90))
    add_job(connection, status="running")
    add_alert(connection, alert_type="circuit_open", severity="critical", site_id=None)
    found = scrape(api)
    app = ("app3_clue", str(SITE))

    def value(name: str, *labels: str) -> float:
        return found[name, frozenset(labels)]

    assert value("zqyy_ai_calls_total", *app, "success") == 2
    assert value("zqyy_ai_calls_total", *app, "timeout") == 1
    assert value("zqyy_ai_calls_total", *app, "failed") == 0
    assert [value("zqyy_ai_tokens_total", *app, kind) for kind in ("input", "output", "unreported")] == [160, 40, 50]
    assert round(value("zqyy_ai_cost_cny_total", *app) * 1e6) == round(160 * 0.8 + 40 * 2 + 50 * 2)
    assert value("zqyy_ai_call_latency_seconds_bucket", *app, "1.0") == 0
    assert value("zqyy_ai_call_latency_seconds_bucket", *app, "2.0") == 2
    assert value("zqyy_ai_call_latency_seconds_bucket", *app, "180.0") == 2
    assert value("zqyy_ai_call_latency_seconds_bucket", *app, "+Inf") == value("zqyy_ai_call_latency_seconds_count", *app) == 3
    assert value("zqyy_ai_call_latency_seconds_sum", *app) == 184.5
    assert value("zqyy_ai_refusals_total", "app3_clue", str(OTHER_SITE), "budget_exceeded") == 1
    assert value("zqyy_ai_reuses_total", *app) == 1
    assert value("zqyy_ai_jobs", str(SITE), "pending") == value("zqyy_ai_jobs", str(SITE), "running") == 1
    assert 90 <= value("zqyy_ai_oldest_due_job_age_seconds", str(SITE)) < 150
    assert value("zqyy_ai_open_alerts", "circuit_open", "critical", "-") == 1


def test_no_counter_goes_back_when_hours_are_closed_and_old_rows_deleted(api: Api, database: Database, connection: Connection) -> None:
    for back in (0, 1, 2, 500):
        add_log(connection, created_at=days_ago(back))
        add_refusal(connection, created_at=days_ago(back))
        add_reuse(connection, created_at=days_ago(back))
    before = counters(scrape(api))
    close_hours(database.within(ALL_SITES))
    assert counters(scrape(api)) == before
    list(carry_out(database, load_settings({})))
    left = connection.execute("SELECT count(*)::integer AS logs FROM biz.ai_run_logs").fetchone()
    assert left == {"logs": 9}
    assert connection.execute("SELECT FROM biz.ai_run_log_days WHERE day < now() - interval '401 days'").fetchall() == []
    assert counters(scrape(api)) == before
    add_log(connection)
    after = counters(scrape(api))
    assert all(after[key] >= value for key, value in before.items())


def test_figures_of_the_whole_chain_are_for_who_sees_it(api: Api) -> None:
    answer = api.caller(Role.ADMIN, [SITE]).get("/metrics")
    assert (answer.status_code, answer.json()["code"]) == (403, "all_sites_needed")


def test_without_any_row_there_is_still_an_answer(api: Api) -> None:
    assert scrape(api) == {}


def test_reads_of_the_cache_are_counted_by_what_was_found(api: Api, connection: Connection) -> None:
    now = database_now(connection)
    write_cache(connection, "app3_clue", SITE, "7", {"clues": []}, expires_at=now + timedelta(hours=1))
    write_cache(connection, "app3_clue", SITE, "8", {"clues": []}, expires_at=now - timedelta(hours=1))
    reader = api.caller(Role.READER)

    def read(target_id: str, **headers: str) -> Response:
        answer: Response = reader.get("/api/ai/cache/app3_clue", params={"site_id": SITE, "target_id": target_id}, headers=headers)
        return answer

    etag = read("7").headers["etag"]
    statuses = [read("7", **{"If-None-Match": etag}).status_code, read("8").status_code, read("9").status_code]

    assert statuses == [304, 404, 404]
    found = scrape(api)
    by_result = {
        result: found["zqyy_ai_cache_reads_total", frozenset(("app3_clue", str(SITE), result))]
        for result in ("fresh", "unchanged", "stale")
    }
    assert by_result == {"fresh": 1, "unchanged": 1, "stale": 1}
    assert found["zqyy_ai_cache_reads_total", frozenset(("app3_clue", "-", "missing"))] == 1
