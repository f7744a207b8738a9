"""A worker: one process's identity in the database, its heartbeat, and its wish to stop.

Everything that a process holds (claims, slots, reservations, jobs) carries its worker id. A thread of its own renews the leases, so
that a long call, or a busy interpreter, does not lose them; when the process dies, so does the heartbeat, and the leases run out.
"""

import logging
import threading
from datetime import timedelta
from typing import Self
from uuid import UUID, uuid4

import psycopg
from psycopg_pool import PoolTimeout

from zqyy_ai.store import leases
from zqyy_ai.store.database import Database

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 0.25


class Worker:
    """Use as a context manager: the heartbeat beats inside the block. `stopping` is set when the process should begin no new call."""

    def __init__(self, database: Database, *, lease: timedelta) -> None:
        self.id: UUID = uuid4()
        self.lease = lease
        self.stopping = threading.Event()
        self._database = database
        self._ended = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name="zqyy-ai heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._heartbeat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._ended.set()
        self._heartbeat.join()

    def _beat(self) -> None:
        # A quarter of the lease; what fails is tried again at once.
        pause_seconds = self.lease.total_seconds() / 4
        while not self._ended.wait(pause_seconds):
            try:
                with self._database.autocommit() as connection:
                    leases.renew(connection, self.id, self.lease)
                pause_seconds = self.lease.total_seconds() / 4
            except (psycopg.Error, PoolTimeout) as failure:
                pause_seconds = min(_RETRY_SECONDS, pause_seconds)
                logger.warning("worker.heartbeat_failed worker=%s cause=%s", self.id, type(failure).__name__)
