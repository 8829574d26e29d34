"""A product's way through a demo: its tenants upload, get models, ask them, and get tonight's batch
prediction now."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

from rich.markup import escape
from rich.table import Table

from demo.steps import Step, Steps
from infrastructure.dagster_processes import DagsterProcesses
from infrastructure.local_cloud import end_of_log
from orchestration.step_names import batch_step
from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.batch.queries import QueryFailedError, ask
from tenantry.hosting import endpoints
from tenantry.hosting.invocation import InvocationRefusedError
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS
from tenantry.models.registry import ModelRegistry, ModelVersion
from tenantry.names import ids, s3_keys, tiers
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request
from tenantry.serving.client import NoModelYetError, TenantClient
from tenantry.workloads.schema import Workload

_MAX_LINES: Final = 10
SETTLED: Final = {"registered", "appended", "refused", "dead_lettered"}
_IN_WORDS: Final[Mapping[str, str]] = {
    "pending": "waiting",
    "claimed": "being prepared",
    "training": "training",
    "trained": "going into service",
    "failed": "to be tried again",
}


class DemoFailedError(RuntimeError):
    """A step of the demo failed; the message says which, and where to look."""


class Waiting:
    """Waits as long as the watched state changes and Dagster runs."""

    def __init__(self, dagster: DagsterProcesses, max_seconds: float) -> None:
        self._dagster = dagster
        self._max_seconds = max_seconds
        self._state: object = None
        self._since = time.monotonic()

    def go_on(self, state: object, what: str, details: Callable[[], str]) -> None:
        """Return while waiting on makes sense.

        Args:
            state: the watched state; a change of it starts the time anew.
            what: the missing result, as a sentence.
            details: gives more words for the error.

        Raises:
            DemoFailedError: Dagster ended, or the state is the same for too long.
        """
        log = self._dagster.log
        if (status := self._dagster.process.poll()) is not None:
            raise DemoFailedError(
                f"{what}: Dagster ended by itself with status {status}; see "
                f"{log}:\n{end_of_log(log)}\n{details()}"
            )
        if state != self._state:
            self._state, self._since = state, time.monotonic()
        if time.monotonic() - self._since > self._max_seconds:
            raise DemoFailedError(
                f"{what}; nothing happened for {self._max_seconds:.0f} s. See {log}.\n{details()}"
            )


def _how_it_stands(rows: Sequence[Request]) -> str:
    """A tenant's latest request in words."""
    if not rows:
        return "its upload was not taken in yet"
    last = rows[-1]
    pack = f", in pack {last.pack}" if last.pack else ""
    return (
        f"its request is {last.status} (attempt {last.attempt}{pack}): "
        f"{last.reason or 'no reason is given'}"
    )


@dataclass(frozen=True)
class DemoTenant:
    """A tenant of the demo. ``good`` tells whether a model is expected of its upload; None where
    that is not known beforehand.

    ``customer`` is its name in a user's own file, where that is another one.
    """

    tenant: ids.TenantId
    files: Mapping[str, bytes]
    parameters: Mapping[str, str]
    tier: tiers.Tier
    good: bool | None
    customer: str = ""


@dataclass(frozen=True)
class Shown:
    """A product's table of models: the columns, and a tenant's cells for them."""

    columns: Sequence[str]
    cells: Callable[[ModelVersion, Mapping[str, Any]], Sequence[str]]
    """Made of the champion and its first answer."""


