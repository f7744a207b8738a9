"""The business clock: what day it is for a site, and when that day ends.

Every part is given a `Clock`; nothing else in the project asks the operating system for the time to decide a business date. Leases
and budgets are decided by the database's clock instead (one truth for all machines). The cut-off is per site: with 06:00, the small
hours of the 2nd still belong to the business date of the 1st.
"""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

SHANGHAI = ZoneInfo("Asia/Shanghai")
MIDNIGHT = time(0, 0)


class Clock(Protocol):
    def now(self) -> datetime:
        """The present moment, aware."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(SHANGHAI)


@dataclass(slots=True)
class HandClock:
    """A clock that stands still until it is turned: for tests and for sandbox dates."""

    moment: datetime

    def now(self) -> datetime:
        return self.moment

    def turn(self, by: timedelta) -> None:
        self.moment += by


def business_date_at(moment: datetime, cutoff: time = MIDNIGHT) -> date:
    """The business date of an aware moment, in Asia/Shanghai, for a site whose day turns at `cutoff`."""
    local = moment.astimezone(SHANGHAI)
    return (local - timedelta(hours=cutoff.hour, minutes=cutoff.minute, seconds=cutoff.second)).date()


def end_of_business_day(business_date: date, cutoff: time = MIDNIGHT) -> datetime:
    """The last second of a business date (the original's 23:59:59), aware, in Asia/Shanghai."""
    next_day = datetime.combine(business_date + timedelta(days=1), cutoff, tzinfo=SHANGHAI)
    return next_day - timedelta(seconds=1)


def start_of_day(day: date) -> datetime:
    """Midnight in Asia/Shanghai, at which `day` begins."""
    return datetime.combine(day, MIDNIGHT, tzinfo=SHANGHAI)
