"""Calls into the code that parses strangers' files, each made in a process of its own, within
limits.

A file that takes too much memory or time, or kills its reader, ends only its own call. The process
has no credentials in its environment. It runs ``tenantry.uploads.bounded_calls_server``.

A worker makes some calls one after the other, which saves two forks a call. A call may ask for a
worker of its own. A call that fails in a used worker is made once more in a new one, and only that
counts.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from contracts.refused_data import RefusedDataError
from tenantry.errors import TenantryError
from tenantry.uploads.bounded_calls_server import OUT_OF_MEMORY

_LOG = logging.getLogger(__name__)
_ROOT: Final = Path(__file__).resolve().parents[2]
_CALLS_A_WORKER: Final = 32
_MAX_RESULT_BYTES: Final = 4 * 1024 * 1024
_MAX_CHARACTERS: Final = 1000  # of each part of a refusal
_PATIENCE: Final = 120.0  # seconds for a worker to be there, on a busy machine
_KEPT_VARIABLES: Final = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TZDIR",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
)
_KEPT_PREFIXES: Final = ("FAKETIME", "PYTHON")
_ONE_THREAD: Final = {
    f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL", "ARROW")
}
# In a forked process pyarrow's default allocator (mimalloc) sometimes fails to allocate a few
# kilobytes where there are plenty, and aborts the process.
_ALLOCATOR: Final = {"ARROW_DEFAULT_MEMORY_POOL": "system"}


class CallFailedError(TenantryError, RuntimeError):
    """The called code raised an error that is not the data's fault; the message names it and its
    place, and quotes no data."""


@dataclass(frozen=True)
class Limits:
    """The limits of one call. ``seconds`` are of the clock on the wall; memory counts on top of the
    code's own."""

    memory_bytes: int
    cpu_seconds: int
    seconds: float
    file_bytes: int


@cache
def bounded_calls(*modules: str) -> BoundedCalls:
    """The calls into ``modules``: one process for all of them, started when it is first needed."""
    return BoundedCalls(modules)


