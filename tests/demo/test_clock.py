"""The whole demo under other clocks: data that are made, taken in, trained and predicted from know no fixed year."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.demo.running import HAPPENS_WITHIN, RunningDemo

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime: apt-get install faketime")
@pytest.mark.parametrize("days", [-730, 365], ids="{:+} days".format)
def test_the_demo_runs_whatever_the_clock_says(tmp_path: Path, days: int) -> None:
    clock = {"LD_PRELOAD": str(LIBRARY), "FAKETIME": f"{days:+}d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    demo = RunningDemo(tmp_path, "--tenants", "2", "--once", environment=clock)
    try:
        assert demo.process.wait(5 * HAPPENS_WITHIN) == 0, demo.said()
        assert "was told" in demo.said()
    finally:
        demo.end()
