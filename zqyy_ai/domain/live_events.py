"""What those who watch are told, and how far somebody has read. Pure nouns: rows are in `store/live_events.py`.

A position is a snapshot of PostgreSQL: which transactions were visible. What became visible since is then exact, whatever was committed
late, and on whichever server it is read.
"""

import itertools
import re
from bisect import bisect_left
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

_SNAPSHOT = re.compile(r"(\d{1,19}):(\d{1,19}):((?:\d{1,19},)*\d{1,19})?", re.ASCII)
_POSITION = re.compile(r"(\d{1,11})@([\d:,]+)(?:~([\d:,]+)~(\d{1,19}))?", re.ASCII)
_LONGEST_POSITION = 16_000
_LARGEST = 2**63 - 1


class LiveEventType(StrEnum):
    ALERT_CREATED = "alert_created"
    ALERT_UPDATED = "alert_updated"
    CACHE_UPDATED = "cache_updated"
    JOB_UPDATED = "job_updated"
    PREWARM_PROGRESS = "prewarm_progress"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Transactions below `xmax` are visible, except those of `running`, which is in order; those below `xmin` all are."""

    xmin: int
    xmax: int
    running: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """PostgreSQL's form `xmin:xmax:xip,…`; None for anything that it would refuse."""
        found = _SNAPSHOT.fullmatch(text)
        if found is None:
            return None
        xmin, xmax = int(found[1]), int(found[2])
        running = tuple(map(int, found[3].split(","))) if found[3] else ()
        in_order = all(one < other for one, other in itertools.pairwise(running))
        if not 0 < xmin <= xmax <= _LARGEST or not in_order or (running and not xmin <= running[0] <= running[-1] < xmax):
            return None
        return cls(xmin, xmax, running)

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.running))}"

    def sees(self, transaction_id: int) -> bool:
        if transaction_id >= self.xmax:
            return False
        place = bisect_left(self.running, transaction_id)
        return place == len(self.running) or self.running[place] != transaction_id

    def older(self, transactions: int) -> "Snapshot":
        """As if the newest so many transactions had not been seen."""
        xmax = max(self.xmax - transactions, 1)
        return Snapshot(min(self.xmin, xmax), xmax, tuple(running for running in self.running if running < xmax))

    @property
    def age_order(self) -> tuple[int, int]:
        """Of two snapshots of one server the later one's is not smaller: transactions only begin and end."""
        return self.xmax, -len(self.running)


@dataclass(frozen=True, slots=True)
class Position:
    """How far somebody has read: everything in `snapshot`; and of what became visible up to `further` the events up to `event_id`.

    `read_at`: the database's time, in seconds since 1970.
    """

    read_at: int
    snapshot: Snapshot
    further: Snapshot | None = None
    event_id: int = 0

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for what is none."""
        found = _POSITION.fullmatch(text) if len(text) <= _LONGEST_POSITION else None
        if found is None:
            return None
        snapshot = Snapshot.parse(found[2])
        further = Snapshot.parse(found[3]) if found[3] else None
        event_id = int(found[4] or 0)
        if snapshot is None or (found[3] and further is None) or event_id > _LARGEST:
            return None
        return cls(int(found[1]), snapshot, further, event_id)

    def __str__(self) -> str:
        partly = "" if self.further is None else f"~{self.further}~{self.event_id}"
        return f"{self.read_at}@{self.snapshot}{partly}"


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """`transaction_id`: of the transaction that wrote it, by which a snapshot tells whether it has been seen."""

    id: int
    event_type: str
    site_id: int | None
    payload: dict[str, Any]
    created_at: datetime
    transaction_id: int


@dataclass(frozen=True, slots=True)
class LiveBatch:
    """What became visible up to `position`, in the order of the ids. `is_cut`: there was more than could be read.

    `server_started_at`: in seconds since 1970, like `Position.read_at`.
    """

    position: Position
    events: tuple[LiveEvent, ...]
    is_cut: bool
    server_started_at: int
