"""Every way in which a call to DashScope fails, and what each means for retries, the breaker and the budget.

    ModelCallError                     carries rule, error_code, request_id, usage, retry_after_seconds
    ├── (CallRejected, permanent)
    │   ├── AccountRefused             bad key, arrears, no free quota left, not purchased: every application is held
    │   ├── ApplicationUnavailable     404 or no access to this one application: a configuration alert
    │   ├── RequestInvalid             a parameter, the size or the prompt itself; nothing was computed
    │   └── ContentRefused             data inspection; what was computed before it is settled
    └── (CallFailed, transient)
        ├── Throttled                  too many calls
        │   └── TokenRateThrottled     too many tokens a minute
        ├── NotConnected               refused, DNS, connect timeout, TLS: definitely not sent
        ├── ServerFailed               5xx with a definite no
        ├── OutcomeUnknown             sent, but no whole answer came: it may have been computed and paid
        │   ├── CallTimedOut           our deadline
        │   ├── GatewayTimedOut        504, 408
        │   └── EnvelopeUnreadable     an answer came, but not one that can be read
        └── ReplyInvalid               the model's text is unfinished, no JSON, or not what the application must say

Each class is one row of "What each failure means" in docs/dashscope.md. `is_transient` is set only where nothing was paid: sending
work back that may have been computed would pay for it again on each round. No message holds a prompt, a reply or a key.
"""

import re
from typing import ClassVar

from zqyy_ai.domain.call_failures import BudgetEffect, FailureRule, RetryRule
from zqyy_ai.domain.errors import CallFailed, CallRejected
from zqyy_ai.llm.replies import Usage


