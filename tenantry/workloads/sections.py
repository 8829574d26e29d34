"""The sections of a workload's YAML file, each with its fields and their meaning."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tenantry.workloads.batching import VARIABLES, Batching
from tenantry.workloads.capacity import EndpointCapacity, Prewarming
from tenantry.workloads.fields import (
    AmiVersion,
    ContainerName,
    Cron,
    FileType,
    InstanceType,
    JsonObject,
    Metric,
    Module,
    RequestField,
    TimeZone,
    environment_fault,
    hyperparameters_fault,
)
from tenantry.workloads.instance_types import has_gpu
from tenantry.workloads.section import Section
from tenantry.workloads.split import Split


class Parameter(Section):
    """A value an upload's manifest may carry."""

    type: Literal["string", "number", "integer", "boolean"]
    default: str | int | float | bool | None = None
    required: bool = False
    description: str = ""
    max_characters: int = Field(default=200, ge=1, le=10_000)

    def takes(self, value: object) -> bool:
        """Whether a value is of this parameter's type. A number is finite; a boolean is no
        number."""
        match self.type:
            case "string":
                return isinstance(value, str) and len(value) <= self.max_characters
            case "boolean":
                return isinstance(value, bool)
            case "integer":
                return isinstance(value, int) and not isinstance(value, bool)
            case "number":
                return (
                    isinstance(value, int | float)
                    and not isinstance(value, bool)
                    and abs(value) <= sys.float_info.max
                )

    @model_validator(mode="after")
    def _default_fits(self) -> Parameter:
        if self.default is not None and not self.takes(self.default):
            raise ValueError(
                f"default is {self.default!r}, which its type {self.type} does not take"
            )
        return self


class Preparation(Section):
    """The limits of preparing one upload; an upload that takes more is refused."""

    memory_megabytes: int = Field(
        default=1024, ge=64, le=65_536, description="on top of the code's own"
    )
    cpu_seconds: int = Field(default=60, ge=1, le=3600, description="of a processor")
    seconds: float = Field(
        default=300, ge=1, le=7200, description="of the clock on the wall, on a busy machine too"
    )


class Upload(Section):
    """The limits and parameters of an upload."""

    file_types: tuple[FileType, ...] = Field(min_length=1)
    max_files: int = Field(ge=1, le=10_000)
    max_megabytes: float = Field(gt=0, le=10_240)
    max_models: int = Field(
        default=10,
        ge=1,
        le=1000,
        description="so many models may one tenant have, each with a name; further names are "
        "refused",
    )
    parameters: Mapping[str, Parameter] = Field(default_factory=dict)
    preparation: Preparation = Preparation()
    split: Split | None = None

    @property
    def max_bytes(self) -> int:
        """The limit on all files together, in bytes."""
        return int(self.max_megabytes * 1024 * 1024)


class Imports(Section):
    """Models that were trained elsewhere: who reads their archives, and how large these may be."""

    module: Module = Field(
        description="a module of the container with take_over(archive, destination, owner, "
        "environment)"
    )
    max_megabytes: float = Field(gt=0, le=512, description="of one archive, as it is uploaded")

    @property
    def file_types(self) -> tuple[str, ...]:
        """How the name of an archive ends."""
        return ("tar.gz",)

    @property
    def max_files(self) -> int:
        """A model is one archive."""
        return 1

    @property
    def max_bytes(self) -> int:
        """The limit on an archive, in bytes."""
        return int(self.max_megabytes * 1024 * 1024)


class Pack(Section):
    """When requests become one training job."""

    max_tenants: int = Field(ge=1, le=1000)
    wait_seconds: float = Field(
        ge=0, description="a request does not wait longer than this for company"
    )
    max_at_once: int = Field(
        default=2, ge=1, le=100, description="how many packs may be on their way at the same time"
    )
    together: tuple[str, ...] = Field(
        default=(),
        description="upload parameters whose values must be the same for all tenants of a pack",
    )


