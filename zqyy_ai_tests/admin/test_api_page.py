"""docs/api.md: each call of the document has its line, and each code of an error is told."""

import re
from pathlib import Path

from fastapi.testclient import TestClient

from zqyy_ai.domain.access import Role
from zqyy_ai_tests.admin.callers import Api

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


def paths_told() -> set[str]:
    """Of the table of calls, the shortened ones written out."""
    told: set[str] = set()
    for line in PAGE.splitlines():
        if not re.match(r"\| `(GET|POST|PUT|PATCH|DELETE)", line):
            continue
        first = ""
        for part in re.findall(r"`([^`]+)`", line.split("|")[1]):
            path = part.split(" ")[-1]
            if not path.startswith("/"):
                continue
            is_whole = path.startswith(("/api", "/healthz", "/readyz", "/metrics"))
            told |= {path} if is_whole else {first + path, first.rpartition("/")[0] + path}
            first = path if is_whole else first
    return told


def test_each_call_of_the_document_has_its_line(api: Api) -> None:
    caller: TestClient = api.caller(Role.VIEWER)
    paths = set(caller.get("/api/openapi.json").json()["paths"])
    assert paths - paths_told() == set()


def test_each_code_of_an_error_is_told() -> None:
    room = Path(__file__).parents[2] / "zqyy_ai"
    sources = [*(room / "admin").rglob("*.py"), room / "engine" / "batches.py"]
    codes = {code for source in sources for code in re.findall(r'code="([a-z_]+)"', source.read_text())}
    untold = {code for code in codes if f"`{code}`" not in PAGE and not code.startswith("batch_")}
    assert untold == set()
