"""The existing front end's calls: each path, query name, body and field of that client, with its types, is in the document of the server.

The table is the client's, written down once; the server may have more and takes none away. That answers are as the document says is another
test's to see (`test_any_input.py`).
"""

from typing import Any

import pytest

from zqyy_ai.domain.access import Role
from zqyy_ai_tests.admin.callers import Api

# `~`: may be left out; `?`: may be null.
TYPES = {
    "DailyTrend": "date:string calls:number success_rate:number",
    "AppDistItem": "app_type:string count:number percentage:number",
    "BudgetInfo": ("daily_used:number daily_limit:number daily_pct:number monthly_used:number monthly_limit:number monthly_pct:number"),
    "AlertItem": "id:number app_type:string status:string alert_status:string? error_message:string? created_at:string",
    "AppHealthItem": "app_type:string last_status:string? last_call_at:string?",
    "DashboardResponse": (
        "today_calls:number today_success_rate:number today_tokens:number today_avg_latency_ms:number "
        "trend_7d:DailyTrend[] app_distribution:AppDistItem[] budget:BudgetInfo recent_alerts:AlertItem[] "
        "app_health:AppHealthItem[]"
    ),
    "TriggerJobItem": (
        "id:number event_type:string member_id:number? status:string app_chain:string? is_forced:boolean site_id:number "
        "started_at:string? finished_at:string? created_at:string"
    ),
    "TriggerJobDetailResponse": (
        "id:number event_type:string member_id:number? status:string app_chain:string? is_forced:boolean site_id:number "
        "started_at:string? finished_at:string? created_at:string payload:object? error_message:string? "
        "connector_type:string"
    ),
    "TriggerJobListResponse": "items:TriggerJobItem[] total:number page:number page_size:number today_skipped_duplicates:number",
    "RetryResponse": "trigger_job_id:number status:string",
    "RunLogItem": (
        "id:number app_type:string trigger_type:string member_id:number? tokens_used:number latency_ms:number? "
        "status:string site_id:number created_at:string"
    ),
    "RunLogDetailResponse": (
        "id:number app_type:string trigger_type:string member_id:number? tokens_used:number latency_ms:number? "
        "status:string site_id:number created_at:string request_prompt:string? response_text:string? "
        "error_message:string? session_id:string? finished_at:string?"
    ),
    "RunLogListResponse": "items:RunLogItem[] total:number page:number page_size:number",
    "CacheInvalidateResponse": "affected_count:number",
    "BudgetResponse": ("daily_used:number daily_limit:number daily_pct:number monthly_used:number monthly_limit:number monthly_pct:number"),
    "BatchRunEstimate": "batch_id:string estimated_calls:number estimated_tokens:number",
    "BatchRunConfirmResponse": "status:string",
    "AlertListResponse": "items:AlertItem[] total:number page:number page_size:number",
    "AlertActionResponse": "id:number alert_status:string",
    "RunAppResponse": "app_type:string success:boolean result:object? error:string?",
    "TriggerItem": (
        "id:number job_name:string job_type:string trigger_condition:string trigger_config:object status:string "
        "description:string? last_run_at:string? next_run_at:string? last_error:string?"
    ),
    "PrewarmMissingItem": "target_id:string time_dimension:string area:string",
    "PrewarmProgressResponse": "total:number done:number missing:PrewarmMissingItem[] last_updated:string?",
    "ManualTriggerResponse": "trigger_job_id:number status:string",
    "CacheInvalidateReq": "site_id:number app_type~:string member_id~:number",
    "BatchRunReq": "app_types:string[] member_ids:number[] site_id:number",
    "RunAppRequest": (
        "site_id:number member_id~:number assistant_id~:number time_dimension~:string area~:string note_content~:string "
        "noted_by_name~:string noted_by_created_at~:string"
    ),
    "TriggerUpdateRequest": "status~:string cron_expression~:string description~:string",
    "ManualTriggerRequest": "event_type:string site_id:number member_id~:number assistant_id~:number payload~:object is_forced~:boolean",
    "TriggerJobQuery": (
        "event_type~:string status~:string site_id~:number date_from~:string date_to~:string page~:number page_size~:number"
    ),
    "RunLogQuery": (
        "app_type~:string status~:string trigger_type~:string site_id~:number date_from~:string date_to~:string "
        "page~:number page_size~:number"
    ),
    "AlertQuery": "alert_status~:string site_id~:number page~:number page_size~:number",
    "DashboardQuery": "site_id~:number range_days~:number date_from~:string date_to~:string",
}
# Call, query, body, answer.
CALLS = [
    ("GET /admin/ai/dashboard", "DashboardQuery", None, "DashboardResponse"),
    ("GET /admin/ai/trigger-jobs", "TriggerJobQuery", None, "TriggerJobListResponse"),
    ("GET /admin/ai/trigger-jobs/{job_id}", None, None, "TriggerJobDetailResponse"),
    ("POST /admin/ai/trigger-jobs/{job_id}/retry", None, None, "RetryResponse"),
    ("GET /admin/ai/run-logs", "RunLogQuery", None, "RunLogListResponse"),
    ("GET /admin/ai/run-logs/{log_id}", None, None, "RunLogDetailResponse"),
    ("POST /admin/ai/cache/invalidate", None, "CacheInvalidateReq", "CacheInvalidateResponse"),
    ("GET /admin/ai/budget", None, None, "BudgetResponse"),
    ("POST /admin/ai/batch-run", None, "BatchRunReq", "BatchRunEstimate"),
    ("POST /admin/ai/batch-run/confirm", None, "batch_id:string", "BatchRunConfirmResponse"),
    ("GET /admin/ai/alerts", "AlertQuery", None, "AlertListResponse"),
    ("POST /admin/ai/alerts/{alert_id}/ack", None, None, "AlertActionResponse"),
    ("POST /admin/ai/alerts/{alert_id}/ignore", None, None, "AlertActionResponse"),
    ("POST /admin/ai/run/{app_type}", None, "RunAppRequest", "RunAppResponse"),
    ("GET /admin/ai/triggers", None, None, "TriggerItem[]"),
    ("PATCH /admin/ai/triggers/{trigger_id}", None, "TriggerUpdateRequest", "TriggerItem"),
    ("GET /admin/ai/prewarm/progress", "site_id:number", None, "PrewarmProgressResponse"),
    ("POST /admin/ai/trigger-event", None, "ManualTriggerRequest", "ManualTriggerResponse"),
]


