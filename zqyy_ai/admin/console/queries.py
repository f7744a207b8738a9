"""What forms and addresses bring: texts, where an empty one means none. Raises Problem 422 that says what to write."""

import re
from collections.abc import Callable
from datetime import date
from enum import StrEnum
from typing import Protocol, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from zqyy_ai.admin.parameters import FIRST_DAY, LARGEST_ID, LAST_DAY, DayRange, Page, wrong_query
from zqyy_ai.admin.problems import Problem

Choice = TypeVar("Choice", bound=StrEnum)
Body = TypeVar("Body", bound=BaseModel)


class Counted(Protocol):
    """A page of a list, with how many there are in all."""

    total: int


Found = TypeVar("Found", bound=Counted)

_LARGEST_PAGE = 100_000
PAGE_SIZE = 20


def id_of(text: str, what: str) -> int | None:
    """Numbers may be written with separators, as pages show them."""
    text = text.strip().replace(",", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and 0 < int(text) <= LARGEST_ID):
        raise Problem(422, f"{what} {text[:40]!r} 无效：应为正整数")
    return int(text)


def needed_id(text: str, what: str) -> int:
    found = id_of(text, what)
    if found is None:
        raise Problem(422, f"请填写{what}")
    return found


def ids_of(text: str, what: str) -> list[int]:
    """Ids apart by commas, spaces or lines, each once."""
    return list(dict.fromkeys(needed_id(part, what) for part in re.split(r"[\s,，、;；]+", text) if part))


def choice_of(kind: type[Choice], text: str, what: str) -> Choice | None:
    if not text:
        return None
    try:
        return kind(text)
    except ValueError:
        raise Problem(422, f"{what} {text[:40]!r} 无效：应为 {'、'.join(kind)} 之一") from None


def days_of_form(date_from: str, date_to: str) -> DayRange:
    first, last = _day(date_from, "起始日"), _day(date_to, "截止日")
    if first and last and last < first:
        raise wrong_query("date_to", "截止日不能早于起始日")
    return DayRange(first, last)


def _day(text: str, what: str) -> date | None:
    if not text:
        return None
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or not FIRST_DAY <= found <= LAST_DAY:
        raise Problem(422, f"{what} {text[:40]!r} 无效：应为日期，如 2026-04-20")
    return found


def page_of(text: str) -> Page:
    return Page(min(id_of(text, "页码") or 1, _LARGEST_PAGE), PAGE_SIZE)


def request_of(kind: type[Body], **fields: object) -> Body:
    """The API's own request, with its own bounds. Raises what a wrong request to the API does."""
    try:
        return kind(**fields)
    except ValidationError as wrong:
        raise RequestValidationError(wrong.errors()) from None


def last_page_at_most(list_page: Callable[[Page], Found], page: Page) -> Found:
    """The page asked for; the last one where that has gone, because what was on it has been dealt with."""
    found = list_page(page)
    last = max(1, -(-found.total // page.page_size))
    return found if page.page <= last else list_page(Page(last, page.page_size))
