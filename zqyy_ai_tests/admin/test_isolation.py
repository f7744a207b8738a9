"""A caller for one site, given another site's numbers in every place where one can be put: nothing of that site is told, and none of it changes.

The walk is over the document of the server and the catalogue of the database, so that a new call or table that nobody thought of here fails.
"""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from fastapi.testclient import TestClient
from httpx import Response
from psycopg import sql
from psycopg.types.json import Jsonb
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from zqyy_ai.domain.access import Role, SiteScope
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.admin.callers import OTHER_SITE, SITE, Api
from zqyy_ai_tests.admin.live_clients import running_server
from zqyy_ai_tests.admin.rows import add, add_alert, add_job, add_log
from zqyy_ai_tests.conftest import fresh_database, template_database
from zqyy_ai_tests.engine.member_bench import DEMO_TEMPLATE, fill
from zqyy_ai_tests.restored_database import remember

# In each row of the other site: in its texts, and as its numbers.
MARK, MARK_NUMBER = "高新店机密", 987_654_321
THEIR_MEMBER, THEIR_ASSISTANT = 990_002_007, 990_002_001
THEIR_BATCH = UUID("00000000-0000-0000-0000-0000000b0002")
# What somebody tries who knows how queries are written.
ODD_SITES: list[Any] = [
    OTHER_SITE,
    str(OTHER_SITE),
    f"{OTHER_SITE}.0",
    f"{SITE} OR 1=1",
    f"{OTHER_SITE}; --",
    f"{SITE}') OR ('1'='1",
    f"{SITE},{OTHER_SITE}",
    f"{{{SITE},{OTHER_SITE}}}",
    [SITE, OTHER_SITE],
    [OTHER_SITE],
    {"$gt": 0},
    "all",
    "*",
    "NULL",
    None,
    True,
    -1,
    0,
    2**63,
    10**30,
]
TABLES_BY_SITE = """
SELECT n.nspname AS schema, c.relname AS name,
       EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'zqyy_sites' AND c.relrowsecurity) AS is_isolated
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('biz', 'public') AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND (EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname ~ 'site' AND a.attnum > 0 AND NOT a.attisdropped)
       OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'zqyy_sites'))
ORDER BY 1, 2
"""
# They name sites and are not by site: whom a token is for, which the server reads before it knows the caller.
NOT_BY_SITE = {"ai_api_tokens"}


@pytest.fixture(scope="module")
def module_database(server_url: str, migrated_template: str) -> Iterator[Database]:
    """With demo members at both sites, and the views by which they are read."""
    template = template_database(server_url, DEMO_TEMPLATE, fill, migrated_template)
    with fresh_database(server_url, template) as url, Database(url, application_name="zqyy_ai tests") as opened:
        remember(opened)
        yield opened


