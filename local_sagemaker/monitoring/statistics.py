"""Statistics of metrics by the minute, as CloudWatch keeps them: by namespace, name and dimensions.

Source: docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_concepts.html.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from local_sagemaker.clock import Clock

MINUTE: Final = 60
KEPT_SECONDS: Final = 24 * 3600
"""What is older is forgotten; CloudWatch keeps minutes for 15 days."""
_SIMPLE: Final = ("SampleCount", "Sum", "Average", "Minimum", "Maximum")


@dataclass(frozen=True)
class Metric:
    """What a series is of. Every set of dimensions is a series of its own."""

    namespace: str
    name: str
    dimensions: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, namespace: str, name: str, dimensions: Mapping[str, str]) -> "Metric":
        """The metric with these dimensions."""
        return cls(namespace, name, frozenset(dimensions.items()))

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "Metric":
        """From the members Namespace, MetricName and Dimensions."""
        dimensions = {one["Name"]: one["Value"] for one in document.get("Dimensions", [])}
        return cls.of(document["Namespace"], document["MetricName"], dimensions)

    @property
    def document(self) -> dict[str, Any]:
        """As the members Namespace, MetricName and Dimensions."""
        dimensions = [{"Name": name, "Value": value} for name, value in sorted(self.dimensions)]
        return {"Namespace": self.namespace, "MetricName": self.name, "Dimensions": dimensions}


@dataclass(frozen=True)
class StatisticSet:
    """Values that were summed up before they came."""

    count: float
    total: float
    least: float
    most: float


@dataclass
class Values:
    """The values of a time: each with how often it came, and sets that came summed up."""

    single: dict[float, float] = field(default_factory=dict)
    sets: list[StatisticSet] = field(default_factory=list)

    def add(self, value: float, count: float) -> None:
        """A value that came so often."""
        self.single[value] = self.single.get(value, 0.0) + count

    def include(self, other: "Values") -> None:
        """Add those of another time."""
        for value, count in other.single.items():
            self.add(value, count)
        self.sets += other.sets

    def statistic(self, statistic: str) -> float | None:
        """A statistic of CloudWatch; None of no values, and for a percentile where a set hides the
        values. Raises ValueError for a statistic that CloudWatch does not have."""
        share = None if statistic in _SIMPLE else _percentile(statistic)
        if not self.single and not self.sets:
            return None
        if share is not None:
            return None if self.sets else _at_share(self.single, share)
        count = sum(self.single.values()) + sum(one.count for one in self.sets)
        if count == 0:
            return None
        total = math.fsum(
            [
                *(value * times for value, times in self.single.items()),
                *(one.total for one in self.sets),
            ]
        )
        return {
            "SampleCount": count,
            "Sum": total,
            "Average": total / count,
            "Minimum": min([*self.single, *(one.least for one in self.sets)]),
            "Maximum": max([*self.single, *(one.most for one in self.sets)]),
        }[statistic]


class Statistics:
    """The values of all metrics of the last day, by the minute.

    Times are AWS's seconds since 1970 by `clock` (`Clock.aws_time`).
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._minutes: dict[int, dict[Metric, Values]] = {}
        self._changed: set[int] = set()

    def now(self) -> float:
        """The time."""
        return self._clock.aws_time(self._clock.now())

    def record(
        self, metric: Metric, value: float, at: float | None = None, count: float = 1.0
    ) -> None:
        """A value that came so often, by default now."""
        self._values_at(metric, at).add(value, count)

    def record_set(self, metric: Metric, values: StatisticSet, at: float | None = None) -> None:
        """Values that were summed up."""
        self._values_at(metric, at).sets.append(values)

    def _values_at(self, metric: Metric, at: float | None) -> Values:
        minute = int((self.now() if at is None else at) // MINUTE)
        self._changed.add(minute)
        return self._minutes.setdefault(minute, {}).setdefault(metric, Values())

    def metrics(self) -> Iterable[Metric]:
        """Everything that has a value."""
        return list(dict.fromkeys(metric for series in self._minutes.values() for metric in series))

    def values(
        self, metric: Metric, statistic: str, start: float, end: float, period: int = MINUTE
    ) -> list[float | None]:
        """A value a period from `start` to before `end`, all three multiples of a minute; None for
        a period without data.

        Raises ValueError for a statistic that CloudWatch does not have.
        """
        found: list[float | None] = []
        for begin in range(int(start), int(end), period):
            together = Values()
            for minute in range(begin // MINUTE, (begin + period) // MINUTE):
                if values := self._minutes.get(minute, {}).get(metric):
                    together.include(values)
            found.append(together.statistic(statistic))
        return found

    # ---- across restarts -------------------------------------------------------------------------

    def changed(self) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """Each minute that changed since the last call, as JSON; None for one that is forgotten."""
        oldest = (self.now() - KEPT_SECONDS) // MINUTE
        for minute in [one for one in self._minutes if one < oldest]:
            del self._minutes[minute]
            self._changed.discard(minute)
            yield minute, None
        changed, self._changed = self._changed, set()
        for minute in changed:
            series = [
                [
                    json.dumps(metric.document),
                    list(values.single.items()),
                    [[one.count, one.total, one.least, one.most] for one in values.sets],
                ]
                for metric, values in self._minutes[minute].items()
            ]
            yield minute, {"Series": series}

    def restore(self, minute: int, document: Mapping[str, Any]) -> None:
        """A minute of an earlier process."""
        self._minutes[minute] = {
            Metric.parse(json.loads(metric)): Values(
                dict(single), [StatisticSet(*one) for one in sets]
            )
            for metric, single, sets in document["Series"]
        }

    def clear(self) -> None:
        """Forget everything."""
        self._minutes.clear()
        self._changed.clear()


def _percentile(statistic: str) -> float:
    """The share of `p95` and the like. Raises ValueError."""
    try:
        percent = float(statistic[1:]) if statistic.startswith("p") else math.nan
    except ValueError:
        percent = math.nan
    if not 0 <= percent <= 100:
        raise ValueError(f"{statistic!r} is no statistic that local_sagemaker has")
    return percent / 100


def _at_share(values: Mapping[float, float], share: float) -> float:
    ordered = sorted(values)
    passed, so_far = [], 0.0
    for value in ordered:
        so_far += values[value]
        passed.append(so_far)
    return ordered[min(bisect_left(passed, share * so_far), len(ordered) - 1)]
