"""The application database: a small connection pool and short transactions.

No connection is held while a model is called: callers open a transaction, do their statements and leave it.
"""

import copy
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Self, TypeVar

import psycopg
from psycopg import conninfo, sql
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool

from zqyy_ai.domain.access import SiteScope

logger = logging.getLogger(__name__)

Connection = psycopg.Connection[DictRow]
T = TypeVar("T")

# After a restart every pooled connection is dead once: more quick tries than connections.
_FIRST_PAUSES_SECONDS = (0.0, 0.0, 0.05, 0.05, 0.1, 0.2, 0.5)
_PAUSE_SECONDS = 1.0
# For what is paid: longer than a restart, a failover or a disk that somebody has to clear.
_SURE_SECONDS = 300.0
# For what nothing was paid for yet: as long as a restart takes.
_PATIENT_SECONDS = 30.0
_RECONNECT_SECONDS = 30.0
_LONGEST_WAIT_SECONDS = 60.0
_LONGEST_IDLE_IN_TRANSACTION = "30s"
_RECONNECT_INTERVAL_SECONDS = 0.25

# For the length of a transaction: behind a pooler the next one may be on another connection. In one message, which is one round trip less.
_NARROW = sql.SQL("SELECT set_config('role', 'zqyy_api', true), set_config('zqyy.sites', {}, true)")

# The last is what a session that was ended by `_LONGEST_IDLE_IN_TRANSACTION` hears when it goes on.
_LOST = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.IdleInTransactionSessionTimeout)


class _Reconnecting(psycopg.Connection[DictRow]):
    """For the pool: its own pauses between attempts double, so that it would notice a server's return only half an outage later."""

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        deadline = time.monotonic() + kwargs.pop("reconnect_seconds")
        while True:
            try:
                return super().connect(conninfo, **kwargs)
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RECONNECT_INTERVAL_SECONDS)


def _bound_idle_transactions(connection: Connection) -> None:
    """A process that is stopped in the middle of a transaction would keep everybody waiting at the rows that it locked."""
    connection.execute("SELECT set_config('idle_in_transaction_session_timeout', %s, false)", [_LONGEST_IDLE_IN_TRANSACTION])


def _configure_unsynced(connection: Connection) -> None:
    _bound_idle_transactions(connection)
    connection.execute("SELECT set_config('synchronous_commit', 'off', false)")


def database_now(connection: Connection) -> datetime:
    """The database's clock, which decides leases, budgets and what came before what."""
    row = connection.execute("SELECT clock_timestamp() AS now").fetchone()
    assert row is not None
    now: datetime = row["now"]
    return now


def is_connection_lost(error: psycopg.Error) -> bool:
    """Or something else of the moment, as a deadlock; as against a database that refuses what it is given, or can't hold it."""
    is_too_large = isinstance(error, psycopg.errors.ProgramLimitExceeded | psycopg.errors.OutOfMemory)
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not is_too_large


@contextmanager
def what_is_only_shown(connection: Connection, what: str) -> Iterator[None]:
    """Behind a savepoint, for what people look at and nothing depends on: where the database refuses it (a narrower column, a foreign rule),
    the rest of the transaction stays. A lost connection and a deadlock are raised, for who repeats the transaction."""
    try:
        with connection.transaction():
            yield
    except psycopg.Error as refused:
        if is_connection_lost(refused):
            raise
        logger.exception("database.not_shown what=%s", what)


