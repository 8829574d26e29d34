"""The instances of a production variant: starts them, replaces dead ones, scales them, and chooses
one for a request."""

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

from local_sagemaker.account.billing import Account
from local_sagemaker.account.cloud import Cloud
from local_sagemaker.account.provisioning import seconds_for
from local_sagemaker.account.rates import ENDPOINT
from local_sagemaker.account.state import Document
from local_sagemaker.clock import MACHINE
from local_sagemaker.endpoints.instances import HEALTH_TIMEOUT_SECONDS, STOP_GRACE_SECONDS, Instance
from local_sagemaker.endpoints.models import ModelSpec
from local_sagemaker.endpoints.multi_model import LoadedModels
from local_sagemaker.endpoints.serving_containers import InstanceFailedError
from local_sagemaker.errors import ServiceError
from local_sagemaker.faults.plan import Subject
from local_sagemaker.monitoring.endpoint_metrics import INSTANCES, INVOCATIONS, Metrics

_log = logging.getLogger(__name__)
LOG_GROUP = "/aws/sagemaker/Endpoints"
RESPONSE_TIMEOUT_SECONDS = 60.0
"""The time limit of a real-time request
(docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html)."""
_LONGEST_RESTART_PAUSE_SECONDS = 30.0
_SPREAD_PAUSE_SECONDS = 1.0
"""Between two loads of hot models on one more instance, because a load may be refused."""


