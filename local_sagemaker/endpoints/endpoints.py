"""Endpoints: CreateEndpoint, DescribeEndpoint, ListEndpoints, UpdateEndpoint,
UpdateEndpointWeightsAndCapacities, DeleteEndpoint.

Sources: docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateEndpoint.html,
…/API_UpdateEndpoint.html (the old fleet serves until the new one is healthy; a failed update leaves
the endpoint InService with a FailureReason) and …/API_UpdateEndpointWeightsAndCapacities.html.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Mapping
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
from local_sagemaker.endpoints.deployment_configs import check, deployment_plan
from local_sagemaker.endpoints.deployments import (
    Deployment,
    RollbackFailedError,
    RolledBackError,
    close,
    scale,
)
from local_sagemaker.endpoints.descriptions import described_variants
from local_sagemaker.endpoints.fleet import RESPONSE_TIMEOUT_SECONDS, Variant
from local_sagemaker.endpoints.host_metrics import HostMetrics
from local_sagemaker.endpoints.models import Models
from local_sagemaker.endpoints.serving_containers import InstanceFailedError
from local_sagemaker.endpoints.traffic import Fleet, Shift
from local_sagemaker.errors import ServiceError, not_emulated, not_found, validation
from local_sagemaker.faults.plan import UPDATE_REASON, Subject
from local_sagemaker.monitoring.alarms import Alarms
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
        self,
        cloud: Cloud,
        models: Models,
        configs: EndpointConfigs,
        metrics: Metrics,
        alarms: Alarms,
    ) -> None:
        self._cloud = cloud
        self._models = models
        self._configs = configs
        self._metrics = metrics
        self._alarms = alarms
        self._fleets: dict[str, dict[str, Variant]] = {}
        self._queues: dict[str, RequestQueue] = {}
        self._deployments: dict[str, Deployment] = {}
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
        fleets = [*self._fleets.values(), *(one.shift.green for one in self._deployments.values())]
        return [variant for fleet in fleets for variant in fleet.values()]

    def _start_again(self, name: str, endpoint: Document) -> None:
        try:
            self._hold(name, endpoint["Variants"])
        except ServiceError as error:
            self._move(name, endpoint, "Failed", error.message)
        else:
            # Only the emulator lost these instances, so AWS would not provision them again.
            taken_back = endpoint.pop("Update", None)
            reason = taken_back and (
                f"The update to {taken_back} was taken back, because the service stopped during it."
            )
            work = self._bring_up(name, endpoint, provision=False, reason=reason)
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
        fleets = [*self._fleets.values(), *(one.shift.green for one in self._deployments.values())]
        self._fleets, self._deployments = {}, {}
        await asyncio.gather(*(close(fleet, drain=False) for fleet in fleets))

    def fleet(self, name: str) -> dict[str, Variant] | None:
        """The variants of a serving endpoint, by name."""
        return self._fleets.get(name)

    def shift(self, name: str) -> Shift | None:
        """The two fleets of an endpoint that is being updated."""
        deployment = self._deployments.get(name)
        return deployment.shift if deployment else None

    def fleet_of(self, name: str, variant: Variant) -> Fleet:
        """The fleet of an endpoint that has this variant; during an update there are two."""
        fleet, shift = self._fleets[name], self.shift(name)
        return shift.green if shift and fleet.get(variant.name) is not variant else fleet

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
        deployment = params.get("DeploymentConfig", {})
        self._check_deployment(deployment)
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
        if deployment:  # of updates to come that retain it; it changes nothing in the creation
            endpoint["LastDeploymentConfig"] = deployment
        if "AsyncInferenceConfig" in config:
            endpoint["AsyncInferenceConfig"] = config["AsyncInferenceConfig"]
        self._cloud.put_tags(arn, params.get("Tags"))
        self._add_queue(name, endpoint)
        self._begin(name, endpoint, "Creating", self._create(name, endpoint))
        return {"EndpointArn": arn}

    async def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeEndpoint."""
        name = params["EndpointName"]
        endpoint = self._get(name)
        return endpoint | described_variants(
            endpoint, self._fleets.get(name, {}), self._deployments.get(name)
        )

    async def list_page(self, params: dict[str, Any]) -> dict[str, Any]:
        """ListEndpoints."""
        endpoints, token = page(self._cloud.store.all(KIND), params, status="EndpointStatus")
        return {"Endpoints": endpoints, "NextToken": token}

    async def update(self, params: dict[str, Any]) -> dict[str, Any]:
        """UpdateEndpoint: start a new fleet, shift the traffic to it as the DeploymentConfig says,
        and stop the old one."""
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
        last = endpoint.get("LastDeploymentConfig", {})
        wanted = params.get("DeploymentConfig", {})
        if params.get("RetainDeploymentConfig"):
            if wanted:
                raise validation(
                    "DeploymentConfig cannot be specified when RetainDeploymentConfig is true."
                )
            wanted = last
        self._check_deployment(wanted)
        old = endpoint["Variants"]
        plan = deployment_plan(wanted, old, variants)
        serverless = [one for one in (*old, *variants) if is_serverless([one])]
        self._hold(name, [*plan.most_instances(old, variants), *serverless])
        for member in ("FailureReason", "LastDeploymentConfig"):
            endpoint.pop(member, None)
        endpoint |= {"Update": config["EndpointConfigName"]} | (
            {"LastDeploymentConfig": wanted} if wanted else {}
        )
        queue = self._queues.get(name)
        shift = Shift(
            self._fleets[name], self._new_fleet(name, variants), queue.dispatch if queue else None
        )

        def hold(blue: Mapping[str, int], green: Mapping[str, int]) -> None:
            self._hold(name, [*_with_counts(old, blue), *_with_counts(variants, green)])

        deployment = Deployment(
            self._cloud, self._alarms, config["EndpointConfigName"], plan, shift, hold
        )
        self._deployments[name] = deployment
        work = self._replace_fleet(name, endpoint, config, variants, deployment)
        self._begin(name, endpoint, "Updating", work)
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
        if endpoint["EndpointStatus"] not in (
            "InService",
            "Failed",
            "Creating",
            "UpdateRollbackFailed",
        ):
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
        if endpoint["EndpointStatus"] == "UpdateRollbackFailed":
            raise not_emulated("A change of an endpoint that is UpdateRollbackFailed")
        if endpoint["EndpointStatus"] != "InService":
            raise validation(f'Cannot update in-progress endpoint "{endpoint["EndpointArn"]}".')
        return endpoint

    def _variants(self, config: Document) -> list[Document]:
        """The variants of a configuration with their models. The endpoint keeps copies, because
        both may be deleted later."""
        return [
            {
                "VariantName": variant["VariantName"],
                "EndpointConfigName": config["EndpointConfigName"],
                "CurrentWeight": variant["InitialVariantWeight"],
                "DesiredInstanceCount": variant.get("InitialInstanceCount", 0),
                "Config": variant,
                "Model": self._models.get(variant["ModelName"]),
                **{name: variant[name] for name in ("ServerlessConfig",) if name in variant},
            }
            | ({"Shadow": True} if shadow else {})
            for shadow, member in (
                (False, "ProductionVariants"),
                (True, "ShadowProductionVariants"),
            )
            for variant in config.get(member, [])
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
        counts = {one.name: one.document["DesiredInstanceCount"] for one in fleet.values()}
        try:
            await scale(fleet, counts, provision=provision)
        except BaseException:
            await close(fleet, drain=False)
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

    async def _bring_up(
        self, name: str, endpoint: Document, *, provision: bool = True, reason: str | None = None
    ) -> None:
        """Start the endpoint's fleet. `reason` is why an update of it was taken back."""
        fleet = self._new_fleet(name, endpoint["Variants"])
        try:
            await self._start_fleet(fleet, provision=provision)
        except InstanceFailedError as failure:
            self._cloud.quota(ENDPOINT).release(name)
            self._move(name, endpoint, "Failed", str(failure))
            return
        self._put_in_service(name, endpoint, fleet)
        self._move(name, endpoint, "InService", reason)

    async def _replace_fleet(
        self,
        name: str,
        endpoint: Document,
        config: Document,
        variants: list[Document],
        deployment: Deployment,
    ) -> None:
        queue, old = self._queues.get(name), self._fleets[name]
        try:
            self._fail_as_planned("UpdateEndpoint", name)
            if queue is not None:
                queue.share(deployment.shift)
            await deployment.run()
        except RollbackFailedError as failure:
            self._move(name, endpoint, "UpdateRollbackFailed", str(failure))
            return
        except (InstanceFailedError, RolledBackError) as failure:
            self._end_deployment(name, endpoint)
            self._hold(name, endpoint["Variants"])
            self._move(name, endpoint, "InService", str(failure))
            return
        except Exception:
            self._end_deployment(name, endpoint)  # the old fleet serves on
            raise
        self._end_deployment(name, endpoint)
        endpoint["EndpointConfigName"] = config["EndpointConfigName"]
        endpoint["Variants"] = variants
        if "AsyncInferenceConfig" in config:
            endpoint["AsyncInferenceConfig"] = config["AsyncInferenceConfig"]
        self._put_in_service(name, endpoint, deployment.shift.green)
        await close(old, drain=True)
        self._hold(name, endpoint["Variants"])
        self._move(name, endpoint, "InService")

    def _end_deployment(self, name: str, endpoint: Document) -> None:
        endpoint.pop("Update", None)
        self._deployments.pop(name, None)
        if queue := self._queues.get(name):
            queue.share(None)

    def _check_deployment(self, config: Document) -> None:
        """Raises ValidationException for a DeploymentConfig that no endpoint can have."""
        check(config)
        for alarm in config.get("AutoRollbackConfiguration", {}).get("Alarms", []):
            if not self._alarms.exists(alarm["AlarmName"]):
                raise validation(
                    f"Could not find the alarm {alarm['AlarmName']} of AutoRollbackConfiguration."
                )

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
        fleets = [self._fleets.pop(name, {})]
        if deployment := self._deployments.pop(name, None):
            fleets.append(deployment.shift.green)
        await asyncio.gather(*(close(fleet, drain=queue is None) for fleet in fleets))
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


def _with_counts(variants: list[Document], counts: Mapping[str, int]) -> list[Document]:
    return [one | {"DesiredInstanceCount": counts[one["VariantName"]]} for one in variants]
