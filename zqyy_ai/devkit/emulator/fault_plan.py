"""How the emulator is slow and how it fails: a plan in JSON, and the choice of what happens to one call.

The first fault whose conditions all hold is the call's. Invariant: what is drawn by chance (`rate`, latency) hangs on the seed, the
application, the prompt and how often that prompt came, never on the order in which calls arrive. `nth` and `count` do count arrivals.
"""

import json
import math
import random
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, assert_never

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zqyy_ai.domain.errors import SettingError

Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]


class FaultKind(StrEnum):
    """What goes wrong. Refusals answer at once; the rest first wait as long as a good answer would."""

    # Refusals.
    HTTP_ERROR = "http_error"
    HTML_ERROR = "html_error"
    DATA_INSPECTION = "data_inspection"
    ERROR_IN_200 = "error_in_200"
    REDIRECT = "redirect"
    # The wire.
    CLOSE = "close"
    RESET = "reset"
    CLOSE_IN_HEADERS = "close_in_headers"
    CLOSE_IN_BODY = "close_in_body"
    CLOSE_IN_CHUNKS = "close_in_chunks"
    STALL = "stall"
    STALL_AFTER_HEADERS = "stall_after_headers"
    DRIP = "drip"
    DRIP_HEADERS = "drip_headers"
    INFORMATIONAL = "informational"
    ENDLESS = "endless"
    # The envelope.
    BAD_JSON = "bad_json"
    EMPTY_BODY = "empty_body"
    NO_OUTPUT = "no_output"
    NULL_OUTPUT = "null_output"
    OVERSIZED = "oversized"
    USAGE_MISSING = "usage_missing"
    USAGE_NULL = "usage_null"
    USAGE_FLAT = "usage_flat"
    USAGE_NULL_COUNTS = "usage_null_counts"
    USAGE_ZERO = "usage_zero"
    # The model's text.
    TRUNCATED = "truncated"
    UNFINISHED = "unfinished"
    NULL_TEXT = "null_text"
    PROSE = "prose"
    WRONG_SCHEMA = "wrong_schema"
    OBJECT_TEXT = "object_text"
    FENCED = "fenced"
    IN_PROSE = "in_prose"
    TRAILING_COMMA = "trailing_comma"
    SINGLE_QUOTES = "single_quotes"
    RAW_NEWLINES = "raw_newlines"


REFUSALS = frozenset({FaultKind.HTTP_ERROR, FaultKind.HTML_ERROR, FaultKind.DATA_INSPECTION, FaultKind.ERROR_IN_200, FaultKind.REDIRECT})

_STATUS_BY_KIND = {
    FaultKind.HTTP_ERROR: 500,
    FaultKind.HTML_ERROR: 502,
    FaultKind.DATA_INSPECTION: 400,
    FaultKind.REDIRECT: 307,
    FaultKind.INFORMATIONAL: 100,
}
_CODE_BY_STATUS = {
    400: "InvalidParameter",
    401: "InvalidApiKey",
    403: "AccessDenied",
    404: "NotFound",
    408: "RequestTimeOut",
    413: "BadRequest.TooLarge",
    429: "Throttling.RateQuota",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "GatewayTimeout",
}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Latency(_Strict):
    """Seconds until an answer: `fixed` (seconds), `uniform` (low..high), or `lognormal` (median, sigma), at most `longest_seconds`."""

    kind: Literal["fixed", "uniform", "lognormal"] = "fixed"
    seconds: Seconds = 0.0
    low_seconds: Seconds = 0.0
    high_seconds: Seconds = 0.0
    median_seconds: Seconds = 0.0
    sigma: Annotated[float, Field(ge=0, le=5)] = 0.5
    longest_seconds: Seconds = 600.0

    def draw(self, chance: random.Random) -> float:
        match self.kind:
            case "fixed":
                drawn = self.seconds
            case "uniform":
                drawn = chance.uniform(self.low_seconds, self.high_seconds)
            case "lognormal":
                drawn = self.median_seconds * math.exp(chance.gauss(0.0, self.sigma))
            case _:
                assert_never(self.kind)
        return min(drawn, self.longest_seconds)