class Database:
    """A pool of at most `max_connections` connections to one database; rows come as dicts. Thread-safe."""

    def __init__(
        self,
        url: str,
        *,
        max_connections: int = 12,
        application_name: str = "zqyy_ai",
        wait_seconds: float = _LONGEST_WAIT_SECONDS,
        is_synced: bool = True,
        is_behind_pooler: bool = False,
    ) -> None:
        """`wait_seconds`: how long a connection is waited for before psycopg_pool.PoolTimeout; a person waits less than a run.

        Not `is_synced`: a crash of the server may forget the last commits; for what is written again in a moment.
        `is_behind_pooler`: nothing is left at the connection that a transaction on another one would miss (prepared statements).
        """
        self.url = url
        self._scope: SiteScope | None = None
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            conninfo.make_conninfo(url, application_name=application_name),
            connection_class=_Reconnecting,
            kwargs={
                "row_factory": dict_row,
                "autocommit": True,
                "reconnect_seconds": min(_RECONNECT_SECONDS, wait_seconds),
                "prepare_threshold": None if is_behind_pooler else 5,
            },
            min_size=1,
            max_size=max_connections,
            timeout=wait_seconds,
            open=False,
            check=None,
            name=application_name,
            configure=_bound_idle_transactions if is_synced else _configure_unsynced,
        )
        self._pool.open()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction: committed at the end of the block, rolled back when it raises."""
        with self._pool.connection() as connection, self._begun(connection):
            yield connection

    @contextmanager
    def _begun(self, connection: Connection) -> Iterator[None]:
        if self._scope is None:
            with connection.transaction():
                yield
            return
        try:
            connection.execute(sql.SQL("BEGIN; {}").format(_NARROW.format(self._scope.setting)))
            yield
        except BaseException:
            # Of a connection that is lost nothing is left; the pool notices.
            with suppress(psycopg.OperationalError):
                connection.rollback()
            raise
        connection.commit()

    def read_at_once(self, query: bytes, parameters: Mapping[str, Any]) -> list[DictRow]:
        """The rows of one statement in a transaction of its own, for what is asked many times a second: all of it is one message.

        Several statements in one message are one transaction without being told, so that the role and the sites are gone with it.
        """
        with self._pool.connection() as connection, psycopg.ClientCursor(connection, row_factory=dict_row) as cursor:
            if self._scope is None:
                return cursor.execute(query, parameters).fetchall()
            cursor.execute(_NARROW.format(self._scope.setting).as_bytes(connection) + b"; " + query, parameters)
            cursor.nextset()
            return cursor.fetchall()

    def within(self, scope: SiteScope) -> Self:
        """The same pool, for a caller who may see the sites of `scope` alone: its rows, by the role `zqyy_api`, whatever a query asks for."""
        narrowed = copy.copy(self)
        narrowed._scope = scope  # noqa: SLF001 - its own class's
        return narrowed

    def write_surely(self, work: Callable[[Connection], T], *, in_one_transaction: bool = True) -> T:
        """`work` in a transaction, again for 5 minutes while the connection is lost, the disk is full or a deadlock chose it as its victim.

        For what is paid already and must be written down. `work` has to be safe to repeat, also when it was committed and only the
        confirmation got lost. Not `in_one_transaction`, each of its statements is one: two round trips less where there is only one.
        Raises psycopg.OperationalError in the end.
        """
        return self._repeated(work, _SURE_SECONDS, *_LOST, in_one_transaction=in_one_transaction)

    def patiently(self, work: Callable[[Connection], T], *, in_one_transaction: bool = True) -> T:
        """The same for half a minute, for what comes before a call: a restart of the database costs a wait, not the job's attempt.

        A full disk is not waited for: psycopg.errors.DiskFull comes at once.
        """
        return self._repeated(work, _PATIENT_SECONDS, *_LOST, at_once=psycopg.errors.DiskFull, in_one_transaction=in_one_transaction)

    def _repeated(
        self,
        work: Callable[[Connection], T],
        seconds: float,
        *passing: type[Exception],
        at_once: tuple[type[Exception], ...] | type[Exception] = (),
        in_one_transaction: bool,
    ) -> T:
        deadline = time.monotonic() + seconds
        for pause_seconds in itertools.chain(_FIRST_PAUSES_SECONDS, itertools.repeat(_PAUSE_SECONDS)):
            try:
                with self.transaction() if in_one_transaction else self.autocommit() as connection:
                    return work(connection)
            except at_once:
                raise
            except passing as lost:
                if time.monotonic() + pause_seconds > deadline:
                    raise
                logger.warning("database.repeated cause=%s", type(lost).__name__)
                time.sleep(pause_seconds)
        raise AssertionError("the pauses never end")

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """A connection on which each statement is its own transaction; within a scope, which holds for a transaction, all are one."""
        if self._scope is not None:
            with self.transaction() as connection:
                yield connection
            return
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
