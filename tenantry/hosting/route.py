"""A route: how a tenant's model is asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Route:
    """How a tenant's model is asked.

    ``shape`` names the hosting shape that knows how (``tenantry.hosting.shapes.catalogue``). A row
    of the registry may name a later release's shape, so the shape is looked up only when the model
    is asked. ``endpoint`` is the endpoint's name in SageMaker. ``target_model`` names the archive
    that answers, as ``sagemaker_names.target_model`` writes it.
    """

    shape: str
    endpoint: str
    target_model: str
