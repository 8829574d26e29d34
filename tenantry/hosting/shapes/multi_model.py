"""The multi-model endpoint: many tenants' archives below one prefix, loaded when they are asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from contracts.logs import log_environment
from tenantry.hosting.route import Route
from tenantry.hosting.shapes.shape import Addressed, EndpointRequests, Limits, RealTimeShape
from tenantry.names import ids, s3_keys, sagemaker_names
from tenantry.names.tiers import Machines, Tier
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment


class MultiModelShape(RealTimeShape):
    """A multi-model endpoint, asked with a ``TargetModel``.

    Its limits are 6,291,456 bytes, from the API's model of InvokeEndpoint's Body, and 60 seconds,
    https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html. Among
    endpoints that answer at once, only those with inference components scale to zero:
    https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-zero-instances.html
    """

    name = "multi_model"
    limits = Limits(max_payload_bytes=6_291_456, max_answer_seconds=60, scales_to_zero=False)
    tiers = frozenset(("silo", "bridge", "pool"))

    def endpoint_name(self, prefix: str, workload: ids.WorkloadName, machines: Machines) -> str:
        """The name of the tier's endpoint, or of the silo tenant's."""
        return sagemaker_names.endpoint_name(prefix, workload, machines)

    def instances(self, workload: Workload, tier: Tier) -> int:
        """``serving.instances``; one for a silo tenant."""
        return 1 if tier == "silo" else workload.serving.instances

    def requests(
        self, deployment: Deployment, workload: Workload, machines: Machines
    ) -> EndpointRequests:
        """The requests for the endpoint on some machines."""
        endpoint = self.endpoint_name(deployment.prefix, ids.workload_name(workload.name), machines)
        models = s3_keys.endpoint_models_prefix(endpoint)
        model = self._model_request(
            endpoint,
            {
                "ExecutionRoleArn": deployment.serving_role,
                "PrimaryContainer": {
                    "Image": deployment.image(workload.serving_container, workload.image_tag),
                    "Mode": "MultiModel",
                    "ModelDataUrl": f"s3://{deployment.data_bucket}/{models}",
                    "Environment": {**log_environment(), **workload.serving.environment},
                },
                "EnableNetworkIsolation": False,
            },
        )
        variant = self._variant(
            workload, machines, model["ModelName"], workload.serving.instance_type
        )
        tags = self._config_tags(workload, machines)
        config = self._config_request(endpoint, {"ProductionVariants": [variant], "Tags": tags})
        return EndpointRequests(model, config)

    def address(self, route: Route, request: Mapping[str, Any] | bytes) -> Addressed:
        """The request itself, for the route's ``TargetModel``."""
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        return Addressed(body, {"TargetModel": route.target_model})


MULTI_MODEL: Final = MultiModelShape()
