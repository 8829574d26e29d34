"""Gives endpoints instances at once, as Application Auto Scaling does."""

from __future__ import annotations

from typing import Any

from tenantry.aws.deployment import Deployment
from tenantry.hosting.endpoints import Endpoint, as_endpoint, wait_in_service
from tenantry.hosting.shapes.shape import VARIANT


def set_instances(deployment: Deployment, endpoint: str, count: int) -> Endpoint:
    """The endpoint once it has so many instances."""
    wait_in_service(deployment, endpoint)
    wanted: Any = [{"VariantName": VARIANT, "DesiredInstanceCount": count}]
    deployment.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=endpoint, DesiredWeightsAndCapacities=wanted
    )
    return as_endpoint(wait_in_service(deployment, endpoint), "updated")
