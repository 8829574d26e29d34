"""However the demo ends, it leaves no process behind: not Dagster's, not the local cloud's, not a container's."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infrastructure.local_cloud import free_port

ROOT = Path(__file__).resolve().parents[2]
# The demo's own main, with its state in the test's folder instead of the checkout's.
DEMO = "import sys, pathlib, demo.__main__ as m; m.STATE = pathlib.Path(sys.argv.pop()); sys.exit(m.main())"
_HAPPENS_WITHIN = 240.0  # seconds; a busy machine starts processes slowly


class RunningDemo:
    """A demo of one tenant in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "state-of-this-test"
        self.output = folder / "output.txt"
        command = [sys.executable, "-c", DEMO, "--tenants", "1", "--once", "--port", str(free_port()), str(self.folder)]
        with self.output.open("wb") as sink:
            self.process = subprocess.Popen(
                command, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT
            )

    def processes(self) -> dict[int, str]:
        """The processes that have the test's folder in their command line or environment, with their command lines."""
        found = {}
        for process in psutil.process_iter():
            try:
                command = process.cmdline()
                if any(str(self.folder) in text for text in (*command, *process.environ().values())):
                    found[process.pid] = " ".join(command)
            except psutil.Error:  # it ended while it was looked at
                continue
        return found

    def wait(self, happened: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _HAPPENS_WITHIN
        while not happened():
            assert time.monotonic() < deadline, f"{what} did not come about: {self.processes()}\n{self.said()}"
            time.sleep(0.2)

    def wait_for_process(self, words: str) -> None:
        """Wait until a process runs whose command line holds ``words``."""

        def there() -> bool:
            assert self.process.poll() is None, self.said()
            return any(words in command for command in self.processes().values())

        self.wait(there, words)

    def said(self) -> str:
        return self.output.read_text()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[RunningDemo]:
    running = RunningDemo(tmp_path)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()
        for pid in running.processes():
            psutil.Process(pid).kill()


@pytest.mark.timeout(600)
def test_a_demo_stopped_while_a_model_trains_leaves_no_process_behind(demo: RunningDemo) -> None:
    demo.wait_for_process("forecast/train")
    demo.process.send_signal(signal.SIGTERM)
    assert demo.process.wait(_HAPPENS_WITHIN) == 130, demo.said()
    assert demo.processes() == {}
    assert "nothing is left running" in demo.said()


@pytest.mark.timeout(600)
def test_a_demo_that_was_killed_takes_its_processes_along(demo: RunningDemo) -> None:
    demo.wait(lambda: "The Dagster UI is open" in demo.said(), "Dagster")
    assert len(demo.processes()) > 4
    demo.process.kill()
    demo.process.wait()
    demo.wait(lambda: not demo.processes(), "the end of all processes")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_demo_that_has_shown_everything_ends_well_and_leaves_no_process_behind(demo: RunningDemo) -> None:
    assert demo.process.wait(_HAPPENS_WITHIN) == 0, demo.said()
    assert "first forecast" in demo.said()
    assert demo.processes() == {}
