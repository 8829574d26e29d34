"""A workload as a component of Dagster: ``type: orchestration.Workload``, over the same schema and
with the same definitions as a workload's own YAML file."""

import textwrap
from collections.abc import Mapping
from functools import cache
from typing import Any, Self

from dagster import Component, ComponentLoadContext, Definitions
from dagster.components import Scaffolder, ScaffoldRequest, scaffold_with
from pydantic import BaseModel, TypeAdapter, ValidationError

from orchestration.jobs import jobs_of
from orchestration.workload_definitions import (
    known_warnings_left_out,
    resources,
    workload_definitions,
)
from tenantry.workloads.fields import IN_WORDS, WorkloadName
from tenantry.workloads.folder import COMPONENT_FILE
from tenantry.workloads.schema import InvalidWorkloadError, Workload
from tenantry.workloads.skeleton import skeleton


@cache
def _resources() -> Mapping[str, Any]:
    """The resources, the same for all components: Dagster does not merge different ones."""
    return resources()


class WorkloadScaffolder(Scaffolder[Any]):
    """Writes the ``defs.yaml`` of a new workload, which can be used as it is."""

    def scaffold(self, request: ScaffoldRequest[Any]) -> None:
        """Write it into the folder named after the workload."""
        name = request.target_path.name
        try:
            TypeAdapter(WorkloadName).validate_python(name)
        except ValidationError as error:
            pattern = error.errors()[0]["ctx"]["pattern"]
            raise InvalidWorkloadError(
                f"{name!r} is no name of a workload: it must be {IN_WORDS[pattern]}"
            ) from error
        if request.scaffold_format != "yaml" or request.append:
            raise InvalidWorkloadError("a workload is a YAML file of its own: leave --format out")
        attributes = textwrap.indent(skeleton(name), "  ")
        text = f"type: {request.type_name}\n\nattributes:\n{attributes}"
        (request.target_path / COMPONENT_FILE).write_text(text, encoding="utf-8")


@scaffold_with(WorkloadScaffolder)
class WorkloadComponent(Component):
    """One kind of personalised model: its assets, checks, jobs and schedules.

    Sensors are shared by all workloads. ``orchestration.definitions`` has them.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The schema of ``attributes``: the one of a workload's own YAML file."""
        return Workload

    @classmethod
    def load(cls, attributes: BaseModel | None, context: ComponentLoadContext) -> Self:  # noqa: ARG003 - nothing of it is needed
        """From checked attributes. Templates (``{{ … }}``) are not filled in, because the command
        line and the apps read the same file without Dagster."""
        if not isinstance(attributes, Workload):
            raise InvalidWorkloadError("attributes are missing; docs/workload-file.md has them")
        return cls(attributes)

    def build_defs(self, context: ComponentLoadContext) -> Definitions:  # noqa: ARG002 - the same
        """The definitions that a workload's own YAML file would give."""
        with known_warnings_left_out():
            return Definitions.merge(
                workload_definitions(self.workload, jobs_of(self.workload)),
                Definitions(resources=_resources()),
            )
