"""Engines on a real database, with the real SDK, against the emulator over HTTP. Each engine stands for a process of its own."""

import contextlib
from collections.abc import Iterator

import pytest

from zqyy_ai.devkit.emulator import running_emulator
from zqyy_ai.engine import event_run, member_run
from zqyy_ai.engine.assembly import Engine
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.conftest import fresh_database, template_database
from zqyy_ai_tests.engine.member_bench import DEMO_TEMPLATE, MemberBench, fill
from zqyy_ai_tests.engine.workbench import EmulatorControl, EngineMaker, engine_on
from zqyy_ai_tests.restored_database import remember, restore


@pytest.fixture(scope="module")
def module_emulator() -> Iterator[EmulatorControl]:
    with running_emulator() as running, contextlib.closing(EmulatorControl(running)) as control:
        yield control


@pytest.fixture
def emulator(module_emulator: EmulatorControl) -> EmulatorControl:
    """The module's emulator, as it was at its start."""
    module_emulator.reset()
    return module_emulator


@pytest.fixture(scope="module")
def module_database(module_database_url: str) -> Iterator[Database]:
    """With the sites 1001 and 1002, whose day turns at midnight, 1003 whose day turns at six, and 1004, which is closed."""
    with Database(module_database_url, max_connections=16) as opened:
        with opened.transaction() as connection:
            connection.execute(
                "INSERT INTO biz.sites (site_id, site_name, is_active, business_day_cutoff) VALUES"
                " (1001, '朝阳店', true, '00:00'), (1002, '浦东店', true, '00:00'), (1003, '天河店', true, '06:00'),"
                " (1004, '武侯店', false, '00:00')"
            )
        remember(opened)
        yield opened


@pytest.fixture
def database(module_database: Database) -> Database:
    """The module's database, as it was at its start."""
    restore(module_database)
    return module_database


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.autocommit() as opened:
        yield opened


@pytest.fixture
def make_engine(database: Database, emulator: EmulatorControl) -> Iterator[EngineMaker]:
    """`make_engine(ZQYY_LEASE_SECONDS="1")` starts another process, so to speak; all end with the test."""
    with contextlib.ExitStack() as engines:
        yield lambda **environment: engines.enter_context(engine_on(database, emulator, **environment))


@pytest.fixture
def engine(make_engine: EngineMaker) -> Engine:
    return make_engine()


@pytest.fixture(scope="session")
def demo_template(server_url: str, migrated_template: str) -> str:
    """Name of the template database with demo members."""
    return template_database(server_url, DEMO_TEMPLATE, fill, migrated_template)


@pytest.fixture(scope="module")
def module_demo_database(server_url: str, demo_template: str) -> Iterator[Database]:
    with fresh_database(server_url, demo_template) as url, Database(url, max_connections=16, application_name="zqyy_ai tests") as opened:
        remember(opened)
        yield opened


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run notices within moments that it is over: many tests wait for nothing else."""
    for run in (event_run, member_run):
        monkeypatch.setattr(run, "_TAKE_SECONDS", 0.05)


@pytest.fixture
def bench(module_demo_database: Database, emulator: EmulatorControl, quick_looks: None) -> Iterator[MemberBench]:
    """The module's database with demo members, and its emulator, as they were at their start."""
    restore(module_demo_database)
    with (
        module_demo_database.autocommit() as connection,
        contextlib.closing(MemberBench(module_demo_database, emulator, connection)) as bench,
    ):
        yield bench


@pytest.fixture
def own_bench(server_url: str, demo_template: str, emulator: EmulatorControl, quick_looks: None) -> Iterator[MemberBench]:
    """The same with a database of the test's own, for who changes the schema."""
    with (
        fresh_database(server_url, demo_template) as url,
        Database(url, max_connections=16) as opened,
        opened.autocommit() as connection,
        contextlib.closing(MemberBench(opened, emulator, connection)) as bench,
    ):
        yield bench
