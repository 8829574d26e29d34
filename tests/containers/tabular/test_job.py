"""The container as SageMaker starts it: `train` makes an archive, `serve` answers from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from containers.tabular.synthetic import generate
from tests.containers.runtime.serving import Server, free_port
from tests.containers.tabular.churn import ROW, prepared_tenants

ROOT = Path(__file__).resolve().parents[3]
CONTAINER = ROOT / "containers" / "tabular"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of a job with one tenant's own model, and one task over all tenants' rows."""
    base = tmp_path_factory.mktemp("ml")
    channels = base / "input" / "data"
    prepared_tenants(channels / "training" / "all", generate(3, 300, 6, 4))
    entry = {"version": "v1", "tier": "pool", "shard": 0, "parameters": {}}
    tasks = [
        {**entry, "task": "t-own", "tenant": "own", "data": "all/tenant-0001/v1"},
        {**entry, "task": "t-all", "tenant": "all", "data": "all"},
    ]
    documents = {
        "input/config/resourceconfig.json": {"current_host": "algo-1", "hosts": ["algo-1"]},
        "input/config/hyperparameters.json": {"rounds": "20", "threads": "1"},
        "input/data/tasks/tasks.json": {
            "format": 1, "workload": "churn", "pack": "p-1", "tasks": tasks
        },
    }  # fmt: skip
    for path, document in documents.items():
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_text(json.dumps(document))
    done = subprocess.run(
        [sys.executable, str(CONTAINER / "train")],
        env={**os.environ, "SAGEMAKER_BASE_DIR": str(base)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return base


def test_both_tasks_leave_a_model(base: Path) -> None:
    cards = {}
    for tenant in ("own", "all"):
        outcome = json.loads((base / "checkpoints" / tenant / "v1.json").read_bytes())
        assert outcome["status"] == "succeeded"
        assert outcome["metrics"]["logloss"] < outcome["metrics"]["baseline_logloss"]
        cards[tenant] = outcome["card"]
    assert (cards["own"]["tenants"], cards["all"]["tenants"]) == (1, 3)


def test_a_multi_model_server_answers_from_the_archives(base: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(CONTAINER / "serve")],
        env={
            **os.environ,
            "SAGEMAKER_BASE_DIR": str(base),
            "SAGEMAKER_BIND_TO_PORT": str(port),
            "SAGEMAKER_MULTI_MODEL": "true",
        },
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with process:
        try:
            server = Server(process, port)
            _until_up(server)
            for tenant in ("own", "all"):
                archive = base / "checkpoints" / tenant / "v1.tar.gz"
                unpacked = base / "unpacked" / tenant
                unpacked.mkdir(parents=True)
                subprocess.run(["tar", "-xzf", archive, "-C", unpacked], check=True)
                assert server.load(tenant, unpacked) == (200, {})
                status, answer = server.invoke(tenant, {"rows": [{**ROW, "id": "c1"}]})
                assert (status, answer["ids"]) == (200, ["c1"])
                assert 0 < answer["scores"][0] < 1
            status, refused = server.invoke("own", {**ROW, "seats": -1})
            assert (status, refused["error"]["field"]) == (400, "seats")
            assert refused["error"]["reason"] == "out_of_range"
        finally:
            process.terminate()


def _until_up(server: Server) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if server.call("GET", "/ping")[0] == 200:
                return
        except OSError:
            pass
        assert time.monotonic() < deadline
        assert server.process.poll() is None
        time.sleep(0.05)
