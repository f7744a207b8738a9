"""The thread that closes the run logs' hours each minute, so that the dashboard stays quick however many rows there are."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from zqyy_ai.engine.run_log_closing import close_hours
from zqyy_ai.store.database import Database

logger = logging.getLogger(__name__)

_EVERY_SECONDS = 60.0
# Of one look: a server that stops waits for it no longer than for one day's rows.
_MOST_SECONDS = 30.0
_STOPS_WITHIN_SECONDS = 5.0


@contextmanager
def closing_hours(database: Database) -> Iterator[None]:
    """While the block lasts, the first time after a minute. `database` must see all sites. Whatever fails is tried again a minute later."""
    stopping = threading.Event()

    def work() -> None:
        while not stopping.wait(_EVERY_SECONDS):
            try:
                close_hours(database, most_seconds=_MOST_SECONDS)
            except psycopg.Error as failure:
                logger.warning("hour_closer.failed cause=%s", type(failure).__name__)

    thread = threading.Thread(target=work, name="hour-closer", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(_STOPS_WITHIN_SECONDS)
