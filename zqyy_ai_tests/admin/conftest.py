from collections.abc import Iterator

import pytest

from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.admin.callers import Api, open_api
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
