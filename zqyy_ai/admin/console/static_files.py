"""Scripts, styles and the icon, at addresses that change with their content: a browser asks for each once."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request, Response

from zqyy_ai.admin.problems import not_found

router = APIRouter(include_in_schema=False)

_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_FOREVER = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff", "Vary": "Accept-Encoding"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    content: bytes
    compressed: bytes
    media_type: str
    digest: str


@cache
def static_files() -> dict[str, StaticFile]:
    """By path below `static/`: `console.css`, `vendor/…`."""
    return {path: _load(path, file) for path, file in _below(files(__package__) / "static", "")}


def _below(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _below(entry, f"{prefix}{entry.name}/")
        elif "." + entry.name.rpartition(".")[2] in _TYPES:
            found.append((prefix + entry.name, entry))
    return found


def _load(path: str, file: Traversable) -> StaticFile:
    content = file.read_bytes()
    return StaticFile(
        content,
        gzip.compress(content, compresslevel=9, mtime=0),
        _TYPES["." + path.rpartition(".")[2]],
        hashlib.sha256(content).hexdigest()[:16],
    )


def static_url(path: str) -> str:
    """Raises KeyError for a file that is not there."""
    return f"/static/{static_files()[path].digest}/{path}"


@router.get("/static/{digest}/{path:path}")
async def serve(digest: str, path: str, request: Request) -> Response:
    found = static_files().get(path)
    if found is None or found.digest != digest:
        raise not_found("文件")
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.compressed, media_type=found.media_type, headers={**_FOREVER, "Content-Encoding": "gzip"})
    return Response(found.content, media_type=found.media_type, headers=_FOREVER)
