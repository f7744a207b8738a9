"""Every way in which a call can fail, and what is left of it: the table to read before changing how failures are handled.

`AFTERMATH` says what a class of failure means, `FAILURES` which replies and connections are of which class, `ANSWERS` what looks odd and
is an answer all the same. Each row is played by the emulator over HTTP to the unmodified SDK, twice: to the client alone, which posts
once and raises, and to a whole step, whose target has a valid answer already.
"""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, auto
from typing import Any

import pytest

from zqyy_ai.devkit.emulator.fault_plan import FaultKind
from zqyy_ai.domain.answers import FinanceAnswer
from zqyy_ai.engine.step import StepResult, StepStatus
from zqyy_ai.llm import DashScopeClient, ModelCallError, errors, parse_reply
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
from zqyy_ai.llm.estimates import estimate_tokens
from zqyy_ai.store.database import Connection
from zqyy_ai_tests.engine.workbench import NOW, EmulatorControl, EngineMaker, breakers, cached, held_rows, logs, prompt_about, request

PROMPT = prompt_about(100)
SHORT_SECONDS = 0.5


class Tries(Enum):
    """How often a step calls that fails each time; MANY is bounded by its time alone."""

    ONE = 1
    TWO = 2
    MANY = auto()


class Charged(Enum):
    NOTHING = auto()
    ESTIMATE = auto()
    USAGE = auto()


ONE, TWO, MANY = Tries.ONE, Tries.TWO, Tries.MANY
NOTHING, ESTIMATE, USAGE = Charged.NOTHING, Charged.ESTIMATE, Charged.USAGE


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What a step's failure of one class leaves behind. `charged` and the breaker's count are each call's; `alert` is the step's.

    `alert` is type, severity and fingerprint, in which `{}` is the error's code. `is_sent_back`: the result has a `retry_at`, so that the
    job is tried again later without having spent an attempt.
    """

    tries: Tries
    charged: Charged
    counts_for_breaker: bool
    alert: tuple[str, str, str] | None
    is_sent_back: bool
    holds_the_account: bool = False


_FAILED = ("failed", "warning", "failed|1001|app2_finance|{}")
_TIMEOUT = ("timeout", "warning", "timeout|1001|app2_finance|{}")
_CONFIGURATION = ("configuration", "critical", "configuration|-|app2_finance|{}")
_ACCOUNT = ("account_held", "critical", "account_held|-|-|-")

AFTERMATH: dict[type[ModelCallError], Aftermath] = {
    #                                 tries  charged   breaker  alert           sent back
    AccountRefused: Aftermath(ONE, NOTHING, False, _ACCOUNT, False, holds_the_account=True),
    ApplicationUnavailable: Aftermath(ONE, NOTHING, False, _CONFIGURATION, False),
    RequestInvalid: Aftermath(ONE, NOTHING, False, _FAILED, False),
    ContentRefused: Aftermath(ONE, NOTHING, False, _FAILED, False),
    Throttled: Aftermath(MANY, NOTHING, False, None, True),
    TokenRateThrottled: Aftermath(MANY, NOTHING, False, None, True),
    NotConnected: Aftermath(MANY, NOTHING, True, _FAILED, True),
    ServerFailed: Aftermath(MANY, NOTHING, True, _FAILED, True),
    GatewayTimedOut: Aftermath(MANY, ESTIMATE, True, _FAILED, False),
    OutcomeUnknown: Aftermath(TWO, ESTIMATE, True, _FAILED, False),
    EnvelopeUnreadable: Aftermath(TWO, ESTIMATE, True, _FAILED, False),
    CallTimedOut: Aftermath(ONE, ESTIMATE, True, _TIMEOUT, False),  # twice by its rule, but it has used up the step's time
    ReplyInvalid: Aftermath(TWO, USAGE, False, _FAILED, False),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One failure. `fault` is what the emulator plays; `address` is where the client connects instead, `prompt` what it asks instead.

    `seconds` is the step's time, short where the failure takes all of it. `charged` differs from the class's where the reply tells.
    """

    name: str
    raised: type[ModelCallError]
    error_code: str
    fault: dict[str, Any] = field(default_factory=dict)
    address: str | None = None
    prompt: str = PROMPT
    environment: dict[str, str] = field(default_factory=dict)
    is_posted: bool = True
    seconds: float = 20.0
    charged: Charged | None = None

    def __str__(self) -> str:
        return self.name


