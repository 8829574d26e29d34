"""One hosting shape on the local cloud: deployed by the product, asked through its client, billed
by the local cloud, and updated under load."""

from __future__ import annotations

import hashlib
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psutil

from benchmarks.hosting.load import Answers, Load, Traffic, answered_further
from benchmarks.hosting.products import Product
from local_sagemaker.account.billing import INSTANCE, PROVISIONED_CONCURRENCY, STORAGE, Bill
from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.capacity.new_endpoints import deploying
from tenantry.hosting.endpoints import ensure_endpoint
from tenantry.hosting.invocation import invoke
from tenantry.hosting.shapes.catalogue import real_time_shape, route_in
from tenantry.hosting.shapes.shape import VARIANT
from tenantry.models import artifacts
from tenantry.models.registry import ModelRegistry, ModelVersion
from tenantry.names import ids
from tenantry.names.tiers import Machines, Tier, machines_of
from tenantry.onboarding.registration import register
from tenantry.serving.client import TenantClient
from tenantry.serving.metrics import InferenceMetrics
from tenantry.tenants.wind_down import wind_down

TIERS: Final[dict[str, Tier]] = {
    "single_model": "silo",
    "multi_model": "bridge",
    "multi_container": "bridge",
    "serverless": "silo",
}
"""The compared shapes, and the tier that each serves here."""
COLD_STARTS: Final = {"multi_model": "ModelLoadingTime", "serverless": "ModelSetupTime"}
"""The metric with a value for each load of a model, or each start of an environment. The other
shapes load their models before they are in service."""
_HELD: Final = (INSTANCE, STORAGE, PROVISIONED_CONCURRENCY)
"""The lines that are billed by time."""
_AT_ONCE: Final = 2
"""Endpoints that are deployed, or first asked, at once: this machine's cores."""
_AFTER_UPDATE: Final = 10
"""Requests that must come after an update."""


class CrownError(RuntimeError):
    """A new version did not become champion."""


@dataclass(frozen=True)
class Billed:
    """The local cloud's bill of a time, in USD, and the `quantities` by line.

    `held` is the cost of what is billed by time, over `seconds`; `used` that of what is billed by
    request, of requests that came within `asked_seconds`. Both leave out the lines in
    `without_price`.
    """

    seconds: float
    asked_seconds: float
    held: float
    used: float
    quantities: dict[str, float]
    without_price: tuple[str, ...]

    @property
    def cost(self) -> float:
        """The whole cost."""
        return self.held + self.used

    @property
    def usd_per_hour(self) -> float:
        """The cost of an hour of such requests; their answers may have taken longer to come."""
        return 3600 * (self.held / self.seconds + self.used / self.asked_seconds)


@dataclass
class Measured:
    """The figures of one shape. `cold_starts` are counted by the local cloud's metrics.
    `containers` are their number and their memory, in GiB."""

    deploy_seconds: float = 0.0
    first_ms: list[float] = field(default_factory=list)
    window: Answers = field(default_factory=Answers)
    billed: Billed = field(init=False)
    cold_starts: dict[str, int] = field(default_factory=dict)
    containers: tuple[int, float] = (0, 0.0)
    update_seconds: float = 0.0
    during_update: Answers = field(default_factory=Answers)


