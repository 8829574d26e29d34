"""CloudWatch's operations on metrics: PutMetricData, GetMetricData, GetMetricStatistics,
ListMetrics.

Source: docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/ (the operations of the same
names).
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from local_sagemaker.account.cloud import Operation
from local_sagemaker.clock import Clock
from local_sagemaker.errors import ServiceError
from local_sagemaker.monitoring.queries import InvalidQueryError, MetricStatistic, Queries
from local_sagemaker.monitoring.statistics import (
    KEPT_SECONDS,
    MINUTE,
    Metric,
    Statistics,
    StatisticSet,
)

_MOST_VALUES: Final = 150
_MOST_DATA: Final = 1000
_MOST_POINTS: Final = 100_800
_MOST_STATISTICS: Final = 1440
_METRICS_PER_PAGE: Final = 500
_AHEAD_SECONDS: Final = 2 * 3600
"""How far in the future a datum may be, by PutMetricData's page."""
_LARGEST: Final = 2.0**360
"""The largest value of a datum, by PutMetricData's page."""


class MetricOperations:
    """The operations, on the statistics of one account."""

    def __init__(self, statistics: Statistics, clock: Clock) -> None:
        self._statistics = statistics
        self._clock = clock
        self.operations: dict[str, Operation] = {
            "PutMetricData": self.put,
            "GetMetricData": self.get,
            "GetMetricStatistics": self.get_statistics,
            "ListMetrics": self.list,
        }

    async def put(self, params: dict[str, Any]) -> dict[str, Any]:
        """PutMetricData: all of the data, or none."""
        namespace, data = params["Namespace"], params.get("MetricData", [])
        if len(data) > _MOST_DATA:
            raise invalid(f"MetricData has {len(data)} members; {_MOST_DATA} are allowed.")
        parsed = [_datum(namespace, number, datum) for number, datum in enumerate(data, 1)]
        now = self._statistics.now()
        for metric, moment, values in parsed:
            at = None if moment is None else self._clock.aws_time(moment)
            if at is not None and not now - KEPT_SECONDS < at < now + _AHEAD_SECONDS:
                continue  # which is older than what is kept
            for value in values:
                if isinstance(value, StatisticSet):
                    self._statistics.record_set(metric, value, at)
                else:
                    self._statistics.record(metric, value[0], at, value[1])
        return {}

    async def get(self, params: dict[str, Any]) -> dict[str, Any]:
        """GetMetricData: one page, with all points of the day that is kept."""
        try:
            queries = Queries.parse(params["MetricDataQueries"])
        except InvalidQueryError as error:
            raise ServiceError("ValidationError", f"{error}.") from error
        start, end, period = self._window(params, queries.period)
        found = queries.values(self._statistics, start, end, period)
        newest_first = params.get("ScanBy", "TimestampDescending") == "TimestampDescending"
        results = []
        for query in queries.queries:
            if not query.returned:
                continue
            points = [
                (start + place * period, value)
                for place, value in enumerate(found[query.id])
                if value is not None
            ]
            if newest_first:
                points.reverse()
            results.append(
                {
                    "Id": query.id,
                    "Label": query.label,
                    "Timestamps": [self._clock.moment(at) for at, _ in points],
                    "Values": [value for _, value in points],
                    "StatusCode": "Complete",
                }
            )
        order = [query["Id"] for query in params["MetricDataQueries"]]
        results.sort(key=lambda result: order.index(str(result["Id"])))
        return {"MetricDataResults": results, "Messages": []}

    async def get_statistics(self, params: dict[str, Any]) -> dict[str, Any]:
        """GetMetricStatistics."""
        wanted = [*params.get("Statistics", []), *params.get("ExtendedStatistics", [])]
        if not wanted:
            raise ServiceError(
                "MissingParameter",
                "At least one of the parameters Statistics and ExtendedStatistics must be "
                "specified.",
            )
        metric = Metric.parse(params)
        start, end, period = self._window(params, params["Period"])
        if (end - start) / period > _MOST_STATISTICS:
            raise ServiceError(
                "InvalidParameterCombination",
                f"You have requested up to {(end - start) / period:.0f} datapoints, which exceeds "
                f"the limit of {_MOST_STATISTICS}.",
            )
        points: dict[float, dict[str, Any]] = {}
        for statistic in wanted:
            try:
                MetricStatistic(metric, statistic)
            except InvalidQueryError as error:
                raise invalid(f"{error}.") from error
            found = self._statistics.values(metric, statistic, start, end, period)
            for place, value in enumerate(found):
                if value is None:
                    continue
                at = self._clock.moment(start + place * period)
                point = points.setdefault(at, {"Timestamp": at, "Unit": "None"})
                if statistic.startswith("p"):
                    point.setdefault("ExtendedStatistics", {})[statistic] = value
                else:
                    point[statistic] = value
        return {"Label": metric.name, "Datapoints": list(points.values())}

    async def list(self, params: dict[str, Any]) -> dict[str, Any]:
        """ListMetrics."""
        found = [
            metric.document for metric in self._statistics.metrics() if _is_wanted(metric, params)
        ]
        found.sort(key=str)
        token = params.get("NextToken") or "0"
        if not token.isdecimal():
            raise invalid("NextToken is not valid.")
        start = int(token)
        end = start + _METRICS_PER_PAGE
        following = {"NextToken": str(end)} if len(found) > end else {}
        return {"Metrics": found[start:end], **following}

    def _window(self, params: Mapping[str, Any], period: int) -> tuple[float, float, int]:
        """Start, end and period in AWS's seconds; the former are multiples of the latter."""
        if params["StartTime"] >= params["EndTime"]:
            raise invalid("The parameter StartTime must be less than the parameter EndTime.")
        distance = period * self._clock.lapse  # as moments are, a request's period is the machine's
        if period < 1 or distance % MINUTE:
            raise invalid(
                f"Period {period} is not emulated by local_sagemaker, which keeps minutes; it must "
                f"be a multiple of 60."
            )
        start = math.floor(params["StartTime"] / period) * period
        end = math.ceil(params["EndTime"] / period) * period
        if (end - start) / period > _MOST_POINTS:
            raise invalid(f"The request is for more than {_MOST_POINTS} data points.")
        return self._clock.aws_time(start), self._clock.aws_time(end), distance