def http(status: int, code: str, raised: type[ModelCallError], *, named: str | None = None, **more: Any) -> Row:
    return Row(named or f"{status} {code}", raised, code, {"kind": "http_error", "status": status, "code": code} | more)


def played(named: str, raised: type[ModelCallError], error_code: str, kind: str, *, charged: Charged | None = None, **more: Any) -> Row:
    return Row(named, raised, error_code, {"kind": kind} | more, charged=charged)


def slow(named: str, kind: str, interval_seconds: float = 0.1) -> Row:
    return Row(named, CallTimedOut, "timeout", {"kind": kind, "interval_seconds": interval_seconds}, seconds=SHORT_SECONDS)


def unreachable(named: str, address: str) -> Row:
    return Row(named, NotConnected, "connect_failed", address=address, is_posted=False, seconds=SHORT_SECONDS)


FAILURES = [
    # Too much
    http(429, "Throttling", Throttled),
    http(429, "Throttling.RateQuota", Throttled),
    http(429, "Throttling.BurstRate", Throttled),
    http(429, "Throttling.RateQuota", Throttled, named="429 with Retry-After", retry_after_seconds=30),
    http(429, "Throttling.RateQuota", Throttled, named="429 with Retry-After of an hour", retry_after_seconds=3600),
    http(429, "limit_requests", Throttled),
    played("200 with a throttling's code", Throttled, "Throttling.RateQuota", "error_in_200", code="Throttling.RateQuota"),
    played("429 in HTML", Throttled, "http_429", "html_error", status=429),
    http(429, "Throttling.AllocationQuota", TokenRateThrottled, message="Allocated quota exceeded, please increase your quota limit."),
    http(429, "insufficient_quota", TokenRateThrottled),
    # The account
    http(429, "Throttling.AllocationQuota", AccountRefused, named="429 free quota used up", message="Free allocated quota exceeded."),
    http(403, "AllocationQuota.FreeTierOnly", AccountRefused),
    http(429, "PrepaidBillOverdue", AccountRefused),
    http(429, "PostpaidBillOverdue", AccountRefused),
    http(429, "CommodityNotPurchased", AccountRefused),
    http(429, "Throttling", AccountRefused, named="429 about a bill", message="Your bill is overdue."),
    http(400, "Arrearage", AccountRefused),
    http(401, "InvalidApiKey", AccountRefused),
    Row("a key that is refused", AccountRefused, "InvalidApiKey", environment={"DASHSCOPE_API_KEY": "invalid"}),
    http(403, "AccessDenied", AccountRefused),
    http(403, "AccessDenied.Unpurchased", AccountRefused),
    http(403, "Workspace.AccessDenied", AccountRefused),
    played("200 with a refused key's code", AccountRefused, "InvalidApiKey", "error_in_200", code="InvalidApiKey"),
    # The application
    http(404, "NotFound", ApplicationUnavailable),
    http(403, "App.AccessDenied", ApplicationUnavailable),
    http(403, "Model.AccessDenied", ApplicationUnavailable),
    http(400, "FlowNotPublished", ApplicationUnavailable),
    played("404 in HTML", ApplicationUnavailable, "http_404", "html_error", status=404),
    played("a redirect", ApplicationUnavailable, "http_307", "redirect"),
    # The request
    http(400, "InvalidParameter", RequestInvalid),
    http(400, "BadRequest.EmptyInput", RequestInvalid),
    http(400, "InputRequired", RequestInvalid),
    http(413, "BadRequest.TooLarge", RequestInvalid),
    played("413 in HTML", RequestInvalid, "http_413", "html_error", status=413),
    Row("a prompt of nothing but space", RequestInvalid, "InputRequired", prompt=" \n", is_posted=False),
    Row("an application id that is none", RequestInvalid, "app_id", environment={"ZQYY_APP_ID_2_FINANCE": "a/b"}, is_posted=False),
    # Its content
    played("DataInspectionFailed", ContentRefused, "DataInspectionFailed", "data_inspection"),
    played("DataInspectionFailed with usage", ContentRefused, "DataInspectionFailed", "data_inspection", with_usage=True, charged=USAGE),
    played("200 with DataInspectionFailed", ContentRefused, "DataInspectionFailed", "error_in_200", code="DataInspectionFailed"),
    # No connection
    unreachable("connection refused", "refused"),
    unreachable("a name that nobody knows", "unknown"),
    unreachable("a host that does not answer", "silent"),
    unreachable("a TLS handshake that nobody answers", "silent_tls"),
    unreachable("no TLS at the port", "no_tls"),
    # The server says no
    http(500, "InternalError", ServerFailed),
    http(500, "InternalError.Algo", ServerFailed),
    http(500, "SystemError", ServerFailed),
    http(500, "InternalError.Timeout", ServerFailed),
    http(503, "ServiceUnavailable", ServerFailed),
    http(503, "ModelUnavailable", ServerFailed, retry_after_seconds=45),
    played("502 in HTML", ServerFailed, "http_502", "html_error"),
    played("503 in HTML", ServerFailed, "http_503", "html_error", status=503),
    # The gateway gave up
    http(504, "GatewayTimeout", GatewayTimedOut),
    http(408, "RequestTimeOut", GatewayTimedOut),
    http(500, "RequestTimeOut", GatewayTimedOut),
    played("504 in HTML", GatewayTimedOut, "http_504", "html_error", status=504),
    # The connection broke
    played("closed after the request", OutcomeUnknown, "connection_lost", "close"),
    played("reset after the request", OutcomeUnknown, "connection_lost", "reset"),
    played("closed in the body", OutcomeUnknown, "connection_lost", "close_in_body"),
    played("a chunked stream, cut", OutcomeUnknown, "connection_lost", "close_in_chunks"),
    # Time ran out
    slow("no answer", "stall"),
    slow("half an answer", "stall_after_headers"),
    slow("a body that drips", "drip"),
    slow("a body that drips fast", "drip", 0.002),
    slow("headers that drip", "drip_headers", 0.002),
    slow("100 Continue without end", "informational", 0.01),
    slow("a body without end", "endless", 0.05),
    # An envelope that says nothing
    played("half of the JSON", EnvelopeUnreadable, "envelope_unreadable", "bad_json"),
    played("500 with half of the JSON", EnvelopeUnreadable, "http_500", "bad_json", status=500),
    played("closed in the headers", EnvelopeUnreadable, "envelope_unreadable", "close_in_headers"),
    played("an empty body", EnvelopeUnreadable, "envelope_unreadable", "empty_body"),
    played("200 in HTML", EnvelopeUnreadable, "envelope_unreadable", "html_error", status=200),
    played("no output", EnvelopeUnreadable, "envelope_unreadable", "no_output"),
    played("a null output", EnvelopeUnreadable, "envelope_unreadable", "null_output"),
    played("200 with a code of the server's trouble", EnvelopeUnreadable, "InternalError", "error_in_200", code="InternalError"),
    played("200 with RequestTimeOut", EnvelopeUnreadable, "RequestTimeOut", "error_in_200", code="RequestTimeOut"),
    played("too large a body", EnvelopeUnreadable, "answer_too_large", "oversized", size_bytes=9 * 2**20),
    played("early hints and no answer", EnvelopeUnreadable, "http_103", "informational", status=103),
    # A text that is no answer
    played("truncated, and it says so", ReplyInvalid, "reply_unfinished", "truncated"),
    played("truncated, and it says that it is finished", ReplyInvalid, "reply_unfinished", "truncated", finish_reason="stop"),
    played("whole, but not finished", ReplyInvalid, "reply_unfinished", "unfinished", finish_reason="null"),
    played("stopped by the content filter", ReplyInvalid, "reply_unfinished", "unfinished", finish_reason="content_filter"),
    played("a null text", ReplyInvalid, "reply_empty", "null_text"),
    played("prose instead of JSON", ReplyInvalid, "reply_not_json", "prose"),
    played("prose without usage", ReplyInvalid, "reply_not_json", "prose", with_usage=False, charged=ESTIMATE),
    played("JSON of another shape, no insights", ReplyInvalid, "reply_invalid", "wrong_schema"),
]


