"""What a parser that a stranger's file has gained the upper hand of might do; called in a process
of its own by tests."""

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
    """A dataclass, as preparations return."""

    said: str
    files: list[str]


def answer(files: list[Path], said: str) -> Answer:
    """What a call that goes well gives."""
    return Answer(said, [file.read_text() for file in files])


def refuse() -> None:
    """Refuse the data."""
    raise RefusedDataError(
        "Row 3 has no timestamp.", "timestamp", "Give it one.", "timestamp_missing"
    )


def fail(secret: str) -> None:
    """Raise an error that quotes what was read."""
    raise KeyError(secret)


def eat_memory(megabytes: int) -> int:
    """Take memory, bit by bit, as a file that expands does."""
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
    """Which process this is."""
    return os.getpid()


def eat_memory_and_call_it_refused() -> None:
    """Take memory, and tell of the error as of one of the data's."""
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
    """Wait until somebody makes a file."""
    while not file.exists():
        time.sleep(0.01)
    return "gone on"


def segfault() -> None:
    """Read where there is nothing."""
    ctypes.string_at(0)


def abort() -> None:
    """End as C++ does when nobody catches its exception."""
    os.abort()


def exit_at_once() -> None:
    """End without a word."""
    os._exit(0)


def kill_itself() -> None:
    """End as by the kernel's out-of-memory killer."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(marker: Path, how: str) -> str:
    """Die in the first call, which leaves a marker, and answer the next."""
    if marker.exists():
        return "answered"
    marker.touch()
    if how == "exit":
        os._exit(1)
    os.kill(os.getpid(), signal.SIGSEGV if how == "segfault" else signal.SIGKILL)
    return "never"


def kill_its_keeper() -> None:
    """Kill the process that watches over this one."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def leave_a_process(pid_file: Path) -> str:
    """Start a process in a session of its own, which goes on after this one."""
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
    """The variables this process has."""
    return dict(os.environ)


def answer_without_end() -> str:
    """Return more than anybody wants to read."""
    return "x" * (8 << 20)
