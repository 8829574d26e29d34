"""Actions of a parser that a hostile file controls; tests call them in a separate process."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.refused_data import RefusedDataError


@dataclass(frozen=True)
class Answer:
    """A dataclass, like the results of preparations."""

    said: str
    files: list[str]


def answer(files: list[Path], said: str) -> Answer:
    """The result of a successful call."""
    return Answer(said, [file.read_text() for file in files])


def refuse() -> None:
    """Refuse the data."""
    raise RefusedDataError(
        "Row 3 has no timestamp.", "timestamp", "Give it one.", "timestamp_missing"
    )


def fail(secret: str) -> None:
    """Raise an error that quotes the data."""
    raise KeyError(secret)


def eat_memory(megabytes: int) -> int:
    """Take memory step by step, like a file that expands."""
    taken = [bytearray(1 << 20) for _ in range(megabytes)]
    return len(taken)


_KEPT: list[bytearray] = []


def keep_memory(megabytes: int) -> int:
    """Take memory and never give it back."""
    _KEPT.append(bytearray(megabytes << 20))
    return megabytes


def memory_pool() -> str:
    """The allocator that Arrow reads files with."""
    import pyarrow as pa

    return str(pa.default_memory_pool().backend_name)


def process_number() -> int:
    """This process's id."""
    return os.getpid()


def eat_memory_and_call_it_refused() -> None:
    """Take memory, and report the error as a fault of the data."""
    try:
        eat_memory(1 << 20)
    except MemoryError as error:
        raise RefusedDataError("It is no table.", "files", "Write it anew.") from error


def burn() -> None:
    """Compute for ever."""
    while True:
        pass


def hang() -> None:
    """Wait for ever."""
    threading.Event().wait()


def wait_for(file: Path) -> str:
    """Wait until a file exists."""
    while not file.exists():
        time.sleep(0.01)
    return "gone on"


def segfault() -> None:
    """Read from an invalid address."""
    ctypes.string_at(0)


def abort() -> None:
    """End like C++ on an uncaught exception."""
    os.abort()


def exit_at_once() -> None:
    """End without any message."""
    os._exit(0)


def kill_itself() -> None:
    """End as if the kernel's out-of-memory killer struck."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(marker: Path, how: str) -> str:
    """Die in the first call, which leaves a marker, and answer the second."""
    if marker.exists():
        return "answered"
    marker.touch()
    if how == "exit":
        os._exit(1)
    os.kill(os.getpid(), signal.SIGSEGV if how == "segfault" else signal.SIGKILL)
    return "never"


def kill_its_keeper() -> None:
    """Kill the process that supervises this one."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def leave_a_process(pid_file: Path) -> str:
    """Start a process in its own session, which continues after this one."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    pid_file.write_text(str(process.pid))
    return "done"


def fill_the_disk(folder: Path) -> None:
    """Write without end."""
    with (folder / "large").open("wb") as file:
        while True:
            file.write(bytes(1 << 20))


def environment() -> dict[str, Any]:
    """This process's variables."""
    return dict(os.environ)


def answer_without_end() -> str:
    """Return more than a caller reads."""
    return "x" * (8 << 20)
