"""The interface of a hosting shape: the endpoint that it makes on some machines, SageMaker's
limits, and how a model there is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from contracts import variables
from contracts.logs import log_environment
from tenantry.aws.silo_roles import silo_role_arn, tenant_tags
from tenantry.hosting.route import Route
from tenantry.names import ids, s3_keys, sagemaker_names
from tenantry.names.tiers import Machines, Tier
from tenantry.workloads.hosting import SHADOWED, Shadow
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

ShapeName = Literal[
    "multi_model",
    "single_model",
    "serverless",
    "multi_container",
    "pipeline",
    "container_managed",
    "asynchronous",
]
VARIANT: Final = "AllTraffic"
"""The name of an endpoint's one production variant."""
SHADOW: Final = "Shadow"
"""The name of its shadow variant, where it has one."""


@dataclass(frozen=True)
class Limits:
    """SageMaker's limits for an endpoint; each shape names the source of its figures.

    ``scales_to_zero`` tells whether the endpoint can go without an instance, at no cost.
    """

    max_payload_bytes: int
    max_answer_seconds: int
    scales_to_zero: bool


REAL_TIME: Final = Limits(max_payload_bytes=6_291_456, max_answer_seconds=60, scales_to_zero=False)
"""Of endpoints with instances that answer at once.

The bytes are from the API's model of InvokeEndpoint's Body, and so are the seconds:
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html. Only
those with inference components scale to zero:
https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-zero-instances.html
"""


@dataclass(frozen=True)
class EndpointRequests:
    """The requests that make an endpoint: ``model`` is for CreateModel, ``config`` for
    CreateEndpointConfig, and ``tags`` are for CreateEndpoint. ``shadow`` is for CreateModel, too.

    The names of model and configuration depend on their content: other content is another
    deployment.
    """

    model: Mapping[str, Any]
    config: Mapping[str, Any]
    tags: Sequence[Mapping[str, str]] = ()
    shadow: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Addressed:
    """A question as an endpoint takes it: the body, and the arguments of InvokeEndpoint that name
    the model."""

    body: bytes
    arguments: Mapping[str, str]


@dataclass(frozen=True)
class Wanted:
    """An endpoint that is to be made: where, of which workload, on which machines. ``serves`` are
    the routes of its versions, where they are part of it."""

    deployment: Deployment
    workload: Workload
    machines: Machines
    serves: Sequence[Route]

    @property
    def models_uri(self) -> str:
        """The prefix of the archives that the endpoints on these machines serve."""
        home = sagemaker_names.endpoint_name(
            self.deployment.prefix, ids.workload_name(self.workload.name), self.machines
        )
        return f"s3://{self.deployment.data_bucket}/{s3_keys.endpoint_models_prefix(home)}"

    @property
    def image(self) -> str:
        """The image of the container that answers."""
        workload = self.workload
        return self.deployment.image(workload.serving_container, workload.image_tag)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of that container that all shapes set."""
        digests = {} if self.shadow is None else {variables.ANSWER_DIGESTS: "true"}
        return {**log_environment(), **self.workload.serving.variables, **digests}

    @property
    def shadow(self) -> Shadow | None:
        """The file's shadow, where the shape of this tier can have one."""
        hosting = self.workload.hosting
        shape = getattr(hosting, self.machines.tier).shape
        return hosting.shadow if shape in SHADOWED else None

    @property
    def config_tags(self) -> list[dict[str, str]]:
        """The tags of the endpoint's configuration."""
        return [
            {"Key": "tenantry:workload", "Value": self.workload.name},
            {"Key": "tenantry:tier", "Value": self.machines.tier},
            *self.tenant_tags,
        ]

    @property
    def model_tags(self) -> dict[str, Any]:
        """CreateModel's member about tags: a silo tenant's model has the configuration's."""
        return {"Tags": self.config_tags} if self.tenant_tags else {}

    @property
    def tenant_tags(self) -> list[dict[str, str]]:
        """The tag by which IAM and the bill know a silo tenant's own resources; none for others."""
        return tenant_tags(self.machines.tenant) if self.machines.tier == "silo" else []

    def execution_role(self, shared: str) -> str:
        """The role of the containers: a silo tenant's own, else ``shared``, the one for all tenants
        of the shape's shared endpoints."""
        if self.machines.tier != "silo":
            return shared
        workload = ids.workload_name(self.workload.name)
        return silo_role_arn(self.deployment, workload, self.machines.tenant)