class Training(Section):
    """The training job of a pack."""

    instance_type: InstanceType
    usd_per_hour: float = Field(
        ge=0, description="what an instance costs in your region and contract"
    )
    other_instance_types: Mapping[InstanceType, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict,
        max_length=10,
        description="types to fall back on when instance_type is not to be had, in this order, and "
        "their usd_per_hour",
    )
    spot: bool = Field(
        default=False, description="try spot machines of every type before those on demand"
    )
    max_wait_seconds: int | None = Field(
        default=None,
        le=28 * 24 * 3600,
        description="with spot: how long a job may take, waiting for machines included "
        "(MaxWaitTimeInSeconds)",
    )
    # KeepAlivePeriodInSeconds,
    # https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_ResourceConfig.html
    keep_alive_seconds: int = Field(
        default=0,
        ge=0,
        le=21_600,
        description="how long the machines of a shared pack are kept, and paid, for the next one; "
        "needs a quota of its own",
    )
    max_instances: int = Field(ge=1, le=100)
    tenants_per_instance: int = Field(ge=1)
    deadline_seconds: float | None = Field(
        default=None,
        gt=0,
        description="a pack gets as many instances as it takes to train all its tenants in that "
        "time",
    )
    # S3DataDistributionType,
    # https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_S3DataSource.html
    data_distribution: Literal["FullyReplicated", "ShardedByS3Key"] = Field(
        default="FullyReplicated",
        description="whether each instance gets the data of all tenants of its pack, and tasks by "
        "expected time, or only its own tenants' data, as SageMaker deals them out",
    )
    # SageMaker takes 16,384; each tier's volumes are up to 2 GB larger
    volume_gigabytes: int = Field(ge=1, le=16_382)
    max_seconds: int = Field(ge=60, le=28 * 24 * 3600)
    attempts: int = Field(ge=1, le=20)
    pack: Pack
    hyperparameters: Mapping[str, str] = Field(
        default_factory=dict, description="what the container trains with; all are text"
    )

    @field_validator("hyperparameters")
    @classmethod
    def _hyperparameters_are_taken(cls, parameters: Mapping[str, str]) -> Mapping[str, str]:
        if (fault := hyperparameters_fault(parameters)) is not None:
            raise ValueError(fault)
        return parameters

    @model_validator(mode="after")
    def _spot_waits_long_enough(self) -> Training:
        if self.spot and (
            self.max_wait_seconds is None or self.max_wait_seconds < self.max_seconds
        ):
            raise ValueError(
                "max_wait_seconds must be at least max_seconds when spot is true; SageMaker "
                "demands it"
            )
        if not self.spot and self.max_wait_seconds is not None:
            raise ValueError(
                "max_wait_seconds is for spot machines only; remove it, or set spot: true"
            )
        if self.instance_type in self.other_instance_types:
            raise ValueError(
                f"other_instance_types names {self.instance_type}, which is instance_type already; "
                f"remove it"
            )
        return self


class Scheduling(Section):
    """Which request goes next when more are due than may be on their way."""

    first_model_seconds: float = Field(
        default=600,
        ge=0,
        le=86_400,
        description="the head start of a tenant's first model, in seconds of waiting",
    )
    tier_weights: Mapping[Literal["silo", "bridge", "pool"], float] = Field(
        default_factory=dict,
        description="the packs on their way are shared between tiers by these; 1 for one not named",
    )
    max_per_tenant_a_day: int | None = Field(
        default=24,  # one an hour: data hardly change so fast that more models would be worth it
        ge=1,
        description="models are made of so many of a tenant's uploads within 24 hours, first "
        "models included, and ten times as"
        " many uploads are taken in; further ones wait, or are refused. No limit if null",
    )
    retry_seconds: float = Field(
        default=20,
        gt=0,
        le=3600,
        description="before a failed request's second try; doubled with each further one",
    )

    @field_validator("tier_weights")
    @classmethod
    def _weights_are_positive(cls, weights: Mapping[str, float]) -> Mapping[str, float]:
        for tier, weight in weights.items():
            if not 0 < weight < 1e6:
                raise ValueError(
                    f"the weight of {tier} is {weight:g}; it must be above 0, or its tenants would "
                    f"never be served"
                )
        return weights

    def weight(self, tier: Literal["silo", "bridge", "pool"]) -> float:
        """A tier's share of the packs on their way, as a number to be compared with the others'."""
        return self.tier_weights.get(tier, 1.0)


