"""Every error that the project raises on purpose.

    ZqyyError
    ├── PermanentError             a rerun does not help until somebody changes something
    │   ├── SettingError           an environment variable is missing or malformed
    │   ├── InvalidRequest         what a caller asked for cannot be meant (unknown site, window, event field)
    │   │   ├── NotFound           what it is about does not exist, or is not the caller's to see
    │   │   └── StateConflict      it is not in a state in which that can be done
    │   ├── SchemaConflict         an existing table contradicts a migration
    │   ├── SourceContractError    an `ai_source` view is missing or has the wrong columns
    │   ├── CallRejected           DashScope refused the call for what it is; subclasses in `llm/errors.py`
    │   └── ClaimLost              another worker took the target over; nothing was written
    └── TransientError             the same work can succeed later
        ├── GuardRefusal           pause, breaker, rate or budget said no before any call was made
        └── CallFailed             the call was tried and failed; subclasses in `llm/errors.py`

A message says what was being done, what happened, whether a rerun helps and what to do.
"""

from datetime import datetime
from typing import Any


class ZqyyError(Exception):
    """Root of the tree; never raised itself."""


class PermanentError(ZqyyError):
    """A rerun does not help until somebody changes something."""


class SettingError(PermanentError):
    """A setting is missing or malformed; the message names the environment variable."""


class InvalidRequest(PermanentError):
    """What was asked for cannot be meant; the message says what is allowed."""


class NotFound(InvalidRequest):
    """What was asked about does not exist, or is not the caller's to see: the two look the same."""


class StateConflict(InvalidRequest):
    """What was asked for contradicts the present state; the message says which one. `code` and `numbers` tell a program what stands against it."""

    def __init__(self, message: str, *, code: str = "conflict", **numbers: Any) -> None:
        super().__init__(message)
        self.code = code
        self.numbers = numbers


class SchemaConflict(PermanentError):
    """An existing table has a column of another type than the migration needs."""


class SourceContractError(PermanentError):
    """The `ai_source` views do not fulfil docs/warehouse.md."""


class CallRejected(PermanentError):
    """The model refused this call, and would refuse it again."""


class ClaimLost(PermanentError):
    """The lease of a target's claim was lost before its answer was written; the new holder's answer stands."""


class TransientError(ZqyyError):
    """The same work can succeed later; `retry_at` is the earliest sensible moment, where one is known."""

    def __init__(self, message: str, *, retry_at: datetime | None = None) -> None:
        super().__init__(message)
        self.retry_at = retry_at


class RetentionBusy(TransientError):
    """Another process is deleting old rows at the moment; this one did nothing."""


class GuardRefusal(TransientError):
    """A guard refused before anything was sent. `reason` is what the run log's error_message says.

    `has_own_alert`: whoever brought the refusing state about has alerted already; the refusals that follow say nothing new.
    """

    def __init__(self, reason: str, message: str, *, retry_at: datetime | None = None, has_own_alert: bool = False) -> None:
        super().__init__(message, retry_at=retry_at)
        self.reason = reason
        self.has_own_alert = has_own_alert


class CallFailed(TransientError):
    """The call was tried and failed for a cause that passes."""
