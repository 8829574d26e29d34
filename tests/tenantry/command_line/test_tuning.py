"""``tenantry tune-batching``: a container of the test's own as a process, under load, with a
champion's archive."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest
import yaml

from infrastructure.local_cloud import LocalCloud
from tenantry.aws.deployment import Deployment
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.workloads.folder import FOLDER
from tests.conftest import ROOT, TrainedForecast
from tests.tenantry.command_line.conftest import Call, caller, document
from tests.tenantry.onboarding.registration import route_to, trained_version

SERVE = '''#!/usr/bin/env python3
import json, os, sys, threading, time
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from containers.runtime.serving.predictor import Answer, InvalidRequestError
from containers.runtime.serving.server import main

LOCK = threading.Lock()


class Slow:
    """One pass at a time. It costs far less for a batch, so that a busy machine does not decide."""

    family = "together"

    def start(self):
        if "FAULT" in os.environ:
            raise ValueError("FAULT is set")

    def load(self, folder):
        return json.loads((folder / "card.json").read_bytes())

    def size(self, model):
        return 1000

    def predict(self, model, body, content_type, accept):
        if json.loads(body).get("period", 1) != 1:
            raise InvalidRequestError("'period' must be 1", "period")
        with LOCK:
            time.sleep(0.1)
        return Answer(b"{}")

    def predict_batch(self, questions):
        time.sleep(0.01)
        return [Answer(b"{}")] * len(questions)


class BySelf(Slow):
    predict_batch = property()

    async def predict(self, model, body, content_type, accept):
        return Answer(b"{}")


sys.exit(main(BySelf() if "BY_ITSELF" in os.environ else Slow()))
'''
"""The program of the container ``together``."""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of workloads in which ``together`` serves energy."""
    serve = tmp_path / "containers" / "together" / "serve"
    serve.parent.mkdir(parents=True)
    serve.write_text(SERVE)
    serve.chmod(0o755)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "workloads"
    folder.mkdir()
    text = (FOLDER / "energy.yaml").read_text()
    (folder / "energy.yaml").write_text(
        text.replace("serving:\n", "serving:\n  container: together # the test's own\n", 1)
    )
    shutil.copy(FOLDER / "portraits.yaml", folder)
    monkeypatch.setenv("TENANTRY_WORKLOADS", str(folder))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return folder


@pytest.fixture
def tenant(deployment: Deployment, trained_forecasts: list[TrainedForecast]) -> ids.TenantId:
    """A tenant with a champion."""
    name = ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")
    model = trained_version(deployment, name, 1, trained_forecasts[0].archive, {})
    ModelRegistry(deployment).crown(model, route_to("e", model), None)
    return name


def edit(files: Path, old: str, new: str) -> None:
    file = files / "energy.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_the_batch_is_raised_and_the_best_written_into_the_file(
    call: Call, files: Path, tenant: ids.TenantId
) -> None:
    before = (files / "energy.yaml").read_text()
    quick = ("--clients", "8", "--seconds", "0.5")
    tried = call("tune-batching", "energy", *quick, "--tenant", tenant, "--dry-run").stdout
    assert f"energy, {tenant}, version " in tried
    rows = [line.split() for line in tried.splitlines()]
    assert [row[0] for row in rows if row and row[0] in {"1", "2", "4"}][:2] == ["1", "2"]
    assert "batching: {max_batch: " in tried
    assert (files / "energy.yaml").read_text() == before

    found = document(call("tune-batching", "energy", *quick, "--max-wait-ms", "3", "--json"))
    assert (found["tenant"], found["changed"]) == (tenant, True)
    first, second, *_ = found["measured"]
    assert (first["max_batch"], second["max_batch"]) == (1, 2)
    assert first["mean_batch"] == 1
    assert second["mean_batch"] > 1
    assert 0 < first["p50_ms"] <= first["p95_ms"]
    assert second["requests_per_second"] > first["requests_per_second"]
    text = (files / "energy.yaml").read_text()
    assert yaml.safe_load(text)["serving"]["batching"] == found["best"]
    assert found["best"]["max_wait_ms"] == 3
    assert "".join(line for line in text.splitlines(True) if "batching:" not in line) == before
    assert not [*files.parent.glob("tenantry-tuning-*")]


