"""Counts of requests for CloudWatch: how many were asked, and how many of those were answered
without an endpoint.

Namespace ``Tenantry``, dimensions ``Workload`` and ``Environment`` (the stack's prefix).
``NumberOfInferenceRequests`` is always the sum of ``CacheHits`` and ``CacheMisses``. A request is
one sample of value 1, so that ``Sum`` and ``SampleCount`` both count them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

from botocore.exceptions import BotoCoreError, ClientError

from tenantry.names import ids

if TYPE_CHECKING:
    from types import TracebackType

    from mypy_boto3_cloudwatch.type_defs import MetricDatumTypeDef

    from tenantry.aws.deployment import Deployment

NAMESPACE: Final = "Tenantry"
REQUESTS: Final = "NumberOfInferenceRequests"
HITS: Final = "CacheHits"
MISSES: Final = "CacheMisses"
_LOG = logging.getLogger(__name__)
# A request of PutMetricData:
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html
_MAX_DATA: Final = 1000
_MAX_KEPT: Final = 10_000

_Series = tuple[ids.WorkloadName, str, int]


class InferenceMetrics:
    """Gathers counts in memory and sends them together, on a thread of its own.

    Counting never waits for the network and never fails; counts that could not be sent go with the
    next. Many clients may share one; leave its ``with`` block, or call ``close``, to send the rest.
    """

    def __init__(self, deployment: Deployment, seconds: float = 30.0) -> None:
        """``seconds`` is how long a count may wait to be sent with others."""
        self._deployment = deployment
        self._seconds = seconds
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._counts: Counter[_Series] = Counter()
        self._timer: threading.Timer | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def count(self, workload: ids.WorkloadName, *, hit: bool) -> None:
        """Count one request of a workload, answered from the cache (``hit``) or by an endpoint."""
        minute = int(time.time()) // 60 * 60
        # made on the caller's thread: a boto3 session is for one thread at a time
        _ = self._deployment.cloudwatch
        with self._lock:
            for name in (REQUESTS, HITS if hit else MISSES):
                self._counts[workload, name, minute] += 1
            if self._timer is None and not self._closed:
                self._timer = threading.Timer(self._seconds, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Send the gathered counts. A failure is logged, and the counts are kept for the next
        time."""
        with self._sending:
            with self._lock:
                counts, self._counts = self._counts, Counter()
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
            series = sorted(counts)
            for start in range(0, len(series), _MAX_DATA):
                part = series[start : start + _MAX_DATA]
                try:
                    self._deployment.cloudwatch.put_metric_data(
                        Namespace=NAMESPACE,
                        MetricData=[self._datum(one, counts[one]) for one in part],
                    )
                except (ClientError, BotoCoreError) as error:
                    _LOG.warning("counts of requests could not be sent: %s", error)
                    with self._lock:
                        for one in series[start:][-_MAX_KEPT:]:
                            self._counts[one] += counts[one]
                    return

    def close(self) -> None:
        """Send the rest. Later counts are sent by ``flush`` alone."""
        with self._lock:
            self._closed = True
        self.flush()

    def _datum(self, series: _Series, count: int) -> MetricDatumTypeDef:
        workload, name, minute = series
        return {
            "MetricName": name,
            "Dimensions": [
                {"Name": "Workload", "Value": workload},
                {"Name": "Environment", "Value": self._deployment.prefix},
            ],
            "Timestamp": datetime.fromtimestamp(minute, UTC),
            "Unit": "Count",
            "Values": [1.0],
            "Counts": [float(count)],
        }
