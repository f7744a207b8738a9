"""Real runs: a Dagster instance on PostgreSQL, a demo warehouse, and the emulator over HTTP, all of one test alone."""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from zqyy_ai.devkit import demo_data
from zqyy_ai.devkit.emulator import EmulatorConfig, RunningEmulator, running_emulator
from zqyy_ai.domain.apps import APPS
from zqyy_ai.domain.business_clock import SystemClock, business_date_at
from zqyy_ai.orchestration.partitions import SITE_PARTITIONS_NAME
from zqyy_ai.store.database import Database
from zqyy_ai_tests.conftest import fresh_database, template_database

SITES = (1001, 1002)
MEMBERS_PER_SITE = 40


@dataclass(frozen=True, slots=True)
class Stage:
    """What a test of this room plays on. Settings come from the environment, as in a real run."""

    instance: dg.DagsterInstance
    database: Database
    emulator: RunningEmulator
    environment: dict[str, str]
    business_date: date


def rows(stage: Stage, query: str, *parameters: object) -> list[dict[str, Any]]:
    with stage.database.autocommit() as connection:
        return connection.execute(query.encode(), parameters or None).fetchall()


def emulator_counts(stage: Stage) -> dict[str, int]:
    with urllib.request.urlopen(f"{stage.emulator.origin}/control/calls", timeout=10) as answer:
        counts: dict[str, int] = json.load(answer)["total"]
    return counts


def plan_faults(stage: Stage, *faults: dict[str, Any], latency_seconds: float = 0.0) -> None:
    plan = {"faults": list(faults), "latency": {"seconds": latency_seconds}}
    request = urllib.request.Request(
        f"{stage.emulator.origin}/control/plan", json.dumps(plan).encode(), {"Content-Type": "application/json"}, method="PUT"
    )
    urllib.request.urlopen(request, timeout=10).close()


DAGSTER_YAML = """
storage:
  custom:
    module: zqyy_ai.orchestration.pooled_storage
    class: PooledPostgresStorage
    config: {postgres_url: {env: ZQYY_DAGSTER_STORAGE_URL}}
python_logs: {python_log_level: INFO}
telemetry: {enabled: false}
"""


def storage_url(dagster_url: str) -> str:
    return dagster_url.replace("postgresql://", "postgresql+psycopg2://")


@pytest.fixture(scope="session")
def today() -> date:
    return business_date_at(SystemClock().now())


@pytest.fixture(scope="session")
def demo_template(server_url: str, migrated_template: str, today: date) -> str:
    """Name of a template database with the demo warehouse of two sites and their members, loaded through yesterday."""
    return template_database(
        server_url,
        "zqyy_demo",
        lambda url: demo_data.fill(url, sites=len(SITES), days=400, members=MEMBERS_PER_SITE, until=today - timedelta(days=1)),
        source=migrated_template,
    )


@pytest.fixture(scope="session")
def dagster_template(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a template database with Dagster's tables and the sites' partitions."""
    home = tmp_path_factory.mktemp("dagster-template")

    def make_tables(url: str) -> None:
        (home / "dagster.yaml").write_text(
            DAGSTER_YAML.replace("{env: ZQYY_DAGSTER_STORAGE_URL}", f'"{storage_url(url)}"'), encoding="utf-8"
        )
        with dg.DagsterInstance.from_config(str(home)) as instance:
            instance.add_dynamic_partitions(SITE_PARTITIONS_NAME, [str(site) for site in SITES])

    return template_database(server_url, "zqyy_dagster_tables", make_tables)


@pytest.fixture
def stage(
    server_url: str, demo_template: str, dagster_template: str, today: date, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    with fresh_database(server_url, demo_template) as application_url, fresh_database(server_url, dagster_template) as dagster_url:
        (tmp_path / "dagster.yaml").write_text(DAGSTER_YAML, encoding="utf-8")
        with staged(application_url, dagster_url, str(tmp_path), today, monkeypatch) as played:
            yield played


@contextmanager
def staged(application_url: str, dagster_url: str, dagster_home: str, today: date, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with running_emulator(EmulatorConfig()) as emulator:
        environment = {
            "DAGSTER_HOME": dagster_home,
            "ZQYY_DATABASE_URL": application_url,
            "ZQYY_DAGSTER_DATABASE_URL": dagster_url,
            "ZQYY_DAGSTER_STORAGE_URL": storage_url(dagster_url),
            "DASHSCOPE_API_KEY": "emulator",
            "DASHSCOPE_HTTP_BASE_URL": emulator.base_url,
            **{app.app_id_setting: f"emulator-{app.app_type.value.replace('_', '-')}" for app in APPS.values()},
            # Two rounds of one site within a test are not the rate limit's business.
            "ZQYY_SITE_CALLS_BURST": "1000",
            "ZQYY_LEASE_SECONDS": "2",
            # A test waits for the end of the run that takes events.
            "ZQYY_EVENT_RUN_IDLE_SECONDS": "0.5",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with Database(application_url, max_connections=2) as database, dg.DagsterInstance.get() as instance:
            yield Stage(instance, database, emulator, environment, today)
