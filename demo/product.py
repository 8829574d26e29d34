"""A product's way through a demo: its tenants upload, get models, ask them, and get tonight's batch prediction now."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

from rich.progress import Progress
from rich.table import Table

from demo.dagster_processes import DagsterProcesses
from orchestration.jobs import batch_step
from resources import hosting, keys, storage
from resources.client import NoModelYet, TenantClient
from resources.deployment import Deployment
from resources.model_registry import ModelRegistry, ModelVersion
from resources.request_queue import RequestQueue
from workloads.schema import Workload

SETTLED: Final = {"registered", "refused", "dead_lettered"}


class DemoFailed(RuntimeError):  # noqa: N818 - reads as the sentence it is: "demo failed"
    """Something that should have happened did not; the message says what and where to look."""


@dataclass(frozen=True)
class DemoTenant:
    """A tenant of the demo. ``good`` tells whether a model is expected of its upload."""

    tenant: keys.TenantId
    files: Mapping[str, bytes]
    parameters: Mapping[str, str]
    tier: keys.Tier
    good: bool


@dataclass(frozen=True)
class Shown:
    """What a product's table shows of a model: the columns, and a tenant's cells for them."""

    columns: Sequence[str]
    cells: Callable[[ModelVersion, Mapping[str, Any]], Sequence[str]]
    """Made of the champion and its first answer."""


@dataclass
class Product:
    """One workload's tenants on their way."""

    deployment: Deployment
    dagster: DagsterProcesses
    workload: Workload
    tenants: Sequence[DemoTenant]
    shown: Shown
    timeout: float
    first_answers: dict[keys.TenantId, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> keys.WorkloadName:
        """The workload's name."""
        return keys.workload_name(self.workload.name)

    @property
    def good(self) -> list[DemoTenant]:
        """The tenants that should get a model."""
        return [tenant for tenant in self.tenants if tenant.good]

    def client(self, tenant: DemoTenant) -> TenantClient:
        """The client the product's app would use for a tenant."""
        return TenantClient(self.deployment, self.workload, tenant.tenant)

    # ---- the steps -----------------------------------------------------------------------------------------------------

    def upload(self, progress: Progress) -> None:
        """Upload every tenant's files, as the product's app does."""
        registry = ModelRegistry(self.deployment)
        bar = progress.add_task(f"{self.name}: tenants upload their data", total=len(self.tenants))
        for tenant in self.tenants:
            if tenant.tier != self.workload.tier:
                registry.set_tier(tenant.tenant, self.name, tenant.tier)
            with self.client(tenant) as client:
                client.upload(tenant.files, tenant.parameters)
            progress.advance(bar)

    def wait_for_models(self, progress: Progress) -> None:
        """Follow the queue until every upload is settled. Raises ``DemoFailed``."""
        queue, registry = RequestQueue(self.deployment), ModelRegistry(self.deployment)
        bar = progress.add_task(f"{self.name}: models trained and registered", total=len(self.good))
        state = progress.add_task("", total=None)
        deadline = time.monotonic() + self.timeout
        while True:
            served = {champion.tenant for champion in registry.champions(self.name)}
            open_requests = queue.open(self.name)
            counts = Counter[str](request.status for request in open_requests)
            progress.update(bar, completed=sum(tenant.tenant in served for tenant in self.good))
            words = ", ".join(f"{count} {status}" for status, count in counts.items()) or "waiting for the sensors"
            progress.update(state, description=f"[dim]{words}[/dim]")
            if all(tenant.tenant in served for tenant in self.good) and self._settled(queue):
                progress.update(state, visible=False)
                return
            self._fail_if_settled_without_a_model(queue, served)
            self._still_running(deadline, counts)
            time.sleep(1.0)

    def _settled(self, queue: RequestQueue) -> bool:
        """Whether the spoiled uploads have been refused, too, and nothing is left open."""
        spoiled = [queue.of_tenant(self.name, tenant.tenant) for tenant in self.tenants if not tenant.good]
        return all(rows and rows[-1].status in SETTLED for rows in spoiled) and not queue.open(self.name)

    def _fail_if_settled_without_a_model(self, queue: RequestQueue, served: set[keys.TenantId]) -> None:
        """Waiting on would not help a good tenant whose upload was refused. Raises ``DemoFailed``."""
        for tenant in self.good:
            if tenant.tenant not in served:
                rows = queue.of_tenant(self.name, tenant.tenant)
                if rows and rows[-1].status in {"refused", "dead_lettered"}:
                    raise DemoFailed(
                        f"{tenant.tenant} should have a {self.name} model, and has none: {rows[-1].reason}"
                    )

    def _still_running(self, deadline: float, counts: Mapping[str, int]) -> None:
        if self.dagster.process.poll() is not None:
            raise DemoFailed(f"Dagster ended by itself; see {self.dagster.log}")
        if time.monotonic() > deadline:
            left = [t.tenant for t in self.good if ModelRegistry(self.deployment).champion(t.tenant, self.name) is None]
            raise DemoFailed(
                f"after {self.timeout:.0f} s there is no {self.name} model for {', '.join(left[:10]) or 'nobody missing'}; "
                f"open requests: {dict(counts)}; see {self.dagster.log} and the runs at {self.dagster.url}/runs"
            )

    def ask_endpoints(self, progress: Progress) -> None:
        """Ask every good tenant's model a first time. Raises ``DemoFailed``."""
        bar = progress.add_task(f"{self.name}: first answers from the endpoint", total=len(self.good))
        for tenant in self.good:
            with self.client(tenant) as client:
                try:
                    self.first_answers[tenant.tenant] = client.predict(self.workload.batch.request)
                except (NoModelYet, hosting.InvocationRefused) as error:
                    raise DemoFailed(f"{tenant.tenant}: no answer from the endpoint: {error}") from error
            progress.advance(bar)

    def ask_asynchronously(self, progress: Progress, request: Mapping[str, Any]) -> None:
        """Hand every good tenant's model something that takes long, then collect the answers. Raises ``DemoFailed``."""
        bar = progress.add_task(f"{self.name}: slow requests, answered through S3", total=len(self.good))
        self._wait_for_asynchronous_endpoint()
        clients = {tenant.tenant: self.client(tenant) for tenant in self.good}
        submitted = {tenant: client.submit(request) for tenant, client in clients.items()}
        for tenant, client in clients.items():
            with client:
                try:
                    client.wait(submitted[tenant], self.timeout)
                except (TimeoutError, hosting.InvocationRefused, storage.ObjectMissing) as error:
                    raise DemoFailed(f"{tenant}: no answer from the asynchronous endpoint: {error}") from error
            progress.advance(bar)

    def _wait_for_asynchronous_endpoint(self) -> None:
        """Until the sensor has brought it into service."""
        name = keys.async_endpoint_name(self.deployment.prefix, self.name, self.workload.tier, keys.TenantId(""))
        deadline = time.monotonic() + self.timeout
        while hosting.describe_endpoint(self.deployment, name) is None:
            self._still_running(deadline, {})
            time.sleep(0.5)
        try:
            hosting.wait_in_service(self.deployment, name, timeout=self.timeout)
        except hosting.EndpointFailed as error:
            raise DemoFailed(str(error)) from error

    def predict_batch(self, progress: Progress, day: date) -> None:
        """Run tonight's batch now, and see that every good tenant's prediction lies in S3. Raises ``DemoFailed``."""
        bar = progress.add_task(f"{self.name}: tonight's batch predictions, now", total=len(self.good))
        config = {"ops": {batch_step(self.name): {"config": {"day": day.isoformat()}}}}
        run = self.dagster.launch(f"{self.name}_batch_predictions", config, {"tenantry/day": day.isoformat()})
        deadline = time.monotonic() + self.timeout
        while (status := self.dagster.run_status(run)) not in {"SUCCESS", "FAILURE", "CANCELED"}:
            self._still_running(deadline, {})
            time.sleep(0.5)
        for tenant in self.good:
            with self.client(tenant) as client:
                try:
                    client.predictions(day)
                except storage.ObjectMissing as error:
                    raise DemoFailed(
                        f"{tenant.tenant} has no batch prediction; the run is {status}: {self.dagster.url}/runs/{run}"
                    ) from error
            progress.advance(bar)

    # ---- what a person sees -----------------------------------------------------------------------------------------------

    def table(self, day: date) -> Table:
        """The tenants with their models. Raises ``DemoFailed``."""
        registry = ModelRegistry(self.deployment)
        table = Table(title=f"{self.workload.title}: {len(self.good)} tenants, each with a model of its own")
        for column in ("tenant", "tier", "version", *self.shown.columns, "batch prediction"):
            table.add_column(column, overflow="fold")
        shown = self.good if len(self.good) <= 40 else [*self.good[:30], *self.good[-5:]]
        for tenant in shown:
            champion = registry.champion(tenant.tenant, self.name)
            model = registry.version(tenant.tenant, self.name, champion.version) if champion else None
            if champion is None or model is None:
                raise DemoFailed(f"{tenant.tenant} lost its {self.name} model")
            table.add_row(
                tenant.tenant,
                champion.tier,
                champion.version,
                *self.shown.cells(model, self.first_answers[tenant.tenant]),
                keys.prediction(self.name, tenant.tenant, day),
            )
        if len(shown) < len(self.good):
            table.caption = f"… and {len(self.good) - len(shown)} more"
        return table

    def refusals(self, told: Mapping[keys.TenantId, str]) -> dict[keys.TenantId, str]:
        """Why each spoiled upload was refused: as its owner was told, or as the queue has it. Raises ``DemoFailed``."""
        reasons = {}
        for tenant in self.tenants:
            if tenant.good:
                continue
            rows = RequestQueue(self.deployment).of_tenant(self.name, tenant.tenant)
            if not rows or rows[-1].status not in {"refused", "dead_lettered"}:
                stands = rows[-1].status if rows else "no row"
                raise DemoFailed(f"{tenant.tenant}'s spoiled upload was not refused: {stands}")
            reasons[tenant.tenant] = told.get(tenant.tenant) or rows[-1].reason or ""
        return reasons