class Site:
    """A shape's endpoints for some tenants.

    Args:
        deployment: of the product, on the local cloud.
        url: the local cloud's SageMaker, which has the bill.
        product: the models and the request.
        shape: one of `TIERS`.
        tenants: those with a version from the start.
    """

    def __init__(
        self,
        deployment: Deployment,
        url: str,
        product: Product,
        shape: str,
        tenants: Sequence[ids.TenantId],
    ) -> None:
        self.deployment, self.product, self.shape = deployment, product, shape
        self.tier = TIERS[shape]
        self.workload = product.workload(**{self.tier: shape})
        self.name = ids.workload_name(self.workload.name)
        self.tenants = list(tenants)
        self._url = url
        self._clients: dict[ids.TenantId, TenantClient] = {}
        self._metrics = InferenceMetrics(deployment)
        self._began = datetime.now(UTC)

    # ---- versions --------------------------------------------------------------------------------

    def _version(self, number: int, tenant: ids.TenantId, place: int) -> ModelVersion:
        """Keep an archive and record its version, as training does."""
        deployment, archive = self.deployment, self.product.archive(place)
        version = ids.version_name(f"2026010{number}t000000-aaaaaaaa")
        key = f"hosting/{tenant}/{version}.tar.gz"
        objects.write_bytes(deployment.s3, deployment.data_bucket, key, archive)
        model = ModelVersion(
            tenant,
            self.name,
            version,
            self.tier,
            key,
            len(archive),
            hashlib.sha256(archive).hexdigest(),
            ids.request_id(f"{number:032x}"),
            "job",
        )
        ModelRegistry(deployment).add(model)
        return model

    def crown(self, tenants: Sequence[ids.TenantId]) -> None:
        """Give tenants a champion that nobody has asked yet, so that the first request is cold."""

        def one(place: int) -> None:
            model = self._version(1, tenants[place], place)
            artifacts.place(self.deployment, model, self._machines(model.tenant), verified=True)
            route = route_in(
                self.deployment.prefix, self.workload, self.tier, model.tenant, model.version
            )
            ModelRegistry(self.deployment).crown(model, route, None)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(len(tenants))))

    def _machines(self, tenant: ids.ModelId) -> Machines:
        return machines_of(self.tier, tenant)

    def deploy(self) -> float:
        """Crown the tenants and bring their endpoints into service; the seconds of the second."""
        self.crown(self.tenants)
        shape = real_time_shape(self.workload, self.tier)
        champions = ModelRegistry(self.deployment).champions(self.name)
        routes = {one.tenant: one.route for one in champions}
        serves = {self._machines(tenant): list[Any]() for tenant in self.tenants}
        for tenant in self.tenants:
            serves[self._machines(tenant)].append(routes[tenant])
        began = time.perf_counter()

        def one(machines: Machines) -> str:
            given = serves[machines] if shape.deploys else ()
            made = ensure_endpoint(self.deployment, self.workload, machines, shape, serves=given)
            return made.name

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            self.endpoints = list(pool.map(one, serves))
        return time.perf_counter() - began

    def update(self) -> None:
        """Register a new version of the first tenant's model, with another setting of its
        container, as a run of the product does."""
        serving = self.workload.serving
        environment = {**serving.environment, "HOSTING_BENCHMARK": "updated"}
        changed = self.workload.model_copy(
            update={"serving": serving.model_copy(update={"environment": environment})}
        )
        tenant, began = self.tenants[0], datetime.now(UTC)
        model, machines = self._version(2, tenant, 1), self._machines(tenant)
        shape = real_time_shape(changed, self.tier)
        route = route_in(self.deployment.prefix, changed, self.tier, tenant, model.version)
        if shape.deploys:
            with deploying(self.deployment, changed, machines, began) as deploy:
                done = register(self.deployment, changed, model, route, deploy=deploy)
        else:
            ensure_endpoint(self.deployment, changed, machines, shape)
            done = register(self.deployment, changed, model, route)
        if not done.crowned:
            raise CrownError(f"{model.version} did not become champion: {done.decision}")

    # ---- requests --------------------------------------------------------------------------------

    def ask(self, tenant: ids.TenantId) -> None:
        """The product's own way: the champion's route, the endpoint, the archived exchange."""
        client = self._clients.get(tenant)
        if client is None:
            made = TenantClient(self.deployment, self.workload, tenant, metrics=self._metrics)
            client = self._clients.setdefault(tenant, made)
        client.predict(self.product.request)

    def service_seconds(self, tenant: ids.TenantId) -> float:
        """Seconds of one request to the endpoint alone."""
        champion = ModelRegistry(self.deployment).champion(tenant, self.name)
        if champion is None:
            raise LookupError(f"{tenant} has no champion")
        began = time.perf_counter()
        invoke(self.deployment, champion.route, self.product.request)
        return time.perf_counter() - began

    def first_asks(self) -> list[float]:
        """Milliseconds of each tenant's first request."""

        def one(tenant: ids.TenantId) -> float:
            began = time.perf_counter()
            self.ask(tenant)
            return 1000 * (time.perf_counter() - began)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(one, self.tenants))

    def under_load(self, traffic: Traffic, seconds: float) -> tuple[Answers, Billed]:
        """Answers to traffic of so many seconds, and the bill from its start to its last answer."""
        with self.billing(seconds) as bill, Load(self.ask, traffic, seconds) as load:
            pass
        return load.answers, bill()

    # ---- the local cloud's own figures -----------------------------------------------------------

    def metric(self, name: str, statistic: str = "SampleCount") -> int:
        """A CloudWatch metric of all endpoints since the beginning."""
        total = 0.0
        for endpoint in self.endpoints:
            points: Any = self.deployment.cloudwatch.get_metric_statistics(
                Namespace="AWS/SageMaker",
                MetricName=name,
                Dimensions=[
                    {"Name": "EndpointName", "Value": endpoint},
                    {"Name": "VariantName", "Value": VARIANT},
                ],
                Statistics=[statistic],  # type: ignore[list-item]
                StartTime=self._began - timedelta(minutes=2),
                EndTime=datetime.now(UTC) + timedelta(minutes=2),
                Period=60,
            )["Datapoints"]
            total += sum(point[statistic] for point in points)
        return round(total)

    def cold_starts(self) -> int:
        """Loads of models, or starts of environments, that requests have waited for so far."""
        return self.metric(COLD_STARTS[self.shape]) if self.shape in COLD_STARTS else 0

    def containers(self) -> tuple[int, float]:
        """The running containers and their resident memory in GiB."""
        command, held = f"{self.workload.serving_container}/serve", list[int]()
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if any(word.endswith(command) for word in process.cmdline()):
                    held.append(process.memory_info().rss)
        return len(held), round(sum(held) / 1024**3, 2)

    @contextmanager
    def billing(self, asked_seconds: float) -> Iterator[Callable[[], Billed]]:
        """The bill of a block whose requests come within so many seconds, for after it."""
        before, since = self._bill()
        found: list[Billed] = []
        yield lambda: found[0]
        after, until = self._bill()
        quantities, costs = defaultdict[str, float](float), {True: 0.0, False: 0.0}
        free = set[str]()
        known = {(one.what, one.kind, one.resource): one for one in before.lines}
        for line in after.lines:
            old = known.get((line.what, line.kind, line.resource))
            quantity = line.quantity - (old.quantity if old else 0.0)
            if quantity <= 0:
                continue
            quantities[f"{line.what}, {line.unit}"] += quantity
            if line.cost is None:
                free.add(line.what)
            else:
                costs[line.what in _HELD] += line.cost - ((old.cost or 0.0) if old else 0.0)
        found.append(
            Billed(
                until - since,
                asked_seconds,
                costs[True],
                costs[False],
                dict(quantities),
                tuple(sorted(free)),
            )
        )

    def _bill(self) -> tuple[Bill, float]:
        """The bill, and the moment in the middle of the call that reads it."""
        began = time.perf_counter()
        # A loopback address made here.
        with urllib.request.urlopen(f"{self._url}/_local/bill", timeout=60) as answer:  # noqa: S310
            content = answer.read()
        return Bill.model_validate_json(content), (began + time.perf_counter()) / 2

    def take_down(self) -> None:
        """Delete endpoints, models and rows, and wait until no endpoint is left."""
        for client in self._clients.values():
            client.__exit__(None, None, None)
        self._metrics.close()
        wind_down(self.deployment, self.name, by="the benchmark", delete_data=True)
        waiter = self.deployment.sagemaker.get_waiter("endpoint_deleted")
        for endpoint in self.endpoints:
            waiter.wait(EndpointName=endpoint, WaiterConfig={"Delay": 1, "MaxAttempts": 120})