@pytest.fixture
def theirs(connection: Connection) -> dict[str, Any]:
    """The other site's rows, at least one in each table that has sites; the ids by which calls name them."""
    connection.execute("UPDATE biz.sites SET site_name = %s WHERE site_id = %s", [MARK, OTHER_SITE])
    about = {"site_id": OTHER_SITE, "member_id": THEIR_MEMBER}
    job_id = add_job(connection, **about, status="failed", error_message=MARK, payload={**about, "x": MARK}, business_date="2026-04-20")
    log = {"request_prompt": MARK, "response_text": MARK, "error_message": MARK, "tokens_used": MARK_NUMBER, "target_id": "their_target"}
    log_id = add_log(connection, **about, **log, trigger_job_id=job_id, assistant_id=THEIR_ASSISTANT)
    alert_id = add_alert(connection, site_id=OTHER_SITE, message=MARK, fingerprint=MARK)
    connection.execute("INSERT INTO biz.ai_alert_deliveries (alert_id, target, change) SELECT id, %s, 'opened' FROM biz.ai_alerts", [MARK])
    for cache_type, target in (("app3_clue", str(THEIR_MEMBER)), ("app2_finance", "this_month__all"), ("app4_analysis", "5_7")):
        add(connection, "ai_cache", cache_type=cache_type, site_id=OTHER_SITE, target_id=target, result_json={"x": MARK}, status="valid")
    add(
        connection,
        "ai_sandbox_answers",
        cache_type="app3_clue",
        site_id=OTHER_SITE,
        target_id="7",
        sandbox_date="2026-04-20",
        result_json={"x": MARK},
    )
    inbox = {"event_name": "ai_note_created", "payload": {**about, "note_content": MARK}, "handled_at": "now", "rejected_reason": MARK}
    add(connection, "ai_events", **inbox)
    add(connection, "ai_live_events", event_type="job_updated", site_id=OTHER_SITE, payload={"x": MARK})
    add(connection, "ai_audit", actor=MARK, action="x", site_id=OTHER_SITE, after={"x": MARK})
    connection.execute(
        "INSERT INTO biz.ai_batches (id, site_id, selection, digest, calls_by_app, estimated_tokens, estimated_cny, estimated_minutes, created_by,"
        " expires_at) VALUES (%s, %s, %s, 'x', %s, %s, 1, 1, %s, now() + interval '1 day')",
        [THEIR_BATCH, OTHER_SITE, Jsonb({"app_types": ["app3_clue"], "member_ids": []}), Jsonb({"app3_clue": 1}), MARK_NUMBER, MARK],
    )
    for scope in (f"site:{OTHER_SITE}", f"sandbox:{OTHER_SITE}"):
        connection.execute(
            "INSERT INTO biz.ai_budget_windows (scope, kind, starts_on, used_tokens) VALUES (%s, 'day', (now() AT TIME ZONE 'Asia/Shanghai')::date, %s)",
            [scope, MARK_NUMBER],
        )
    connection.execute(
        "INSERT INTO biz.ai_budget_reservations (token, site_id, app_type, tokens, chain_day, site_day, worker_id, lease_expires_at)"
        " VALUES (gen_random_uuid(), %s, 'app3_clue', %s, now(), now(), gen_random_uuid(), now() + interval '1 day')",
        [OTHER_SITE, MARK_NUMBER],
    )
    connection.execute(
        "INSERT INTO biz.ai_step_claims (cache_type, site_id, target_id, token, worker_id, lease_expires_at)"
        " VALUES ('app3_clue', %s, %s, gen_random_uuid(), gen_random_uuid(), now() + interval '1 day')",
        [OTHER_SITE, MARK],
    )
    connection.execute("INSERT INTO biz.ai_seen_etl_runs (etl_run_id, site_id, event_id) VALUES (%s, %s, 1)", [MARK, OTHER_SITE])
    sums = ("1, 1, 1, 1, 1", "logs, tokens, input_tokens, output_tokens, latency_ms")
    connection.execute(
        f"INSERT INTO biz.ai_run_log_days (day, site_id, app_type, trigger_type, outcome, refusal, {sums[1]})"
        f" VALUES ((now() AT TIME ZONE 'Asia/Shanghai')::date, %s, %s, 'event', 'success', '', {sums[0]})".encode(),
        [OTHER_SITE, MARK],
    )
    connection.execute(
        f"INSERT INTO biz.ai_run_log_totals (site_id, app_type, outcome, refusal, {sums[1]}, latency_counts, last_at)"
        f" VALUES (%s, %s, 'success', '', {sums[0]}, '{{}}', now())".encode(),
        [OTHER_SITE, MARK],
    )
    connection.execute(
        "INSERT INTO biz.ai_runtime_contexts (site_id, mode, business_date, updated_by) VALUES (%s, 'sandbox', '2026-04-20', %s)",
        [OTHER_SITE, MARK],
    )
    connection.execute(
        "INSERT INTO public.member_retention_clue (member_id, category, summary, site_id, source) VALUES (%s, '客户基础', %s, %s, 'ai_note')",
        [THEIR_MEMBER, MARK, OTHER_SITE],
    )
    return {"job_id": job_id, "log_id": log_id, "alert_id": alert_id, "batch_id": str(THEIR_BATCH)}


def tables_by_site(connection: Connection) -> list[sql.Identifier]:
    rows = connection.execute(TABLES_BY_SITE).fetchall()
    assert {row["name"] for row in rows if not row["is_isolated"]} == NOT_BY_SITE
    return [sql.Identifier(row["schema"], row["name"]) for row in rows if row["is_isolated"]]


def rows_of(connection: Connection, table: sql.Identifier) -> list[str]:
    rows = connection.execute(sql.SQL("SELECT t::text AS row FROM {} AS t ORDER BY 1").format(table)).fetchall()
    return [row["row"] for row in rows]


def is_theirs(text: str) -> bool:
    return MARK in text or str(MARK_NUMBER) in text


# Tables


