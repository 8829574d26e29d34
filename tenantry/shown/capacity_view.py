"""What people see of an endpoint's capacity: bounds, demand and cost in time, and its changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from tenantry.capacity.ahead import shown as forecast_shown
from tenantry.capacity.registration import Capacity, activities
from tenantry.capacity.scaled_endpoints import ScaledEndpoint
from tenantry.shown.plots import plot_of_capacity
from tenantry.shown.report import Table

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_PERIOD: Final = timedelta(minutes=5)
_DAY: Final = timedelta(hours=24)
_MINUTES: Final = 5  # of a period
_FEWEST: Final = 12  # periods that are drawn
_ACTIVITIES: Final = 10
CHECK: Final = "capacity_is_as_the_yaml_says"
CHECK_DESCRIPTION: Final = (
    "Bounds, timetable, policies and alarms are those of the YAML, or of an operator's override. "
    "What differs is mended, and told here."
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
    held = (
        {}
        if override is None
        else {"override": f"{override.instances} until {override.until:%Y-%m-%d %H:%M} UTC"}
    )
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
    requests = "Invocations" if scaled.kind == "real_time" else "InvocationsProcessed"
    queries: Any = [
        _query("demand", "AWS/SageMaker", requests, dimensions, "Sum"),
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
