"""What an operator is told without looking: an alert reaches the webhook, and so does its end."""

import pytest

from zqyy_ai_tests.devkit.waiting import eventually
from zqyy_ai_tests.journeys.conftest import AlertReceiver
from zqyy_ai_tests.journeys.stack import Stack

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

# Intake answers at once; alerts are sent every 10 s, and the daemon looks every 5 s.
MOST_SECONDS = 90.0


def test_an_event_that_cannot_be_meant_is_told_to_people_who_resolve_its_alert(stack: Stack, alert_receiver: AlertReceiver) -> None:
    def is_told(*parts: str) -> bool:
        return any(all(part in message for part in parts) for message in list(alert_receiver.told))

    stack.sql("SELECT biz.fire_ai_event('ai_dws_completed', '{\"site_id\": 987654}')")

    eventually(lambda: is_told("告警", "门店 987654 不存在"), seconds=MOST_SECONDS, every_seconds=0.2)
    [alert] = stack.sql("SELECT id, fingerprint FROM biz.ai_alerts WHERE alert_type = 'event_rejected'")
    assert alert["fingerprint"] == "event_rejected|-|-|ai_dws_completed|unknown_site"
    assert "门店 987654 不存在" in stack.run("alerts", "list").stdout
    assert stack.run("alerts", "resolve", str(alert["id"]), "--reason", "已通知调用方").returncode == 0
    eventually(lambda: is_told("已恢复", "已通知调用方"), seconds=MOST_SECONDS, every_seconds=0.2)
    sent = "SELECT count(*) AS n FROM biz.ai_alert_deliveries WHERE alert_id = %s AND sent_at IS NOT NULL"
    eventually(lambda: stack.sql(sent, alert["id"]) == [{"n": 2}], every_seconds=0.2)