class Shape(ABC):
    """A way in which SageMaker serves a workload's models.

    - ``name`` stands in the registry's rows and never changes.
    - ``end`` ends the names of its endpoints (``sagemaker_names.ENDPOINT_ENDS``); empty for none.
    - ``tiers`` are the tiers that it may serve.
    - ``deploys`` tells that an endpoint's versions are part of it, so that another one is a
      deployment. Else its endpoint serves whatever archive a route names.
    - ``has_instances`` tells whether its capacity is counted in instances.
    - ``asked_by_app`` tells that IAM cannot hold a tenant's session to its own model there, so that
      the app's own session asks.

    ``tenantry.hosting.endpoints`` has the steps that all shapes share: creating, updating, waiting.
    """

    name: ClassVar[ShapeName]
    end: ClassVar[str] = ""
    limits: ClassVar[Limits]
    tiers: ClassVar[frozenset[Tier]]
    deploys: ClassVar[bool] = False
    has_instances: ClassVar[bool] = True
    asked_by_app: ClassVar[bool] = False

    def endpoint_name(self, prefix: str, workload: ids.WorkloadName, machines: Machines) -> str:
        """The name of its endpoint on some machines; ``prefix`` is the deployment's."""
        if not self.end:
            return sagemaker_names.endpoint_name(prefix, workload, machines)
        return sagemaker_names.shaped_endpoint_name(prefix, workload, machines, self.end)

    def instances(self, workload: Workload, tier: Tier) -> int:
        """How many instances an endpoint of a tier has when it is made: ``serving.instances``, and
        one for a silo tenant."""
        return 1 if tier == "silo" else workload.serving.instances

    def requests(
        self,
        deployment: Deployment,
        workload: Workload,
        machines: Machines,
        serves: Sequence[Route] = (),
    ) -> EndpointRequests:
        """The requests for the endpoint on some machines, as SageMaker takes them.

        ``serves`` are the routes of the versions that it serves, for a shape that ``deploys``.
        Other shapes do not look at them.

        Raises:
            NotAsynchronousError: the workload has no endpoint of that shape.
            ValueError: the shape cannot serve these versions, or needs one.
        """
        return self._requests(Wanted(deployment, workload, machines, serves))

    @abstractmethod
    def _requests(self, wanted: Wanted) -> EndpointRequests:
        """What ``requests`` returns."""

    def route(self, endpoint: str, tenant: ids.ModelId, version: ids.Version) -> Route:
        """How a version of a tenant's model is asked on one of its endpoints."""
        return Route(self.name, endpoint, tenant, version)

    def _model_request(self, endpoint: str, content: Mapping[str, Any]) -> dict[str, Any]:
        return {"ModelName": sagemaker_names.content_addressed_name(endpoint, content), **content}

    def _config_request(self, endpoint: str, content: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "EndpointConfigName": sagemaker_names.content_addressed_name(endpoint, content),
            **content,
        }

    def _variant(
        self, wanted: Wanted, model: str, instance_type: str | None = None
    ) -> dict[str, Any]:
        """The one variant; ``instance_type`` is ``serving.instance_type`` if not given."""
        workload = wanted.workload
        chosen = workload.serving.ami_version
        return {
            "VariantName": VARIANT,
            "ModelName": model,
            "InitialInstanceCount": self.instances(workload, wanted.machines.tier),
            "InstanceType": instance_type or workload.serving.instance_type,
            **({} if chosen is None else {"InferenceAmiVersion": chosen}),
        }

    def _endpoint(self, wanted: Wanted) -> str:
        return self.endpoint_name(
            wanted.deployment.prefix, ids.workload_name(wanted.workload.name), wanted.machines
        )


class RealTimeShape(Shape):
    """A shape whose endpoint answers at once, to InvokeEndpoint (``hosting.invocation.invoke``)."""

    def _requests(self, wanted: Wanted) -> EndpointRequests:
        endpoint = self._endpoint(wanted)
        content = {**self._model(wanted), "EnableNetworkIsolation": False, **wanted.model_tags}
        model = self._model_request(endpoint, content)
        variant = self._variant(wanted, model["ModelName"])
        config = {"ProductionVariants": [variant], "Tags": wanted.config_tags}
        shadow, config = self._with_shadow(wanted, endpoint, model, config)
        return EndpointRequests(
            model, self._config_request(endpoint, config), wanted.tenant_tags, shadow
        )

    @abstractmethod
    def _model(self, wanted: Wanted) -> dict[str, Any]:
        """CreateModel's role and containers. Raises ``ValueError`` for versions that the shape
        cannot serve."""

    def _with_shadow(
        self, wanted: Wanted, endpoint: str, model: dict[str, Any], config: dict[str, Any]
    ) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """The shadow's model, if there is to be a shadow, and the configuration with it. ``model``
        and ``config`` are the contents of both without one."""
        shadow = wanted.shadow
        if shadow is None:
            return None, config
        container = model["PrimaryContainer"]
        content = {
            **{name: value for name, value in model.items() if name != "ModelName"},
            "PrimaryContainer": {
                **container,
                "Image": wanted.deployment.image(
                    wanted.workload.serving_container, shadow.image_tag
                ),
                "Environment": {**container["Environment"], **shadow.environment},
            },
        }
        copied = self._model_request(endpoint, content)
        variant = {
            **config["ProductionVariants"][0],
            "VariantName": SHADOW,
            "ModelName": copied["ModelName"],
            "InitialInstanceCount": shadow.instances,
            "InitialVariantWeight": shadow.percent / 100,
        }
        return copied, {**config, "ShadowProductionVariants": [variant]}

    @abstractmethod
    def address(self, route: Route, request: Mapping[str, Any] | bytes) -> Addressed:
        """The question for a route's model.

        Args:
            route: of this shape.
            request: a JSON document, or bytes that are sent as they are.
        """
