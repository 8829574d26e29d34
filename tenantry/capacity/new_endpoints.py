"""An endpoint with its capacity registered from the start, and the versions that it is to
serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Final

from tenantry.aws.leases import LeaseTakenError, lease
from tenantry.capacity.registration import register_capacity
from tenantry.capacity.scaled_endpoints import Kind, scaled_endpoint, shape_of
from tenantry.hosting.endpoints import Endpoint, EndpointFailedError, ensure_endpoint
from tenantry.hosting.route import Route
from tenantry.hosting.shapes.catalogue import real_time_shape
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.names.tiers import Machines
from tenantry.workloads.hosting import MOST_CONTAINERS
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

Deploy = Callable[[Route], Endpoint]
"""Brings a route's version into service. Raises ``EndpointFailedError``."""
_WAIT_SECONDS: Final = 1800.0


def ensure_endpoints(
    deployment: Deployment,
    workload: Workload,
    machines: Machines,
    began: datetime,
    serves: Sequence[Route] = (),
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
        _ensure(deployment, workload, machines, "asynchronous", began, (), register=True)
    return endpoint


def _ensure(
    deployment: Deployment,
    workload: Workload,
    machines: Machines,
    kind: Kind,
    began: datetime,
    serves: Sequence[Route],
    *,
    register: bool,
) -> Endpoint:
    shape = shape_of(workload, machines.tier, kind)
    endpoint = ensure_endpoint(deployment, workload, machines, shape, began=began, serves=serves)
    if endpoint.change == "created" and register and shape.has_instances:
        register_capacity(deployment, scaled_endpoint(deployment.prefix, workload, machines, kind))
    return endpoint


@contextmanager
def deploying(
    deployment: Deployment, workload: Workload, machines: Machines, began: datetime
) -> Iterator[Deploy]:
    """Deploy versions to the endpoint on some machines, of a shape that ``deploys``. No other
    process deploys there until the block ends, so flip the pointer within it.

    A shared endpoint goes on to serve the champions of its other tenants.

    Raises:
        EndpointFailedError: another process has been deploying for half an hour; or, from the
            function that the block gets, the version could not be brought into service.
    """
    shape = real_time_shape(workload, machines.tier)
    workload_name = ids.workload_name(workload.name)
    name = shape.endpoint_name(deployment.prefix, workload_name, machines)

    def deploy(route: Route) -> Endpoint:
        serves = [route]
        if machines.tier != "silo":
            there = champions_at(deployment, workload_name, name)
            serves += [one for one in there if one.tenant != route.tenant]
        if len(serves) > MOST_CONTAINERS:
            raise EndpointFailedError(
                f"endpoint {name} has {MOST_CONTAINERS} containers, the most that SageMaker "
                f"takes; move a tenant to silo, or choose another shape for "
                f"hosting.{machines.tier}"
            )
        return ensure_endpoints(deployment, workload, machines, began, serves)

    try:
        with lease(deployment, name, wait_seconds=_WAIT_SECONDS):
            yield deploy
    except LeaseTakenError as error:
        raise EndpointFailedError(str(error)) from error


def champions_at(deployment: Deployment, workload: ids.WorkloadName, endpoint: str) -> list[Route]:
    """The routes of the champions that an endpoint serves. It reads all of the workload's."""
    champions = ModelRegistry(deployment).each_champion(workload)
    return [one.route for one in champions if one.endpoint == endpoint]
