"""Each failure over real HTTP through the unmodified SDK: its class, its rule, and that it was one POST."""

import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from zqyy_ai.domain.answers import FinanceAnswer
from zqyy_ai.domain.call_failures import BudgetEffect, RetryRule
from zqyy_ai.domain.errors import CallFailed, CallRejected, SettingError
from zqyy_ai.llm import DashScopeClient, ModelCallError, Usage, parse_reply
from zqyy_ai.llm.errors import (
    AccountRefused,
    ApplicationUnavailable,
    CallTimedOut,
    ContentRefused,
    EnvelopeUnreadable,
    GatewayTimedOut,
    NotConnected,
    OutcomeUnknown,
    ReplyInvalid,
    RequestInvalid,
    ServerFailed,
    Throttled,
    TokenRateThrottled,
)
from zqyy_ai_tests.llm.conftest import KEY, PROMPT, Emulator, RawServer, self_signed_certificate

NEVER, ONCE, WITHIN_STEP = RetryRule.NEVER, RetryRule.ONCE, RetryRule.WITHIN_STEP
RELEASE, ESTIMATE, USAGE = BudgetEffect.RELEASE, BudgetEffect.CHARGE_ESTIMATE, BudgetEffect.SETTLE_USAGE
StartRawServer = Callable[[Callable[[socket.socket], None]], RawServer]


def http(status: int, code: str | None = None, **rest: Any) -> dict[str, Any]:
    return {"kind": "http_error", "status": status} | ({"code": code} if code else {}) | rest


@pytest.mark.parametrize(
    ("fault", "error_class", "error_code", "retry", "counts", "budget"),
    [
        (http(429, "Throttling"), Throttled, "Throttling", WITHIN_STEP, False, RELEASE),
        (http(429, "Throttling.RateQuota"), Throttled, "Throttling.RateQuota", WITHIN_STEP, False, RELEASE),
        (http(429, "Throttling.BurstRate"), Throttled, "Throttling.BurstRate", WITHIN_STEP, False, RELEASE),
        (http(429, "Throttling.AllocationQuota"), TokenRateThrottled, "Throttling.AllocationQuota", WITHIN_STEP, False, RELEASE),
        (
            http(429, "Throttling.AllocationQuota", message="Free allocated quota exceeded."),
            AccountRefused,
            "Throttling.AllocationQuota",
            NEVER,
            False,
            RELEASE,
        ),
        (http(403, "AllocationQuota.FreeTierOnly"), AccountRefused, "AllocationQuota.FreeTierOnly", NEVER, False, RELEASE),
        (http(429, "PrepaidBillOverdue"), AccountRefused, "PrepaidBillOverdue", NEVER, False, RELEASE),
        (http(400, "Arrearage"), AccountRefused, "Arrearage", NEVER, False, RELEASE),
        (http(401, "InvalidApiKey"), AccountRefused, "InvalidApiKey", NEVER, False, RELEASE),
        (http(403, "AccessDenied.Unpurchased"), AccountRefused, "AccessDenied.Unpurchased", NEVER, False, RELEASE),
        (http(404, "NotFound"), ApplicationUnavailable, "NotFound", NEVER, False, RELEASE),
        (http(400, "InvalidParameter"), RequestInvalid, "InvalidParameter", NEVER, False, RELEASE),
        (http(400, "BadRequest.EmptyInput"), RequestInvalid, "BadRequest.EmptyInput", NEVER, False, RELEASE),
        (http(413, "BadRequest.TooLarge"), RequestInvalid, "BadRequest.TooLarge", NEVER, False, RELEASE),
        ({"kind": "data_inspection"}, ContentRefused, "DataInspectionFailed", NEVER, False, RELEASE),
        (http(500, "InternalError.Algo"), ServerFailed, "InternalError.Algo", WITHIN_STEP, True, RELEASE),
        (http(500, "SystemError"), ServerFailed, "SystemError", WITHIN_STEP, True, RELEASE),
        ({"kind": "html_error", "status": 502}, ServerFailed, "http_502", WITHIN_STEP, True, RELEASE),
        (http(503, "ModelUnavailable"), ServerFailed, "ModelUnavailable", WITHIN_STEP, True, RELEASE),
        (http(504), GatewayTimedOut, "GatewayTimeout", WITHIN_STEP, True, ESTIMATE),
        ({"kind": "html_error", "status": 504}, GatewayTimedOut, "http_504", WITHIN_STEP, True, ESTIMATE),
        (http(408), GatewayTimedOut, "RequestTimeOut", WITHIN_STEP, True, ESTIMATE),
        ({"kind": "bad_json"}, EnvelopeUnreadable, "envelope_unreadable", ONCE, True, ESTIMATE),
        ({"kind": "bad_json", "status": 500}, EnvelopeUnreadable, "http_500", ONCE, True, ESTIMATE),
        ({"kind": "no_output"}, EnvelopeUnreadable, "envelope_unreadable", ONCE, True, ESTIMATE),
        ({"kind": "error_in_200", "code": "InternalError"}, EnvelopeUnreadable, "InternalError", ONCE, True, ESTIMATE),
        ({"kind": "error_in_200", "code": "InvalidApiKey"}, AccountRefused, "InvalidApiKey", NEVER, False, RELEASE),
        ({"kind": "error_in_200", "code": "DataInspectionFailed"}, ContentRefused, "DataInspectionFailed", NEVER, False, RELEASE),
        ({"kind": "close"}, OutcomeUnknown, "connection_lost", ONCE, True, ESTIMATE),
        ({"kind": "truncated"}, ReplyInvalid, "reply_unfinished", ONCE, False, USAGE),
        ({"kind": "null_text"}, ReplyInvalid, "reply_empty", ONCE, False, USAGE),
        ({"kind": "prose"}, ReplyInvalid, "reply_not_json", ONCE, False, USAGE),
        ({"kind": "wrong_schema"}, ReplyInvalid, "reply_invalid", ONCE, False, USAGE),
    ],
    ids=lambda value: "-".join(str(part) for part in value.values()) if isinstance(value, dict) else "",
)
def test_each_failure_has_its_class_its_rule_and_one_post(
    emulator: Emulator,
    client: DashScopeClient,
    fault: dict[str, Any],
    error_class: type[ModelCallError],
    error_code: str,
    retry: RetryRule,
    counts: bool,
    budget: BudgetEffect,
) -> None:
    emulator.plan(fault)
    with pytest.raises(ModelCallError) as caught:
        parse_reply(client.call("app", PROMPT, timeout_seconds=10), FinanceAnswer)
    error = caught.value
    assert type(error) is error_class
    assert error.error_code == error_code
    assert (error.rule.retry, error.rule.counts_for_breaker, error.rule.budget) == (retry, counts, budget)
    assert error.rule.holds_every_app == (error_class is AccountRefused)
    assert error.rule.is_throttling == issubclass(error_class, Throttled)
    assert error.rule.is_configuration == (error_class is ApplicationUnavailable)
    assert isinstance(error, CallRejected if retry is NEVER else CallFailed)
    assert emulator.posts == 1
    assert (error.usage is not None) == (budget is USAGE)
    assert KEY not in str(error)
    assert "旗舰店" not in str(error)


