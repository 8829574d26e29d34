"""The product's policy under the simulator."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from benchmarks.capacity.simulator import Bounds, Instance, View
from containers.forecast.demand import quantiles
from containers.forecast.models.short_history import SHORT_DAYS
from tenantry.capacity.predictive import HOUR, Forecast, PredictiveFloor
from tenantry.capacity.reactive import TICK, EndpointProfile, Observation, Reactive

LEVELS: Final = (0.1, 0.25, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 0.99)
HOURS_A_DAY: Final = 24


@dataclass
class Ours:
    """The product's policy. It sees the counts of requests a tick late, as metrics with high
    resolution show them, and the instances as they are.

    At the end of each day, the platform's own forecaster learns from the hours so far. From its
    third day on there is a forecast.
    """

    instance: Instance
    bounds: Bounds
    slo: float
    interval: float = TICK
    reactive: Reactive = field(init=False)
    predictive: PredictiveFloor = field(init=False)
    doubts: list[tuple[float, str]] = field(default_factory=list)
    _late_before: int = 0
    _days: int = 0

    def __post_init__(self) -> None:
        endpoint = EndpointProfile(
            slots=self.instance.slots,
            seconds_per_inference=self.instance.seconds_per_inference,
            start_seconds=self.instance.start_seconds,
            slo=self.slo,
            least=self.bounds.least,
            most=self.bounds.most,
        )
        self.reactive = Reactive(endpoint)
        self.predictive = PredictiveFloor(endpoint)

    def decide(self, view: View) -> int:
        """See `Policy`."""
        if len(view.waiting) < 3:
            return view.capacity
        seen = view.now - TICK
        late = view.late(self.slo, -2)
        arrived = view.arrived(seen - TICK, seen)
        observation = Observation(
            now=view.now,
            age=TICK,
            arrived=arrived,
            late=late - self._late_before,
            waiting=view.waiting[-2],
            serving=view.serving[-1],
            starting=tuple(ready - view.now for ready in view.starting),
        )
        self._late_before = late
        self.predictive.note(seen, arrived, observation.late)
        self._forecast(view, seen)
        doubt = self.predictive.trust.doubt
        if doubt is not None and (not self.doubts or self.doubts[-1][1] != doubt):
            self.doubts.append((view.now, doubt))
        return self.reactive.decide(observation, self.predictive.floor(view.now))

    def _forecast(self, view: View, seen: float) -> None:
        days = int(seen / HOUR / HOURS_A_DAY)
        if days == self._days or days >= SHORT_DAYS:
            return
        self._days = days
        hours = np.array(
            [view.arrived(hour * HOUR, (hour + 1) * HOUR) for hour in range(days * HOURS_A_DAY)]
        )
        told = forecast_of(hours / HOUR)
        if told is not None:
            self.predictive.forecast = told


def forecast_of(rates: np.ndarray) -> Forecast | None:
    """The forecast of the seven days after whole days of hourly rates, by the forecast container's
    model of short histories; None where these are too few for it."""
    found = quantiles(rates.tolist(), LEVELS)
    if found is None:
        return None
    return Forecast(LEVELS, {len(rates) + place: values for place, values in enumerate(found)})
