"""All hosting shapes by name, and the shapes of a workload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tenantry.errors import TenantryError
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.hosting.shapes.shape import Shape
from tenantry.workloads.schema import Workload

SHAPES: Final[Mapping[str, Shape]] = {shape.name: shape for shape in (MULTI_MODEL, ASYNCHRONOUS)}


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


def shapes_of(workload: Workload) -> list[Shape]:
    """The shapes of a workload's endpoints."""
    return [MULTI_MODEL, *([] if workload.serving.asynchronous is None else [ASYNCHRONOUS])]
