"""The section ``capacity`` of an endpoint in a workload's file: bounds, timetable, policies."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from tenantry.workloads.cron import on_aws_fault
from tenantry.workloads.fields import ChangeName, Cron, Module, TimeZone, without_fault
from tenantry.workloads.holidays import country_fault
from tenantry.workloads.section import Section

HOURS_IN_A_MONTH: Final = 730
"""As AWS's price lists count them."""
_MOST: Final = 1000


def _timetable_cron_fault(expression: str) -> str | None:
    fault = on_aws_fault(expression)
    return None if fault is None else f"the cron expression {expression!r} {fault}"


class Change(Section):
    """Other bounds from a time on, until the next change."""

    name: ChangeName = Field(description="its scheduled action is named after it")
    cron: Annotated[Cron, without_fault(_timetable_cron_fault)]
    timezone: TimeZone = "UTC"
    minimum: int = Field(ge=0, le=_MOST, description="instances, at least")
    maximum: int | None = Field(
        default=None, ge=0, le=_MOST, description="instances, at most; the section's if none"
    )


class Holidays(Section):
    """Public holidays, on which one change takes the place of the day's others."""

    country: Annotated[str, without_fault(country_fault)] = Field(
        description="ISO country code, with a subdivision after a hyphen where it matters: GB, "
        "US, DE-BY"
    )
    change: ChangeName = Field(description="the change that holds all day")


class _Cooled(Section):
    out_cooldown_seconds: int = Field(default=300, ge=0, le=86_400)
    in_cooldown_seconds: int = Field(default=300, ge=0, le=86_400)
    scale_in: bool = Field(default=True, description="false only ever adds instances")


class TargetTracking(_Cooled):
    """Keeps a metric of the instances at a target."""

    kind: Literal["target_tracking"]
    metric: Literal["invocations_per_instance", "cpu", "gpu"] = Field(
        description="requests a minute and instance, or percent of all cores, or of all GPUs"
    )
    target: float = Field(gt=0, le=1_000_000)


class UsageRate(_Cooled):
    """Keeps the answers that are asked of an endpoint at a share of those that it can give.

    Article 002's formula, in the meaning that docs/differences-from-the-articles.md states.
    """

    kind: Literal["usage_rate"]
    seconds_per_answer: float = Field(gt=0, le=3600, description="of one answer, on one unit")
    units_per_instance: int = Field(
        default=1, ge=1, le=1000, description="answers at once: accelerators, or places in a batch"
    )
    target: float = Field(default=0.75, gt=0, le=1)
    out_cooldown_seconds: int = Field(default=60, ge=0, le=86_400)
    in_cooldown_seconds: int = Field(default=120, ge=0, le=86_400)


class Backlog(_Cooled):
    """Keeps the requests in an asynchronous queue at so many for each instance."""

    kind: Literal["backlog"]
    target: float = Field(gt=0, le=1_000_000, description="requests an instance")


class ScaleFromZero(Section):
    """Starts the first instance as soon as a request waits without one."""

    kind: Literal["scale_from_zero"]


class Predictive(Section):
    """Raises the minimum ahead of the demand that is forecast for the hour."""

    kind: Literal["predictive"]
    module: Module = Field(
        default="containers.forecast.demand",
        description="a module of a container with quantiles(rates, levels)",
    )
    service_level: float = Field(
        default=0.95, ge=0.5, le=0.999, description="share of requests that wait no longer than:"
    )
    wait_seconds: float = Field(default=2.0, gt=0, le=3600)
    start_seconds: float = Field(
        default=240.0, gt=0, le=3600, description="from asking for an instance to its first answer"
    )
    seconds_per_answer: float = Field(gt=0, le=3600, description="of one answer, on one unit")
    units_per_instance: int = Field(default=1, ge=1, le=1000, description="answers at once")


class Prewarming(Section):
    """Loads the models that will be asked in the hours after a time, before they are asked."""

    cron: Cron = Field(description="some minutes before the first requests of the day")
    timezone: TimeZone = "UTC"
    hours: int = Field(
        default=3, ge=1, le=12, description="models that were asked so many hours from that time on"
    )
    days: int = Field(default=14, ge=1, le=28, description="how many days are looked back")
    most: int = Field(
        default=200, ge=1, le=10_000, description="models, at most: what the instances can hold"
    )


Policy = Annotated[
    TargetTracking | UsageRate | Backlog | ScaleFromZero | Predictive, Field(discriminator="kind")
]