def test_only_failures_that_cost_nothing_send_work_back() -> None:
    classes: list[type[ModelCallError]] = [
        NotConnected,
        Throttled,
        TokenRateThrottled,
        ServerFailed,
        OutcomeUnknown,
        CallTimedOut,
        GatewayTimedOut,
        ReplyInvalid,
    ]
    assert all(found.rule.is_transient == (found.rule.budget is RELEASE) for found in classes)


def test_an_old_deadline_does_not_cut_the_next_call_on_the_same_connection(emulator: Emulator) -> None:
    client = DashScopeClient(KEY, emulator.base_url, 1)
    client.call("app", PROMPT, timeout_seconds=0.5)
    emulator.plan(latency={"seconds": 1.0})
    assert client.call("app", PROMPT, timeout_seconds=10).latency_ms >= 1000
    assert emulator.calls()["connections"] == 1


def test_a_refused_connection_was_definitely_not_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    _assert_not_connected(f"http://127.0.0.1:{port}", "ConnectionRefusedError")


def test_an_unknown_host_was_definitely_not_sent() -> None:
    _assert_not_connected("http://no-such-host.invalid", "NameResolutionError|ConnectTimeoutError")


def test_a_host_that_does_not_answer_was_definitely_not_sent() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with socket.create_connection(listener.getsockname()):  # the queue is full: further connects wait
            _assert_not_connected(f"http://127.0.0.1:{listener.getsockname()[1]}", "ConnectTimeoutError")


def test_a_silent_tls_handshake_was_definitely_not_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _assert_not_connected(f"https://127.0.0.1:{listener.getsockname()[1]}", "no connection")


