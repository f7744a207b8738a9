"""`public.member_retention_clue`: what is known of a member, for those who serve them. The back office owns it; of its rows we only ever
replace those of our own two sources, all of one (member, site, source) at once. `manual` ones are nobody's but people's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries


class ClueSource(StrEnum):
    CONSUMPTION = "ai_consumption"
    NOTE = "ai_note"


@dataclass(frozen=True, slots=True)
class StoredClue:
    """One row. `summary` begins with the clue's emoji; `recorded_by_name` names who the clue comes from."""

    category: str
    summary: str
    detail: str
    recorded_by_name: str


def replace_clues(connection: Connection, site_id: int, member_id: int, source: ClueSource, clues: Sequence[StoredClue]) -> bool:
    """Replaces the member's clues of this source; without clues nothing changes. False when they are there already.

    Call in the transaction that holds the claim of App8's target: it keeps two writers apart.
    """
    if not clues:
        return False
    of_member = {"site_id": site_id, "member_id": member_id, "source": source.value}
    queries = named_queries("clues")
    present = [StoredClue(**row) for row in connection.execute(queries["present"], of_member)]
    if present == list(clues):
        return False
    connection.execute(queries["delete"], of_member)
    connection.cursor().executemany(
        queries["insert"],
        [
            of_member
            | {
                "category": clue.category,
                "summary": clue.summary,
                "detail": clue.detail,
                "recorded_by_name": clue.recorded_by_name,
            }
            for clue in clues
        ],
    )
    return True


@dataclass(frozen=True, slots=True)
class ShownClue:
    """A clue of any source, as whoever wrote it left it. `created_at` is None where the table doesn't say."""

    category: str | None
    summary: str
    detail: str
    recorded_by_name: str
    source: str
    created_at: datetime | None


def clues_of_member(connection: Connection, site_id: int, member_id: int, *, rows: int) -> list[ShownClue]:
    """By source, in the order of their writing; at most `rows`."""
    wanted = {"site_id": site_id, "member_id": member_id, "rows": rows}
    return [
        ShownClue(**{**row, "created_at": _moment(row["created_at"])})
        for row in connection.execute(named_queries("clues")["of_member"], wanted)
    ]


def _moment(text: Any) -> datetime | None:
    """None for what is no moment with its offset."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else None
