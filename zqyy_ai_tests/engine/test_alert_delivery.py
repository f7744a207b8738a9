"""Delivery over real HTTPS to services that answer as DingTalk, WeCom and Slack do."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from zqyy_ai.domain.errors import SettingError
from zqyy_ai.engine import alert_delivery
from zqyy_ai.engine.alert_delivery import deliver_alerts, pause_after, send_test_message
from zqyy_ai.engine.alert_targets import AlertTarget, alert_targets
from zqyy_ai.settings import load_settings
from zqyy_ai.store import alert_deliveries, alerts
from zqyy_ai.store.alerts import Alert, AlertStatus, AlertType, Severity
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.devkit.waiting import eventually
from zqyy_ai_tests.webhook_services import (
    DINGTALK,
    DINGTALK_TOKEN,
    DINGTALK_URL,
    DRIP,
    SECRETS,
    SIGNED_DINGTALK_URL,
    SLACK,
    SLACK_TOKENS,
    SLACK_URL,
    WECOM,
    WECOM_KEY,
    WECOM_URL,
    WebhookServices,
    running_webhook_services,
)

ALL_URLS = (SIGNED_DINGTALK_URL, WECOM_URL, SLACK_URL)


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebhookServices]:
    with running_webhook_services(tmp_path) as (running, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield running


def targets_of(*urls: str) -> list[AlertTarget]:
    return alert_targets([SecretStr(url) for url in urls])


def raise_one(database: Database, detail: str = "http_502", severity: Severity = Severity.WARNING, site_id: int | None = 1001) -> int:
    with database.transaction() as connection:
        return alerts.raise_alert(connection, Alert(AlertType.FAILED, "财务洞察 调用失败", site_id, "app2_finance", None, severity, detail))


def resolve_one(database: Database, detail: str = "http_502") -> None:
    with database.transaction() as connection:
        alerts.resolve(connection, alerts.fingerprint_of(AlertType.FAILED, 1001, "app2_finance", detail))


def stored(connection: Connection) -> list[dict[str, Any]]:
    return connection.execute("SELECT * FROM biz.ai_alert_deliveries ORDER BY id").fetchall()


def let_time_pass(connection: Connection) -> None:
    """What waits may be tried now."""
    connection.execute("UPDATE biz.ai_alert_deliveries SET next_try_at = clock_timestamp() - interval '1 s'")


def test_dingtalk_wecom_and_slack_get_an_alert_in_their_own_forms(
    services: WebhookServices, database: Database, connection: Connection
) -> None:
    services.secret = "SEC5a1f8c9d2b3e4f60718293"
    connection.execute(
        "INSERT INTO biz.sites (site_id, site_name) VALUES (1001, '朝阳店') ON CONFLICT (site_id) DO UPDATE SET site_name = '朝阳店'"
    )
    raise_one(database, severity=Severity.CRITICAL)

    outcomes = deliver_alerts(database, targets_of(*ALL_URLS))

    assert [(outcome.error, outcome.alert_changes) for outcome in outcomes] == [(None, 1)] * 3
    (dingtalk,), (wecom,), (slack,) = services.to(DINGTALK), services.to(WECOM), services.to(SLACK)
    assert (dingtalk.path, dingtalk.query["access_token"]) == ("/robot/send", DINGTALK_TOKEN)
    assert dingtalk.payload["msgtype"] == "text"
    assert (wecom.path, wecom.query) == ("/cgi-bin/webhook/send", {"key": WECOM_KEY})
    assert wecom.payload["msgtype"] == "text"
    assert slack.path == "/services/" + "/".join(SLACK_TOKENS)
    for post in services.posts:
        for part in ("【告警·严重】新告警", "调用失败", "1001 朝阳店", "财务洞察", "累计 1 次", "failed 一节"):
            assert part in post.text
    assert all(row["sent_at"] is not None and row["attempts"] == 1 for row in stored(connection))


def test_a_dingtalk_robot_takes_the_signature_and_refuses_one_of_another_secret(
    services: WebhookServices, database: Database, connection: Connection
) -> None:
    """apprise's own plugin encodes the signature twice, which DingTalk answers with `sign not match` and HTTP 200."""
    services.secret = "SEC5a1f8c9d2b3e4f60718293"
    good, bad = targets_of(SIGNED_DINGTALK_URL, f"{DINGTALK_URL}&secret=SECofanother")
    raise_one(database)
    outcomes = {outcome.target: outcome.error for outcome in deliver_alerts(database, [good, bad])}
    assert outcomes[good.name] is None
    assert outcomes[bad.name] == "被拒绝(errcode 310000):sign not match"


