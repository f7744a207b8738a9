import contextlib
from collections.abc import Iterator

import pytest

from zqyy_ai.devkit.emulator import running_emulator
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.admin.callers import Api, open_api
from zqyy_ai_tests.conftest import fresh_database, template_database
from zqyy_ai_tests.engine.member_bench import DEMO_TEMPLATE, MemberBench, fill
from zqyy_ai_tests.engine.workbench import EmulatorControl
from zqyy_ai_tests.restored_database import remember, restore


@pytest.fixture(scope="module")
def module_database(module_database_url: str) -> Iterator[Database]:
    """The database as its owner sees it."""
    with Database(module_database_url) as opened:
        with opened.autocommit() as connection:
            connection.execute(
                "INSERT INTO biz.sites (site_id, site_name) VALUES (1001, '春熙路店'), (1002, '高新店'), (1003, '武侯店') ON CONFLICT DO NOTHING"
            )
        remember(opened)
        yield opened


@pytest.fixture
def database(module_database: Database) -> Database:
    restore(module_database)
    return module_database


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    """The owner's, on which each statement is its own transaction."""
    with database.autocommit() as opened:
        yield opened


@pytest.fixture
def api(database: Database) -> Iterator[Api]:
    """The application over the module's database."""
    with open_api(database.url) as opened:
        yield opened


@pytest.fixture(scope="module")
def module_emulator() -> Iterator[EmulatorControl]:
    with running_emulator() as running, contextlib.closing(EmulatorControl(running)) as control:
        yield control


@pytest.fixture(scope="module")
def module_demo_database(server_url: str, migrated_template: str) -> Iterator[Database]:
    template = template_database(server_url, DEMO_TEMPLATE, fill, migrated_template)
    with fresh_database(server_url, template) as url, Database(url, max_connections=16, application_name="zqyy_ai tests") as opened:
        remember(opened)
        yield opened


@pytest.fixture
def bench(module_demo_database: Database, module_emulator: EmulatorControl) -> Iterator[MemberBench]:
    restore(module_demo_database)
    module_emulator.reset()
    with (
        module_demo_database.autocommit() as connection,
        contextlib.closing(MemberBench(module_demo_database, module_emulator, connection)) as bench,
    ):
        bench.bring_finance_up_to_date()
        yield bench
