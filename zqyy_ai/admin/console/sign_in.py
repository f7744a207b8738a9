"""Logging in by a token, and out."""

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response

from zqyy_ai.admin.access import SESSION_COOKIE, authenticate
from zqyy_ai.admin.console.rendering import go_to, render
from zqyy_ai.admin.console.visits import TheVisit
from zqyy_ai.admin.problems import Problem
from zqyy_ai.admin.routes import session
from zqyy_ai.admin.services import TheServices
from zqyy_ai.domain.access import Caller, Role

router = APIRouter(include_in_schema=False)


def _safe(next_path: str) -> str:
    """Only a path of ours: nobody's link leads elsewhere after a login."""
    is_ours = next_path.startswith("/") and not next_path.startswith(("//", "/\\")) and next_path.isprintable()
    return next_path if is_ours and not next_path.startswith("/login") else "/"


@router.get("/login")
def show(request: Request, next_path: Annotated[str, Query(alias="next", max_length=500)] = "/") -> Response:
    return render(request, None, "sign_in.html", next_path=_safe(next_path), problem=None)


@router.post("/login")
def log_in(
    request: Request,
    services: TheServices,
    token: Annotated[str, Form(max_length=500)] = "",
    next_path: Annotated[str, Form(alias="next", max_length=500)] = "/",
) -> Response:
    """A wrong token is told on the form; after too many, when to come back."""
    response = go_to(request, _safe(next_path))
    try:
        if not token.strip():
            raise Problem(422, "请粘贴令牌")
        body = session.LoginRequest(token=token.strip()[:200])
        _refuse_services(authenticate(request, services, body.token))
        session.log_in(body, request, response, services)
    except Problem as problem:
        told = "令牌无效或已撤销，请检查是否完整粘贴" if problem.status == 401 else problem.detail
        page = render(request, None, "sign_in.html", http_status=problem.status, next_path=_safe(next_path), problem=told)
        page.headers.update(problem.headers)
        return page
    return response


def _refuse_services(caller: Caller) -> None:
    """Before there is a session. Raises Problem 403."""
    if caller.role in {Role.INTERNAL, Role.READER}:
        raise Problem(403, f"角色 {caller.role.value} 的令牌不能使用控制台：请用 viewer、operator 或 admin 的令牌登录")


@router.post("/logout")
def log_out(request: Request, services: TheServices, visit: TheVisit) -> Response:
    response = go_to(request, "/login")
    session.log_out(request, response, services, visit.access)
    response.delete_cookie(SESSION_COOKIE, path="/")
    return response
