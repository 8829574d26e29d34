"""The whole demo under other clocks: generation, intake, training and prediction depend on no fixed
year."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.demo.running import HAPPENS_WITHIN, RunningDemo

COMPILER = shutil.which("cc")
SOURCE = Path(__file__).with_name("other_clock.c")
DAY = 24 * 3600


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler: apt-get install gcc libc6-dev")
@pytest.mark.parametrize("days", [-730, 365], ids="{:+} days".format)
def test_the_demo_runs_whatever_the_clock_says(tmp_path: Path, days: int) -> None:
    library = tmp_path / "other_clock.so"
    subprocess.run(
        [str(COMPILER), "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True
    )
    clock = {"LD_PRELOAD": str(library), "OTHER_CLOCK_SECONDS": str(days * DAY)}
    demo = RunningDemo(tmp_path, "--tenants", "2", "--once", environment=clock)
    try:
        assert demo.process.wait(5 * HAPPENS_WITHIN) == 0, demo.said()
        assert "was told" in demo.said()
    finally:
        demo.end()
