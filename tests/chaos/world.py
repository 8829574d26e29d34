"""All running parts: the local cloud behind faulty proxies, Dagster's daemon and code server. Each
may be killed, and restarts as under a supervisor."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
import yaml
from botocore.exceptions import BotoCoreError, ClientError

from infrastructure.deploy import deploy
from infrastructure.local_cloud import (
    LocalCloud,
    free_port,
    sagemaker_variables,
    start_process,
    stop_process,
)
from tenantry.aws.deployment import Deployment
from tenantry.workloads.folder import FOLDER
from tests.chaos.faulty_proxy import FaultyProxy

ROOT: Final = Path(__file__).resolve().parents[2]


def command_of(seed: int, tenants: int, folder: Path, rest_seconds: float) -> list[str]:
    """The command that runs one seed, in a process whose environment it may replace."""
    options = {
        "--seed": seed,
        "--tenants": tenants,
        "--folder": folder,
        "--rest-seconds": rest_seconds,
    }
    told = [str(word) for option in options.items() for word in option]
    return [sys.executable, "-m", "tests.chaos", *told]


CONTAINERS: Final = ROOT / "containers"
# A sweep of the whole machine finds a world's processes by the world's folder in their environment.
_KEPT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH")


# the endpoint's container gets this variable during the run
RELEASED: Final = {"TENANTRY_PREDICT_THREADS": "2"}


class WorldBrokenError(RuntimeError):
    """A process that the test relies on did not start; the message names its log."""


@dataclass
class World:
    """The processes under test. ``deployment`` bypasses the proxies, like the tenants' app."""

    folder: Path
    cloud: LocalCloud
    proxies: Mapping[str, FaultyProxy]
    deployment: Deployment
    environment: Mapping[str, str]
    workloads: Path
    code_server_port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def dagster_home(self) -> Path:
        """The folder of Dagster's instance."""
        return self.folder / "dagster"

    def log(self, name: str) -> Path:
        """The log of a process."""
        return self.folder / f"{name}.log"

    # ---- starting --------------------------------------------------------------------------------

    def start_code_server(self) -> None:
        """Start the process that holds the definitions, evaluates sensors and starts runs, without
        waiting for it."""
        command = [
            sys.executable,
            "-m",
            "dagster",
            "api",
            "grpc",
            "--port",
            str(self.code_server_port),
            "--host",
            "127.0.0.1",
            "--module-name",
            "orchestration.definitions",
            "--working-directory",
            str(ROOT),
            "--location-name",
            "tenantry",
            "--use-python-environment-entry-point",
        ]
        self._start("code_server", command)

    def start_daemon(self) -> None:
        """Start the daemon: sensors' ticks, schedules, the queue of runs."""
        command = [
            sys.executable,
            "-m",
            "dagster._daemon",
            "run",
            "--workspace",
            str(self.folder / "workspace.yaml"),
        ]
        self._start("daemon", command)

    def _start(self, name: str, command: list[str]) -> None:
        self.processes[name] = start_process(
            command, self.log(name), dict(self.environment), cwd=ROOT
        )

    def wait_for_code_server(self, seconds: float) -> None:
        """Wait until it listens. Raises ``WorldBrokenError``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.processes["code_server"].poll() is not None:
                break
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", self.code_server_port), timeout=1),
            ):
                return
            time.sleep(0.1)
        raise WorldBrokenError(f"the code server did not come up; see {self.log('code_server')}")

    def bring_back(self) -> list[str]:
        """Restart all ended processes that are supervised. Returns their names."""
        back = []
        for name, start in (("code_server", self.start_code_server), ("daemon", self.start_daemon)):
            if self.processes[name].poll() is not None:
                start()
                back.append(name)
        if self.cloud.processes["sagemaker"].poll() is not None:
            self.cloud.start_sagemaker()
            back.append("sagemaker")
        return back

    def serves(self) -> bool:
        """Whether an endpoint is in service."""
        try:
            answer = self.deployment.sagemaker.list_endpoints(StatusEquals="InService")
        except (ClientError, BotoCoreError):  # a fault meets this call, too
            return False
        return bool(answer["Endpoints"])

    def release(self) -> None:
        """Deploy another version of the product, whose energy endpoint has ``RELEASED`` in its
        environment."""
        path = self.workloads / "energy.yaml"
        document = yaml.safe_load(path.read_text())
        document["serving"]["environment"] = {
            **document["serving"].get("environment", {}),
            **RELEASED,
        }
        path.write_text(yaml.safe_dump(document))
        stop_process(self.processes["code_server"], grace=30)
        self.bring_back()

    # ---- what runs -------------------------------------------------------------------------------

    def own_processes(self) -> Iterator[psutil.Process]:
        """Every process of this world, regardless of its origin and current parent."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                environment = process.environ()
                if any(
                    str(self.folder) in environment.get(name, "")
                    for name in ("TMPDIR", "LOCAL_SAGEMAKER_STATE")
                ):
                    yield process

    def run_processes(self) -> list[psutil.Process]:
        """The processes that execute Dagster runs."""
        return [p for p in self.own_processes() if _is(p, "multiprocessing", "spawn_main")]

    def containers(self, command: str) -> list[psutil.Process]:
        """The main processes of training or serving containers, which lead their process groups."""
        return [
            p
            for p in self.own_processes()
            if _is(p, f"/containers/forecast/{command}") and os.getpgid(p.pid) == p.pid
        ]

    # ---- the end ---------------------------------------------------------------------------------

    def stop(self) -> list[str]:
        """Stop everything in order. Returns the processes that should have ended, after killing
        them."""
        for name in ("daemon", "code_server"):
            # Like a supervisor, kill a process that does not end on request.
            stop_process(self.processes[name], grace=30)
        self.cloud.stop()
        for proxy in self.proxies.values():
            proxy.stop()
        deadline = time.monotonic() + 15
        while (left := list(self.own_processes())) and time.monotonic() < deadline:
            time.sleep(0.2)
        told = []
        for remaining in left:
            with suppress(psutil.Error):
                told.append(f"{remaining.pid} {' '.join(remaining.cmdline())[:200]}")
                remaining.kill()
        return told

    def kill_everything(self) -> None:
        """Kill all processes, after an error."""
        for process in self.own_processes():
            with suppress(psutil.Error):
                process.kill()