def test_no_table_shows_or_takes_anything_of_another_site(database: Database, connection: Connection, theirs: dict[str, Any]) -> None:
    narrowed = database.within(SiteScope(frozenset({SITE})))
    seen: list[str] = []
    changed: list[str] = []
    for table in tables_by_site(connection):
        name = table.as_string(connection)
        of_them = [row for row in rows_of(connection, table) if is_theirs(row)]
        assert of_them, f"{name} has no row of the other site: this test is to have one"
        for statement in (
            "SELECT t::text AS row FROM {} AS t",
            "DELETE FROM {} AS t RETURNING t::text AS row",
            "INSERT INTO {} AS t SELECT * FROM theirs RETURNING t::text AS row",
        ):
            try:
                with narrowed.transaction() as caller:
                    if "theirs" in statement:
                        _lend(database, caller, table)
                    told = caller.execute(sql.SQL(statement).format(table)).fetchall()
                    (seen if statement.startswith("SELECT") else changed).extend(
                        f"{name}: {row['row']}" for row in told if is_theirs(row["row"]) or not statement.startswith("SELECT")
                    )
                    raise _Undone
            except (psycopg.errors.InsufficientPrivilege, _Undone):
                pass  # refused by a policy or for want of a privilege, or undone
        assert [row for row in rows_of(connection, table) if is_theirs(row)] == of_them
    assert seen == []
    assert [row for row in changed if is_theirs(row)] == []


class _Undone(Exception):
    pass


def _lend(database: Database, caller: Connection, table: sql.Identifier) -> None:
    """The other site's rows of a table, in a temporary one that the caller may read: to put them into the real one."""
    caller.execute("RESET ROLE")
    caller.execute(
        sql.SQL("CREATE TEMP TABLE theirs ON COMMIT DROP AS SELECT * FROM {} AS t WHERE t::text ~ %s").format(table),
        [f"{MARK}|{MARK_NUMBER}"],
    )
    caller.execute("GRANT SELECT ON theirs TO zqyy_api")
    caller.execute("SET LOCAL ROLE zqyy_api")


def test_no_table_shows_anything_to_a_transaction_that_named_no_sites(connection: Connection, theirs: dict[str, Any]) -> None:
    for table in tables_by_site(connection):
        with connection.transaction():
            connection.execute("SET LOCAL ROLE zqyy_api")
            try:
                with connection.transaction():
                    told = rows_of(connection, table)
            except psycopg.errors.InsufficientPrivilege:
                continue
        assert told == [], table.as_string(connection)


# Calls

# What each call is given, all of it the caller's own. Anything that a call has and is not here fails the walk.
BODIES: dict[str, dict[str, Any]] = {
    "POST /api/admin/ai/alerts/{alert_id}/ack": {"reason": "x"},
    "POST /api/admin/ai/alerts/{alert_id}/ignore": {"reason": "x"},
    "POST /api/admin/ai/batch-run": {"site_id": SITE, "app_types": ["app3_clue", "app2_finance"], "member_ids": [7]},
    "POST /api/admin/ai/batch-run/confirm": {"batch_id": "00000000-0000-0000-0000-000000000001"},
    "POST /api/admin/ai/cache/invalidate": {"site_id": SITE, "app_type": "app3_clue", "member_id": 7},
    "POST /api/admin/ai/pause": {"reason": "x"},
    "POST /api/admin/ai/run/{app_type}": {"site_id": SITE, "member_id": 7, "assistant_id": 3, "time_dimension": "this_month"},
    "POST /api/admin/ai/trigger-event": {"event_type": "dws_completed", "site_id": SITE, "payload": {"site_id": SITE}},
    "PATCH /api/admin/ai/triggers/{trigger_id}": {"description": "x"},
    "POST /api/internal/etl-completed": {"site_id": SITE},
    "POST /api/internal/events": {"event_name": "ai_dws_completed", "payload": {"site_id": SITE}},
    "PUT /api/admin/ai/runtime-context": {"mode": "live"},
    "POST /api/session": {"token": "x"},
}
# Of a stream that is let in there is no end; it has a test of its own.
LEFT_OUT = {"GET /api/admin/ai/stream"}
QUERIES: dict[str, Any] = {"site_id": SITE, "cache_type": "app3_clue", "target_id": str(THEIR_MEMBER)}


def test_no_call_tells_or_changes_anything_of_another_site(api: Api, connection: Connection, theirs: dict[str, Any]) -> None:
    before = {table.as_string(connection): set(_rows_of_them(connection, table)) for table in tables_by_site(connection)}
    document = api.anonymous.get("/api/openapi.json").json()
    caller = api.caller(Role.ADMIN, [SITE])
    told: list[str] = []
    calls = 0
    for method, path, operation in _operations(document):
        for request in _requests(method, path, operation, theirs):
            answer = caller.request(method, **request)
            calls += 1
            is_failure = answer.status_code >= 500 and path != "/readyz"  # which says that no daemon runs here
            if is_failure or is_theirs(answer.text):
                told.append(f"{method} {request}: {answer.status_code} {answer.text[:300]}")
    assert told == []
    assert calls > 1_000
    after = {table.as_string(connection): set(_rows_of_them(connection, table)) for table in tables_by_site(connection)}
    assert after == before


