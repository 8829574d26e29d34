"""The endpoint whose one container fetches the tenants' archives that requests name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from contracts import variables
from contracts.records import Record
from tenantry.hosting.route import Route
from tenantry.hosting.shapes.shape import REAL_TIME, Addressed, RealTimeShape, Wanted


class ContainerManagedShape(RealTimeShape):
    """An endpoint of Mode SingleModel on any instance type, asked with a record.

    The request names the archive, and no condition key of IAM knows it. So a shared one is asked by
    the app's own session, for the tenant that the app has identified.
    """

    name = "container_managed"
    end = "managed"
    limits = REAL_TIME
    tiers = frozenset(("silo", "bridge", "pool"))
    asked_by_app = True

    def _model(self, wanted: Wanted) -> dict[str, Any]:
        return {
            # The role of containers that fetch archives themselves.
            "ExecutionRoleArn": wanted.execution_role(wanted.deployment.async_role),
            "PrimaryContainer": {
                "Image": wanted.image,
                "Mode": "SingleModel",
                "Environment": {**wanted.environment, variables.MODELS_URI: wanted.models_uri},
            },
        }

    def address(self, route: Route, request: Mapping[str, Any] | bytes) -> Addressed:
        """A record: the route's archive and the request (docs/contracts.md, "Serving
        container")."""
        document = json.loads(request) if isinstance(request, bytes) else request
        return Addressed(Record(route.target_model, document).line(), {})


CONTAINER_MANAGED: Final = ContainerManagedShape()
