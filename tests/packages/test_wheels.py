"""Each wheel installs into an empty environment, and works there as its page says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from infrastructure.local_cloud import end_of_log, free_port, start_process, stop_process
from tenantry.aws.deployment import Deployment
from tests.packages.wheels import CLIENT, LOCAL, PIPES, ROOT, build_wheel, readme

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

INSTALL_SECONDS: Final = 1200
RUN_SECONDS: Final = 600
NO_MORE_THAN: Final = {LOCAL: (40, 160), PIPES: (65, 190), CLIENT: (15, 60)}
"""Most distributions and megabytes in a wheel's environment."""

TELLS: Final = """
import importlib.metadata, json
names, size = set(), 0
for found in importlib.metadata.distributions():
    name = found.metadata["Name"].lower().replace("_", "-")
    if name not in {"pip", "setuptools"}:  # they come with the environment
        names.add(name)
        paths = map(found.locate_file, found.files or [])
        size += sum(path.stat().st_size for path in paths if path.is_file())
print(json.dumps([sorted(names), round(size / 1e6)]))
"""
AS_AN_APP: Final = """
from tenantry import Deployment, NoModelYetError, TenantClient, read_workloads, tenant_id
energy = read_workloads()["energy"]
with TenantClient(Deployment.from_stack(), energy, tenant_id("acme")) as client:
    client.upload({"consumption.csv": b"timestamp,consumption"}, {"timezone": "Europe/London"})
    print(client.requests())
    try:
        client.predict({"hours": 24})
    except NoModelYetError as error:
        print(error)
"""


class Environment:
    """A separate environment that contains only the installed packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=300)

    def variables(self, **more: str) -> dict[str, str]:
        """The variables of a process in it, without this test's own."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "DAGSTER_", "PYTHON", "TENANTRY_", "VIRTUAL_ENV"))
        }
        kept["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {**kept, **more}

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of its commands, outside the repository."""
        return subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            cwd=self.folder,
            env=self.variables(**variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=RUN_SECONDS,
        )

    def install(self, *requirements: str) -> None:
        """Install from pip's configured index."""
        command = ["python", "-m", "pip", "install", "--quiet", *requirements]
        done = subprocess.run(
            [str(self.folder / "bin/python"), *command[1:]],
            env=self.variables(),
            capture_output=True,
            text=True,
            check=False,
            timeout=INSTALL_SECONDS,
        )
        assert done.returncode == 0, done.stderr

    def holds_little(self, folder: str) -> list[str]:
        """Its distributions, after a check that they are few and small."""
        done = self.run("python", "-c", TELLS)
        names, megabytes = json.loads(done.stdout)
        sys.stdout.write(f"{folder}: {len(names)} distributions, {megabytes} MB: {names}\n")
        most, largest = NO_MORE_THAN[folder]
        assert len(names) <= most
        assert megabytes <= largest
        return list(names)


@pytest.mark.parametrize("folder", [LOCAL, PIPES])
def test_a_wheel_alone_does_what_its_readme_says(folder: str, tmp_path: Path) -> None:
    page = readme(folder)
    wheels = {f"./{name}": str(build_wheel(name, tmp_path / name)) for name in (LOCAL, PIPES)}
    environment = Environment(tmp_path / "environment")
    environment.install(wheels[f"./{folder}"])
    environment.holds_little(folder)
    checked = environment.run("python", "-m", "pip", "check")
    assert checked.returncode == 0, checked.stdout
    environment.install(*(wheels.get(word, word) for word in page.installed))

    place = tmp_path / "place"
    for path, text in page.files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text, encoding="utf-8")
    commands = page.commands
    for port in ("4566", "4570"):
        commands = commands.replace(port, str(free_port()))
    (place / "commands.sh").write_text(f"set -eu\n{commands}", encoding="utf-8")
    log = tmp_path / "log"
    process = start_process(
        ["bash", "commands.sh"], log, environment.variables(HOME=str(place)), cwd=place
    )
    try:
        status = process.wait(RUN_SECONDS)
    finally:
        stop_process(process, grace=20)
    assert status == 0, end_of_log(log, 60)
    said = log.read_text().splitlines()
    assert [line for line in page.printed.splitlines() if line not in said] == []


def test_the_bare_client_speaks_for_a_tenant(deployment: Deployment, tmp_path: Path) -> None:
    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    environment = Environment(tmp_path / "environment")
    environment.install(str(build_wheel(CLIENT, tmp_path)))
    needed = {"boto3", "opentelemetry-api", "pydantic", "pyyaml", "tenantry"}
    assert needed <= set(environment.holds_little(CLIENT))

    place = str(ROOT / "workloads")
    done = environment.run("python", "-c", AS_AN_APP, **aws, TENANTRY_WORKLOADS=place)
    assert done.returncode == 0, done.stderr
    assert "acme has no energy model yet; none of its uploads has been taken in" in done.stdout
    kept = deployment.s3.list_objects_v2(Bucket=deployment.uploads_bucket)["Contents"]
    assert any("consumption.csv" in entry["Key"] for entry in kept)

    without = environment.run("python", "-c", AS_AN_APP, **aws)
    assert "set TENANTRY_WORKLOADS to the folder" in without.stderr
    script = environment.run("tenantry", "--help")
    assert script.returncode == 1
    assert "pip install 'tenantry[cli]'" in script.stderr
    environment.install("click", "rich")
    assert environment.run("tenantry", "--help").returncode == 0
