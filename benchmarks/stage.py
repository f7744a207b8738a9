"""What the benchmarks play on: the whole stack in this process's care, on free ports, with a folder of its own."""

import contextlib
import json
import os
import random
import re
import socket
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import psycopg

from zqyy_ai.devkit import demo_data
from zqyy_ai.devkit.processes import StopSignals
from zqyy_ai.devkit.stack import RunningStack, running_stack
from zqyy_ai.domain.business_clock import SystemClock, business_date_at
from zqyy_ai.settings import load_settings
from zqyy_ai.store.database import Database

DAYS = 400

_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}
"""


# Refused, cut off, cut short, unreadable.
_FAILURES: tuple[dict[str, Any], ...] = (
    {"kind": "http_error", "status": 500},
    {"kind": "http_error", "status": 429},
    {"kind": "html_error"},
    {"kind": "close"},
    {"kind": "bad_json"},
    {"kind": "truncated"},
    {"kind": "wrong_schema"},
    {"kind": "prose"},
)
FAILURE_RATE = 0.05


def mixed_failures() -> list[dict[str, Any]]:
    """Faults for the emulator's plan: a twentieth of the calls fails, in eight ways that are equally frequent."""
    each = FAILURE_RATE / len(_FAILURES)
    # A fault is looked at only for calls that none before it has taken.
    return [{**failure, "rate": each / (1 - each * index)} for index, failure in enumerate(_FAILURES)]


@dataclass(frozen=True, slots=True)
class Emulator:
    """The emulator's control endpoints."""

    url: str

    def set_latency(self, seconds: float) -> None:
        self.plan({"latency": {"seconds": seconds}})

    def plan(self, plan: dict[str, Any]) -> None:
        """How slow it is and how it fails from now on, see `devkit/emulator/fault_plan.py`."""
        body = json.dumps(plan).encode()
        request = urllib.request.Request(f"{self.url}/control/plan", body, {"Content-Type": "application/json"}, method="PUT")
        urllib.request.urlopen(request, timeout=30).close()

    def reset(self) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/control/reset", b"", method="POST"), timeout=30).close()

    def counts(self) -> dict[str, int]:
        with urllib.request.urlopen(f"{self.url}/control/calls", timeout=30) as answer:
            total: dict[str, int] = json.load(answer)["total"]
        return total

    def last_calls(self) -> list[dict[str, Any]]:
        """The newest calls (some fifty of them), newest first: `number`, `prompt`, `received_at` and more."""
        with urllib.request.urlopen(f"{self.url}/control/prompts", timeout=30) as answer:
            calls: list[dict[str, Any]] = json.load(answer)
        return calls


@dataclass(frozen=True, slots=True)
class Stage:
    database: Database
    emulator: Emulator
    environment: dict[str, str]
    business_date: date
    stack: RunningStack

    def rows(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        """What the application's database says, waited for while it is away."""
        return self.database.patiently(lambda connection: connection.execute(query.encode(), parameters or None).fetchall())

    def number(self, query: str) -> int:
        return int(next(iter(self.rows(query)[0].values())))

    def execute(self, statement: str, *parameters: object) -> None:
        """At once, outside the pool."""
        with psycopg.connect(self.stack.database_url, autocommit=True) as connection:
            connection.execute(statement.encode(), parameters or None)

    def sites(self) -> list[int]:
        return [row["site_id"] for row in self.rows("SELECT site_id FROM biz.sites WHERE is_active ORDER BY site_id")]

    def runs_under_way(self) -> dict[str, str]:
        """Dagster's runs that have not ended: run id and status, the oldest first."""
        with psycopg.connect(self.environment["ZQYY_DAGSTER_DATABASE_URL"], autocommit=True) as connection:
            return dict(
                connection.execute(
                    "SELECT run_id, status FROM runs WHERE status IN ('QUEUED', 'NOT_STARTED', 'STARTING', 'STARTED', 'CANCELING') ORDER BY id"
                ).fetchall()
            )

    def run_pids(self) -> list[int]:
        """The processes of the runs under way, which the launcher names in their event logs, in the order of their launch."""
        with psycopg.connect(self.environment["ZQYY_DAGSTER_DATABASE_URL"], autocommit=True) as connection:
            events = connection.execute(
                "SELECT event FROM event_logs JOIN runs USING (run_id)"
                " WHERE runs.status IN ('STARTING', 'STARTED') AND dagster_event_type = 'ENGINE_EVENT' ORDER BY event_logs.id"
            ).fetchall()
        found = [int(match.group(1)) for (event,) in events if (match := re.search(r"[Ss]tarted process for run \(pid: (\d+)\)", event))]
        return [pid for pid in found if psutil.pid_exists(pid)]

    def launch(self, first_key: str, last_key: str) -> str:
        """Launches a run of `prewarm_site` on a range of partitions, as the UI does; returns its id."""
        tags = {"dagster/asset_partition_range_start": first_key, "dagster/asset_partition_range_end": last_key}
        params = {
            "selector": {"repositoryLocationName": "zqyy_ai", "repositoryName": "__repository__", "jobName": "prewarm_site"},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        body = json.dumps({"query": _LAUNCH, "variables": {"params": params}}).encode()
        request = urllib.request.Request(f"{self.environment['DAGSTER_URL']}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            launched = json.load(answer)
        try:
            return str(launched["data"]["launchRun"]["run"]["runId"])
        except (KeyError, TypeError):
            raise RuntimeError(f"the run was not launched: {launched}") from None


class _Silence:
    def say(self, text: str) -> None:
        pass


@contextmanager
def stage(sites: int, *, members: int = 300, **settings: str) -> Iterator[Stage]:
    """The stack with a demo warehouse of `sites` sites and `members` active members of each, loaded through the business date, so that all 72 windows have data."""
    business_date = business_date_at(SystemClock().now())
    with tempfile.TemporaryDirectory(prefix="zqyy-ai-bench-") as folder, StopSignals() as signals:
        Path(folder).chmod(0o711)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("ZQYY_", "DASHSCOPE_", "DAGSTER_"))}
        environment |= {"ZQYY_HOME": folder, **_free_ports(), **settings}

        def fill(url: str) -> None:
            demo_data.fill(url, sites=sites, days=DAYS, members=members, until=business_date)
            with Database(url, max_connections=2) as database, database.autocommit() as connection:
                # The loads of the demo warehouse would start prewarms of their own.
                connection.execute("UPDATE biz.trigger_jobs SET status = 'disabled' WHERE job_type = 'ai_dws_prewarm'")
                connection.execute("UPDATE demo_dws.etl_runs SET finished_at = finished_at - interval '30 days'")

        with running_stack(load_settings(environment), environment, _Silence(), signals, prepare=fill) as stack:
            assert stack.addresses.emulator_url is not None
            with Database(stack.database_url, max_connections=4, application_name="zqyy_ai benchmark") as database:
                joined = {**environment, **stack.addresses.environment}
                yield Stage(database, Emulator(stack.addresses.emulator_url), joined, business_date, stack)


def _free_ports() -> dict[str, str]:
    names = ("ZQYY_POSTGRES_PORT", "ZQYY_EMULATOR_PORT", "ZQYY_CODE_SERVER_PORT", "ZQYY_DAGSTER_PORT", "ZQYY_PORT")
    # Below the ports that the system gives away by itself: those may be another stack's before this one's processes have started.
    candidates = iter(random.SystemRandom().sample(range(15_000, 32_000), 200))
    ports: dict[str, str] = {}
    while len(ports) < len(names):
        port = next(candidates)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports[names[len(ports)]] = str(port)
    return ports
