"""Work in a separate process: its results come back, and it never outlives the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from demo.own_process import ProcessKilledError, call_in_own_process

ROOT = Path(__file__).resolve().parents[2]
WAITS = """
import time
from demo.own_process import call_in_own_process
if __name__ == "__main__":
    call_in_own_process(time.sleep, 600)
"""


def test_what_is_returned_or_raised_comes_back() -> None:
    assert call_in_own_process(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match="no number"):
        call_in_own_process(int, "no number")
    with pytest.raises(ProcessKilledError, match="killed"):
        call_in_own_process(os._exit, 1)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_process_that_waits_for_it(end: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", WAITS], cwd=ROOT) as waiting:
        process = psutil.Process(waiting.pid)
        children: list[psutil.Process] = []
        while len(children) < 2:  # the worker, and multiprocessing's own process
            assert waiting.poll() is None
            children = process.children()
        waiting.send_signal(end)
        waiting.wait(60)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
