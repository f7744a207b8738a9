"""The runtime context: whether work is done for the present day, or in a sandbox for a date of the past.

Every part is given one from the start, so that a sandbox can never leak into live rows by an argument that somebody forgot.
"""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum

from zqyy_ai.domain.business_clock import MIDNIGHT, business_date_at, end_of_business_day


class RuntimeMode(StrEnum):
    LIVE = "live"
    SANDBOX = "sandbox"


@dataclass(frozen=True, slots=True)
class RuntimeContext:
    """`sandbox_date` is set exactly when the mode is sandbox."""

    mode: RuntimeMode = RuntimeMode.LIVE
    sandbox_date: date | None = None

    def __post_init__(self) -> None:
        if (self.mode is RuntimeMode.SANDBOX) != (self.sandbox_date is not None):
            raise ValueError("a sandbox context has a sandbox_date, a live one has none")

    @property
    def is_sandbox(self) -> bool:
        return self.mode is RuntimeMode.SANDBOX

    def business_date(self, now: datetime, cutoff: time = MIDNIGHT) -> date:
        return self.sandbox_date or business_date_at(now, cutoff)

    def moment(self, now: datetime, cutoff: time = MIDNIGHT) -> datetime:
        """What time it is in the context: in a sandbox the same time of day, on its business date."""
        return now - timedelta(days=(business_date_at(now, cutoff) - self.business_date(now, cutoff)).days)

    def until(self, cutoff: time = MIDNIGHT) -> datetime | None:
        """The moment before which all that a sandbox may know has happened: the end of its business date. None: no bound."""
        return None if self.sandbox_date is None else end_of_business_day(self.sandbox_date, cutoff) + timedelta(seconds=1)


LIVE = RuntimeContext()
