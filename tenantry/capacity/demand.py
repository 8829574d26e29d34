"""How many requests an endpoint got in each hour: kept in S3, as CloudWatch forgets.

A day is one Parquet file with a row for each hour, so that pandas and DuckDB read months of it at
once (docs/contracts.md, "Demand").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from tenantry.capacity.parquet_rows import read_rows, write_rows
from tenantry.capacity.scaled_endpoints import ScaledEndpoint
from tenantry.names import s3_keys

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

HOUR: Final = timedelta(hours=1)
_LOOKED_BACK: Final = timedelta(hours=24)
"""How long CloudWatch's local stand-in keeps its minutes."""


@dataclass(frozen=True)
class Hour:
    """An hour's requests that reached the endpoint, and the number that the forecast said would
    not be exceeded; None without a forecast."""

    requests: int
    expected: float | None = None


Demand = Mapping[datetime, Hour]
"""By the hour's beginning, UTC."""


def demand_of(deployment: Deployment, scaled: ScaledEndpoint, now: datetime, days: int) -> Demand:
    """The hours of the last days that are kept."""
    found = dict[datetime, Hour]()
    for ago in range(days, -1, -1):
        found |= _read(deployment, scaled, (now - timedelta(days=ago)).date())
    return found


def keep_demand(
    deployment: Deployment,
    scaled: ScaledEndpoint,
    now: datetime,
    expected: Mapping[datetime, float],
) -> None:
    """Keep the whole hours of the last day that CloudWatch still has and S3 does not.

    Args:
        deployment: where.
        scaled: the endpoint.
        now: with a time zone.
        expected: by the hour's beginning, what the forecast said would not be exceeded.
    """
    this_hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    there = demand_of(deployment, scaled, now, 1)
    counted = _counted(deployment, scaled, this_hour, max(there, default=None))
    new = {
        hour: Hour(requests, expected.get(hour))
        for hour, requests in counted.items()
        if hour not in there
    }
    for day in {hour.date() for hour in new}:
        rows = _read(deployment, scaled, day) | {
            hour: one for hour, one in new.items() if hour.date() == day
        }
        write_day(deployment, scaled, day, rows)


def _counted(
    deployment: Deployment, scaled: ScaledEndpoint, end: datetime, kept: datetime | None
) -> dict[datetime, int]:
    """Requests by hour, from the last hour that is kept, or the first with a request, to the last
    whole one. An hour that CloudWatch has nothing of had none."""
    metric = {
        "Namespace": "AWS/SageMaker",
        "MetricName": "Invocations",
        "Dimensions": scaled.dimensions,
    }
    queries: Any = [{"Id": "m1", "MetricStat": {"Metric": metric, "Period": 3600, "Stat": "Sum"}}]
    (found,) = deployment.cloudwatch.get_metric_data(
        MetricDataQueries=queries, StartTime=end - _LOOKED_BACK, EndTime=end
    )["MetricDataResults"]
    sums = {
        moment.astimezone(UTC): int(value)
        for moment, value in zip(found["Timestamps"], found["Values"], strict=True)
    }
    hour = min(sums, default=end) if kept is None else max(kept + HOUR, end - _LOOKED_BACK)
    counted = dict[datetime, int]()
    while hour < end:
        counted[hour] = sums.get(hour, 0)
        hour += HOUR
    return counted


def _read(deployment: Deployment, scaled: ScaledEndpoint, day: date) -> dict[datetime, Hour]:
    rows = read_rows(deployment, s3_keys.demand_file(scaled.workload, scaled.name, day))
    return {row["hour"]: Hour(row["requests"], row["expected"]) for row in rows or ()}


def write_day(deployment: Deployment, scaled: ScaledEndpoint, day: date, rows: Demand) -> None:
    """Write a day's file."""
    write_rows(
        deployment,
        s3_keys.demand_file(scaled.workload, scaled.name, day),
        {"hour": "hour", "requests": "integer", "expected": "number"},
        [(hour, one.requests, one.expected) for hour, one in sorted(rows.items())],
    )
