"""Who is calling, and whether they may: a bearer token, or a console's cookie with its CSRF token.

Each route names the roles that may use it by one of the annotations at the end. What a caller may not see answers 404, as if it were not there.
"""

import hmac
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPBearer
from starlette.requests import HTTPConnection

from zqyy_ai.admin.problems import Problem, not_found
from zqyy_ai.admin.request_ids import request_id_of
from zqyy_ai.admin.services import Services, TheServices
from zqyy_ai.domain.access import Caller, Role, SiteScope
from zqyy_ai.store import api_tokens
from zqyy_ai.store.database import Database

SESSION_COOKIE = "zqyy_session"
CSRF_HEADER = "X-CSRF-Token"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

# For the OpenAPI document; the reading is done below, so that both ways give one answer.
_bearer = HTTPBearer(auto_error=False, description="`zqyy-ai token create` 生成的令牌")
_cookie = APIKeyCookie(name=SESSION_COOKIE, auto_error=False, description=f"控制台的登录；改动数据的请求还要带 {CSRF_HEADER}")


@dataclass(frozen=True, slots=True)
class Access:
    """A caller, the database as that caller may see it, and what goes to the audit with a deed."""

    caller: Caller
    services: Services
    request_id: str

    @property
    def scope(self) -> SiteScope:
        return self.caller.scope

    @property
    def database(self) -> Database:
        return self.services.database.within(self.caller.scope)

    def refuse_other_sites(self, site_id: int) -> None:
        """Raises the same Problem for a site that is somebody else's and for one that does not exist."""
        if not self.scope.sees(site_id):
            raise not_found(f"门店 {site_id}")

    def require_all_sites(self) -> None:
        """For what holds for the whole chain. Raises Problem 403."""
        if not self.scope.is_all:
            raise Problem(403, "该操作影响全部门店，需要可访问全部门店的令牌", code="all_sites_needed")


def token_of(connection: HTTPConnection) -> str | None:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def source_of(connection: HTTPConnection) -> str:
    return connection.client.host if connection.client else "unknown"


def authenticate(connection: HTTPConnection, services: Services, token: str | None) -> Caller:
    """By the token, else by the cookie. Raises Problem 401, or 429 for a source with too many failures."""
    cookie = connection.cookies.get(SESSION_COOKIE)
    session = None
    if token is not None:
        caller = api_tokens.find_caller(services.chain_database, token)
    else:
        with services.chain_database.transaction() as database:
            session = api_tokens.find_session(database, cookie) if cookie else None
        caller = session.caller if session else None
    if session is not None and connection.scope["type"] == "http":
        check_csrf(connection, session)
    if caller is None:
        raise not_let_in(connection, services, has_told_something=bool(token or cookie))
    return caller


def not_let_in(connection: HTTPConnection, services: Services, *, has_told_something: bool) -> Problem:
    """What somebody is told whom nothing stands for: 401, or 429 after too many failures."""
    wait_seconds = services.failed_attempts.note(source_of(connection))
    if wait_seconds > 0:
        return Problem(429, "失败的登录过多，请稍后再试", headers={"Retry-After": str(math.ceil(wait_seconds))})
    return Problem(
        401,
        "缺少令牌，或令牌无效、已撤销" if has_told_something else "请在 Authorization 头中提供令牌",
        headers={"WWW-Authenticate": "Bearer"},
    )


def check_csrf(connection: HTTPConnection, session: api_tokens.Session) -> None:
    if connection.scope["method"] in _SAFE_METHODS:
        return
    told = connection.headers.get(CSRF_HEADER, "")
    if not hmac.compare_digest(told.encode(), session.csrf_token.encode()):
        raise Problem(403, f"缺少或不符的 {CSRF_HEADER}，请刷新页面后重试", code="csrf")


def access_of(
    request: Request, services: TheServices, _bearer: Annotated[object, Depends(_bearer)], _cookie: Annotated[object, Depends(_cookie)]
) -> Access:
    caller = authenticate(request, services, token_of(request))
    return Access(caller, services, request_id_of(request))


def _for_roles(*roles: Role) -> Callable[[Access], Awaitable[Access]]:
    allowed = frozenset(roles) | {Role.ADMIN}

    async def check(access: Annotated[Access, Depends(access_of)]) -> Access:
        if access.caller.role not in allowed:
            raise Problem(403, f"角色 {access.caller.role.value} 不能使用该功能")
        return access

    return check


ViewerAccess = Annotated[Access, Depends(_for_roles(Role.VIEWER, Role.OPERATOR))]
OperatorAccess = Annotated[Access, Depends(_for_roles(Role.OPERATOR))]
AdminAccess = Annotated[Access, Depends(_for_roles())]
InternalAccess = Annotated[Access, Depends(_for_roles(Role.INTERNAL))]
ReaderAccess = Annotated[Access, Depends(_for_roles(Role.READER, Role.VIEWER, Role.OPERATOR))]
AnyAccess = Annotated[Access, Depends(access_of)]
