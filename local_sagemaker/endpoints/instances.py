"""One serving instance: a container started as `serve` with its model data, healthy when `/ping`
answers 200.

Source: docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html.
"""

import asyncio
import contextlib
import shutil
import socket
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from local_sagemaker.account.billing import Account, Running
from local_sagemaker.account.cloud import Cloud
from local_sagemaker.account.logs import LogStream
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
HEALTH_TIMEOUT_SECONDS = 480.0
"""A container has 8 minutes to become healthy unless ContainerStartupHealthCheckTimeoutInSeconds
says otherwise."""
STOP_GRACE_SECONDS = 30.0
_FIRST_PING_SECONDS = 0.02
_LONGEST_PING_PAUSE_SECONDS = 1.0


class InstanceFailedError(LocalSageMakerError):
    """The instance could not start; the message is for FailureReason."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Instance:
    """A container that answers requests. `start` it, `send` invocations, use `client` for other
    calls, `stop` it.

    `subject` identifies it for faults; `account` is billed for it from `start` to `stop`. `started`
    is the start of its container, in the machine's ticks.
    """

    def __init__(
        self,
        cloud: Cloud,
        spec: ContainerSpec,
        log_group: str,
        log_prefix: str,
        environment: dict[str, str],
        subject: Subject,
        account: Account,
    ) -> None:
        self._cloud = cloud
        self.subject = subject
        self._faults: ContainerFaults | None = None
        self._account = account
        self._billed: Running | None = None
        self._environment = environment
        self.spec = spec
        self.id = f"i-{uuid.uuid4().hex[:17]}"
        self.folder: Path = cloud.folder / "serving" / self.id
        self.port = _free_port()
        self.client = HttpClient(self.port)
        self.started = 0.0
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._container: Container | None = None
        self._log = cloud.log_stream(log_group, f"{log_prefix}/{self.id}")
        self._data_log: LogStream | None = None
        self._stopped = False
        self._data_log_names = (log_group, f"{log_prefix}/{self.id}/data-log")

    async def start(self, within: float = HEALTH_TIMEOUT_SECONDS, after: float = 0.0) -> None:
        """Wait `after` seconds for the instance, fetch the model's data, start the container, and
        wait until it is healthy, at most `within` seconds; both are the machine's. Raises
        InstanceFailedError."""
        self._billed = self._cloud.meter.begin(self._account)
        await MACHINE.sleep(after)
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
            await self._wait_until_healthy(self._container, within)
        except (ImagesError, OSError) as error:
            raise InstanceFailedError(f"The container could not be started: {error}") from error
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
            extract(archive, model, self._cloud.settings.archive_limit_bytes)
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

    async def _wait_until_healthy(self, container: Container, within: float) -> None:
        pause = _FIRST_PING_SECONDS
        try:
            async with asyncio.timeout(within):
                while True:
                    if container.exit_code is not None:
                        raise InstanceFailedError(
                            f"The container ended with exit code {container.exit_code} before it "
                            f"passed the ping health check. "
                            "Please check CloudWatch logs."
                        )
                    if await self._answers_ping():
                        return
                    await MACHINE.sleep(pause)
                    pause = min(pause * 1.3, _LONGEST_PING_PAUSE_SECONDS)
        except TimeoutError as error:
            raise InstanceFailedError(
                f"The container did not pass the ping health check within {within:.0f} seconds. "
                f"Please check CloudWatch logs."
            ) from error

    @property
    def token(self) -> str:
        """The mark of its container's processes (`Container.token`); empty before the start."""
        return self._container.token if self._container else ""

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

    def log_request(self, inference_id: str, line: str) -> None:
        """Write a line about one asynchronous request to the instance's data log, unless the
        instance has stopped.

        Source: docs.aws.amazon.com/sagemaker/latest/dg/async-inference-monitor.html ("Logs").
        """
        if self._stopped:
            return
        if self._data_log is None:
            self._data_log = self._cloud.log_stream(*self._data_log_names)
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
        """Wait until the container ends, or counts as hung after several consecutive unanswered
        pings. Returns a description of the event.

        AWS pings continually, gives each ping 2 seconds, and replaces unhealthy instances. Its page
        does not give the number of failed pings (your-algorithms-inference-code.html, "How Your
        Container Should Respond to Health Check (Ping) Requests").
        """
        if self._container is None:
            raise RuntimeError("the instance has not been started")
        end = asyncio.create_task(self._container.wait())
        settings = self._cloud.settings
        failed = 0
        try:
            while failed < settings.failed_pings:
                done, _ = await asyncio.wait({end}, timeout=settings.ping_seconds)
                if done:
                    return f"ended with exit code {end.result()}"
                failed = 0 if await self._answers_ping() else failed + 1
            return f"left {failed} pings unanswered"
        finally:
            end.cancel()

    async def _answers_ping(self) -> bool:
        try:
            answer = await self.client.request("GET", "/ping", within=PING_TIMEOUT_SECONDS)
        except (ContainerUnreachableError, TimeoutError):
            return False
        return answer.status == 200

    async def drain(self, within: float) -> None:
        """Wait until no request is in flight, at most `within` of AWS's seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), self._cloud.clock.machine_seconds(within))

    def abandon(self) -> None:
        """Kill the container of an instance that drains or stops, so that both end now."""
        self._idle.set()
        if self._container is not None:
            self._container.kill()

    async def stop(self, grace: float = STOP_GRACE_SECONDS) -> None:
        """Send SIGTERM, and SIGKILL after `grace` seconds; then remove the rest of the instance. It
        is billed until the container has ended."""
        self._stopped = True
        self.client.close()
        if self._faults is not None:
            self._faults.withdraw()
        try:
            if self._container is not None:
                await self._container.stop(grace)
        finally:
            if self._billed is not None:
                self._billed.end()
        await self._log.close()
        if self._data_log is not None:
            await self._data_log.close()
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
