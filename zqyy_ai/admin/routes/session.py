"""The console's login: a token comes in, a cookie that no script can read goes out."""

from datetime import datetime, timedelta

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from zqyy_ai.admin.access import SESSION_COOKIE, AnyAccess, authenticate
from zqyy_ai.admin.services import TheServices
from zqyy_ai.domain.access import Role
from zqyy_ai.store import api_tokens

router = APIRouter(prefix="/session", tags=["登录"])

_LIFETIME = timedelta(hours=12)


class LoginRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: str = Field(max_length=200, description="`zqyy-ai token create` 打印的令牌")


class Login(BaseModel):
    """Who is logged in. `site_ids` is null for all sites."""

    name: str
    role: Role
    site_ids: list[int] | None
    csrf_token: str = Field(description="改动数据的请求放进 X-CSRF-Token 头")
    expires_at: datetime | None


@router.post("", summary="登录控制台")
def log_in(body: LoginRequest, request: Request, response: Response, services: TheServices) -> Login:
    caller = authenticate(request, services, body.token)
    with services.chain_database.transaction() as connection:
        cookie, session = api_tokens.open_session(connection, caller, lifetime=_LIFETIME)
    response.set_cookie(
        SESSION_COOKIE,
        cookie,
        max_age=int(_LIFETIME.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
    )
    return _login(session)


@router.get("", summary="当前登录")
def current_login(request: Request, services: TheServices, access: AnyAccess) -> Login:
    """With a bearer token there is no session: `csrf_token` is empty then, and not needed."""
    cookie = request.cookies.get(SESSION_COOKIE)
    with services.chain_database.transaction() as connection:
        session = api_tokens.find_session(connection, cookie) if cookie else None
    if session is not None and session.caller == access.caller:
        return _login(session)
    caller = access.caller
    return Login(name=caller.name, role=caller.role, site_ids=caller.scope.ids, csrf_token="", expires_at=None)


@router.delete("", status_code=204, summary="退出登录")
def log_out(request: Request, response: Response, services: TheServices, _access: AnyAccess) -> None:
    cookie = request.cookies.get(SESSION_COOKIE)
    if cookie:
        with services.chain_database.transaction() as connection:
            api_tokens.close_session(connection, cookie)
    response.delete_cookie(SESSION_COOKIE, path="/")


def _login(session: api_tokens.Session) -> Login:
    caller = session.caller
    return Login(
        name=caller.name, role=caller.role, site_ids=caller.scope.ids, csrf_token=session.csrf_token, expires_at=session.expires_at
    )
