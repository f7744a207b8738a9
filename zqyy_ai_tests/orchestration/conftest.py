"""Real runs: a Dagster instance on PostgreSQL, a demo warehouse, and the emulator over HTTP, all of one test alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest

from zqyy_ai.devkit import demo_data
from zqyy_ai.devkit.emulator import EmulatorConfig, RunningEmulator, running_emulator
from zqyy_ai.domain.business_clock import SystemClock, business_date_at
from zqyy_ai.orchestration.partitions import SITE_PARTITIONS_NAME
from zqyy_ai.store.database import Database

SITES = (1001, 1002)


@dataclass(frozen=True, slots=True)
class Stage:
    """What a test of this room plays on. Settings come from the environment, as in a real run."""

    instance: dg.DagsterInstance
    database: Database
    emulator: RunningEmulator
    environment: dict[str, str]
    business_date: date


@pytest.fixture
def stage(make_database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    application_url, dagster_url = make_database(), make_database()
    business_date = business_date_at(SystemClock().now())
    demo_data.fill(application_url, sites=len(SITES), days=400, until=business_date - timedelta(days=1))
    (tmp_path / "dagster.yaml").write_text(
        "storage: {custom: {module: zqyy_ai.orchestration.pooled_storage, class: PooledPostgresStorage, "
        "config: {postgres_url: {env: ZQYY_DAGSTER_STORAGE_URL}}}}\ntelemetry: {enabled: false}\n",
        encoding="utf-8",
    )
    with running_emulator(EmulatorConfig()) as emulator:
        environment = {
            "DAGSTER_HOME": str(tmp_path),
            "ZQYY_DATABASE_URL": application_url,
            "ZQYY_DAGSTER_DATABASE_URL": dagster_url,
            "ZQYY_DAGSTER_STORAGE_URL": dagster_url.replace("postgresql://", "postgresql+psycopg2://"),
            "DASHSCOPE_API_KEY": "emulator",
            "DASHSCOPE_HTTP_BASE_URL": emulator.base_url,
            "ZQYY_APP_ID_2_FINANCE": "emulator-app2-finance",
            "ZQYY_APP_ID_2A_FINANCE_AREA": "emulator-app2a-finance-area",
            # Two rounds of one site within a test are not the rate limit's business.
            "ZQYY_SITE_CALLS_BURST": "1000",
            "ZQYY_LEASE_SECONDS": "2",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with Database(application_url, max_connections=2) as database, dg.DagsterInstance.get() as instance:
            instance.add_dynamic_partitions(SITE_PARTITIONS_NAME, [str(site) for site in SITES])
            yield Stage(instance, database, emulator, environment, business_date)
