"""What the pages load: as vendored, each once, and little of it."""

import gzip
import hashlib
import re
from pathlib import Path

from zqyy_ai.admin.console import static_files
from zqyy_ai.domain.access import Role
from zqyy_ai_tests.admin.callers import Api
from zqyy_ai_tests.admin.console.furniture import Furniture, pages_of
from zqyy_ai_tests.admin.console.visitors import sign_in

FOLDER = Path(static_files.__file__).parent / "static"
MOST_BYTES = 600_000


def test_vendored_scripts_are_as_their_page_says() -> None:
    rows = re.findall(
        r"^\| (\S+\.js) \|.*?\| ([\d.]+) \|.*\| ([0-9a-f]{64}) \|$", (FOLDER / "vendor" / "VENDOR.md").read_text(), re.MULTILINE
    )
    vendored = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (FOLDER / "vendor").glob("*.js")}
    assert {name: digest for name, _, digest in rows} == vendored
    for name, version, _ in rows:
        assert version in name
        assert (FOLDER / "vendor" / f"{name.partition('-')[0]}-LICENSE.txt").stat().st_size > 500


def test_an_address_that_holds_its_contents_digest_is_kept_for_ever(api: Api) -> None:
    for path in static_files.static_files():
        answer = api.anonymous.get(static_files.static_url(path))
        assert answer.status_code == 200
        assert answer.content == (FOLDER / path).read_bytes()
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["content-encoding"] == "gzip"
        plain = api.anonymous.get(static_files.static_url(path), headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers


def test_nothing_beside_the_static_files_is_served(api: Api) -> None:
    for path in ("../names.py", "..%2Fnames.py", "vendor/../../names.py", "vendor", "vendor/VENDOR.md", ""):
        assert api.anonymous.get(f"/static/0000000000000000/{path}").status_code == 404


def test_every_page_and_all_that_it_loads_is_below_600_kb(api: Api, furniture: Furniture) -> None:
    visitor = sign_in(api, api.token(Role.ADMIN))
    scripts = sum(len(file.compressed) for path, file in static_files.static_files().items() if not path.endswith(".txt"))
    for path in pages_of(furniture):
        page = visitor.get(path)
        assert page.headers["content-encoding"] == "gzip"
        assert scripts + len(gzip.compress(page.content, 5)) < MOST_BYTES
