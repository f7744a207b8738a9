"""Finance data in: one query brings all that a site's prewarm needs, as a pandas frame of exact integers.

What the figures mean is docs/warehouse.md; which windows they make is `prompts/`. Nothing here writes. Connections are handed in and left
as they were; every query is one statement, so that a frame is one consistent snapshot.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import tuple_row

from zqyy_ai.domain.errors import SourceContractError
from zqyy_ai.domain.finance_columns import FINANCE_COLUMNS
from zqyy_ai.domain.windows import Area
from zqyy_ai.store.queries import named_queries
from zqyy_ai.warehouse.source_errors import source_errors

if TYPE_CHECKING:
    import pandas as pd

FINANCE_VIEW = "ai_source.finance_daily"


@dataclass(frozen=True, slots=True)
class FinishedLoad:
    """A load that succeeded. `site_id` None: all sites. `loaded_through`: the last business date that is now complete, if it said one."""

    etl_run_id: str
    site_id: int | None
    finished_at: datetime
    loaded_through: date | None


def load_finance(connection: psycopg.Connection[Any], site_id: int, first_day: date, last_day: date) -> "pd.DataFrame":
    """All areas' rows of a site from `first_day` to `last_day`, both included, ordered by date and area.

    Columns: `business_date` (datetime64), `area` (text) and one nullable integer for each `FinanceColumn.frame_name`, in fen, hundredths
    of an hour or pieces. Raises SourceContractError when the view can't be read as docs/warehouse.md has it, or holds a key twice.
    """
    import pandas as pd  # 0.5 s of CPU that only a prewarm needs

    parameters = {"site_id": site_id, "first_day": first_day, "last_day": last_day, "areas": [area.value for area in Area]}
    rows = _read(connection, "daily_of_site", parameters)
    frame = pd.DataFrame(rows, columns=["business_date", "area", *(column.frame_name for column in FINANCE_COLUMNS)], dtype=object)
    # Through object, never float: a NULL in a column must not make its other values inexact.
    frame = frame.astype({column.frame_name: "Int64" for column in FINANCE_COLUMNS} | {"business_date": "datetime64[s]", "area": "str"})
    doubled = frame.duplicated(["business_date", "area"])
    if doubled.any():
        first = frame[doubled].iloc[0]
        raise SourceContractError(
            f"{FINANCE_VIEW} holds site {site_id}, {first.business_date:%Y-%m-%d}, area {first.area} more than once: "
            "a rerun does not help; make (site_id, business_date, area) unique in the view (zqyy-ai doctor lists what is wrong)"
        )
    return frame


def loaded_through(connection: psycopg.Connection[Any], site_id: int) -> date | None:
    """The last business date whose data are completely loaded for the site; None when no load ever succeeded."""
    last_day: date | None = _read(connection, "loaded_through", {"site_id": site_id})[0][0]
    return last_day


def finished_loads(connection: psycopg.Connection[Any], since: datetime) -> list[FinishedLoad]:
    """Successful loads that finished at `since` (aware) or later, oldest first. Failed and running ones are not told."""
    return [FinishedLoad(*row) for row in _read(connection, "finished_loads", {"since": since})]


def _read(connection: psycopg.Connection[Any], query: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    # Binary: integers and dates arrive as they are, without a text to parse.
    with source_errors(), connection.cursor(row_factory=tuple_row, binary=True) as cursor:
        return cursor.execute(named_queries("finance", "zqyy_ai.warehouse")[query], parameters).fetchall()
