"""Closing the hours of the run logs, so that sums need not read their rows: by the admin server each minute, and before retention."""

import logging
import time

import psycopg

from zqyy_ai.store import run_log_sums
from zqyy_ai.store.database import Database

logger = logging.getLogger(__name__)

MOST_SECONDS = 600.0


def close_hours(database: Database, *, most_seconds: float = MOST_SECONDS) -> int:
    """Closes whatever may be closed, a transaction for each day at most; returns in how many.

    `database` must see all sites. Nothing happens while another process is at it. What the time does not suffice for is left for the next
    look. Raises psycopg.Error.
    """
    deadline = time.monotonic() + most_seconds
    spans = 0
    while time.monotonic() < deadline:
        with database.transaction() as connection:
            if not run_log_sums.close_next(connection):
                break
        spans += 1
    return spans


def close_hours_before_retention(database: Database) -> None:
    """What goes is in the sums before. That it could not be is no reason to keep what is old."""
    try:
        close_hours(database)
    except psycopg.Error as failure:
        logger.warning("run_logs.hours_not_closed cause=%s", type(failure).__name__)
