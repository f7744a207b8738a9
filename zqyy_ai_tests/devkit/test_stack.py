import fcntl
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from zqyy_ai.devkit.processes import StopSignals
from zqyy_ai.devkit.stack import StackNotRunning, dagster_storage_url, read_running_stack, running_stack, without_joined
from zqyy_ai.domain.apps import APPS
from zqyy_ai.domain.errors import SettingError
from zqyy_ai.settings import load_settings

EXTERNAL = {
    "ZQYY_DATABASE_URL": "postgresql://somebody@db.example/app",
    "ZQYY_DAGSTER_DATABASE_URL": "postgresql://somebody@db.example/dagster",
}


class Silence:
    def say(self, text: str) -> None:
        pass


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="zqyy-ai-stack-"))
    yield folder
    shutil.rmtree(folder)


def refusal(environment: dict[str, str], home: Path) -> str:
    """What a stack with these settings says instead of starting anything."""
    settings = load_settings({"ZQYY_HOME": str(home), **environment})
    with (
        StopSignals() as signals,
        pytest.raises(SettingError) as refused,
        running_stack(settings, {}, Silence(), signals),
    ):
        pytest.fail("started")
    assert not (home / "postgres").exists()
    return str(refused.value)


def test_an_external_database_needs_dagsters_own_beside_it(home: Path) -> None:
    assert "ZQYY_DAGSTER_DATABASE_URL" in refusal({"ZQYY_DATABASE_URL": EXTERNAL["ZQYY_DATABASE_URL"]}, home)


def test_dagsters_database_alone_is_refused(home: Path) -> None:
    assert "ZQYY_DATABASE_URL" in refusal({"ZQYY_DAGSTER_DATABASE_URL": EXTERNAL["ZQYY_DAGSTER_DATABASE_URL"]}, home)


def test_an_external_database_is_never_filled_by_an_emulator(home: Path) -> None:
    assert "DASHSCOPE_API_KEY" in refusal(EXTERNAL, home)


def test_every_missing_application_id_is_named(home: Path) -> None:
    said = refusal({"DASHSCOPE_API_KEY": "k", "ZQYY_APP_ID_3_CLUE": "set"}, home)

    assert [app.app_id_setting for app in APPS.values() if app.app_id_setting in said] == [
        app.app_id_setting for app in APPS.values() if app.app_id_setting != "ZQYY_APP_ID_3_CLUE"
    ]


def test_every_taken_port_is_named_before_anything_is_started(home: Path) -> None:
    with socket.socket() as one, socket.socket() as other:
        for somebody in (one, other):
            somebody.bind(("127.0.0.1", 0))
            somebody.listen()
        ports = {"ZQYY_DAGSTER_PORT": str(one.getsockname()[1]), "ZQYY_EMULATOR_PORT": str(other.getsockname()[1])}

        said = refusal(ports, home)

    for setting, port in ports.items():
        assert setting in said
        assert port in said


def test_two_parts_cannot_share_a_port(home: Path) -> None:
    said = refusal({"ZQYY_DAGSTER_PORT": "4266", "ZQYY_CODE_SERVER_PORT": "4266"}, home)

    assert "ZQYY_CODE_SERVER_PORT、ZQYY_DAGSTER_PORT" in said


def test_two_stacks_over_one_folder_are_refused(home: Path) -> None:
    (home / "stack.json").write_text(json.dumps({"owner_pid": os.getpid()}))
    with (home / "stack.lock").open("wb") as first:
        fcntl.flock(first, fcntl.LOCK_EX)

        said = refusal({}, home)

    assert f"进程 {os.getpid()}" in said
    assert "ZQYY_HOME" in said


def test_a_stack_that_was_killed_does_not_look_as_if_it_ran(home: Path) -> None:
    (home / "stack.lock").touch()
    (home / "stack.json").write_text(json.dumps({"dagster_url": "x", "emulator_url": None, "environment": {}, "embedded_names": []}))

    with pytest.raises(StackNotRunning, match="make dev"):
        read_running_stack(home)


def test_a_shell_that_joined_a_stack_starts_its_next_one_as_if_it_had_not() -> None:
    shell = {"ZQYY_JOINED_STACK": "ZQYY_DATABASE_URL,DAGSTER_HOME", "ZQYY_DATABASE_URL": "x", "DAGSTER_HOME": "y", "ZQYY_PORT": "8001"}

    assert without_joined(shell) == {"ZQYY_PORT": "8001"}


def test_dagsters_storage_gets_the_driver_that_it_can_work_with() -> None:
    assert dagster_storage_url("postgres://u:p%40w@h:1/d?sslmode=require") == "postgresql+psycopg2://u:p%40w@h:1/d?sslmode=require"