def invalid(message: str) -> ServiceError:
    """A value that CloudWatch refuses."""
    return ServiceError("InvalidParameterValue", message)


def _datum(
    namespace: str, number: int, datum: Mapping[str, Any]
) -> tuple[Metric, float | None, list[StatisticSet | tuple[float, float]]]:
    """Metric, moment, and values with their counts. Raises InvalidParameterValue."""
    where = f"MetricData.member.{number}"
    given = [name for name in ("Value", "Values", "StatisticValues") if datum.get(name) is not None]
    if len(given) != 1:
        raise invalid(f"{where} must have one of Value, Values and StatisticValues.")
    metric = Metric.parse({"Namespace": namespace, **datum})
    moment: float | None = datum.get("Timestamp")
    if "StatisticValues" in given:
        told = datum["StatisticValues"]
        one = StatisticSet(told["SampleCount"], told["Sum"], told["Minimum"], told["Maximum"])
        _check_finite(where, (one.count, one.total, one.least, one.most))
        return metric, moment, [one]
    values = [datum["Value"]] if "Value" in given else datum["Values"]
    counts = datum.get("Counts") or [1.0] * len(values)
    if len(values) != len(counts) or len(values) > _MOST_VALUES:
        raise invalid(
            f"{where} must have as many Counts as Values, and at most {_MOST_VALUES} of them."
        )
    _check_finite(where, (*values, *counts))
    return metric, moment, list(zip(values, counts, strict=True))


def _check_finite(where: str, numbers: tuple[float, ...]) -> None:
    if not all(math.isfinite(number) and abs(number) <= _LARGEST for number in numbers):
        raise invalid(f"{where} has a value that is not a number from -2^360 to 2^360.")


def _is_wanted(metric: Metric, params: Mapping[str, Any]) -> bool:
    """Whether ListMetrics asks for it; a filter without a value is for any value."""
    has = dict(metric.dimensions)
    return (
        params.get("Namespace", metric.namespace) == metric.namespace
        and params.get("MetricName", metric.name) == metric.name
        and all(
            one["Name"] in has and one.get("Value", has[one["Name"]]) == has[one["Name"]]
            for one in params.get("Dimensions", [])
        )
    )
