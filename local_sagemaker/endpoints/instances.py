"""One serving instance: a machine that runs all containers of a model. It serves when all of them
are healthy, and no longer when one of them is not.

Sources: docs.aws.amazon.com/sagemaker/latest/dg/inference-pipelines.html (each instance runs every
container) and …/dg/logging-cloudwatch.html (the names of log streams).
"""

import asyncio
import contextlib
import dataclasses
import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path

from local_sagemaker.account.billing import Account, Running
from local_sagemaker.account.cloud import Cloud
from local_sagemaker.account.logs import LogStream
from local_sagemaker.clock import MACHINE
from local_sagemaker.endpoints.models import ContainerSpec, ModelSpec
from local_sagemaker.endpoints.serving_containers import (
    InstanceFailedError,
    ServingContainer,
    free_ports,
)
from local_sagemaker.faults.plan import Subject

HEALTH_TIMEOUT_SECONDS = 480.0
"""A container has 8 minutes to become healthy unless ContainerStartupHealthCheckTimeoutInSeconds
says otherwise."""
STOP_GRACE_SECONDS = 30.0


class Instance:
    """A machine that answers requests with its `containers`, in the model's order. `start` it,
    count requests in flight with it as a context manager, `stop` it.

    `subject` identifies it for faults. `account` is billed for it from `start` to `stop`, however
    many containers it runs; None where time is not what is billed.
    """

    def __init__(
        self,
        cloud: Cloud,
        spec: ModelSpec,
        log_group: str,
        log_prefix: str,
        environment: dict[str, str],
        subject: Subject,
        account: Account | None,
    ) -> None:
        self._cloud = cloud
        self.subject = subject
        self._account = account
        self._billed: Running | None = None
        self.id = f"i-{uuid.uuid4().hex[:17]}"
        self.folder: Path = cloud.folder / "serving" / self.id
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopped = False
        self._log_group, self._log_stream = log_group, f"{log_prefix}/{self.id}"
        self._data_log: LogStream | None = None
        alone = len(spec.containers) == 1
        ports = free_ports(len(spec.containers))
        self.containers = [
            self._container(one, port, environment, alone=alone)
            for one, port in zip(spec.containers, ports, strict=True)
        ]

    def _container(
        self, spec: ContainerSpec, port: int, environment: dict[str, str], *, alone: bool
    ) -> ServingContainer:
        """A container of this machine. Only the containers of a model of several have names."""
        named = "container" if alone else f"container {spec.hostname}"
        stream = self._log_stream if alone else f"{self._log_stream}/{spec.hostname}"
        where = self.subject.where if alone else f"{self.subject.where}/{spec.hostname}"
        return ServingContainer(
            self._cloud,
            spec,
            port,
            self.folder / spec.hostname,
            (self._log_group, stream),
            environment,
            dataclasses.replace(self.subject, where=where, images=(spec.image,)),
            named,
        )

    async def start(self, within: float = HEALTH_TIMEOUT_SECONDS, after: float = 0.0) -> None:
        """Wait `after` seconds for the instance, start its containers, and wait until all are
        healthy, at most `within` seconds; both are the machine's. Raises InstanceFailedError."""
        if self._account is not None:
            self._billed = self._cloud.meter.begin(self._account)
        await MACHINE.sleep(after)
        # Each start ends by itself, because a cancelled one could leave a process behind.
        starts = await asyncio.gather(
            *(container.start() for container in self.containers), return_exceptions=True
        )
        for outcome in starts:
            if outcome is not None:
                raise outcome
        try:
            async with asyncio.timeout(within), asyncio.TaskGroup() as group:
                for container in self.containers:
                    group.create_task(container.wait_until_healthy())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        except TimeoutError as error:
            unhealthy = ", ".join(one.named for one in self.containers if not one.healthy)
            raise InstanceFailedError(
                f"The {unhealthy} did not pass the ping health check within {within:.0f} seconds. "
                f"Please check CloudWatch logs."
            ) from error

    def log_request(self, inference_id: str, line: str) -> None:
        """Write a line about one asynchronous request, or about one copy to a shadow variant, to
        the instance's data log, unless the instance has stopped.

        Source: docs.aws.amazon.com/sagemaker/latest/dg/async-inference-monitor.html ("Logs").
        """
        if self._stopped:
            return
        if self._data_log is None:
            self._data_log = self._cloud.log_stream(self._log_group, f"{self._log_stream}/data-log")
        now = datetime.fromtimestamp(self._cloud.clock.now(), UTC)
        moment = now.isoformat(timespec="milliseconds").removesuffix("+00:00")
        self._data_log.write(f"{moment}:[sagemaker logs] [{inference_id}] {line}")

    def __enter__(self) -> None:
        """Count a request in flight to this instance."""
        self.in_flight += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    async def wait_until_unhealthy(self) -> str:
        """Wait until one of the containers ends or hangs. Returns a description of the event."""
        watches = [
            asyncio.create_task(container.wait_until_unhealthy()) for container in self.containers
        ]
        try:
            done, _ = await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for watch in watches:
                watch.cancel()

    async def drain(self, within: float) -> None:
        """Wait until no request is in flight, at most `within` of AWS's seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), self._cloud.clock.machine_seconds(within))

    def abandon(self) -> None:
        """Kill the containers of an instance that drains or stops, so that all end now."""
        self._idle.set()
        for container in self.containers:
            container.kill()

    async def stop(self, grace: float = STOP_GRACE_SECONDS) -> None:
        """Stop the containers, each with `grace` seconds; then remove the rest of the instance. It
        is billed until the last container has ended."""
        self._stopped = True
        try:
            await asyncio.gather(*(container.stop(grace) for container in self.containers))
        finally:
            if self._billed is not None:
                self._billed.end()
        await asyncio.gather(*(container.close_log() for container in self.containers))
        if self._data_log is not None:
            await self._data_log.close()
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
