"""Kills the processes of an emulator that died abruptly (SIGKILL).

It runs as a separate process, `python watcher.py TOKEN [COMMAND …]`, in its own session. Its
standard input ends when the emulator ends for any reason. It then kills every process whose
environment holds `LOCAL_SAGEMAKER_PROCESS=TOKEN`. Containers and all their descendants have that
variable, also those that left the process group. Last it runs the command, which removes the
leftovers of containers from images.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence

PROCESS_VARIABLE = "LOCAL_SAGEMAKER_PROCESS"
STATE_VARIABLE = "LOCAL_SAGEMAKER_STATE"
CONTAINER_VARIABLE = "LOCAL_SAGEMAKER_CONTAINER"


def kill_processes_with(variable: str, value: str, but_not: str | None = None) -> int:
    """Kill (SIGKILL) every process with this environment variable until none is left; returns the
    number killed.

    Processes of the emulator `but_not` are spared.
    """
    import psutil  # imported late, because the watcher needs it only at its end

    killed = 0
    for _ in range(100):
        found = 0
        for process in psutil.process_iter():
            if process.pid == os.getpid():
                continue
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                if (
                    environment.get(variable) != value
                    or environment.get(PROCESS_VARIABLE) == but_not
                ):
                    continue
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                process.kill()
                found += 1
        killed += found
        if not found:
            break
        time.sleep(0.02)
    return killed


def clean_up(command: Sequence[str]) -> None:
    """Run the command that removes containers' leftovers, if any; ignore its failure."""
    if command:
        subprocess.run(command, stdin=subprocess.DEVNULL, check=False)


if __name__ == "__main__":
    while os.read(0, 4096):
        pass
    kill_processes_with(PROCESS_VARIABLE, sys.argv[1])
    clean_up(sys.argv[2:])
