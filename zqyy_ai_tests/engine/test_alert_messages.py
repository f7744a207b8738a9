from dataclasses import replace
from datetime import UTC, datetime

import pytest

from zqyy_ai.engine.alert_messages import ALERT_TITLES, CHANGE_TITLES, LARGEST_MESSAGE_BYTES, SEVERITY_TITLES, STATUS_TITLES, Tone, compose
from zqyy_ai.store.alert_deliveries import AlertNews
from zqyy_ai.store.alerts import AlertChange, AlertStatus, AlertType, Severity, StoredAlert

AT = datetime(2026, 4, 20, 1, 30, tzinfo=UTC)
ALERT = StoredAlert(
    id=17,
    fingerprint="job_dead|1001|-|dws_completed",
    alert_type="job_dead",
    severity="critical",
    status=AlertStatus.OPEN,
    site_id=1001,
    app_type=None,
    message="任务 5 多次中断,已放弃",
    log_id=None,
    occurrences=3,
    reopened_count=0,
    created_at=AT,
    opened_at=AT,
    last_seen_at=AT,
    status_changed_at=None,
    status_changed_by=None,
    status_reason=None,
    resolved_at=None,
)


def news(change: AlertChange = AlertChange.OPENED, alert: StoredAlert = ALERT, delivery_id: int = 1) -> AlertNews:
    return AlertNews(delivery_id, change, 1, alert, "朝阳店")


def test_every_type_severity_and_change_has_a_title() -> None:
    assert set(ALERT_TITLES) == set(AlertType)
    assert set(SEVERITY_TITLES) == {severity.value for severity in Severity}
    assert set(CHANGE_TITLES) == set(AlertChange)
    assert set(STATUS_TITLES) == set(AlertStatus)


def test_an_alert_is_told_with_where_what_how_often_since_when_and_what_to_do() -> None:
    message = compose([news()])
    assert message.title == "【告警·严重】新告警:任务多次中断,已放弃"
    assert message.text.splitlines() == [
        "级别:严重",
        "门店:1001 朝阳店",
        "内容:任务 5 多次中断,已放弃",
        "次数:累计 3 次,自 04-20 09:30 起",
        "处理:见 docs/operations.md 的 job_dead 一节",
        "编号:17(zqyy-ai alerts ack 17 表示已知悉)",
    ]
    assert message.tone is Tone.CRITICAL


def test_of_what_is_resolved_the_reason_is_told_and_nothing_to_do() -> None:
    message = compose([news(AlertChange.RESOLVED, replace(ALERT, status=AlertStatus.RESOLVED, status_reason="任务 6 已完成"))])
    assert message.title == "【告警·恢复】已恢复:任务多次中断,已放弃"
    assert "说明:任务 6 已完成" in message.text
    assert "处理" not in message.text
    assert message.tone is Tone.GOOD


def test_a_digest_tells_bad_news_first_and_each_alert_once() -> None:
    other = replace(ALERT, id=18, severity="warning", alert_type="of_another_system", app_type="app2_finance")
    message = compose(
        [
            news(AlertChange.OPENED, delivery_id=1),
            news(AlertChange.OPENED, other, delivery_id=2),
            news(AlertChange.RESOLVED, delivery_id=3),
        ]
    )
    assert message.title == "【告警·警告】2 条:新告警 1、已恢复 1"
    assert [line[:3] for line in message.text.splitlines()[:2]] == ["#18", "#17"]
    assert "财务洞察" in message.text


@pytest.mark.parametrize("count", [1, 2, 20, 300])
def test_a_message_is_never_longer_than_the_smallest_service_takes(count: int) -> None:
    items = [news(alert=replace(ALERT, id=number, message="很长的说明" * 100), delivery_id=number) for number in range(count)]
    message = compose(items)
    assert len(f"{message.title}\n{message.text}".encode()) <= LARGEST_MESSAGE_BYTES
    message.text.encode().decode()
    if count > 1:
        shown = sum(line.startswith("#") for line in message.text.splitlines())
        assert (f"另有 {count - shown} 条" in message.text) == (shown < count)
