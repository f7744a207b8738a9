"""What a failed call means for everybody else: retries, the breaker, the budget, the alert.

One `FailureRule` is one row of the table "What each failure means" in docs/dashscope.md; `llm/errors.py` maps a reply or an
exception to its row, `engine/step.py` acts on it.
"""

from dataclasses import dataclass
from enum import StrEnum


class RetryRule(StrEnum):
    """How often a step may call again after this failure, always within its own time limit."""

    NEVER = "never"
    ONCE = "once"
    WITHIN_STEP = "within_step"


class BudgetEffect(StrEnum):
    """What happens to the reservation: nothing was used, the unknown is charged as estimated, or the reported usage is."""

    RELEASE = "release"
    CHARGE_ESTIMATE = "charge_estimate"
    SETTLE_USAGE = "settle_usage"


@dataclass(frozen=True, slots=True)
class FailureRule:
    """`holds_every_app`: the account itself is refused (arrears, bad key), so no application may call until somebody acts.

    `is_throttling`: the shared rate is pushed forward, so that other workers wait too. `is_transient`: work that failed so may be
    sent back to run later. `is_configuration`: an alert about configuration, not about the model.
    """

    retry: RetryRule
    counts_for_breaker: bool
    budget: BudgetEffect
    is_transient: bool
    holds_every_app: bool = False
    is_throttling: bool = False
    is_configuration: bool = False
