"""The benchmark's load generator counts the server's real answers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.containers.runtime.serving import ROOT, Server, folder_model, free_port, serving


def generate(port: int, *requests: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    plan = {"port": port, "clients": 3, "seconds": 0.3, "requests": requests}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.http_load"],
        cwd=ROOT,
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def answers(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.status()["answers"]
    return found


def test_every_answer_is_counted_and_refusals_apart(tmp_path: Path) -> None:
    with serving(tmp_path, SAGEMAKER_MULTI_MODEL="true") as server:
        server.load("m", folder_model(tmp_path / "m"))
        before = answers(server)
        good = {"path": "/models/m/invoke", "body": '{"add": 1}'}
        figures = json.loads(
            generate(server.port, good, {**good, "path": "/models/nobody/invoke"}).stdout
        )
        after = answers(server)
        # The server may answer a client's last request after the generator stopped listening.
        answered = after["200"] - before["200"] + after["404"]
        assert 0 <= answered - 1 - figures["requests"] <= 3
        assert 0 <= after["404"] - figures["refused"] <= 3
        assert 0 < figures["p50_ms"] <= figures["p99_ms"]


def test_without_a_server_it_fails() -> None:
    result = generate(free_port(), {"path": "/", "body": ""})
    assert result.returncode != 0
    assert "Connect" in result.stderr
