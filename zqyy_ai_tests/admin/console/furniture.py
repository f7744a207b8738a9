"""One row of everything that the pages show, with texts that would do harm on a page that doesn't escape them."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from zqyy_ai.domain.business_clock import SHANGHAI
from zqyy_ai.store import alerts
from zqyy_ai.store.alerts import Alert, AlertType, Severity
from zqyy_ai.store.database import Connection
from zqyy_ai_tests.admin.callers import OTHER_SITE, SITE
from zqyy_ai_tests.admin.rows import add, add_job, add_log, add_refusal, add_reuse, today

MEMBER = 1001000001
OTHER_MEMBER = 1002000777
HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
OTHERS_SECRET = "秘密之门"

INSIGHTS: dict[str, list[dict[str, Any]]] = {
    "insights": [
        {"seq": 1, "title": "净收入增长 4.5%", "body": f"净收入 12,345 元，比上月增长 99.9%。{HOSTILE}"},
        {"seq": 2, "title": "利用率下降", "body": "台时利用率 35.5%，建议排查时段排班。"},
        {"seq": 3, "title": "优惠合计", "body": "优惠合计 1,000 元，占比 8.1%。"},
    ]
}
_PLACE = INSIGHTS["insights"][0]["body"].index("99.9%")
UNEXPLAINED = {"checked": 6, "unexplained": [{"seq": 1, "field": "body", "text": "99.9%", "start": _PLACE, "end": _PLACE + 5}]}
_PROMPT = f'请只依据 <facts>。{HOSTILE}\n\nJSON Schema:{{"type":"object"}}\n\n<facts>\n{{"门店":"春熙路店","净收入_元":12345}}\n</facts>'


@dataclass(frozen=True, slots=True)
class Furniture:
    """Ids of what is there for tests to ask about."""

    log_id: int
    job_id: int
    failed_job_id: int
    alert_id: int
    others_log_id: int
    others_job_id: int


def furnish(connection: Connection) -> Furniture:
    now = datetime.now(SHANGHAI)
    later, earlier = now + timedelta(days=1), now - timedelta(hours=1)
    job_id = add_job(connection, member_id=MEMBER, started_at=earlier, finished_at=now, business_date=today(), run_id="run-abc")
    failed = {
        "status": "failed",
        "error_message": HOSTILE,
        "started_at": earlier,
        "finished_at": now,
        "business_date": today(),
        "dedup_key": f"consumption|{SITE}|{MEMBER}|-|{today()}|live",
    }
    failed_job_id = add_job(connection, member_id=MEMBER, payload={"site_id": SITE, "member_id": MEMBER, "note": HOSTILE}, **failed)
    log_id = add_log(
        connection,
        app_type="app2_finance",
        target_id="this_month__all",
        trigger_job_id=job_id,
        request_prompt=_PROMPT,
        response_text=json.dumps(INSIGHTS, ensure_ascii=False),
        request_id="req-1",
        dagster_run_id="run-abc",
        finished_at=now,
    )
    _answer(connection, "app2_finance", "this_month__all", {**INSIGHTS, "_number_check": UNEXPLAINED}, log_id, later)
    _answer(connection, "app2a_finance_area", "last_month__vip", INSIGHTS, None, earlier)
    add_log(
        connection,
        app_type="app2a_finance_area",
        target_id="this_week__ktv",
        status="timeout",
        error_code="timeout",
        error_message=HOSTILE,
    )
    add_refusal(connection, "budget_exceeded:daily", trigger_job_id=failed_job_id, member_id=MEMBER)
    add_reuse(connection, trigger_job_id=job_id, member_id=MEMBER)
    clue = {"category": "消费习惯", "summary": HOSTILE, "detail": "依据", "emoji": "🥤"}
    member_log = add_log(connection, app_type="app3_clue", target_id=str(MEMBER), member_id=MEMBER, trigger_job_id=job_id)
    _answer(connection, "app3_clue", str(MEMBER), {"clues": [clue]}, member_log, later)
    add_log(connection, app_type="app4_analysis", target_id=f"9_{MEMBER}", member_id=MEMBER, assistant_id=9)
    _answer(connection, "app4_analysis", f"9_{MEMBER}", {"one_line_summary": HOSTILE, "action_suggestions": [HOSTILE]}, None, later)
    for source in ("ai_consumption", "manual"):
        connection.execute(
            "INSERT INTO public.member_retention_clue (member_id, category, summary, detail, site_id, source, recorded_by_name)"
            " VALUES (%s, '客户基础', %s, %s, %s, %s, %s)",
            [MEMBER, f"📅 偏好周末 {source}", HOSTILE, SITE, source, HOSTILE],
        )
    alert_id = alerts.raise_alert(
        connection, Alert(AlertType.CIRCUIT_OPEN, HOSTILE, site_id=SITE, app_type="app3_clue", log_id=log_id, severity=Severity.CRITICAL)
    )
    add(
        connection,
        "ai_events",
        event_name="ai_consumption_settled",
        payload={"site_id": SITE, "note": HOSTILE},
        handled_at=now,
        rejected_reason="缺少 member_id",
    )
    return Furniture(log_id, job_id, failed_job_id, alert_id, *_furnish_the_other_site(connection, later))


def _furnish_the_other_site(connection: Connection, later: datetime) -> tuple[int, int]:
    """Everything says `OTHERS_SECRET`."""
    job_id = add_job(connection, site_id=OTHER_SITE, member_id=OTHER_MEMBER, error_message=OTHERS_SECRET, dedup_key="z")
    log_id = add_log(
        connection,
        site_id=OTHER_SITE,
        member_id=OTHER_MEMBER,
        trigger_job_id=job_id,
        request_prompt=OTHERS_SECRET,
        response_text=OTHERS_SECRET,
    )
    connection.execute(
        "INSERT INTO biz.ai_cache (cache_type, site_id, target_id, result_json, status, expires_at) VALUES"
        " ('app3_clue', %s, %s, jsonb_build_object('summary', %s::text), 'valid', %s)",
        [OTHER_SITE, str(OTHER_MEMBER), OTHERS_SECRET, later],
    )
    alerts.raise_alert(connection, Alert(AlertType.FAILED, OTHERS_SECRET, site_id=OTHER_SITE))
    add(connection, "ai_events", event_name="ai_note_created", payload={"site_id": OTHER_SITE}, rejected_reason=OTHERS_SECRET)
    return log_id, job_id


def _answer(connection: Connection, cache_type: str, target_id: str, result: dict[str, Any], log_id: int | None, until: datetime) -> None:
    add(
        connection,
        "ai_cache",
        cache_type=cache_type,
        site_id=SITE,
        target_id=target_id,
        result_json=result,
        status="valid",
        expires_at=until,
        run_log_id=log_id,
        triggered_by="consumption",
        created_at=datetime.now(SHANGHAI) - timedelta(hours=2),
    )


def pages_of(furniture: Furniture) -> list[str]:
    """Every address that shows something, each with something to show."""
    return [
        "/",
        f"/?site_id={SITE}&range_days=1",
        f"/?date_from={today() - timedelta(days=20)}&date_to={today()}",
        f"/prewarm?site_id={SITE}",
        "/jobs",
        f"/jobs?event_type=consumption&status=failed&member_id={MEMBER}&site_id={SITE}",
        f"/jobs?job_id={furniture.failed_job_id}",
        "/jobs/rejected",
        "/logs",
        f"/logs?app_type=app2_finance&log_id={furniture.log_id}",
        "/alerts",
        "/alerts?status=",
        "/alerts?status=resolved",
        f"/members?site_id={SITE}",
        f"/members?site_id={SITE}&member_id={MEMBER}",
        "/batches",
        "/triggers",
        "/cache",
    ]


def parts_of(furniture: Furniture) -> list[str]:
    """What drawers show."""
    return [
        f"/prewarm/cell?site_id={SITE}&target_id=this_month__all",
        f"/prewarm/cell?site_id={SITE}&target_id=this_week__ktv",
        f"/jobs/{furniture.job_id}",
        f"/jobs/{furniture.failed_job_id}",
        f"/logs/{furniture.log_id}",
        f"/members/history?site_id={SITE}&app_type=app3_clue&target_id={MEMBER}",
        "/alerts/runbook/circuit_open",
    ]
