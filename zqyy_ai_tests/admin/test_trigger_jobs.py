"""Trigger jobs and inbox events as an operator looks through them."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from zqyy_ai.domain.access import Role
from zqyy_ai.domain.business_clock import SHANGHAI
from zqyy_ai.store.database import Connection
from zqyy_ai_tests.admin.callers import OTHER_SITE, SITE, Api
from zqyy_ai_tests.admin.rows import add, add_job, add_log, days_ago

URL = "/api/admin/ai/trigger-jobs"
CLIENTS_FIELDS = {
    "id",
    "event_type",
    "member_id",
    "status",
    "app_chain",
    "is_forced",
    "site_id",
    "started_at",
    "finished_at",
    "created_at",
}


def page(api: Api, *sites: int, **query: Any) -> dict[str, Any]:
    answer = api.caller(Role.VIEWER, sites or None).get(URL, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(found: dict[str, Any]) -> list[int]:
    return [item["id"] for item in found["items"]]


def test_each_filter(api: Api, connection: Connection) -> None:
    noon = datetime(2026, 4, 20, 12, tzinfo=SHANGHAI)
    consumption = add_job(connection, created_at=noon)
    note = add_job(connection, created_at=noon - timedelta(days=1), event_type="note_created", status="failed", member_id=8)
    load = add_job(connection, created_at=noon - timedelta(days=2), event_type="dws_completed", site_id=OTHER_SITE, member_id=None)
    for query, wanted in (
        ({}, [consumption, note, load]),
        ({"event_type": "note_created"}, [note]),
        ({"status": "completed"}, [consumption, load]),
        ({"site_id": OTHER_SITE}, [load]),
        ({"member_id": 8}, [note]),
        ({"date_from": "2026-04-19", "date_to": "2026-04-19"}, [note]),
        ({"page": 2, "page_size": 2}, [load]),
        ({"page": 3, "page_size": 2}, []),
        ({"event_type": "backfill"}, []),
    ):
        assert ids(page(api, **query)) == wanted, query
    assert page(api, page=2, page_size=2)["total"] == 3
    assert page(api)["items"][0].keys() >= CLIENTS_FIELDS


def test_todays_duplicates_are_those_of_the_callers_sites(api: Api, connection: Connection) -> None:
    add_job(connection, duplicate_count=3, last_event_at=days_ago(0))
    add_job(connection, duplicate_count=5, last_event_at=days_ago(0), site_id=OTHER_SITE)
    add_job(connection, duplicate_count=7, last_event_at=days_ago(2))
    counts = [
        page(api, *sites, **query)["today_skipped_duplicates"] for sites, query in (((), {}), ((SITE,), {}), ((), {"site_id": OTHER_SITE}))
    ]
    assert counts == [8, 3, 5]
    assert page(api, status="dead")["today_skipped_duplicates"] == 8


def test_a_job_in_full(api: Api, connection: Connection) -> None:
    first = add_job(connection, status="failed", error_message="两个步骤失败")
    job = add_job(connection, retry_of=first, duplicate_count=1)
    retry = add_job(connection, retry_of=job)
    steps = [add_log(connection, trigger_job_id=job, app_type=app) for app in ("app3_clue", "app8_consolidation", "app7_customer")]
    add_log(connection)
    events = [
        add(connection, "ai_events", event_name="ai_consumption_settled", payload={"site_id": SITE}, trigger_job_id=job) for _ in range(2)
    ]
    found = api.caller(Role.VIEWER, [SITE]).get(f"{URL}/{job}").json()
    assert found["payload"] == {"site_id": SITE, "member_id": 7}
    assert (found["connector_type"], found["retry_of"], found["retries"]) == ("feiqiu", first, [retry])
    assert [step["id"] for step in found["steps"]] == steps
    assert [event["id"] for event in found["merged_events"]] == events
    assert found["merged_event_count"] == 2
    assert api.caller(Role.VIEWER).get(f"{URL}/{first}").json()["error_message"] == "两个步骤失败"


def test_somebody_elses_job_looks_like_none(api: Api, connection: Connection) -> None:
    theirs, nobodys = add_job(connection, site_id=OTHER_SITE), add_job(connection, site_id=None)
    caller = api.caller(Role.VIEWER, [SITE])
    answers = [caller.get(f"{URL}/{job_id}") for job_id in (theirs, nobodys, 999_999)]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(404, "not_found")}
    assert page(api, SITE)["total"] == page(api, SITE, site_id=OTHER_SITE)["total"] == 0


@pytest.mark.parametrize("payload", ['{"n": 1e999}', '{"n": %s}' % ("9" * 5_000), "[1]", "null", '{"a": ' * 900 + "1" + "}" * 900])
def test_a_payload_that_cannot_be_shown_does_no_harm(api: Api, connection: Connection, payload: str) -> None:
    job = add_job(connection)
    connection.execute("UPDATE biz.ai_trigger_jobs SET payload = %s::jsonb WHERE id = %s", [payload, job])
    connection.execute("INSERT INTO biz.ai_events (event_name, payload, rejected_reason) VALUES ('x', %s::jsonb, '未知事件')", [payload])
    caller = api.caller(Role.VIEWER)
    assert caller.get(f"{URL}/{job}").status_code == 200
    assert caller.get("/api/admin/ai/events").status_code == 200


@pytest.mark.parametrize("query", [{"event_type": "x"}, {"status": "success"}, {"member_id": 0}, {"page_size": 0}])
def test_what_cannot_be_meant_is_refused(api: Api, query: dict[str, Any]) -> None:
    assert api.caller(Role.VIEWER).get(URL, params=query).status_code == 422


def test_rejected_events_are_listed_with_their_reason(api: Api, connection: Connection) -> None:
    mine = add(connection, "ai_events", event_name="ai_note_created", payload={"site_id": SITE}, rejected_reason="缺少 member_id")
    fine = add(connection, "ai_events", event_name="ai_note_created", payload={"site_id": SITE}, trigger_job_id=1)
    theirs = add(connection, "ai_events", event_name="ai_note_created", payload={"site_id": OTHER_SITE}, rejected_reason="缺少 member_id")
    unreadable = add(connection, "ai_events", event_name=None, payload={"site_id": "1001; DROP TABLE"}, rejected_reason="门店无效")

    def listed(*sites: int, **query: Any) -> list[int]:
        answer = api.caller(Role.VIEWER, sites or None).get("/api/admin/ai/events", params=query)
        assert answer.status_code == 200, answer.text
        assert answer.json()["total"] == len(answer.json()["items"])
        return ids(answer.json())

    assert listed(rejected=True) == [unreadable, theirs, mine]
    assert listed(rejected=False) == [fine]
    assert listed() == [unreadable, theirs, fine, mine]
    assert listed(SITE, rejected=True) == listed(rejected=True, site_id=SITE) == [mine]
    assert listed(SITE, site_id=OTHER_SITE) == []
    [item] = api.caller(Role.VIEWER, [SITE]).get("/api/admin/ai/events", params={"rejected": True}).json()["items"]
    assert (item["rejected_reason"], item["payload"], item["site_id"]) == ("缺少 member_id", {"site_id": SITE}, SITE)


def test_a_large_payload_is_not_sent_along(api: Api, connection: Connection) -> None:
    add(connection, "ai_events", event_name="x", payload={"site_id": SITE, "text": "长" * 20_000}, rejected_reason="未知事件")
    [item] = api.caller(Role.VIEWER).get("/api/admin/ai/events").json()["items"]
    assert item["payload"] is None
    assert item["payload_bytes"] > 60_000