@dataclass
class Product:
    """One workload's tenants on their way through the demo."""

    deployment: Deployment
    dagster: DagsterProcesses
    workload: Workload
    tenants: Sequence[DemoTenant]
    shown: Shown
    timeout: float
    """Seconds without any progress, after which the demo gives up."""
    first_answers: dict[ids.TenantId, Mapping[str, Any]] = field(default_factory=dict)
    served: set[ids.ModelId] = field(default_factory=set)
    lacking: dict[ids.TenantId, str] = field(default_factory=dict)
    """The results that tenants without an expected model did not get, and why."""

    @property
    def name(self) -> ids.WorkloadName:
        """The workload's name."""
        return ids.workload_name(self.workload.name)

    @property
    def good(self) -> list[DemoTenant]:
        """The tenants that should get a model, or have got one."""
        return [tenant for tenant in self.tenants if tenant.good or tenant.tenant in self.served]

    def client(self, tenant: DemoTenant) -> TenantClient:
        """The client the product's app would use for a tenant."""
        return TenantClient(self.deployment, self.workload, tenant.tenant)

    # ---- the steps -------------------------------------------------------------------------------

    def upload(self, steps: Steps) -> None:
        """Upload every tenant's files, as the product's app does."""
        registry = ModelRegistry(self.deployment)
        with steps.step(f"{self.name}: tenants upload their data", len(self.tenants)) as step:
            for tenant in self.tenants:
                if tenant.tier != self.workload.tier:
                    registry.set_tier(tenant.tenant, self.name, tenant.tier)
                with self.client(tenant) as client:
                    client.upload(tenant.files, tenant.parameters)
                step.advance()

    def wait_for_models(self, steps: Steps) -> None:
        """Follow the queue until every upload is settled. Raises ``DemoFailedError``."""
        expected = sum(tenant.good is not False for tenant in self.tenants)
        with steps.step(f"{self.name}: a model for each tenant", expected) as step:
            self._follow(step)

    def _follow(self, step: Step) -> None:
        queue, registry = RequestQueue(self.deployment), ModelRegistry(self.deployment)
        waiting = Waiting(self.dagster, self.timeout)
        own = {tenant.tenant for tenant in self.tenants if tenant.good is not False}
        while True:
            self.served = self._served(queue, registry) & own
            open_requests = queue.open(self.name)
            counts = Counter(request.status for request in open_requests)
            of_own = Counter(request.status for request in open_requests if request.tenant in own)
            words = (
                ", ".join(f"{count} {_IN_WORDS[status]}" for status, count in of_own.items())
                if counts
                else "Dagster has not seen the uploads yet"
            )
            step.stands_at(len(self.served), words)
            if all(tenant.tenant in self.served for tenant in self.good) and self._settled(queue):
                if not self.good:
                    raise DemoFailedError(
                        f"no {self.name} model was made:\n{self._how_they_stand()}"
                    )
                return
            self._fail_if_settled_without_a_model(queue)
            waiting.go_on(
                (sorted(counts.items()), len(self.served)),
                f"{self.name} models are missing",
                self._how_they_stand,
            )
            time.sleep(1.0)

    def _served(self, queue: RequestQueue, registry: ModelRegistry) -> set[ids.ModelId]:
        """The tenants that a model answers for."""
        champions = {champion.tenant for champion in registry.champions(self.name)}
        if self.workload.shared_model is None:
            return champions
        if ids.SHARED not in champions:
            return set()
        rows = {one.tenant: queue.of_tenant(self.name, one.tenant) for one in self.tenants}
        return {tenant for tenant, its in rows.items() if its and its[-1].status == "appended"}

    def _model(self, tenant: ids.ModelId) -> ModelVersion | None:
        """The version that answers for a tenant."""
        registry, served_by = ModelRegistry(self.deployment), self.workload.served_by(tenant)
        champion = registry.champion(served_by, self.name)
        return (
            None if champion is None else registry.version(served_by, self.name, champion.version)
        )

    def _settled(self, queue: RequestQueue) -> bool:
        """Whether uploads without an expected model are settled, too, and nothing is left open."""
        others = [
            queue.of_tenant(self.name, tenant.tenant) for tenant in self.tenants if not tenant.good
        ]
        return all(rows and rows[-1].status in SETTLED for rows in others) and not queue.open(
            self.name
        )

    def _fail_if_settled_without_a_model(self, queue: RequestQueue) -> None:
        """Waiting on would not help a good tenant whose upload was refused. Raises
        ``DemoFailedError``."""
        for tenant in self.good:
            if tenant.tenant not in self.served:
                rows = queue.of_tenant(self.name, tenant.tenant)
                if rows and rows[-1].status in {"refused", "dead_lettered"}:
                    raise DemoFailedError(
                        f"{tenant.tenant} should have a {self.name} model: {_how_it_stands(rows)}"
                    )

    def _how_they_stand(self) -> str:
        """A line for each tenant that should have a model, or may, and has none: the stage, the
        status and the row's reason."""
        queue = RequestQueue(self.deployment)
        left = [
            t.tenant for t in self.tenants if t.good is not False and t.tenant not in self.served
        ]
        lines = [
            f"  {tenant}: {_how_it_stands(queue.of_tenant(self.name, tenant))}"
            for tenant in left[:_MAX_LINES]
        ]
        return "\n".join(
            [
                *lines,
                *([f"  … and {len(left) - _MAX_LINES} more"] if len(left) > _MAX_LINES else []),
            ]
        )

    @property
    def _first_request(self) -> Mapping[str, Any]:
        """The batch's, or where that is nothing but the tenant's own data, one that any model
        answers."""
        return self.workload.batches[0].request or self.workload.serving.smoke_request

    def ask_endpoints(self, steps: Steps) -> None:
        """Ask every good tenant's model a first time. Raises ``DemoFailedError``."""
        with steps.step(f"{self.name}: a first answer of each model", len(self.good)) as step:
            for tenant in self.good:
                with self.client(tenant) as client:
                    try:
                        answer = client.predict(self._first_request)
                    except (NoModelYetError, InvocationRefusedError) as error:
                        self._lacks(tenant, f"no answer from the endpoint: {error}", error)
                    else:
                        self.first_answers[tenant.tenant] = answer
                step.advance()

    def ask_asynchronously(self, steps: Steps, request: Mapping[str, Any]) -> None:
        """Give every good tenant's model a request that takes long, then collect the answers.
        Raises ``DemoFailedError``."""
        what = f"{self.name}: slow requests, answered through S3"
        with steps.step(what, len(self.good)) as step:
            self._ask_asynchronously(step, request)

    def _ask_asynchronously(self, step: Step, request: Mapping[str, Any]) -> None:
        self._wait_for_asynchronous_endpoint()
        clients = {tenant.tenant: self.client(tenant) for tenant in self.good}
        submitted = {tenant: client.submit(request) for tenant, client in clients.items()}
        for tenant, client in clients.items():
            with client:
                try:
                    client.wait(submitted[tenant], self.timeout)
                except (TimeoutError, InvocationRefusedError, objects.ObjectMissingError) as error:
                    raise DemoFailedError(
                        f"{tenant}: no answer from the asynchronous endpoint: {error}"
                    ) from error
            step.advance()

    def _wait_for_asynchronous_endpoint(self) -> None:
        """Until the sensor has brought it into service."""
        name = ASYNCHRONOUS.endpoint_name(
            self.deployment.prefix, self.name, self.workload.shared_machines
        )
        waiting = Waiting(self.dagster, self.timeout)
        while endpoints.describe_endpoint(self.deployment, name) is None:
            waiting.go_on(
                None,
                f"the asynchronous endpoint {name} was not made",
                lambda: "  no run has made it",
            )
            time.sleep(0.5)
        try:
            endpoints.wait_in_service(self.deployment, name, timeout=self.timeout)
        except endpoints.EndpointFailedError as error:
            raise DemoFailedError(str(error)) from error

    def _prediction(self, tenant: ids.ModelId, day: date) -> str:
        cadence = ids.batch_name(self.workload.batches[0].name)
        return s3_keys.prediction(self.name, tenant, cadence, day)

    def predict_batch(self, steps: Steps, day: date) -> None:
        """Run tonight's batch now, and see that every good tenant's prediction lies in S3. Raises
        ``DemoFailedError``."""
        what = f"{self.name}: tonight's batch predictions, now"
        with steps.step(what, len(self.good)) as step:
            self._predict_batch(step, day)

    def launch_fleet(self) -> str:
        """Begin to bring the table of all tenants in the UI up to date; returns the run's id."""
        return self.dagster.launch(f"{self.name}_fleet", {})

    def wait_for_fleet(self, run: str) -> None:
        """Wait for such a run. Raises ``DemoFailedError``."""
        if (status := self._wait_for(run, "the table of all tenants")) != "SUCCESS":
            raise DemoFailedError(
                f"{self.name}: run {run} is {status}: {self.dagster.why_failed(run)}"
            )

    def _wait_for(self, run: str, what: str) -> str:
        """Wait for the end of a run; returns its status."""
        waiting = Waiting(self.dagster, self.timeout)
        while (status := self.dagster.run_status(run)) not in {"SUCCESS", "FAILURE", "CANCELED"}:
            waiting.go_on(
                status, f"{self.name}: {what} is not done", lambda: f"  run {run} is {status}"
            )
            time.sleep(0.5)
        return status

    def _predict_batch(self, step: Step, day: date) -> None:
        config = {"ops": {batch_step(self.name): {"config": {"day": day.isoformat()}}}}
        run = self.dagster.launch(
            f"{self.name}_batch_predictions", config, {"tenantry/day": day.isoformat()}
        )
        status = self._wait_for(run, "the batch prediction")
        why = "" if status == "SUCCESS" else f": {self.dagster.why_failed(run)}"
        for tenant in self.good:
            with self.client(tenant) as client:
                try:
                    client.predictions(day)
                except objects.ObjectMissingError as error:
                    self._lacks(tenant, f"no batch prediction; run {run} is {status}{why}", error)
            step.advance()

    def query(self, day: date) -> str:
        """The summary of tonight's batch of all tenants, as SQL; empty if it has none."""
        batch = self.workload.batches[0]
        return batch.summary_of(f"{self.name}_{batch.name}", day.isoformat()).strip()

    def queried(self, day: date) -> Table:
        """What the query tells. Raises ``DemoFailedError``."""
        sql = self.query(day)
        try:
            answer = ask(self.deployment, sql, _MAX_LINES)
        except QueryFailedError as error:
            raise DemoFailedError(f"{self.name}: {error}; it was asked: {sql}") from error
        if not answer.rows:
            raise DemoFailedError(f"{self.name}: the batch's table has no rows of {day}: {sql}")
        table = Table()
        for column in answer.columns:
            table.add_column(column)
        for row in answer.rows:
            table.add_row(*(escape(str(cell)) for cell in row))
        return table

    def _lacks(self, tenant: DemoTenant, what: str, error: Exception) -> None:
        """Note a result that a tenant without an expected model did not get. For other tenants it
        raises ``DemoFailedError``."""
        if tenant.good is not None:
            raise DemoFailedError(
                f"{tenant.tenant}, {self.name}: {what}; see {self.dagster.log}"
            ) from error
        self.lacking.setdefault(tenant.tenant, what)

    # ---- what a person sees ----------------------------------------------------------------------

    def first_answer_in_words(self) -> str:
        """A tenant, and its model's first answer."""
        for tenant, answer in self.first_answers.items():
            if (model := self._model(tenant)) is not None:
                cells = self.shown.cells(model, answer)
                return f"{tenant}, {self.shown.columns[-1]}: {escape(cells[-1])}"
        return "none"

    def table(self, day: date) -> Table:
        """The tenants with their models. Raises ``DemoFailedError``."""
        shared = self.workload.shared_model is not None
        whose = "with one model for all" if shared else "each with a model of its own"
        table = Table(title=f"{self.workload.title}: {len(self.good)} tenants, {whose}")
        renamed = any(tenant.customer for tenant in self.tenants)
        for column in (
            *(("customer",) if renamed else ()),
            "tenant",
            "tier",
            "version",
            *self.shown.columns,
        ):
            ids_stay_whole = column in {"tenant", "version"}
            table.add_column(column, overflow="fold", no_wrap=ids_stay_whole)
        shown = self.good if len(self.good) <= 40 else [*self.good[:30], *self.good[-5:]]
        for tenant in shown:
            model = self._model(tenant.tenant)
            if model is None:
                raise DemoFailedError(f"{tenant.tenant} lost its {self.name} model")
            answer = self.first_answers.get(tenant.tenant)
            table.add_row(
                *((escape(tenant.customer or tenant.tenant),) if renamed else ()),
                tenant.tenant,
                model.tier,
                model.version,
                *(self.shown.cells(model, answer) if answer else ["" for _ in self.shown.columns]),
            )
        left_out = len(self.good) - len(shown)
        example = self.good[0].tenant
        table.caption = "\n".join(
            [
                *([f"… and {left_out} more"] if left_out else []),
                *(
                    f"{escape(str(tenant))}: {escape(lack)}"
                    for tenant, lack in self.lacking.items()
                ),
                f"Batch predictions: {self._prediction(example, day)}, …",
            ]
        )
        table.caption_justify = "left"
        return table

    def refusals(self, told: Mapping[ids.TenantId, str]) -> dict[ids.TenantId, str]:
        """Why each tenant has no model: the owner's notice, or the queue's reason. Raises
        ``DemoFailedError``."""
        reasons = {}
        for tenant in self.tenants:
            if tenant.good or tenant.tenant in self.served:
                continue
            rows = RequestQueue(self.deployment).of_tenant(self.name, tenant.tenant)
            if not rows or rows[-1].status not in {"refused", "dead_lettered"}:
                stands = rows[-1].status if rows else "no row"
                raise DemoFailedError(f"{tenant.tenant}'s spoiled upload was not refused: {stands}")
            reasons[tenant.tenant] = told.get(tenant.tenant) or rows[-1].reason or ""
        return reasons
