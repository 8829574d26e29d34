"""The environment of a benchmark of the whole product: the local cloud and Dagster, with their
calls counted and their processes watched."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import psutil

from infrastructure.dagster_processes import ROOT, DagsterProcesses, dagster_processes
from infrastructure.deploy import deploy
from infrastructure.local_cloud import free_port, running, sagemaker_variables
from tenantry.aws.deployment import Deployment

_REQUEST_LINE: Final = re.compile(rb"(?:GET|PUT|POST|DELETE|HEAD) \S{1,8000} HTTP/1\.1\r\n")


class CountingProxy:
    """Passes TCP on to a port and counts the HTTP requests in it."""

    def __init__(self, target: int) -> None:
        self.target, self.port, self.requests = target, free_port(), 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="counting-proxy", daemon=True)

    def start(self) -> None:
        """Listen in a separate thread."""
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(
            asyncio.start_server(self._connection, "127.0.0.1", self.port)
        )
        self._loop.run_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(
            self._pump(reader, up_writer, count=True), self._pump(up_reader, writer, count=False)
        )

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, count: bool
    ) -> None:
        try:
            while chunk := await reader.read(1 << 18):
                if count:
                    # botocore sends a request's line and headers in one piece, at the start of a
                    # write.
                    self.requests += len(_REQUEST_LINE.findall(chunk))
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


class ProcessWatch:
    """The use of each kind of child process: peak memory (RSS, MB) and CPU seconds.

    CPU time is sampled once a second, so a process's last second is missed.
    """

    def __init__(self) -> None:
        self.peaks: Counter[str] = Counter()
        # process id: kind, CPU seconds at the first sample, and now
        self._cpu: dict[int, tuple[str, float, float]] = {}
        self._cpu_seen = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="process-watch", daemon=True)

    def start(self) -> None:
        """Sample once a second."""
        self._thread.start()

    def stop(self) -> None:
        """Stop sampling."""
        self._stopped.set()
        self._thread.join()

    @property
    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds by kind, since the watch began."""
        used: Counter[str] = Counter()
        for kind, began, now in self._cpu.values():
            used[kind] += now - began  # type: ignore[assignment]  # a Counter adds floats as well
        return {kind: round(seconds, 1) for kind, seconds in used.items()}

    def _watch(self) -> None:
        while not self._stopped.wait(1.0):
            held: Counter[str] = Counter()
            for process in psutil.Process().children(recursive=True):
                try:
                    kind, times = _kind(process), process.cpu_times()
                    held[kind] += round(process.memory_info().rss / 1e6)
                except psutil.Error:
                    continue
                used = times.user + times.system
                began = (
                    self._cpu[process.pid][1]
                    if process.pid in self._cpu
                    else (used if not self._cpu_seen else 0.0)
                )
                self._cpu[process.pid] = (kind, began, used)
            self._cpu_seen = True
            held["all"] = sum(held.values())
            for kind, megabytes in held.items():
                self.peaks[kind] = max(self.peaks[kind], megabytes)


def _kind(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    kinds = {
        "ministack": "ministack",
        "local_sagemaker": "local_sagemaker",
        "forecast/train": "training",
        "forecast/serve": "serving",
        "dagster-webserver": "webserver",
        "dagster_webserver": "webserver",
        "dagster-daemon": "daemon",
        "dagster._daemon": "daemon",
        "bounded_calls_server": "preparation",
        "api grpc": "code_server",
        "multiprocessing": "runs",
    }
    return next((kind for words, kind in kinds.items() if words in line), "other")


# `signal` requires this signature.
def terminated(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Handler of SIGTERM: ends the benchmark and its processes, like Ctrl-C."""
    raise SystemExit(128 + number)


@contextmanager
def everything_running(
    state: Path, variables: Mapping[str, str] | None = None
) -> Iterator[tuple[Deployment, DagsterProcesses, list[CountingProxy]]]:
    """The local cloud and Dagster, with their calls through counting proxies.

    Args:
        state: the folder for all their state.
        variables: environment variables of Dagster's processes besides this one's.
    """
    signal.signal(signal.SIGTERM, terminated)
    with running(state / "cloud", ROOT / "containers") as cloud:
        os.environ.update(cloud.environment)
        deploy()
        proxies = [CountingProxy(cloud.ministack_port), CountingProxy(cloud.sagemaker_port)]
        for proxy in proxies:
            proxy.start()
        ministack, sagemaker = (f"http://127.0.0.1:{proxy.port}" for proxy in proxies)
        environment = {
            **cloud.environment,
            "AWS_ENDPOINT_URL": ministack,
            # SQS calls pass through the proxy without rewriting, because the stack's outputs hold
            # the queue's own address.
            **sagemaker_variables(sagemaker),
            "TENANTRY_POLL_SECONDS": "1",
            **(variables or {}),
        }
        with dagster_processes(state / "dagster", free_port(), environment) as dagster:
            yield Deployment.from_stack(), dagster, proxies
