"""Whatever a caller sends that the document allows, and much that it does not: no call fails, and each answers as the document says."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, CheckContext, GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from zqyy_ai.admin.app import create_app
from zqyy_ai.admin.routes import app_runs
from zqyy_ai.admin.services import Services
from zqyy_ai.domain.access import Role
from zqyy_ai.settings import load_settings
from zqyy_ai.store.database import Connection, Database, database_now
from zqyy_ai_tests.admin.callers import SITE, Api, open_api
from zqyy_ai_tests.admin.rows import add, add_alert, add_job, add_log
from zqyy_ai_tests.conftest import fresh_database, template_database
from zqyy_ai_tests.engine.member_bench import DEMO_TEMPLATE, fill

TIMED_OUT = 504


def no_failure_of_the_server(ctx: CheckContext, response: Response, case: Case[Any]) -> bool | None:
    """But a 504, where the document has one, says that a job was not waited for any longer: nobody works here."""
    return None if response.status_code == TIMED_OUT else not_a_server_error(ctx, response, case)


CHECKS = [no_failure_of_the_server, status_code_conformance, content_type_conformance, response_schema_conformance]
# Of a stream there is no end to wait for. Who is not ready says so by a 503, which is no failure.
EXAMPLES = 20
LEFT_OUT = ["/api/admin/ai/stream", "/readyz"]


@pytest.fixture(scope="module")
def any_api(server_url: str, migrated_template: str) -> Iterator[Api]:
    """On demo members, with a row or two of everything; nobody works, so that who waits for an application is told so at once."""
    template = template_database(server_url, DEMO_TEMPLATE, fill, migrated_template)
    with pytest.MonkeyPatch.context() as patch, fresh_database(server_url, template) as url:
        patch.setattr(app_runs, "_MARGIN_SECONDS", 0.1)
        with Database(url, max_connections=1) as database, database.autocommit() as connection:
            _fill(connection)
        with open_api(url, ZQYY_STEP_TIMEOUT_SECONDS="0.1") as api:
            yield api


def _fill(connection: Connection) -> None:
    job_id = add_job(connection, status="failed", business_date="2026-04-20", dedup_key="consumption|1001|7|-|2026-04-20|live")
    add_log(connection, trigger_job_id=job_id, request_prompt="{}", response_text="{}")
    add_alert(connection)
    add(connection, "ai_events", event_name="ai_note_created", payload={"site_id": SITE}, handled_at="now", rejected_reason="x")
    expires_at = database_now(connection) + timedelta(days=1)
    add(
        connection,
        "ai_cache",
        cache_type="app3_clue",
        site_id=SITE,
        target_id="7",
        result_json={"x": 1},
        status="valid",
        expires_at=expires_at,
    )


@pytest.fixture(scope="module")
def schema(any_api: Api) -> BaseSchema:
    return schemathesis.openapi.from_asgi("/api/openapi.json", any_api.anonymous.app)


@pytest.fixture(scope="module")
def token(any_api: Api) -> str:
    return any_api.token(Role.ADMIN)


def _operations() -> list[tuple[str, str]]:
    """Of the document, which needs no database."""
    document = create_app(Services(load_settings({}), Database("postgresql://nobody"))).openapi()
    return [(method.upper(), path) for path, found in document["paths"].items() for method in found if path not in LEFT_OUT]


@pytest.mark.parametrize(("method", "path"), _operations(), ids=str)
def test_each_call_answers_any_input_as_the_document_says(schema: BaseSchema, token: str, method: str, path: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=schema[path][method].as_strategy(generation_mode=GenerationMode.POSITIVE)
        | schema[path][method].as_strategy(generation_mode=GenerationMode.NEGATIVE)
    )
    def ask(case: Case[Any]) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {token}"}, checks=CHECKS)

    ask()