def test_an_untrusted_certificate_is_not_sent_anything(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed_certificate(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse_to_be_trusted() -> None:
            with listener.accept()[0] as plain, context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) as tls:
                try:
                    tls.do_handshake()
                except OSError:
                    return

        threading.Thread(target=refuse_to_be_trusted, daemon=True).start()
        _assert_not_connected(f"https://127.0.0.1:{listener.getsockname()[1]}", "SSLCertVerificationError")


def test_a_redirect_is_not_followed(raw_server: StartRawServer) -> None:
    server = raw_server(lambda connection: connection.sendall(b"HTTP/1.1 307 X\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n"))
    client = DashScopeClient(KEY, f"http://127.0.0.1:{server.port}", 2)
    with pytest.raises(ApplicationUnavailable):
        client.call("app", PROMPT, timeout_seconds=10)
    assert server.requests_seen == 1


def test_retry_after_reaches_the_caller(emulator: Emulator, client: DashScopeClient) -> None:
    emulator.plan(http(429, retry_after_seconds=7))
    with pytest.raises(Throttled) as caught:
        client.call("app", PROMPT, timeout_seconds=10)
    assert caught.value.retry_after_seconds == 7.0
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("-3", 0.0),
        ("86400", 300.0),
        ("nan", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 300.0),
        ("Fri, 31 Dec 9999 23:59:59", None),
    ],
)
def test_either_form_of_retry_after_is_read_and_bounded(raw_server: StartRawServer, header: str, seconds: float | None) -> None:
    head = f"HTTP/1.1 429 X\r\nContent-Type: application/json\r\nRetry-After: {header}\r\nContent-Length: 2\r\n\r\n{{}}"
    server = raw_server(lambda connection: connection.sendall(head.encode()))
    with pytest.raises(Throttled) as caught:
        DashScopeClient(KEY, f"http://127.0.0.1:{server.port}", 1).call("app", PROMPT, timeout_seconds=10)
    assert caught.value.retry_after_seconds == seconds


def test_a_stream_that_nobody_asked_for_is_no_answer(raw_server: StartRawServer) -> None:
    events = b'id:1\nevent:result\ndata:{"output":{"text":"{}","finish_reason":"stop"}}\n\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(events)
    server = raw_server(lambda connection: connection.sendall(head + events))
    with pytest.raises(EnvelopeUnreadable):
        DashScopeClient(KEY, f"http://127.0.0.1:{server.port}", 1).call("app", PROMPT, timeout_seconds=10)
    assert server.requests_seen == 1


def test_a_message_that_repeats_the_prompt_or_the_key_is_not_repeated_by_us(emulator: Emulator, client: DashScopeClient) -> None:
    emulator.plan(http(400, message="bad input: 请写财务洞察,格式"), http(400, message=f"key {KEY} is odd"))
    for _ in range(2):
        with pytest.raises(RequestInvalid) as caught:
            client.call("app", PROMPT, timeout_seconds=10)
        assert "财务洞察" not in str(caught.value)
        assert KEY not in str(caught.value)


def test_the_services_own_words_are_told(emulator: Emulator, client: DashScopeClient) -> None:
    emulator.plan(http(429, message="Requests rate limit exceeded, please try again later."))
    with pytest.raises(Throttled, match="rate limit exceeded"):
        client.call("app", PROMPT, timeout_seconds=10)


def test_nothing_is_logged_by_the_sdk(emulator: Emulator, client: DashScopeClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="dashscope")
    emulator.plan({"kind": "bad_json", "count": 1})
    with pytest.raises(EnvelopeUnreadable):
        client.call("app", PROMPT, timeout_seconds=10)
    client.call("app", PROMPT, timeout_seconds=10)
    assert not [record for record in caplog.records if record.name.startswith("dashscope")]
    assert "旗舰店" not in caplog.text
    assert KEY not in caplog.text


def test_a_reply_says_what_it_is_and_what_it_cost(emulator: Emulator, client: DashScopeClient) -> None:
    reply = client.call("app", PROMPT, timeout_seconds=10)
    assert reply.finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.model_ids == ("emulator",)
    assert reply.usage.total_tokens == emulator.calls()["total"]["tokens"]
    assert reply.session_id
    assert reply.request_id
    assert "净收入" in parse_reply(reply, FinanceAnswer).insights[0].title


def test_a_session_goes_on(client: DashScopeClient) -> None:
    first = client.call("app", PROMPT, timeout_seconds=10)
    assert client.call("app", PROMPT + " 再来", timeout_seconds=10, session_id=first.session_id).session_id == first.session_id


@pytest.mark.parametrize("kind", ["usage_missing", "usage_null", "usage_null_counts"])
def test_an_unreported_usage_is_none_and_the_answer_stands(emulator: Emulator, client: DashScopeClient, kind: str) -> None:
    emulator.plan({"kind": kind})
    reply = client.call("app", PROMPT, timeout_seconds=10)
    assert reply.usage is None
    assert parse_reply(reply, FinanceAnswer).insights


