"""Metric data queries: series of metrics, and expressions about these by their ids.

Source: docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricDataQuery.html.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from local_sagemaker.monitoring.metric_math import Expression, InvalidExpressionError
from local_sagemaker.monitoring.statistics import MINUTE, Metric, Statistics, Values

_MOST: Final = 500
_SHORT_PERIODS: Final = (1, 5, 10, 20, 30)
"""MetricDataQueries of a GetMetricData request."""


class InvalidQueryError(ValueError):
    """Queries that cannot be answered; the message says which and why."""


@dataclass(frozen=True)
class MetricStatistic:
    """A statistic of a metric."""

    metric: Metric
    statistic: str

    def __post_init__(self) -> None:
        try:
            Values().statistic(self.statistic)
        except ValueError as error:
            raise InvalidQueryError(str(error)) from error


@dataclass(frozen=True)
class Query:
    """One query: `source` is a statistic, or an expression about other queries."""

    id: str
    source: MetricStatistic | Expression
    label: str
    returned: bool


@dataclass(frozen=True)
class Queries:
    """Queries of one period, in seconds, in an order in which each follows those it is about."""

    queries: tuple[Query, ...]
    period: int

    @classmethod
    def parse(cls, documents: Sequence[Mapping[str, Any]]) -> "Queries":
        """From MetricDataQuery or TargetTrackingMetricDataQuery structures; the period of the
        latter is a minute. Raises InvalidQueryError."""
        if not 1 <= len(documents) <= _MOST:
            raise InvalidQueryError(f"there must be from 1 to {_MOST} queries")
        parsed = [_query(document) for document in documents]
        by_id = {query.id: query for query in parsed}
        if len(by_id) < len(parsed):
            raise InvalidQueryError("two queries have the same Id")
        periods = {period for document in documents if (period := _period(document)) is not None}
        if len(periods) > 1:
            raise InvalidQueryError(
                f"queries of different periods ({', '.join(map(str, sorted(periods)))}) are not "
                f"emulated by local_sagemaker"
            )
        ordered: dict[str, Query] = {}
        for query in parsed:
            _put_in_order(query, by_id, ordered, ())
        return cls(tuple(ordered.values()), periods.pop() if periods else MINUTE)

    @property
    def returned(self) -> Query:
        """The only query whose data are returned. Raises InvalidQueryError for none or several."""
        found = [query for query in self.queries if query.returned]
        if len(found) != 1:
            raise InvalidQueryError(
                f"exactly one query must have ReturnData true; {len(found)} have"
            )
        return found[0]

    def values(
        self, statistics: Statistics, start: float, end: float, period: int | None = None
    ) -> dict[str, list[float | None]]:
        """The values of every query from `start` to before `end`, one a period, by id. The period
        is by default the queries' own."""
        found: dict[str, list[float | None]] = {}
        for query in self.queries:
            if isinstance(query.source, Expression):
                found[query.id] = query.source.values(found)
            else:
                found[query.id] = statistics.values(
                    query.source.metric, query.source.statistic, start, end, period or self.period
                )
        return found


def _query(document: Mapping[str, Any]) -> Query:
    where, stat = document["Id"], document.get("MetricStat")
    if (stat is None) == (document.get("Expression") is None):
        raise InvalidQueryError(f"query {where} must have MetricStat or Expression, one of the two")
    label = document.get("Label")
    returned = document.get("ReturnData", True)
    try:
        if stat is None:
            return Query(where, Expression.parse(document["Expression"]), label or where, returned)
        source = MetricStatistic(_metric(stat.get("Metric", {})), stat["Stat"])
    except (InvalidExpressionError, InvalidQueryError) as error:
        raise InvalidQueryError(f"query {where}: {error}") from error
    return Query(where, source, label or source.metric.name, returned)


def _metric(document: Mapping[str, Any]) -> Metric:
    if not document.get("Namespace") or not document.get("MetricName"):
        raise InvalidQueryError("a metric needs a Namespace and a MetricName")
    return Metric.parse(document)


def _period(document: Mapping[str, Any]) -> int | None:
    period: int | None = document.get("MetricStat", {}).get("Period", document.get("Period"))
    if period is not None and period not in _SHORT_PERIODS and (period < 1 or period % MINUTE):
        raise InvalidQueryError(
            f"query {document['Id']}: Period {period} is neither 1, 5, 10, 20, 30 nor a multiple "
            f"of 60"
        )
    return period


def _put_in_order(
    query: Query, by_id: Mapping[str, Query], ordered: dict[str, Query], within: tuple[str, ...]
) -> None:
    if query.id in ordered:
        return
    if query.id in within:
        raise InvalidQueryError(f"query {query.id} is about itself")
    names = query.source.names if isinstance(query.source, Expression) else frozenset[str]()
    for name in sorted(names):
        if name not in by_id:
            raise InvalidQueryError(f"query {query.id} is about {name}, which is no query's Id")
        _put_in_order(by_id[name], by_id, ordered, (*within, query.id))
    ordered[query.id] = query
