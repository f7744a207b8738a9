from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from zqyy_ai.store.database import Connection
from zqyy_ai_tests.admin.console.furniture import Furniture, furnish
from zqyy_ai_tests.system_programs import program


@pytest.fixture
def furniture(connection: Connection) -> Furniture:
    with connection.transaction():
        return furnish(connection)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A module's own: while it is there, its thread has an event loop that runs, which no other test may meet."""
    executable = program("chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()
