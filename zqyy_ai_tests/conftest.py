"""Session-wide parts of the tests: one embedded PostgreSQL a session, and a fresh database for whoever asks.

Under pytest-xdist the controller owns the server and starts it when the first worker asks, so a session of pure tests starts none.
Tests of one room keep their fixtures in the room's own conftest.
"""

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from zqyy_ai.devkit.embedded_postgres import EmbeddedPostgres
from zqyy_ai.devkit.watchdog import Watchdog
from zqyy_ai.domain.errors import ZqyyError

MIGRATED_TEMPLATE = "zqyy_migrated"
# Serialises the workers while one of them makes the template; any constant does.
TEMPLATE_LOCK_KEY = 7_214_001


class PostgresOfTheSession:
    """The session's server, started at the first call of `url` and stopped with the session, also when pytest is killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts = contextlib.ExitStack()
        self._server: EmbeddedPostgres | None = None

    def url(self) -> str:
        with self._lock:
            if self._server is None:
                watchdog = Watchdog()
                self._parts.callback(watchdog.dismiss)
                folder = Path(tempfile.mkdtemp(prefix="zqyy-ai-tests-"))
                watchdog.guard_temporary_folder(folder)
                self._parts.callback(shutil.rmtree, folder, ignore_errors=True)
                folder.chmod(0o711)  # as root the server runs under another account, which has to pass through
                self._server = self._parts.enter_context(EmbeddedPostgres(folder, is_durable=False, max_connections=400, watchdog=watchdog))
            return self._server.url()

    def close(self) -> None:
        with self._lock:
            self._parts.close()


class UrlDesk:
    """The controller's side of a worker's question for the server's URL: a listener on 127.0.0.1 with a password."""

    def __init__(self, postgres: PostgresOfTheSession) -> None:
        self._postgres = postgres
        self._is_closed = False
        self.password = secrets.token_bytes(24)
        self._listener = Listener(("127.0.0.1", 0), backlog=128, authkey=self.password)
        self.address: tuple[str, int] = self._listener.address
        threading.Thread(target=self._answer, daemon=True, name="postgres-url-desk").start()

    def _answer(self) -> None:
        while True:
            try:
                with self._listener.accept() as worker:
                    try:
                        worker.send(self._postgres.url())
                    except (ZqyyError, OSError) as failure:
                        worker.send(failure)
            except (OSError, EOFError, AuthenticationError):
                # A worker that died while asking must not end the desk; a closed listener ends it.
                if self._is_closed:
                    return

    def close(self) -> None:
        self._is_closed = True
        self._listener.close()


SERVER = pytest.StashKey[PostgresOfTheSession]()
DESK = pytest.StashKey[UrlDesk]()


def pytest_configure(config: pytest.Config) -> None:
    # The developer's own settings must not reach the tests: a test that needs one sets it.
    for name in [name for name in os.environ if name.startswith(("ZQYY_", "DASHSCOPE_", "DAGSTER_"))]:
        del os.environ[name]
    if not hasattr(config, "workerinput"):
        config.stash[SERVER] = PostgresOfTheSession()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """In the controller, before a worker starts: tell it where to ask."""
    config: pytest.Config = node.config  # type: ignore[attr-defined]  # xdist's WorkerController has no public type
    if DESK not in config.stash:
        config.stash[DESK] = UrlDesk(config.stash[SERVER])
    desk = config.stash[DESK]
    node.workerinput["postgres_url_desk"] = (desk.address, desk.password.hex())  # type: ignore[attr-defined]


def pytest_unconfigure(config: pytest.Config) -> None:
    if (desk := config.stash.get(DESK, None)) is not None:
        desk.close()
    if (server := config.stash.get(SERVER, None)) is not None:
        server.close()


@pytest.fixture(scope="session")
def server_url(pytestconfig: pytest.Config) -> str:
    """URL of the maintenance database of the session's server. The account is its superuser."""
    if (server := pytestconfig.stash.get(SERVER, None)) is not None:
        return server.url()
    address, password = pytestconfig.workerinput["postgres_url_desk"]  # type: ignore[attr-defined]  # set by pytest-xdist
    with Client(tuple(address), authkey=bytes.fromhex(password)) as desk:
        answer = desk.recv()
    if isinstance(answer, Exception):
        raise answer
    return str(answer)


@contextlib.contextmanager
def fresh_database(server_url: str, template: str) -> Iterator[str]:
    name = f"t_{uuid.uuid4().hex[:16]}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        # FILE_COPY without fsync: 30-45 ms a database, against 50-60 ms with WAL_LOG, and dropping is three times quicker.
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(sql.Identifier(name), sql.Identifier(template))
        )
    try:
        yield f"{server_url.rpartition('/')[0]}/{name}"
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def template_database(server_url: str, name: str, fill: Callable[[str], object], source: str = "template0") -> str:
    """Makes a template database once a session, by whichever worker asks first: a copy of `source` that `fill` gets the URL of."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (TEMPLATE_LOCK_KEY,))
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
            unfinished = sql.Identifier(f"{name}_unfinished")
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(unfinished))
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(unfinished, sql.Identifier(source)))
            fill(f"{server_url.rpartition('/')[0]}/{name}_unfinished")
            # No connections: PostgreSQL refuses to copy a database that somebody is connected to.
            connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(unfinished))
            connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (f"{name}_unfinished",))
            connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(unfinished, sql.Identifier(name)))
    return name


@pytest.fixture(scope="session")
def migrated_template(server_url: str) -> str:
    """Name of the template database with all migrations."""
    from zqyy_ai.store.migrations import migrate

    def fill(url: str) -> None:
        migrate(url)
        with psycopg.connect(url) as connection:
            # Nobody is given up right after the server's start, and tests of leases are not for waiting.
            connection.execute("SELECT pg_sleep(greatest(0, 5.1 - extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())))")

    return template_database(server_url, MIGRATED_TEMPLATE, fill)


@pytest.fixture
def database_url(server_url: str, migrated_template: str) -> Iterator[str]:
    """A fresh, migrated database of this test alone."""
    with fresh_database(server_url, migrated_template) as url:
        yield url


@pytest.fixture(scope="module")
def module_database_url(server_url: str, migrated_template: str) -> Iterator[str]:
    """A fresh, migrated database that the tests of one module share: for data that is dear to fill and only read."""
    with fresh_database(server_url, migrated_template) as url:
        yield url


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """A fresh database without any migration."""
    with fresh_database(server_url, "template0") as url:
        yield url


@pytest.fixture
def make_database(server_url: str, migrated_template: str) -> Iterator[Callable[[], str]]:
    """For a test that needs several: each call gives the URL of another fresh, migrated database."""
    with contextlib.ExitStack() as databases:
        yield lambda: databases.enter_context(fresh_database(server_url, migrated_template))
