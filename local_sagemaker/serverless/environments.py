"""An execution environment: one container that answers one request at a time."""

import asyncio
import contextlib
from typing import Final

from local_sagemaker.account.cloud import Cloud
from local_sagemaker.clock import MACHINE
from local_sagemaker.endpoints.instances import Instance
from local_sagemaker.endpoints.models import ModelSpec
from local_sagemaker.endpoints.serving_containers import InstanceFailedError, ServingContainer
from local_sagemaker.faults.plan import Subject
from local_sagemaker.processes.launch import ImagesError
from local_sagemaker.processes.usage import folder_bytes
from local_sagemaker.serverless.config import (
    DISK_LIMIT_BYTES,
    HEALTH_TIMEOUT_SECONDS,
    IMAGE_LIMIT_BYTES,
)

_END_SECONDS: Final = 0.5


class Environment:
    """An environment that starts as soon as it is made. `ready` ends when it may answer, or raises
    InstanceFailedError.

    `setup_seconds` are AWS's, of a start that succeeded. `requests` counts those that reached it.
    """

    def __init__(
        self, cloud: Cloud, spec: ModelSpec, log_group: str, log_prefix: str, subject: Subject
    ) -> None:
        self._cloud = cloud
        self._spec = spec
        self.instance = Instance(cloud, spec, log_group, log_prefix, {}, subject, None)
        self.requests = 0
        self.setup_seconds = 0.0
        self.ready = asyncio.create_task(self._start())
        self._stopping: asyncio.Task[None] | None = None

    async def _start(self) -> None:
        began = self._cloud.clock.ticks()
        try:
            image = await asyncio.to_thread(
                self._cloud.runtime.images.image_bytes, self._spec.containers[0].image
            )
        except ImagesError as error:
            raise InstanceFailedError(f"The container could not be started: {error}") from error
        if image > IMAGE_LIMIT_BYTES:
            raise InstanceFailedError(
                f"The image has {image} bytes; an image of a serverless endpoint has at most "
                f"{IMAGE_LIMIT_BYTES}."
            )
        await self.instance.start(HEALTH_TIMEOUT_SECONDS)
        data = await asyncio.to_thread(folder_bytes, self.instance.folder)
        if data > DISK_LIMIT_BYTES:
            raise InstanceFailedError(
                f"The model has {data} bytes; a serverless endpoint has {DISK_LIMIT_BYTES} bytes "
                f"of storage."
            )
        await MACHINE.sleep(self._cloud.faults.delay("slow_provisioning", self.instance.subject))
        await self._cloud.clock.sleep(self._cloud.cold_starts.draw(image + data))
        self.setup_seconds = self._cloud.clock.ticks() - began

    @property
    def _container(self) -> ServingContainer:
        return self.instance.containers[0]

    @property
    def token(self) -> str:
        """The mark of its processes; empty before the start."""
        return self._container.token

    @property
    def alive(self) -> bool:
        """Whether its container has started and not ended."""
        return self._container.running

    async def started(self) -> bool:
        """Wait for the end of the start; whether it succeeded."""
        await asyncio.wait({self.ready})
        return not self.ready.cancelled() and self.ready.exception() is None

    async def ended(self) -> None:
        """Wait until the started container ends."""
        await self._container.wait()

    async def died(self) -> bool:
        """Whether the container ended by itself, given a moment to be seen so."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._container.wait(), _END_SECONDS)
        return not self._container.running

    def abandon(self) -> None:
        """Kill the container at once."""
        self.instance.abandon()

    def stop(self, grace: float) -> asyncio.Task[None]:
        """Stop it in the background, once. The task ends when nothing of it is left."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace))
        return self._stopping

    async def _stop(self, grace: float) -> None:
        # A start that is cancelled could leave a process behind, so it ends by itself.
        while not self.ready.done() and not self._container.running:
            await MACHINE.sleep(0.01)
        self.ready.cancel()
        await asyncio.gather(self.ready, return_exceptions=True)
        await self.instance.stop(grace)
