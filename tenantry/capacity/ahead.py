"""Capacity ahead of the demand that is forecast: once an hour, the minimum of each of the next 24
hours becomes a scheduled action, so that it holds with Dagster down."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from tenantry.aws import objects
from tenantry.capacity.demand import HOUR, Demand, demand_of, keep_demand
from tenantry.capacity.predictive import Forecast, Trust, instances_for, quantile
from tenantry.capacity.reactive import EndpointProfile
from tenantry.capacity.scaled_endpoints import ScaledEndpoint
from tenantry.capacity.timetable import Bounds, ScheduledAction, bounds_at
from tenantry.names import s3_keys
from tenantry.workloads.capacity import Predictive

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

PREFIX: Final = "tenantry-forecast-"
"""The beginning of the scheduled actions' names."""
_LEVELS: Final = (0.1, 0.25, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 0.99)
_DAYS: Final = 28
_AHEAD: Final = 24
_SECONDS: Final = HOUR.total_seconds()
_MOST_BYTES: Final = 1024 * 1024
_MINUTE: Final = timedelta(minutes=1)


class DemandModule(Protocol):
    """A module that a policy names."""

    def quantiles(
        self, rates: Sequence[float], levels: Sequence[float]
    ) -> list[list[float]] | None:
        """See ``containers.forecast.demand``."""
        ...


@dataclass(frozen=True)
class Ahead:
    """The fewest instances of each coming hour, by its beginning (UTC); ``doubt`` says why there
    are none."""

    floors: Mapping[datetime, int]
    doubt: str | None = None

    def floor_at(self, moment: datetime) -> int:
        """The fewest instances at a moment; 0 without a forecast."""
        return self.floors.get(_hour_of(moment), 0)


def look_ahead(deployment: Deployment, scaled: ScaledEndpoint, now: datetime) -> Ahead:
    """Keep the demand of the hours that have passed, and forecast the coming ones.

    Args:
        deployment: where.
        scaled: an endpoint whose section may have the policy.
        now: with a time zone.
    """
    policy = scaled.section.predictive
    if policy is None:
        return Ahead({})
    profile = _profile(policy, scaled)
    level = quantile(profile)
    key = s3_keys.demand_forecast(scaled.workload, scaled.name)
    keep_demand(deployment, scaled, now, _expected_before(deployment, key))
    demand = demand_of(deployment, scaled, now, _DAYS)
    forecast = _forecast(policy, demand, now)
    if forecast is None:
        return Ahead({}, "too few whole days of requests to forecast from; three are needed")
    coming = [_hour_of(now) + number * HOUR for number in range(_AHEAD + 1)]
    found = {hour: forecast.at(_number(hour), level) for hour in coming}
    rates = {hour: rate for hour, rate in found.items() if rate is not None}
    document = {hour.isoformat(): rate * _SECONDS for hour, rate in rates.items()}
    objects.write_bytes(
        deployment.s3, deployment.data_bucket, key, json.dumps({"expected": document}).encode()
    )
    doubt = _doubt(demand, now, level)
    if doubt is not None:
        return Ahead({}, doubt)
    return Ahead({hour: instances_for(profile, rate) for hour, rate in rates.items()})


def raised(bounds: Bounds, floor: int) -> Bounds:
    """Bounds whose minimum is at least a floor, and never above their maximum."""
    return Bounds(max(bounds.minimum, min(floor, bounds.maximum)), bounds.maximum)


def forecast_actions(scaled: ScaledEndpoint, ahead: Ahead, now: datetime) -> list[ScheduledAction]:
    """The floors as scheduled actions.

    Each hour's begins a start time before the hour, where it is the larger of both hours'. A minute
    into the hour the hour's own holds, also where the timetable has just changed the bounds.
    """
    policy = scaled.section.predictive
    if policy is None or not ahead.floors:
        return []
    early = timedelta(seconds=policy.start_seconds)
    moments = dict[datetime, int]()
    for hour, floor in sorted(ahead.floors.items()):
        before = ahead.floors.get(hour - HOUR, 0)
        moments[hour - early] = max(floor, before)
        moments[hour + _MINUTE] = floor
    return [
        ScheduledAction(
            f"{PREFIX}{moment:%Y%m%dT%H%M}",
            f"at({moment:%Y-%m-%dT%H:%M:%S})",
            "UTC",
            raised(bounds_at(scaled.section, moment, scaled.most), floor),
        )
        for moment, floor in moments.items()
        if moment > now
    ]


def _profile(policy: Predictive, scaled: ScaledEndpoint) -> EndpointProfile:
    return EndpointProfile(
        slots=policy.units_per_instance,
        seconds_per_inference=policy.seconds_per_answer,
        start_seconds=policy.start_seconds,
        slo=policy.wait_seconds,
        least=scaled.section.minimum,
        most=scaled.most,
        level=policy.service_level,
    )


def _expected_before(deployment: Deployment, key: str) -> dict[datetime, float]:
    """What the latest forecast said would not be exceeded, by hour."""
    try:
        content = objects.read_bytes(
            deployment.s3, deployment.data_bucket, key, max_bytes=_MOST_BYTES
        )
    except objects.ObjectMissingError:
        return {}
    found: dict[str, float] = json.loads(content)["expected"]
    return {datetime.fromisoformat(hour): value for hour, value in found.items()}


def _forecast(policy: Predictive, demand: Demand, now: datetime) -> Forecast | None:
    """The forecast of the hours from now on; None where the history is too short."""
    end = _hour_of(now)
    if not demand or max(demand) < end - HOUR:
        return None
    count = int((end - min(demand)) / HOUR)
    hours = [end - (count - number) * HOUR for number in range(count)]
    rates = [demand[hour].requests / _SECONDS if hour in demand else float("nan") for hour in hours]
    module = cast("DemandModule", importlib.import_module(policy.module))
    found = module.quantiles(rates, _LEVELS)
    if found is None:
        return None
    return Forecast(_LEVELS, {_number(end) + place: values for place, values in enumerate(found)})


def _doubt(demand: Demand, now: datetime, level: float) -> str | None:
    """Why the forecast is not followed: its intervals missed too often in the last day."""
    trust, end = Trust(), _hour_of(now)
    for ago in range(_AHEAD, 0, -1):
        hour = demand.get(end - ago * HOUR)
        if hour is not None and hour.expected is not None:
            trust.note(hour.requests > hour.expected, level)
    return trust.doubt


def _hour_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _number(hour: datetime) -> int:
    return int(hour.timestamp() // _SECONDS)


def shown(ahead: Ahead) -> dict[str, Any]:
    """What people see of it."""
    if ahead.doubt is not None:
        return {"forecast": f"not followed: {ahead.doubt}"}
    if not ahead.floors:
        return {}
    return {
        "forecast": f"followed: {min(ahead.floors.values())} to {max(ahead.floors.values())} "
        "instances at least in the next 24 hours"
    }
