"""Endpoints: CreateEndpoint, DescribeEndpoint, ListEndpoints, UpdateEndpoint,
UpdateEndpointWeightsAndCapacities, DeleteEndpoint.

Sources: docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateEndpoint.html,
…/API_UpdateEndpoint.html (the old fleet serves until the new one is healthy; a failed update leaves
the endpoint InService with a FailureReason) and …/API_UpdateEndpointWeightsAndCapacities.html.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local_sagemaker.account.cloud import Cloud, Operation, page
from local_sagemaker.account.rates import ENDPOINT
from local_sagemaker.account.state import Document
from local_sagemaker.asynchronous.notifications import TEST_NOTIFICATION, NotificationConfig
from local_sagemaker.asynchronous.queue import (
    LONGEST_INVOCATION_SECONDS,
    RequestQueue,
    forget_requests,
)
from local_sagemaker.endpoints.configs import EndpointConfigs
from local_sagemaker.endpoints.fleet import RESPONSE_TIMEOUT_SECONDS, Variant
from local_sagemaker.endpoints.host_metrics import HostMetrics
from local_sagemaker.endpoints.models import Models, ModelSpec
from local_sagemaker.endpoints.serving_containers import InstanceFailedError
from local_sagemaker.errors import ServiceError, not_emulated, not_found, validation
from local_sagemaker.faults.plan import UPDATE_REASON, Subject
from local_sagemaker.monitoring.endpoint_metrics import Metrics
from local_sagemaker.serverless.config import (
    ServerlessConfig,
    changed,
    check_account,
    check_update,
    is_serverless,
)
from local_sagemaker.serverless.variant import ServerlessVariant

_log = logging.getLogger(__name__)
KIND = "endpoint"


class Endpoints:
    """All endpoints of the account and their instances."""

    def __init__(
        self, cloud: Cloud, models: Models, configs: EndpointConfigs, metrics: Metrics
    ) -> None:
        self._cloud = cloud
        self._models = models
        self._configs = configs
        self._metrics = metrics
        self._fleets: dict[str, dict[str, Variant]] = {}
        self._queues: dict[str, RequestQueue] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._host_metrics = HostMetrics(metrics.now)
        self._watching: asyncio.Task[None] | None = None
        self.operations: dict[str, Operation] = {
            "CreateEndpoint": self.create,
            "DescribeEndpoint": self.describe,
            "ListEndpoints": self.list_page,
            "UpdateEndpoint": self.update,
            "UpdateEndpointWeightsAndCapacities": self.update_weights_and_capacities,
            "DeleteEndpoint": self.delete,
        }

    def start(self) -> None:
        """After a restart, start every endpoint's instances again, with status SystemUpdating until
        they are healthy."""
        for name, endpoint in self._cloud.store.all(KIND):
            if endpoint["EndpointStatus"] == "Deleting":
                self._forget(name, endpoint)
            elif endpoint["EndpointStatus"] != "Failed":
                self._add_queue(name, endpoint)
                self._start_again(name, endpoint)

    def _serving(self) -> list[Variant]:
        return [variant for fleet in self._fleets.values() for variant in fleet.values()]

    def _start_again(self, name: str, endpoint: Document) -> None:
        try:
            self._hold(name, endpoint["Variants"])
        except ServiceError as error:
            self._move(name, endpoint, "Failed", error.message)
        else:
            # Only the emulator lost these instances, so AWS would not provision them again.
            work = self._bring_up(name, endpoint, provision=False)
            self._begin(name, endpoint, "SystemUpdating", work)

    async def close(self) -> None:
        """Kill all instances; the endpoints stay as they are on disk."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        queues, self._queues = self._queues, {}
        await asyncio.gather(*(queue.close() for queue in queues.values()))
        fleets, self._fleets = self._fleets, {}
        await asyncio.gather(
            *(variant.close(drain=False) for fleet in fleets.values() for variant in fleet.values())
        )

    def fleet(self, name: str) -> dict[str, Variant] | None:
        """The variants of a serving endpoint, by name."""
        return self._fleets.get(name)

    def queue(self, name: str) -> RequestQueue | None:
        """The queue of an asynchronous endpoint."""
        return self._queues.get(name)

    def get(self, name: str) -> Document | None:
        """The document of an endpoint of any status, or None when no endpoint has this name."""
        return self._cloud.store.get(KIND, name)

    def record_samples(self) -> None:
        """Sample the backlog of every asynchronous endpoint, and the concurrency of every
        serverless one."""
        for queue in self._queues.values():
            queue.record_backlog()
        for variant in self._serving():
            variant.record_concurrency()

    async def create(self, params: dict[str, Any]) -> dict[str, Any]:
        """CreateEndpoint."""
        name = params["EndpointName"]
        arn = self._cloud.arn(KIND, name)
        if self._cloud.taken(KIND, name):
            raise validation(f'Cannot create already existing endpoint "{arn}".')
        config = self._configs.get(params["EndpointConfigName"])
        variants = self._variants(config)
        self._hold(name, variants)
        now = self._cloud.clock.now()
        endpoint = {
            "EndpointName": name,
            "EndpointArn": arn,
            "EndpointConfigName": params["EndpointConfigName"],
            "CreationTime": now,
            "LastModifiedTime": now,
            "Variants": variants,
        }
        if "AsyncInferenceConfig" in config:
            endpoint["AsyncInferenceConfig"] = config["AsyncInferenceConfig"]
        self._cloud.put_tags(arn, params.get("Tags"))
        self._add_queue(name, endpoint)
        self._begin(name, endpoint, "Creating", self._create(name, endpoint))
        return {"EndpointArn": arn}

    async def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeEndpoint; CurrentInstanceCount is the number of instances that are healthy
        now."""
        endpoint = self._get(params["EndpointName"])
        fleet = self._fleets.get(params["EndpointName"], {})
        variants = []
        for document in endpoint["Variants"]:
            current = fleet.get(document["VariantName"])
            variants.append(
                {
                    "VariantName": document["VariantName"],
                    "DeployedImages": [
                        {
                            "SpecifiedImage": image,
                            "ResolvedImage": image,
                            "ResolutionTime": endpoint["CreationTime"],
                        }
                        for image in ModelSpec.parse(document["Model"]).images
                    ],
                    "CurrentWeight": document["CurrentWeight"],
                    "DesiredWeight": document["CurrentWeight"],
                    **_capacity(document, current),
                }
            )
        return endpoint | {"ProductionVariants": variants}

    async def list_page(self, params: dict[str, Any]) -> dict[str, Any]:
        """ListEndpoints."""
        endpoints, token = page(self._cloud.store.all(KIND), params, status="EndpointStatus")
        return {"Endpoints": endpoints, "NextToken": token}

    async def update(self, params: dict[str, Any]) -> dict[str, Any]:
        """UpdateEndpoint: start a new fleet, and stop the old one when the new one is healthy."""
        name = params["EndpointName"]
        endpoint = self._in_service(name)
        config = self._configs.get(params["EndpointConfigName"])
        if ("AsyncInferenceConfig" in config) != (name in self._queues):
            raise not_emulated("An update between real-time and asynchronous inference")
        variants = self._variants(config)
        check_update(endpoint["Variants"], variants)
        if params.get("RetainAllVariantProperties"):
            excluded = {
                entry["VariantPropertyType"]
                for entry in params.get("ExcludeRetainedVariantProperties", [])
            }
            _retain(variants, endpoint["Variants"], excluded)
        self._hold(name, [*variants, *endpoint["Variants"]])
        endpoint.pop("FailureReason", None)
        self._begin(
            name, endpoint, "Updating", self._replace_fleet(name, endpoint, config, variants)
        )
        return {"EndpointArn": endpoint["EndpointArn"]}

    async def update_weights_and_capacities(self, params: dict[str, Any]) -> dict[str, Any]:
        """UpdateEndpointWeightsAndCapacities: weights at once, more instances as they become
        healthy; instances too many are set aside at once, and drain in the background."""
        name = params["EndpointName"]
        endpoint = self._in_service(name)
        known = {document["VariantName"]: document for document in endpoint["Variants"]}
        changes = params["DesiredWeightsAndCapacities"]
        if len({change["VariantName"] for change in changes}) != len(changes):
            raise validation("DesiredWeightsAndCapacities must name each variant once")
        for change in changes:
            if change["VariantName"] not in known:
                raise validation(
                    f'The variant name(s) "{change["VariantName"]}" is/are not present within '
                    f"endpoint configuration."
                )
            if is_serverless([known[change["VariantName"]]]):
                return self._change_concurrency(
                    name, endpoint, known[change["VariantName"]], change
                )
            if "ServerlessUpdateConfig" in change:
                raise validation("ServerlessUpdateConfig is only valid for a serverless variant.")
            if change.get("DesiredInstanceCount", 1) < 1 and name not in self._queues:
                raise validation(
                    "DesiredInstanceCount must be at least 1 for a variant that answers in real "
                    "time"
                )
        counts = {
            change["VariantName"]: change["DesiredInstanceCount"]
            for change in changes
            if "DesiredInstanceCount" in change
        }
        self._hold(
            name,
            [
                document
                | {"DesiredInstanceCount": counts.get(variant, document["DesiredInstanceCount"])}
                for variant, document in known.items()
            ],
        )
        for change in changes:
            if "DesiredWeight" in change:
                known[change["VariantName"]]["CurrentWeight"] = change["DesiredWeight"]
        before = {variant: known[variant]["DesiredInstanceCount"] for variant in counts}
        for variant, count in counts.items():
            known[variant]["DesiredInstanceCount"] = count
        endpoint.pop("FailureReason", None)
        self._begin(name, endpoint, "Updating", self._scale(name, endpoint, before))
        return {"EndpointArn": endpoint["EndpointArn"]}

    async def delete(self, params: dict[str, Any]) -> dict[str, Any]:
        """DeleteEndpoint: answer the requests in flight, then remove the instances and the
        endpoint.

        For an asynchronous endpoint, drop the waiting and running requests.
        """
        name = params["EndpointName"]
        endpoint = self._get(name)
        if endpoint["EndpointStatus"] not in ("InService", "Failed", "Creating"):
            raise validation(f'Cannot update in-progress endpoint "{endpoint["EndpointArn"]}".')
        if task := self._tasks.pop(name, None):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._begin(name, endpoint, "Deleting", self._take_down(name, endpoint))
        return {}

    def _get(self, name: str) -> Document:
        endpoint = self._cloud.store.get(KIND, name)
        if endpoint is None:
            raise not_found(f'endpoint "{self._cloud.arn(KIND, name)}"')
        return endpoint

    def _in_service(self, name: str) -> Document:
        endpoint = self._get(name)
        if endpoint["EndpointStatus"] != "InService":
            raise validation(f'Cannot update in-progress endpoint "{endpoint["EndpointArn"]}".')
        return endpoint

    def _variants(self, config: Document) -> list[Document]:
        """The variants of a configuration with their models. The endpoint keeps copies, because
        both may be deleted later."""
        return [
            {
                "VariantName": variant["VariantName"],
                "CurrentWeight": variant["InitialVariantWeight"],
                "DesiredInstanceCount": variant.get("InitialInstanceCount", 0),
                "Config": variant,
                "Model": self._models.get(variant["ModelName"]),
                **{name: variant[name] for name in ("ServerlessConfig",) if name in variant},
            }
            for variant in config["ProductionVariants"]
        ]

    def _add_queue(self, name: str, endpoint: Document) -> None:
        if config := endpoint.get("AsyncInferenceConfig"):
            variant_name = endpoint["Variants"][0]["VariantName"]
            self._queues[name] = RequestQueue(
                self._cloud, self._metrics, name, variant_name, config
            )

    def _move(self, name: str, endpoint: Document, status: str, reason: str | None = None) -> None:
        endpoint["EndpointStatus"] = status
        endpoint["LastModifiedTime"] = self._cloud.clock.now()
        if reason is not None:
            endpoint["FailureReason"] = reason[:1024]
        self._cloud.store.put(KIND, name, endpoint)

    def _begin(
        self, name: str, endpoint: Document, status: str, work: Coroutine[Any, Any, None]
    ) -> None:
        """Enter a status and start the work that ends it."""
        self._move(name, endpoint, status)
        task = asyncio.create_task(self._finish(name, endpoint, work))
        self._tasks[name] = task
        task.add_done_callback(
            lambda done: self._tasks.pop(name) if self._tasks.get(name) is done else None
        )

    async def _finish(self, name: str, endpoint: Document, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        # Log the error, and make it the endpoint's FailureReason.
        except Exception as error:  # noqa: BLE001
            _log.exception("endpoint %s", name)
            self._move(
                name, endpoint, "Failed", f"InternalServerError: {type(error).__name__}: {error}"
            )

    def _new_fleet(self, name: str, variants: list[Document]) -> dict[str, Variant]:
        queue = self._queues.get(name)
        drain = LONGEST_INVOCATION_SECONDS if queue else RESPONSE_TIMEOUT_SECONDS
        added = queue.dispatch if queue else None
        return {
            document["VariantName"]: ServerlessVariant(self._cloud, self._metrics, name, document)
            if is_serverless([document])
            else Variant(self._cloud, self._metrics, name, document, drain, added)
            for document in variants
        }

    def _put_in_service(self, name: str, endpoint: Document, fleet: dict[str, Variant]) -> None:
        self._fleets[name] = fleet
        if self._watching is None:
            self._watching = asyncio.create_task(self._host_metrics.watch(self._serving))
        if queue := self._queues.get(name):
            queue.serve(next(iter(fleet.values())), endpoint["AsyncInferenceConfig"])

    async def _start_fleet(self, fleet: dict[str, Variant], *, provision: bool = True) -> None:
        """Start all variants. Raises InstanceFailedError or CancelledError, and then leaves nothing
        running."""
        try:
            async with asyncio.TaskGroup() as group:
                for variant in fleet.values():
                    count = variant.document["DesiredInstanceCount"]
                    group.create_task(variant.scale(count, provision=provision))
        except BaseExceptionGroup as errors:
            await asyncio.gather(*(variant.close(drain=False) for variant in fleet.values()))
            failed, _ = errors.split(InstanceFailedError)
            if failed is None:
                raise
            names = ", ".join(fleet)
            raise InstanceFailedError(
                f"Production variant {names}: {failed.exceptions[0]}"
            ) from errors
        except asyncio.CancelledError:
            await asyncio.gather(*(variant.close(drain=False) for variant in fleet.values()))
            raise

    async def _create(self, name: str, endpoint: Document) -> None:
        topics = (
            NotificationConfig.parse(endpoint["AsyncInferenceConfig"]).topics
            if name in self._queues
            else []
        )
        for topic in topics:
            try:
                await asyncio.to_thread(
                    self._cloud.sns.publish, TopicArn=topic, Message=TEST_NOTIFICATION
                )
            except (ClientError, BotoCoreError) as error:
                self._cloud.quota(ENDPOINT).release(name)
                reason = (
                    f'Please ensure that the role exists and has "sns:Publish" permissions '
                    f'for topic "{topic}": {error}'
                )
                self._move(name, endpoint, "Failed", reason)
                return
        await self._bring_up(name, endpoint)

    async def _bring_up(self, name: str, endpoint: Document, *, provision: bool = True) -> None:
        fleet = self._new_fleet(name, endpoint["Variants"])
        try:
            await self._start_fleet(fleet, provision=provision)
        except InstanceFailedError as failure:
            self._cloud.quota(ENDPOINT).release(name)
            self._move(name, endpoint, "Failed", str(failure))
            return
        self._put_in_service(name, endpoint, fleet)
        self._move(name, endpoint, "InService")

    async def _replace_fleet(
        self, name: str, endpoint: Document, config: Document, variants: list[Document]
    ) -> None:
        fleet = self._new_fleet(name, variants)
        try:
            self._fail_as_planned("UpdateEndpoint", name)
            await self._start_fleet(fleet)
        except InstanceFailedError as failure:
            self._hold(name, endpoint["Variants"])
            self._move(name, endpoint, "InService", str(failure))
            return
        old = self._fleets[name]
        endpoint["EndpointConfigName"] = config["EndpointConfigName"]
        endpoint["Variants"] = variants
        if "AsyncInferenceConfig" in config:
            endpoint["AsyncInferenceConfig"] = config["AsyncInferenceConfig"]
        self._put_in_service(name, endpoint, fleet)
        await asyncio.gather(*(variant.close(drain=True) for variant in old.values()))
        self._hold(name, endpoint["Variants"])
        self._move(name, endpoint, "InService")

    def _fail_as_planned(self, operation: str, name: str) -> None:
        """Raises InstanceFailedError where a planned fault makes this accepted update fail."""
        subject = Subject(f"{operation} {name}", operation=operation, endpoint=name)
        if self._cloud.faults.strikes("failed_update", subject):
            raise InstanceFailedError(UPDATE_REASON)

    async def _scale(self, name: str, endpoint: Document, before: dict[str, int]) -> None:
        """Bring the variants in `before` to their desired counts. Those that fail keep the counts
        that `before` has."""
        fleet = self._fleets[name]
        reason = None
        for document in endpoint["Variants"]:
            variant = fleet[document["VariantName"]]
            if variant.name in before:
                try:
                    self._fail_as_planned("UpdateEndpointWeightsAndCapacities", name)
                    await variant.scale(document["DesiredInstanceCount"])
                except InstanceFailedError as failure:
                    document["DesiredInstanceCount"] = before[variant.name]
                    reason = f"Production variant {variant.name}: {failure}"
        self._hold(name, endpoint["Variants"])
        self._move(name, endpoint, "InService", reason)

    async def _take_down(self, name: str, endpoint: Document) -> None:
        queue = self._queues.pop(name, None)
        if queue is not None:
            await queue.close()
        fleet = self._fleets.pop(name, {})
        await asyncio.gather(*(variant.close(drain=queue is None) for variant in fleet.values()))
        self._forget(name, endpoint)

    def _hold(self, name: str, variants: list[Document]) -> None:
        """Hold the desired instances of these variants. Raises ResourceLimitExceeded."""
        instances = Counter[str]()
        others = [endpoint for _, endpoint in self._cloud.store.all(KIND)]
        check_account(self._cloud.settings.region, name, others, variants)
        for variant in variants:
            if is_serverless([variant]):
                continue
            instances[variant["Config"]["InstanceType"]] += variant["DesiredInstanceCount"]
        self._cloud.quota(ENDPOINT).hold(name, instances)

    def _change_concurrency(
        self, name: str, endpoint: Document, document: Document, change: Document
    ) -> dict[str, Any]:
        """Let another ServerlessConfig hold for the endpoint's only variant."""
        before, after = document["ServerlessConfig"], changed(document, change)
        self._hold(name, [document | {"ServerlessConfig": after}])
        document["ServerlessConfig"] = after
        if "DesiredWeight" in change:
            document["CurrentWeight"] = change["DesiredWeight"]
        endpoint.pop("FailureReason", None)
        self._begin(name, endpoint, "Updating", self._concur(name, endpoint, document, before))
        return {"EndpointArn": endpoint["EndpointArn"]}

    async def _concur(
        self, name: str, endpoint: Document, document: Document, before: Document
    ) -> None:
        variant, reason = self._fleets[name][document["VariantName"]], None
        try:
            self._fail_as_planned("UpdateEndpointWeightsAndCapacities", name)
            if isinstance(variant, ServerlessVariant):
                await variant.apply(ServerlessConfig.parse(document["ServerlessConfig"]))
        except InstanceFailedError as failure:
            document["ServerlessConfig"] = before
            reason = f"Production variant {variant.name}: {failure}"
        self._move(name, endpoint, "InService", reason)

    def _forget(self, name: str, endpoint: Document) -> None:
        self._cloud.meter.settle()
        self._cloud.quota(ENDPOINT).release(name)
        forget_requests(self._cloud.store, name)
        self._cloud.store.delete(KIND, name)
        self._cloud.store.delete("tags", endpoint["EndpointArn"])


def _capacity(document: Document, current: Variant | None) -> Document:
    """The members of a variant's description that tell what it runs on."""
    if is_serverless([document]):
        config = {"DesiredServerlessConfig": document["ServerlessConfig"]}
        if isinstance(current, ServerlessVariant):
            config["CurrentServerlessConfig"] = current.config.document
        return config
    return {
        "CurrentInstanceCount": len(current.instances) if current else 0,
        "DesiredInstanceCount": document["DesiredInstanceCount"],
    }


def _retain(variants: list[Document], old: list[Document], excluded: set[str]) -> None:
    """RetainAllVariantProperties: variants of the same name keep their counts and weights."""
    before = {document["VariantName"]: document for document in old}
    for document in variants:
        kept = before.get(document["VariantName"])
        if kept and is_serverless([kept]) == is_serverless([document]):
            for member, kind in (
                ("DesiredInstanceCount", "DesiredInstanceCount"),
                ("CurrentWeight", "DesiredWeight"),
            ):
                if kind not in excluded:
                    document[member] = kept[member]