@pytest.mark.parametrize(("call", "query", "body", "answer"), CALLS, ids=[call[0] for call in CALLS])
def test_the_document_keeps_what_the_client_relies_on(api: Api, call: str, query: str | None, body: str | None, answer: str) -> None:
    document = api.caller(Role.VIEWER).get("/api/openapi.json").json()
    method, path = call.split(" ")
    operation = document["paths"][f"/api{path}"][method.lower()]
    contract = _Contract(document["components"]["schemas"])

    parameters = {found["name"]: found for found in operation.get("parameters", []) if found["in"] == "query"}
    for name, kind, may_be_left_out in _fields(query):
        contract.check(parameters[name]["schema"], kind, f"{call} ?{name}")
        assert not (may_be_left_out and parameters[name].get("required")), f"{call} ?{name}"
    assert {name for name, found in parameters.items() if found.get("required")} <= {name for name, *_ in _fields(query)}

    if body is not None:
        contract.check_taken(operation["requestBody"]["content"]["application/json"]["schema"], body, call)
    else:
        assert not operation.get("requestBody", {}).get("required")
    contract.check(operation["responses"]["200"]["content"]["application/json"]["schema"], answer, call)


def _fields(told: str | None) -> list[tuple[str, str, bool]]:
    """Name, type, and whether it may be left out."""
    parts = [part.split(":") for part in TYPES.get(told or "", told or "").split()]
    return [(name.rstrip("~"), kind, name.endswith("~")) for name, kind in parts]


class _Contract:
    def __init__(self, components: dict[str, Any]) -> None:
        self._components = components

    def check(self, schema: dict[str, Any], kind: str, place: str) -> None:
        """`schema` gives nothing that a client which expects `kind` would not understand."""
        alternatives = self._alternatives(schema)
        if any(found.get("type") == "null" for found in alternatives):
            # A query or body may take null besides; an answer may be null only where the client knows.
            assert kind.endswith("?") or "?" in place or "<body>" in place, place
            alternatives = [found for found in alternatives if found.get("type") != "null"]
        kind = kind.rstrip("?")
        for found in alternatives:
            if kind.endswith("[]"):
                assert found["type"] == "array", place
                self.check(found["items"], kind[:-2], f"{place}[]")
            elif kind in TYPES:
                for name, of_field, _ in _fields(kind):
                    assert name in found.get("required", found["properties"]), f"{place}.{name}"
                    self.check(found["properties"][name], of_field, f"{place}.{name}")
            else:
                assert found["type"] in {"number": {"integer", "number"}}.get(kind, {kind}), f"{place}: {found}"

    def check_taken(self, schema: dict[str, Any], kind: str, place: str) -> None:
        """`schema` takes all that a client may send."""
        [body] = [found for found in self._alternatives(schema) if found.get("type") != "null"]
        for name, of_field, may_be_left_out in _fields(kind):
            self.check(body["properties"][name], of_field, f"{place} <body>.{name}")
            assert not (may_be_left_out and name in body.get("required", [])), f"{place}.{name}"
        assert set(body.get("required", [])) <= {name for name, *_ in _fields(kind)}

    def _alternatives(self, schema: dict[str, Any]) -> list[dict[str, Any]]:
        if "$ref" in schema:
            return self._alternatives(self._components[schema["$ref"].rpartition("/")[2]])
        if "anyOf" in schema:
            return [found for part in schema["anyOf"] for found in self._alternatives(part)]
        return [schema]
