"""The console's pages, put into the application, with what is told when something goes wrong on one of them."""

from urllib.parse import quote, urlsplit

from fastapi import FastAPI, Request, Response

from zqyy_ai.admin.console import names, sign_in, static_files
from zqyy_ai.admin.console.pages import PAGES
from zqyy_ai.admin.console.rendering import go_to, is_htmx, render
from zqyy_ai.admin.console.visits import SignInNeeded
from zqyy_ai.admin.problems import Problem
from zqyy_ai.admin.request_ids import request_id_of


def add_console(app: FastAPI) -> None:
    app.state.problem_page = _problem_page
    app.add_exception_handler(SignInNeeded, _to_the_login)
    app.include_router(static_files.router)
    app.include_router(sign_in.router)
    for page in PAGES:
        app.include_router(page.router, include_in_schema=False)


def _problem_page(request: Request, problem: Problem, title: str) -> Response | None:
    """For a browser; None for the API's callers, who are told in problem details."""
    if request.url.path.startswith("/api/") or not (is_htmx(request) or "text/html" in request.headers.get("accept", "")):
        return None
    template = "problem_flash.html" if is_htmx(request) else "problem.html"
    detail = names.with_field_titles(problem.detail)
    return render(request, None, template, http_status=problem.status, title=title, detail=detail, request_id=request_id_of(request))


async def _to_the_login(request: Request, _error: Exception) -> Response:
    """And back to the page that was asked for; not to an action, which is to be seen before it is done."""
    if request.headers.get("x-console-refresh"):
        # The page asks by itself: it says so, and leaves what is written on it.
        return Response(status_code=401)
    page = urlsplit(request.headers.get("hx-current-url", "/") if is_htmx(request) else str(request.url))
    address = page.path + (f"?{page.query}" if page.query else "")
    return go_to(request, "/login" if request.method != "GET" and not is_htmx(request) else f"/login?next={quote(address)}")
