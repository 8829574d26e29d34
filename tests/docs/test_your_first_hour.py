"""Every command and snippet of "Your first hour", one after the other, beside a live Dagster."""

from __future__ import annotations

import os
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from orchestration.step_names import batch_step
from tests.conftest import ROOT, LiveDagster
from tests.docs.pages import blocks, run_commands

PAGE: Final = ROOT / "docs" / "your-first-hour.md"
BATCH: Final = "<!-- The test launches the batch here. -->"
_ENDED: Final = {"SUCCESS", "FAILURE", "CANCELED"}


def launch_batch(live: LiveDagster) -> None:
    day = datetime.now(UTC).date().isoformat()
    config = {"ops": {batch_step("energy"): {"config": {"day": day}}}}
    run = live.dagster.launch("energy_batch_predictions", config, {"tenantry/day": day})
    deadline = time.monotonic() + 300
    while (status := live.dagster.run_status(run)) not in _ENDED:
        assert time.monotonic() < deadline, status
        time.sleep(0.5)
    assert status == "SUCCESS", live.dagster.why_failed(run)


@pytest.mark.timeout(1500)
def test_every_command_and_snippet_of_the_page_works(
    live_dagster: LiveDagster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "workloads", tmp_path / "workloads")
    monkeypatch.setenv("TENANTRY_WORKLOADS", str(tmp_path / "workloads"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    said, names = "", dict[str, Any]()
    for language, block in blocks(PAGE, BATCH):
        if language == "console":
            said += run_commands(block, environment)
        elif language == BATCH:
            launch_batch(live_dagster)
        elif language == "python":
            exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102 - the page is ours
    assert "refused, as it should be" in said
    assert "Write ISO 8601" in said, "the refusal has its cure"
    assert len(names["forecast"]["mean"]) == len(names["week"]) == len(names["coming"]) == 7 * 24
    assert (tmp_path / "coming-week.png").is_file()
    assert names["days"]["kwh"].sum() == pytest.approx(names["week"]["mean"].sum(), abs=1)
    assert len(names["days"]) in (7, 8), "as many days as the clock shows"
    assert (tmp_path / "workloads" / "water.yaml").is_file()
