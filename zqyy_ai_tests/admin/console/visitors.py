"""Somebody who looks at the console without a browser: a login's cookie, the pages' CSRF token."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi.testclient import TestClient

from zqyy_ai_tests.admin.callers import Api


@dataclass(frozen=True, slots=True)
class Visitor:
    client: TestClient

    def get(self, path: str) -> httpx.Response:
        return self._asked(path, {})

    def part(self, path: str) -> httpx.Response:
        """As htmx asks."""
        return self._asked(path, {"HX-Request": "true"})

    def _asked(self, path: str, headers: dict[str, str]) -> httpx.Response:
        answer: httpx.Response = self.client.get(path, headers=headers, follow_redirects=False)
        return answer

    def post(self, path: str, form: Mapping[str, Any] | None = None, *, csrf_token: str | None = None) -> httpx.Response:
        """With the pages' own CSRF token where none is given."""
        headers = {"HX-Request": "true", "X-CSRF-Token": self.csrf_token if csrf_token is None else csrf_token}
        answer: httpx.Response = self.client.post(path, data=form, headers=headers, follow_redirects=False)
        return answer

    @property
    def csrf_token(self) -> str:
        found = re.search(r'"X-CSRF-Token": "([\w-]+)"', self.get("/triggers").text)
        assert found is not None
        return found[1]


def sign_in(api: Api, token: str) -> Visitor:
    client = TestClient(api.anonymous.app, raise_server_exceptions=False, client=("10.0.0.7", 40_000), headers={"Accept": "text/html"})
    answer = client.post("/login", data={"token": token}, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    return Visitor(client)
