"""The admin application in this process, and callers with tokens of their own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi.testclient import TestClient

from zqyy_ai.admin.app import create_app
from zqyy_ai.admin.services import Services, open_database
from zqyy_ai.domain.access import Role
from zqyy_ai.settings import Settings, load_settings
from zqyy_ai.store import api_tokens
from zqyy_ai.store.database import Database

SITE, OTHER_SITE, THIRD_SITE = 1001, 1002, 1003


@dataclass(frozen=True, slots=True)
class Api:
    """`anonymous` has no token; `caller` makes a client with one."""

    services: Services
    anonymous: TestClient

    def token(self, role: Role, sites: Sequence[int] | None = None, name: str = "小李") -> str:
        """A new token; `sites` None: all. Made by the owner: the API's role can't make any."""
        with Database(self.services.settings.required_database_url(), max_connections=1) as owner, owner.transaction() as connection:
            return api_tokens.create(connection, name=name, role=role, site_ids=sites)

    def caller(self, role: Role, sites: Sequence[int] | None = None, name: str = "小李") -> TestClient:
        return self.with_token(self.token(role, sites, name))

    def with_token(self, token: str) -> TestClient:
        return TestClient(
            self.anonymous.app, headers={"Authorization": f"Bearer {token}"}, raise_server_exceptions=False, client=("10.0.0.9", 40_000)
        )


@contextmanager
def open_api(database_url: str, **environment: str) -> Iterator[Api]:
    settings: Settings = load_settings({"ZQYY_DATABASE_URL": database_url} | environment)
    with open_database(settings) as database:
        services = Services(settings, database)
        with TestClient(create_app(services), raise_server_exceptions=False, client=("10.0.0.1", 40_000)) as client:
            yield Api(services, client)
