from collections.abc import Iterator

import pytest

from zqyy_ai.store.database import Connection, Database


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as opened:
        yield opened


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    """A connection on which each statement is its own transaction."""
    with database.autocommit() as opened:
        yield opened