@pytest.mark.parametrize("host", [DINGTALK, WECOM])
def test_what_a_robot_refuses_with_http_200_is_not_taken_for_delivered(
    services: WebhookServices, database: Database, connection: Connection, host: str
) -> None:
    services.scripts[host] = [(200, b'{"errcode":45009,"errmsg":"api freq out of limit"}'), (200, b"<html>login</html>")]
    target = targets_of(DINGTALK_URL if host == DINGTALK else WECOM_URL)
    raise_one(database)
    assert deliver_alerts(database, target)[0].error == "被拒绝(errcode 45009):api freq out of limit"
    let_time_pass(connection)
    assert "无法识别" in (deliver_alerts(database, target)[0].error or "")
    let_time_pass(connection)
    assert deliver_alerts(database, target)[0].error is None


@pytest.mark.parametrize(("host", "url"), [(DINGTALK, DINGTALK_URL), (WECOM, WECOM_URL), (SLACK, SLACK_URL)])
def test_after_a_500_it_is_tried_again_later_and_sent_once(
    services: WebhookServices, database: Database, connection: Connection, host: str, url: str
) -> None:
    services.scripts[host] = [(500, b"oops")]
    raise_one(database)
    assert "500" in (deliver_alerts(database, targets_of(url))[0].error or "")
    assert deliver_alerts(database, targets_of(url)) == []  # it waits
    assert len(services.posts) == 1
    row = stored(connection)[0]
    assert (row["attempts"], row["sent_at"], row["gave_up_at"]) == (1, None, None)
    assert "500" in row["last_error"]

    let_time_pass(connection)
    assert deliver_alerts(database, targets_of(url))[0].error is None
    let_time_pass(connection)
    assert deliver_alerts(database, targets_of(url)) == []
    assert len(services.posts) == 2
    assert stored(connection)[0]["last_error"] is None


def test_a_target_that_fails_is_not_asked_again_for_each_new_alert(
    services: WebhookServices, database: Database, connection: Connection
) -> None:
    services.scripts[WECOM] = [(500, b"")]
    raise_one(database, "a")
    deliver_alerts(database, targets_of(WECOM_URL))
    raise_one(database, "b")
    assert deliver_alerts(database, targets_of(WECOM_URL)) == []
    let_time_pass(connection)
    assert [outcome.alert_changes for outcome in deliver_alerts(database, targets_of(WECOM_URL))] == [2]
    assert len(services.posts) == 2


def test_pauses_grow_from_half_a_minute_to_an_hour() -> None:
    assert [pause_after(attempts).total_seconds() for attempts in (1, 2, 3, 7, 8, 20)] == [30, 60, 120, 1920, 3600, 3600]


def test_a_burst_goes_out_as_one_digest_that_every_service_takes(
    services: WebhookServices, database: Database, connection: Connection
) -> None:
    for number in range(40):
        raise_one(database, f"code_{number}", Severity.CRITICAL if number == 39 else Severity.WARNING)
    deliver_alerts(database, targets_of(*ALL_URLS))
    assert [len(services.to(host)) for host in (DINGTALK, WECOM, SLACK)] == [1, 1, 1]
    for post in services.posts:
        assert "【告警·严重】40 条:新告警 40" in post.text
        assert "另有" in post.text
    text = services.to(WECOM)[0].text
    assert len(text.encode()) <= 2048
    critical = stored(connection)[-1]["alert_id"]
    assert text.splitlines()[1].startswith(f"#{critical} ")  # critical ones first
    assert all(row["sent_at"] is not None for row in stored(connection))


def test_an_alert_that_came_and_went_is_told_once_as_it_is_now(services: WebhookServices, database: Database) -> None:
    raise_one(database)
    resolve_one(database)
    deliver_alerts(database, targets_of(WECOM_URL))
    assert len(services.posts) == 1
    assert "【告警·恢复】已恢复:调用失败" in services.posts[0].text