@dataclass
class BoundedCalls:
    """Calls functions of some modules in a process that has imported them. Threads may call at the
    same time.

    The processes end by themselves after ``idle_seconds`` without a call, and start anew for the
    next.
    """

    modules: Sequence[str]
    idle_seconds: float = 120.0
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _server: _Server | None = field(default=None, init=False, repr=False)
    _idle: list[_Worker] = field(default_factory=list, init=False, repr=False)

    def call(
        self,
        module: str,
        function: str,
        *,
        paths: Mapping[str, Path | Sequence[Path]],
        values: Mapping[str, Any],
        limits: Limits,
        alone: bool = False,
    ) -> Any:
        """Call a function of a module with keyword arguments.

        Args:
            module: its name, one of ``modules``.
            function: its name.
            paths: arguments that are paths.
            values: further arguments, which JSON can hold.
            limits: what the call may take.
            alone: whether it is made in a process that makes no other call.

        Returns:
            The function's result, as JSON gives it; a dataclass as a dictionary of its fields.

        Raises:
            RefusedDataError: the function raised it; or the call took more than its limits, or its
                process crashed.
            CallFailedError: the function raised anything else.
        """
        with tempfile.TemporaryDirectory(prefix="tenantry-call-") as scratch:
            request = {
                "module": module,
                "function": function,
                "paths": {name: _absolute(value) for name, value in paths.items()},
                "values": dict(values),
                "limits": asdict(limits),
                "scratch": scratch,
            }
            line = json.dumps(request).encode() + b"\n"
            while not alone and (used := self._take_idle(limits)) is not None:
                ended = used.ask(line)
                if self._put_back(used, ended, alone=False):
                    return _outcome(ended, limits)
                if ended not in (_LOST, _ENDED):
                    break  # it may be this call that ended it: a new worker will tell
            ended = self._ask_new(line, limits, alone=alone)
            if _crashed(ended):
                # One death proves nothing about the files: another process may have killed it, or
                # the machine may have run out of memory.
                _LOG.warning("a call's process died (%s); the call is made once more", dict(ended))
                ended = self._ask_new(line, limits, alone=alone)
            return _outcome(ended, limits)

    def close(self) -> None:
        """End all processes of the calls. A later call starts new ones."""
        with self._lock:
            server, workers = self._server, list(self._idle)
            self._server = None
            self._idle.clear()
        for worker in workers:
            worker.close()
        if server is not None:
            server.close()
        atexit.unregister(self.close)

    def _take_idle(self, limits: Limits) -> _Worker | None:
        with self._lock:
            fitting = [worker for worker in self._idle if worker.limits == limits]
            if fitting:
                self._idle.remove(fitting[-1])
            return fitting[-1] if fitting else None

    def _put_back(self, worker: _Worker, ended: Mapping[str, Any], *, alone: bool) -> bool:
        """Keep the worker for another call if it may make one. Returns whether this call ended as
        it should."""
        done = "died" not in ended
        if done and not alone and worker.calls < _CALLS_A_WORKER:
            with self._lock:
                self._idle.append(worker)
        else:
            worker.close()
        return done

    def _ask_new(self, line: bytes, limits: Limits, *, alone: bool) -> Mapping[str, Any]:
        """Make the call in a new worker. Returns how it ended."""
        for _ in range(2):
            server = self._running()
            worker = server.new_worker(limits)
            if worker is not None:
                ended = worker.ask(line)
                self._put_back(worker, ended, alone=alone)
                if ended != _LOST:
                    return ended
            if worker is None or not server.alive:
                self._forget(server)  # it had been idle and ended, or was killed
        raise CallFailedError("the process that calls are made in died twice")

    def _running(self) -> _Server:
        with self._lock:
            if self._server is not None and not self._server.alive:
                self._server.close()
                self._server = None
            if self._server is None:
                self._server = _Server.start(self.modules, self.idle_seconds)
                atexit.register(self.close)
            return self._server

    def _forget(self, server: _Server) -> None:
        with self._lock:
            if self._server is server:
                self._server = None
        server.close()


_LOST: Final[Mapping[str, Any]] = {"died": None}
"""The connection ended without a word: the worker's keeper died."""
_ENDED: Final[Mapping[str, Any]] = {"died": 0, "status": 0}
"""The worker ended by itself, as it had nothing to do."""
_TOO_LATE: Final[Mapping[str, Any]] = {"died": "too late"}


@dataclass(eq=False)
class _Worker:
    """A connection to a worker, which makes one call at a time."""

    connection: socket.socket
    limits: Limits
    calls: int = 0

    def __post_init__(self) -> None:
        self._answers = self.connection.makefile("rb")

    def ask(self, line: bytes) -> Mapping[str, Any]:
        """The worker's answer to a call, or how it died."""
        self.calls += 1
        try:
            self.connection.settimeout(self.limits.seconds)
            self.connection.sendall(line)
            return self.read()
        except TimeoutError:
            return _TOO_LATE
        except OSError:
            return _LOST

    def read(self) -> Mapping[str, Any]:
        """The next line that can be read, of the first three. Raises ``OSError``."""
        for _ in range(3):
            line = self._answers.readline(_MAX_RESULT_BYTES + 1)
            if not line:
                return _LOST
            if len(line) > _MAX_RESULT_BYTES:
                break
            try:
                said = json.loads(line)
            except (ValueError, RecursionError):
                continue  # it died in the middle of a line; how is on the next
            if isinstance(said, dict):
                return said
        return {"died": 0}

    def close(self) -> None:
        """End the worker, and all that it started."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self._answers.close()
        self.connection.close()


@dataclass(eq=False)
class _Server:
    process: subprocess.Popen[bytes]
    folder: tempfile.TemporaryDirectory[str]

    @classmethod
    def start(cls, modules: Sequence[str], idle_seconds: float) -> _Server:
        folder = tempfile.TemporaryDirectory(prefix="tenantry-calls-")
        with socket.socket(socket.AF_UNIX) as listener, _address(folder.name) as address:
            listener.bind(address)
            listener.listen(64)
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tenantry.uploads.bounded_calls_server",
                    str(listener.fileno()),
                    str(idle_seconds),
                    *modules,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                cwd=folder.name,
                env=_environment(folder.name),
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
        return cls(process, folder)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def new_worker(self, limits: Limits) -> _Worker | None:
        """A worker that is ready for its first call; None when the server, or a process that it
        forked, died."""
        connection = socket.socket(socket.AF_UNIX)
        worker = _Worker(connection, limits)
        try:
            connection.settimeout(_PATIENCE)
            with _address(self.folder.name) as address:
                connection.connect(address)
            if worker.read() == {"ready": True}:
                return worker
        except OSError:
            pass
        worker.close()
        return None

    def close(self) -> None:
        """End the process and its calls."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


