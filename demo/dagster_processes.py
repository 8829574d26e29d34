"""Dagster's webserver, daemon and code server, as one child process group."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infrastructure.local_cloud import start_process, stop_process, wait_until_healthy

ROOT: Final = Path(__file__).resolve().parents[1]
INSTANCE: Final = ROOT / "orchestration" / "dagster.yaml"


class DagsterRefused(RuntimeError):  # noqa: N818 - reads as the sentence it is: "dagster refused"
    """Dagster's API answered with an error."""


@dataclass(frozen=True)
class DagsterProcesses:
    """A running Dagster."""

    process: subprocess.Popen[bytes]
    url: str
    home: Path
    log: Path

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask the webserver. Raises ``DagsterRefused``."""
        body = json.dumps({"query": query, "variables": dict(variables or {})}).encode()
        request = urllib.request.Request(  # noqa: S310 - a loopback address made here
            f"{self.url}/graphql", data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - the same
            document: dict[str, Any] = json.load(answer)
        if document.get("errors"):
            raise DagsterRefused(json.dumps(document["errors"])[:2000])
        found: dict[str, Any] = document["data"]
        return found

    def launch(self, job: str, run_config: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> str:
        """Launch a job and return the run's id. Raises ``DagsterRefused``."""
        query = """
        mutation Launch($params: ExecutionParams!) {
          launchRun(executionParams: $params) {
            __typename
            ... on LaunchRunSuccess { run { runId } }
            ... on PythonError { message }
            ... on RunConfigValidationInvalid { errors { message } }
          }
        }"""
        params = {
            "selector": {"repositoryLocationName": "tenantry", "repositoryName": "__repository__", "jobName": job},
            "runConfigData": dict(run_config),
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]},
        }
        answer = self.graphql(query, {"params": params})["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise DagsterRefused(json.dumps(answer)[:2000])
        run: str = answer["run"]["runId"]
        return run

    def run_status(self, run: str) -> str:
        """A run's status, as Dagster words it."""
        query = "query Status($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
        status: str = self.graphql(query, {"run": run})["runOrError"]["status"]
        return status


@contextmanager
def dagster_processes(home: Path, port: int, environment: Mapping[str, str]) -> Iterator[DagsterProcesses]:
    """Dagster for the length of a ``with`` block; leaving ends the webserver, the daemon, the code server and their runs.

    Args:
        home: the instance's folder (``DAGSTER_HOME``).
        port: where the UI listens, on loopback.
        environment: what its processes see beside this one's variables.

    Raises:
        infrastructure.local_cloud.LocalCloudError: it did not start; its log is named.
    """
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(INSTANCE, home / "dagster.yaml")
    log = home / "dagster.log"
    everything = {
        "DAGSTER_EVENT_BATCH_SIZE": "500",  # of what Dagster itself plans for a run of many partitions
        **os.environ,
        **environment,
        "DAGSTER_HOME": str(home),
        "PYTHONUNBUFFERED": "1",
    }
    command = [
        sys.executable, "-m", "dagster", "dev", "--workspace", str(ROOT / "workspace.yaml"),
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    process = start_process(command, log, everything, cwd=ROOT)
    running = DagsterProcesses(process, f"http://127.0.0.1:{port}", home, log)
    try:
        wait_until_healthy(f"{running.url}/server_info", process, log, seconds=120)
        _wait_until_loaded(running)
        yield running
    finally:
        stop_process(process, grace=20)


def _wait_until_loaded(running: DagsterProcesses) -> None:
    query = """{ workspaceOrError { ... on Workspace { locationEntries { loadStatus locationOrLoadError {
        __typename ... on PythonError { message } } } } } }"""
    while True:
        entries = running.graphql(query)["workspaceOrError"]["locationEntries"]
        loaded = [entry for entry in entries if entry["locationOrLoadError"]]
        if loaded:
            found = loaded[0]["locationOrLoadError"]
            if found["__typename"] == "PythonError":
                raise DagsterRefused(f"the code location did not load; see {running.log}:\n{found['message']}")
            return
        time.sleep(0.2)
