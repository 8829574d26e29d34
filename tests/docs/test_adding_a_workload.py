"""The tutorial of a workload: its commands and snippets, from upload to answer on the local cloud,
and its excerpts from the example container."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import ROOT
from tests.docs.pages import blocks, run_commands

PAGE: Final = ROOT / "docs" / "adding-a-workload.md"
EXCERPT: Final = "# containers/"
DAGSTER: Final = """
import time

from dagster import DagsterInstance

from tenantry.aws.deployment import Deployment
from tenantry.workloads.schema import read_workloads
from tests.orchestration.running import at_once, onboard, take_in

deployment, workload = Deployment.from_stack(), at_once(read_workloads()["footfall"])
with DagsterInstance.ephemeral() as instance:
    while True:
        take_in(deployment, instance)
        onboard(deployment, instance, workload)
        time.sleep(0.2)
"""
"""The work of `make run`: the ticks of intake and launcher, and their runs."""


@contextmanager
def dagster_at_work(log: Path) -> Iterator[None]:
    command = [sys.executable, "-W", "ignore", "-c", DAGSTER]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
    try:
        yield
        assert process.poll() is None, log.read_text()[-3000:]
    finally:
        process.kill()
        process.wait()


def assert_excerpt(block: str) -> None:
    """Check that an excerpt appears unchanged in the file that its first line names."""
    first, _, text = block.partition("\n")
    assert text in (ROOT / first.removeprefix("# ")).read_text(), block


@pytest.mark.usefixtures("deployment")
def test_every_command_and_snippet_of_the_tutorial_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("workloads", "containers"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.setenv("TENANTRY_WORKLOADS", str(tmp_path / "workloads"))
    monkeypatch.chdir(tmp_path)
    environment = {  # the page uses the copy's containers
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
    }
    said, shown = "", 0
    with ExitStack() as stack:
        for language, block in blocks(PAGE):
            if language == "console":
                said = run_commands(block, environment)
                if "make run" in block:
                    stack.enter_context(dagster_at_work(tmp_path / "dagster.log"))
            elif block.startswith(EXCERPT):
                assert_excerpt(block)
            elif language == "python":
                snippet = [sys.executable, "-c", block]
                done = subprocess.run(
                    snippet, env=environment, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, done.stderr
                said = done.stdout
            else:
                assert " ".join(block.split()) in " ".join(said.split())
                shown += 1
    assert shown == 5, "what the page says that its commands print"
    assert (tmp_path / "workloads" / "visits.yaml").is_file()
