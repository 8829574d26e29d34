"""Dagster's webserver, daemon and code server, as one child process group."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infrastructure.local_cloud import (
    SILENCE,
    end_of_log,
    start_process,
    stop_process,
    wait_until_healthy,
)
from infrastructure.movement import Movement

ASKED_TAG: Final = "tenantry/asked"
"""The tag that tells the run of one launch from all others."""
_BUSY: Final = re.compile(
    r"UserCodeUnreachable|CodeLocation\w*NotFound|DEADLINE_EXCEEDED|UNAVAILABLE|is locked|timed out"
)
_LAUNCH_SECONDS: Final = 600.0  # twice the time that the code server may take
_RUNS_BY_TAG: Final = """
query Runs($tags: [ExecutionTag!]!) {
  runsOrError(filter: {tags: $tags}) { ... on Runs { results { runId } } }
}"""
_EVENTS: Final = """
query Events($run: ID!) {
  logsForRun(runId: $run) {
    ... on EventConnection {
      events {
        ... on ExecutionStepFailureEvent { message error { message } }
        ... on RunFailureEvent { message error { message } }
      }
    }
  }
}"""
ROOT: Final = Path(__file__).resolve().parents[1]
INSTANCE: Final = ROOT / "orchestration" / "dagster.yaml"


class DagsterRefusedError(RuntimeError):
    """Dagster's API answered with an error."""


class DagsterBusyError(DagsterRefusedError):
    """The webserver reported that the code server or the database was busy; the same question may
    succeed later."""


def _refusal(text: str) -> DagsterRefusedError:
    return (DagsterBusyError if _BUSY.search(text) else DagsterRefusedError)(text[:2000])


@dataclass(frozen=True)
class DagsterProcesses:
    """A running Dagster."""

    process: subprocess.Popen[bytes]
    url: str
    home: Path
    log: Path

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask the webserver. Without an answer, ask again for as long as Dagster is seen to move.

        Only for questions that may be asked twice. Raises ``DagsterRefusedError``.
        """
        movement = Movement([self.process.pid], [self.log])
        while True:
            try:
                return self._ask(query, variables or {})
            except (OSError, http.client.HTTPException, DagsterBusyError) as error:
                self._wait_a_little(movement, error)

    def _wait_a_little(self, movement: Movement, error: Exception) -> None:
        """Pause before a question is asked again. Raises ``DagsterRefusedError`` when asking again
        is hopeless."""
        ended = self.process.poll()
        if ended is not None or movement.stopped(SILENCE):
            state = f"ended with status {ended}" if ended is not None else "does not move any more"
            raise DagsterRefusedError(
                f"Dagster {state} ({error}); see {self.log}:\n{end_of_log(self.log)}"
            ) from error
        time.sleep(0.5)

    def _ask(
        self, query: str, variables: Mapping[str, Any], timeout: float = 60.0
    ) -> dict[str, Any]:
        """One question. Raises ``OSError``, ``http.client.HTTPException``, ``DagsterBusyError``,
        ``DagsterRefusedError``."""
        body = json.dumps({"query": query, "variables": dict(variables)}).encode()
        request = urllib.request.Request(  # noqa: S310 - a loopback address made here
            f"{self.url}/graphql", data=body, headers={"Content-Type": "application/json"}
        )
        try:
            # The same.
            with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
                document: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code >= 500:
                raise
            with error:
                raise _refusal(error.read().decode(errors="replace")) from error
        if document.get("errors"):
            raise _refusal(json.dumps(document["errors"]))
        found: dict[str, Any] = document["data"]
        return found

    def launch(
        self, job: str, run_config: Mapping[str, Any], tags: Mapping[str, str] | None = None
    ) -> str:
        """Launch a job and return the run's id. A run whose answer was lost is found by its tag.
        Raises ``DagsterRefusedError``."""
        asked = uuid.uuid4().hex
        movement = Movement([self.process.pid], [self.log])
        while True:
            try:
                return self._launch(job, run_config, {**(tags or {}), ASKED_TAG: asked})
            except (OSError, http.client.HTTPException, DagsterBusyError) as error:
                made = self.graphql(_RUNS_BY_TAG, {"tags": [{"key": ASKED_TAG, "value": asked}]})[
                    "runsOrError"
                ]["results"]
                if made:
                    return str(made[0]["runId"])
                self._wait_a_little(movement, error)

    def _launch(self, job: str, run_config: Mapping[str, Any], tags: Mapping[str, str]) -> str:
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
            "selector": {
                "repositoryLocationName": "tenantry",
                "repositoryName": "__repository__",
                "jobName": job,
            },
            "runConfigData": dict(run_config),
            "executionMetadata": {
                "tags": [{"key": key, "value": value} for key, value in tags.items()]
            },
        }
        # A launch that is still at work must not be taken for lost, or it would be asked for twice.
        answer = self._ask(query, {"params": params}, timeout=_LAUNCH_SECONDS)["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise _refusal(json.dumps(answer))
        run: str = answer["run"]["runId"]
        return run

    def run_status(self, run: str) -> str:
        """A run's status, as Dagster words it."""
        query = "query Status($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
        status: str = self.graphql(query, {"run": run})["runOrError"]["status"]
        return status

    def why_failed(self, run: str) -> str:
        """The errors in a run's events; the last one says most."""
        found = self.graphql(_EVENTS, {"run": run})["logsForRun"].get("events", [])
        told = [
            event["error"]["message"] if event.get("error") else event["message"] for event in found
        ]
        return "\n".join(line.strip() for line in told[-3:]) or "its events do not say why"


