"""Calls into the code that parses strangers' files, each made in a process of its own, within limits.

A file that takes too much memory or time, or kills whoever reads it, takes nothing with it but its own call. The process has
no credentials in its environment. ``assets.bounded_calls_server`` is what runs there.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from assets.bounded_calls_server import OUT_OF_MEMORY
from containers.runtime.refused_data import RefusedData

_ROOT: Final = Path(__file__).resolve().parents[1]
_MOST_RESULT_BYTES: Final = 4 * 1024 * 1024
_MOST_CHARACTERS: Final = 1000  # of each part of a refusal
_PATIENCE: Final = 120.0  # seconds beyond a call's own for the process to start and to answer on a busy machine
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
_ONE_THREAD: Final = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL", "ARROW")}


class CallFailed(RuntimeError):  # noqa: N818 - reads as the sentence it is: "call failed"
    """The called code raised an error that is none of the data's; the message names it and its place, and quotes no data."""


@dataclass(frozen=True)
class Limits:
    """What one call may take. ``seconds`` are of the clock on the wall; memory is what comes on top of the code itself."""

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
    """Calls functions of some modules in a process that has imported them. Threads may call at the same time."""

    modules: Sequence[str]
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _server: _Server | None = field(default=None, init=False, repr=False)

    def call(
        self,
        module: str,
        function: str,
        *,
        paths: Mapping[str, Path | Sequence[Path]],
        values: Mapping[str, Any],
        limits: Limits,
    ) -> Any:
        """Call a function of a module with keyword arguments.

        Args:
            module: its name, one of ``modules``.
            function: its name.
            paths: arguments that are paths.
            values: further arguments, which JSON can hold.
            limits: what the call may take.

        Returns:
            What it returned, as JSON gives it; a dataclass as a dictionary of its fields.

        Raises:
            RefusedData: the function raised it; or the call took more than its limits, or its process crashed.
            CallFailed: the function raised anything else.
        """
        with tempfile.TemporaryDirectory(prefix="tenantry-call-") as scratch:
            result = Path(scratch, "result.json")
            request = {
                "module": module,
                "function": function,
                "paths": {name: _absolute(value) for name, value in paths.items()},
                "values": dict(values),
                "limits": asdict(limits),
                "scratch": scratch,
                "result": str(result),
            }
            line = json.dumps(request).encode() + b"\n"
            ended = self._ask(line, limits)
            if ended.get("signal") == signal.SIGKILL and ended["in_time"]:
                result.unlink(missing_ok=True)
                ended = self._ask(line, limits)  # somebody else killed it: the machine may have had no memory left
            return _outcome(ended, result, limits)

    def _ask(self, line: bytes, limits: Limits) -> dict[str, Any]:
        for _ in range(2):
            server = self._running()
            answer = server.ask(line, limits.seconds + _PATIENCE)
            if answer is not None:
                return answer
            self._forget(server)  # it had been idle and ended, or was killed
        raise CallFailed("the process that calls are made in died twice")

    def _running(self) -> _Server:
        with self._lock:
            if self._server is None or not self._server.alive:
                self._server = _Server.start(self.modules)
            return self._server

    def _forget(self, server: _Server) -> None:
        with self._lock:
            if self._server is server:
                self._server = None
        server.close()


@dataclass
class _Server:
    process: subprocess.Popen[bytes]
    folder: tempfile.TemporaryDirectory[str]

    @classmethod
    def start(cls, modules: Sequence[str]) -> _Server:
        folder = tempfile.TemporaryDirectory(prefix="tenantry-calls-")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(_address(folder.name))
            listener.listen(64)
            process = subprocess.Popen(
                [sys.executable, "-m", "assets.bounded_calls_server", str(listener.fileno()), *modules],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                cwd=folder.name,
                env=_environment(folder.name),
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
        server = cls(process, folder)
        atexit.register(server.close)
        return server

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, line: bytes, seconds: float) -> dict[str, Any] | None:
        """Send a call and wait for its end. None when the server, or the call's keeper, died."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(seconds)
                connection.connect(_address(self.folder.name))
                connection.sendall(line)
                with connection.makefile("rb") as answers:
                    answer = answers.readline()
        except OSError:
            return None
        try:
            ended = json.loads(answer)
        except ValueError:
            return None
        return ended if isinstance(ended, dict) else None

    def close(self) -> None:
        """End the process and its calls."""
        atexit.unregister(self.close)
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


def _address(folder: str) -> str:
    return f"{folder}/calls"


def _environment(home: str) -> dict[str, str]:
    """What libraries need of this process's environment: no credentials, and one thread each."""
    kept = {
        name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)
    }
    path = os.pathsep.join(filter(None, [str(_ROOT), kept.get("PYTHONPATH")]))
    return {**kept, **_ONE_THREAD, "PYTHONPATH": path, "HOME": home, "TMPDIR": home}


def _absolute(value: Path | Sequence[Path]) -> str | list[str]:
    return str(value.resolve()) if isinstance(value, Path) else [str(path.resolve()) for path in value]


def _outcome(ended: Mapping[str, Any], result: Path, limits: Limits) -> Any:
    """What a call came to, from how its process ended and what it wrote down. Raises as ``BoundedCalls.call`` does."""
    died_of = ended.get("signal", 0)
    if died_of == signal.SIGXCPU or not ended["in_time"]:
        raise RefusedData(
            f"Reading the files took longer than {limits.cpu_seconds:g} s of a processor, or {limits.seconds:g} s in all.",
            "files",
            "Upload fewer or smaller files.",
            "preparation_timed_out",
        )
    if ended.get("status") == OUT_OF_MEMORY:
        raise RefusedData(
            f"Reading the files takes more than {limits.memory_bytes >> 20} MB of memory.",
            "files",
            "Upload fewer or smaller files, written without unusual compression.",
            "preparation_out_of_memory",
        )
    said = _read(result) if not died_of and ended.get("status") == 0 else None
    match said:
        case {"returned": returned}:
            return returned
        case {"refused": [str(reason), str(about), str(cure), str(code)]}:
            raise RefusedData(*(text[:_MOST_CHARACTERS] for text in (reason, about, cure, code)))
        case {"too_large": True}:
            raise RefusedData(
                f"What is prepared of the files has more than {limits.file_bytes >> 20} MB.",
                "files",
                "Upload fewer or smaller files.",
                "prepared_too_large",
            )
        case {"failed": [str(kind), str(place)]}:
            raise CallFailed(f"{kind[:100]} at {place[:100]}")
    raise RefusedData(
        "The files cannot be read: they crash the program that reads them.",
        "files",
        "Write them anew with another program, and upload again.",
        "preparation_crashed",
    )


def _read(result: Path) -> Any:
    """What the worker wrote down; None when that is no JSON document of a bearable size. No link is followed."""
    try:
        content = read_regular_file(result, _MOST_RESULT_BYTES)
        return json.loads(content)
    except (OSError, ValueError, RecursionError):
        return None


def read_regular_file(path: Path, most_bytes: int) -> bytes:
    """A file that a worker wrote. Raises ``OSError`` for a link or a pipe, and when it is larger than ``most_bytes``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path.name} is no regular file")
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(f"{path.name} has more than {most_bytes} bytes")
    return content
