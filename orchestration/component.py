"""A workload as a component of Dagster: ``type: orchestration.Workload``, over the same schema and
with the same definitions as a workload's own YAML file."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Self

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
from tenantry.workloads.schema import COMPONENT_FILE, InvalidWorkloadError, Workload

_TEMPLATE: Final = """\
type: {type_name}

attributes: # docs/adding-a-workload.md says what each field means
  name: {name}
  title: {name}
  description: One model per tenant.
  owners: ["team:{name}"]
  container: forecast # the folder below containers/
  image_tag: "0.1.0"
  kinds: [sagemaker]
  tier: bridge

  upload:
    file_types: [csv]
    max_files: 4
    max_megabytes: 64
  preparation: containers.forecast.consumption.preparation

  training:
    instance_type: ml.c5.xlarge
    usd_per_hour: 0.23 # put your region's and contract's price here
    max_instances: 2
    tenants_per_instance: 100
    volume_gigabytes: 10
    max_seconds: 3600
    attempts: 3
    pack: {{max_tenants: 200, wait_seconds: 5}}

  quality:
    metric: mase
    baseline: baseline_mase
    lower_is_better: true
    tolerance: 0.15

  serving:
    instance_type: ml.c5.large
    usd_per_hour: 0.115
    instances: 1
    smoke_request: {{period: 1, start: data_end}}

  batch:
    cron: "15 2 * * *"
    request: {{period: 7}}
    instance_type: ml.m5.large
    usd_per_hour: 0.115
    instances: 1
    tenants_per_job: 500
    max_seconds: 3600
"""


@cache
def _resources() -> Mapping[str, Any]:
    """The same for all components: Dagster merges no two that differ."""
    return resources()


class WorkloadScaffolder(Scaffolder[Any]):
    """Writes the ``defs.yaml`` of a new workload, which can be used as it is."""

    def scaffold(self, request: ScaffoldRequest[Any]) -> None:
        """Write it into the folder that is named as the workload is."""
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
        text = _TEMPLATE.format(type_name=request.type_name, name=name)
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
        """From attributes that were checked. Templates (``{{ … }}``) are not filled in: the command
        line and the apps read the same file, without Dagster."""
        if not isinstance(attributes, Workload):
            raise InvalidWorkloadError("attributes are missing; docs/adding-a-workload.md has them")
        return cls(attributes)

    def build_defs(self, context: ComponentLoadContext) -> Definitions:  # noqa: ARG002 - the same
        """What a workload's own YAML file would give."""
        with known_warnings_left_out():
            return Definitions.merge(
                workload_definitions(self.workload, jobs_of(self.workload)),
                Definitions(resources=_resources()),
            )