@contextmanager
def dagster_processes(
    home: Path, port: int, environment: Mapping[str, str]
) -> Iterator[DagsterProcesses]:
    """Dagster for the length of a ``with`` block; leaving ends the webserver, the daemon, the code
    server and their runs.

    Args:
        home: the instance's folder (``DAGSTER_HOME``).
        port: where the UI listens, on loopback.
        environment: variables of its processes beside this one's.

    Raises:
        infrastructure.local_cloud.LocalCloudError: it did not start; its log is named.
    """
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(INSTANCE, home / "dagster.yaml")
    log = home / "dagster.log"
    everything = {
        # for the events that Dagster itself plans for a run of many partitions
        "DAGSTER_EVENT_BATCH_SIZE": "500",
        # Seconds the code server may take to answer: starting a run's process takes long on a busy
        # machine.
        "DAGSTER_GRPC_TIMEOUT_SECONDS": "300",
        # A daemon that is ending waits for the sensor it has asked, whose cloud may be gone.
        "DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS": "60",
        "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD": "60",  # would be as long as that
        **os.environ,
        **environment,
        "DAGSTER_HOME": str(home),
        "PYTHONUNBUFFERED": "1",
    }
    command = [
        sys.executable,
        "-m",
        "dagster",
        "dev",
        "--workspace",
        str(ROOT / "workspace.yaml"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    process = start_process(command, log, everything, cwd=ROOT)
    running = DagsterProcesses(process, f"http://127.0.0.1:{port}", home, log)
    try:
        wait_until_healthy(f"{running.url}/server_info", process, log)
        _wait_until_loaded(running)
        yield running
    finally:
        stop_process(process, grace=20)


def _wait_until_loaded(running: DagsterProcesses) -> None:
    query = """{ workspaceOrError { ... on Workspace { locationEntries {
        loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }"""
    movement = Movement([running.process.pid], [running.log])
    while not movement.stopped(SILENCE):
        entries = running.graphql(query)["workspaceOrError"]["locationEntries"]
        loaded = [entry for entry in entries if entry["locationOrLoadError"]]
        if loaded:
            found = loaded[0]["locationOrLoadError"]
            if found["__typename"] == "PythonError":
                raise DagsterRefusedError(
                    f"the code location did not load; see {running.log}:\n{found['message']}"
                )
            return
        time.sleep(0.2)
    raise DagsterRefusedError(
        f"the code location does not load, and nothing moved for {SILENCE:.0f} s; see "
        f"{running.log}:\n{end_of_log(running.log)}"
    )
