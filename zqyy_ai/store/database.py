"""The application database: a small connection pool and short transactions.

No connection is held while a model is called: callers open a transaction, do their statements and leave it.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Self, TypeVar

import psycopg
from psycopg import conninfo
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool

logger = logging.getLogger(__name__)

Connection = psycopg.Connection[DictRow]
T = TypeVar("T")

# After a restart every pooled connection is dead once: more tries than connections.
_PAUSES_SECONDS = (0.0, 0.0, 0.05, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)


def database_now(connection: Connection) -> datetime:
    """The database's clock, which decides leases, budgets and what came before what."""
    row = connection.execute("SELECT clock_timestamp() AS now").fetchone()
    assert row is not None
    now: datetime = row["now"]
    return now


class Database:
    """A pool of at most `max_connections` connections to one database; rows come as dicts. Thread-safe."""

    def __init__(self, url: str, *, max_connections: int = 12, application_name: str = "zqyy_ai") -> None:
        self.url = url
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            conninfo.make_conninfo(url, application_name=application_name),
            connection_class=Connection,
            kwargs={"row_factory": dict_row, "autocommit": True},
            min_size=1,
            max_size=max_connections,
            timeout=60,
            open=False,
            check=None,
            name=application_name,
        )
        self._pool.open()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction: committed at the end of the block, rolled back when it raises."""
        with self._pool.connection() as connection, connection.transaction():
            yield connection

    def write_surely(self, work: Callable[[Connection], T]) -> T:
        """`work` in a transaction, again for some 15 s while the connection is lost or the transaction is chosen as a deadlock's victim.

        For what is paid already and must be written down; `work` has to be safe to repeat. Raises psycopg.OperationalError in the end.
        """
        for pause_seconds in _PAUSES_SECONDS:
            try:
                with self.transaction() as connection:
                    return work(connection)
            except (psycopg.OperationalError, psycopg.InterfaceError) as lost:
                logger.warning("database.write_repeated cause=%s", type(lost).__name__)
                time.sleep(pause_seconds)
        with self.transaction() as connection:
            return work(connection)

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """A connection on which each statement is its own transaction."""
        with self._pool.connection() as connection:
            yield connection

    def listener(self) -> psycopg.Connection[Any]:
        """A connection of its own, outside the pool, for LISTEN; the caller closes it."""
        return psycopg.connect(self.url, autocommit=True, application_name="zqyy_ai listener")

    def close(self) -> None:
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