@contextmanager
def deployed(site: Site) -> Iterator[float]:
    """The site in service, taken down at the end; the seconds that its endpoints took."""
    try:
        yield site.deploy()
    finally:
        site.take_down()


def measure(
    site: Site, rate: float, seconds: float, between: Callable[[Site], None] | None = None
) -> Measured:
    """A shape's figures.

    Args:
        site: not deployed yet.
        rate: requests a second of all tenants.
        seconds: of the measured window.
        between: called between the window and the update.
    """
    traffic, found = Traffic(rate, site.tenants), Measured()
    with deployed(site) as found.deploy_seconds:
        found.first_ms = site.first_asks()
        found.cold_starts["first requests"] = site.cold_starts()
        found.window, found.billed = site.under_load(traffic, seconds)
        found.cold_starts["under load"] = site.cold_starts() - sum(found.cold_starts.values())
        found.containers = site.containers()
        if between is not None:
            between(site)
        before = site.cold_starts()
        with Load(site.ask, traffic) as load:
            answered_further(load, 2)
            began = time.perf_counter()
            site.update()
            found.update_seconds = time.perf_counter() - began
            answered_further(load, _AFTER_UPDATE)
        found.during_update = load.answers
        found.cold_starts["during the update"] = site.cold_starts() - before
    return found
