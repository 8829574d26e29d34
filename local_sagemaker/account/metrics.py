"""Endpoint metrics for CloudWatch, gathered in memory and sent in batches.

Names, units and namespaces: docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html,
where latencies are in microseconds, and for asynchronous endpoints
…/dg/async-inference-monitor.html.
"""

import asyncio
import logging
import time
from collections import Counter
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

_log = logging.getLogger(__name__)
INVOCATIONS = "AWS/SageMaker"
INSTANCES = "/aws/sagemaker/Endpoints"
_DATA_PER_REQUEST = 200
_VALUES_PER_DATUM = 150
"""PutMetricData accepts 1,000 data of 150 different values each
(docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html)."""

_Key = tuple[str, str, str | None, str, str]


class Metrics:
    """Counts of values by metric, endpoint and variant."""

    def __init__(self) -> None:
        self._values: dict[_Key, Counter[float]] = {}

    def record(
        self,
        endpoint: str,
        variant: str | None,
        name: str,
        value: float,
        unit: str = "None",
        namespace: str = INVOCATIONS,
    ) -> None:
        """One value of a metric of a variant, or of the endpoint as a whole where `variant` is
        None.

        Durations are rounded to three digits, so that they have few different values.
        """
        if unit in ("Microseconds", "Milliseconds", "Seconds"):
            value = float(f"{value:.3g}")
        self._values.setdefault((namespace, endpoint, variant, name, unit), Counter())[value] += 1

    async def send(self, cloudwatch: Any) -> None:
        """Send the values gathered since the last call."""
        values, self._values = self._values, {}
        try:
            await asyncio.to_thread(_send, cloudwatch, values)
        except (BotoCoreError, ClientError) as error:
            _log.error("metrics of %d series were lost: %s", len(values), error)


def _send(cloudwatch: Any, values: dict[_Key, "Counter[float]"]) -> None:
    by_namespace: dict[str, list[dict[str, Any]]] = {}
    now = time.time()
    for (namespace, endpoint, variant, name, unit), counts in values.items():
        dimensions = [{"Name": "EndpointName", "Value": endpoint}]
        if variant is not None:
            dimensions.append({"Name": "VariantName", "Value": variant})
        items = list(counts.items())
        for start in range(0, len(items), _VALUES_PER_DATUM):
            part = items[start : start + _VALUES_PER_DATUM]
            by_namespace.setdefault(namespace, []).append(
                {
                    "MetricName": name,
                    "Dimensions": dimensions,
                    "Timestamp": now,
                    "Unit": unit,
                    "Values": [value for value, _ in part],
                    "Counts": [float(count) for _, count in part],
                }
            )
    for namespace, data in by_namespace.items():
        for start in range(0, len(data), _DATA_PER_REQUEST):
            cloudwatch.put_metric_data(
                Namespace=namespace, MetricData=data[start : start + _DATA_PER_REQUEST]
            )
