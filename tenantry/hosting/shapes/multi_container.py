"""The endpoint of up to 15 tenants' models, each in a container of its own that requests name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from contracts import variables
from tenantry.hosting.route import Route
from tenantry.hosting.shapes.shape import REAL_TIME, Addressed, RealTimeShape, Wanted
from tenantry.names import sagemaker_names
from tenantry.workloads.hosting import MOST_CONTAINERS

_SECOND: Final = "second"
"""The container that nobody asks, beside one tenant's alone."""


class MultiContainerShape(RealTimeShape):
    """An endpoint whose containers are called directly: all are loaded, and none waits for
    another's model.

    Each deployment starts all containers anew, and changes one. No condition key of IAM knows the
    container, so the app's own session asks.

    https://docs.aws.amazon.com/sagemaker/latest/dg/multi-container-direct.html
    """

    name = "multi_container"
    end = "containers"
    limits = REAL_TIME
    tiers = frozenset(("bridge", "pool"))
    deploys = True
    asked_by_app = True

    def _model(self, wanted: Wanted) -> dict[str, Any]:
        if not 1 <= len(wanted.serves) <= MOST_CONTAINERS:
            raise ValueError(
                f"an endpoint of shape {self.name} serves 1 to {MOST_CONTAINERS} versions, not "
                f"{len(wanted.serves)}"
            )
        named = {
            sagemaker_names.container_hostname(one.tenant): one
            for one in sorted(wanted.serves, key=lambda one: one.tenant)
        }
        if len(named) == 1:
            # SageMaker calls none directly where there is one alone.
            named[_SECOND] = wanted.serves[0]
        containers = [
            {
                "ContainerHostname": hostname,
                "Image": wanted.image,
                "Mode": "SingleModel",
                "ModelDataUrl": f"{wanted.models_uri}{one.target_model}",
                "Environment": {**wanted.environment, variables.VERSION: str(one.version)},
            }
            for hostname, one in named.items()
        ]
        return {
            "ExecutionRoleArn": wanted.execution_role(wanted.deployment.serving_role),
            "Containers": containers,
            "InferenceExecutionConfig": {"Mode": "Direct"},
        }

    def address(self, route: Route, request: Mapping[str, Any] | bytes) -> Addressed:
        """The request itself, for the tenant's container."""
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        hostname = sagemaker_names.container_hostname(route.tenant)
        return Addressed(body, {"TargetContainerHostname": hostname})


MULTI_CONTAINER: Final = MultiContainerShape()
