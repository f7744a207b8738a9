import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from zqyy_ai.devkit.embedded_postgres import EmbeddedPostgres
from zqyy_ai.devkit.watchdog import pid_is_alive
from zqyy_ai.domain.errors import SettingError
from zqyy_ai_tests.devkit.waiting import eventually

# Starts a server over the folder argv[1] and tells its process id, then its watchdog's; lives until it is killed.
OWNER = """
import sys, threading
from pathlib import Path
from zqyy_ai.devkit.embedded_postgres import EmbeddedPostgres
from zqyy_ai.devkit.watchdog import Watchdog
watchdog = Watchdog()
with EmbeddedPostgres(Path(sys.argv[1]), is_durable=False, watchdog=watchdog) as server:
    print(server.pid, watchdog.pid, flush=True)
    threading.Event().wait()
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """One initialised folder for the module's servers, one after the other. Not under pytest's own, which other accounts can't enter."""
    folder = Path(tempfile.mkdtemp(prefix="zqyy-ai-postgres-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def start_owner(home: Path) -> tuple["subprocess.Popen[str]", int, int]:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(home)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    server_pid, watchdog_pid = map(int, owner.stdout.readline().split())
    return owner, server_pid, watchdog_pid


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def test_data_survives_a_restart_and_text_is_chinese_wherever_it_runs(home: Path) -> None:
    with EmbeddedPostgres(home, is_durable=False) as server, psycopg.connect(server.ensure_database("kept")) as connection:
        connection.execute("CREATE TABLE 门店 (名称 text)")
        connection.execute("INSERT INTO 门店 VALUES ('朝阳店𠮷')")

    with EmbeddedPostgres(home, is_durable=False) as server, psycopg.connect(server.ensure_database("kept")) as connection:
        row = connection.execute("SELECT 名称, length(名称), upper('é'), current_setting('server_encoding') FROM 门店").fetchone()

    assert row == ("朝阳店𠮷", 4, "É", "UTF8")


def test_it_listens_on_the_loopback_address_only_and_asks_for_a_password(home: Path) -> None:
    with EmbeddedPostgres(home, is_durable=False) as server:
        with psycopg.connect(server.url()) as connection:
            listen = connection.execute("SELECT current_setting('listen_addresses'), current_setting('unix_socket_directories')").fetchone()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.url(), password="guessed")

    assert listen == ("127.0.0.1", "")


def test_it_stops_when_its_owner_is_killed(home: Path) -> None:
    owner, server_pid, watchdog_pid = start_owner(home)

    kill(owner)

    eventually(lambda: not pid_is_alive(server_pid) and not pid_is_alive(watchdog_pid))


def test_an_orphan_is_stopped_by_the_next_start(home: Path) -> None:
    owner, orphan_pid, watchdog_pid = start_owner(home)
    os.kill(watchdog_pid, signal.SIGKILL)
    kill(owner)
    assert pid_is_alive(orphan_pid)

    with EmbeddedPostgres(home, is_durable=False) as server:
        assert not pid_is_alive(orphan_pid)
        with psycopg.connect(server.url()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_pid_file_of_a_killed_server_does_not_bar_the_next_start(home: Path) -> None:
    with EmbeddedPostgres(home, is_durable=False) as server:
        os.kill(server.pid, signal.SIGKILL)
        eventually(lambda: server.has_exited)

    with EmbeddedPostgres(home, is_durable=False) as server:
        assert not server.has_exited


def test_a_taken_port_is_named_with_its_setting(home: Path) -> None:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        port = somebody.getsockname()[1]

        with pytest.raises(SettingError, match=rf"ZQYY_POSTGRES_PORT.*{port}"), EmbeddedPostgres(home, port=port):
            pytest.fail("started on a taken port")


def test_a_folder_has_one_owner_at_a_time(home: Path) -> None:
    with (
        EmbeddedPostgres(home, is_durable=False) as first,
        pytest.raises(SettingError, match="ZQYY_HOME"),
        EmbeddedPostgres(home, is_durable=False),
    ):
        pytest.fail("started twice")

    assert first.has_exited


def test_an_initialisation_that_was_killed_half_way_is_done_again(home: Path) -> None:
    folder = home / "half"
    (folder / "data.unfinished" / "base").mkdir(parents=True)
    (folder / "data.unfinished" / "PG_VERSION").write_text("18\n")

    with EmbeddedPostgres(folder, is_durable=False) as server, psycopg.connect(server.url()) as connection:
        assert connection.execute("SELECT count(*) FROM pg_class").fetchone() != (0,)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
def test_an_unknown_account_is_named_with_its_setting(home: Path) -> None:
    with (
        pytest.raises(SettingError, match=r"ZQYY_POSTGRES_OS_USER.*nobody-of-that-name"),
        EmbeddedPostgres(home, os_user="nobody-of-that-name"),
    ):
        pytest.fail("started as nobody")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
def test_as_root_it_works_from_a_folder_that_its_account_can_not_enter(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    data = None
    try:
        with EmbeddedPostgres(tmp_path / "closed", is_durable=False) as server, psycopg.connect(server.url()) as connection:
            row = connection.execute("SELECT current_setting('data_directory')").fetchone()
            assert row is not None
            data = Path(row[0])
            assert data.stat().st_uid != 0
    finally:
        if data is not None and not data.is_relative_to(tmp_path):
            shutil.rmtree(data.parent)


@pytest.mark.parametrize("immediately", [False, True])
def test_a_server_that_was_halted_comes_back_on_its_port_with_its_data(home: Path, immediately: bool) -> None:
    with EmbeddedPostgres(home) as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS written_before (x integer)")
            port = server.port
            server.halt(immediately=immediately)
            assert not server.has_exited
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        server.resume()
        assert server.port == port
        with psycopg.connect(server.url()) as connection:
            connection.execute("SELECT FROM written_before")
