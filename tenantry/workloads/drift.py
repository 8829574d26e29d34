"""The section ``drift`` of a workload's YAML file."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from tenantry.workloads.fields import InstanceType, Module
from tenantry.workloads.section import Section

_MAX_MEGABYTES: Final = 64


class EvaluationJob(Section):
    """The SageMaker Processing job that evaluates a served model on data too large for Dagster's
    process."""

    max_megabytes_here: float = Field(
        default=_MAX_MEGABYTES,
        ge=0,
        le=_MAX_MEGABYTES,
        description="a tenant's larger data are evaluated by the job, smaller ones through the "
        "endpoint",
    )
    instance_type: InstanceType = Field(description="of the job, which has one instance")
    usd_per_hour: float = Field(
        ge=0, description="what an instance costs in your region and contract"
    )
    # API_ProcessingClusterConfig, VolumeSizeInGB: 1 to 16,384
    volume_gigabytes: int = Field(
        default=30, ge=1, le=16_384, description="room for the data and the model"
    )
    # API_ProcessingStoppingCondition: up to five days
    max_seconds: int = Field(default=3600, ge=60, le=5 * 24 * 3600)


class Drift(Section):
    """How a served model is checked against data that came after it was made."""

    module: Module = Field(description="a module of the container, which looks for drift")
    tolerance: float = Field(
        ge=0,
        le=10,
        description="a score this much worse than the one at training, as a share of it, is a "
        "warning",
    )
    job: EvaluationJob | None = Field(
        default=None, description="for large data, which are not evaluated if it is not given"
    )

    @property
    def max_bytes_here(self) -> int:
        """The most data of one tenant that no job is for, in bytes."""
        megabytes = _MAX_MEGABYTES if self.job is None else self.job.max_megabytes_here
        return int(megabytes * 1024 * 1024)
