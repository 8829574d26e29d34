"""A demo in a separate process, with its state in a test's folder, and the demo's processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from infrastructure.local_cloud import free_port

ROOT = Path(__file__).resolve().parents[2]
# The demo's own main, with its state in the test's folder instead of the checkout's.
DEMO = (
    "import sys, pathlib, demo.__main__ as m; m.STATE = pathlib.Path(sys.argv.pop()); "
    "sys.exit(m.main())"
)
HAPPENS_WITHIN = 240.0  # seconds; a busy machine starts processes slowly


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class RunningDemo:
    """A demo in a separate process."""

    def __init__(
        self, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder / "state-of-this-test"
        self.output = folder / f"output-{uuid.uuid4().hex}.txt"
        self.port = free_port()
        command = [
            sys.executable,
            "-c",
            DEMO,
            *arguments,
            "--port",
            str(self.port),
            str(self.folder),
        ]
        with self.output.open("wb") as sink:
            self.process = subprocess.Popen(
                command,
                stdout=sink,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                # A shell starts a script's background jobs this way.
                preexec_fn=_ignore_interrupts,
            )

    def processes(self) -> dict[int, str]:
        """The processes that have the test's folder in their command line or environment, with
        their command lines."""
        found = {}
        for process in psutil.process_iter():
            try:
                command = process.cmdline()
                if any(
                    str(self.folder) in text for text in (*command, *process.environ().values())
                ):
                    found[process.pid] = " ".join(command)
            except psutil.Error:  # it ended during the check
                continue
        return found

    def wait(self, happened: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + HAPPENS_WITHIN
        while not happened():
            assert time.monotonic() < deadline, (
                f"{what} did not come about: {self.processes()}\n{self.said()}"
            )
            time.sleep(0.2)

    def wait_for_process(self, words: str) -> None:
        """Wait until a process runs whose command line contains ``words``."""

        def there() -> bool:
            assert self.process.poll() is None, self.said()
            return any(words in command for command in self.processes().values())

        self.wait(there, words)

    def said(self) -> str:
        return self.output.read_text()

    def end(self) -> None:
        """Kill it and all its remaining processes."""
        self.process.kill()
        self.process.wait()
        for pid in self.processes():
            psutil.Process(pid).kill()
