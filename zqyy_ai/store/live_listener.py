"""The one connection of a server process that waits for live events, for an event loop. It works as `zqyy_api` and sees all sites: who it
reads for tells them apart.

It must not lead through a pooler in transaction mode, which forgets who listens.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import conninfo, sql
from psycopg.rows import dict_row

from zqyy_ai.domain.access import ALL_SITES
from zqyy_ai.domain.live_events import LiveBatch, Position
from zqyy_ai.store.live_events import CHANNEL, as_batch, since_parameters
from zqyy_ai.store.queries import named_queries

# A host that went away without a word is noticed within half a minute.
_CONNECTION: dict[str, str | int] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "zqyy_ai live",
}
_SESSION = """
SELECT set_config('role', 'zqyy_api', false), set_config('zqyy.sites', 'all', false), set_config('statement_timeout', '10s', false)
"""


class LiveListener:
    """Used by one task."""

    def __init__(self, connection: psycopg.AsyncConnection[dict[str, Any]]) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncIterator["LiveListener"]:
        """Listens from now on. Raises psycopg.OperationalError, as everything here does when the connection is lost."""
        connection = await psycopg.AsyncConnection.connect(
            conninfo.make_conninfo(url, **_CONNECTION), autocommit=True, row_factory=dict_row, prepare_threshold=None
        )
        async with connection:
            await connection.execute(_SESSION)
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
            yield cls(connection)

    async def wait(self, seconds: float) -> None:
        """Until something happens, at most so long."""
        async for _ in self._connection.notifies(timeout=seconds, stop_after=1):
            pass

    async def read_since(self, since: Position | None, *, most: int) -> LiveBatch:
        """As `live_events.read_since`, of all sites and types."""
        cursor = await self._connection.execute(named_queries("live_events")["since"], since_parameters(since, ALL_SITES, None, most))
        return as_batch(await cursor.fetchall(), most)

    async def still_valid(self, token_ids: Collection[int], session_hashes: Collection[bytes]) -> tuple[set[int], set[bytes]]:
        """Those of the tokens that are not revoked, and of the sessions that are not over."""
        cursor = await self._connection.execute(
            named_queries("api_tokens")["still_valid"], {"token_ids": list(token_ids), "session_hashes": list(session_hashes)}
        )
        row = await cursor.fetchone()
        assert row is not None
        return set(row["token_ids"]), set(row["session_hashes"])
