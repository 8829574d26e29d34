"""A route: how a tenant's model is asked."""

from __future__ import annotations

from dataclasses import dataclass

from tenantry.names import ids, sagemaker_names


@dataclass(frozen=True)
class Route:
    """How a version of a tenant's model is asked.

    ``shape`` names the hosting shape that knows how (``tenantry.hosting.shapes.catalogue``). A row
    of the registry may name a later release's shape, so the shape is looked up only when the model
    is asked. ``endpoint`` is the endpoint's name in SageMaker.
    """

    shape: str
    endpoint: str
    tenant: ids.ModelId
    version: ids.Version

    @property
    def target_model(self) -> str:
        """The archive that answers, as ``sagemaker_names.target_model`` writes it."""
        return sagemaker_names.target_model(self.tenant, self.version)
