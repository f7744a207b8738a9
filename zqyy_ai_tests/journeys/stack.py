"""A stack under test, from outside: `zqyy-ai dev` as a process of its own, and what an operator has: command line, Dagster, SQL, emulator.

Nothing here reaches into the stack's process. Invariant: after `stop` or `kill`, `processes` is what tells whether anything stayed behind.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg
from psycopg.rows import dict_row

from zqyy_ai.domain.windows import WINDOW_KEYS
from zqyy_ai_tests.devkit.waiting import eventually

COMMAND = (sys.executable, "-m", "zqyy_ai.cli")
READY_SECONDS = 150.0
STOP_SECONDS = 40.0
POLL_SECONDS = 0.25
PORT_NAMES = ("ZQYY_POSTGRES_PORT", "ZQYY_EMULATOR_PORT", "ZQYY_CODE_SERVER_PORT", "ZQYY_DAGSTER_PORT", "ZQYY_PORT")

PARTITIONS = """{ assetNodeOrError(assetKey: {path: ["app2_finance"]}) { ... on AssetNode { assetPartitionStatuses {
    ... on MultiPartitionStatuses { primaryDimensionName ranges { primaryDimStartKey primaryDimEndKey secondaryDim {
        ... on DefaultPartitionStatuses { materializedPartitions failedPartitions materializingPartitions unmaterializedPartitions }
    } } } } } } }"""
RUNS = """query($filter: RunsFilter!) { runsOrError(filter: $filter) { __typename ... on Runs {
    results { runId status jobName tags { key value } } } } }"""
CHECKS = """query($asset: String!, $check: String!, $partition: String!) {
    assetCheckExecutions(assetKey: {path: [$asset]}, checkName: $check, partition: $partition, limit: 1) {
        status partition runId } }"""
MATERIALISATIONS = """query($asset: String!, $partition: String!) { assetNodeOrError(assetKey: {path: [$asset]}) { ... on AssetNode {
    assetMaterializations(partitions: [$partition]) { runId partition } } } }"""
LAUNCH_RUN = """mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
RUN = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
ENGINE_EVENTS = """query($run: ID!) { logsForRun(runId: $run, limit: 1000) { ... on EventConnection { events {
    ... on EngineEvent { message } } } } }"""


@dataclass(frozen=True, slots=True)
class PartitionStatuses:
    """The windows of one site as Dagster's partition tab shows them."""

    materialised: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Home:
    """A fresh ZQYY_HOME with free ports, and the environment in which its commands run: the machine's, without any setting of ours."""

    folder: Path
    environment: dict[str, str]

    @classmethod
    def make(cls, **settings: str) -> "Home":
        folder = Path(tempfile.mkdtemp(prefix="zqyy-ai-journey-"))
        folder.chmod(0o711)  # as root, PostgreSQL runs under another account, which has to pass through
        machine = {name: value for name, value in os.environ.items() if not name.startswith(("ZQYY_", "DASHSCOPE_", "DAGSTER_"))}
        # Wide enough that a table keeps its words whole; no proxy stands between a machine and itself.
        return cls(folder, {**machine, "COLUMNS": "200", "NO_PROXY": "127.0.0.1", "ZQYY_HOME": str(folder), **free_ports(), **settings})

    def run(self, *arguments: str, timeout_seconds: float = 150, **settings: str) -> subprocess.CompletedProcess[str]:
        """One command of `zqyy-ai`, to its end."""
        return subprocess.run(
            [*COMMAND, *arguments],
            env={**self.environment, **settings},
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
            cwd=self.folder,
        )

    def processes(self) -> list[str]:
        """Every living process that has anything to do with this folder, by its command line or its environment."""
        found = []
        for process in psutil.process_iter(["cmdline", "environ", "status"]):
            command = " ".join(process.info["cmdline"] or ())
            environment = process.info["environ"] or {}
            is_ours = str(self.folder) in command or environment.get("ZQYY_HOME") == str(self.folder)
            if is_ours and process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found.append(f"{process.pid} {command[:200]}")
        return found


