"""A new workload's initial file, and a shell's completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from infrastructure.local_cloud import free_port
from tenantry.aws.deployment import Deployment
from tenantry.command_line.main import tenantry
from tenantry.workloads.folder import FOLDER, FOLDER_VARIABLE
from tenantry.workloads.schema import read_workloads
from tests.tenantry.command_line.conftest import Call, caller, document
from tests.tenantry.command_line.test_tenants import crown

ROOT = Path(__file__).resolve().parents[3]
ONBOARDED = """
import sys
from datetime import UTC, datetime, timedelta

from dagster import DagsterInstance

from containers.forecast.consumption.synthetic import generate
from tenantry.aws.deployment import Deployment
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import TenantClient
from tenantry.workloads.schema import read_workloads
from tests.orchestration.running import at_once, onboard, take_in

deployment, water = Deployment.from_stack(), read_workloads()["water"]
until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
rows = generate(1, until - timedelta(days=60), until).drop(columns="customer_id")
with TenantClient(deployment, water, ids.tenant_id("acme")) as client:
    client.upload({"consumption.csv": rows.to_csv(index=False).encode()})
    with DagsterInstance.ephemeral() as instance:
        take_in(deployment, instance)
        onboard(deployment, instance, at_once(water))
    (row,) = client.requests()
    assert row.status == "registered", (row.status, row.reason)
    print(len(client.predict({"period": 1})["mean"]))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of workloads."""
    path = tmp_path / "workloads"
    path.mkdir()
    monkeypatch.setenv(FOLDER_VARIABLE, str(path))
    return path


def test_a_new_workload_can_be_read_and_the_next_step_is_told(folder: Path) -> None:
    call = caller(None)
    shown = call("new-workload", "water").stdout
    assert shown.startswith(f"written: {folder}/water.yaml\n")
    assert "`tenantry upload TENANT FILES --workload water --wait`" in shown
    assert read_workloads()["water"].title == "Water"
    made = document(call("new-workload", "heat2", "--json"))
    assert made == {"format": 1, "workload": "heat2", "file": f"{folder}/heat2.yaml"}
    assert [*read_workloads()] == ["heat2", "water"]


@pytest.mark.parametrize(
    "container", sorted(path.parent.name for path in (ROOT / "containers").glob("*/Dockerfile"))
)
def test_every_container_has_a_file_to_begin_a_workload_from(folder: Path, container: str) -> None:
    caller(None)("new-workload", "water", "--container", container)
    made = read_workloads()["water"]
    assert (made.container, made.title) == (container, "Water")


def test_a_container_that_is_not_there_or_has_no_such_file_is_told_with_a_cure(
    folder: Path,
) -> None:
    call = caller(None)
    told = call("new-workload", "water", "--container", "smelter", status=1).stderr
    assert "there is no folder containers/smelter; make it, or name one that is there" in told
    told = call("new-workload", "water", "--container", "runtime", status=1).stderr
    assert "containers/runtime has no workload.yaml" in told
    assert "copy that of containers/example there" in told
    assert list(folder.iterdir()) == []


def test_a_bad_name_and_an_existing_file_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = caller(None)
    for name in ("Water", "hot-water", "../water", "1", "w" * 21, ""):
        assert (
            "is not a workload name; it must match" in call("new-workload", name, status=2).stderr
        )
    assert list(folder.iterdir()) == []
    (folder / "water.yaml").write_text("mine\n")
    refused = call("new-workload", "water", status=1).stderr
    assert f"{folder}/water.yaml is there already" in refused
    assert (folder / "water.yaml").read_text() == "mine\n"
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder / "none"))
    assert "there is no folder" in call("new-workload", "heat", status=1).stderr


def test_a_workload_whose_file_is_wrong_is_told_without_a_traceback(folder: Path) -> None:
    (folder / "water.yaml").write_text("name: water\n")
    refused = caller(None)("upload", "acme", __file__, "--workload", "water", status=1).stderr
    assert refused.startswith("Error: water.yaml:\n  line 1, title: is missing; add it")


def test_a_new_workload_trains_and_serves_as_it_is_written(
    folder: Path, deployment: Deployment
) -> None:
    caller(None)("new-workload", "water")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ONBOARDED],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "24"
    shown = caller(deployment)("tenants").stdout
    assert "water: 1 with a model; of mase, lower is better" in shown
    assert "registered" in shown


# ---- completion ----------------------------------------------------------------------------------


def completed(*words: str, deployment: Deployment | None = None) -> list[str]:
    """A shell's completions for the last word."""
    shell = ShellComplete(tenantry, {"obj": deployment}, "tenantry", "_TENANTRY_COMPLETE")
    return [item.value for item in shell.get_completions([*words[:-1]], words[-1])]


def test_a_shell_completes_commands_workloads_and_tenants(
    call: Call, deployment: Deployment
) -> None:
    assert completed("ten") == ["tenants", "tenant"]
    assert completed("status", "e") == ["energy"]
    assert completed("ask", "acme", "{}", "--workload", "") == sorted(
        path.stem for path in FOLDER.glob("*.yaml")
    )
    crown(deployment, "acme", days=1)
    crown(deployment, "acme-2", days=1)
    crown(deployment, "bolt", days=1)
    assert completed("tenant", "ac", deployment=deployment) == ["acme", "acme-2"]
    assert completed("ask", "") == ["acme", "acme-2", "bolt"]


def test_a_shell_hears_of_no_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    assert completed("tenant", "ac") == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_gives_a_shell_its_completion(shell: str) -> None:
    script = str(Path(sys.executable).parent / "tenantry")
    done = subprocess.run(
        [script],
        env={**os.environ, "_TENANTRY_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_tenantry_completion" in done.stdout
    if shell != "bash":
        return
    asked = {"_TENANTRY_COMPLETE": "bash_complete", "COMP_WORDS": "tenantry pa", "COMP_CWORD": "1"}
    done = subprocess.run(
        [script], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "plain,pause\n"
