"""The endpoints whose capacity follows the YAML, each with its section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS, settings_of
from tenantry.hosting.shapes.catalogue import real_time_shape
from tenantry.hosting.shapes.shape import VARIANT, Shape
from tenantry.names import ids
from tenantry.names.tiers import Machines, Tier
from tenantry.workloads.capacity import EndpointCapacity, fixed
from tenantry.workloads.schema import Workload

Kind = Literal["real_time", "asynchronous"]


@dataclass(frozen=True)
class ScaledEndpoint:
    """An endpoint and what the YAML says about its capacity.

    ``environment`` and ``workload`` name the metrics of the workload's requests. ``whose`` is the
    silo tenant, or the tier, that the endpoint serves; it is empty for the shared endpoint of the
    file's own tier.
    """

    name: str
    kind: Kind
    section: EndpointCapacity
    usd_per_hour: float
    workload: ids.WorkloadName
    environment: str
    whose: str = ""

    @property
    def resource(self) -> str:
        """Its variant, as Application Auto Scaling names it."""
        return resource_of(self.name)

    @property
    def dimensions(self) -> list[dict[str, str]]:
        """The dimensions of its variant's metrics in CloudWatch."""
        return [
            {"Name": "EndpointName", "Value": self.name},
            {"Name": "VariantName", "Value": VARIANT},
        ]

    @property
    def requests_metric(self) -> str:
        """The metric of the requests that reach it, in the namespace ``AWS/SageMaker``."""
        return "Invocations" if self.kind == "real_time" else "InvocationsProcessed"

    @property
    def most(self) -> int:
        """The largest maximum that the budget allows."""
        return self.section.affordable(self.usd_per_hour)


def resource_of(endpoint: str) -> str:
    """An endpoint's variant, as Application Auto Scaling names it."""
    return f"endpoint/{endpoint}/variant/{VARIANT}"


def scaled_endpoint(
    prefix: str, workload: Workload, machines: Machines, kind: Kind
) -> ScaledEndpoint:
    """A workload's endpoint of a kind on some machines.

    Args:
        prefix: the deployment's.
        workload: its file.
        machines: a shared tier's, or a silo tenant's own.
        kind: how it answers.

    Raises:
        NotAsynchronousError: the workload has no asynchronous endpoint.
    """
    name, shape = ids.workload_name(workload.name), shape_of(workload, machines.tier, kind)
    whose = str(machines.tenant) if machines.tier == "silo" else machines.tier
    return endpoint_named(
        shape.endpoint_name(prefix, name, machines),
        prefix,
        workload,
        machines.tier,
        kind,
        whose="" if machines == workload.shared_machines else whose,
    )


def endpoint_named(
    name: str, prefix: str, workload: Workload, tier: Tier, kind: Kind, *, whose: str
) -> ScaledEndpoint:
    """A workload's endpoint of a name, tier and kind. Raises ``NotAsynchronousError``."""
    settings = workload.serving if kind == "real_time" else settings_of(workload)
    section = settings.silo_capacity if tier == "silo" else settings.capacity
    return ScaledEndpoint(
        name,
        kind,
        section or fixed(shape_of(workload, tier, kind).instances(workload, tier)),
        settings.usd_per_hour,
        ids.workload_name(workload.name),
        prefix,
        whose,
    )


def shape_of(workload: Workload, tier: Tier, kind: Kind) -> Shape:
    """The hosting shape of a tier's endpoints of a kind."""
    return real_time_shape(workload, tier) if kind == "real_time" else ASYNCHRONOUS
