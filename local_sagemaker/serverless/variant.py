"""A serverless variant: it starts an execution environment when a request finds none that is free,
and stops one that was idle for long.

Sources: docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html (concurrency, cold
starts), …/dg/serverless-endpoints-monitoring.html (the metrics, "an exhaustive list").
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Final

from local_sagemaker.account.billing import (
    PROVISIONED_COMPUTE,
    PROVISIONED_CONCURRENCY,
    SERVERLESS,
    SERVERLESS_COMPUTE,
    Item,
    Running,
)
from local_sagemaker.account.cloud import Cloud
from local_sagemaker.account.state import Document
from local_sagemaker.clock import MACHINE
from local_sagemaker.endpoints.fleet import LOG_GROUP, RESPONSE_TIMEOUT_SECONDS, Variant
from local_sagemaker.endpoints.instances import STOP_GRACE_SECONDS, Instance
from local_sagemaker.endpoints.serving_containers import InstanceFailedError
from local_sagemaker.errors import ServiceError
from local_sagemaker.faults.plan import Subject
from local_sagemaker.monitoring.endpoint_metrics import INSTANCES, INVOCATIONS, Metrics
from local_sagemaker.processes.usage import usage_by_container
from local_sagemaker.serverless.config import PAYLOAD_LIMIT_BYTES, ServerlessConfig
from local_sagemaker.serverless.environments import Environment
from local_sagemaker.serverless.pool import Pool, TooManyInvocationsError

_log = logging.getLogger(__name__)
_PUBLISHED: Final = frozenset(
    {
        "Invocations",
        "Invocation4XXErrors",
        "Invocation5XXErrors",
        "ModelLatency",
        "OverheadLatency",
        "ModelSetupTime",
        "MemoryUtilization",
        "ServerlessConcurrentExecutionsUtilization",
        "ServerlessProvisionedConcurrencyExecutions",
        "ServerlessProvisionedConcurrencyInvocations",
        "ServerlessProvisionedConcurrencySpilloverInvocations",
        "ServerlessProvisionedConcurrencyUtilization",
    }
)
_MEMORY_LOOK_SECONDS: Final = 1.0
_RESTART_PAUSE_SECONDS: Final = 0.5
_LONGEST_RESTART_PAUSE_SECONDS: Final = 30.0


class ServerlessVariant(Variant):
    """A production variant without instances. `document` has its `ServerlessConfig`; `config` is
    the one that holds now."""

    payload_limit = PAYLOAD_LIMIT_BYTES
    data_usage = SERVERLESS

    def __init__(self, cloud: Cloud, metrics: Metrics, endpoint: str, document: Document) -> None:
        super().__init__(cloud, metrics, endpoint, document, RESPONSE_TIMEOUT_SECONDS)
        self.config = ServerlessConfig.parse(document["ServerlessConfig"])
        self._arn = cloud.arn("endpoint", endpoint)
        self._pool = Pool(self.config.max_concurrency, 0, self._new_environment)
        self._closed = False
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._warming: asyncio.Task[None] | None = None
        self._billed: Running | None = None

    def record(
        self,
        name: str,
        value: float,
        unit: str = "None",
        namespace: str = INVOCATIONS,
        container: str | None = None,
    ) -> None:
        """One value of a metric; those that AWS does not publish for serverless are left out."""
        if name in _PUBLISHED:
            super().record(name, value, unit, namespace, container)

    def record_concurrency(self) -> None:
        """Sample the metrics of concurrency, so that they have values without requests too."""
        busy, config = len(self._pool.busy), self.config
        self.record("ServerlessConcurrentExecutionsUtilization", busy / config.max_concurrency)
        if config.provisioned:
            warm = min(busy, config.provisioned)
            self.record("ServerlessProvisionedConcurrencyExecutions", warm, "Count")
            self.record("ServerlessProvisionedConcurrencyUtilization", warm / config.provisioned)

    async def scale(self, count: int, *, provision: bool = True) -> None:  # noqa: ARG002 - Variant's
        """Bring up the environments that are kept warm. Raises InstanceFailedError."""
        await self.apply(self.config)

    async def apply(self, config: ServerlessConfig) -> None:
        """Let another concurrency hold. New environments to be kept warm are healthy when this
        returns; if one fails, the previous configuration holds, and InstanceFailedError is
        raised."""
        before = self.config
        for environment in self._pool.resize(config.max_concurrency, config.provisioned):
            self._retire(environment)
        self.config = config
        fresh = self._pool.warm_up()
        try:
            await asyncio.gather(*(asyncio.shield(one.ready) for one in fresh))
        except BaseException:
            self.config = before
            for environment in fresh:
                if environment in self._pool.idle:
                    self._pool.lose(environment)
                    self._retire(environment, 1.0)
            for environment in self._pool.resize(before.max_concurrency, before.provisioned):
                self._retire(environment)
            raise
        if self._billed is not None:
            self._billed.end()
            self._billed = None
        if config.provisioned:
            self._billed = self._cloud.meter.hold(
                self._item(PROVISIONED_CONCURRENCY), config.provisioned * config.gigabytes
            )
        for environment in list(self._pool.idle):
            self._expire_later(environment)

    @contextlib.asynccontextmanager
    async def taken(self, target: str | None = None) -> AsyncIterator[Instance]:  # noqa: ARG002
        """An environment for one request, which may have to start first.

        Raises ServiceError: ThrottlingException at MaxConcurrency, as "any endpoint invocations
        beyond the maximum are throttled"; ModelError where the environment fails.
        """
        try:
            environment = self._pool.take()
        except TooManyInvocationsError as error:
            raise ServiceError("ThrottlingException", "Rate exceeded") from error
        self._quiet.clear()
        warm = len(self._pool.busy) <= self.config.provisioned
        self._record_taken(warm=warm)
        usable = False
        try:
            try:
                await asyncio.shield(environment.ready)
            except InstanceFailedError as failure:
                raise self._model_error(str(failure)) from failure
            except asyncio.CancelledError:
                if not environment.ready.cancelled():
                    raise
                raise self._model_error("The endpoint was stopped.") from None
            environment.requests += 1
            try:
                with self._billing(warm=warm), environment.instance:
                    yield environment.instance
                usable = True
            except ServiceError as error:
                # A container that was cut off may still be at work on the request.
                usable = bool(error.fields.get("OriginalStatusCode"))
                if not usable and await environment.died():
                    raise self._model_error(
                        "An error occurred while handling request as the model process exited."
                    ) from error
                raise
        finally:
            self._give_back(environment, usable=usable)

    def _record_taken(self, *, warm: bool) -> None:
        self.record_concurrency()
        if self.config.provisioned:
            handled = "Invocations" if warm else "SpilloverInvocations"
            self.record(f"ServerlessProvisionedConcurrency{handled}", 1.0, "Count")

    @contextlib.contextmanager
    def _billing(self, *, warm: bool) -> Iterator[None]:
        """Bill the compute of one request, in whole milliseconds (aws.amazon.com/sagemaker/pricing:
        "billed by the millisecond")."""
        began = self._cloud.clock.ticks()
        try:
            yield
        finally:
            seconds = math.ceil((self._cloud.clock.ticks() - began) * 1000) / 1000
            item = self._item(PROVISIONED_COMPUTE if warm else SERVERLESS_COMPUTE)
            self._cloud.meter.count(item, seconds * self.config.gigabytes)

    def _item(self, what: str) -> Item:
        return Item(what, SERVERLESS, f"{self.config.memory_mb} MB", "GB-second", self._arn)

    def _model_error(self, message: str) -> ServiceError:
        return ServiceError(
            "ModelError",
            f'Received server error (0) from model with message "{message}". See '
            f"{LOG_GROUP}/{self._endpoint} in CloudWatch Logs for more information.",
            424,
            OriginalStatusCode=0,
            OriginalMessage=message,
        )

    def _new_environment(self) -> Environment:
        subject = Subject(
            f"endpoint {self._endpoint}/{self.name}",
            endpoint=self._endpoint,
            images=self.spec.images,
        )
        environment = Environment(
            self._cloud, self.spec, f"{LOG_GROUP}/{self._endpoint}", self.name, subject
        )
        self._spawn(self._watch(environment))
        if self._looking is None:
            self._looking = asyncio.create_task(self._watch_memory())
        return environment

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._keep(asyncio.create_task(work))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _give_back(self, environment: Environment, *, usable: bool) -> None:
        usable = usable and environment.alive
        if self._closed or not usable:
            self._pool.lose(environment)
            self._retire(environment, STOP_GRACE_SECONDS if usable else 0.0)
            self._keep_warm()
        elif self._pool.give_back(environment):
            self._expire_later(environment)
        else:
            self._retire(environment)
        if not self._pool.busy:
            self._quiet.set()

    def _retire(self, environment: Environment, grace: float = STOP_GRACE_SECONDS) -> None:
        self._keep(environment.stop(grace))

    def _expire_later(self, environment: Environment) -> None:
        seconds = self._cloud.settings.serverless_idle_seconds
        self._cloud.clock.call_later(seconds, self._expire, environment, environment.requests)

    def _expire(self, environment: Environment, requests: int) -> None:
        """Stop an environment that had no request since its timer began."""
        unused = not self._closed and environment.requests == requests
        if unused and self._pool.expire(environment):
            self._retire(environment)

    async def _watch(self, environment: Environment) -> None:
        """Record an environment's start, and remove one that ends while it is idle. A request
        notices by itself."""
        if await environment.started():
            self.record("ModelSetupTime", environment.setup_seconds * 1e6, "Microseconds")
            await environment.ended()
        if environment in self._pool.idle:
            self._pool.lose(environment)
            self._retire(environment, 0.0)
            self._keep_warm()

    def _keep_warm(self) -> None:
        if not self._closed and self._warming is None and self._lacking:
            self._warming = asyncio.create_task(self._warm_again())

    @property
    def _lacking(self) -> bool:
        return len(self._pool.all) < self._pool.keep_warm

    async def _warm_again(self) -> None:
        """Replace environments that are kept warm and ended."""
        pause = _RESTART_PAUSE_SECONDS
        try:
            while self._lacking:
                await MACHINE.sleep(pause)
                pause = min(2 * pause, _LONGEST_RESTART_PAUSE_SECONDS)
                fresh = [asyncio.shield(one.ready) for one in self._pool.warm_up()]
                await asyncio.gather(*fresh, return_exceptions=True)
        finally:
            self._warming = None

    async def _watch_memory(self) -> None:
        """Kill each environment that uses more than its memory."""
        while environments := self._pool.all:
            await MACHINE.sleep(_MEMORY_LOOK_SECONDS)
            usages = await asyncio.to_thread(usage_by_container)
            for environment in environments:
                usage = usages.get(environment.token)
                if usage is None:
                    continue
                share = float(f"{100 * usage.memory_bytes / self.config.memory_bytes:.3g}")
                self.record("MemoryUtilization", share, "Percent", INSTANCES)
                if usage.memory_bytes > self.config.memory_bytes:
                    _log.warning(
                        "%s/%s: an environment used %d of %d bytes, and is killed",
                        self._endpoint,
                        self.name,
                        usage.memory_bytes,
                        self.config.memory_bytes,
                    )
                    environment.abandon()
        self._looking = None

    async def close(self, *, drain: bool) -> None:
        """Stop every environment; with `drain`, first answer the requests that came before."""
        self._closed = True
        if self._billed is not None:
            self._billed.end()
        for task in (self._warming, self._looking):
            if task is not None:
                task.cancel()
        grace = STOP_GRACE_SECONDS if drain else 1.0
        for environment in list(self._pool.idle):
            self._pool.lose(environment)
            self._retire(environment, grace)
        try:
            if drain:
                await self._quiet.wait()
        finally:
            for environment in list(self._pool.busy):
                environment.abandon()
                self._retire(environment, 0.0)
            while self._tasks:
                await asyncio.wait(self._tasks)
