from collections.abc import Iterator
from datetime import date
from typing import Any

import psycopg
import pytest

from zqyy_ai.devkit import demo_data

LAST_DAY = date(2026, 4, 20)


@pytest.fixture(scope="module")
def demo_url(module_database_url: str) -> str:
    """A database with a small demo warehouse up to `LAST_DAY`, shared by the module's tests."""
    demo_data.fill(module_database_url, sites=3, days=100, members=30, seed=7, until=LAST_DAY)
    return module_database_url


@pytest.fixture
def connection(demo_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A transaction on the demo warehouse that is rolled back: what a test plants is gone after it."""
    with psycopg.connect(demo_url) as connection:
        yield connection
        connection.rollback()
