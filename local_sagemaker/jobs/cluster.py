"""The containers of one job, one on each of its hosts, from their start to their end."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from local_sagemaker.account.cloud import Cloud
from local_sagemaker.account.state import Document
from local_sagemaker.errors import LocalSageMakerError
from local_sagemaker.faults.plan import ContainerFaults, Subject
from local_sagemaker.jobs.failures import JobFailedError
from local_sagemaker.jobs.hosts import JobHost
from local_sagemaker.processes.containers import Container
from local_sagemaker.processes.launch import ImagesError, Program

STOP_GRACE_SECONDS = 120
"""Seconds between SIGTERM and SIGKILL (your-algorithms-training-algo-running-container: how a
training image is stopped). AWS does not document them for processing."""


class Ending(Enum):
    """How the containers of a job ended, unless one of them failed."""

    COMPLETED = "all exited with 0"
    STOPPED = "the job was stopped"
    INTERRUPTED = "the instances were taken away"
    TIME_LIMIT = "the job's time was over"


class HostFailedError(LocalSageMakerError):
    """A container exited with another code than 0: that of the host with this `number`."""

    def __init__(self, number: int, exit_code: int) -> None:
        super().__init__(f"host {number} ended, exit code: {exit_code}")
        self.number = number
        self.exit_code = exit_code


def program_of(cloud: Cloud, image: str, command: str | None, specification: Document) -> Program:
    """The program of an image, with the ContainerEntrypoint and ContainerArguments of the
    specification as AWS documents them; the call blocks. Raises JobFailedError."""
    try:
        return cloud.runtime.images.program(
            image,
            command,
            specification.get("ContainerEntrypoint"),
            specification.get("ContainerArguments", []),
        )
    except ImagesError as error:
        raise JobFailedError(f"ClientError: Cannot pull algorithm container: {error}") from error


class Cluster:
    """The containers of one job.

    `subject` and `group` are the job's name for faults and its log group. The job is ended by
    `stop`; `interruption` takes its instances away.
    """

    def __init__(
        self,
        cloud: Cloud,
        hosts: Sequence[JobHost],
        subject: Subject,
        group: str,
        stop: asyncio.Event,
        interruption: asyncio.Event | None = None,
    ) -> None:
        self._cloud = cloud
        self._hosts = hosts
        self._subject = subject
        self._group = group
        self._stop = stop
        self._interruption = interruption or asyncio.Event()
        self._containers: list[Container] = []

    async def run(
        self,
        program: Program,
        environment: Mapping[str, str],
        seconds: float,
        on_time_limit: Callable[[], None],
    ) -> Ending:
        """Run the program on every host, for at most so many of AWS's seconds.

        `on_time_limit` is called before the containers are stopped for their time. Returns when no
        container runs any more. Raises HostFailedError, or JobFailedError where a container cannot
        be started.
        """
        epoch = int(self._cloud.clock.now())
        logs = [
            self._cloud.log_stream(self._group, f"{self._subject.job}/{host.name}-{epoch}")
            for host in self._hosts
        ]
        faults: list[ContainerFaults] = []
        try:
            for host, log in zip(self._hosts, logs, strict=True):
                container = await self._cloud.runtime.start(
                    program, host.base, dict(environment), log.write
                )
                self._containers.append(container)
                subject = Subject(
                    f"{self._subject.where}/{host.name}",
                    job=self._subject.job,
                    images=self._subject.images,
                )
                faults.append(ContainerFaults(self._cloud.faults, subject, container, serves=False))
            return await self._watch(seconds, on_time_limit)
        except (ImagesError, OSError) as error:
            raise JobFailedError(
                f"ClientError: the container could not be started: {error}"
            ) from error
        finally:
            for fault in faults:
                fault.withdraw()
            # Stop every container after any end, such as a failed host or the emulator's end.
            await self._end(0)
            await asyncio.gather(*(log.close() for log in logs), return_exceptions=True)

    async def _watch(self, seconds: float, on_time_limit: Callable[[], None]) -> Ending:
        """Wait for the end of all hosts, the first failure, a stop, an interruption, or the time
        limit."""
        clock = self._cloud.clock
        deadline = clock.ticks() + max(0.0, seconds)
        running = {
            asyncio.create_task(container.wait()): number
            for number, container in enumerate(self._containers)
        }
        stop = asyncio.create_task(self._stop.wait())
        interruption = asyncio.create_task(self._interruption.wait())
        try:
            while running:
                done, _ = await asyncio.wait(
                    {*running, stop, interruption},
                    timeout=max(0.0, clock.machine_seconds(deadline - clock.ticks())),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if stop in done:
                    await self._end(STOP_GRACE_SECONDS)
                    return Ending.STOPPED
                if interruption in done:
                    return Ending.INTERRUPTED
                if not done:
                    on_time_limit()
                    await self._end(STOP_GRACE_SECONDS)
                    return Ending.TIME_LIMIT
                for task in done:
                    number = running.pop(task)
                    if task.result() != 0:
                        raise HostFailedError(number, int(task.result()))
            return Ending.COMPLETED
        finally:
            for task in (stop, interruption, *running):
                task.cancel()

    async def _end(self, grace_seconds: float) -> None:
        await asyncio.gather(*(container.stop(grace_seconds) for container in self._containers))
