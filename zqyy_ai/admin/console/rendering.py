"""Pages out of templates, with the headers that keep them safe: no script but ours, nothing from elsewhere, no copy in a cache."""

import gzip
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from fastapi import Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from zqyy_ai.admin.console import formats, names, navigation, numbers
from zqyy_ai.admin.console.static_files import static_url
from zqyy_ai.admin.console.visits import Visit

_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Cookie, HX-Request, Accept-Encoding",
}
_WORTH_COMPRESSING_BYTES = 1_000


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("zqyy_ai.admin.console"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for function in (
        formats.moment,
        formats.short_moment,
        formats.ago,
        formats.day,
        formats.number,
        formats.compact,
        formats.yuan,
        formats.percent,
        formats.seconds,
        formats.duration,
        formats.between,
        formats.pretty_json,
        formats.marked,
        names.app_title,
        names.window_title,
        names.chain_titles,
        names.advice_of,
        numbers.numbers_of_answer,
    ):
        environment.filters[function.__name__] = function
    environment.globals.update(names=names, entries=navigation.ENTRIES, static_url=static_url, address=address)
    return environment


def address(path: str, **query: Any) -> str:
    """A link with those of its parameters that say something."""
    told = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(told)}" if told else path


_ENVIRONMENT = _environment()


def render(request: Request, visit: Visit | None, template: str, *, http_status: int = 200, **context: Any) -> Response:
    """A page for its visitor; `visit` is None where nobody is logged in."""
    text = _ENVIRONMENT.get_template(template).render(request=request, visit=visit, path=request.url.path, **context)
    return _html(request, text, http_status)


def _html(request: Request, text: str, status: int) -> Response:
    body, headers = text.encode("utf-8", "replace"), dict(_SECURITY)
    if len(body) > _WORTH_COMPRESSING_BYTES and "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, compresslevel=5, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, status_code=status, media_type="text/html; charset=utf-8", headers=headers)


def done(message: str, *, link: str | None = None, link_text: str | None = None) -> Response:
    """What an action says when it is done: the page tells `message` and shows its parts anew. `link` leads to what came of it."""
    told: Mapping[str, Any] = {"message": message, "link": link, "linkText": link_text}
    return Response(status_code=204, headers={**_SECURITY, "HX-Trigger": json.dumps({"console:done": told})})


def go_to(request: Request, location: str) -> Response:
    """Another page, whoever asks: a browser, or htmx for a part of one."""
    if is_htmx(request):
        return Response(status_code=204, headers={**_SECURITY, "HX-Redirect": location})
    return Response(status_code=303, headers={**_SECURITY, "Location": location})


def is_htmx(request: Request) -> bool:
    return request.headers.get("hx-request") == "true"