@dataclass(frozen=True, slots=True)
class Answer:
    """An odd reply that is an answer: one call, charged so, and the target has a new valid row."""

    name: str
    kind: str
    charged: Charged = USAGE
    more: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


ANSWERS = [
    Answer("flat usage", "usage_flat"),
    Answer("no usage", "usage_missing", ESTIMATE),
    Answer("null usage", "usage_null", ESTIMATE),
    Answer("null counts", "usage_null_counts", ESTIMATE),
    Answer("zero counts", "usage_zero", ESTIMATE),
    Answer("a Markdown fence", "fenced"),
    Answer("prose around the JSON", "in_prose"),
    Answer("a comma too many", "trailing_comma"),
    Answer("single quotes", "single_quotes"),
    Answer("line breaks in strings", "raw_newlines"),
    Answer("an object instead of a text", "object_text"),
    Answer("a megabyte of white space", "oversized", more={"size_bytes": 2**20}),
]


@contextlib.contextmanager
def address_of(row: Row, emulator: EmulatorControl) -> Iterator[str]:
    """The base URL that a row's client uses."""
    with contextlib.ExitStack() as parts:
        listener = parts.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        match row.address:
            case "refused":
                listener.close()
                yield f"http://{host}/api/v1"
            case "unknown":
                yield "http://no-such-host.invalid/api/v1"
            case "silent":
                parts.enter_context(socket.create_connection(listener.getsockname()))  # the queue is full: further connects wait
                yield f"http://{host}/api/v1"
            case "silent_tls":
                yield f"https://{host}/api/v1"
            case "no_tls":
                yield emulator.running.base_url.replace("http:", "https:")
            case _:
                yield emulator.running.base_url


