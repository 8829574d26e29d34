"""The multi-model endpoint: many tenants' archives below one prefix, loaded when they are asked;
alone, or among the containers of a pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from contracts.logs import log_environment
from tenantry.hosting.route import Route
from tenantry.hosting.shapes.shape import REAL_TIME, Addressed, RealTimeShape, ShapeName, Wanted
from tenantry.workloads.hosting import Pipeline, PipelineContainer

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment


class MultiModelShape(RealTimeShape):
    """A multi-model endpoint, asked with a ``TargetModel``."""

    name: ClassVar[ShapeName] = "multi_model"
    limits = REAL_TIME
    tiers = frozenset(("silo", "bridge", "pool"))

    def _model(self, wanted: Wanted) -> dict[str, Any]:
        return {
            "ExecutionRoleArn": wanted.execution_role(wanted.deployment.serving_role),
            **self._containers(wanted),
        }

    def _containers(self, wanted: Wanted) -> dict[str, Any]:
        """CreateModel's members about containers."""
        return {"PrimaryContainer": _multi_model(wanted)}

    def address(self, route: Route, request: Mapping[str, Any] | bytes) -> Addressed:
        """The request itself, for the route's ``TargetModel``."""
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        return Addressed(body, {"TargetModel": route.target_model})


class PipelineShape(MultiModelShape):
    """A serial pipeline with a multi-model container: the containers before it change the request,
    and those after it the answer.

    SageMaker passes ``TargetModel`` to the multi-model one:
    https://docs.aws.amazon.com/sagemaker/latest/dg/inference-pipelines.html
    """

    name = "pipeline"
    end = "pipeline"
    tiers = frozenset(("bridge", "pool"))

    def _containers(self, wanted: Wanted) -> dict[str, Any]:
        section = getattr(wanted.workload.hosting, wanted.machines.tier)
        if not isinstance(section, Pipeline):
            raise TypeError(f"hosting.{wanted.machines.tier} is no pipeline")
        return pipeline_containers(wanted.deployment, section, _multi_model(wanted))


def _multi_model(wanted: Wanted) -> dict[str, Any]:
    return {
        "Image": wanted.image,
        "Mode": "MultiModel",
        "ModelDataUrl": wanted.models_uri,
        "Environment": wanted.environment,
    }


def pipeline_containers(
    deployment: Deployment, section: Pipeline, models: Mapping[str, Any]
) -> dict[str, Any]:
    """CreateModel's members for a pipeline around the container of the models."""
    before, after = (
        [_beside(deployment, one) for one in some] for some in (section.before, section.after)
    )
    containers = [*before, models, *after]
    return {"Containers": containers, "InferenceExecutionConfig": {"Mode": "Serial"}}


def _beside(deployment: Deployment, one: PipelineContainer) -> dict[str, Any]:
    """A container before or after the one of the models."""
    return {
        "Image": deployment.image(one.container, one.image_tag),
        "Mode": "SingleModel",
        "Environment": {**log_environment(), **one.environment},
    }


MULTI_MODEL: Final = MultiModelShape()
PIPELINE: Final = PipelineShape()
