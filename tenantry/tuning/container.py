"""A workload's serving container as a process on this machine, with one model."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from tenantry.errors import TenantryError
from tenantry.workloads.code import container_file

START_SECONDS: Final = 600.0
"""The longest wait for a container that starts; a large base takes minutes."""
_CALL_SECONDS: Final = 120.0
_MODEL: Final = "model"
_KEPT: Final = ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")
_INVOKE: Final = f"/models/{_MODEL}/invoke"


class ContainerFailedError(TenantryError, RuntimeError):
    """The container did not start, or refused the model or the request; the message has its
    words."""


@dataclass(frozen=True)
class ServingContainer:
    """A running container. A request for its model is a POST to ``path`` on ``port``."""

    port: int
    path: str = _INVOKE

    def load(self, archive: Path) -> None:
        """Load the model. Raises ``ContainerFailedError``."""
        self._expect("POST", "/models", {"model_name": _MODEL, "url": str(archive)})

    def ask(self, request: Mapping[str, Any]) -> None:
        """Ask the model once. Raises ``ContainerFailedError`` for another answer than 200."""
        self._expect("POST", self.path, dict(request))

    def batching(self) -> Mapping[str, Any]:
        """The server's figures about its batches (docs/contracts.md)."""
        found: Mapping[str, Any] = json.loads(self._expect("GET", "/_status"))["batching"]
        return found

    def answers_ping(self) -> bool:
        """Whether it is ready."""
        try:
            return self._call("GET", "/ping", None)[0] == 200
        except OSError:
            return False

    def _call(self, method: str, path: str, document: Any) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_CALL_SECONDS)
        try:
            body = None if document is None else json.dumps(document)
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _expect(self, method: str, path: str, document: Any = None) -> bytes:
        try:
            status, content = self._call(method, path, document)
        except (OSError, http.client.HTTPException) as error:
            raise ContainerFailedError(
                f"the container does not answer {method} {path}: {type(error).__name__}"
            ) from error
        if status != 200:
            raise ContainerFailedError(
                f"the container answers {method} {path} with {said(content)}"
            )
        return content


def said(content: bytes) -> str:
    """The message of an error's answer."""
    try:
        message = json.loads(content)["error"]["message"]
    except (ValueError, TypeError, LookupError):
        return "an error that is no JSON of its contract"
    return repr(str(message)[:500])


@contextmanager
def serving_container(container: str, environment: Mapping[str, str]) -> Iterator[ServingContainer]:
    """Run ``containers/{container}/serve`` for the length of a ``with`` block.

    It speaks the multi-model contract, on loopback. Its processes end with the block.

    Args:
        container: the folder's name.
        environment: the container's variables.

    Raises:
        ContainerFailedError: there is no such program, or it ended before it was ready.
    """
    program = container_file(container, "serve")
    if program is None:
        raise ContainerFailedError(f"containers/{container} has no program serve")
    port = _free_port()
    process: subprocess.Popen[bytes] | None = None
    with tempfile.TemporaryDirectory(prefix="tenantry-tuning-") as base:
        log = Path(base) / "log"
        try:
            with log.open("wb") as output, _interrupts_wait():
                process = _started(program, _surroundings(environment, base, port), output)
            running = ServingContainer(port)
            _wait_for(process, running, log)
            yield running
        finally:
            if process is not None:
                _end(process)


def _started(
    program: Path, environment: Mapping[str, str], output: IO[bytes]
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [str(program)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    except OSError as error:
        raise ContainerFailedError(f"{program} cannot be started: {error.strerror}") from error


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Let an interrupt take effect at the end of the block. A process that is being started could
    else be lost, and live on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived = list[int]()
    before = {
        number: signal.signal(number, lambda number, _: arrived.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if arrived:
        raise KeyboardInterrupt


def _surroundings(environment: Mapping[str, str], base: str, port: int) -> dict[str, str]:
    """The container's variables: as on the local cloud, with this Python first in its PATH."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith(("AWS_", "PYTHON"))
    }
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return {
        **kept,
        "PATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        **environment,
        "SAGEMAKER_BASE_DIR": base,
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "SAGEMAKER_MULTI_MODEL": "true",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(process: subprocess.Popen[bytes], running: ServingContainer, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not running.answers_ping():
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise ContainerFailedError(f"the container ended as it started: {lines[-1][:500]}")
        if time.monotonic() >= deadline:
            raise ContainerFailedError(f"the container was not ready within {START_SECONDS:.0f} s")
        time.sleep(0.05)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the container with all processes that it started. A measurement has nothing to save."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
