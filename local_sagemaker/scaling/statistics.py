"""Statistics of metrics by the minute, as CloudWatch keeps them: by namespace, name and dimensions.

Source: docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_concepts.html.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

MINUTE: Final = 60
_KEPT_SECONDS: Final = 24 * 3600


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


@dataclass
class _Minute:
    """The values of a minute, each with how often it came."""

    values: dict[float, float] = field(default_factory=dict)

    def add(self, value: float, count: float) -> None:
        self.values[value] = self.values.get(value, 0.0) + count


class Statistics:
    """The values of all metrics of the last day."""

    def __init__(self) -> None:
        self._series: dict[Metric, dict[int, _Minute]] = {}

    def record(self, metric: Metric, value: float, at: float, count: float = 1.0) -> None:
        """A value that came so often at a moment, in seconds since 1970."""
        minute = int(at // MINUTE)
        series = self._series.setdefault(metric, {})
        if minute not in series:
            for old in [one for one in series if one < minute - _KEPT_SECONDS // MINUTE]:
                del series[old]
            series[minute] = _Minute()
        series[minute].add(value, count)

    def metrics(self) -> Iterable[Metric]:
        """Everything that has a value."""
        return list(self._series)

    def values(
        self, metric: Metric, statistic: str, start: float, end: float, period: int = MINUTE
    ) -> list[float | None]:
        """A value a period from `start` to before `end`, both multiples of the period; None for a
        period without data.

        Raises ValueError for a statistic that CloudWatch does not have.
        """
        series = self._series.get(metric, {})
        found: list[float | None] = []
        for begin in range(int(start), int(end), period):
            together: dict[float, float] = {}
            for minute in range(begin // MINUTE, (begin + period) // MINUTE):
                if minute in series:
                    for value, count in series[minute].values.items():
                        together[value] = together.get(value, 0.0) + count
            found.append(statistic_of(statistic, together))
        return found


def statistic_of(statistic: str, values: Mapping[float, float]) -> float | None:
    """A statistic of values with their counts; None of no values. Raises ValueError."""
    if statistic not in ("SampleCount", "Sum", "Average", "Minimum", "Maximum"):
        share = _percentile(statistic)
        return _at_share(values, share) if values else None
    if not values:
        return None
    count = sum(values.values())
    total = math.fsum(value * times for value, times in values.items())
    return {
        "SampleCount": count,
        "Sum": total,
        "Average": total / count,
        "Minimum": min(values),
        "Maximum": max(values),
    }[statistic]


def _percentile(statistic: str) -> float:
    """The share of `p95` and the like. Raises ValueError."""
    if not statistic.startswith("p") or not 0 <= float(statistic[1:]) <= 100:
        raise ValueError(f"{statistic!r} is no statistic of CloudWatch")
    return float(statistic[1:]) / 100


def _at_share(values: Mapping[float, float], share: float) -> float:
    ordered = sorted(values)
    passed, so_far = [], 0.0
    for value in ordered:
        so_far += values[value]
        passed.append(so_far)
    return ordered[min(bisect_left(passed, share * so_far), len(ordered) - 1)]
