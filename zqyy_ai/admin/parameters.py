"""Query parameters that several routes have, bounded so that no number or date is too much for the database."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated

from fastapi import Depends, Query
from fastapi.exceptions import RequestValidationError
from pydantic import Field

LARGEST_ID = 2**63 - 1
MOST_DAYS = 400
FIRST_DAY, LAST_DAY = date(2000, 1, 1), date(2099, 12, 31)

Id = Annotated[int, Field(ge=1, le=LARGEST_ID, examples=[1001])]
SiteId = Annotated[int | None, Query(ge=1, le=LARGEST_ID, description="门店编号；不填为可见的全部门店", examples=[1001])]
MemberId = Annotated[int | None, Query(ge=1, le=LARGEST_ID, description="会员编号", examples=[7])]
DateFrom = Annotated[
    date | None, Query(ge=FIRST_DAY, le=LAST_DAY, description="起始日（含），北京时间，YYYY-MM-DD", examples=["2026-04-14"])
]
DateTo = Annotated[date | None, Query(ge=FIRST_DAY, le=LAST_DAY, description="截止日（含），北京时间，YYYY-MM-DD", examples=["2026-04-20"])]


@dataclass(frozen=True, slots=True)
class Page:
    page: int
    page_size: int

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.page_size


def _page(
    page: Annotated[int, Query(ge=1, le=100_000, description="页码，从 1 开始")] = 1,
    page_size: Annotated[int, Query(ge=1, le=200, description="每页条数")] = 20,
) -> Page:
    return Page(page, page_size)


ThePage = Annotated[Page, Depends(_page)]


def wrong_query(field: str, message: str) -> RequestValidationError:
    """What no single parameter's bounds can say; raise it, and it looks like all other wrong parameters."""
    return RequestValidationError([{"type": "value_error", "loc": ("query", field), "msg": message, "input": None}])


@dataclass(frozen=True, slots=True)
class DayRange:
    """Both included; None: open."""

    date_from: date | None
    date_to: date | None


def _day_range(date_from: DateFrom = None, date_to: DateTo = None) -> DayRange:
    if date_from is not None and date_to is not None and date_to < date_from:
        raise wrong_query("date_to", "不能早于 date_from")
    return DayRange(date_from, date_to)


TheDayRange = Annotated[DayRange, Depends(_day_range)]


def days_of(first: date, last: date) -> list[date]:
    """Raises a wrong query for more than `MOST_DAYS`."""
    if (last - first).days >= MOST_DAYS:
        raise wrong_query("date_to", f"最多 {MOST_DAYS} 天")
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]
