"""Tenantry under other clocks: generation, intake, training and prediction depend on no fixed
year."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.demo.running import HAPPENS_WITHIN, RunningDemo

SOURCE = Path(__file__).with_name("other_clock.c")
REQUIRED_VARIABLE = "TENANTRY_COMPILER_REQUIRED"
AHEAD, BEHIND = 365, -730  # days
DAYS = pytest.mark.parametrize(
    "days", [AHEAD, pytest.param(BEHIND, marks=pytest.mark.slow)], ids="{:+} days".format
)


def clock(folder: Path, days: int) -> dict[str, str]:
    """The variables under which a program's clock goes wrong by so many days."""
    compiler = shutil.which("cc")
    if compiler is None:
        missing = "needs a C compiler: apt-get install gcc libc6-dev"
        if os.environ.get(REQUIRED_VARIABLE) == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    library = folder / "other_clock.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True
    )
    return {"LD_PRELOAD": str(library), "FAKETIME_SECONDS": str(days * 24 * 3600)}


@DAYS
def test_an_upload_is_made_taken_in_and_prepared_whatever_the_clock_says(
    tmp_path: Path, days: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.demo.under_another_clock", str(tmp_path / "cloud")],
        cwd=ROOT,
        env={**os.environ, **clock(tmp_path, days)},
        capture_output=True,
        text=True,
        check=False,
    )
    year = (datetime.now(UTC) + timedelta(days=days)).year
    assert done.stdout.splitlines()[-1:] == [f"{year}: 1 taken in, {28 * 24} rows"], done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
@DAYS
def test_the_demo_runs_whatever_the_clock_says(tmp_path: Path, days: int) -> None:
    environment = clock(tmp_path, days)
    demo = RunningDemo(tmp_path, "--tenants", "2", "--once", environment=environment)
    try:
        assert demo.process.wait(5 * HAPPENS_WITHIN) == 0, demo.said()
        assert "was told" in demo.said()
    finally:
        demo.end()
