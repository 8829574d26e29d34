"""The asynchronous endpoint: asked through S3 and a queue, for answers that take long or may wait.

``tenantry.serving.asynchronous`` asks it, and finds its answers again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from contracts import variables
from contracts.records import Record
from tenantry.errors import TenantryError
from tenantry.hosting.route import Route
from tenantry.hosting.shapes.shape import EndpointRequests, Limits, Shape, Wanted
from tenantry.names import ids, s3_keys
from tenantry.names.tiers import Tier
from tenantry.workloads.schema import Workload
from tenantry.workloads.sections import Asynchronous


class NotAsynchronousError(TenantryError, LookupError):
    """The workload has no asynchronous endpoint; the message says how it gets one."""


def settings_of(workload: Workload) -> Asynchronous:
    """The workload's settings for asynchronous requests. Raises ``NotAsynchronousError``."""
    settings = workload.serving.asynchronous
    if settings is None:
        raise NotAsynchronousError(
            f"workload {workload.name} has no asynchronous endpoint; add serving.asynchronous to "
            f"{workload.name}.yaml"
        )
    return settings


class AsynchronousShape(Shape):
    """An asynchronous endpoint, asked by InvokeEndpointAsync.

    On AWS it is not multi-model: its container fetches the archives that requests name from the
    prefix of the multi-model endpoint on the same machines.

    Its limits are a payload of 1 GB and one hour, and it scales to zero:
    https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference.html
    """

    name = "asynchronous"
    end = "async"
    limits = Limits(max_payload_bytes=10**9, max_answer_seconds=3600, scales_to_zero=True)
    tiers = frozenset(("silo", "bridge", "pool"))
    asked_by_app = True

    def instances(self, workload: Workload, tier: Tier) -> int:
        """``serving.asynchronous.instances``; one for a silo tenant. Raises
        ``NotAsynchronousError``."""
        return 1 if tier == "silo" else settings_of(workload).instances

    def _requests(self, wanted: Wanted) -> EndpointRequests:
        deployment, machines = wanted.deployment, wanted.machines
        name = ids.workload_name(wanted.workload.name)
        settings, endpoint = settings_of(wanted.workload), self._endpoint(wanted)
        model = self._model_request(
            endpoint,
            {
                "ExecutionRoleArn": wanted.execution_role(deployment.async_role),
                "PrimaryContainer": {
                    "Image": wanted.image,
                    "Mode": "SingleModel",
                    "Environment": {**wanted.environment, variables.MODELS_URI: wanted.models_uri},
                },
                "EnableNetworkIsolation": False,
                **wanted.model_tags,
            },
        )
        # A silo tenant's endpoint cannot write outside the tenant's prefix, not even if a request
        # says so. IAM holds the tenant's session to the endpoint that bears its tag.
        if machines.tier == "silo":
            output = failures = s3_keys.async_tenant_prefix(name, machines.tenant)
        else:
            output, failures = s3_keys.ASYNC_ROOT, s3_keys.async_failures_prefix(name)
        config = self._config_request(
            endpoint,
            {
                "ProductionVariants": [
                    self._variant(wanted, model["ModelName"], settings.instance_type)
                ],
                "AsyncInferenceConfig": {
                    "OutputConfig": {
                        "S3OutputPath": f"s3://{deployment.data_bucket}/{output}",
                        "S3FailurePath": f"s3://{deployment.data_bucket}/{failures}",
                        "NotificationConfig": {
                            "SuccessTopic": deployment.async_success_topic,
                            "ErrorTopic": deployment.async_error_topic,
                            # The container's reason travels with the message.
                            "IncludeInferenceResponseIn": ["ERROR_NOTIFICATION_TOPIC"],
                        },
                    },
                    "ClientConfig": {
                        "MaxConcurrentInvocationsPerInstance": settings.concurrent_per_instance
                    },
                },
                "Tags": wanted.config_tags,
            },
        )
        return EndpointRequests(model, config, wanted.tenant_tags)

    def record(self, route: Route, request: Mapping[str, Any]) -> bytes:
        """The input of the endpoint's container: the archive and the request (docs/contracts.md,
        "Serving container")."""
        return Record(route.target_model, request).line()

    def output_arguments(
        self, workload: ids.WorkloadName, tenant: ids.ModelId, tier: Tier
    ) -> dict[str, Any]:
        """The arguments of InvokeEndpointAsync that put the answer below the tenant's prefix."""
        # A silo tenant's endpoint writes there anyway.
        if tier == "silo":
            return {}
        return {"S3OutputPathExtension": s3_keys.async_extension(workload, tenant)}


ASYNCHRONOUS: Final = AsynchronousShape()
