"""Starts and stops the local cloud: ministack (S3, SQS, DynamoDB, …) and local_sagemaker, as child
processes on loopback.

Clients find both through the environment variables botocore reads itself (``AWS_ENDPOINT_URL`` and
its per-service forms, https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html),
so the product has no local branch.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infrastructure.movement import Movement

ACCOUNT: Final = "123456789012"  # AWS's own example account id; the local cloud answers to it
REGION: Final = "eu-west-1"
SILENCE: Final = 120.0  # seconds without any movement, after which a starting process is given up
_SERVICES: Final = (
    "s3,sqs,sns,dynamodb,cloudwatch,monitoring,logs,iam,sts,ecr,cloudformation,events,glue,athena"
)
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


class LocalCloudError(RuntimeError):
    """A part of the local cloud did not start, or died; the message names its log file."""


def free_port() -> int:
    """A TCP port on loopback that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """Runs in the child before exec: a killed parent must not leave the local cloud behind
    (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def start_process(
    command: Sequence[str], log: Path, environment: dict[str, str], cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start ``command`` in a session of its own that ends with this process, its output appended to
    ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        return subprocess.Popen(  # prctl is async-signal-safe
            command,
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )


def stop_process(process: subprocess.Popen[bytes], grace: float = 10.0) -> None:
    """Ask the process to end (SIGTERM), wait ``grace`` seconds, then end its whole session
    (SIGKILL)."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def wait_until_healthy(
    url: str, process: subprocess.Popen[bytes], log: Path, silence: float = SILENCE
) -> None:
    """Poll ``url`` until it answers 200, for as long as the process, its children or its log move.

    Raises:
        LocalCloudError: the process ended, or nothing moved for ``silence`` seconds.
    """
    movement = Movement([process.pid], [log])
    while not movement.stopped(silence):
        if process.poll() is not None:
            raise LocalCloudError(
                f"{process.args!r} ended with status {process.returncode}; see "
                f"{log}:\n{end_of_log(log)}"
            )
        try:
            # A loopback address made here.
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
                if answer.status == 200:
                    return
        except (urllib.error.URLError, http.client.HTTPException, OSError):
            time.sleep(0.05)
    raise LocalCloudError(
        f"{url} does not answer, and nothing moved for {silence:.0f} s; see "
        f"{log}:\n{end_of_log(log)}"
    )


def end_of_log(log: Path, lines: int = 15) -> str:
    """A log's last lines; nothing when there is none."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


@dataclass
class LocalCloud:
    """A running local cloud.

    ``environment`` holds the variables that point any AWS SDK at it; ``state`` is the folder its
    data live in.
    """

    state: Path
    containers: Path
    ministack_port: int = 0
    sagemaker_port: int = 0
    sagemaker_arguments: tuple[str, ...] = ()
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def ministack_url(self) -> str:
        """Where S3, SQS, SNS, DynamoDB, Logs, IAM and CloudFormation answer."""
        return f"http://127.0.0.1:{self.ministack_port}"

    @property
    def sagemaker_url(self) -> str:
        """Where SageMaker, its runtime, Application Auto Scaling and CloudWatch answer."""
        return f"http://127.0.0.1:{self.sagemaker_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that botocore and every AWS SDK read."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": self.ministack_url,
            **sagemaker_variables(self.sagemaker_url),
            "AWS_MAX_ATTEMPTS": "10",
            "AWS_RETRY_MODE": "standard",
        }

    def start(self) -> None:
        """Start both processes and wait until they answer.

        Raises:
            LocalCloudError: one of them did not come up; its log is named.
        """
        self.state.mkdir(parents=True, exist_ok=True)
        self.ministack_port = self.ministack_port or free_port()
        self.sagemaker_port = self.sagemaker_port or free_port()
        self.start_ministack()
        self.start_sagemaker()

    def start_ministack(self) -> None:
        """Start ministack alone (see ``start``)."""
        log = self.state / "ministack.log"
        environment = {
            **os.environ,
            "BIND_HOST": "127.0.0.1",
            "IOT_MTLS_ENABLED": "0",  # else it listens for MQTT on all addresses
            "SFTP_ENABLED": "0",
            "GATEWAY_PORT": str(self.ministack_port),
            "MINISTACK_ACCOUNT_ID": ACCOUNT,
            "MINISTACK_REGION": REGION,
            "PERSIST_STATE": "1",
            "STATE_DIR": str(self.state / "ministack"),
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(self.state / "s3"),
            "SERVICES": _SERVICES,
            "LOG_LEVEL": "WARNING",
        }
        process = start_process(
            [sys.executable, "-m", "infrastructure.ministack"],
            log,
            environment,
            cwd=Path(__file__).resolve().parents[1],
        )
        self.processes["ministack"] = process
        wait_until_healthy(f"{self.ministack_url}/_ministack/health", process, log)

    def start_sagemaker(self) -> None:
        """Start local_sagemaker alone (see ``start``)."""
        self.processes["sagemaker"] = start_local_sagemaker(
            self.sagemaker_port,
            self.state / "sagemaker",
            "--containers",
            str(self.containers),
            *self.sagemaker_arguments,
            environment=self.environment,
        )

    def reset(self) -> None:
        """Delete all resources that were made in it, but keep the processes."""
        for url in (f"{self.sagemaker_url}/_local/reset", f"{self.ministack_url}/_ministack/reset"):
            # A loopback address made here.
            request = urllib.request.Request(url, method="POST")  # noqa: S310
            with urllib.request.urlopen(request, timeout=60):  # noqa: S310 - the same
                pass

    def stop(self) -> None:
        """End both processes, SageMaker first, so that its containers can still write their
        logs."""
        for name in ("sagemaker", "ministack"):
            if process := self.processes.pop(name, None):
                stop_process(process, grace=30.0)


def sagemaker_variables(url: str) -> dict[str, str]:
    """The variables that point any AWS SDK at the services of a local_sagemaker."""
    services = ("SAGEMAKER", "SAGEMAKER_RUNTIME", "APPLICATION_AUTO_SCALING", "CLOUDWATCH")
    return {f"AWS_ENDPOINT_URL_{service}": url for service in services}


def start_local_sagemaker(
    port: int, state: Path, *arguments: str, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start local_sagemaker and wait until it answers; its log lies beside its state.

    Args:
        port: where it listens.
        state: its folder.
        arguments: further ones of its command line.
        environment: variables added to this process's own.

    Raises:
        LocalCloudError: it did not come up; its log is named.
    """
    log = state.with_suffix(".log")
    own = ["--port", str(port), "--state", str(state)]
    process = start_process(
        [sys.executable, "-m", "local_sagemaker", *own, *arguments],
        log,
        {**os.environ, **environment},
        cwd=Path(__file__).resolve().parents[1],
    )
    wait_until_healthy(f"http://127.0.0.1:{port}/_local/health", process, log)
    return process


@contextmanager
def local_sagemaker_running(folder: Path, containers: Path, *arguments: str) -> Iterator[str]:
    """A local_sagemaker of its own for the length of a ``with`` block, beside a local cloud that
    the environment names; its URL."""
    port = free_port()
    process = start_local_sagemaker(
        port, folder / "sagemaker", "--containers", str(containers), *arguments, environment={}
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_process(process)


@contextmanager
def running(
    state: Path, containers: Path, sagemaker_arguments: tuple[str, ...] = ()
) -> Iterator[LocalCloud]:
    """A local cloud for the length of a ``with`` block."""
    cloud = LocalCloud(state=state, containers=containers, sagemaker_arguments=sagemaker_arguments)
    try:
        cloud.start()
        yield cloud
    finally:
        cloud.stop()
