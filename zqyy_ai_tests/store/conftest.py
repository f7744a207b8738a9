from collections.abc import Iterator

import pytest

from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.restored_database import remember, restore


@pytest.fixture(scope="module")
def module_database(module_database_url: str) -> Iterator[Database]:
    with Database(module_database_url) as opened:
        remember(opened)
        yield opened


@pytest.fixture
def database(module_database: Database) -> Database:
    """The module's database with the rows that migrations leave, and nothing else."""
    restore(module_database)
    return module_database


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    """A connection on which each statement is its own transaction."""
    with database.autocommit() as opened:
        yield opened
