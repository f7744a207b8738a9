"""The chain's sites as the warehouse knows them (`ai_source.sites`). Which of them are prewarmed is `biz.sites`, a matter of the store."""

from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg
from psycopg.rows import class_row

from zqyy_ai.store.queries import named_queries
from zqyy_ai.warehouse.source_errors import source_errors


@dataclass(frozen=True, slots=True)
class SourceSite:
    """One site. `city` and `opened_on` are None where the warehouse does not know them."""

    site_id: int
    site_name: str
    city: str | None
    opened_on: date | None
    is_active: bool


def list_sites(connection: psycopg.Connection[Any]) -> list[SourceSite]:
    """All sites of the warehouse, by id, closed ones too. Raises SourceContractError when the view can't be read as the contract has it."""
    with source_errors(), connection.cursor(row_factory=class_row(SourceSite)) as cursor:
        return cursor.execute(named_queries("sites", "zqyy_ai.warehouse")["list_sites"]).fetchall()