class Quality(Section):
    """How a challenger is compared with the champion, and the score that a model must reach to
    serve at all."""

    metric: Metric = Field(description="the score of a model that is compared")
    baseline: Metric | None = Field(
        default=None, description="the metric that the score is taken as a share of"
    )
    lower_is_better: bool
    tolerance: float = Field(ge=0, le=1)
    required: float | None = Field(
        default=None, description="a model whose metric is worse than this serves nobody"
    )

    def suffices(self, metrics: Mapping[str, float]) -> bool:
        """Whether the metric meets the requirement; a missing metric does not."""
        if self.required is None:
            return True
        score = metrics.get(self.metric)
        if score is None:
            return False
        return score <= self.required if self.lower_is_better else score >= self.required

    def verdict(self, metrics: Mapping[str, float]) -> tuple[bool, dict[str, float]] | None:
        """Whether a model is good by itself, and the figures behind it: it beats its baseline and
        meets the requirement.

        None when the workload has neither, or the metrics lack one of them.
        """
        score = metrics.get(self.metric)
        if score is None or (self.baseline is None and self.required is None):
            return None
        found = {self.metric: score}
        passed = self.suffices(metrics)
        if self.required is not None:
            found["required"] = self.required
        if self.baseline is not None:
            baseline = metrics.get(self.baseline)
            if baseline is None:
                return None
            found[self.baseline] = baseline
            passed = passed and (score < baseline if self.lower_is_better else score > baseline)
        return passed, found

    @staticmethod
    def is_worse(skill: float, than: float, tolerance: float) -> bool:
        """Whether a skill is worse than another by more than a share of it. All skills of a
        workload are of one sign."""
        return skill > than + abs(than) * tolerance

    @property
    def compared(self) -> str:
        """The name of the figure that `skill` compares, for people."""
        return "share_of_baseline" if self.baseline is not None else self.metric

    def shown(self, skill: float) -> float:
        """A skill as people read it: of the metric's own sign."""
        return round(skill if self.lower_is_better else -skill, 4)

    def skill(self, metrics: Mapping[str, float]) -> float | None:
        """The score compared between versions, lower being better: the metric as a share of the
        baseline's.

        Scores of two versions come from different weeks. As shares of a naive forecast's score in
        the same week they can be compared. None when the metrics lack the score.
        """
        score = metrics.get(self.metric)
        if score is None:
            return None
        if self.baseline is not None:
            baseline = metrics.get(self.baseline)
            if not baseline:
                return None
            score = score / baseline
        return score if self.lower_is_better else -score


class Cache(Section):
    """The result cache: an identical request is answered from S3, without the endpoint."""

    enabled: bool = False
    repeatable_with: tuple[str, ...] = Field(
        default=(),
        description="fields a request must have for its answer to be repeatable, as a seed is",
    )
    max_kilobytes: int = Field(
        default=1024, ge=1, le=65_536, description="a larger answer is not kept"
    )
    days: int = Field(
        default=7,
        ge=1,
        le=30,
        description="how long an answer is kept; stack.yaml deletes after 30",
    )

    @property
    def max_bytes(self) -> int:
        """The largest answer that is kept, in bytes."""
        return self.max_kilobytes * 1024

    def takes(self, request: Mapping[str, Any]) -> bool:
        """Whether the answer to this request may be kept: the same request would be answered the
        same way."""
        return self.enabled and all(
            request.get(field) is not None for field in self.repeatable_with
        )


class Asynchronous(Section):
    """The asynchronous endpoint of a shared tier, and of each silo tenant, for jobs that take long.

    Limits: docs.aws.amazon.com/sagemaker/latest/APIReference/API_AsyncInferenceClientConfig.html
    and …/API_runtime_InvokeEndpointAsync.html.
    """

    instance_type: InstanceType
    usd_per_hour: float = Field(
        ge=0, description="what an instance costs in your region and contract"
    )
    instances: int = Field(ge=1, le=1000, description="when it is made")
    concurrent_per_instance: int = Field(
        default=4, ge=1, le=1000, description="requests the container gets at a time"
    )
    max_seconds: int = Field(
        default=900, ge=1, le=3600, description="how long the container may take for one"
    )
    queue_seconds: int = Field(
        default=21_600, ge=60, le=21_600, description="how long a request may wait its turn"
    )
    capacity: EndpointCapacity | None = Field(
        default=None, description="fixed at instances if none; its minimum may be 0"
    )
    silo_capacity: EndpointCapacity | None = Field(
        default=None,
        description="of each silo tenant's endpoint; fixed at one instance if none; its minimum "
        "may be 0",
    )

    @model_validator(mode="after")
    def _capacity_can_be(self) -> Asynchronous:
        for called, section in (("capacity", self.capacity), ("silo_capacity", self.silo_capacity)):
            _check_capacity(
                called, section, self.instance_type, self.usd_per_hour, asynchronous=True
            )
        return self


