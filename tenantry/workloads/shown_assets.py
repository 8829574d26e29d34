"""How a workload's assets show in Dagster: the section ``assets`` of its YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import Field

from tenantry.workloads.fields import Kind, Words
from tenantry.workloads.section import Section

WorkloadAsset = Literal[
    "uploads",
    "training_data",
    "fine_tuned_artifact",
    "endpoint_registration",
    "batch_predictions",
    "serving_endpoint",
    "asynchronous_endpoint",
    "endpoint_capacity",
    "asynchronous_capacity",
    "prewarmed_models",
    "fleet",
]
"""The assets that a workload can have."""
WORKLOAD_ASSETS: tuple[WorkloadAsset, ...] = get_args(WorkloadAsset)


class Figure(Section):
    """A number on an asset's page, and how to read it."""

    description: Words = Field(description="what it tells, in a sentence")
    unit: str = Field(default="", description="its unit, as kWh; empty for a share or a count")
    good: str = Field(default="", description="what good is, as 'below 1'")


class Column(Section):
    """A column of an asset's rows."""

    type: Words = Field(description="its type, as double or timestamp")
    description: str = Field(default="", description="what it holds, and in which unit")


class ShownAsset(Section):
    """An asset's own entries in Dagster, beside those that all workloads have."""

    kinds: tuple[Kind, ...] = Field(
        default=(), max_length=3, description="its icons, in the place of the usual ones"
    )
    columns: Mapping[Words, Column] = Field(
        default_factory=dict, description="the columns of its rows, by name"
    )
    figures: Mapping[Words, Figure] = Field(
        default_factory=dict,
        description="how to read the numbers that the workload's own code gives, by name",
    )
