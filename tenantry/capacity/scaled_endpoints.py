"""The endpoints whose capacity follows the YAML, each with its section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.hosting.shapes.shape import VARIANT
from tenantry.names import ids
from tenantry.names.tiers import Machines
from tenantry.workloads.capacity import EndpointCapacity, fixed
from tenantry.workloads.schema import Workload

Kind = Literal["real_time", "asynchronous"]


@dataclass(frozen=True)
class ScaledEndpoint:
    """An endpoint and what the YAML says about its capacity. ``environment`` and ``workload`` name
    its requests' metrics."""

    name: str
    kind: Kind
    section: EndpointCapacity
    usd_per_hour: float
    workload: ids.WorkloadName
    environment: str

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
    name, serving = ids.workload_name(workload.name), workload.serving
    shape = MULTI_MODEL if kind == "real_time" else ASYNCHRONOUS
    instances = shape.instances(workload, machines)
    silo = machines.tier == "silo"
    if kind == "asynchronous" and serving.asynchronous is not None:
        section = None if silo else serving.asynchronous.capacity
        usd_per_hour = serving.asynchronous.usd_per_hour
    else:
        section = serving.silo_capacity if silo else serving.capacity
        usd_per_hour = serving.usd_per_hour
    return ScaledEndpoint(
        shape.endpoint_name(prefix, name, machines),
        kind,
        section or fixed(instances),
        usd_per_hour,
        name,
        prefix,
    )
