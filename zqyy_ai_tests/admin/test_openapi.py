"""The OpenAPI document: it can be made, and it says what each operation and parameter is."""

from typing import Any

from zqyy_ai_tests.admin.callers import Api


def test_each_operation_has_a_summary_and_each_query_parameter_a_description(api: Api) -> None:
    answer = api.anonymous.get("/api/openapi.json")
    assert answer.status_code == 200
    operations: dict[str, dict[str, Any]] = {
        f"{method} {path}": operation for path, methods in answer.json()["paths"].items() for method, operation in methods.items()
    }
    assert [name for name, operation in operations.items() if not operation.get("summary")] == []
    undescribed = [
        f"{name} {parameter['name']}"
        for name, operation in operations.items()
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "query" and not parameter.get("description")
    ]
    assert undescribed == []
