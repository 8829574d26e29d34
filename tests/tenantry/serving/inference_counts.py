"""CloudWatch's counts of a workload's requests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tenantry.aws.deployment import Deployment


def counted(deployment: Deployment, workload: str) -> dict[str, tuple[float, float]]:
    """Sum and number of samples of each metric over the last hours."""
    found = {}
    for name in ("NumberOfInferenceRequests", "CacheHits", "CacheMisses"):
        points = deployment.cloudwatch.get_metric_statistics(
            Namespace="Tenantry",
            MetricName=name,
            Period=3600,
            Dimensions=[
                {"Name": "Workload", "Value": workload},
                {"Name": "Environment", "Value": deployment.prefix},
            ],
            StartTime=datetime.now(UTC) - timedelta(hours=2),
            EndTime=datetime.now(UTC) + timedelta(hours=1),
            Statistics=["Sum", "SampleCount"],
        )["Datapoints"]
        found[name] = (
            sum(point["Sum"] for point in points),
            sum(point["SampleCount"] for point in points),
        )
    return found