def test_a_target_that_drips_delays_no_other_and_holds_no_connection(
    services: WebhookServices, database_url: str, connection: Connection
) -> None:
    services.scripts[SLACK] = [DRIP]
    dripping, good = targets_of(SLACK_URL, WECOM_URL)
    limit = timedelta(seconds=4)
    with Database(database_url, max_connections=1) as database, ThreadPoolExecutor(1) as deliverer:
        raise_one(database)
        started = time.monotonic()
        delivering = deliverer.submit(deliver_alerts, database, [dripping, good], limit=limit)
        assert services.dripping.wait(30)

        def is_sent() -> bool:
            with database.autocommit() as own:
                return [row["target"] for row in stored(own) if row["sent_at"] is not None] == [good.name]

        eventually(is_sent, seconds=3.5)
        with database.autocommit() as own:
            others = "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
            assert own.execute(others).fetchall() == []
        outcomes = {outcome.target: outcome.error for outcome in delivering.result()}
        assert time.monotonic() - started < limit.total_seconds() + 10
        assert outcomes == {good.name: None, dripping.name: "4 秒内没有回应"}

        with database.autocommit() as own:
            let_time_pass(own)
        # The thread that was left behind still waits: there is no second one.
        assert deliver_alerts(database, [dripping], limit=limit) == []
        services.release.set()
        eventually(lambda: not any(dripping.name in thread.name for thread in threading.enumerate()))
        assert deliver_alerts(database, [dripping], limit=limit)[0].error is None


def test_after_twenty_tries_or_a_day_it_is_given_up_and_the_row_says_so(
    services: WebhookServices, database: Database, connection: Connection
) -> None:
    services.scripts[WECOM] = [(404, b"")]
    raise_one(database, "a")
    with database.transaction() as transaction:
        alert_deliveries.address(transaction, [target.name for target in targets_of(WECOM_URL)])
    connection.execute("UPDATE biz.ai_alert_deliveries SET attempts = %s", [alert_delivery.MOST_ATTEMPTS - 1])
    deliver_alerts(database, targets_of(WECOM_URL))
    row = stored(connection)[0]
    assert (row["attempts"], row["last_error"]) == (20, "HTTP 404")
    assert row["gave_up_at"] is not None

    services.scripts[WECOM] = [(404, b"")]
    raise_one(database, "b")
    deliver_alerts(database, targets_of(WECOM_URL))
    connection.execute("UPDATE biz.ai_alert_deliveries SET created_at = created_at - interval '24 hours'")
    let_time_pass(connection)
    deliver_alerts(database, targets_of(WECOM_URL))
    assert all(row["gave_up_at"] is not None and row["last_error"] == "HTTP 404" for row in stored(connection))
    assert len(services.posts) == 2


def test_without_targets_what_happened_waits_a_day_for_one(services: WebhookServices, database: Database, connection: Connection) -> None:
    raise_one(database, "old")
    connection.execute("UPDATE biz.ai_alert_deliveries SET created_at = created_at - interval '25 hours'")
    raise_one(database, "new")
    assert deliver_alerts(database, []) == []
    old, new = stored(connection)
    assert (old["gave_up_at"] is not None, new["gave_up_at"]) == (True, None)
    assert "ZQYY_ALERT_WEBHOOKS" in old["last_error"]
    assert [outcome.alert_changes for outcome in deliver_alerts(database, targets_of(SLACK_URL))] == [1]


def test_eight_deliverers_at_once_send_each_change_once(services: WebhookServices, database: Database, connection: Connection) -> None:
    for number in range(5):
        raise_one(database, f"code_{number}")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: deliver_alerts(database, targets_of(WECOM_URL, SLACK_URL)), range(8)))
    for host in (WECOM, SLACK):
        told = "\n".join(post.text for post in services.to(host))
        assert [told.count(f"#{alert_id} ") for alert_id in {row["alert_id"] for row in stored(connection)}] == [1] * 5
    assert [row["attempts"] for row in stored(connection)] == [1] * 10


def test_what_a_deliverer_had_claimed_when_it_died_is_delivered_after_its_lease(
    services: WebhookServices, database: Database, connection: Connection
) -> None:
    target = targets_of(WECOM_URL)
    raise_one(database)
    with database.transaction() as transaction:
        alert_deliveries.address(transaction, [target[0].name])
        assert alert_deliveries.claim(transaction, target[0].name, lease=timedelta(seconds=60))
    assert deliver_alerts(database, target) == []
    let_time_pass(connection)
    assert deliver_alerts(database, target)[0].error is None
    assert len(services.posts) == 1


