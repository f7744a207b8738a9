"""A site's mode over HTTP: who may look, who may switch, what is refused, and what the sandbox has brought."""

import json
from datetime import date, timedelta
from typing import Any

import pytest

from zqyy_ai.domain.access import Role
from zqyy_ai.domain.business_clock import SystemClock
from zqyy_ai.domain.runtime_context import LIVE
from zqyy_ai.store import cache, runtime_contexts
from zqyy_ai.store.database import Connection
from zqyy_ai_tests.admin.callers import OTHER_SITE, SITE, Api

PATH = "/api/admin/ai/runtime-context"
DAY = "2026-04-20"


def at(site_id: object = SITE) -> str:
    return f"{PATH}?site_id={site_id}"


def add_answer(connection: Connection, target_id: str = "7", *, day: str = DAY, site_id: int = SITE, **result: Any) -> None:
    connection.execute(
        "INSERT INTO biz.ai_sandbox_answers (cache_type, site_id, target_id, sandbox_date, result_json, triggered_by)"
        " VALUES ('app3_clue', %s, %s, %s, %s, 'consumption')",
        [site_id, target_id, day, json.dumps(result)],
    )


def test_a_site_that_nobody_has_switched_is_live(api: Api) -> None:
    today = LIVE.business_date(SystemClock().now())
    answer = api.caller(Role.VIEWER, [SITE]).get(at())
    assert answer.status_code == 200
    assert answer.json() == {
        "site_id": SITE,
        "site_name": "春熙路店",
        "mode": "live",
        "business_date": None,
        "current_business_date": today.isoformat(),
        "updated_at": None,
        "updated_by": None,
    }


def test_an_admin_switches_a_site_there_and_back_and_the_audit_says_so(api: Api, connection: Connection) -> None:
    admin = api.caller(Role.ADMIN, [SITE], "店长")
    switched = admin.put(at(), json={"mode": "sandbox", "business_date": DAY})
    assert switched.status_code == 200
    told = switched.json()
    assert (told["mode"], told["business_date"], told["current_business_date"], told["updated_by"]) == ("sandbox", DAY, DAY, "店长")
    assert told["updated_at"].endswith(("Z", "+08:00", "+00:00"))
    assert admin.get(at()).json() == told
    assert runtime_contexts.context_of(connection, SITE).sandbox_date == date.fromisoformat(DAY)
    assert runtime_contexts.context_of(connection, OTHER_SITE) == LIVE

    assert admin.put(at(), json={"mode": "live"}).json()["business_date"] is None
    assert runtime_contexts.context_of(connection, SITE) == LIVE
    rows = connection.execute("SELECT actor, action, site_id, before, after FROM biz.ai_audit ORDER BY id").fetchall()
    live, sandbox = {"mode": "live", "business_date": None}, {"mode": "sandbox", "business_date": DAY}
    assert [(row["actor"], row["action"], row["site_id"], row["before"], row["after"]) for row in rows] == [
        ("店长", "runtime_context.put", SITE, live, sandbox),
        ("店长", "runtime_context.put", SITE, sandbox, live),
    ]


@pytest.mark.parametrize(
    "body",
    [
        {"mode": "sandbox"},
        {"mode": "sandbox", "business_date": None},
        {"mode": "sandbox", "business_date": "2099-01-01"},
        {"mode": "sandbox", "business_date": (date.today() + timedelta(days=2)).isoformat()},  # noqa: DTZ011 - any day that is yet to come
        {"mode": "sandbox", "business_date": "0001-01-01"},
        {"mode": "sandbox", "business_date": "yesterday"},
        {"mode": "live", "business_date": DAY},
        {"mode": "dream"},
        {"mode": "live", "more": 1},
        {},
        [],
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(api: Api, connection: Connection, body: object) -> None:
    answer = api.caller(Role.ADMIN).put(at(), json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] in ("invalid_parameters", "invalid_request")
    assert connection.execute("SELECT FROM biz.ai_runtime_contexts").fetchall() == []
    assert connection.execute("SELECT FROM biz.ai_audit").fetchall() == []


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.READER, Role.INTERNAL])
def test_only_an_admin_switches(api: Api, role: Role) -> None:
    assert api.caller(role).put(at(), json={"mode": "sandbox", "business_date": DAY}).status_code == 403


def test_another_ones_site_is_as_one_that_does_not_exist(api: Api, connection: Connection) -> None:
    add_answer(connection, site_id=OTHER_SITE)
    caller = api.caller(Role.ADMIN, [SITE])
    asked = [
        (caller.get(at(site_id)), caller.put(at(site_id), json={"mode": "live"}), caller.get(f"{PATH}/answers", params=_wanted(site_id)))
        for site_id in (OTHER_SITE, 999, 2**63 - 1)
    ]
    assert {answer.status_code for answers in asked for answer in answers} == {404}
    assert {
        answer.json()["detail"].replace(str(site_id), "…")
        for answers, site_id in zip(asked, (OTHER_SITE, 999, 2**63 - 1), strict=True)
        for answer in answers
    } == {"门店 … 不存在"}


def _wanted(site_id: int = SITE, **more: Any) -> dict[str, Any]:
    return {"site_id": site_id, "cache_type": "app3_clue", "target_id": "7"} | more


def test_the_sandboxs_answers_come_newest_first_and_those_of_the_cache_never(api: Api, connection: Connection) -> None:
    cache.write_cache(connection, "app3_clue", SITE, "7", {"clues": "live"}, expires_at=None)
    add_answer(connection, clues="first")
    add_answer(connection, day="2026-04-21", clues="second")
    add_answer(connection, "8", clues="another's")
    caller = api.caller(Role.VIEWER, [SITE])
    answer = caller.get(f"{PATH}/answers", params=_wanted())
    assert answer.status_code == 200
    assert [(item["sandbox_date"], item["result_json"]) for item in answer.json()["items"]] == [
        ("2026-04-21", {"clues": "second"}),
        (DAY, {"clues": "first"}),
    ]
    of_day = caller.get(f"{PATH}/answers", params=_wanted(business_date=DAY)).json()["items"]
    assert [item["result_json"] for item in of_day] == [{"clues": "first"}]
    assert len(caller.get(f"{PATH}/answers", params=_wanted(limit=1)).json()["items"]) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"cache_type": "app9"},
        {"cache_type": "x" * 1000},
        {"target_id": "a\0b"},
        {"target_id": ""},
        {"target_id": "x" * 1000},
        {"site_id": 0},
        {"site_id": 2**63},
        {"business_date": "tomorrow"},
        {"limit": 0},
        {"limit": 201},
    ],
)
def test_a_wrong_question_is_told_which_field_is_wrong(api: Api, wrong: dict[str, Any]) -> None:
    answer = api.caller(Role.VIEWER).get(f"{PATH}/answers", params=_wanted() | wrong)
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_parameters"


def test_an_unknown_cache_type_is_told_which_there_are(api: Api) -> None:
    assert "app8_clue_consolidated" in api.caller(Role.VIEWER).get(f"{PATH}/answers", params=_wanted(cache_type="app9")).json()["detail"]
