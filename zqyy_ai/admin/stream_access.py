"""Who opens a stream: as everywhere by token or cookie, and besides by a one-time ticket, because a browser can't send a header there."""

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Query
from starlette.requests import HTTPConnection

from zqyy_ai.admin.access import SESSION_COOKIE, Access, not_let_in, token_of
from zqyy_ai.admin.live import Watcher
from zqyy_ai.admin.problems import Problem
from zqyy_ai.admin.request_ids import request_id_of
from zqyy_ai.admin.services import Services, TheServices
from zqyy_ai.domain.access import Caller, Role
from zqyy_ai.store import api_tokens, stream_tickets

_ALLOWED = frozenset({Role.VIEWER, Role.OPERATOR, Role.ADMIN})

Ticket = Annotated[
    str | None, Query(max_length=100, description="`POST /api/admin/ai/stream/ticket` 返回的一次性凭证；不能发送请求头的客户端使用")
]


def watcher_of(connection: HTTPConnection, services: TheServices, ticket: Ticket = None) -> Watcher:
    """Raises Problem 401 or 429, or 403 for a role that does not watch."""
    token, cookie = token_of(connection), connection.cookies.get(SESSION_COOKIE)
    watcher = _by_credentials(connection, services, token, ticket, cookie)
    if watcher is None:
        raise not_let_in(connection, services, has_told_something=bool(token or ticket or cookie))
    if watcher.caller.role not in _ALLOWED:
        raise Problem(403, f"角色 {watcher.caller.role.value} 不能使用该功能")
    return watcher


def _by_credentials(
    connection: HTTPConnection, services: Services, token: str | None, ticket: str | None, cookie: str | None
) -> Watcher | None:
    if token is not None:
        return _watcher(api_tokens.find_caller(services.chain_database, token), None)
    with services.chain_database.transaction() as database:
        if ticket is not None:
            redeemed = stream_tickets.redeem(database, ticket)
            return Watcher(*redeemed) if redeemed else None
        if cookie and (connection.scope["type"] == "http" or _is_of_this_site(connection)):
            session = api_tokens.find_session(database, cookie)
            return _watcher(session.caller if session else None, api_tokens.session_hash(cookie))
    return None


def _watcher(caller: Caller | None, session_hash: bytes | None) -> Watcher | None:
    return Watcher(caller, session_hash) if caller else None


def _is_of_this_site(connection: HTTPConnection) -> bool:
    """Browsers let every page open a WebSocket anywhere, with cookies; they say from where."""
    origin = urlsplit(connection.headers.get("origin", ""))
    return origin.scheme in {"http", "https"} and origin.netloc == connection.headers.get("host")


def access_of_watcher(connection: HTTPConnection, services: Services, watcher: Watcher) -> Access:
    return Access(watcher.caller, services, request_id_of(connection))


TheWatcher = Annotated[Watcher, Depends(watcher_of)]