class Variant:
    """A production variant and its instances.

    `document` is the variant's part of the endpoint's document: VariantName, DesiredInstanceCount,
    CurrentWeight, `Config` and `Model`. `drain_seconds`, AWS's, is the longest duration of a
    request, and therefore the longest wait for a removed instance. `added` is called after each
    instance that becomes healthy. While an update shifts traffic, `active` is the number of
    instances that take requests; None means all.
    """

    payload_limit: int | None = None
    """The largest request and response in bytes, where it is less than InvokeEndpoint's own."""
    data_usage = ENDPOINT
    """The usage that the bill names for requests and their data."""

    def __init__(
        self,
        cloud: Cloud,
        metrics: Metrics,
        endpoint: str,
        document: Document,
        drain_seconds: float,
        added: Callable[[], None] | None = None,
    ) -> None:
        self._cloud = cloud
        self._metrics = metrics
        self._endpoint = endpoint
        self._drain_seconds = drain_seconds
        self._added = added
        self.document = document
        self.name: str = document["VariantName"]
        self.spec = ModelSpec.parse(document["Model"])
        self.instances: list[Instance] = []
        self.active: int | None = None
        self.models: dict[str, LoadedModels] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._leaving: dict[Instance, asyncio.Task[None]] = {}
        self._desired = 0
        self._spread_at = -math.inf

    def record(
        self,
        name: str,
        value: float,
        unit: str = "None",
        namespace: str = INVOCATIONS,
        container: str | None = None,
    ) -> None:
        """One value of a metric of this variant, or of the container with this hostname."""
        config = self.document.get("EndpointConfigName")
        self._metrics.record(
            self._endpoint, self.name, name, value, unit, namespace, container, config
        )

    def record_loaded_models(self, instance: Instance) -> None:
        """LoadedModelCount of an instance, where models are loaded."""
        if models := self.models.get(instance.id):
            self.record("LoadedModelCount", models.count, "None", INSTANCES)

    def record_concurrency(self) -> None:
        """Sample the metrics of concurrency, which only serverless variants have."""

    async def scale(self, count: int, *, provision: bool = True) -> None:
        """Scale to `count` instances. Each new one serves as soon as it is healthy. Raises
        InstanceFailedError, with the previous number, when one fails to start.

        With `provision` the new ones wait for their machines first, which takes the endpoint's
        provisioning delay. An instance too many takes no request from now on. It leaves in the
        background once it has answered the requests that it has.
        """
        before, self._desired = self._desired, count
        # The watcher of a dead instance brings its replacement, which is counted as there.
        started = [self._new_instance() for _ in range(count - len(self._watchers))]
        try:
            async with asyncio.TaskGroup() as group:
                for instance in started:
                    group.create_task(self._bring(instance, provision=provision))
        except BaseException as error:
            self._desired = before
            healthy = [instance for instance in started if instance in self.instances]
            for instance in healthy:
                self._set_aside(instance)
            await asyncio.gather(
                *(instance.stop(1.0) for instance in started if instance not in healthy)
            )
            if isinstance(error, ExceptionGroup):
                raise error.exceptions[0] from error
            raise
        excess = len(self.instances) - count
        youngest_first = self.instances[::-1]
        for instance in sorted(youngest_first, key=self._work)[: max(excess, 0)]:
            self._set_aside(instance)

    def _work(self, instance: Instance) -> tuple[int, int]:
        """What an instance's removal would cost: its loaded models and its requests in flight."""
        models = self.models.get(instance.id)
        return models.count if models else 0, instance.in_flight

    async def close(self, *, drain: bool) -> None:
        """Stop every instance; with `drain`, first finish the requests in flight, also those of
        instances that were set aside before."""
        leaving = list(self._leaving)
        for instance in list(self.instances):
            self._set_aside(instance, drain=drain)
        watchers = list(self._watchers.values())  # those that are starting a replacement
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        if not drain:
            for instance in leaving:
                instance.abandon()
        try:
            await self._gone()
        except asyncio.CancelledError:
            for instance in self._leaving:
                instance.abandon()
            await self._gone()
            raise

    async def _gone(self) -> None:
        if self._leaving:
            await asyncio.wait(self._leaving.values())

    @property
    def serving(self) -> list[Instance]:
        """The healthy instances that take requests."""
        return self.instances[: self.active]

    @contextlib.asynccontextmanager
    async def taken(self, target: str | None = None) -> AsyncIterator[Instance]:
        """An instance, with one more request in flight, as `choose` chooses it. Raises
        ServiceError."""
        instance = self.choose(target)
        with instance:
            yield instance

    def choose(self, target: str | None = None) -> Instance:
        """The instance for a request: one that has the target model, otherwise the one with the
        fewest models; among equals, the least busy.

        A hot model is loaded on one more instance; `_with_model` says when.

        Raises ServiceUnavailable when there is no healthy instance.
        """
        candidates = self.serving
        if not candidates:
            raise ServiceError(
                "ServiceUnavailable",
                f"Variant {self.name} has no healthy instance at the moment",
                503,
            )
        if len(candidates) == 1:
            return candidates[0]
        if target is not None:
            having = [instance for instance in candidates if self.models[instance.id].has(target)]
            if not having:
                return min(
                    candidates,
                    key=lambda instance: (self.models[instance.id].count, instance.in_flight),
                )
            return self._with_model(target, having)
        strategy = self.document["Config"].get("RoutingConfig", {}).get("RoutingStrategy", "RANDOM")
        if strategy == "RANDOM":
            return random.choice(candidates)  # noqa: S311 - load balancing needs no secrecy
        return min(candidates, key=lambda instance: instance.in_flight)

    def _with_model(self, target: str, having: list[Instance]) -> Instance:
        """One of the instances that have a model: the oldest that answers the request at once.

        When all have as many requests for the model as they answer at once, another instance loads
        it too, and the least busy one gets this request meanwhile. An additional copy gets what the
        others do not answer at once, so it is unloaded when they are enough again.
        """
        spec = self.spec.multi_model
        if spec is None:
            raise RuntimeError("a model without a multi-model container")
        ready = [one for one in having if self.models[one.id].is_ready(target)]
        for instance in ready:
            if self.models[instance.id].in_flight(target) < spec.workers:
                return instance
        others = [one for one in self.serving if one not in having]
        now = MACHINE.ticks()
        if (
            ready == having
            and others
            and spec.cached
            and now - self._spread_at > _SPREAD_PAUSE_SECONDS
        ):
            self._spread_at = now
            least_busy = min(others, key=lambda one: one.in_flight)
            self.models[least_busy.id].preload(target)
        return min(ready or having, key=lambda one: one.in_flight)

    def _new_instance(self) -> Instance:
        subject = Subject(
            f"endpoint {self._endpoint}/{self.name}",
            endpoint=self._endpoint,
            images=self.spec.images,
        )
        account = Account(
            ENDPOINT,
            self._cloud.arn("endpoint", self._endpoint),
            self.document["Config"]["InstanceType"],
            self.document["Config"].get("VolumeSizeInGB", 0),
        )
        return Instance(
            self._cloud, self.spec, f"{LOG_GROUP}/{self._endpoint}", self.name, {}, subject, account
        )

    async def _bring(self, instance: Instance, *, provision: bool) -> None:
        await self._start(instance, provision=provision)
        self._add(instance)

    async def _start(self, instance: Instance, *, provision: bool = True) -> None:
        config: dict[str, Any] = self.document["Config"]
        after = 0.0
        if provision:
            seconds = seconds_for(self._cloud.settings.endpoint_provisioning, self._endpoint)
            after = self._cloud.clock.machine_seconds(seconds)
            after += self._cloud.faults.delay("slow_provisioning", instance.subject)
        await instance.start(
            config.get("ContainerStartupHealthCheckTimeoutInSeconds", HEALTH_TIMEOUT_SECONDS), after
        )

    def _add(self, instance: Instance) -> None:
        self.instances.append(instance)
        for container in instance.containers:
            if container.spec.multi_model:
                self.models[instance.id] = LoadedModels(self._cloud, container, self.record)
        self._watchers[instance.id] = asyncio.create_task(self._replace_when_dead(instance))
        if self._added is not None:
            self._added()

    def _set_aside(self, instance: Instance, *, drain: bool = True) -> None:
        """Give an instance no further request, and stop it in the background."""
        self.instances.remove(instance)
        self._watchers.pop(instance.id).cancel()
        task = asyncio.create_task(self._leave(instance, drain=drain))
        self._leaving[instance] = task
        task.add_done_callback(lambda _: self._leaving.pop(instance))

    async def _leave(self, instance: Instance, *, drain: bool) -> None:
        if drain:
            await instance.drain(self._drain_seconds)
        await self._stop(instance, STOP_GRACE_SECONDS if drain else 1.0)

    async def _stop(self, instance: Instance, grace: float) -> None:
        if models := self.models.pop(instance.id, None):
            await models.close()
        await instance.stop(grace)

    async def _replace_when_dead(self, instance: Instance) -> None:
        why = await instance.wait_until_unhealthy()
        _log.warning(
            "%s/%s: instance %s is replaced: %s", self._endpoint, self.name, instance.id, why
        )
        self.instances.remove(instance)
        await self._stop(instance, 0)
        pause = 0.5
        try:
            while True:
                fresh = self._new_instance()
                try:
                    await self._start(fresh)
                except InstanceFailedError as error:
                    _log.warning(
                        "%s/%s: the replacement failed: %s", self._endpoint, self.name, error
                    )
                    await fresh.stop(0)
                except asyncio.CancelledError:
                    await fresh.stop(0)
                    raise
                else:
                    if len(self.instances) < self._desired:
                        self._add(fresh)
                    else:  # the variant was scaled meanwhile
                        await fresh.stop()
                    return
                await MACHINE.sleep(pause)
                pause = min(pause * 2, _LONGEST_RESTART_PAUSE_SECONDS)
        finally:
            del self._watchers[instance.id]