@pytest.fixture(scope="module", autouse=True)
def _sdk_is_imported() -> None:
    """The first call of a process pays for it, outside its deadline but inside a step's."""
    import dashscope  # noqa: F401


def test_every_class_of_failure_and_every_fault_that_the_emulator_plays_has_a_row() -> None:
    classes = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, ModelCallError)}
    assert set(AFTERMATH) == {row.raised for row in FAILURES} == classes - {ModelCallError}
    assert {row.fault["kind"] for row in FAILURES if row.fault} | {answer.kind for answer in ANSWERS} == set(FaultKind)


@pytest.mark.parametrize("row", FAILURES, ids=str)
def test_the_client_posts_once_and_raises(row: Row, emulator: EmulatorControl) -> None:
    emulator.plan(*([row.fault] if row.fault else []))
    key, app_id = row.environment.get("DASHSCOPE_API_KEY", "sk-test"), row.environment.get("ZQYY_APP_ID_2_FINANCE", "id-finance")
    with (
        address_of(row, emulator) as base_url,
        contextlib.closing(DashScopeClient(key, base_url, 1)) as client,
        pytest.raises(ModelCallError) as caught,
    ):
        parse_reply(client.call(app_id, row.prompt, timeout_seconds=row.seconds), FinanceAnswer)
    error = caught.value
    assert (type(error), error.error_code) == (row.raised, row.error_code)
    assert emulator.posts == row.is_posted
    assert "朝阳店" not in str(error)
    assert "sk-test" not in str(error)