class ModelCallError(Exception):
    """What all failures of a call carry; catch this, read `rule`.

    `error_code` is DashScope's own code where it gave one, else a short word of ours. `retry_after_seconds` is what DashScope asked
    for in the `Retry-After` header.
    """

    rule: FailureRule
    advice: ClassVar[str]

    def __init__(
        self,
        message: str,
        *,
        error_code: str,
        request_id: str | None = None,
        usage: Usage | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.error_code = error_code
        self.request_id = request_id
        self.usage = usage
        self.retry_after_seconds = retry_after_seconds


class AccountRefused(ModelCallError, CallRejected):
    """The account or its key is refused, so every application is."""

    rule = FailureRule(RetryRule.NEVER, counts_for_breaker=False, budget=BudgetEffect.RELEASE, is_transient=False, holds_every_app=True)
    advice = "no application can call until the key or the account is put right in DashScope's console"


class ApplicationUnavailable(ModelCallError, CallRejected):
    """This application does not exist, is not published, or is not open to the key."""

    rule = FailureRule(RetryRule.NEVER, counts_for_breaker=False, budget=BudgetEffect.RELEASE, is_transient=False, is_configuration=True)
    advice = "check this application's id, that it is published, the key's workspace and DASHSCOPE_HTTP_BASE_URL"


class RequestInvalid(ModelCallError, CallRejected):
    """The request is refused for what it is."""

    rule = FailureRule(RetryRule.NEVER, counts_for_breaker=False, budget=BudgetEffect.RELEASE, is_transient=False)
    advice = "a rerun does not help until the request is changed"


class ContentRefused(ModelCallError, CallRejected):
    """DashScope's inspection refused the input or the output. Charged only if a usage was reported."""

    rule = FailureRule(RetryRule.NEVER, counts_for_breaker=False, budget=BudgetEffect.RELEASE, is_transient=False)
    advice = "a rerun of the same prompt does not help"

    def __init__(
        self,
        message: str,
        *,
        error_code: str,
        request_id: str | None = None,
        usage: Usage | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, error_code=error_code, request_id=request_id, usage=usage, retry_after_seconds=retry_after_seconds)
        if usage is not None:
            self.rule = FailureRule(RetryRule.NEVER, counts_for_breaker=False, budget=BudgetEffect.SETTLE_USAGE, is_transient=False)


class Throttled(ModelCallError, CallFailed):
    """Too many calls. `longest_wait_seconds` is the longest sensible wait before the next try; None leaves it to the step's time."""

    rule = FailureRule(RetryRule.WITHIN_STEP, counts_for_breaker=False, budget=BudgetEffect.RELEASE, is_transient=True, is_throttling=True)
    advice = "a rerun helps a little later"
    longest_wait_seconds: float | None = None


class TokenRateThrottled(Throttled):
    """Too many tokens a minute: over after a minute at most."""

    longest_wait_seconds = 60.0


class NotConnected(ModelCallError, CallFailed):
    """No byte of the request left: refused, DNS, connect timeout or TLS."""

    rule = FailureRule(RetryRule.WITHIN_STEP, counts_for_breaker=True, budget=BudgetEffect.RELEASE, is_transient=True)
    advice = "nothing was sent, a rerun helps once the network or DASHSCOPE_HTTP_BASE_URL is right"


class ServerFailed(ModelCallError, CallFailed):
    """DashScope answered with a failure of its own."""

    rule = FailureRule(RetryRule.WITHIN_STEP, counts_for_breaker=True, budget=BudgetEffect.RELEASE, is_transient=True)
    advice = "a rerun helps once DashScope is well again"


class OutcomeUnknown(ModelCallError, CallFailed):
    """The request was sent and no whole answer came back; it may have been computed."""

    rule = FailureRule(RetryRule.ONCE, counts_for_breaker=True, budget=BudgetEffect.CHARGE_ESTIMATE, is_transient=False)
    advice = "it may have been computed, so a rerun may pay again"


class CallTimedOut(OutcomeUnknown):
    """The call's deadline passed while the answer was awaited or read."""


class GatewayTimedOut(OutcomeUnknown):
    """DashScope's gateway gave up waiting (504, 408), while the application behind it may have finished."""

    rule = FailureRule(RetryRule.WITHIN_STEP, counts_for_breaker=True, budget=BudgetEffect.CHARGE_ESTIMATE, is_transient=False)


class EnvelopeUnreadable(OutcomeUnknown):
    """An answer arrived that is no JSON, or has neither an output nor a code that says why."""


class ReplyInvalid(ModelCallError, CallFailed):
    """The model's own text cannot be used. `usage` is what it cost; None means not reported: settle at the estimate."""

    rule = FailureRule(RetryRule.ONCE, counts_for_breaker=False, budget=BudgetEffect.SETTLE_USAGE, is_transient=False)
    advice = "it was paid; a rerun pays again and may bring a better text"


# Codes as DashScope documents them, in lower case and without underscores (the OpenAI-compatible spellings of the same codes have
# them). The first prefix that fits decides.
_CLASS_BY_CODE_PREFIX: tuple[tuple[str, type[ModelCallError]], ...] = (
    ("throttling.allocationquota", TokenRateThrottled),
    ("throttling", Throttled),
    ("limitrequests", Throttled),
    ("insufficientquota", TokenRateThrottled),
    ("allocationquota.", AccountRefused),
    ("arrearage", AccountRefused),
    ("prepaidbilloverdue", AccountRefused),
    ("postpaidbilloverdue", AccountRefused),
    ("commoditynotpurchased", AccountRefused),
    ("invalidapikey", AccountRefused),
    ("accessdenied", AccountRefused),
    ("workspace.accessdenied", AccountRefused),
    ("app.accessdenied", ApplicationUnavailable),
    ("model.accessdenied", ApplicationUnavailable),
    ("flownotpublished", ApplicationUnavailable),
    ("datainspectionfailed", ContentRefused),
    ("requesttimeout", GatewayTimedOut),
    ("invalidparameter", RequestInvalid),
    ("badrequest", RequestInvalid),
    ("inputrequired", RequestInvalid),
    ("internalerror", ServerFailed),
    ("systemerror", ServerFailed),
)
_CLASS_BY_STATUS: dict[int, type[ModelCallError]] = {
    401: AccountRefused,
    403: ApplicationUnavailable,
    405: ApplicationUnavailable,
    429: Throttled,
}
# These statuses say more than any code that comes with them.
_CLASS_BY_DECISIVE_STATUS: dict[int, type[ModelCallError]] = {
    404: ApplicationUnavailable,
    408: GatewayTimedOut,
    413: RequestInvalid,
    504: GatewayTimedOut,
}
_ACCOUNT_IS_EMPTY = re.compile(
    r"\bfree\b.{0,80}\b(?:exceeded|exhausted)\b|\boverdue\b|\barrears?\b|\bbill(?:ing)?\b", re.IGNORECASE | re.DOTALL
)


def refusal_class(status: int, code: str, message: str) -> type[ModelCallError]:
    """The class of an answer that is not a success, from its HTTP status and DashScope's code and message.

    A 200 that carries a code instead of an output counts as refused only where the code says so definitely; a code of the server's own
    trouble leaves open whether the call was computed.
    """
    found = _CLASS_BY_DECISIVE_STATUS.get(status) or _class_by_code(code) or _CLASS_BY_STATUS.get(status)
    if found is not None and issubclass(found, Throttled) and _ACCOUNT_IS_EMPTY.search(message):
        return AccountRefused
    if 200 <= status < 300:
        return found if found is not None and issubclass(found, CallRejected | Throttled) else EnvelopeUnreadable
    if found is not None:
        return found
    # A redirect is not followed, because that would be a second request: the address is wrong.
    return ServerFailed if status >= 500 else ApplicationUnavailable if status < 400 else RequestInvalid


def _class_by_code(code: str) -> type[ModelCallError] | None:
    plain = code.lower().replace("_", "")
    return next((error for prefix, error in _CLASS_BY_CODE_PREFIX if plain.startswith(prefix)), None)