class EndpointCapacity(Section):
    """How many instances an endpoint has, by the clock, the load and the backlog."""

    minimum: int = Field(ge=0, le=_MOST, description="instances, at least; 0 if asynchronous")
    maximum: int = Field(ge=1, le=_MOST, description="instances, at most")
    timetable: tuple[Change, ...] = Field(default=(), max_length=40)
    holidays: Holidays | None = None
    policies: tuple[Policy, ...] = Field(default=(), max_length=10)
    monthly_budget_usd: float | None = Field(
        default=None, gt=0, description="caps the maximum at what it pays for, all month long"
    )

    @model_validator(mode="before")
    @classmethod
    def _is_no_list(cls, given: Any) -> Any:
        if isinstance(given, list):
            raise ValueError(  # noqa: TRY004 - pydantic reports ValueError alone
                "it is a section now: move the list to capacity.timetable, call instances minimum, "
                "and give capacity.minimum and capacity.maximum"
            )
        return given

    @field_validator("timetable")
    @classmethod
    def _names_differ(cls, timetable: tuple[Change, ...]) -> tuple[Change, ...]:
        if len({change.name for change in timetable}) != len(timetable):
            raise ValueError("two changes have one name; a schedule is named after each")
        return timetable

    @model_validator(mode="after")
    def _bounds_can_be(self) -> EndpointCapacity:
        whole = [("", self.minimum, self.maximum)]
        changes = [
            (f"timetable's {one.name}: ", one.minimum, one.maximum or self.maximum)
            for one in self.timetable
        ]
        for where, least, most in [*whole, *changes]:
            if least > most:
                raise ValueError(
                    f"{where}minimum is {least}, above the maximum of {most}; change one of the two"
                )
        if self.holidays is not None and self.holidays.change not in {
            change.name for change in self.timetable
        }:
            raise ValueError(
                f"holidays.change is {self.holidays.change}; it must name a change of the timetable"
            )
        kinds = [
            (policy.kind, policy.metric if isinstance(policy, TargetTracking) else "")
            for policy in self.policies
        ]
        if len(set(kinds)) < len(kinds):
            raise ValueError("two policies are of one kind and metric; keep one of them")
        return self

    @property
    def predictive(self) -> Predictive | None:
        """The policy that follows a forecast, if there is one."""
        return next((one for one in self.policies if isinstance(one, Predictive)), None)

    @property
    def can_be_zero(self) -> bool:
        """Whether there are times without an instance."""
        return 0 in (self.minimum, *(change.minimum for change in self.timetable))

    def fault_of(
        self, instance_type: str, usd_per_hour: float, *, asynchronous: bool, has_gpu: bool
    ) -> str | None:
        """What cannot be on an endpoint of a kind and a type of machine, and the cure, as a
        sentence; None where everything can."""
        kinds = {policy.kind for policy in self.policies}
        if not asynchronous and self.can_be_zero:
            return (
                "minimum is 0, and an endpoint that answers in real time needs an instance; make "
                "it 1, or serve from serving.asynchronous"
            )
        if not asynchronous and kinds & {"backlog", "scale_from_zero"}:
            return (
                "backlog and scale_from_zero are for serving.asynchronous, which has a queue; use "
                "target_tracking or usage_rate"
            )
        if asynchronous and "predictive" in kinds:
            return (
                "predictive is for requests that cannot wait; a queue's instances follow its "
                "backlog: use backlog and scale_from_zero"
            )
        if self.can_be_zero and "scale_from_zero" not in kinds:
            return (
                "minimum is 0, and without a policy scale_from_zero no request would ever start an "
                "instance; add {kind: scale_from_zero}"
            )
        if not has_gpu and any(
            isinstance(one, TargetTracking) and one.metric == "gpu" for one in self.policies
        ):
            return f"{instance_type} has no GPU, so nothing reports its use; track cpu instead"
        if self.affordable(usd_per_hour) < max(self.minimum, 1):
            return (
                f"monthly_budget_usd is {self.monthly_budget_usd:g}, and {max(self.minimum, 1)} "
                f"instances cost {max(self.minimum, 1) * usd_per_hour * HOURS_IN_A_MONTH:.0f} USD "
                f"a month; raise the budget, or lower the minimum"
            )
        return None

    def affordable(self, usd_per_hour: float) -> int:
        """The maximum, or the instances that the budget pays for all month, if these are fewer."""
        if self.monthly_budget_usd is None or usd_per_hour == 0:
            return self.maximum
        return min(self.maximum, int(self.monthly_budget_usd / (usd_per_hour * HOURS_IN_A_MONTH)))


def fixed(instances: int) -> EndpointCapacity:
    """The capacity of an endpoint whose file says nothing about it."""
    return EndpointCapacity(minimum=instances, maximum=instances)
