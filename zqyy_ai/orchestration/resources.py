"""Resources: the engine for runs, the database for sensors. Both read the settings when they are opened, never at import."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from zqyy_ai.domain.business_clock import Clock, SystemClock
from zqyy_ai.engine.assembly import Engine, build_engine
from zqyy_ai.settings import Settings, load_settings
from zqyy_ai.store.database import Database


class EngineResource(dg.ConfigurableResource):  # type: ignore[type-arg]  # its type parameter is the yielded object, which is itself
    """The engine: database, guards and model client of one run."""

    @contextmanager
    def open(self) -> Iterator[Engine]:
        with build_engine(load_settings()) as engine:
            yield engine


class DatabaseResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The application database, for sensors and schedules: two connections, closed with the tick."""

    @contextmanager
    def open(self) -> Iterator[Database]:
        with Database(self.settings().required_database_url(), max_connections=2, application_name="zqyy_ai sensor") as database:
            yield database

    def settings(self) -> Settings:
        return load_settings()

    def clock(self) -> Clock:
        return SystemClock()
