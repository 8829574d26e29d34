"""What people see of an endpoint's capacity: bounds, demand and cost in time, and its changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from tenantry.capacity.ahead import shown as forecast_shown
from tenantry.capacity.every_endpoint import OtherEndpoint, OtherEndpoints
from tenantry.capacity.registration import Capacity, Override, activities
from tenantry.capacity.scaled_endpoints import ScaledEndpoint
from tenantry.hosting.endpoints import describe_endpoint
from tenantry.shown.plots import plot_of_capacity
from tenantry.shown.report import Table

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_PERIOD: Final = timedelta(minutes=5)
_DAY: Final = timedelta(hours=24)
_MINUTES: Final = 5  # of a period
_FEWEST: Final = 12  # periods that are drawn
_ACTIVITIES: Final = 10
_MAX_ROWS: Final = 100  # each costs a call, which tells the endpoint's instances
CHECK: Final = "capacity_is_as_the_yaml_says"
CHECK_DESCRIPTION: Final = (
    "Bounds, timetable, policies and alarms are those of the YAML, or of an operator's override. "
    "What differs is mended, and told here. An endpoint that could not be registered is told, too."
)


@dataclass(frozen=True)
class Period:
    """Five minutes: their beginning, the instances in the mean, and the requests."""

    begin: datetime
    instances: float
    requests: float


def capacity_metadata(
    deployment: Deployment, scaled: ScaledEndpoint, capacity: Capacity
) -> dict[str, Any]:
    """For the capacity assets: bounds, instances, demand and cost of the last day as numbers and a
    plot, and the latest scaling activities with their causes."""
    now = datetime.now(UTC)
    day = _of_the_day(deployment, scaled, now)
    demand, instances = [one.requests for one in day], [one.instances for one in day]
    shown = day[min(_first_with_any(day), len(day) - _FEWEST) :]
    title = f"at most {max(one.requests for one in shown) / _MINUTES:g} requests a minute"
    plot = plot_of_capacity(
        [one.begin for one in shown],
        [one.instances for one in shown],
        [one.requests for one in shown],
        title,
    )
    hours = _PERIOD / timedelta(hours=1)
    return {
        **plain_capacity_metadata(scaled, capacity),
        "usd_of_the_day": sum(instances) * hours * scaled.usd_per_hour,
        "requests_of_the_day": int(sum(demand)),
        "capacity and demand": plot,
        **_latest(activities(deployment, scaled, _ACTIVITIES)),
    }


def _first_with_any(day: Sequence[Period]) -> int:
    """The first period with an instance or a request."""
    return next((place for place, one in enumerate(day) if one.instances or one.requests), len(day))


def plain_capacity_metadata(scaled: ScaledEndpoint, capacity: Capacity) -> dict[str, Any]:
    """Bounds, instances, their cost, and an override, as plain values."""
    override = capacity.override
    held = {} if override is None else {"override": _in_words(override)}
    capped = (
        {"maximum_is_capped": f"by the budget; the YAML allows {scaled.section.maximum}"}
        if scaled.most < scaled.section.maximum
        else {}
    )
    return {
        "endpoint": capacity.endpoint.name,
        "minimum": capacity.bounds.minimum,
        "maximum": capacity.bounds.maximum,
        "instances": capacity.endpoint.instances,
        **held,
        **capped,
        **forecast_shown(capacity.ahead),
        "usd_per_hour": capacity.endpoint.instances * scaled.usd_per_hour,
    }


def _in_words(override: Override) -> str:
    return f"{override.instances} until {override.until:%Y-%m-%d %H:%M} UTC"


def others_metadata(deployment: Deployment, others: OtherEndpoints) -> dict[str, Any]:
    """The other endpoints for the capacity assets: a table, those that failed or differed first,
    and the numbers of those that it leaves out."""
    if not others.looked_at:
        return {"other_endpoints_left": others.left} if others.left else {}
    first = sorted(others.looked_at, key=_rank)
    left_out = len(first) - _MAX_ROWS
    return {
        "other endpoints": Table(tuple(_row(deployment, one) for one in first[:_MAX_ROWS])),
        "other_endpoints": len(first) + others.left,
        "other_endpoints_failed": sum(bool(one.failure) for one in first),
        **({"other_endpoints_left_out": left_out} if left_out > 0 else {}),
        **({"other_endpoints_left": others.left} if others.left else {}),
    }


def _rank(one: OtherEndpoint) -> tuple[bool, bool, bool, str]:
    return not one.failure, not one.differed, one.override is None, one.scaled.name


def _row(deployment: Deployment, one: OtherEndpoint) -> dict[str, str | int]:
    mended = one.mended
    described = describe_endpoint(deployment, one.scaled.name)
    variants = described.get("ProductionVariants") if described is not None else None
    return {
        "endpoint": one.scaled.name,
        "tenant or tier": one.scaled.whose,
        "minimum": "" if mended is None else mended.bounds.minimum,
        "maximum": "" if mended is None else mended.bounds.maximum,
        "instances": variants[0].get("CurrentInstanceCount", 0) if variants else "",
        "override": "" if one.override is None else _in_words(one.override),
        "differed": one.differed,
    }


def others_that_differed(others: OtherEndpoints) -> list[str]:
    """What the other endpoints differed in, or why they could not be registered: a line for each
    such endpoint, as many as the table has rows."""
    lines = [
        f"{one.scaled.name} ({one.scaled.whose}): {one.differed}"
        for one in sorted(others.looked_at, key=_rank)
        if one.differed
    ]
    said = lines[:_MAX_ROWS]
    if len(lines) > _MAX_ROWS:
        said.append(f"and {len(lines) - _MAX_ROWS} more endpoints")
    if others.left:
        said.append(f"{others.left} endpoints were left for the next run")
    return said


def others_in_words(others: OtherEndpoints) -> Iterator[str]:
    """The other endpoints as lines for a terminal: how many, which differed, and operators'
    numbers that hold."""
    yield f"{len(others.looked_at)} endpoints of silo tenants and of another tier"
    for words in others_that_differed(others):
        yield f"  {words}"
    held = [one for one in others.looked_at if one.override is not None]
    for one in held[:_MAX_ROWS]:
        if one.override is not None:
            yield (
                f"  {one.scaled.name} ({one.scaled.whose}): an operator's number, "
                f"{_in_words(one.override)}"
            )


def capacity_in_words(
    deployment: Deployment, scaled: ScaledEndpoint, capacity: Capacity
) -> Iterator[str]:
    """The same as lines for a terminal: what holds, what was mended, and the latest activities."""
    bounds, endpoint = capacity.bounds, capacity.endpoint
    yield (
        f"{endpoint.name}: {endpoint.instances} instances now, {bounds.minimum} to "
        f"{bounds.maximum} allowed, {endpoint.instances * scaled.usd_per_hour:g} USD an hour"
    )
    if capacity.override is not None:
        yield f"  an operator's number, until {capacity.override.until:%Y-%m-%d %H:%M} UTC"
    for words in forecast_shown(capacity.ahead).values():
        yield f"  forecast {words}"
    for words in capacity.differed:
        yield f"  mended: {words}"
    for one in activities(deployment, scaled, _ACTIVITIES):
        yield f"  {one['StartTime'].astimezone(UTC):%Y-%m-%d %H:%M} {one['Description']}"
        yield f"    {one['StatusCode']}: {one['Cause']}"


def _latest(found: Sequence[Mapping[str, Any]]) -> dict[str, Table]:
    rows = tuple(
        {
            "when": f"{one['StartTime'].astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            "what": str(one["Description"]),
            "why": str(one["Cause"]),
            "status": str(one["StatusCode"]),
        }
        for one in found
    )
    return {"scaling activities": Table(rows)} if rows else {}


def _of_the_day(deployment: Deployment, scaled: ScaledEndpoint, now: datetime) -> list[Period]:
    """The periods of the last day, the present one last.

    An instance has a sample of CPUUtilization a minute, so their number is that of instances.
    """
    dimensions = scaled.dimensions
    queries: Any = [
        _query("demand", "AWS/SageMaker", scaled.requests_metric, dimensions, "Sum"),
        _query("samples", "/aws/sagemaker/Endpoints", "CPUUtilization", dimensions, "SampleCount"),
    ]
    seconds = _PERIOD.total_seconds()
    present = datetime.fromtimestamp(now.timestamp() // seconds * seconds, UTC)
    places = int(_DAY / _PERIOD)
    begins = [present - number * _PERIOD for number in range(places - 1, -1, -1)]
    found = deployment.cloudwatch.get_metric_data(
        MetricDataQueries=queries,
        StartTime=begins[0],
        EndTime=present + _PERIOD,
        ScanBy="TimestampAscending",
    )["MetricDataResults"]
    series: dict[str, dict[datetime, float]] = {
        one["Id"]: {
            moment.astimezone(UTC): value
            for moment, value in zip(one["Timestamps"], one["Values"], strict=True)
        }
        for one in found
    }
    so_far = max(1, math.ceil((now - present) / timedelta(minutes=1)))
    return [
        Period(
            begin,
            series["samples"].get(begin, 0.0) / (so_far if begin == present else _MINUTES),
            series["demand"].get(begin, 0.0),
        )
        for begin in begins
    ]


def _query(
    called: str, namespace: str, name: str, dimensions: list[dict[str, str]], statistic: str
) -> dict[str, Any]:
    metric = {"Namespace": namespace, "MetricName": name, "Dimensions": dimensions}
    period = int(_PERIOD.total_seconds())
    return {
        "Id": called,
        "MetricStat": {"Metric": metric, "Period": period, "Stat": statistic},
        "ReturnData": True,
    }
