"""The section ``upload.split`` of a workload's YAML file."""

from __future__ import annotations

from pydantic import Field

from tenantry.workloads.fields import InstanceType, Module
from tenantry.workloads.section import Section


class Split(Section):
    """One file of many customers, which `tenantry upload --split` makes an upload for each of."""

    module: Module = Field(
        description="a module of the container with split(file, destination, customers)"
    )
    max_megabytes_here: float = Field(
        default=64,
        ge=0,
        le=1024,
        description="a larger file is split by a SageMaker Processing job, a smaller one where the "
        "command runs",
    )
    memory_megabytes_here: int = Field(
        default=2048, ge=64, le=65_536, description="what a split where the command runs may take"
    )
    seconds_here: int = Field(default=300, ge=1, le=7200, description="of the clock on the wall")
    instance_type: InstanceType = Field(description="of the processing job, which has one instance")
    usd_per_hour: float = Field(
        ge=0, description="what an instance costs in your region and contract"
    )
    # API_ProcessingClusterConfig, VolumeSizeInGB: 1 to 16,384
    volume_gigabytes: int = Field(
        default=30, ge=1, le=16_384, description="room for the file and for all that it becomes"
    )
    # API_ProcessingStoppingCondition: up to five days
    max_seconds: int = Field(default=3600, ge=60, le=5 * 24 * 3600)

    @property
    def max_bytes_here(self) -> int:
        """The largest file that no job is made for, in bytes."""
        return int(self.max_megabytes_here * 1024 * 1024)
