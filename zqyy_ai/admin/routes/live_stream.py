"""The live stream: server-sent events for the console, and the WebSocket of alerts that the existing front end has.

Each event comes once, also over a lost connection: an event's id is the position after it (`domain/live_events.py`), by which the browser goes on.
Whoever was away for too long is told to look at the lists again.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, WebSocket
from fastapi.concurrency import run_in_threadpool
from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from zqyy_ai.admin.access import SESSION_COOKIE, ViewerAccess, token_of
from zqyy_ai.admin.live import LiveHub, StreamEnd, Subscription, TheLiveHub
from zqyy_ai.admin.services import TheServices
from zqyy_ai.admin.stream_access import TheWatcher, access_of_watcher
from zqyy_ai.domain.access import SiteScope
from zqyy_ai.domain.live_events import LiveBatch, LiveEvent, LiveEventType, Position
from zqyy_ai.store import api_tokens, live_events, stream_tickets
from zqyy_ai.store.database import Database

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/admin/ai/stream", tags=["实时事件"])
websocket_router = APIRouter()

_TICKET_LIFETIME = timedelta(seconds=60)
_HEARTBEAT_SECONDS = 15
_SEND_SECONDS = 10.0
_RECONNECT_MS = 2_000
# Shorter than the shortest retention of live events.
_LONGEST_ABSENCE_SECONDS = 12 * 3600
_MOST_EVENTS_MISSED = 1_000
_CLOSE_CODES = {StreamEnd.REVOKED: 4401, StreamEnd.TOO_SLOW: 1013, StreamEnd.CLOSED: 1012}
_LOOK_AGAIN = 1012

_EXAMPLE = """retry: 2000
id: 1745140000@7712:7715:7712

event: job_updated
data: {"type": "job_updated", "site_id": 1001, "payload": {"trigger_job_id": 42, "status": "running"}, \
"created_at": "2026-04-20T10:00:00.123456+08:00", "id": 9001}
id: 1745140003@7715:7716:

"""
_RESPONSES: dict[int | str, dict[str, Any]] = {200: {"description": "事件流", "content": {"text/event-stream": {"example": _EXAMPLE}}}}


def _named_types(text: str | None) -> str | None:
    unknown = {name.strip() for name in (text or "").split(",")} - set(LiveEventType)
    if text is not None and unknown:
        raise PydanticCustomError("event_types", "应为 {allowed}，以逗号分隔", {"allowed": "、".join(LiveEventType)})
    return text


class StreamTicket(BaseModel):
    ticket: str = Field(description="放进 `?ticket=`；只能使用一次", examples=["Jw0b0n2kQ4m3Yl1pWc7TzR8sVxA9dEfGhIjKlMnOpQr"])
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a stream begins: `since` is what its client has seen; `missed` what came since, unless there is no telling."""

    since: Position
    missed: LiveBatch


@router.post("/ticket", summary="取得一次性凭证")
def issue_ticket(request: Request, services: TheServices, access: ViewerAccess) -> StreamTicket:
    """浏览器打开事件流或 WebSocket 时不能发送 Authorization 头：先取凭证，再以 `?ticket=` 打开，60 秒内有效，只能使用一次。"""
    cookie = request.cookies.get(SESSION_COOKIE)
    session_hash = api_tokens.session_hash(cookie) if token_of(request) is None and cookie else None
    with services.chain_database.transaction() as connection:
        ticket, expires_at = stream_tickets.issue(connection, access.caller, session_hash, lifetime=_TICKET_LIFETIME)
    return StreamTicket(ticket=ticket, expires_at=expires_at)


@router.get("", summary="实时事件流（SSE）", responses=_RESPONSES, response_class=EventSourceResponse)
async def stream(
    request: Request,
    services: TheServices,
    hub: TheLiveHub,
    watcher: TheWatcher,
    site_id: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="只看一个门店", examples=[1001])] = None,
    types: Annotated[
        str | None,
        Query(max_length=200, description="只看这些类型，以逗号分隔", examples=["alert_created,alert_updated"]),
        AfterValidator(_named_types),
    ] = None,
    last_event_id: Annotated[str | None, Header(description="上次收到的 id：从其后继续，不遗漏也不重复")] = None,
) -> EventSourceResponse:
    """类型：`alert_created`、`alert_updated`、`cache_updated`、`job_updated`、`prewarm_progress`。`data` 为
    `{type, site_id, payload, created_at, id}`，`payload` 只含编号和状态，详情请查询对应接口。

    断线后带上 Last-Event-ID 重连即可继续（浏览器的 EventSource 自动如此）。收到 `reset` 表示间隔太久、无法继续：请重新查询列表，之后的事件照常推送。
    """
    access = access_of_watcher(request, services, watcher)
    if site_id is not None:
        access.refuse_other_sites(site_id)
    scope = access.scope.narrowed_to(site_id)
    event_types = None if types is None else frozenset(name.strip() for name in types.split(","))
    await hub.wait_until_ready()
    subscription = Subscription(watcher, scope, event_types)
    hub.subscribe(subscription)
    try:
        start = await run_in_threadpool(_start, access.database, last_event_id, scope, event_types)
    except BaseException:
        hub.unsubscribe(subscription)
        raise
    subscription.begin(start.missed.position.snapshot)
    return _LiveStream(hub, subscription, start)


