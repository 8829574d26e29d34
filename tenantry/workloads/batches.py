"""Batches, and the data that they predict from: their sections in a workload's YAML file."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from tenantry.workloads.fields import (
    AmiVersion,
    BatchName,
    Cron,
    InstanceType,
    JsonFile,
    JsonObject,
    RequestField,
    TimeZone,
)
from tenantry.workloads.section import Section

FIRST: Final = "first"
_LARGEST_IN_FLIGHT: Final = 100
"""MB of a transform job's requests at one time."""


class Batch(Section):
    """Predictions of a period for every tenant with a model: at a time, or as new data come."""

    name: BatchName = Field(description="its predictions are filed under it")
    cron: Cron | None = Field(default=None, description="when, at most once a day; or `on`")
    timezone: TimeZone = "UTC"
    on: Literal["inference_upload"] | None = Field(
        default=None,
        description="for each tenant whose data for inference were appended, instead of `cron`",
    )
    request: JsonObject = Field(description="what every tenant is predicted for with")
    input: Literal["latest", "all", "request"] = Field(
        default="latest",
        description="`latest`: the request carries the tenant's newest data, where there are newer "
        "ones than its model's, as `inference` says; `all`: also where its model was made from "
        "them; `request`: it is asked as it stands",
    )
    keep_unchanged: bool = Field(
        default=False,
        description="a tenant whose model and request are those of its last prediction keeps that, "
        "and no machine makes it again: for containers that answer the same request the same way",
    )
    strategy: Literal["SingleRecord", "MultiRecord"] = Field(
        default="SingleRecord", description="SageMaker's BatchStrategy"
    )
    max_payload_megabytes: int = Field(
        default=6, ge=1, le=100, description="SageMaker's MaxPayloadInMB"
    )
    max_concurrent: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="SageMaker's MaxConcurrentTransforms; if not given, the container says it",
    )
    summary: str | None = Field(
        default=None,
        max_length=4000,
        description="SQL that Athena answers after each run, for Dagster to show; {table} and "
        "{day} stand for the batch's table and its day",
    )
    instance_type: InstanceType
    usd_per_hour: float = Field(
        ge=0, description="what an instance costs in your region and contract"
    )
    instances: int = Field(ge=1, le=100)
    ami_version: AmiVersion | None = Field(
        default=None, description="the job's machine image; AWS's default if none"
    )
    tenants_per_job: int = Field(ge=1, le=1000)
    max_jobs_at_once: int = Field(
        default=8,
        ge=1,
        le=100,
        description="transform jobs at the same time: each silo tenant has one of its own",
    )
    max_seconds: int = Field(ge=60)

    @model_validator(mode="after")
    def _has_one_occasion(self) -> Self:
        if self.name == FIRST:
            raise ValueError(f"{FIRST} is where first results lie; give it another name")
        if (self.cron is None) == (self.on is None):
            raise ValueError("says when it predicts by `cron` or by `on`; give one of the two")
        self.summary_of("table", "2026-01-01")
        times = [] if self.cron is None else self.cron.split(" ")[:2]
        if not all(part.isdigit() for part in times):
            raise ValueError(
                f"cron {self.cron!r} comes more than once a day, and a prediction is filed under "
                f"its day; name one minute and one hour"
            )
        # https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTransformJob.html
        if (self.max_concurrent or 1) * self.max_payload_megabytes > _LARGEST_IN_FLIGHT:
            raise ValueError(
                f"max_concurrent × max_payload_megabytes is more than the {_LARGEST_IN_FLIGHT} MB "
                f"that SageMaker takes; lower one of them"
            )
        return self

    def summary_of(self, table: str, day: str) -> str:
        """The SQL of ``summary`` about a table and a day; empty without one. Raises ``ValueError``
        for SQL whose braces cannot be filled in."""
        try:
            return (self.summary or "").format(table=table, day=day)
        except (LookupError, ValueError, AttributeError) as error:
            raise ValueError(
                "summary has braces that are neither {table} nor {day}; double those of SQL itself"
            ) from error


class Inference(Section):
    """New data without a new model: what tenants upload with the purpose ``inference`` is appended
    to their data by the preparation's ``extend``, and goes into the requests of batches."""

    field: RequestField = Field(description="of a request: it carries the tenant's data")
    file: JsonFile = Field(
        description="among the prepared files: the JSON document that goes into that field"
    )
    card: RequestField | None = Field(
        default=None,
        description="an entry of a version's card, which is empty where the version takes no such "
        "data; if it is not given, every version takes them",
    )
    max_kilobytes: int = Field(default=512, ge=1, le=4096, description="of that file")

    @property
    def max_bytes(self) -> int:
        """The limit on the file, in bytes."""
        return self.max_kilobytes * 1024
