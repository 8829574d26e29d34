"""All hosting shapes by name, and the shapes of a workload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tenantry.errors import TenantryError
from tenantry.hosting.route import Route
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS
from tenantry.hosting.shapes.container_managed import CONTAINER_MANAGED
from tenantry.hosting.shapes.multi_container import MULTI_CONTAINER
from tenantry.hosting.shapes.multi_model import MULTI_MODEL, PIPELINE
from tenantry.hosting.shapes.shape import RealTimeShape, Shape
from tenantry.hosting.shapes.single_model import SERVERLESS, SINGLE_MODEL
from tenantry.names import ids
from tenantry.names.tiers import Tier, machines_of
from tenantry.workloads.schema import Workload

_REAL_TIME: Final[Mapping[str, RealTimeShape]] = {
    shape.name: shape
    for shape in (
        MULTI_MODEL,
        SINGLE_MODEL,
        SERVERLESS,
        MULTI_CONTAINER,
        PIPELINE,
        CONTAINER_MANAGED,
    )
}
SHAPES: Final[Mapping[str, Shape]] = {**_REAL_TIME, ASYNCHRONOUS.name: ASYNCHRONOUS}


class UnknownShapeError(TenantryError, LookupError):
    """A row of the registry names a hosting shape that this release does not have."""


def shape_named(name: str) -> Shape:
    """The shape that a row of the registry names.

    Raises:
        UnknownShapeError: there is none of that name; the message has the cure.
    """
    shape = SHAPES.get(name)
    if shape is None:
        raise UnknownShapeError(
            f"the registry names the hosting shape {name[:80]!r}, and this release knows "
            f"{', '.join(SHAPES)}; bring it up to the release that wrote the row, or roll the "
            f"tenant back to a version with a known shape"
        )
    return shape


def real_time_shape(workload: Workload, tier: Tier) -> RealTimeShape:
    """The shape of a tier's endpoint that answers at once, as the workload's file says."""
    return _REAL_TIME[getattr(workload.hosting, tier).shape]


def route_in(
    prefix: str, workload: Workload, tier: Tier, tenant: ids.ModelId, version: ids.Version
) -> Route:
    """How a version is asked on the endpoint of a tier that answers at once; ``prefix`` is the
    deployment's."""
    shape, machines = real_time_shape(workload, tier), machines_of(tier, tenant)
    endpoint = shape.endpoint_name(prefix, ids.workload_name(workload.name), machines)
    return shape.route(endpoint, tenant, version)


def shapes_of(workload: Workload, tier: Tier) -> list[Shape]:
    """The shapes of a workload's endpoints of a tier."""
    asynchronous = [] if workload.serving.asynchronous is None else [ASYNCHRONOUS]
    return [real_time_shape(workload, tier), *asynchronous]
