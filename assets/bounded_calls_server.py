"""The process that strangers' files are parsed in: it forks a child of its own for each call, within limits.

It imports the modules it is told once, so that a call costs a fork rather than their import. For each call it forks a keeper,
and the keeper forks the worker that makes the call. The worker has limits on memory, CPU time, files' sizes and processes; the
keeper ends it when its time is up, and with it every process it started. It ends when its standard input does, or when
nobody called for a while.

``assets.bounded_calls`` starts it and speaks with it: one connection a call, one JSON line each way.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from containers.runtime.refused_data import RefusedData

if TYPE_CHECKING:
    from types import FrameType, TracebackType

OUT_OF_MEMORY: Final = 77
"""The worker's exit status when it had no memory left, not even to say so."""
_IDLE_SECONDS: Final = 120.0
_MOST_DESCRIPTORS: Final = 256
_FURTHER_PROCESSES: Final = 256  # threads of libraries count as processes, those of the user's other programs too
_RESERVED: Final = 4  # address space may be reserved for so many times the memory that may be used
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_PR_SET_CHILD_SUBREAPER: Final = 36
_libc: Final = ctypes.CDLL(None, use_errno=True)


def serve(descriptor: int, modules: list[str]) -> None:
    """Import ``modules`` and what they name in ``PRELOADED``, and answer calls until standard input ends.

    Args:
        descriptor: of the listening socket that calls come in by.
        modules: whose functions will be called.
    """
    for name in modules:
        for further in getattr(importlib.import_module(name), "PRELOADED", ()):
            importlib.import_module(further)
    gc.freeze()  # a collection in a child would copy every page it looks at
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are nobody's to wait for
    listener = socket.socket(fileno=descriptor)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [], _IDLE_SECONDS)
        if listener not in ready:
            return
        connection, _ = listener.accept()
        server = os.getpid()
        if os.fork() == 0:
            try:
                _keep(connection, server)
            finally:
                os._exit(0)
        connection.close()


def _keep(connection: socket.socket, server: int) -> None:
    """Make one call in a worker and say how that ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _die_with(server)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # whatever the worker leaves behind becomes this process's child
    call = json.loads(connection.makefile("rb").readline())
    deadline = time.monotonic() + call["limits"]["seconds"]
    keeper = os.getpid()
    worker = os.fork()
    if worker == 0:
        status = 1
        try:
            status = _work(call, keeper)
        finally:
            os._exit(status)
    in_time = _wait(worker, connection, deadline)
    _kill(worker)
    _, status = os.waitpid(worker, 0)
    _end_descendants()
    ended = {"in_time": in_time, "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0}
    ended["status"] = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
    connection.sendall(json.dumps(ended).encode() + b"\n")


def _wait(worker: int, connection: socket.socket, deadline: float) -> bool:
    """Wait for the worker's end. False when its time was up first, or whoever called has gone."""
    process = os.pidfd_open(worker)
    ready, _, _ = select.select([process, connection], [], [], max(0.0, deadline - time.monotonic()))
    os.close(process)
    return process in ready


def _kill(worker: int) -> None:
    """Kill the worker's process group. One that has ended keeps its number until it is waited for."""
    for send in (os.killpg, os.kill):
        try:
            send(worker, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # it ended, or had no group of its own yet
            continue


def _end_descendants() -> None:
    """Kill what the worker started, wherever it put itself: it is this process's child by now, or its child's child."""
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for child in _children():
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.002)


def _children() -> list[int]:
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                stat = Path(entry.path, "stat").read_text(errors="replace")
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(entry.name))
    return found


# ---- the worker ---------------------------------------------------------------------------------------------------------


def _work(call: dict[str, Any], keeper: int) -> int:
    """Make the call and write down what it gave. Returns the exit status."""
    os.setsid()
    _die_with(keeper)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    os.closerange(3, _MOST_DESCRIPTORS)
    scratch = call["scratch"]
    os.chdir(scratch)
    os.environ["TMPDIR"] = os.environ["HOME"] = scratch
    tempfile.tempdir = scratch
    function: Any = getattr(importlib.import_module(call["module"]), call["function"])
    paths = {name: _paths(value) for name, value in call["paths"].items()}
    said: dict[str, Any]
    try:
        _limit(call["limits"])
        returned = function(**paths, **call["values"])
        said = {"returned": asdict(returned) if is_dataclass(returned) and not isinstance(returned, type) else returned}
    except RefusedData as error:
        if _lacked_memory(error):
            return OUT_OF_MEMORY
        said = {"refused": [error.reason, error.field, error.cure, error.code]}
    except MemoryError:
        return OUT_OF_MEMORY
    except Exception as error:  # noqa: BLE001 - whatever it is, whoever called hears of it
        if _lacked_memory(error):
            return OUT_OF_MEMORY
        # Its message may quote what was parsed.
        said = {"failed": [type(error).__name__, _place(error.__traceback__)]}
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            said = {"too_large": True}
    Path(call["result"]).write_text(json.dumps(said, default=str), encoding="utf-8")
    return 0


def _paths(value: Any) -> Any:
    return [Path(path) for path in value] if isinstance(value, list) else Path(value)


def _lacked_memory(error: BaseException | None) -> bool:
    """Whether the error came of another that says that there was no memory left."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, MemoryError):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _place(trace: TracebackType | None) -> str:
    """Where an error was raised, as file and line."""
    frames: list[tuple[FrameType, int]] = list(traceback.walk_tb(trace))
    frame, line = frames[-1]
    return f"{Path(frame.f_code.co_filename).name}:{line}"


def _limit(limits: dict[str, Any]) -> None:
    """Hold this process to its limits. What it has of memory already is not counted: it was there before the call."""
    data, space = _memory_now()
    _set(resource.RLIMIT_DATA, data + limits["memory_bytes"])
    _set(resource.RLIMIT_AS, space + _RESERVED * limits["memory_bytes"])
    _set(resource.RLIMIT_CPU, limits["cpu_seconds"], beyond=5)  # at the first SIGXCPU, which tells it from other ends
    _set(resource.RLIMIT_FSIZE, limits["file_bytes"])
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_NOFILE, _MOST_DESCRIPTORS)
    if os.getuid() != 0:  # root is held to no number of processes
        _set(resource.RLIMIT_NPROC, _processes_now() + _FURTHER_PROCESSES)


def _set(kind: int, most: int, beyond: int = 0) -> None:
    """Set a soft limit, and a hard one so much ``beyond`` it; a hard limit that is there already is not raised."""
    _, hardest = resource.getrlimit(kind)
    if hardest != resource.RLIM_INFINITY:
        most, beyond = min(most, hardest), 0
    resource.setrlimit(kind, (most, most + beyond))


def _memory_now() -> tuple[int, int]:
    """Private writable memory and address space of this process, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(status["VmData"].split()[0]) * 1024, int(status["VmSize"].split()[0]) * 1024


def _processes_now() -> int:
    """How many processes and threads this process's user has."""
    count, me = 0, os.getuid()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid == me:
                    count += sum(1 for _ in os.scandir(f"{entry.path}/task"))
            except OSError:
                continue
    return count


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2:])
