"""An endpoint with its capacity registered from the start."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from tenantry.capacity.registration import register_capacity
from tenantry.capacity.scaled_endpoints import Kind, scaled_endpoint, shape_of
from tenantry.hosting.endpoints import Endpoint, ensure_endpoint
from tenantry.hosting.route import Route
from tenantry.names.tiers import Machines
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment


def ensure_endpoints(
    deployment: Deployment,
    workload: Workload,
    machines: Machines,
    began: datetime,
    serves: Route | None = None,
) -> Endpoint:
    """The endpoint that answers at once, with the asynchronous one beside it.

    A new endpoint's capacity is registered. The workload's assets do both for its own shared
    machines, where this makes sure of the first alone.

    Args:
        deployment: where.
        workload: its file.
        machines: the endpoints'.
        began: see ``ensure_endpoint``.
        serves: see ``ensure_endpoint``.

    Raises:
        EndpointFailedError: one could not be brought into service.
    """
    others = machines != workload.shared_machines
    endpoint = _ensure(deployment, workload, machines, "real_time", began, serves, register=others)
    if workload.serving.asynchronous is not None and others:
        _ensure(deployment, workload, machines, "asynchronous", began, None, register=True)
    return endpoint


def _ensure(
    deployment: Deployment,
    workload: Workload,
    machines: Machines,
    kind: Kind,
    began: datetime,
    serves: Route | None,
    *,
    register: bool,
) -> Endpoint:
    shape = shape_of(workload, machines.tier, kind)
    endpoint = ensure_endpoint(deployment, workload, machines, shape, began=began, serves=serves)
    if endpoint.change == "created" and register and shape.has_instances:
        register_capacity(deployment, scaled_endpoint(deployment.prefix, workload, machines, kind))
    return endpoint