def _is(process: psutil.Process, *words: str) -> bool:
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return all(word in line for word in words)


def kill(process: psutil.Process) -> bool:
    """Send SIGKILL. Returns whether the process still existed."""
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def world(folder: Path, seed: int, *, tenants: int) -> Iterator[World]:
    """A running world without faults. At the end of the block its remaining processes are killed.

    ``os.environ`` is replaced, so that the tests' own calls find only this cloud.
    """
    folder = folder.resolve()
    for name in ("temporary", "dagster", "workloads"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    os.environ.clear()
    os.environ.update(kept, TMPDIR=str(folder / "temporary"), PYTHONUNBUFFERED="1")
    cloud = LocalCloud(
        folder / "cloud", CONTAINERS, sagemaker_arguments=("--create-training-job-burst", "30")
    )
    made: World | None = None
    try:
        cloud.start()
        os.environ.update(cloud.environment)
        deploy()
        expired = max(2, tenants // 40)
        proxies = {
            "aws": FaultyProxy(cloud.ministack_port, f"{seed}/aws", max_expired=expired),
            "sagemaker": FaultyProxy(cloud.sagemaker_port, f"{seed}/sagemaker", max_expired=0),
        }
        for proxy in proxies.values():
            proxy.start()
        through = {name: f"http://127.0.0.1:{proxy.port}" for name, proxy in proxies.items()}
        environment = {
            **os.environ,
            "AWS_ENDPOINT_URL": through["aws"],
            **sagemaker_variables(through["sagemaker"]),
            "DAGSTER_HOME": str(folder / "dagster"),
            "TENANTRY_POLL_SECONDS": "0.5",
            "TENANTRY_LOST_RUN_SECONDS": "12",
            "TENANTRY_LOST_UPLOADS_SECONDS": "3",
            "TENANTRY_TRAINING_JOB_BURST": "30",
            "TENANTRY_WORKLOADS": str(folder / "workloads"),
        }
        made = World(
            folder, cloud, proxies, Deployment.from_stack(), environment, folder / "workloads"
        )
        _write_settings(made, tenants)
        made.start_code_server()
        made.wait_for_code_server(120)
        made.start_daemon()
        yield made
    finally:
        if made is not None:
            made.kill_everything()
        cloud.stop()


def _write_settings(made: World, tenants: int) -> None:
    instance = yaml.safe_load((ROOT / "orchestration" / "dagster.yaml").read_text())
    # A killed code server restarts within seconds.
    instance["run_queue"]["user_code_failure_retry_delay"] = 10
    (made.dagster_home / "dagster.yaml").write_text(yaml.safe_dump(instance))
    (made.folder / "workspace.yaml").write_text(
        f"load_from:\n  - grpc_server: {{host: 127.0.0.1, port: {made.code_server_port}, "
        f"location_name: tenantry}}\n"
    )
    made.workloads.joinpath("energy.yaml").write_text(
        impatient((FOLDER / "energy.yaml").read_text(), tenants)
    )


def impatient(workload: str, tenants: int) -> str:
    """The energy workload with several small packs that hardly wait, on spot machines, with short
    pauses between tries."""
    document = yaml.safe_load(workload)
    document["training"]["pack"] |= {
        "max_tenants": max(12, tenants // 5),
        "wait_seconds": 2,
        "max_at_once": 4,
    }
    document["training"] |= {"spot": True, "max_wait_seconds": document["training"]["max_seconds"]}
    document["scheduling"] = {**document.get("scheduling", {}), "retry_seconds": 1}
    return str(yaml.safe_dump(document))
