"""The process that strangers' files are parsed in: children of it make the calls, within limits.

It imports the given modules once, so that a child costs a fork rather than their import. For each
connection it forks a keeper, and the keeper forks the worker that makes the calls of that
connection, one after the other. The worker has limits on memory, CPU time, files' sizes and
processes. When the worker dies, or the caller closes the connection, the keeper ends the worker and
every process it started. All end when the server's standard input ends, or after a while without a
call.

``tenantry.uploads.bounded_calls`` starts it and speaks with it: one JSON line each way for each
call. A line before the first call says that the worker is there. When the worker dies, the keeper
says so, on a line of its own.
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
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contracts.refused_data import RefusedDataError

if TYPE_CHECKING:
    from types import FrameType, TracebackType

OUT_OF_MEMORY: Final = 77
"""The worker's exit status when it had no memory left, not even to say so."""
_MAX_DESCRIPTORS: Final = 256
# threads of libraries count as processes, those of the user's other programs too
_FURTHER_PROCESSES: Final = 256
_RESERVED: Final = 4  # times the memory that may be used: the address space that may be reserved
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_PR_SET_CHILD_SUBREAPER: Final = 36
_libc: Final = ctypes.CDLL(None, use_errno=True)


def serve(descriptor: int, idle_seconds: float, modules: list[str]) -> None:
    """Import ``modules`` and those they name in ``PRELOADED``, and answer calls until standard
    input ends.

    Args:
        descriptor: of the listening socket that calls come in by.
        idle_seconds: after so long without a call a worker ends; after so long without a worker,
            the server ends.
        modules: the modules with the functions to call.
    """
    for name in modules:
        with suppress(Exception):  # a call of it reports the error
            for further in getattr(importlib.import_module(name), "PRELOADED", ()):
                importlib.import_module(further)
    gc.freeze()  # a collection in a child would copy every page it looks at
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no process waits for keepers
    listener = socket.socket(fileno=descriptor)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [], idle_seconds)
        if not ready and _children():
            continue
        if listener not in ready:
            return
        connection, _ = listener.accept()
        server = os.getpid()
        if os.fork() == 0:
            try:
                _keep(connection, server, idle_seconds)
            finally:
                os._exit(0)
        connection.close()


def _keep(connection: socket.socket, server: int, idle_seconds: float) -> None:
    """Have a worker make a connection's calls. If it died, report how. Leave no process of it
    behind."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _leave)
    _die_with(server, signal.SIGTERM)
    # processes that the worker leaves behind become this process's children
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    keeper = os.getpid()
    worker = os.fork()
    if worker == 0:
        status = 1
        try:
            status = _work(connection, keeper, idle_seconds)
        finally:
            os._exit(status)
    try:
        process = os.pidfd_open(worker)
        waiting = select.poll()
        waiting.register(process, select.POLLIN)
        # its data are for the worker; its end is reported without asking
        waiting.register(connection, 0)
        died = any(descriptor == process for descriptor, _ in waiting.poll())
        if died:
            _, status = os.waitpid(worker, 0)
            ended = {
                "died": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
                "status": status >> 8,
            }
            # The worker may have died in the middle of a line.
            connection.sendall(b"\n" + json.dumps(ended).encode() + b"\n")
    finally:
        _end_descendants()


def _leave(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit


def _end_descendants() -> None:
    """Kill all that the worker started, in any session: by now it is this process's child, or its
    child's child."""
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


# ---- the worker ----------------------------------------------------------------------------------


def _work(connection: socket.socket, keeper: int, idle_seconds: float) -> int:
    """Make the calls of a connection, until it is closed or none comes for a while. Returns the
    exit status."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with(keeper, signal.SIGKILL)
    nothing, mine = os.open(os.devnull, os.O_RDWR), connection.fileno()
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    os.closerange(3, mine)
    os.closerange(mine + 1, _MAX_DESCRIPTORS)
    connection.sendall(b'{"ready": true}\n')
    connection.settimeout(idle_seconds)
    calls, limited = connection.makefile("rb"), False
    while True:
        try:
            line = calls.readline()
        except TimeoutError:
            return 0
        if not line:
            return 0
        call = json.loads(line)
        scratch = call["scratch"]
        os.chdir(scratch)
        os.environ["TMPDIR"] = os.environ["HOME"] = scratch
        tempfile.tempdir = scratch
        try:
            if not limited:
                _limit(call["limits"])
                limited = True
            _limit_time(call["limits"]["cpu_seconds"])
            connection.sendall(json.dumps(_make(call), default=str).encode() + b"\n")
        except MemoryError:
            return OUT_OF_MEMORY


def _make(call: dict[str, Any]) -> dict[str, Any]:
    """The result of a call. Raises ``MemoryError`` when too little memory was the cause, even if
    the called code raised another error."""
    paths = {name: _paths(value) for name, value in call["paths"].items()}
    try:
        function: Any = getattr(importlib.import_module(call["module"]), call["function"])
        returned = function(**paths, **call["values"])
    except RefusedDataError as error:
        if _lacked_memory(error):
            raise MemoryError from error
        return {"refused": [error.reason, error.field, error.cure, error.code]}
    except Exception as error:
        if _lacked_memory(error):
            raise MemoryError from error
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            return {"too_large": True}
        # Its message may quote the parsed data.
        return {"failed": [type(error).__name__, _place(error.__traceback__)]}
    return {
        "returned": asdict(returned)
        if is_dataclass(returned) and not isinstance(returned, type)
        else returned
    }


def _paths(value: Any) -> Any:
    return [Path(path) for path in value] if isinstance(value, list) else Path(value)


def _lacked_memory(error: BaseException | None) -> bool:
    """Whether the error, or one behind it, says that there was no memory left."""
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
    """Hold this process to its limits. Memory that it has already is not counted: it was there
    before the call."""
    data, space = _memory_now()
    _set(resource.RLIMIT_DATA, data + limits["memory_bytes"])
    _set(resource.RLIMIT_AS, space + _RESERVED * limits["memory_bytes"])
    _set(resource.RLIMIT_FSIZE, limits["file_bytes"])
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_NOFILE, _MAX_DESCRIPTORS)
    if os.getuid() != 0:  # root is held to no number of processes
        _set(resource.RLIMIT_NPROC, _processes_now() + _FURTHER_PROCESSES)


def _limit_time(cpu_seconds: int) -> None:
    """Give this process some seconds of a processor from now on; then SIGXCPU ends it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hardest = resource.getrlimit(resource.RLIMIT_CPU)
    most = int(used.ru_utime + used.ru_stime) + 1 + cpu_seconds
    resource.setrlimit(
        resource.RLIMIT_CPU,
        (most if hardest == resource.RLIM_INFINITY else min(most, hardest), hardest),
    )


def _set(kind: int, most: int) -> None:
    _, hardest = resource.getrlimit(kind)
    if hardest != resource.RLIM_INFINITY:
        most = min(most, hardest)
    resource.setrlimit(kind, (most, most))


def _memory_now() -> tuple[int, int]:
    """Private writable memory and address space of this process, in bytes."""
    status = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text().splitlines()
        if ":" in line
    )
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


def _die_with(parent: int, of: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(of), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
