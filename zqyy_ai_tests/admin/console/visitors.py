"""Somebody who looks at the console without a browser: a login's cookie, the pages' CSRF token."""

import re
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi.testclient import TestClient

from zqyy_ai_tests.admin.callers import Api


@dataclass(frozen=True, slots=True)
class Visitor:
    client: TestClient

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path, follow_redirects=False)

    def part(self, path: str) -> httpx.Response:
        """As htmx asks."""
        return self.client.get(path, headers={"HX-Request": "true"}, follow_redirects=False)

    def post(self, path: str, *, csrf: bool = True, **form: Any) -> httpx.Response:
        headers = {"HX-Request": "true"} | ({"X-CSRF-Token": self.csrf_token} if csrf else {})
        return self.client.post(path, data=form, headers=headers, follow_redirects=False)

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
