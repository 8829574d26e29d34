"""Containers as processes: an image's name picks a folder, its entry point is run with the
documented layout and environment."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from local_sagemaker.errors import LocalSageMakerError
from local_sagemaker.processes import watcher

_LONGEST_LINE_BYTES = 200_000
"""CloudWatch Logs takes events of up to 256 KB; longer lines are cut into several."""
_CONTAINER_VARIABLE = "LOCAL_SAGEMAKER_CONTAINER"
_OPT_ML = Path("/opt/ml")
_PROBE_SECONDS = 10.0


class ImageNotFoundError(LocalSageMakerError):
    """No folder with that entry point stands for the image."""


def image_folder(containers: Path, image: str) -> Path:
    """The folder that stands for `image`: the last component of its path, without tag and digest.

    `123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/forecast:3` is `{containers}/forecast`.
    Raises ImageNotFoundError.
    """
    name = image.rpartition("/")[2].partition("@")[0].partition(":")[0]
    folder = containers / name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or not folder.is_dir():
        raise ImageNotFoundError(
            f"image {image!r}: there is no folder {name!r} in the containers folder {containers}"
        )
    return folder


def entry_point(containers: Path, image: str, command: str) -> tuple[list[str], Path]:
    """The command line and working folder of `train` or `serve` in an image. Raises
    ImageNotFoundError."""
    folder = image_folder(containers, image)
    executable = folder / command
    if not os.access(executable, os.X_OK) or not executable.is_file():
        raise ImageNotFoundError(
            f"image {image!r}: {executable} does not exist or is not executable"
        )
    return [str(executable)], folder


class Container:
    """One running container: a process in a session of its own, its output read line by line."""

    def __init__(
        self, process: asyncio.subprocess.Process, output: asyncio.Task[None], token: str
    ) -> None:
        self._process = process
        self._output = output
        self._token = token

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its process group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; 128 + the signal's number when a signal ended it, as a container
        runtime has it."""
        code = self._process.returncode
        return 128 - code if code is not None and code < 0 else code

    async def wait(self) -> int:
        """Wait for the end of the entry point; whatever it left running is killed. The exit
        code."""
        await self._process.wait()
        self._signal(signal.SIGKILL)
        done, _ = await asyncio.wait({self._output}, timeout=0.1)
        if not done:
            # A descendant in another process group still holds the output.
            await asyncio.to_thread(watcher.kill_processes_with, _CONTAINER_VARIABLE, self._token)
            await asyncio.wait({self._output}, timeout=5)
        code = self.exit_code
        if code is None:
            raise RuntimeError(f"process {self.pid} ended without an exit code")
        return code

    async def stop(self, grace_seconds: float) -> int:
        """SIGTERM, and SIGKILL after `grace_seconds`; the exit code."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace_seconds)
        self._signal(signal.SIGKILL)
        return await self.wait()

    def kill(self) -> bool:
        """SIGKILL at once, as the kernel does it when memory runs out; False when it had ended
        already."""
        return self._signal_if_running(signal.SIGKILL)

    def pause(self) -> bool:
        """SIGSTOP: it keeps its connections and does nothing; False when it had ended already."""
        return self._signal_if_running(signal.SIGSTOP)

    def resume(self) -> bool:
        """SIGCONT: it goes on, if it was paused; False when it had ended already."""
        return self._signal_if_running(signal.SIGCONT)

    def _signal_if_running(self, number: signal.Signals) -> bool:
        if self._process.returncode is not None:
            return False
        self._signal(number)
        return True

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


class ContainerRuntime:
    """Starts containers and sees to it that none outlives the emulator."""

    def __init__(self, containers: Path, state: Path) -> None:
        self.containers = containers
        self._token = uuid.uuid4().hex
        self._state = str(state.resolve())
        watcher.kill_processes_with(watcher.STATE_VARIABLE, self._state, but_not=self._token)
        self._in_own_opt_ml = own_opt_ml(state.resolve(), containers)
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", watcher.__file__, self._token],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    async def start(
        self,
        command: Sequence[str],
        folder: Path,
        base: Path,
        environment: dict[str, str],
        on_line: Callable[[str], None],
    ) -> Container:
        """Start a container with just `environment` and what every container gets; `base` is its
        `/opt/ml`.

        Raises OSError when it cannot be started.
        """
        token = uuid.uuid4().hex
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(*self._in_own_opt_ml, str(base), *command) if self._in_own_opt_ml else command,
                cwd=folder,
                env={
                    **self._base_environment(),
                    **environment,
                    "SAGEMAKER_BASE_DIR": str(base),
                    _CONTAINER_VARIABLE: token,
                },
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                start_new_session=True,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return Container(process, asyncio.create_task(_read_lines(reading, on_line)), token)

    def _base_environment(self) -> dict[str, str]:
        """PATH with this Python first, the AWS settings of this process, and nothing else of its
        environment.

        A Dockerfile's ENV is not read; PYTHONUNBUFFERED, which nearly each of them sets, is
        therefore set for all.
        """
        kept = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        for name in ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ"):
            if name in os.environ:
                kept[name] = os.environ[name]
        path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        return {
            **kept,
            "PATH": os.pathsep.join(path),
            "PYTHONUNBUFFERED": "1",
            watcher.PROCESS_VARIABLE: self._token,
            watcher.STATE_VARIABLE: self._state,
        }

    def close(self) -> None:
        """Kill whatever container still runs and end the watcher."""
        watcher.kill_processes_with(watcher.PROCESS_VARIABLE, self._token)
        if self._watcher.stdin is not None:
            self._watcher.stdin.close()
        self._watcher.wait()


def own_opt_ml(state: Path, containers: Path) -> list[str]:
    """The beginning of a command line that puts a folder, its next argument, at `/opt/ml` for the
    rest of it.

    A mount namespace of its own lets a container see its own folder there; nobody else sees it. It
    takes root, or user namespaces and a folder `/opt/ml`. Empty where this machine allows neither:
    programs then find their folder through SAGEMAKER_BASE_DIR alone.
    """
    tools = {name: shutil.which(name) for name in ("unshare", "mount", "sh")}
    if None in tools.values() or any(path.is_relative_to(_OPT_ML) for path in (state, containers)):
        return []
    with contextlib.suppress(OSError):
        _OPT_ML.mkdir(parents=True, exist_ok=True)
    script = f'"{tools["mount"]}" --bind "$0" {_OPT_ML} && exec "$@"'
    for namespaces in (["--mount"], ["--user", "--map-root-user", "--mount"]):
        beginning = [str(tools["unshare"]), *namespaces, str(tools["sh"]), "-c", script]
        try:
            tried = subprocess.run(
                [*beginning, str(state), "true"],
                capture_output=True,
                timeout=_PROBE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if tried.returncode == 0:
            return beginning
    return []


async def _read_lines(descriptor: int, on_line: Callable[[str], None]) -> None:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    rest = b""
    try:
        while chunk := await reader.read(65_536):
            *lines, rest = (rest + chunk).split(b"\n")
            while len(rest) > _LONGEST_LINE_BYTES:
                lines.append(rest[:_LONGEST_LINE_BYTES])
                rest = rest[_LONGEST_LINE_BYTES:]
            for line in lines:
                on_line(line.decode(errors="replace").rstrip("\r"))
        if rest:
            on_line(rest.decode(errors="replace"))
    finally:
        transport.close()
