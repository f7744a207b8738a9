"""Live events, handed on to everybody who watches: one listening task for each server process.

The task reads what became visible since its last snapshot, whenever it is woken and every few seconds besides, so that neither a late commit nor
a lost notification nor a lost connection costs an event. Nobody is waited for: who does not take what waits for them is let go.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import psycopg
from fastapi import Depends
from starlette.requests import HTTPConnection

from zqyy_ai.admin.problems import Problem
from zqyy_ai.domain.access import Caller, SiteScope
from zqyy_ai.domain.live_events import LiveBatch, LiveEvent, Position, Snapshot
from zqyy_ai.settings import Settings
from zqyy_ai.store.live_listener import LiveListener

logger = logging.getLogger(__name__)

# Without a notification, in case that one got lost.
_FALLBACK_SECONDS = 2.0
# Bursts are read together.
_PAUSE_SECONDS = 0.02
_READ_SECONDS = 15.0
_RECONNECT_SECONDS = 0.25
_READY_SECONDS = 5.0
_CREDENTIALS_SECONDS = 20.0
_MOST_EVENTS_READ = 20_000
_MOST_EVENTS_WAITING = 2_000
_MOST_STREAMS = 1_000
# A crash may take back the numbers of transactions that nobody waited to be written (those of the last 0.6 s), and give them to others: so
# many are looked at again after a lost connection.
_TRANSACTIONS_OF_A_CRASH = 10_000


# Transaction, id, time of writing: after a crash a number may be given again, but never all three.
_EventKey = tuple[int, int, datetime]


def _key(event: LiveEvent) -> _EventKey:
    return event.transaction_id, event.id, event.created_at


class StreamEnd(StrEnum):
    """Why a stream ended."""

    LEFT = "left"
    TOO_SLOW = "too_slow"
    REVOKED = "revoked"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Watcher:
    """Whom a stream is for. `session_hash`: of the console's login by which they came, with which the stream ends."""

    caller: Caller
    session_hash: bytes | None


class Subscription:
    """What waits for one stream: events of the sites and types that it asked for, in batches, each with the position after it."""

    def __init__(self, watcher: Watcher, scope: SiteScope, event_types: Collection[str] | None) -> None:
        self.watcher = watcher
        self.end: StreamEnd | None = None
        self._scope = scope
        self._event_types = event_types
        self._waiting: deque[LiveBatch] = deque()
        self._events_waiting = 0
        self._caught_up: Snapshot | None = None
        self._something = asyncio.Event()

    def begin(self, caught_up: Snapshot) -> None:
        """What that snapshot sees was read by the stream itself, after it had subscribed."""
        self._caught_up = caught_up
        waiting, self._waiting, self._events_waiting = self._waiting, deque(), 0
        for batch in waiting:
            self.offer(batch)

    def offer(self, batch: LiveBatch) -> None:
        if self.end is not None:
            return
        events = tuple(event for event in batch.events if self._wants(event))
        if self._caught_up is not None and batch.position.snapshot.age_order >= self._caught_up.age_order:
            # From now on only what is newer comes; and after a crash of the database its numbers would mean something else.
            self._caught_up = None
        if not events and not batch.is_cut:
            return
        self._events_waiting += len(events)
        if self._events_waiting > _MOST_EVENTS_WAITING:
            self.finish(StreamEnd.TOO_SLOW)
            return
        self._waiting.append(replace(batch, events=events))
        self._something.set()

    def _wants(self, event: LiveEvent) -> bool:
        return (
            self._scope.sees(event.site_id)
            and (self._event_types is None or event.event_type in self._event_types)
            and not (self._caught_up is not None and self._caught_up.sees(event.transaction_id))
        )

    async def next(self) -> LiveBatch | None:
        """The next batch; None when the stream is to end."""
        while self.end is None and not self._waiting:
            self._something.clear()
            await self._something.wait()
        if self.end is not None:
            return None
        batch = self._waiting.popleft()
        self._events_waiting -= len(batch.events)
        return batch

    def finish(self, end: StreamEnd) -> None:
        self.end = self.end or end
        self._waiting.clear()
        self._something.set()


