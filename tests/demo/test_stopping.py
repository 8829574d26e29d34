"""After any end of the demo, no process remains: neither Dagster's, nor the local cloud's, nor a
container's."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo.running import HAPPENS_WITHIN, RunningDemo


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[RunningDemo]:
    running = RunningDemo(tmp_path, "--tenants", "1", "--once")
    try:
        yield running
    finally:
        running.end()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT]
)
def test_a_demo_stopped_while_a_model_trains_leaves_no_process_behind(
    demo: RunningDemo, how: signal.Signals
) -> None:
    demo.wait_for_process("forecast/train")
    demo.process.send_signal(how)
    assert demo.process.wait(HAPPENS_WITHIN) == 130, demo.said()
    assert demo.processes() == {}
    assert "nothing is left running" in demo.said()
    lines = demo.said().splitlines()
    assert any(line.endswith("Starting the local cloud …") for line in lines)
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in demo.said(), "a log has no colours"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_demo_that_was_killed_takes_its_processes_along(demo: RunningDemo) -> None:
    demo.wait(lambda: "The Dagster UI is open" in demo.said(), "Dagster")
    assert len(demo.processes()) > 4
    demo.process.kill()
    demo.process.wait()
    demo.wait(lambda: not demo.processes(), "the end of all processes")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_demo_that_has_shown_everything_ends_well_and_leaves_no_process_behind(
    demo: RunningDemo,
) -> None:
    assert demo.process.wait(HAPPENS_WITHIN) == 0, demo.said()
    assert "first forecast" in demo.said()
    assert demo.processes() == {}