def _start(database: Database, last_event_id: str | None, scope: SiteScope, event_types: frozenset[str] | None) -> _Start:
    since = Position.parse(last_event_id) if last_event_id else None
    with database.transaction() as connection:
        missed = live_events.read_since(connection, since, scope, event_types, most=_MOST_EVENTS_MISSED)
    here = missed.position
    if since is None:
        # An id that is none: nobody knows what its client has seen.
        return _Start(here, LiveBatch(here, (), bool(last_event_id), missed.server_started_at))
    is_too_old = here.read_at - since.read_at > _LONGEST_ABSENCE_SECONDS
    # After a crash the numbers of its last transactions may be given again; a later snapshot is another server's.
    is_anothers = since.read_at <= missed.server_started_at or since.snapshot.age_order > here.snapshot.age_order
    if is_too_old or is_anothers or missed.is_cut:
        return _Start(here, LiveBatch(here, (), is_cut=True, server_started_at=missed.server_started_at))
    return _Start(since, missed)


class _LiveStream(EventSourceResponse):
    """A client that takes nothing for `_SEND_SECONDS` is let go."""

    def __init__(self, hub: LiveHub, subscription: Subscription, start: _Start) -> None:
        super().__init__(_frames(subscription, start), ping=_HEARTBEAT_SECONDS, send_timeout=_SEND_SECONDS)
        self._hub = hub
        self._subscription = subscription

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            self._subscription.finish(StreamEnd.TOO_SLOW)
        finally:
            self._hub.unsubscribe(self._subscription)
            _note(self._subscription)


async def _frames(subscription: Subscription, start: _Start) -> AsyncIterator[ServerSentEvent]:
    # Without data: the browser notes the id, and nobody hears of it.
    yield ServerSentEvent(id=str(start.since), retry=_RECONNECT_MS)
    position = start.since
    batch: LiveBatch | None = start.missed
    while batch is not None:
        for frame in _frames_of(batch, position):
            yield frame
        # A batch without events for this client says nothing new of where it is.
        position = batch.position if batch.events or batch.is_cut else position
        batch = await subscription.next()


def _frames_of(batch: LiveBatch, since: Position) -> Iterator[ServerSentEvent]:
    if batch.is_cut:
        yield ServerSentEvent(event="reset", data=json.dumps({"type": "reset"}), id=str(batch.position))
    for event in batch.events:
        yield ServerSentEvent(event=event.event_type, data=_message(event), id=_position_after(event, batch, since))


def _position_after(event: LiveEvent, batch: LiveBatch, since: Position) -> str | None:
    if event is batch.events[-1]:
        return str(batch.position)
    if since.further is not None and event.id <= since.event_id:
        return None  # it was committed late: the position stays where it is until the rest has come
    return str(Position(since.read_at, since.snapshot, batch.position.snapshot, event.id))


def _message(event: LiveEvent) -> str:
    return json.dumps(
        {
            "type": event.event_type,
            "site_id": event.site_id,
            "payload": event.payload,
            "created_at": event.created_at.isoformat(),
            "id": event.id,
        },
        ensure_ascii=False,
    )


def _note(subscription: Subscription) -> None:
    if subscription.end is not None:
        logger.info("live.stream_ended token=%s cause=%s", subscription.watcher.caller.token_id, subscription.end)


@websocket_router.websocket("/ws/ai-alerts/{site_id}")
async def alerts(
    socket: WebSocket,
    services: TheServices,
    hub: TheLiveHub,
    watcher: TheWatcher,
    site_id: Annotated[int, Path(ge=1, le=2**63 - 1)],
) -> None:
    """Alerts of a site: `{type, site_id, payload: {app_type, alert_type, message, log_id, …}}`. Whoever missed some asks the list of alerts."""
    access_of_watcher(socket, services, watcher).refuse_other_sites(site_id)
    await hub.wait_until_ready()
    scope = watcher.caller.scope.narrowed_to(site_id)
    subscription = Subscription(watcher, scope, frozenset({LiveEventType.ALERT_CREATED, LiveEventType.ALERT_UPDATED}))
    hub.subscribe(subscription)
    listening = None
    try:
        await socket.accept()
        listening = asyncio.create_task(_until_it_leaves(socket, subscription))
        await _send_alerts(socket, subscription)
    except TimeoutError:
        subscription.finish(StreamEnd.TOO_SLOW)
    except WebSocketDisconnect:
        pass
    finally:
        hub.unsubscribe(subscription)
        if listening is not None:
            listening.cancel()
        _note(subscription)


async def _until_it_leaves(socket: WebSocket, subscription: Subscription) -> None:
    """Whatever it says is not listened to."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
    subscription.finish(StreamEnd.LEFT)


async def _send_alerts(socket: WebSocket, subscription: Subscription) -> None:
    while (batch := await subscription.next()) is not None:
        if batch.is_cut:
            await socket.close(_LOOK_AGAIN, "reconnect")
            return
        for event in batch.events:
            async with asyncio.timeout(_SEND_SECONDS):
                await socket.send_text(_message(event))
    if subscription.end in _CLOSE_CODES:
        async with asyncio.timeout(_SEND_SECONDS):
            await socket.close(_CLOSE_CODES[subscription.end], subscription.end.value)
