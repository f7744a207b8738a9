"""What is changed through the API: retries, alerts, triggers, the cache, the pause, events. Each with its audit, its refusals and its rights."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from zqyy_ai.domain.access import Role
from zqyy_ai.domain.business_clock import SHANGHAI, SystemClock
from zqyy_ai.domain.events import EventType, dedup_key
from zqyy_ai.domain.runtime_context import LIVE
from zqyy_ai.store import trigger_jobs
from zqyy_ai.store.alerts import Alert, AlertType, raise_alert
from zqyy_ai.store.database import Connection
from zqyy_ai.store.trigger_jobs import NewJob
from zqyy_ai_tests.admin.callers import OTHER_SITE, SITE, Api

AI = "/api/admin/ai"
Row = dict[str, Any]


@pytest.fixture
def operator(api: Api) -> TestClient:
    return api.caller(Role.OPERATOR, [SITE], "值班")


@pytest.fixture
def admin(api: Api) -> TestClient:
    return api.caller(Role.ADMIN, None, "店长")


def audited(connection: Connection) -> list[Row]:
    return connection.execute("SELECT * FROM biz.ai_audit ORDER BY id").fetchall()


def live(connection: Connection) -> list[Row]:
    return connection.execute("SELECT event_type, site_id, payload FROM biz.ai_live_events ORDER BY id").fetchall()


def add_job(connection: Connection, *, site_id: int = SITE, status: str = "failed", member_id: int = 7) -> int:
    today = SystemClock().now().date()
    with connection.transaction():
        job_id = trigger_jobs.add(
            connection,
            NewJob(
                event_type=EventType.CONSUMPTION,
                site_id=site_id,
                member_id=member_id,
                business_date=today,
                dedup_key=dedup_key(EventType.CONSUMPTION, site_id, member_id, "-", today, "live"),
                app_chain="app3→app8→app7",
                payload={"site_id": site_id, "member_id": member_id},
                context=LIVE,
            ),
        )
        connection.execute("UPDATE biz.ai_trigger_jobs SET status = %s, error_message = '超时' WHERE id = %s", [status, job_id])
    return job_id


# Retries


@pytest.mark.parametrize("status", ["failed", "partial", "dead"])
def test_an_unfinished_job_is_done_over_by_a_new_one(operator: TestClient, connection: Connection, status: str) -> None:
    job_id = add_job(connection, status=status)
    answer = operator.post(f"{AI}/trigger-jobs/{job_id}/retry")
    assert answer.status_code == 200
    told = answer.json()
    assert told == {"trigger_job_id": told["trigger_job_id"], "status": "pending", "retry_of": job_id}
    [row] = audited(connection)
    assert (row["actor"], row["action"], row["site_id"], row["subject"]) == ("值班", "trigger_job.retry", SITE, str(job_id))
    assert (row["before"]["status"], row["after"]["trigger_job_id"]) == (status, told["trigger_job_id"])
    assert row["request_id"] == answer.headers["x-request-id"]


def test_a_job_that_cannot_be_retried_says_why(operator: TestClient, connection: Connection) -> None:
    running, failed = add_job(connection, status="running"), add_job(connection, member_id=8)
    refused = operator.post(f"{AI}/trigger-jobs/{running}/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert "running" in refused.json()["detail"]
    retry_id = operator.post(f"{AI}/trigger-jobs/{failed}/retry").json()["trigger_job_id"]
    again = operator.post(f"{AI}/trigger-jobs/{failed}/retry")
    assert again.status_code == 409
    assert str(retry_id) in again.json()["detail"]


@pytest.mark.parametrize("status", ["failed", "skipped", None])
def test_a_job_of_the_old_dispatcher_is_not_retried_whatever_it_says(
    operator: TestClient, connection: Connection, status: str | None
) -> None:
    row = connection.execute(
        "INSERT INTO biz.ai_trigger_jobs (event_type, site_id, member_id, status) VALUES ('consumption', 1001, 7, %s) RETURNING id",
        [status],
    ).fetchone()
    assert row is not None
    assert operator.post(f"{AI}/trigger-jobs/{row['id']}/retry").status_code == 409


def test_a_job_of_another_site_answers_like_one_that_does_not_exist(operator: TestClient, connection: Connection) -> None:
    theirs = add_job(connection, site_id=OTHER_SITE)
    seen, unknown = operator.post(f"{AI}/trigger-jobs/{theirs}/retry"), operator.post(f"{AI}/trigger-jobs/999999/retry")
    assert seen.status_code == unknown.status_code == 404
    assert seen.json()["detail"].replace(str(theirs), "") == unknown.json()["detail"].replace("999999", "")
    assert audited(connection) == []


# Alerts


def add_alert(connection: Connection, site_id: int | None = SITE) -> int:
    with connection.transaction():
        return raise_alert(connection, Alert(AlertType.FAILED, "调用失败", site_id, "app3_clue"))


def test_an_alert_is_acknowledged_and_then_ignored_with_or_without_a_reason(operator: TestClient, connection: Connection) -> None:
    alert_id = add_alert(connection)
    assert operator.post(f"{AI}/alerts/{alert_id}/ack").json() == {"id": alert_id, "alert_status": "acked"}
    assert operator.post(f"{AI}/alerts/{alert_id}/ack").status_code == 409
    ignored = operator.post(f"{AI}/alerts/{alert_id}/ignore", json={"reason": "已知"})
    assert ignored.json() == {"id": alert_id, "alert_status": "ignored"}
    assert operator.post(f"{AI}/alerts/{alert_id}/ack").json()["code"] == "conflict"
    row = connection.execute("SELECT * FROM biz.ai_alerts").fetchone()
    assert row is not None
    assert (row["status_changed_by"], row["status_reason"]) == ("值班", "已知")
    assert [(row["action"], row["before"]["alert_status"], row["after"]["alert_status"]) for row in audited(connection)] == [
        ("alert.ack", "open", "acked"),
        ("alert.ignore", "acked", "ignored"),
    ]


def test_alerts_of_others_and_of_the_whole_chain_are_not_a_sites_to_deal_with(
    operator: TestClient, admin: TestClient, connection: Connection
) -> None:
    theirs, chain = add_alert(connection, OTHER_SITE), add_alert(connection, None)
    for alert_id in (theirs, chain, 999_999):
        assert operator.post(f"{AI}/alerts/{alert_id}/ignore").status_code == 404
    assert admin.post(f"{AI}/alerts/{chain}/ack").status_code == 200


# Triggers


def trigger_row(connection: Connection, job_name: str) -> Row:
    row = connection.execute("SELECT * FROM biz.trigger_jobs WHERE job_name = %s", [job_name]).fetchone()
    assert row is not None
    return row


def test_a_cron_is_changed_and_is_due_next_by_the_new_one(admin: TestClient, connection: Connection) -> None:
    before = trigger_row(connection, "ai_dws_prewarm_0830")
    answer = admin.patch(f"{AI}/triggers/{before['id']}", json={"cron_expression": " 15  6 * * * ", "description": "六点一刻"})
    assert answer.status_code == 200
    told = answer.json()
    assert {
        "id", "job_name", "job_type", "trigger_condition", "trigger_config", "status", "description", "last_run_at", "next_run_at", "last_error",
    } <= set(told)  # fmt: skip
    assert (told["trigger_config"]["cron_expression"], told["description"], told["status"]) == ("15 6 * * *", "六点一刻", "enabled")
    row = trigger_row(connection, "ai_dws_prewarm_0830")
    assert (row["next_run_at"].astimezone(SHANGHAI).hour, row["next_run_at"].astimezone(SHANGHAI).minute) == (6, 15)
    assert row["scheduled_expression"] == "15 6 * * *"
    [entry] = audited(connection)
    assert (entry["before"]["cron_expression"], entry["after"]["cron_expression"]) == ("30 8 * * *", "15 6 * * *")


def test_a_trigger_is_switched_off_and_on(admin: TestClient, connection: Connection) -> None:
    cron, event = trigger_row(connection, "ai_dws_prewarm_0830"), trigger_row(connection, "ai_note_created")
    for row in (cron, event):
        assert admin.patch(f"{AI}/triggers/{row['id']}", json={"status": "disabled"}).json()["status"] == "disabled"
    assert trigger_row(connection, "ai_dws_prewarm_0830")["next_run_at"] is None
    assert admin.patch(f"{AI}/triggers/{cron['id']}", json={"status": "enabled"}).json()["next_run_at"] is not None
    assert trigger_row(connection, "ai_note_created")["trigger_config"] == event["trigger_config"]


@pytest.mark.parametrize(
    ("job_name", "body", "said"),
    [
        ("ai_dws_prewarm_0830", {"cron_expression": "61 * * * *"}, "无效"),
        ("ai_dws_prewarm_0830", {"cron_expression": "0 0 31 2 *"}, "无效"),
        ("ai_dws_prewarm_0830", {"cron_expression": "* * * * * *"}, "五段"),
        ("ai_dws_prewarm_0830", {"cron_expression": "每天八点"}, "五段"),
        ("ai_dws_prewarm_0830", {"status": "off"}, "enabled"),
        ("ai_dws_prewarm_0830", {"description": "a\0b"}, "NUL"),
        ("ai_dws_prewarm_0830", {}, "没有要修改的内容"),
        ("ai_dws_prewarm_0830", {"job_name": "x"}, "没有这个字段"),
        ("ai_note_created", {"cron_expression": "0 8 * * *"}, "只有 cron 触发器"),
    ],
)
def test_what_cannot_be_meant_of_a_trigger_is_refused(
    admin: TestClient, connection: Connection, job_name: str, body: Row, said: str
) -> None:
    before = trigger_row(connection, job_name)
    answer = admin.patch(f"{AI}/triggers/{before['id']}", json=body)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert trigger_row(connection, job_name) == before


def test_other_systems_triggers_are_left_alone(admin: TestClient, connection: Connection) -> None:
    row = connection.execute(
        "INSERT INTO biz.trigger_jobs (job_name, job_type, trigger_condition) VALUES ('theirs', 'task_generator', 'cron') RETURNING id"
    ).fetchone()
    assert row is not None
    assert admin.patch(f"{AI}/triggers/{row['id']}", json={"status": "disabled"}).status_code == 404


def test_triggers_are_for_admins_of_all_sites(api: Api, operator: TestClient, connection: Connection) -> None:
    path = f"{AI}/triggers/{trigger_row(connection, 'ai_note_created')['id']}"
    assert operator.patch(path, json={"status": "disabled"}).status_code == 403
    of_one_site = api.caller(Role.ADMIN, [SITE]).patch(path, json={"status": "disabled"})
    assert (of_one_site.status_code, of_one_site.json()["code"]) == (403, "all_sites_needed")


# The cache


def fill_cache(connection: Connection) -> None:
    rows = [
        ("app2_finance", SITE, "this_month__all", "valid"),
        ("app3_clue", SITE, "7", "valid"),
        ("app3_clue", SITE, "7", None),
        ("app3_clue", SITE, "77", "valid"),
        ("app4_analysis", SITE, "12_7", "valid"),
        ("app4_analysis", SITE, "7_12", "valid"),
        ("app5_tactics", SITE, "12_77", "valid"),
        ("app7_customer_analysis", SITE, "7", "invalidated"),
        ("app7_customer_analysis", SITE, "7", "generating"),
        ("app1_chat", SITE, "7", "valid"),
        ("app3_clue", OTHER_SITE, "7", "valid"),
    ]
    for row in rows:
        connection.execute(
            "INSERT INTO biz.ai_cache (cache_type, site_id, target_id, status, result_json, expires_at)"
            " VALUES (%s, %s, %s, %s, '{}', now() - interval '1 day')",
            row,
        )


def invalidated(connection: Connection) -> list[tuple[str, str]]:
    rows = connection.execute("SELECT cache_type, target_id FROM biz.ai_cache WHERE status = 'invalidated' ORDER BY id")
    return [(row["cache_type"], row["target_id"]) for row in rows]


def test_a_members_answers_are_invalidated_by_the_members_part_of_each_target(operator: TestClient, connection: Connection) -> None:
    fill_cache(connection)
    preview = operator.post(f"{AI}/cache/invalidate", json={"site_id": SITE, "member_id": 7, "preview": True}).json()
    assert invalidated(connection) == [("app7_customer_analysis", "7")]
    done = operator.post(f"{AI}/cache/invalidate", json={"site_id": SITE, "member_id": 7}).json()
    assert done == preview | {"preview": False}
    assert done["affected_count"] == 3
    assert done["by_app"] == [{"app_type": "app3_clue", "rows": 2}, {"app_type": "app4_analysis", "rows": 1}]
    assert (done["by_member"], done["member_count"]) == ([{"member_id": 7, "rows": 3}], 1)
    assert invalidated(connection) == [
        ("app3_clue", "7"), ("app3_clue", "7"), ("app4_analysis", "12_7"), ("app7_customer_analysis", "7"),
    ]  # fmt: skip
    [entry] = audited(connection)
    assert entry["action"] == "cache.invalidate"
    assert entry["after"] == {"invalidated_rows": {"app3_clue": 2, "app4_analysis": 1}}
    told = [(row["event_type"], row["site_id"], row["payload"]["cache_type"], row["payload"]["status"]) for row in live(connection)]
    assert told == [("cache_updated", SITE, "app3_clue", "invalidated"), ("cache_updated", SITE, "app4_analysis", "invalidated")]


@pytest.mark.parametrize(
    ("scope", "rows"),
    [
        ({}, 7),
        ({"app_type": "app3_clue"}, 3),
        ({"app_type": "app3_clue", "member_id": 77}, 1),
        ({"app_type": "app5_tactics", "member_id": 77}, 1),
        ({"app_type": "app4_analysis", "member_id": 12}, 1),
        ({"app_type": "app2_finance", "target_id": "this_month__all"}, 1),
        ({"target_id": "%"}, 0),
        ({"member_id": 2**63 - 1}, 0),
    ],
)
def test_the_scope_is_what_is_named(operator: TestClient, connection: Connection, scope: Row, rows: int) -> None:
    fill_cache(connection)
    assert operator.post(f"{AI}/cache/invalidate", json={"site_id": SITE} | scope).json()["affected_count"] == rows
    theirs = connection.execute("SELECT status FROM biz.ai_cache WHERE site_id = %s OR cache_type = 'app1_chat'", [OTHER_SITE]).fetchall()
    assert [row["status"] for row in theirs] == ["valid", "valid"]


def test_a_target_that_is_no_member_keeps_nobody_from_counting(operator: TestClient, connection: Connection) -> None:
    for target in ("", "x", "²", "9" * 200, "12_", "_"):
        connection.execute("INSERT INTO biz.ai_cache (cache_type, site_id, target_id) VALUES ('app4_analysis', 1001, %s)", [target])
        connection.execute("INSERT INTO biz.ai_cache (cache_type, site_id, target_id) VALUES ('app3_clue', 1001, %s)", [target])
    told = operator.post(f"{AI}/cache/invalidate", json={"site_id": SITE}).json()
    assert (told["affected_count"], told["by_member"]) == (12, [])


@pytest.mark.parametrize(
    "body",
    [
        {"site_id": SITE, "app_type": "app9"},
        {"site_id": SITE, "app_type": "app2_finance", "member_id": 7},
        {"site_id": SITE, "target_id": "a\0"},
        {"site_id": 2**63},
        {"site_id": "1001; DROP"},
        {},
    ],
)
def test_a_scope_that_cannot_be_meant_is_refused(operator: TestClient, body: Row) -> None:
    assert operator.post(f"{AI}/cache/invalidate", json=body).status_code == 422


# The pause


def test_calls_are_paused_and_let_go_on_with_an_audit(admin: TestClient, connection: Connection) -> None:
    assert admin.get(f"{AI}/pause").json() == {"is_paused": False, "pause": None, "calls_in_flight": 0}
    begun = admin.post(f"{AI}/pause", json={"reason": "核对账单"})
    assert begun.status_code == 200
    assert (begun.json()["is_paused"], begun.json()["pause"]["paused_by"]) == (True, "店长")
    assert admin.get(f"{AI}/pause").json() == begun.json()
    again = admin.post(f"{AI}/pause", json={"reason": "别的"})
    assert again.status_code == 409
    assert "核对账单" in again.json()["detail"]
    assert admin.delete(f"{AI}/pause").json()["is_paused"] is False
    assert admin.delete(f"{AI}/pause").status_code == 409
    assert [row["action"] for row in audited(connection)] == ["calls.pause", "calls.resume"]
    assert connection.execute("SELECT alert_status FROM biz.ai_alerts").fetchall() == [{"alert_status": "resolved"}]


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "   "}, {"reason": "a\0"}, {"reason": "x" * 501}])
def test_a_pause_needs_a_reason(admin: TestClient, body: Row) -> None:
    assert admin.post(f"{AI}/pause", json=body).status_code == 422


def test_the_pause_is_for_admins_of_all_sites(api: Api, operator: TestClient) -> None:
    of_one_site = api.caller(Role.ADMIN, [SITE])
    for caller in (operator, of_one_site):
        answers = (caller.get(f"{AI}/pause"), caller.post(f"{AI}/pause", json={"reason": "x"}), caller.delete(f"{AI}/pause"))
        assert [answer.status_code for answer in answers] == [403, 403, 403]


# Events fired by people


def inbox(connection: Connection) -> list[Row]:
    return connection.execute("SELECT * FROM biz.ai_events ORDER BY id").fetchall()


def jobs(connection: Connection) -> list[Row]:
    return connection.execute("SELECT * FROM biz.ai_trigger_jobs ORDER BY id").fetchall()


@pytest.mark.parametrize(
    ("body", "chain"),
    [
        ({"event_type": "consumption", "member_id": 7}, "app3→app8→app7"),
        ({"event_type": "consumption", "member_id": 7, "assistant_id": 12}, "app3→app8→app7→app4→app5"),
        ({"event_type": "note_created", "member_id": 7, "payload": {"note_content": "喜欢安静"}}, "app6→app8"),
        ({"event_type": "task_assigned", "member_id": 7, "assistant_id": 12}, "app4→app5"),
        ({"event_type": "dws_completed"}, "app2"),
    ],
)
def test_an_event_fired_by_a_person_is_a_forced_job_at_once(operator: TestClient, connection: Connection, body: Row, chain: str) -> None:
    first = operator.post(f"{AI}/trigger-event", json={"site_id": SITE} | body)
    assert first.status_code == 200
    second = operator.post(f"{AI}/trigger-event", json={"site_id": SITE} | body).json()
    made = jobs(connection)
    assert [job["id"] for job in made] == [first.json()["trigger_job_id"], second["trigger_job_id"]]
    assert (first.json()["status"], first.json()["is_duplicate"], second["is_duplicate"]) == ("pending", False, False)
    assert {(job["app_chain"], job["is_forced"], job["event_type"]) for job in made} == {(chain, True, body["event_type"])}
    assert [row["action"] for row in audited(connection)] == ["event.fire", "event.fire"]
    assert "喜欢安静" not in json.dumps([row["after"] for row in audited(connection)], ensure_ascii=False)


def test_without_force_a_second_event_is_told_as_the_duplicate_that_it_is(operator: TestClient, connection: Connection) -> None:
    body = {"event_type": "consumption", "site_id": SITE, "member_id": 7, "is_forced": False}
    first, second = (operator.post(f"{AI}/trigger-event", json=body).json() for _ in range(2))
    assert first["trigger_job_id"] == second["trigger_job_id"]
    assert (first["is_duplicate"], second["is_duplicate"]) == (False, True)
    assert [job["duplicate_count"] for job in jobs(connection)] == [1]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"event_type": "run_app"}, "consumption"),
        ({"event_type": "consumption"}, "member_id"),
        ({"event_type": "task_assigned", "member_id": 7}, "assistant_id"),
        ({"event_type": "note_created", "member_id": 7}, "note_content"),
        ({"event_type": "note_created", "member_id": 7, "payload": {"note_content": "a\0b"}}, "NUL"),
        ({"event_type": "note_created", "member_id": 7, "payload": {"note_content": "x" * 300_000}}, "256 KiB"),
        ({"event_type": "consumption", "payload": {"member_id": "7"}}, "member_id"),
        ({"event_type": "consumption", "member_id": 7, "payload": []}, "对象"),
    ],
)
def test_an_event_that_cannot_be_meant_is_refused_and_nothing_is_written(
    operator: TestClient, connection: Connection, body: Row, said: str
) -> None:
    answer = operator.post(f"{AI}/trigger-event", json={"site_id": SITE} | body)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert inbox(connection) == audited(connection) == []


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", '"\\ud800"', "1" * 5000, "[" * 5000 + "]" * 5000])
def test_what_json_does_not_know_or_the_database_cannot_hold_is_refused(operator: TestClient, connection: Connection, value: str) -> None:
    body = f'{{"event_type": "consumption", "site_id": {SITE}, "member_id": 7, "payload": {{"x": {value}}}}}'
    answer = operator.post(f"{AI}/trigger-event", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert inbox(connection) == []


def test_an_event_whose_trigger_is_off_says_so(operator: TestClient, connection: Connection) -> None:
    connection.execute("UPDATE biz.trigger_jobs SET status = 'disabled' WHERE job_name = 'ai_consumption_settled'")
    answer = operator.post(f"{AI}/trigger-event", json={"event_type": "consumption", "site_id": SITE, "member_id": 7})
    assert (answer.status_code, answer.json()["code"]) == (422, "event_rejected")
    assert "触发器未启用" in answer.json()["detail"]


def test_the_site_of_an_event_is_the_one_that_was_checked(operator: TestClient, connection: Connection) -> None:
    body = {"event_type": "consumption", "site_id": SITE, "member_id": 7, "payload": {"site_id": OTHER_SITE, "member_id": 8}}
    assert operator.post(f"{AI}/trigger-event", json=body).status_code == 200
    assert [(job["site_id"], job["member_id"]) for job in jobs(connection)] == [(SITE, 7)]


# Events of other services


@pytest.fixture
def internal(api: Api) -> TestClient:
    return api.caller(Role.INTERNAL, [SITE, OTHER_SITE], "ETL")


def test_a_finished_load_of_one_several_or_all_sites_becomes_their_jobs(internal: TestClient, connection: Connection) -> None:
    one = internal.post("/api/internal/etl-completed", json={"site_id": SITE, "etl_run_id": "r1"})
    assert one.status_code == 200
    [told] = one.json()["events"]
    assert (told["site_id"], told["status"], told["is_duplicate"], told["rejected_reason"]) == (SITE, "pending", False, None)
    both = internal.post("/api/internal/etl-completed", json={"site_ids": [SITE, OTHER_SITE, SITE], "etl_run_id": "r1"}).json()["events"]
    assert [(event["site_id"], event["is_duplicate"]) for event in both] == [(SITE, True), (OTHER_SITE, False)]
    assert both[0]["trigger_job_id"] == told["trigger_job_id"]
    every = internal.post("/api/internal/etl-completed", json={"all": True}).json()["events"]
    assert [event["site_id"] for event in every] == [SITE, OTHER_SITE], "those that the token sees"
    assert {job["site_id"] for job in jobs(connection)} == {SITE, OTHER_SITE}
    assert len(audited(connection)) == len(inbox(connection)) == 5


@pytest.mark.parametrize(
    "body",
    [{}, {"site_id": SITE, "all": True}, {"site_ids": []}, {"site_ids": [0]}, {"site_id": SITE, "etl_run_id": "a\0"}, {"all": False}],
)
def test_a_load_that_names_no_site_or_too_much_is_refused(internal: TestClient, body: Row) -> None:
    assert internal.post("/api/internal/etl-completed", json=body).status_code == 422


def test_one_foreign_site_among_several_refuses_them_all(internal: TestClient, connection: Connection) -> None:
    assert internal.post("/api/internal/etl-completed", json={"site_ids": [SITE, 1003]}).status_code == 404
    assert inbox(connection) == []


def test_an_event_of_another_service_is_validated_taken_in_and_its_duplicate_said_to_be_one(
    internal: TestClient, connection: Connection
) -> None:
    event = {"event_name": "ai_consumption_settled", "payload": {"site_id": SITE, "member_id": 7, "till": "A3"}}
    first, second = (internal.post("/api/internal/events", json=event).json() for _ in range(2))
    assert first["trigger_job_id"] == second["trigger_job_id"]
    assert (first["is_duplicate"], second["is_duplicate"]) == (False, True)
    assert jobs(connection)[0]["payload"]["till"] == "A3"
    refused = internal.post("/api/internal/events", json={"event_name": "ai_consumption_settled", "payload": {"site_id": SITE}})
    assert refused.status_code == 422
    assert "member_id" in refused.json()["detail"]
    assert internal.post("/api/internal/events", json={"event_name": "x", "payload": {"site_id": SITE}}).status_code == 422
    theirs = {"event_name": "ai_dws_completed", "payload": {"site_id": 1003}}
    assert internal.post("/api/internal/events", json=theirs).status_code == 404
    assert len(inbox(connection)) == 2


def test_an_event_whose_trigger_is_off_is_no_error_of_the_service_that_told_it(internal: TestClient, connection: Connection) -> None:
    connection.execute("UPDATE biz.trigger_jobs SET status = 'disabled' WHERE job_name = 'ai_dws_completed'")
    told = internal.post("/api/internal/events", json={"event_name": "ai_dws_completed", "payload": {"site_id": SITE}})
    assert told.status_code == 200
    assert (told.json()["trigger_job_id"], told.json()["rejected_reason"]) == (None, "触发器未启用")


# Who may, and whose it is

WRITES = [
    ("POST", f"{AI}/trigger-jobs/1/retry", None),
    ("POST", f"{AI}/run/app3_clue", {"site_id": SITE, "member_id": 7}),
    ("POST", f"{AI}/cache/invalidate", {"site_id": SITE}),
    ("POST", f"{AI}/batch-run", {"site_id": SITE, "app_types": ["app3_clue"], "member_ids": []}),
    ("POST", f"{AI}/batch-run/confirm", {"batch_id": "00000000-0000-0000-0000-000000000001"}),
    ("POST", f"{AI}/batch-run/00000000-0000-0000-0000-000000000001/cancel", None),
    ("POST", f"{AI}/alerts/1/ack", None),
    ("POST", f"{AI}/alerts/1/ignore", None),
    ("PATCH", f"{AI}/triggers/1", {"status": "disabled"}),
    ("POST", f"{AI}/trigger-event", {"event_type": "dws_completed", "site_id": SITE}),
    ("POST", f"{AI}/pause", {"reason": "x"}),
    ("DELETE", f"{AI}/pause", None),
    ("POST", "/api/internal/etl-completed", {"site_id": SITE}),
    ("POST", "/api/internal/events", {"event_name": "ai_dws_completed", "payload": {"site_id": SITE}}),
]


@pytest.mark.parametrize("role", [Role.VIEWER, Role.READER])
def test_who_only_looks_changes_nothing(api: Api, connection: Connection, role: Role) -> None:
    caller = api.caller(role)
    assert {caller.request(method, path, json=body).status_code for method, path, body in WRITES} == {403}
    assert {api.anonymous.request(method, path, json=body).status_code for method, path, body in WRITES[:5]} == {401}
    assert audited(connection) == []


def test_a_service_fires_events_and_does_nothing_else(api: Api) -> None:
    service = api.caller(Role.INTERNAL)
    statuses = [service.request(method, path, json=body).status_code for method, path, body in WRITES]
    assert statuses == [403] * 12 + [200, 200]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"{AI}/run/app3_clue", {"member_id": 7}),
        (f"{AI}/run/app2_finance", {"time_dimension": "this_month"}),
        (f"{AI}/cache/invalidate", {}),
        (f"{AI}/batch-run", {"app_types": ["app3_clue"], "member_ids": []}),
        (f"{AI}/trigger-event", {"event_type": "dws_completed"}),
    ],
)
def test_another_site_answers_like_one_that_does_not_exist(operator: TestClient, connection: Connection, path: str, body: Row) -> None:
    theirs, nobodys = (operator.post(path, json=body | {"site_id": site_id}) for site_id in (OTHER_SITE, 424_242))
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.json()["detail"] == f"门店 {OTHER_SITE} 不存在"
    assert jobs(connection) == inbox(connection) == audited(connection) == []