class Fault(_Strict):
    """One kind of failure and when it happens; a condition that is not given holds for every call.

    `app` is what the prompt asks for (`app2_finance`), whatever `app_id` it is posted to. `attempts`: 1 is the first time that this
    prompt comes. `nth`: 1 is the first call that the other conditions fit. `count`: so many calls in all.

    What a kind makes of the rest: `status` and `code` of an error; `with_usage`: true makes an error tell the tokens of the answer that it stands
    for, false makes an answer keep them back; `interval_seconds` between two pieces of a drip; `finish_reason` of a truncated or unfinished text; `size_bytes` of an
    oversized body.
    """

    kind: FaultKind
    app_id: str | None = None
    app: str | None = None
    prompt_contains: str | None = None
    attempts: tuple[int, ...] | None = None
    rate: Annotated[float, Field(ge=0, le=1)] | None = None
    nth: tuple[int, ...] | None = None
    count: Annotated[int, Field(ge=0)] | None = None

    status: Annotated[int, Field(ge=100, le=599)] | None = None
    code: str | None = None
    message: str = "emulated failure"
    retry_after_seconds: Seconds | None = None
    with_usage: bool | None = None
    interval_seconds: Seconds = 0.1
    finish_reason: str = "length"
    size_bytes: Annotated[int, Field(ge=0, le=2**28)] = 2**25

    @property
    def error_status(self) -> int:
        return self.status or _STATUS_BY_KIND.get(self.kind, 200)

    @property
    def error_code(self) -> str:
        if self.kind is FaultKind.DATA_INSPECTION:
            return self.code or "DataInspectionFailed"
        return self.code or _CODE_BY_STATUS.get(self.error_status, "InternalError")


class FaultPlan(_Strict):
    """A whole plan; without `latency`, the emulator's own applies."""

    latency: Latency | None = None
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class SeenCall:
    """What a call is recognised by. `draw` is its own source of chance for one purpose."""

    app_id: str
    app: str | None
    prompt: str
    digest: str
    attempt: int
    seed: int

    def draw(self, purpose: str) -> random.Random:
        return random.Random(f"{self.seed}/{purpose}/{self.app_id}/{self.digest}/{self.attempt}")


@dataclass(slots=True)
class FaultDraw:
    """A plan at work: it remembers how often each of its faults fitted and happened."""

    plan: FaultPlan
    fitted: Counter[int] = field(default_factory=Counter)
    happened: Counter[int] = field(default_factory=Counter)

    def pick(self, call: SeenCall) -> Fault | None:
        for index, fault in enumerate(self.plan.faults):
            if not _fits(fault, call, index):
                continue
            self.fitted[index] += 1
            if fault.nth is not None and self.fitted[index] not in fault.nth:
                continue
            if fault.count is not None and self.happened[index] >= fault.count:
                continue
            self.happened[index] += 1
            return fault
        return None


def _fits(fault: Fault, call: SeenCall, index: int) -> bool:
    return (
        fault.app_id in (None, call.app_id)
        and fault.app in (None, call.app)
        and (fault.prompt_contains is None or fault.prompt_contains in call.prompt)
        and (fault.attempts is None or call.attempt in fault.attempts)
        and (fault.rate is None or call.draw(f"fault {index}").random() < fault.rate)
    )


def load_fault_plan(path: Path) -> FaultPlan:
    """Raises SettingError that says what in the file cannot be meant."""
    try:
        return FaultPlan.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as unreadable:
        raise SettingError(f"fault plan {path}: cannot be read ({unreadable.strerror})") from None
    except ValidationError as misfit:
        raise SettingError(f"fault plan {path}: {describe(misfit)}") from None
    except ValueError as broken:
        raise SettingError(f"fault plan {path}: is not JSON ({broken})") from None


def describe(misfit: ValidationError) -> str:
    first = misfit.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
