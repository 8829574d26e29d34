"""The section ``hosting`` of a workload's file: the shape of each tier's endpoint, and how an
endpoint is updated."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from tenantry.workloads.fields import Container, ImageTag
from tenantry.workloads.section import Section

MEMORY_MEGABYTES: Final = (1024, 2048, 3072, 4096, 5120, 6144)
"""https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_ProductionVariantServerlessConfig.html"""
MOST_CONTAINERS: Final = 15
"""https://docs.aws.amazon.com/sagemaker/latest/dg/inference-pipelines.html"""


class MultiModel(Section):
    """Many tenants' models on shared instances, loaded when they are asked."""

    shape: Literal["multi_model"] = "multi_model"


class SingleModel(Section):
    """One tenant's model, loaded before its endpoint is in service."""

    shape: Literal["single_model"] = "single_model"


class Serverless(Section):
    """One tenant's model without an instance: paid for each request."""

    shape: Literal["serverless"] = "serverless"
    memory_megabytes: Literal[1024, 2048, 3072, 4096, 5120, 6144] = Field(
        default=2048, description="of each environment, which must hold the container and the model"
    )
    max_concurrency: int = Field(
        default=5, ge=1, le=200, description="requests at a time; SageMaker refuses further ones"
    )
    provisioned_concurrency: int | None = Field(
        default=None, ge=1, le=200, description="environments that are kept warm, and paid"
    )

    @model_validator(mode="after")
    def _provisions_no_more_than_it_may_have(self) -> Serverless:
        if (self.provisioned_concurrency or 0) > self.max_concurrency:
            raise ValueError(
                f"provisioned_concurrency is {self.provisioned_concurrency}, above the "
                f"max_concurrency of {self.max_concurrency}; change one of the two"
            )
        return self


class MultiContainer(Section):
    """Up to 15 tenants' models on shared instances, each in a container of its own."""

    shape: Literal["multi_container"] = "multi_container"


class ContainerManaged(Section):
    """Many tenants' models behind one container, which fetches the archives that requests name."""

    shape: Literal["container_managed"] = "container_managed"


class PipelineContainer(Section):
    """A container before or after the models' own."""

    container: Container = Field(description="the folder below containers/")
    image_tag: ImageTag = Field(description="the tag of its image")
    environment: dict[str, str] = Field(default_factory=dict)


class Pipeline(Section):
    """Containers in a row; one of them is multi-model."""

    shape: Literal["pipeline"] = "pipeline"
    before: tuple[PipelineContainer, ...] = Field(
        default=(), description="what changes the request, in this order"
    )
    after: tuple[PipelineContainer, ...] = Field(
        default=(), description="what changes the answer, in this order"
    )

    @model_validator(mode="after")
    def _has_as_many_containers_as_may_be(self) -> Pipeline:
        count = len(self.before) + 1 + len(self.after)
        if not 2 <= count <= MOST_CONTAINERS:
            raise ValueError(
                f"a pipeline has 2 to {MOST_CONTAINERS} containers, the models' own included, and "
                f"this one has {count}; change before or after"
            )
        return self


def _of_its_name(given: Any) -> Any:
    """A shape's name alone means the shape with all fields left out."""
    return {"shape": given} if isinstance(given, str) else given


HostingShape = Annotated[
    Annotated[
        MultiModel | SingleModel | Serverless | MultiContainer | Pipeline | ContainerManaged,
        Field(discriminator="shape"),
    ],
    BeforeValidator(_of_its_name, json_schema_input_type=Any),
]


class Updates(Section):
    """How a new version, image or setting reaches an endpoint.

    https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails.html
    """

    strategy: Literal["all_at_once", "canary", "linear", "rolling"] = Field(
        default="all_at_once",
        description="how traffic reaches the new instances; an endpoint of one instance takes all "
        "at once",
    )
    percent: int = Field(
        default=10, ge=5, le=50, description="the share of instances that goes first, or each time"
    )
    wait_seconds: int = Field(
        default=0,
        ge=0,
        le=3600,
        description="how long each share is watched, and the old instances are kept, before more "
        "follow",
    )
    error_percent: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="a larger share of server errors while it is watched takes the update back; "
        "nothing is watched if none",
    )

    @model_validator(mode="after")
    def _watches_for_a_time(self) -> Updates:
        if (self.error_percent is not None or self.strategy != "all_at_once") and (
            self.wait_seconds < 60
        ):
            raise ValueError(
                f"wait_seconds is {self.wait_seconds}, and errors are counted by the minute; "
                f"raise it to 60 or more"
            )
        return self

    @property
    def guarded(self) -> bool:
        """Whether SageMaker needs to be told how to update."""
        return self != Updates()


class Shadow(Section):
    """Another image or other settings that get a copy of the requests, and whose answers return to
    nobody: of endpoints that serve by ``single_model`` or ``container_managed``.

    https://docs.aws.amazon.com/sagemaker/latest/dg/shadow-tests.html
    """

    image_tag: ImageTag = Field(description="the tag of its image")
    environment: dict[str, str] = Field(
        default_factory=dict, description="variables beside those of serving.environment"
    )
    percent: int = Field(default=100, ge=1, le=100, description="the share of requests it gets")
    instances: int = Field(default=1, ge=1, le=1000)


SHADOWED: Final = frozenset({"single_model", "container_managed"})
"""The shapes that can have a shadow. AWS has none for multi-model and serverless endpoints, and
none for containers that are called directly."""


class Hosting(Section):
    """The shape of the endpoint that answers at once, for each tier."""

    silo: HostingShape = Field(default=MultiModel(), description="each silo tenant's own endpoint")
    bridge: HostingShape = Field(default=MultiModel(), description="the endpoint of tier bridge")
    pool: HostingShape = Field(default=MultiModel(), description="the endpoint of tier pool")
    updates: Updates = Updates()
    shadow: Shadow | None = None
