"""A route: how a tenant's model is asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Route:
    """How a tenant's model is asked.

    ``shape`` names the hosting shape that knows how (``tenantry.hosting.shapes.catalogue``). A row
    of the registry may name one of a later release, so it is looked up only when somebody asks.
    ``endpoint`` is SageMaker's name of it. ``target_model`` names the archive that answers, as
    ``sagemaker_names.target_model`` has it.
    """

    shape: str
    endpoint: str
    target_model: str
