"""Containers as processes, each in its own session, with its output read line by line."""

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

from local_sagemaker.processes import watcher
from local_sagemaker.processes.launch import ContainerImages, Launch, Program

_LONGEST_LINE_BYTES = 200_000
"""CloudWatch Logs accepts events of up to 256 KB; longer lines become several events."""


class Container:
    """One running container: a process in its own session, with its output read line by line. Every
    process of it has `token` in its environment (`watcher.CONTAINER_VARIABLE`)."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        output: asyncio.Task[None],
        token: str,
        launch: Launch,
        remove: Callable[[], None],
    ) -> None:
        self._process = process
        self._output = output
        self.token = token
        self._launch = launch
        self._remove = remove
        self._removal: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its process group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; 128 + the signal's number when a signal ended it, as in a container
        runtime."""
        code = self._process.returncode
        return 128 - code if code is not None and code < 0 else code

    async def wait(self) -> int:
        """Wait for the end of the entry point, and kill all processes that it left. Returns the
        exit code."""
        await self._process.wait()
        self._signal(signal.SIGKILL)
        done, _ = await asyncio.wait({self._output}, timeout=0.1)
        if not done:
            # A descendant in another process group still holds the output open.
            await asyncio.to_thread(
                watcher.kill_processes_with, watcher.CONTAINER_VARIABLE, self.token
            )
            await asyncio.wait({self._output}, timeout=5)
        code = self.exit_code
        if code is None:
            raise RuntimeError(f"process {self.pid} ended without an exit code")
        if self._removal is None:
            self._removal = asyncio.create_task(asyncio.to_thread(self._remove))
        await asyncio.shield(self._removal)
        return code

    async def stop(self, grace_seconds: float) -> int:
        """Send SIGTERM, and SIGKILL after `grace_seconds`; returns the exit code."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace_seconds)
        self._signal(signal.SIGKILL)
        return await self.wait()

    def kill(self) -> bool:
        """Send SIGKILL at once, like the kernel when memory runs out. Returns False if the
        container had ended."""
        return self._signal_if_running(signal.SIGKILL)

    def pause(self) -> bool:
        """Send SIGSTOP: the container keeps its connections and does nothing. Returns False if it
        had ended."""
        return self._signal_if_running(signal.SIGSTOP)

    def resume(self) -> bool:
        """Send SIGCONT: a paused container continues. Returns False if it had ended."""
        return self._signal_if_running(signal.SIGCONT)

    def _signal_if_running(self, number: signal.Signals) -> bool:
        if self._process.returncode is not None:
            return False
        self._signal(number)
        return True

    def _signal(self, number: signal.Signals) -> None:
        if self._launch.signal is not None and self._process.returncode is None:
            self._launch.signal(number)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


class ContainerRuntime:
    """Starts containers and ensures that none outlives the emulator."""

    def __init__(self, images: ContainerImages, state: Path) -> None:
        self.images = images
        self._token = uuid.uuid4().hex
        self._state = str(state.resolve())
        watcher.kill_processes_with(watcher.STATE_VARIABLE, self._state, but_not=self._token)
        watcher.clean_up(images.clean_up)
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", watcher.__file__, self._token, *images.clean_up],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    async def start(
        self,
        program: Program,
        base: Path,
        environment: dict[str, str],
        on_line: Callable[[str], None],
    ) -> Container:
        """Start a container with only `environment` and the variables of every container; `base` is
        its `/opt/ml`.

        Raises ImagesError or OSError when it cannot be started.
        """
        token = uuid.uuid4().hex
        marks = {
            watcher.PROCESS_VARIABLE: self._token,
            watcher.STATE_VARIABLE: self._state,
            watcher.CONTAINER_VARIABLE: token,
        }
        reading, writing = os.pipe()
        try:
            launch = await asyncio.to_thread(
                self.images.launch, program, base, {**environment, **marks}, token
            )
            process = await asyncio.create_subprocess_exec(
                *launch.command,
                cwd=launch.folder,
                env=launch.environment,
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                start_new_session=True,
            )
        except BaseException:
            os.close(reading)
            await asyncio.to_thread(self.images.remove, token)
            raise
        finally:
            os.close(writing)
        output = asyncio.create_task(_read_lines(reading, on_line))
        return Container(
            process, output, token, launch, functools.partial(self.images.remove, token)
        )

    def close(self) -> None:
        """Kill all running containers and end the watcher."""
        watcher.kill_processes_with(watcher.PROCESS_VARIABLE, self._token)
        if self._watcher.stdin is not None:
            self._watcher.stdin.close()
        self._watcher.wait()  # it removes the containers' leftovers


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
