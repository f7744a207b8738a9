"""Which role may do what, for each call of the document; and that each write that was done is in the audit, once."""

import logging
from typing import Any

import pytest

from zqyy_ai.domain.access import Role
from zqyy_ai.store.database import Connection
from zqyy_ai_tests.admin.callers import SITE, Api
from zqyy_ai_tests.admin.rows import add_alert, add_job, today

AI = "/api/admin/ai"
VIEWERS = {Role.VIEWER, Role.OPERATOR, Role.ADMIN}
OPERATORS = {Role.OPERATOR, Role.ADMIN}
ADMINS = {Role.ADMIN}
READERS = VIEWERS | {Role.READER}
SERVICES = {Role.INTERNAL, Role.ADMIN}
# An empty set: no token is needed.
NOBODY: set[Role] = set()
KEY = f"consumption|{SITE}|7|-|{today()}|live"
MAY: dict[str, set[Role]] = {
    f"POST {AI}/alerts/{{alert_id}}/ack": OPERATORS,
    f"POST {AI}/alerts/{{alert_id}}/ignore": OPERATORS,
    f"GET {AI}/alerts": VIEWERS,
    f"POST {AI}/run/{{app_type}}": OPERATORS,
    f"POST {AI}/batch-run": OPERATORS,
    f"POST {AI}/batch-run/confirm": OPERATORS,
    f"GET {AI}/batch-run/{{batch_id}}": VIEWERS,
    f"POST {AI}/batch-run/{{batch_id}}/cancel": OPERATORS,
    f"GET {AI}/budget": VIEWERS,
    f"POST {AI}/cache/invalidate": OPERATORS,
    "GET /api/ai/cache/{cache_type}": READERS,
    "GET /api/ai/cache/{cache_type}/history": READERS,
    f"GET {AI}/dashboard": VIEWERS,
    f"GET {AI}/events": VIEWERS,
    "POST /api/internal/etl-completed": SERVICES,
    "POST /api/internal/events": SERVICES,
    f"POST {AI}/trigger-jobs/{{job_id}}/retry": OPERATORS,
    f"POST {AI}/stream/ticket": VIEWERS,
    f"POST {AI}/trigger-event": OPERATORS,
    f"GET {AI}/pause": ADMINS,
    f"POST {AI}/pause": ADMINS,
    f"DELETE {AI}/pause": ADMINS,
    f"GET {AI}/prewarm/progress": VIEWERS,
    f"GET {AI}/run-logs": VIEWERS,
    f"GET {AI}/run-logs/{{log_id}}": VIEWERS,
    f"GET {AI}/runtime-context": VIEWERS,
    f"PUT {AI}/runtime-context": ADMINS,
    f"GET {AI}/runtime-context/answers": VIEWERS,
    "GET /api/session": set(Role),
    "DELETE /api/session": set(Role),
    "POST /api/session": NOBODY,
    f"PATCH {AI}/triggers/{{trigger_id}}": ADMINS,
    f"GET {AI}/trigger-jobs": VIEWERS,
    f"GET {AI}/trigger-jobs/{{job_id}}": VIEWERS,
    f"GET {AI}/triggers": VIEWERS,
    "GET /healthz": NOBODY,
    "GET /readyz": NOBODY,
    "GET /metrics": VIEWERS,
}
# Who may not is refused by it as by the rest; for who may there is no end to wait for.
STREAM = f"GET {AI}/stream"


def called(call: str) -> tuple[str, str]:
    method, path = call.split(" ")
    for name, value in {"app_type": "app3_clue", "cache_type": "app3_clue", "batch_id": "00000000-0000-0000-0000-000000000001"}.items():
        path = path.replace(f"{{{name}}}", value)
    for name in ("alert_id", "job_id", "log_id", "trigger_id"):
        path = path.replace(f"{{{name}}}", "424242")
    return method, path


def test_each_call_is_for_the_roles_that_the_table_says(api: Api) -> None:
    document = api.anonymous.get("/api/openapi.json").json()
    calls = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert calls == {*MAY, STREAM}
    for role in Role:
        caller = api.caller(role)
        for call, may in MAY.items():
            is_refused = caller.request(*called(call), content=b"").status_code == 403
            assert is_refused == bool(may and role not in may), f"{role} {call}"
        if role not in VIEWERS:
            assert caller.get(STREAM.split(" ")[1]).status_code == 403
    # 429: too many came without one.
    for call in {*MAY, STREAM}:
        status = api.anonymous.request(*called(call), content=b"").status_code
        assert (status in {401, 429}) == (MAY.get(call) != NOBODY), call


def test_each_write_is_in_the_audit_once_with_who_and_what(api: Api, connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = api.token(Role.ADMIN, name="运维小李")
    admin = api.with_token(token)
    alert_id, other_alert_id, job_id = (
        add_alert(connection),
        add_alert(connection),
        add_job(connection, status="failed", business_date=today(), dedup_key=KEY),
    )
    writes: list[tuple[str, str, dict[str, Any] | None, str]] = [
        ("POST", f"{AI}/alerts/{alert_id}/ack", {"reason": "在看"}, "alert.ack"),
        ("POST", f"{AI}/alerts/{other_alert_id}/ignore", {"reason": "误报"}, "alert.ignore"),
        ("POST", f"{AI}/trigger-jobs/{job_id}/retry", None, "trigger_job.retry"),
        ("POST", f"{AI}/cache/invalidate", {"site_id": SITE}, "cache.invalidate"),
        ("POST", f"{AI}/trigger-event", {"event_type": "dws_completed", "site_id": SITE}, "event.fire"),
        ("PATCH", f"{AI}/triggers/1", {"description": "新的说明"}, "trigger.update"),
        ("POST", f"{AI}/pause", {"reason": "核对账单"}, "calls.pause"),
        ("DELETE", f"{AI}/pause", None, "calls.resume"),
        ("PUT", f"{AI}/runtime-context?site_id={SITE}", {"mode": "sandbox", "business_date": "2026-04-20"}, "runtime_context.put"),
        ("POST", "/api/internal/etl-completed", {"site_id": SITE}, "event.fire"),
        ("POST", "/api/internal/events", {"event_name": "ai_dws_completed", "payload": {"site_id": SITE}}, "event.fire"),
    ]
    done = []
    for method, path, body, _ in writes:
        answer = admin.request(method, path, json=body)
        assert answer.status_code == 200, (path, answer.text)
        done.append(
            connection.execute("SELECT actor, action, after IS NOT NULL AS says FROM biz.ai_audit ORDER BY id DESC LIMIT 1").fetchone()
        )
    assert done == [{"actor": "运维小李", "action": action, "says": True} for *_, action in writes]
    assert connection.execute("SELECT count(*) AS n FROM biz.ai_audit").fetchone() == {"n": len(writes)}
    assert token not in caplog.text
    assert token.rpartition("_")[2] not in caplog.text