class LiveHub:
    """Everything but `__init__` belongs to one event loop."""

    def __init__(self, settings: Settings, database_url: str) -> None:
        """`database_url`: where there is no direct one for what listens."""
        direct = settings.api_listen_database_url
        self._url = direct.get_secret_value() if direct else database_url
        self._subscriptions: set[Subscription] = set()
        self._position: Position | None = None
        self._ready = asyncio.Event()
        # Events of the newest transactions, in the order of their reading: what is looked at again after a loss.
        self._recent: dict[_EventKey, None] = {}

    @property
    def streams(self) -> int:
        return len(self._subscriptions)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._run(), name="live events")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            for subscription in list(self._subscriptions):
                subscription.finish(StreamEnd.CLOSED)

    def subscribe(self, subscription: Subscription) -> None:
        """From now on everything is offered to it. Raises Problem 503 when there are too many streams."""
        if len(self._subscriptions) >= _MOST_STREAMS:
            raise Problem(503, "实时连接过多，请稍后再试", code="too_many_streams", headers={"Retry-After": "10"})
        self._subscriptions.add(subscription)

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    async def wait_until_ready(self) -> None:
        """Until the first reading: what is committed after it comes. Raises Problem 503 when the database is away."""
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await self._ready.wait()
        except TimeoutError:
            raise Problem(503, "数据库暂时不可用，请稍后重试", code="database_unavailable", headers={"Retry-After": "2"}) from None

    async def _run(self) -> None:
        is_away = False
        while True:
            try:
                async with LiveListener.connected(self._url) as listener:
                    await self._read(listener, is_after_loss=True)
                    is_away = False
                    self._ready.set()
                    await self._follow(listener)
            except (psycopg.Error, OSError, TimeoutError) as lost:
                if not is_away:
                    logger.warning("live.listener_lost cause=%s", type(lost).__name__)
                is_away = True
            except Exception:
                # Whatever it was: without this task nobody would hear anything until the next start.
                logger.exception("live.failed")
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _follow(self, listener: LiveListener) -> None:
        checked_at = time.monotonic()
        while True:
            await listener.wait(min(_FALLBACK_SECONDS, _CREDENTIALS_SECONDS))
            await asyncio.sleep(_PAUSE_SECONDS)
            await self._read(listener)
            if time.monotonic() - checked_at >= _CREDENTIALS_SECONDS:
                checked_at = time.monotonic()
                await self._end_revoked(listener)

    async def _read(self, listener: LiveListener, *, is_after_loss: bool = False) -> None:
        since = self._position
        if since is not None and is_after_loss:
            since = replace(since, snapshot=since.snapshot.older(_TRANSACTIONS_OF_A_CRASH))
        async with asyncio.timeout(_READ_SECONDS):
            batch = await listener.read_since(since, most=_MOST_EVENTS_READ)
        if batch.is_cut or (since is not None and batch.position.snapshot.xmax < since.snapshot.xmax):
            # Too much at once, or a server that was put back to its past: whoever watches looks at the lists again.
            batch = replace(batch, events=(), is_cut=True)
        batch = replace(batch, events=tuple(event for event in batch.events if _key(event) not in self._recent))
        self._remember(batch)
        self._position = batch.position
        for subscription in list(self._subscriptions):
            subscription.offer(batch)
            if subscription.end is not None:
                self.unsubscribe(subscription)

    def _remember(self, batch: LiveBatch) -> None:
        oldest = batch.position.snapshot.xmax - _TRANSACTIONS_OF_A_CRASH
        self._recent.update(dict.fromkeys(map(_key, batch.events)))
        for key in list(itertools.takewhile(lambda key: key[0] < oldest, self._recent)):
            del self._recent[key]

    async def _end_revoked(self, listener: LiveListener) -> None:
        watchers = [subscription.watcher for subscription in self._subscriptions]
        if not watchers:
            return
        hashes = {watcher.session_hash for watcher in watchers if watcher.session_hash is not None}
        async with asyncio.timeout(_READ_SECONDS):
            tokens, sessions = await listener.still_valid({watcher.caller.token_id for watcher in watchers}, hashes)
        for subscription in list(self._subscriptions):
            watcher = subscription.watcher
            if watcher.caller.token_id not in tokens or (watcher.session_hash is not None and watcher.session_hash not in sessions):
                subscription.finish(StreamEnd.REVOKED)


async def hub_of(connection: HTTPConnection) -> LiveHub:
    found = connection.app.state.live
    assert isinstance(found, LiveHub)
    return found


TheLiveHub = Annotated[LiveHub, Depends(hub_of)]