class Serving(Section):
    """The endpoint of a shared tier, and of each silo tenant, that answers at once."""

    instance_type: InstanceType
    usd_per_hour: float = Field(
        ge=0, description="what an instance costs in your region and contract"
    )
    instances: int = Field(ge=1, le=1000)
    container: ContainerName | None = Field(
        default=None,
        description="another than the workload's, where serving has an image of its own",
    )
    ami_version: AmiVersion | None = Field(
        default=None, description="the endpoints' machine image; AWS's default if none"
    )
    gpu_gigabytes: float | None = Field(
        default=None,
        gt=0,
        description="GPU memory that the models' common base and a model need; unchecked if none",
    )
    environment: Mapping[str, str] = Field(default_factory=dict)
    batching: Batching | None = Field(
        default=None, description="requests that share a call of the model; none if left out"
    )
    smoke_request: JsonObject = Field(description="a new model has to answer it")
    capacity: EndpointCapacity | None = Field(
        default=None, description="of the shared endpoint; fixed at instances if none"
    )
    silo_capacity: EndpointCapacity | None = Field(
        default=None, description="of each silo tenant's endpoint; fixed at one instance if none"
    )
    prewarming: Prewarming | None = Field(
        default=None, description="loads models before they are asked; none if left out"
    )
    remove_unused_after_days: int = Field(
        default=7,
        ge=1,
        le=365,
        description="how long an endpoint that serves nobody is kept, and what updates left",
    )
    cache: Cache = Cache()
    asynchronous: Asynchronous | None = None
    park_when_unavailable: bool = Field(
        default=False,
        description="a request that finds no instance waits in the asynchronous endpoint's queue; "
        "needs asynchronous",
    )

    @field_validator("environment")
    @classmethod
    def _variables_are_taken(cls, environment: Mapping[str, str]) -> Mapping[str, str]:
        if (fault := environment_fault(environment)) is not None:
            raise ValueError(fault)
        if twice := [name for name in VARIABLES if name in environment]:
            raise ValueError(f"{twice[0]} is what serving.batching sets; say it there")
        return environment

    @property
    def variables(self) -> dict[str, str]:
        """All variables that the file gives the container of endpoints and batch predictions."""
        return {**self.environment, **(self.batching.variables if self.batching else {})}

    @model_validator(mode="after")
    def _capacity_can_be(self) -> Serving:
        for called, section in (("capacity", self.capacity), ("silo_capacity", self.silo_capacity)):
            _check_capacity(called, section, self.instance_type, self.usd_per_hour)
        return self

    @model_validator(mode="after")
    def _parks_in_a_queue(self) -> Serving:
        if self.park_when_unavailable and self.asynchronous is None:
            raise ValueError(
                "park_when_unavailable is true, and there is no asynchronous endpoint to park "
                "requests at; add asynchronous, or remove park_when_unavailable"
            )
        return self


def _check_capacity(
    called: str,
    section: EndpointCapacity | None,
    instance_type: str,
    usd_per_hour: float,
    *,
    asynchronous: bool = False,
) -> None:
    """Raises ``ValueError`` for a section that an endpoint of this kind cannot have."""
    if section is None:
        return
    fault = section.fault_of(
        instance_type, usd_per_hour, asynchronous=asynchronous, has_gpu=has_gpu(instance_type)
    )
    if fault is not None:
        raise ValueError(f"{called}: {fault}")


class Retraining(Section):
    """The scheduled re-training of tenants without a newer upload."""

    cron: Cron
    timezone: TimeZone = "UTC"
    older_than_days: int | None = Field(
        default=None,
        ge=1,
        le=3650,
        description="a champion made longer ago is challenged; once in each such stretch of time",
    )
    when_made_otherwise: bool = Field(
        default=True,
        description="a champion made by another image or other hyperparameters than the file's is "
        "challenged, once",
    )
    max_at_once: int = Field(
        default=300,
        ge=1,
        le=10_000,
        description="how many are asked for at one time of the schedule",
    )

    @model_validator(mode="after")
    def _has_an_occasion(self) -> Retraining:
        if self.older_than_days is None and not self.when_made_otherwise:
            raise ValueError(
                "nothing would ever be re-trained: give older_than_days, or set "
                "when_made_otherwise: true"
            )
        return self


class SharedModel(Section):
    """One model of all tenants' data, which belongs to none of them and answers for each."""

    cron: Cron = Field(description="when it is made again, if any tenant's data have changed")
    timezone: TimeZone = "UTC"
    fewest_tenants: int = Field(
        default=1, ge=1, description="with data, before the first one is made"
    )


class Moment(Section):
    """How a request names the moment of its prediction, where predictions have one."""

    module: Module = Field(description="a module of the container with resolve and check")
    field: RequestField = Field(
        default="start",
        description="the request's field; a batch puts its own day there, as YYYY-MM-DD",
    )