def test_a_flat_usage_is_its_total(emulator: Emulator, client: DashScopeClient) -> None:
    emulator.plan({"kind": "usage_flat"})
    total = client.call("app", PROMPT, timeout_seconds=10).usage
    assert total == Usage(emulator.calls()["total"]["tokens"], 0, ())


def test_an_answer_whose_usage_the_sdk_cannot_read_is_not_lost(raw_server: StartRawServer) -> None:
    body = b'{"output":{"text":"{}","finish_reason":"stop"},"usage":["odd"]}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    server = raw_server(lambda connection: connection.sendall(head + body))
    reply = DashScopeClient(KEY, f"http://127.0.0.1:{server.port}", 2).call("app", PROMPT, timeout_seconds=10)
    assert (reply.text, reply.usage) == ("{}", None)
    assert server.requests_seen == 1


@pytest.mark.parametrize("kind", ["fenced", "trailing_comma"])
def test_a_finished_answer_with_small_faults_is_read(emulator: Emulator, client: DashScopeClient, kind: str) -> None:
    emulator.plan({"kind": kind})
    assert parse_reply(client.call("app", PROMPT, timeout_seconds=10), FinanceAnswer).insights


def test_sixty_four_calls_at_once_share_sixty_four_connections(emulator: Emulator) -> None:
    emulator.plan(latency={"seconds": 0.5})
    client = DashScopeClient(KEY, emulator.base_url, max_connections=64)
    client.call("app", PROMPT, timeout_seconds=30)
    with ThreadPoolExecutor(64) as pool:
        for _ in range(2):
            replies = list(pool.map(lambda number: client.call("app", f"{PROMPT}{number}", timeout_seconds=30), range(64)))
            assert all(reply.finish_reason == "stop" for reply in replies)
    calls = emulator.calls()
    assert calls["total"]["posts"] == 129
    assert calls["total"]["max_in_flight"] > 48
    assert calls["connections"] <= 65


def test_proxies_of_the_environment_are_not_used(client: DashScopeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert client.call("app", PROMPT, timeout_seconds=10).finish_reason == "stop"


def test_the_environment_gives_neither_key_nor_address(emulator: Emulator) -> None:
    program = (
        "import sys\n"
        "import zqyy_ai.llm as llm\n"
        "assert not {'dashscope', 'requests', 'json_repair'} & set(sys.modules), 'importing the room is light'\n"
        f"client = llm.DashScopeClient('sk-good', {emulator.base_url!r}, 2)\n"
        "assert 'dashscope' not in sys.modules, 'the SDK comes with the first call'\n"
        "assert client.call('app', '你好', timeout_seconds=10).text\n"
    )
    environment = {
        "DASHSCOPE_API_KEY": "invalid",
        "DASHSCOPE_HTTP_BASE_URL": "http://127.0.0.1:9",
        "DASHSCOPE_LOGGING_LEVEL": "debug",
        "PATH": "",
    }
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert emulator.posts == 1


@pytest.mark.parametrize("key", ["", "sk with space", "sk-line\n", "密钥"])
def test_a_key_that_no_header_can_carry_is_a_setting_error_without_the_key(key: str) -> None:
    with pytest.raises(SettingError, match="DASHSCOPE_API_KEY") as caught:
        DashScopeClient(key, "http://127.0.0.1:9", 1)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(("app_id", "prompt"), [("../x", PROMPT), ("a?b", PROMPT), ("", PROMPT), ("app", ""), ("app", "坏\ud800")])
def test_a_request_that_cannot_be_meant_is_refused_before_it_is_sent(
    emulator: Emulator, client: DashScopeClient, app_id: str, prompt: str
) -> None:
    with pytest.raises(RequestInvalid):
        client.call(app_id, prompt, timeout_seconds=10)
    assert emulator.posts == 0


def test_a_closed_client_says_so(emulator: Emulator) -> None:
    client = DashScopeClient(KEY, emulator.base_url, 1)
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.call("app", PROMPT, timeout_seconds=10)


def _assert_not_connected(base_url: str, cause: str) -> None:
    client = DashScopeClient(KEY, base_url, 2)
    _sdk_import_seconds()
    started = time.monotonic()
    with pytest.raises(NotConnected, match=cause) as caught:
        client.call("app", PROMPT, timeout_seconds=0.7)
    assert time.monotonic() - started < 1.7
    assert caught.value.rule.budget is RELEASE
    assert caught.value.rule.retry is WITHIN_STEP


def _sdk_import_seconds() -> float:
    started = time.monotonic()
    import dashscope  # noqa: F401  # the first call of a process pays for it, outside its deadline

    return time.monotonic() - started
