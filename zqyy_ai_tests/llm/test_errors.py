import pytest

from zqyy_ai.domain.call_failures import BudgetEffect
from zqyy_ai.llm import ModelCallError, Usage
from zqyy_ai.llm.errors import (
    AccountRefused,
    ApplicationUnavailable,
    ContentRefused,
    EnvelopeUnreadable,
    GatewayTimedOut,
    RequestInvalid,
    ServerFailed,
    Throttled,
    TokenRateThrottled,
    refusal_class,
)


@pytest.mark.parametrize(
    ("status", "code", "message", "expected"),
    [
        (429, "", "", Throttled),
        (429, "limit_requests", "", Throttled),
        (429, "insufficient_quota", "You exceeded your current quota", TokenRateThrottled),
        (429, "Throttling.AllocationQuota", "Allocated quota exceeded, please increase your quota limit.", TokenRateThrottled),
        (429, "Throttling.AllocationQuota", "Free allocated quota exceeded.", AccountRefused),
        (429, "insufficient_quota", "The free tier of the model has been exhausted.", AccountRefused),
        (429, "Throttling", "Your bill is overdue", AccountRefused),
        (429, "CommodityNotPurchased", "", AccountRefused),
        (429, "PostpaidBillOverdue", "", AccountRefused),
        (400, "invalid_api_key", "", AccountRefused),
        (401, "", "", AccountRefused),
        (403, "AccessDenied", "", AccountRefused),
        (403, "Workspace.AccessDenied", "", AccountRefused),
        (403, "App.AccessDenied", "", ApplicationUnavailable),
        (403, "", "", ApplicationUnavailable),
        (404, "InvalidParameter", "", ApplicationUnavailable),
        (400, "FlowNotPublished", "", ApplicationUnavailable),
        (302, "", "", ApplicationUnavailable),
        (400, "data_inspection_failed", "", ContentRefused),
        (400, "", "", RequestInvalid),
        (413, "", "", RequestInvalid),
        (418, "Odd", "", RequestInvalid),
        (500, "", "", ServerFailed),
        (500, "InternalError.Timeout", "", ServerFailed),
        (500, "RequestTimeOut", "", GatewayTimedOut),
        (504, "InternalError", "", GatewayTimedOut),
        (599, "", "", ServerFailed),
        (200, "", "", EnvelopeUnreadable),
        (200, "SystemError", "", EnvelopeUnreadable),
        (200, "RequestTimeOut", "", EnvelopeUnreadable),
        (200, "Throttling.RateQuota", "", Throttled),
        (200, "Arrearage", "", AccountRefused),
        (202, "", "", EnvelopeUnreadable),
    ],
)
def test_status_code_and_words_decide_the_class(status: int, code: str, message: str, expected: type[ModelCallError]) -> None:
    assert refusal_class(status, code, message) is expected


def test_an_inspection_refusal_is_charged_only_when_a_usage_came_with_it() -> None:
    assert ContentRefused("x", error_code="x").rule.budget is BudgetEffect.RELEASE
    assert ContentRefused("x", error_code="x", usage=Usage(1, 1, ())).rule.budget is BudgetEffect.SETTLE_USAGE


def test_a_full_minute_of_tokens_is_waited_for_a_minute_at_most() -> None:
    assert TokenRateThrottled.longest_wait_seconds == 60
    assert Throttled.longest_wait_seconds is None