@pytest.mark.parametrize("row", FAILURES, ids=str)
def test_a_step_that_fails_each_time_leaves_behind(
    row: Row, make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    aftermath = AFTERMATH[row.raised]
    # The pause between tries: longer than a step for those that time alone bounds, so that they try once; else hardly any.
    monkeypatch.setattr("zqyy_ai.engine.step._FIRST_BACKOFF_SECONDS", 60.0 if aftermath.tries is MANY else 0.1)
    planted = make_engine().step.run(request(net_revenue_cny=1))
    cached_before, windows_before = cached(connection), budget_windows(connection)
    emulator.reset()
    emulator.plan(*([row.fault] if row.fault else []))
    asked = request(prompt=row.prompt)
    with address_of(row, emulator) as base_url:
        engine = make_engine(**{"ZQYY_STEP_TIMEOUT_SECONDS": str(row.seconds), "DASHSCOPE_HTTP_BASE_URL": base_url} | row.environment)
        result = engine.step.run(asked)

    tries = 2 if aftermath.tries is TWO else 1
    assert emulator.posts == (tries if row.is_posted else 0)
    assert (result.status, result.error_code, result.calls) == (StepStatus.FAILED, row.error_code, tries)
    assert (result.retry_at is not None) == aftermath.is_sent_back
    if result.retry_at is not None:
        assert result.retry_at - NOW == timedelta(seconds=min(row.fault.get("retry_after_seconds", 60), 300))

    calls = [log for log in logs(connection) if log["id"] != planted.run_log_id]
    charged = row.charged or aftermath.charged
    status = "timeout" if row.raised is CallTimedOut else "failed"
    assert [(log["status"], log["error_code"]) for log in calls] == [(status, row.error_code)] * tries
    assert [log["tokens_used"] for log in calls] == [expected_tokens(charged, log, row.prompt) for log in calls]
    assert {log["usage_reported"] for log in calls} == {charged is USAGE}
    assert {log["response_text"] is not None for log in calls} == {row.raised is ReplyInvalid}
    assert all(log["finished_at"] and log["latency_ms"] >= 0 and "朝阳店" not in log["error_message"] for log in calls)
    assert calls[-1]["id"] == result.run_log_id

    assert result.tokens == sum(log["tokens_used"] for log in calls)
    assert budget_windows(connection) == {name: (used + result.tokens, 0) for name, (used, _) in windows_before.items()}
    assert breakers(connection) == breakers_after(aftermath, tries)
    assert alerts_in_full(connection) == alerts_after(aftermath, row.error_code)
    assert cached(connection) == cached_before, "the last valid answer is untouched"
    assert held_rows(connection) == 0


HEALING = [row for row in FAILURES if AFTERMATH[row.raised].tries is not ONE and row.fault]


@pytest.mark.parametrize("row", HEALING, ids=str)
def test_what_may_be_tried_again_brings_the_answer_at_the_second_call_and_no_alert(
    row: Row, make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zqyy_ai.engine.step._FIRST_BACKOFF_SECONDS", 0.1)
    emulator.plan({name: value for name, value in row.fault.items() if name != "retry_after_seconds"} | {"attempts": [1]})
    result = make_engine().step.run(request())
    first, second = logs(connection)
    assert (result.status, result.calls, emulator.posts) == (StepStatus.ANSWERED, 2, 2)
    assert (first["status"], first["error_code"], second["status"]) == ("failed", row.error_code, "success")
    assert first["tokens_used"] == expected_tokens(row.charged or AFTERMATH[row.raised].charged, first, row.prompt)
    assert set(budget_windows(connection).values()) == {(first["tokens_used"] + second["tokens_used"], 0)}
    assert [answer["run_log_id"] for answer in cached(connection)] == [second["id"]]
    assert breakers(connection) == {}, "a success forgets the failure before it"
    assert alerts_in_full(connection) == []


@pytest.mark.parametrize("answer", ANSWERS, ids=str)
def test_an_odd_reply_that_is_an_answer_is_taken_at_once(
    answer: Answer, make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl
) -> None:
    emulator.plan({"kind": answer.kind} | answer.more)
    result = make_engine().step.run(request())
    assert (result.status, result.calls, emulator.posts) == (StepStatus.ANSWERED, 1, 1)
    (log,) = logs(connection)
    assert (log["status"], log["error_code"], log["usage_reported"]) == ("success", None, answer.charged is USAGE)
    assert log["tokens_used"] == result.tokens == expected_tokens(answer.charged, log, PROMPT)
    assert set(budget_windows(connection).values()) == {(result.tokens, 0)}
    (row,) = cached(connection)
    assert (row["id"], row["status"], row["run_log_id"]) == (result.cache_id, "valid", log["id"])
    assert len(row["result_json"]["insights"]) >= 3
    assert breakers(connection) == {}
    assert alerts_in_full(connection) == []
    assert held_rows(connection) == 0


def test_a_step_that_paid_on_its_way_is_not_sent_back_by_a_failure_that_costs_nothing(
    make_engine: EngineMaker, connection: Connection, emulator: EmulatorControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Being sent back spends no attempt: it would pay for the first call again on each round."""
    monkeypatch.setattr("zqyy_ai.engine.step._FIRST_BACKOFF_SECONDS", 0.1)
    emulator.plan({"kind": "close", "attempts": [1]}, {"kind": "http_error", "status": 503, "retry_after_seconds": 30})
    result: StepResult = make_engine().step.run(request())
    assert (result.status, result.error_code, result.calls) == (StepStatus.FAILED, "ServiceUnavailable", 2)
    assert result.tokens > 0
    assert result.retry_at is None


def expected_tokens(charged: Charged, log: dict[str, Any], prompt: str) -> int:
    app = request().app
    match charged:
        case Charged.NOTHING:
            return 0
        case Charged.ESTIMATE:
            return estimate_tokens(prompt, overhead_tokens=app.overhead_tokens, largest_output_tokens=app.largest_output_tokens)
        case Charged.USAGE:
            used: int = log["input_tokens"] + log["output_tokens"]
            assert used > 0
            return used


def budget_windows(connection: Connection) -> dict[tuple[str, str], tuple[int, int]]:
    """Used and reserved tokens: the chain's and the site's, of the day and of the month."""
    rows = connection.execute("SELECT scope, kind, used_tokens, reserved_tokens FROM biz.ai_budget_windows").fetchall()
    assert len(rows) in (0, 4)
    return {(row["scope"], row["kind"]): (row["used_tokens"], row["reserved_tokens"]) for row in rows}


def breakers_after(aftermath: Aftermath, tries: int) -> dict[str, tuple[str, int]]:
    if aftermath.holds_the_account:
        return {"*": ("open", 5)}
    return {"app2_finance": ("closed", tries)} if aftermath.counts_for_breaker else {}


def alerts_in_full(connection: Connection) -> list[tuple[str, str, str, int, str]]:
    """Type, severity, fingerprint, occurrences and status of each alert."""
    rows = connection.execute(
        "SELECT alert_type, severity, fingerprint, occurrences, alert_status FROM biz.ai_alerts ORDER BY id"
    ).fetchall()
    return [(row["alert_type"], row["severity"], row["fingerprint"], row["occurrences"], row["alert_status"]) for row in rows]


def alerts_after(aftermath: Aftermath, error_code: str) -> list[tuple[str, str, str, int, str]]:
    """One for the step, however often it called."""
    if aftermath.alert is None:
        return []
    alert_type, severity, fingerprint = aftermath.alert
    return [(alert_type, severity, fingerprint.format(error_code), 1, "open")]
