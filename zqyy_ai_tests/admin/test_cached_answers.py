"""What the mini-program reads: the newest valid answer, what is stale, what is not there, and the history."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from zqyy_ai.admin.app import create_app
from zqyy_ai.domain.access import Role
from zqyy_ai.domain.business_clock import SHANGHAI, HandClock
from zqyy_ai.store import cache
from zqyy_ai.store.database import Connection
from zqyy_ai_tests.admin.callers import OTHER_SITE, SITE, Api

NOW = datetime(2026, 4, 20, 10, tzinfo=SHANGHAI)
HOUR = timedelta(hours=1)
PATH = "/api/ai/cache/app3_clue"
TARGET = {"site_id": SITE, "target_id": "7"}
RESULT = {"clues": [{"summary": "📅 偏好周末下午"}], "_references": {"date_from": "2026-01-01", "rows": 20}}


@pytest.fixture
def clock() -> HandClock:
    return HandClock(NOW)


@pytest.fixture
def reader(api: Api, clock: HandClock) -> Iterator[TestClient]:
    token = api.token(Role.READER, [SITE])
    app = create_app(replace(api.services, clock=clock))
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}, raise_server_exceptions=False) as client:
        yield client


def write(
    connection: Connection, result: dict[str, Any] = RESULT, *, cache_type: str = "app3_clue", site_id: int = SITE, **more: Any
) -> int:
    return cache.write_cache(connection, cache_type, site_id, "7", result, **({"expires_at": NOW + HOUR} | more))


def test_the_newest_valid_answer_is_read_with_what_it_rests_on(reader: TestClient, connection: Connection) -> None:
    write(connection, {"clues": []})
    newest = write(connection, score=8)
    write(connection, {"clues": ["x"]}, site_id=OTHER_SITE)
    cache.set_generating(connection, "app3_clue", SITE, "7")
    answer = reader.get(PATH, params=TARGET)
    assert answer.status_code == 200
    told = answer.json()
    assert (told["id"], told["cache_type"], told["site_id"], told["target_id"]) == (newest, "app3_clue", SITE, "7")
    assert (told["result"], told["score"], told["_references"], told["stale_since"]) == (RESULT, 8, RESULT["_references"], None)
    assert datetime.fromisoformat(told["expires_at"]) == NOW + HOUR
    assert datetime.fromisoformat(told["created_at"]).tzinfo is not None
    assert answer.headers["cache-control"] == "private, no-cache"


def test_what_never_expires_is_never_stale(reader: TestClient, connection: Connection, clock: HandClock) -> None:
    write(connection, expires_at=None)
    clock.turn(timedelta(days=400))
    assert reader.get(PATH, params=TARGET).json()["stale_since"] is None


def test_what_has_expired_is_stale_and_read_only_when_that_is_allowed(reader: TestClient, connection: Connection, clock: HandClock) -> None:
    stored = write(connection)
    clock.turn(HOUR)
    refused = reader.get(PATH, params=TARGET)
    assert (refused.status_code, refused.json()["code"]) == (404, "stale")
    assert datetime.fromisoformat(refused.json()["expires_at"]) == NOW + HOUR
    told = reader.get(PATH, params={**TARGET, "allow_stale": "true"}).json()
    assert (told["id"], told["stale_since"]) == (stored, told["expires_at"])


def test_an_older_answer_that_has_not_expired_comes_before_a_newer_one_that_has(reader: TestClient, connection: Connection) -> None:
    fresh = write(connection)
    write(connection, expires_at=NOW - HOUR)
    for allow_stale in ("true", "false"):
        assert reader.get(PATH, params={**TARGET, "allow_stale": allow_stale}).json()["id"] == fresh


def test_what_was_invalidated_is_not_there_even_when_stale_is_allowed(reader: TestClient, connection: Connection) -> None:
    stored = write(connection)
    connection.execute("UPDATE biz.ai_cache SET status = 'invalidated' WHERE id = %s", [stored])
    answer = reader.get(PATH, params={**TARGET, "allow_stale": "true"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_an_unchanged_answer_is_not_sent_again(reader: TestClient, connection: Connection, clock: HandClock) -> None:
    stored = write(connection)
    etag = reader.get(PATH, params=TARGET).headers["etag"]
    for asked in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        same = reader.get(PATH, params=TARGET, headers={"If-None-Match": asked})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    assert reader.get(PATH, params=TARGET, headers={"If-None-Match": '"x"'}).status_code == 200

    cache.extend(connection, stored, NOW + 2 * HOUR)
    extended = reader.get(PATH, params=TARGET, headers={"If-None-Match": etag})
    assert extended.status_code == 200
    clock.turn(2 * HOUR)
    assert reader.get(PATH, params=TARGET, headers={"If-None-Match": extended.headers["etag"]}).status_code == 404
    params = {**TARGET, "allow_stale": "true"}
    stale = reader.get(PATH, params=params, headers={"If-None-Match": extended.headers["etag"]})
    assert stale.json()["stale_since"] is not None
    assert reader.get(PATH, params=params, headers={"If-None-Match": stale.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    ("name", "cache_type"),
    [
        ("app6_note", "app6_note_analysis"),
        ("app7_customer", "app7_customer_analysis"),
        ("app8_consolidation", "app8_clue_consolidated"),
        ("app8_consolidate", "app8_clue_consolidated"),
    ],
)
def test_an_applications_name_stands_for_its_cache_type(reader: TestClient, connection: Connection, name: str, cache_type: str) -> None:
    write(connection, cache_type=cache_type)
    assert reader.get(f"/api/ai/cache/{name}", params=TARGET).json()["cache_type"] == cache_type


def test_the_history_is_newest_first_with_what_is_over(reader: TestClient, connection: Connection) -> None:
    expired, invalidated = write(connection, expires_at=NOW - HOUR), write(connection)
    connection.execute("UPDATE biz.ai_cache SET status = 'invalidated' WHERE id = %s", [invalidated])
    newest = write(connection, {"clues": []})
    cache.set_generating(connection, "app3_clue", SITE, "7")
    items = reader.get(f"{PATH}/history", params=TARGET).json()["items"]
    assert [(item["id"], item["status"], item["stale_since"] is None) for item in items] == [
        (newest, "valid", True),
        (invalidated, "invalidated", True),
        (expired, "valid", False),
    ]
    assert items[2]["_references"] == RESULT["_references"]
    two = reader.get(f"{PATH}/history", params={**TARGET, "limit": 2}).json()["items"]
    assert [item["id"] for item in two] == [newest, invalidated]
    assert reader.get(f"{PATH}/history", params={**TARGET, "target_id": "8"}).json() == {"items": []}


@pytest.mark.parametrize("path", [PATH, f"{PATH}/history"])
def test_another_sites_answers_are_not_there(reader: TestClient, connection: Connection, path: str) -> None:
    write(connection, site_id=OTHER_SITE)
    answer = reader.get(path, params={**TARGET, "site_id": OTHER_SITE})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("role", [Role.INTERNAL])
def test_who_only_fires_events_reads_nothing(api: Api, role: Role) -> None:
    assert api.caller(role).get(PATH, params=TARGET).status_code == 403
    assert api.anonymous.get(PATH, params=TARGET).status_code == 401


@pytest.mark.parametrize("role", [Role.READER, Role.VIEWER, Role.OPERATOR, Role.ADMIN])
def test_who_reads_or_looks_gets_answers(api: Api, connection: Connection, role: Role) -> None:
    write(connection, expires_at=None)
    assert api.caller(role).get(PATH, params=TARGET).status_code == 200


@pytest.mark.parametrize(
    ("cache_type", "params"),
    [
        ("app9", TARGET),
        ("app3_clue' OR 1=1 --", TARGET),
        ("app3_clue", {"site_id": SITE}),
        ("app3_clue", {"target_id": "7"}),
        ("app3_clue", {**TARGET, "site_id": 0}),
        ("app3_clue", {**TARGET, "site_id": 2**63}),
        ("app3_clue", {**TARGET, "target_id": ""}),
        ("app3_clue", {**TARGET, "target_id": "7\x00"}),
        ("app3_clue", {**TARGET, "target_id": "7" * 101}),
        ("app3_clue", {**TARGET, "allow_stale": "perhaps"}),
        ("app3_clue/history", {**TARGET, "limit": 0}),
        ("app3_clue/history", {**TARGET, "limit": 51}),
    ],
)
def test_what_cannot_be_asked_for_is_said(reader: TestClient, cache_type: str, params: dict[str, Any]) -> None:
    answer = reader.get(f"/api/ai/cache/{cache_type}", params=params)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameters")
    if cache_type == "app9":
        assert "app8_clue_consolidated" in answer.json()["detail"]
        assert "Value error" not in answer.json()["detail"]


@pytest.mark.parametrize("target_id", ["7' OR '1'='1", "7%", "_", "{7,8}", "7\n", "😀"])
def test_odd_targets_are_only_not_there(reader: TestClient, connection: Connection, target_id: str) -> None:
    write(connection)
    assert reader.get(PATH, params={**TARGET, "target_id": target_id}).json()["code"] == "not_found"


def test_the_document_says_what_is_read(api: Api) -> None:
    paths = api.anonymous.get("/api/openapi.json").json()["paths"]
    operation = paths["/api/ai/cache/{cache_type}"]["get"]
    assert {"200", "304", "404", "422"} <= set(operation["responses"])
    [cache_type] = [parameter for parameter in operation["parameters"] if parameter["name"] == "cache_type"]
    assert "app6_note_analysis" in cache_type["schema"]["enum"]
    assert "text/event-stream" in paths["/api/admin/ai/stream"]["get"]["responses"]["200"]["content"]
