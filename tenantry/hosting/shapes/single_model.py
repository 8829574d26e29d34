"""The endpoint of one version of one tenant's model: on instances of its own, or serverless."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from contracts import variables
from tenantry.hosting.route import Route
from tenantry.hosting.shapes.shape import (
    REAL_TIME,
    VARIANT,
    Addressed,
    Limits,
    RealTimeShape,
    ShapeName,
    Wanted,
)
from tenantry.names import ids, sagemaker_names
from tenantry.names.tiers import Machines, Tier
from tenantry.workloads.hosting import Serverless
from tenantry.workloads.schema import Workload


class SingleModelShape(RealTimeShape):
    """A silo tenant's own endpoint, which has loaded its model before it is in service.

    Another version is another model, so it is deployed, as the file's ``hosting.updates`` says.
    While it is, both versions answer. So each answer says which version it is of
    (``variables.VERSION``).
    """

    name: ClassVar[ShapeName] = "single_model"
    end = "single"
    limits = REAL_TIME
    tiers = frozenset(("silo",))
    deploys = True

    def endpoint_name(self, prefix: str, workload: ids.WorkloadName, machines: Machines) -> str:
        """The name of the endpoint of one of a silo tenant's models; ``prefix`` is the
        deployment's."""
        return sagemaker_names.model_endpoint_name(prefix, workload, machines, self.end)

    def _model(self, wanted: Wanted) -> dict[str, Any]:
        if len(wanted.serves) != 1:
            raise ValueError(f"an endpoint of shape {self.name} serves one version; name it")
        (serves,) = wanted.serves
        return {
            "ExecutionRoleArn": wanted.execution_role(wanted.deployment.serving_role),
            "PrimaryContainer": {
                "Image": wanted.image,
                "Mode": "SingleModel",
                "ModelDataUrl": f"{wanted.models_uri}{serves.target_model}",
                "Environment": {**wanted.environment, variables.VERSION: str(serves.version)},
            },
        }

    def address(self, _: Route, request: Mapping[str, Any] | bytes) -> Addressed:
        """The request itself."""
        return Addressed(
            request if isinstance(request, bytes) else json.dumps(request).encode(), {}
        )


class ServerlessShape(SingleModelShape):
    """A silo tenant's own endpoint without instances.

    Its limits: https://docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html
    """

    name = "serverless"
    end = "serverless"
    limits = Limits(max_payload_bytes=4 * 1024 * 1024, max_answer_seconds=60, scales_to_zero=True)
    has_instances = False

    def instances(self, _: Workload, __: Tier) -> int:
        """None."""
        return 0

    def _variant(self, wanted: Wanted, model: str, _: str | None = None) -> dict[str, Any]:
        section = getattr(wanted.workload.hosting, wanted.machines.tier)
        # A tenant that the file has moved to another shape can still be rolled back here.
        settings = section if isinstance(section, Serverless) else Serverless()
        provisioned = settings.provisioned_concurrency
        return {
            "VariantName": VARIANT,
            "ModelName": model,
            "ServerlessConfig": {
                "MemorySizeInMB": settings.memory_megabytes,
                "MaxConcurrency": settings.max_concurrency,
                **({} if provisioned is None else {"ProvisionedConcurrency": provisioned}),
            },
        }


SINGLE_MODEL: Final = SingleModelShape()
SERVERLESS: Final = ServerlessShape()