@dataclass(slots=True)
class Stack:
    """`zqyy-ai dev` over a home. `environment` holds what `zqyy-ai env` said, once the stack is ready."""

    home: Home
    environment: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log_file(self) -> Path:
        return self.home.folder / "stack.log"

    def start(self) -> None:
        """Returns when the stack says that it is ready."""
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [*COMMAND, "dev", "--stop-with-parent"],
                env=self.home.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.home.folder,
            )
        process = self._process

        def is_ready() -> bool:
            assert process.poll() is None, f"zqyy-ai dev ended:\n{self.log_file.read_text()}"
            return "服务已就绪" in self.log_file.read_text()

        try:
            eventually(is_ready, seconds=READY_SECONDS, every_seconds=POLL_SECONDS)
            self.environment = exported(self.home.run("env").stdout)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ctrl-C, as an operator ends it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """kill -9 of the supervisor alone, which leaves it no time for anything."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.home.run(*arguments)

    # The database.

    @property
    def database_url(self) -> str:
        return self.environment["ZQYY_DATABASE_URL"]

    def sql(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.database_url, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def count(self, query: str, *parameters: object) -> int:
        """The one number that a query gives."""
        (row,) = self.sql(query, *parameters)
        (number,) = row.values()
        return int(number)

    def answers_written(self, site_id: int) -> int:
        """Cached answers of the model: fixed and reused ones don't count."""
        return self.count(
            "SELECT count(*) FROM biz.ai_cache AS c JOIN biz.ai_run_logs AS l ON l.id = c.run_log_id AND l.status = 'success'"
            " WHERE c.site_id = %s",
            site_id,
        )

    def jobs(self, site_id: int) -> list[dict[str, Any]]:
        return self.sql("SELECT * FROM biz.ai_trigger_jobs WHERE site_id = %s ORDER BY id", site_id)

    def wait_for_job(self, site_id: int, status: str, *, seconds: float) -> dict[str, Any]:
        """The site's newest job, as soon as it has this status."""

        def has_it() -> bool:
            jobs = self.jobs(site_id)
            return bool(jobs) and jobs[-1]["status"] == status

        try:
            eventually(has_it, seconds=seconds, every_seconds=POLL_SECONDS)
        except AssertionError:
            raise AssertionError(f"no job of site {site_id} is {status} after {seconds} s: {self.jobs(site_id)}") from None
        return self.jobs(site_id)[-1]

    def request_prewarm(self, site_id: int) -> None:
        asked = self.run("prewarm", "--site", str(site_id), "--no-wait")
        assert asked.returncode == 0, asked.stderr

    # Events.

    def fire(self, event_name: str, **payload: Any) -> int:
        """As a back end fires it; returns the inbox row's id."""
        return self.count("SELECT biz.fire_ai_event(%s, %s::jsonb)", event_name, json.dumps(payload))

    def jobs_of(self, *event_ids: int) -> list[dict[str, Any]]:
        """The jobs that the events have become, in the events' order; events that intake has not seen yet have none."""
        return self.sql(
            "SELECT job.* FROM unnest(%s::bigint[]) WITH ORDINALITY AS asked (event_id, place) JOIN biz.ai_events AS event ON event.id = event_id"
            " JOIN biz.ai_trigger_jobs AS job ON job.id = event.trigger_job_id ORDER BY place",
            list(event_ids),
        )

    def wait_for_ends(self, *event_ids: int, seconds: float = 60) -> list[dict[str, Any]]:
        """The events' jobs, as soon as each is at its end."""

        def are_over() -> bool:
            jobs = self.jobs_of(*event_ids)
            return len(jobs) == len(event_ids) and all(job["finished_at"] is not None for job in jobs)

        try:
            eventually(are_over, seconds=seconds, every_seconds=POLL_SECONDS)
        except AssertionError:
            raise AssertionError(f"not all at their end after {seconds} s: {self.jobs_of(*event_ids)}") from None
        return self.jobs_of(*event_ids)

    # Dagster.

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        answer = _ask(urllib.request.Request(f"{self.environment['DAGSTER_URL']}/graphql", body, {"Content-Type": "application/json"}))
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    def runs_of_backfill(self, backfill_id: str) -> list[dict[str, Any]]:
        return self.runs_with({"dagster/backfill": backfill_id})

    def runs(self, site_id: int) -> list[dict[str, Any]]:
        """The site's runs that a sensor or the schedule asked for, newest first."""
        return self.runs_with({"zqyy/site_id": str(site_id)})

    def runs_with(self, tags: dict[str, str]) -> list[dict[str, Any]]:
        found = self.graphql(RUNS, filter={"tags": [{"key": key, "value": value} for key, value in tags.items()]})["runsOrError"]
        return [{**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found["results"]]

    def wait_for_run(self, site_id: int, run_status: str, *, seconds: float = 60) -> dict[str, Any]:
        """The site's newest run, as soon as it has this status: a job ends a moment before its run does."""
        eventually(lambda: [run["status"] for run in self.runs(site_id)][:1] == [run_status], seconds=seconds, every_seconds=POLL_SECONDS)
        return self.runs(site_id)[0]

    def partitions(self, site_id: int) -> PartitionStatuses:
        """Dagster folds equal neighbours into ranges of sites; the journeys' sites are numbers, so a range holds those between."""
        statuses = self.graphql(PARTITIONS)["assetNodeOrError"]["assetPartitionStatuses"]
        assert statuses["primaryDimensionName"] == "site"
        for found in statuses["ranges"]:
            if int(found["primaryDimStartKey"]) <= site_id <= int(found["primaryDimEndKey"]):
                windows = found["secondaryDim"]
                return PartitionStatuses(frozenset(windows["materializedPartitions"]), frozenset(windows["failedPartitions"]))
        return PartitionStatuses()

    def check_status(self, check: str, partition: str, *, asset: str = "app2_finance") -> str | None:
        """The newest evaluation of a check for one partition."""
        executions = self.graphql(CHECKS, asset=asset, check=check, partition=partition)["assetCheckExecutions"]
        return str(executions[0]["status"]) if executions else None

    def materialised_by(self, asset: str, partition: str) -> list[str]:
        """The runs that materialised the asset's partition, the newest first."""
        found = self.graphql(MATERIALISATIONS, asset=asset, partition=partition)["assetNodeOrError"]["assetMaterializations"]
        return [str(materialisation["runId"]) for materialisation in found]

    def materialise(self, asset: str, partition: str, **dimensions: str) -> str:
        """One partition, launched as the UI launches it; returns the run's id. `dimensions`: of a partition that has two."""
        tags = {"dagster/partition": partition} | {f"dagster/partition/{name}": key for name, key in dimensions.items()}
        asked = {
            "mode": "default",
            "runConfigData": "{}",
            "executionMetadata": {"tags": [{"key": name, "value": value} for name, value in tags.items()]},
            "selector": {
                "repositoryLocationName": "zqyy_ai",
                "repositoryName": "__repository__",
                "pipelineName": "__ASSET_JOB",
                "assetSelection": [{"path": [asset]}],
                "assetCheckSelection": None,
            },
        }
        launched = self.graphql(LAUNCH_RUN, params=asked)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def run_status(self, run_id: str) -> str:
        return str(self.graphql(RUN, id=run_id)["runOrError"]["status"])

    def wait_for_run_end(self, run_id: str, *, seconds: float = 90) -> str:
        """The status with which the run has ended."""
        eventually(lambda: self.run_status(run_id) in {"SUCCESS", "FAILURE", "CANCELED"}, seconds=seconds, every_seconds=POLL_SECONDS)
        return self.run_status(run_id)

    def worker_pid(self, run_id: str) -> int:
        """The process that executes the run, by Dagster's own word."""
        for event in self.graphql(ENGINE_EVENTS, run=run_id)["logsForRun"]["events"]:
            before, found, after = event.get("message", "").partition("Executing steps in process (pid: ")
            if found and not before:
                return int(after.rstrip(")"))
        raise AssertionError(f"run {run_id} names no process")

    def kill_code_server(self) -> None:
        """kill -9 of the code server and of the process behind it that loads the code; runs are left alone."""
        for process in psutil.process_iter(["cmdline", "environ"]):
            words = process.info["cmdline"] or []
            is_ours = (process.info["environ"] or {}).get("ZQYY_HOME") == str(self.home.folder)
            if is_ours and ("code-server" in words or ("api" in words and "grpc" in words)):
                process.kill()

    # The emulator.

    def emulator_counts(self) -> dict[str, int]:
        counts: dict[str, int] = _ask(urllib.request.Request(f"{self._emulator_url}/control/calls"))["total"]
        return counts

    def plan_faults(self, *faults: dict[str, Any], latency_seconds: float = 0.0) -> None:
        plan = json.dumps({"faults": list(faults), "latency": {"seconds": latency_seconds}}).encode()
        _ask(urllib.request.Request(f"{self._emulator_url}/control/plan", plan, {"Content-Type": "application/json"}, method="PUT"))

    @property
    def _emulator_url(self) -> str:
        # `zqyy-ai env` names an embedded one; an external one is in the operator's own environment.
        return {**self.home.environment, **self.environment}["DASHSCOPE_HTTP_BASE_URL"].removesuffix("/api/v1")


ALL_WINDOWS = frozenset(str(window) for window in WINDOW_KEYS)


def partition_keys(site_id: int) -> list[str]:
    return [f"{site_id}|{window}" for window in WINDOW_KEYS]


def free_ports() -> dict[str, str]:
    """Ports that nobody listens on; all are taken before the first is given back, so that they differ."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in PORT_NAMES]
    ports = {name: str(listener.getsockname()[1]) for name, listener in zip(PORT_NAMES, listeners, strict=True)}
    for listener in listeners:
        listener.close()
    return ports


def exported(script: str) -> dict[str, str]:
    """What `eval "$(zqyy-ai env)"` would put into a shell."""
    words = [shlex.split(line) for line in script.splitlines()]
    assert all(len(line) == 2 and line[0] == "export" for line in words)
    return dict(line[1].split("=", 1) for line in words)


def await_nobody(home: Home, *, seconds: float) -> float:
    """Waits until nothing of the home is alive; returns the seconds that it took. Fails with what is left."""
    started = time.monotonic()
    try:
        eventually(lambda: not home.processes(), seconds=seconds, every_seconds=POLL_SECONDS)
    except AssertionError:
        raise AssertionError(f"still alive after {seconds} s: {home.processes()}") from None
    return time.monotonic() - started


def _ask(request: urllib.request.Request) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return json.load(answer)
