"""One container of a serving instance: a process started as `serve` with its model data, healthy
when `/ping` answers 200.

Source: docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html.
"""

import asyncio
import contextlib
import random
import socket
from collections.abc import Mapping
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from local_sagemaker.account.cloud import Cloud
from local_sagemaker.account.storage import DataError, download, download_all, list_prefix
from local_sagemaker.clock import MACHINE
from local_sagemaker.endpoints.archives import extract
from local_sagemaker.endpoints.models import ContainerSpec
from local_sagemaker.errors import LocalSageMakerError
from local_sagemaker.faults.plan import ContainerFaults, Subject
from local_sagemaker.http.client import Answer, ContainerUnreachableError, HttpClient
from local_sagemaker.processes.containers import Container
from local_sagemaker.processes.launch import ImagesError

PING_TIMEOUT_SECONDS = 2.0
_FIRST_PING_SECONDS = 0.02
_LONGEST_PING_PAUSE_SECONDS = 1.0
_PORTS = range(16_384, 32_767)
"""AWS's multi-model-server refuses 32767 and above. Outgoing connections take Linux's ports from
32768 on, so none takes a port between its choice and the container's start."""


class InstanceFailedError(LocalSageMakerError):
    """The instance could not start; the message is for FailureReason."""


def free_ports(count: int) -> list[int]:
    """Different free ports of this machine, as many as `count`. Raises InstanceFailedError."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            return found
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    raise InstanceFailedError("This machine has no free port for another container.")


class ServingContainer:
    """A container that answers requests. `start` it, `wait_until_healthy`, `send` invocations, use
    `client` for other calls, `stop` it.

    It listens on `port`. `folder` becomes its `/opt/ml`, and `log` is the group and the stream of
    its output. `subject` identifies it for faults. `named` is its name in messages. `started` is
    its start, in the machine's ticks.
    """

    def __init__(
        self,
        cloud: Cloud,
        spec: ContainerSpec,
        port: int,
        folder: Path,
        log: tuple[str, str],
        environment: dict[str, str],
        subject: Subject,
        named: str,
    ) -> None:
        self._cloud = cloud
        self.spec = spec
        self.folder = folder
        self.subject = subject
        self.named = named
        self.port = port
        self.client = HttpClient(port)
        self.healthy = False
        self.started = 0.0
        self._environment = environment
        self._log = cloud.log_stream(*log)
        self._faults: ContainerFaults | None = None
        self._container: Container | None = None

    async def start(self) -> None:
        """Fetch the model's data and start the container. Raises InstanceFailedError."""
        try:
            await asyncio.to_thread(self._bring_data)
            program = await asyncio.to_thread(
                self._cloud.runtime.images.program, self.spec.image, "serve", None, ()
            )
            self.started = MACHINE.ticks()
            self._container = await self._cloud.runtime.start(
                program, self.folder, self._container_environment(), self._log.write
            )
            self._faults = ContainerFaults(
                self._cloud.faults, self.subject, self._container, serves=True
            )
        except (ImagesError, OSError) as error:
            raise InstanceFailedError(f"The {self.named} could not be started: {error}") from error
        except (DataError, ClientError, BotoCoreError) as error:
            where = self.spec.data.uri if self.spec.data else ""
            raise InstanceFailedError(
                f'Failed to download model data from URL "{where}": {error}'
            ) from error

    def _bring_data(self) -> None:
        model = self.folder / "model"
        (self.folder / "tmp").mkdir(parents=True)
        data = self.spec.data
        if self.spec.multi_model:
            (self.folder / "models").mkdir()
            return
        model.mkdir()
        if data is None:
            return
        s3 = self._cloud.s3
        if self.spec.compressed:
            archive = self.folder / "tmp" / "model.tar.gz"
            download(s3, data, archive)
            try:
                extract(archive, model, self._cloud.settings.archive_limit_bytes)
            except DataError as error:
                raise InstanceFailedError(
                    f'Failed to extract model data archive from URL "{data.uri}". Please ensure '
                    f"that the object located at the URL is a valid tar.gz archive: {error}"
                ) from error
            archive.unlink()
        elif data.key.endswith("/"):
            download_all(s3, list_prefix(s3, data), model, self._cloud.transfers)
        else:
            download(s3, data, model / Path(data.key).name)

    def _container_environment(self) -> dict[str, str]:
        return {
            **self.spec.environment,
            **self._environment,
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            "SAGEMAKER_MULTI_MODEL": "true" if self.spec.multi_model else "false",
            "SAGEMAKER_REGION": self._cloud.settings.region,
        }

    async def wait_until_healthy(self) -> None:
        """Wait until the started container answers a ping. Raises InstanceFailedError if it ends
        before."""
        container = self._started()
        pause = _FIRST_PING_SECONDS
        while True:
            if container.exit_code is not None:
                raise InstanceFailedError(
                    f"The {self.named} ended with exit code {container.exit_code} before it "
                    f"passed the ping health check. Please check CloudWatch logs."
                )
            if await self._answers_ping():
                self.healthy = True
                return
            await MACHINE.sleep(pause)
            pause = min(pause * 1.3, _LONGEST_PING_PAUSE_SECONDS)

    async def wait_until_unhealthy(self) -> str:
        """Wait until the container ends, or counts as hung after several consecutive unanswered
        pings. Returns a description of the event.

        AWS pings continually, gives each ping 2 seconds, and replaces unhealthy instances. Its page
        does not give the number of failed pings (your-algorithms-inference-code.html, "How Your
        Container Should Respond to Health Check (Ping) Requests").
        """
        end = asyncio.create_task(self._started().wait())
        settings = self._cloud.settings
        failed = 0
        try:
            while failed < settings.failed_pings:
                done, _ = await asyncio.wait({end}, timeout=settings.ping_seconds)
                if done:
                    return f"the {self.named} ended with exit code {end.result()}"
                failed = 0 if await self._answers_ping() else failed + 1
            return f"the {self.named} left {failed} pings unanswered"
        finally:
            end.cancel()

    def _started(self) -> Container:
        if self._container is None:
            raise RuntimeError("the container has not been started")
        return self._container

    async def _answers_ping(self) -> bool:
        try:
            answer = await self.client.request("GET", "/ping", within=PING_TIMEOUT_SECONDS)
        except (ContainerUnreachableError, TimeoutError):
            return False
        return answer.status == 200

    @property
    def token(self) -> str:
        """The mark of its processes (`Container.token`); empty before the start."""
        return self._container.token if self._container else ""

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._container is not None and self._container.exit_code is None

    async def wait(self) -> int:
        """Wait until the started container ends; its exit code."""
        return await self._started().wait()

    async def send(
        self, path: str, *, headers: Mapping[str, str], body: bytes, within: float
    ) -> Answer:
        """One invocation. Raises ContainerUnreachableError, or TimeoutError after `within` of AWS's
        seconds."""
        within = self._cloud.clock.machine_seconds(within)
        delay = self._faults.delay_seconds if self._faults else 0.0
        if delay:
            await MACHINE.sleep(min(delay, within))
            if delay >= within:
                raise TimeoutError
        return await self.client.request(
            "POST", path, headers=headers, body=body, within=within - delay
        )

    def kill(self) -> None:
        """Kill a container that has no time left to stop."""
        if self._container is not None:
            self._container.kill()

    async def stop(self, grace: float) -> None:
        """Send SIGTERM, and SIGKILL after `grace` seconds; wait for its end."""
        self.client.close()
        if self._faults is not None:
            self._faults.withdraw()
        if self._container is not None:
            await self._container.stop(grace)

    async def close_log(self) -> None:
        """Deliver the rest of a stopped container's output."""
        await self._log.close()
