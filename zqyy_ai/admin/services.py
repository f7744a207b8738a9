"""What the routes work with: settings, the database, and what is shared by requests. One for each server process."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from zqyy_ai.admin.cache_reads import CacheReads
from zqyy_ai.admin.failed_attempts import FailedAttempts
from zqyy_ai.domain.access import ALL_SITES
from zqyy_ai.domain.business_clock import Clock, SystemClock
from zqyy_ai.settings import Settings
from zqyy_ai.store.database import Database


@dataclass(frozen=True, slots=True)
class Services:
    """`database` is narrowed to a caller's sites before it is given to anything: see `access.py`."""

    settings: Settings
    database: Database
    clock: Clock = field(default_factory=SystemClock)
    failed_attempts: FailedAttempts = field(default_factory=FailedAttempts)
    cache_reads: CacheReads = field(default_factory=CacheReads)

    @property
    def chain_database(self) -> Database:
        """For what is not one caller's: whom a token stands for, the intake, the figures for Prometheus."""
        return self.database.within(ALL_SITES)


async def services_of(connection: HTTPConnection) -> Services:
    """Not `def`, like whatever doesn't wait on the way to an endpoint: each such step would be a trip to another thread and back."""
    found = connection.app.state.services
    assert isinstance(found, Services)
    return found


TheServices = Annotated[Services, Depends(services_of)]


def open_database(settings: Settings) -> Database:
    """The API's own account where there is one. A person waits: for a connection not longer than a few seconds."""
    url = settings.api_database_url.get_secret_value() if settings.api_database_url else settings.required_database_url()
    return Database(
        url, max_connections=settings.api_pool_connections, application_name="zqyy_ai api", wait_seconds=5.0, is_behind_pooler=True
    )
