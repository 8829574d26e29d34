"""After any kills, losses and refusals, every upload has exactly one end, and all records agree
about it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.world import ROOT, command_of


def run_seed(folder: Path, seed: int, tenants: int, rest_seconds: int) -> dict[str, Any]:
    """Run one seed in a separate process, because the world replaces the environment. Its output is
    printed again."""
    command = command_of(seed, tenants, folder, rest_seconds)
    done = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    print(done.stdout[-20_000:], done.stderr[-5_000:])
    assert done.returncode in {0, 1}, done.stderr[-5_000:]
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


@pytest.mark.timeout(700)
def test_few_tenants_and_one_kill_of_each_kind(tmp_path: Path) -> None:
    # A release whose update found no machine is tried again within five minutes.
    summary = run_seed(tmp_path, seed=4, tenants=12, rest_seconds=340)
    assert summary["wrong"] == {}
    assert summary["left_over"] == []
    assert {"run", "daemon", "code_server", "sagemaker"} <= summary["kills"].keys()
    assert summary["counts"]["requests registered"] >= 8


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_tenants_and_several_kills_of_each_kind(tmp_path: Path) -> None:
    summary = run_seed(tmp_path, seed=1, tenants=200, rest_seconds=600)
    assert summary["wrong"] == {}
    assert summary["left_over"] == []
    assert set(summary["kills"]) == {
        "run",
        "daemon",
        "code_server",
        "sagemaker",
        "training",
        "serving",
    }
    assert summary["counts"]["requests registered"] >= 140
    # Training containers are killed several times, and the tasks of a pack are retried together.
    assert summary["counts"].get("requests dead_lettered", 0) <= 40