@contextmanager
def _address(folder: str) -> Iterator[str]:
    """The server's address: a path that is short wherever the folder lies, because a socket's has
    at most 107 bytes (unix(7))."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/calls"
    finally:
        os.close(descriptor)


def _environment(home: str) -> dict[str, str]:
    """The variables that libraries need of this process's environment, without credentials. Each
    library gets one thread, and Arrow an allocator that bears a fork."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)
    }
    path = os.pathsep.join(filter(None, [str(_ROOT), kept.get("PYTHONPATH")]))
    return {**kept, **_ONE_THREAD, **_ALLOCATOR, "PYTHONPATH": path, "HOME": home, "TMPDIR": home}


def _absolute(value: Path | Sequence[Path]) -> str | list[str]:
    return (
        str(value.resolve()) if isinstance(value, Path) else [str(path.resolve()) for path in value]
    )


def _crashed(said: Mapping[str, Any]) -> bool:
    """Whether a worker died for another reason than its limits."""
    at_a_limit = said == _TOO_LATE or said.get("died") == signal.SIGXCPU
    return "died" in said and not at_a_limit and said.get("status") != OUT_OF_MEMORY


def _outcome(said: Mapping[str, Any], limits: Limits) -> Any:
    """The result of a call, from its worker's answer or the way it died. Raises as
    ``BoundedCalls.call`` does."""
    if said == _TOO_LATE or said.get("died") == signal.SIGXCPU:
        raise RefusedDataError(
            f"Reading the files took longer than {limits.cpu_seconds:g} s of a processor, or "
            f"{limits.seconds:g} s in all.",
            "files",
            "Upload fewer or smaller files.",
            "preparation_timed_out",
        )
    if said.get("died") == 0 and said.get("status") == OUT_OF_MEMORY:
        raise RefusedDataError(
            f"Reading the files takes more than {limits.memory_bytes >> 20} MB of memory.",
            "files",
            "Upload fewer or smaller files, written without unusual compression.",
            "preparation_out_of_memory",
        )
    match said:
        case {"returned": returned}:
            return returned
        case {"refused": [str(reason), str(about), str(cure), str(code)]}:
            raise RefusedDataError(
                *(text[:_MAX_CHARACTERS] for text in (reason, about, cure, code))
            )
        case {"too_large": True}:
            raise RefusedDataError(
                f"What is prepared of the files has more than {limits.file_bytes >> 20} MB.",
                "files",
                "Upload fewer or smaller files.",
                "prepared_too_large",
            )
        case {"failed": [str(kind), str(place)]}:
            raise CallFailedError(f"{kind[:100]} at {place[:100]}")
    raise RefusedDataError(
        "The files cannot be read: they crash the program that reads them.",
        "files",
        "Write them anew with another program, and upload again.",
        "preparation_crashed",
    )


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """A file that a worker wrote. Raises ``OSError`` for a link or a pipe, and when it is larger
    than ``max_bytes``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path.name} is no regular file")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(f"{path.name} has more than {max_bytes} bytes")
    return content
