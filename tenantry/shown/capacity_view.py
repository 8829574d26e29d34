"""What people see of an endpoint's capacity: bounds, demand and cost in time, and its changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from tenantry.capacity.ahead import shown as forecast_shown
from tenantry.capacity.registration import Capacity, activities
from tenantry.capacity.scaled_endpoints import ScaledEndpoint
from tenantry.hosting.shapes.shape import VARIANT
from tenantry.shown.plots import plot_of_capacity
from tenantry.shown.report import Table

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_PERIOD: Final = timedelta(minutes=5)
_DAY: Final = timedelta(hours=24)
_ACTIVITIES: Final = 10
CHECK: Final = "capacity_is_as_the_yaml_says"
CHECK_DESCRIPTION: Final = (
    "Bounds, timetable, policies and alarms are those of the YAML, or of an operator's override. "
    "What differs is mended, and told here."
)


def capacity_metadata(
    deployment: Deployment, scaled: ScaledEndpoint, capacity: Capacity
) -> dict[str, Any]:
    """For the capacity assets: bounds, instances, demand and cost of the last day as numbers and a
    plot, and the latest scaling activities with their causes."""
    end = datetime.now(UTC)
    demand, instances = _of_the_day(deployment, scaled, end)
    times = [end - _DAY + number * _PERIOD for number in range(len(demand))]
    title = f"the last 24 hours; at most {max(demand) / 5:g} requests a minute"
    hours = _PERIOD / timedelta(hours=1)
    return {
        **plain_capacity_metadata(scaled, capacity),
        "usd_of_the_day": sum(instances) * hours * scaled.usd_per_hour,
        "requests_of_the_day": int(sum(demand)),
        "capacity and demand": plot_of_capacity(times, instances, demand, title),
        **_latest(activities(deployment, scaled, _ACTIVITIES)),
    }


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


def _of_the_day(
    deployment: Deployment, scaled: ScaledEndpoint, end: datetime
) -> tuple[list[float], list[float]]:
    """Requests and instances of each five minutes of the last day.

    An instance has a sample of CPUUtilization a minute, so their number is that of instances.
    """
    dimensions = [
        {"Name": "EndpointName", "Value": scaled.name},
        {"Name": "VariantName", "Value": VARIANT},
    ]
    requests = "Invocations" if scaled.kind == "real_time" else "InvocationsProcessed"
    queries: Any = [
        _query("demand", "AWS/SageMaker", requests, dimensions, "Sum"),
        _query("samples", "/aws/sagemaker/Endpoints", "CPUUtilization", dimensions, "SampleCount"),
    ]
    found = deployment.cloudwatch.get_metric_data(
        MetricDataQueries=queries, StartTime=end - _DAY, EndTime=end, ScanBy="TimestampAscending"
    )["MetricDataResults"]
    places = int(_DAY / _PERIOD)
    series = {one: [0.0] * places for one in ("demand", "samples")}
    for result in found:
        for moment, value in zip(result["Timestamps"], result["Values"], strict=True):
            place = int((moment - (end - _DAY)) / _PERIOD)
            if 0 <= place < places:
                series[result["Id"]][place] += value
    minutes = _PERIOD / timedelta(minutes=1)
    return series["demand"], [samples / minutes for samples in series["samples"]]


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
