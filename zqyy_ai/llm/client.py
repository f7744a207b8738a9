"""The DashScope client: one call of one application through the real SDK, answered by a `Reply` or a typed error.

No retry, no guard and no parsing of the model's text in here. The key and the address are arguments; what the SDK would read from the
environment instead (key, key file, base URL) is always overridden. Invariant: one `call` is at most one POST.

The SDK is imported by the first call: it costs 1.5-3 s of CPU and 64-74 MB, `dashscope/__init__.py` brings all of it whatever part is
asked for, and a process that only reuses answers never needs it.
"""

import logging
import re
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from json import dumps, loads
from math import isfinite
from typing import TYPE_CHECKING, Any

from zqyy_ai.domain.errors import SettingError
from zqyy_ai.llm.errors import CallTimedOut, EnvelopeUnreadable, ModelCallError, OutcomeUnknown, RequestInvalid, refusal_class
from zqyy_ai.llm.replies import Reply, extract_usage

if TYPE_CHECKING:
    from requests import Response

    from zqyy_ai.llm.transport import Attempt

_APP_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,79}")
_LONGEST_QUOTE_CHARACTERS = 200
_LONGEST_RETRY_AFTER_SECONDS = 300.0
_SHORTEST_ECHO_CHARACTERS = 8


class DashScopeClient:
    """Calls applications; one instance per process, shared by all threads.

    `max_connections` is how many calls run side by side; more work too, but their connections are not kept. `base_url` is
    DashScope's or the emulator's, `https://…/api/v1`.
    """

    def __init__(self, api_key: str, base_url: str, max_connections: int, workspace: str | None = None) -> None:
        if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
            raise SettingError("DASHSCOPE_API_KEY: is empty or holds a character that no key has (a space, a line break, a non-ASCII one)")
        if not base_url.startswith(("http://", "https://")):
            raise SettingError("DASHSCOPE_HTTP_BASE_URL: must start with http:// or https://")
        from zqyy_ai.llm.transport import DeadlineSession

        self._api_key = api_key
        self._base_url = base_url.rstrip("/")
        self._workspace = workspace
        self._session = DeadlineSession(max_connections)

    def prepare(self) -> None:
        """Import the SDK, which takes seconds, before the first call. Afterwards it costs nothing."""
        _application()

    def call(self, app_id: str, prompt: str, *, timeout_seconds: float, session_id: str | None = None) -> Reply:
        """Post the prompt once and wait at most `timeout_seconds` (> 0): connect, headers and body together, kept within 1 s.

        The first call of a process imports the SDK before its time starts to run, unless `prepare` did. Raises a `ModelCallError`.
        """
        if not _APP_ID.fullmatch(app_id):
            raise RequestInvalid(
                "Calling DashScope: the application id holds a character that no id has; check the ZQYY_APP_ID_ settings",
                error_code="app_id",
            )
        if not prompt.strip():
            raise RequestInvalid("Calling DashScope: the prompt is empty; nothing was sent", error_code="InputRequired")
        application = _application()
        started = time.monotonic()
        with self._session.attempt(timeout_seconds) as attempt:
            response = self._post(application, attempt, app_id, prompt, session_id)
        latency_ms = round((time.monotonic() - started) * 1000)
        body = _json_object(response.content)
        output = body.get("output") if body is not None and response.status_code == 200 else None
        if body is None or not isinstance(output, Mapping):
            raise self._failure(response, body, prompt, is_overdue=attempt.is_overdue)
        return Reply(
            text=_text(output.get("text")),
            finish_reason=_optional_text(output.get("finish_reason")),
            usage=extract_usage(body.get("usage")),
            session_id=_optional_text(output.get("session_id")),
            request_id=_request_id(response, body),
            latency_ms=latency_ms,
        )

    def close(self) -> None:
        """Close all connections; a call after it raises RuntimeError."""
        self._session.close()

    def _post(self, application: Any, attempt: "Attempt", app_id: str, prompt: str, session_id: str | None) -> "Response":
        """The answer as it came over the wire.

        The SDK's view of it is not used: it reads an absent token count as 0, hides `Retry-After`, and loses the code of a 200 without
        output and the text of an answer whose usage has a shape it does not know.
        """
        try:
            application.call(
                app_id=app_id,
                prompt=prompt,
                api_key=self._api_key,
                workspace=self._workspace,
                session_id=session_id,
                base_address=self._base_url,
                session=self._session,
            )
        except ModelCallError:
            raise
        except Exception as failure:  # the SDK raises whatever its reading of a strange answer happens to raise
            if attempt.response is None and attempt.is_sent:
                raise OutcomeUnknown(
                    f"Calling DashScope: the answer could not be received ({type(failure).__name__}); {OutcomeUnknown.advice}",
                    error_code="outcome_unknown",
                ) from None
            if attempt.response is None:
                raise RequestInvalid(
                    f"Calling DashScope: the SDK refused the request before sending it ({type(failure).__name__}); {RequestInvalid.advice}",
                    error_code=type(failure).__name__,
                ) from None
        if attempt.response is None:
            raise RuntimeError("the DashScope SDK returned without having posted")
        return attempt.response

    def _failure(self, response: "Response", body: Mapping[str, Any] | None, prompt: str, *, is_overdue: bool) -> ModelCallError:
        status = response.status_code
        reported = body or {}
        code = reported.get("code")
        code = code if isinstance(code, str) and _CODE.fullmatch(code) else ""
        message = str(reported.get("message") or reported.get("msg") or "")
        is_json = "json" in response.headers.get("Content-Type", "")
        error_class = refusal_class(status, code, message)
        if body is None and (status == 200 or (status >= 500 and is_json)):
            # A body that ends with the connection looks complete when the watchdog cuts it.
            error_class = CallTimedOut if is_overdue else EnvelopeUnreadable
        without_code = "timeout" if error_class is CallTimedOut else "envelope_unreadable" if status == 200 else f"http_{status}"
        said = f"{status} {code}".strip() + self._quote(message, prompt)
        return error_class(
            f"Calling DashScope: it answered {said}{'' if body is not None else ' without a readable body'}; {error_class.advice}",
            error_code=code or without_code,
            request_id=_request_id(response, reported),
            usage=extract_usage(reported.get("usage")),
            retry_after_seconds=_retry_after_seconds(response.headers.get("Retry-After")),
        )

    def _quote(self, message: str, prompt: str) -> str:
        """DashScope's own words, for whoever has to act; left out when they echo the key or a piece of the prompt."""
        words = " ".join(message.split())[:_LONGEST_QUOTE_CHARACTERS]
        pieces = (words[start : start + _SHORTEST_ECHO_CHARACTERS] for start in range(len(words) - _SHORTEST_ECHO_CHARACTERS + 1))
        if not words or self._api_key[:12] in words or any(piece in prompt for piece in pieces):
            return ""
        return f" ({words})"


_sdk_import = threading.Lock()


def _application() -> Any:
    """`dashscope.Application`, imported once."""
    with _sdk_import:
        # Its debug lines hold whole prompts, and it logs a stack trace of each failure, which our own error says in a line.
        logging.getLogger("dashscope").addFilter(_says_nothing)
        from dashscope.app.application import Application

        return Application


def _says_nothing(_record: logging.LogRecord) -> bool:
    return False


def _json_object(content: bytes) -> Mapping[str, Any] | None:
    try:
        body = loads(content)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _text(text: object) -> str:
    """The model's text; a workflow may put a JSON value there, and nothing at all is the empty text."""
    if text is None:
        return ""
    return text if isinstance(text, str) else dumps(text, ensure_ascii=False)


def _optional_text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _request_id(response: "Response", body: Mapping[str, Any]) -> str | None:
    return _optional_text(body.get("request_id")) or response.headers.get("X-Request-Id")


def _retry_after_seconds(header: str | None) -> float | None:
    """Seconds from now out of either form of the header, >= 0; None when there is none that can be read."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    # A header that means something else (a date as a number, milliseconds) must not stop an application for years.
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER_SECONDS) if isfinite(seconds) else None
