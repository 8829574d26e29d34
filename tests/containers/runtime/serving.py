"""A server of the tiny family in a separate process, and a client for it."""

import http.client
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[3]


class Server:
    """A running server; every call opens a new connection."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process = process
        self.port = port

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and answer. A body that is not bytes is sent as JSON; a JSON answer is parsed."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=100)
        try:
            connection.request(
                method, path, content, {"Content-Type": "application/json", **(headers or {})}
            )
            response = connection.getresponse()
            answer = response.read()
            if response.headers.get_content_type() == "application/json":
                return response.status, json.loads(answer)
            return response.status, answer
        finally:
            connection.close()

    def load(self, name: str, url: Path) -> tuple[int, Any]:
        return self.call("POST", "/models", {"model_name": name, "url": str(url)})

    def invoke(self, name: str, body: Any) -> tuple[int, Any]:
        return self.call("POST", f"/models/{quote(name, safe='')}/invoke", body)

    def status(self) -> dict[str, Any]:
        status, document = self.call("GET", "/_status")
        assert status == 200
        assert isinstance(document, dict)
        return document

    def until(self, true: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until the server's status fulfils a condition."""
        deadline = time.monotonic() + 20
        while not true(self.status()):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def free_port() -> int:
    """A port without a listener at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(
    base: Path, port: int, kind: str = "serve", **environment: str
) -> "subprocess.Popen[str]":
    """Start a server process over the layout at `base`."""
    surroundings = {
        **os.environ,
        "SAGEMAKER_BASE_DIR": str(base),
        "SAGEMAKER_BIND_TO_PORT": str(port),
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.containers.runtime.tiny_family", kind],
        cwd=ROOT,
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def serving(base: Path, kind: str = "serve", **environment: str) -> Iterator[Server]:
    """A server that answers /ping; the end of the block stops it."""
    port = free_port()
    process = start(base, port, kind, **environment)
    server = Server(process, port)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                assert server.call("GET", "/ping") == (200, {})
                break
            except OSError:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield server
    finally:
        process.kill()
        process.communicate()


def folder_model(folder: Path, mean: float = 1.0, **fields: Any) -> Path:
    """A model as an extracted archive."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps({"mean": mean, **fields}))
    return folder


def archive_model(path: Path, mean: float = 1.0, **fields: Any) -> Path:
    """A model as an archive file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"mean": mean, **fields}).encode()
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo("model.json")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return path