def test_a_deleted_alert_is_not_told_and_holds_nothing_up(services: WebhookServices, database: Database, connection: Connection) -> None:
    gone = raise_one(database, "a")
    raise_one(database, "b")
    connection.execute("DELETE FROM biz.ai_alerts WHERE id = %s", [gone])
    assert [outcome.alert_changes for outcome in deliver_alerts(database, targets_of(WECOM_URL))] == [1]
    assert [row["gave_up_at"] is not None for row in stored(connection)] == [True, False]


def test_nobody_is_told_of_an_alert_that_is_ignored(services: WebhookServices, database: Database) -> None:
    alert_id = raise_one(database)
    deliver_alerts(database, targets_of(WECOM_URL))
    with database.transaction() as connection:
        alerts.set_status_by_hand(connection, alert_id, AlertStatus.IGNORED, by="wang", reason="测试")
    raise_one(database, severity=Severity.CRITICAL)
    resolve_one(database)
    assert deliver_alerts(database, targets_of(WECOM_URL)) == []


@pytest.mark.parametrize(
    "url",
    [
        "https://oapi.dingtalk.com/robot/send?key=topsecret12",
        "https://oapi.dingtalk.com/robot/send?access_token=top-secret!",
        "https://hooks.slack.com/services/T1JJ3T3L2",
        "https://example.com/topsecret12",
        "dingtalkk://topsecret12",
        "slack://topsecret12",
    ],
)
def test_a_url_that_cannot_be_used_is_a_setting_error_that_does_not_show_it(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingError) as refused:
        targets_of(WECOM_URL, url)
    said = str(refused.value)
    assert said.startswith("ZQYY_ALERT_WEBHOOKS: URL 2")
    assert refused.value.__cause__ is None and refused.value.__suppress_context__
    assert not any(part in said + capsys.readouterr().err for part in ("topsecret12", "top-secret", "T1JJ3T3L2", WECOM_KEY))


def test_secrets_are_in_no_name_repr_error_or_log(
    services: WebhookServices,
    database: Database,
    connection: Connection,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("INFO")
    settings = load_settings({"ZQYY_ALERT_WEBHOOKS": "\n".join(ALL_URLS)})
    targets = alert_targets(settings.alert_webhooks)
    for host, secret in ((DINGTALK, DINGTALK_TOKEN), (WECOM, WECOM_KEY), (SLACK, SLACK_TOKENS[2])):
        services.scripts[host] = [(200, f'{{"errcode":1,"errmsg":"unknown {secret}"}}'.encode())]
    raise_one(database)
    outcomes = deliver_alerts(database, targets)
    assert all(outcome.error for outcome in outcomes)
    shown = [repr(settings), repr(targets), repr(outcomes), repr(stored(connection)), caplog.text, *capsys.readouterr()]
    assert [secret for secret in SECRETS for text in shown if secret in text] == []


def test_the_same_url_twice_is_one_target_and_another_robot_is_another() -> None:
    names = [target.name for target in targets_of(WECOM_URL, DINGTALK_URL, WECOM_URL, f"{DINGTALK_URL}0")]
    assert len(set(names)) == len(names) == 3
    assert [name.partition("-")[0] for name in names] == ["wecombot", "dingtalk", "dingtalk"]


def test_a_test_message_says_for_each_target_what_happened(services: WebhookServices) -> None:
    services.scripts[SLACK] = [(403, b"invalid_token")]
    wecom, slack, dingtalk = targets_of(WECOM_URL, SLACK_URL, f"dingtalk://{DINGTALK_TOKEN}")
    outcomes = {outcome.target: outcome.error for outcome in send_test_message([wecom, slack, dingtalk])}
    assert (outcomes[wecom.name], outcomes[dingtalk.name]) == (None, None)
    assert "403" in (outcomes[slack.name] or "")
    assert all("测试" in post.text for post in services.posts)


def test_a_server_that_is_not_there_is_said_without_its_address(services: WebhookServices, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    outcomes = list(send_test_message(targets_of(*ALL_URLS)))
    assert all(outcome.error for outcome in outcomes)
    assert not any(secret in (outcome.error or "") for secret in SECRETS for outcome in outcomes)