def test_what_cannot_be_tuned_is_refused_before_anything_is_measured(
    call: Call, files: Path
) -> None:
    nobody = call("tune-batching", "energy", status=1).stderr
    assert "no tenant has a model of energy yet; `tenantry upload" in nobody
    missing = call("tune-batching", "energy", "--tenant", "nobody", status=1).stderr
    assert "nobody has no energy model yet" in missing
    edit(files, "silo: single_model", "silo: serverless")
    serverless = call("tune-batching", "energy", status=1).stderr
    assert "hosting.silo is serverless: A serverless endpoint gives each request" in serverless
    edit(files, "  container: together # the test's own\n", "")
    none = call("tune-batching", "energy", status=1).stderr
    assert "energy takes no batches: no module of containers/forecast defines" in none
    assert "docs/adding-a-workload.md tells how to write it" in none
    assert "containers/diffusion" in call("tune-batching", "portraits", status=1).stderr


def test_a_container_that_cannot_be_measured_says_why(
    call: Call, files: Path, tenant: ids.TenantId
) -> None:
    before = (files / "energy.yaml").read_text()
    asked = call("tune-batching", "energy", "--request", '{"period": 2}', status=1).stderr
    assert "batches of 1 cannot be measured" in asked
    assert "\"'period' must be 1\"" in asked
    edit(files, "  instances: 1\n  smoke", "  instances: 1\n  environment: {FAULT: x}\n  smoke")
    started = call("tune-batching", "energy", status=1).stderr
    assert "the container ended as it started: serving_failed: FAULT is set" in started
    serve = files.parent / "containers" / "together" / "serve"
    serve.chmod(0o644)
    forbidden = call("tune-batching", "energy", status=1).stderr
    assert "together/serve cannot be started: Permission denied" in forbidden
    serve.chmod(0o755)
    edit(files, "{FAULT: x}", "{BY_ITSELF: x}")
    itself = call("tune-batching", "energy", status=1).stderr
    assert "batches the requests in flight by itself, so there is nothing to tune" in itself
    assert "batching:" not in before + (files / "energy.yaml").read_text()


@pytest.mark.parametrize(
    "options",
    [("--clients", "3"), ("--seconds", "0"), ("--max-wait-ms", "1001"), ("--request", "[]")],
)
def test_a_wrong_option_is_refused(files: Path, options: tuple[str, str]) -> None:
    caller(None)("tune-batching", "energy", *options, status=2)


def test_a_file_that_cannot_be_changed_is_told_what_to_say(
    call: Call, files: Path, tenant: ids.TenantId
) -> None:
    (files / ".energy.yaml.new").mkdir()
    quick = ("--clients", "4", "--seconds", "0.5")
    refused = call("tune-batching", "energy", *quick, status=1)
    assert "energy.yaml cannot be written: Is a directory" in refused.stderr
    assert "write below serving: batching: {max_batch: 2, max_wait_ms: 0}" in refused.stderr
    assert "requests/s" in refused.stdout, "what was measured is not lost"


def containers_of(pid: int) -> list[psutil.Process]:
    """The containers that a process has started."""
    children = psutil.Process(pid).children()
    return [one for one in children if any("together/serve" in word for word in one.cmdline())]


def connected(container: psutil.Process) -> int:
    """How many clients it has."""
    return [one.status for one in container.net_connections()].count(psutil.CONN_ESTABLISHED)


@pytest.mark.parametrize("connections", [0, 32], ids=["as it starts", "under load"])
def test_an_interrupt_leaves_no_container_and_no_files(
    connections: int, files: Path, tenant: ids.TenantId, local_cloud: LocalCloud
) -> None:
    script = str(Path(sys.executable).parent / "tenantry")
    process = subprocess.Popen(
        [script, "tune-batching", "energy", "--seconds", "600"],
        env={**os.environ, **local_cloud.environment, "PYTHONPATH": f"{files.parent}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (found := containers_of(process.pid)) or connected(found[0]) < connections:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, said
    assert "Interrupted." in said
    assert not any(one.is_running() for one in found)
    assert not [*files.parent.glob("tenantry-tuning-*")]
