"""The interface of a hosting shape: the endpoint that it makes on some machines, SageMaker's
limits, and how a model there is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from tenantry.hosting.route import Route
from tenantry.names import ids, sagemaker_names
from tenantry.names.tiers import Machines, Tier
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

ShapeName = Literal["multi_model", "asynchronous"]
VARIANT: Final = "AllTraffic"
"""The name of an endpoint's one production variant."""


@dataclass(frozen=True)
class Limits:
    """SageMaker's limits for an endpoint; each shape names the source of its figures.

    ``scales_to_zero`` tells whether the endpoint can go without an instance, at no cost.
    """

    max_payload_bytes: int
    max_answer_seconds: int
    scales_to_zero: bool


@dataclass(frozen=True)
class EndpointRequests:
    """The requests that make an endpoint: ``model`` is for CreateModel, ``config`` for
    CreateEndpointConfig, and ``tags`` are for CreateEndpoint.

    The names of model and configuration depend on their content: other content is another
    deployment.
    """

    model: Mapping[str, Any]
    config: Mapping[str, Any]
    tags: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class Addressed:
    """A question as an endpoint takes it: the body, and the arguments of InvokeEndpoint that name
    the model."""

    body: bytes
    arguments: Mapping[str, str]


class Shape(ABC):
    """A way in which SageMaker serves a workload's models.

    ``name`` stands in the registry's rows and never changes. ``tiers`` are the tiers that it may
    serve. ``tenantry.hosting.endpoints`` has the steps that all shapes share: creating, updating,
    waiting.
    """

    name: ClassVar[ShapeName]
    limits: ClassVar[Limits]
    tiers: ClassVar[frozenset[Tier]]

    @abstractmethod
    def endpoint_name(self, prefix: str, workload: ids.WorkloadName, machines: Machines) -> str:
        """The name of its endpoint on some machines; ``prefix`` is the deployment's."""

    @abstractmethod
    def instances(self, workload: Workload, tier: Tier) -> int:
        """How many instances an endpoint of a tier has when it is made."""

    @abstractmethod
    def requests(
        self, deployment: Deployment, workload: Workload, machines: Machines
    ) -> EndpointRequests:
        """The requests for the endpoint on some machines, as SageMaker takes them."""

    def route(self, endpoint: str, tenant: ids.TenantId, version: ids.Version) -> Route:
        """How a version of a tenant's model is asked on one of its endpoints."""
        return Route(self.name, endpoint, sagemaker_names.target_model(tenant, version))

    def _model_request(self, endpoint: str, content: Mapping[str, Any]) -> dict[str, Any]:
        return {"ModelName": sagemaker_names.content_addressed_name(endpoint, content), **content}

    def _config_request(self, endpoint: str, content: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "EndpointConfigName": sagemaker_names.content_addressed_name(endpoint, content),
            **content,
        }

    def _variant(
        self, workload: Workload, machines: Machines, model: str, instance_type: str
    ) -> dict[str, Any]:
        chosen = workload.serving.ami_version
        return {
            "VariantName": VARIANT,
            "ModelName": model,
            "InitialInstanceCount": self.instances(workload, machines.tier),
            "InstanceType": instance_type,
            **({} if chosen is None else {"InferenceAmiVersion": chosen}),
        }

    def _config_tags(self, workload: Workload, machines: Machines) -> list[dict[str, str]]:
        return [
            {"Key": "tenantry:workload", "Value": workload.name},
            {"Key": "tenantry:tier", "Value": machines.tier},
        ]


class RealTimeShape(Shape):
    """A shape whose endpoint answers at once, to InvokeEndpoint (``hosting.invocation.invoke``)."""

    @abstractmethod
    def address(self, route: Route, request: Mapping[str, Any] | bytes) -> Addressed:
        """The question for a route's model.

        Args:
            route: of this shape.
            request: a JSON document, or bytes that are sent as they are.
        """