def test_the_caller_who_may_sees_what_the_walk_looked_for(api: Api, theirs: dict[str, Any]) -> None:
    """Else the walk would find nothing whatever leaks."""
    caller = api.caller(Role.ADMIN, [OTHER_SITE])
    for path in (
        f"/api/admin/ai/trigger-jobs/{theirs['job_id']}",
        f"/api/admin/ai/run-logs/{theirs['log_id']}",
        "/api/admin/ai/run-logs",
        "/api/admin/ai/trigger-jobs",
        "/api/admin/ai/alerts",
        "/api/admin/ai/events",
        "/api/admin/ai/budget",
        f"/api/ai/cache/app3_clue?site_id={OTHER_SITE}&target_id={THEIR_MEMBER}",
        f"/api/admin/ai/runtime-context?site_id={OTHER_SITE}",
        f"/api/admin/ai/runtime-context/answers?site_id={OTHER_SITE}&cache_type=app3_clue&target_id=7",
        f"/api/admin/ai/batch-run/{theirs['batch_id']}",
    ):
        answer: Response = caller.get(path)
        assert answer.status_code == 200, path
        assert is_theirs(answer.text), path


def _rows_of_them(connection: Connection, table: sql.Identifier) -> Iterator[str]:
    for row in connection.execute(sql.SQL("SELECT to_jsonb(t) AS row, t::text AS text FROM {} AS t").format(table)):
        payload = row["row"].get("payload")
        named = {row["row"].get("site_id"), payload.get("site_id") if isinstance(payload, dict) else None}
        if is_theirs(row["text"]) or OTHER_SITE in named:
            yield row["text"]


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if f"{method.upper()} {path}" not in LEFT_OUT:
                yield method.upper(), path, operation


def _requests(method: str, path: str, operation: dict[str, Any], theirs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The call as it is meant; then with each of its values, one after another, another site's or an odd one."""
    parameters = operation.get("parameters", [])
    own_query = {found["name"]: QUERIES[found["name"]] for found in parameters if found["in"] == "query" and found["name"] in QUERIES}
    own_path = {"app_type": "app3_clue", "cache_type": "app3_clue", "trigger_id": 1, **dict.fromkeys(("alert_id", "job_id", "log_id"), 1)}
    own_path["batch_id"] = "00000000-0000-0000-0000-000000000001"
    body = BODIES.get(f"{method} {path}")
    assert (body is not None) == ("requestBody" in operation), f"{method} {path}: tell what it is given"

    def request(query: dict[str, Any] = own_query, in_path: dict[str, Any] = own_path, json_body: Any = body) -> dict[str, Any]:
        told: dict[str, Any] = {"url": path.format(**in_path), "params": query}
        return told | ({} if json_body is None else {"content": json.dumps(json_body), "headers": {"Content-Type": "application/json"}})

    yield request()
    for found in parameters:
        name = found["name"]
        if found["in"] == "path":
            for value in (
                theirs.get(name, OTHER_SITE),
                OTHER_SITE,
                f"{own_path[name]} OR 1=1",
                f"{theirs.get(name)}%2C1",
                "0",
                "-1",
                2**63,
            ):
                yield request(in_path={**own_path, name: value})
        elif found["in"] == "query":
            for value in [*ODD_SITES, [OTHER_SITE, SITE], THEIR_MEMBER, theirs["job_id"], "%"]:
                yield request(query={**own_query, name: value if isinstance(value, list) else str(value)})
    for name in {*(body or {}), *({"site_id", "member_id", "assistant_id", "site_ids", "batch_id", "payload", "all"} if body else ())}:
        for value in [
            *ODD_SITES,
            THEIR_MEMBER,
            theirs["batch_id"],
            {"site_id": OTHER_SITE},
            {"site_id": [OTHER_SITE]},
            {"site_id": str(OTHER_SITE)},
        ]:
            yield request(json_body={**(body or {}), name: value})


def test_no_stream_of_another_site_is_let_in(api: Api, theirs: dict[str, Any]) -> None:
    token = api.token(Role.ADMIN, [SITE])
    caller: TestClient = api.with_token(token)
    for site in (OTHER_SITE, f"{OTHER_SITE} OR 1=1", f"{SITE},{OTHER_SITE}", [SITE, OTHER_SITE], "all", "-1", 10**30):
        answer = caller.get("/api/admin/ai/stream", params={"site_id": site if isinstance(site, list) else str(site)})
        assert answer.status_code in {404, 422}, site
    with running_server(api.services) as server:
        for site in (OTHER_SITE, f"{OTHER_SITE}%20OR%201=1", f"{SITE},{OTHER_SITE}", "all", "-1", 10**30, f"{SITE}/../{OTHER_SITE}"):
            with pytest.raises(InvalidStatus):
                connect(f"{server.websocket_url}/ws/ai-alerts/{site}", additional_headers={"Authorization": f"Bearer {token}"}).close()
