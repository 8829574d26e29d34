"""The metrics of endpoints.

Names, units and namespaces: docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html,
where latencies are in microseconds, and for asynchronous endpoints
…/dg/async-inference-monitor.html. Those of containers have the dimension ContainerName:
…/dg/multi-container-metrics.html and …/dg/inference-pipeline-logs-metrics.html.
"""

from local_sagemaker.monitoring.statistics import Metric, Statistics

INVOCATIONS = "AWS/SageMaker"
INSTANCES = "/aws/sagemaker/Endpoints"


class Metrics:
    """Records values of endpoints and variants as CloudWatch's metrics."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    def now(self) -> float:
        """The time of the metrics, in seconds."""
        return self._statistics.now()

    def record(
        self,
        endpoint: str,
        variant: str | None,
        name: str,
        value: float,
        unit: str = "None",
        namespace: str = INVOCATIONS,
        container: str | None = None,
        config: str | None = None,
    ) -> None:
        """One value of a metric of a variant's container, of the variant where `container` is None,
        or of the endpoint as a whole where `variant` is None too.

        A variant's value also counts for its endpoint configuration, `config`, so that an alarm can
        watch the new fleet of an update alone
        (docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-configuration.html).
        Durations are rounded to three digits, so that they have few different values.
        """
        if unit in ("Microseconds", "Milliseconds", "Seconds"):
            value = float(f"{value:.3g}")
        dimensions = {"EndpointName": endpoint}
        if variant is not None:
            dimensions["VariantName"] = variant
        if container is not None:
            dimensions["ContainerName"] = container
        self._statistics.record(Metric.of(namespace, name, dimensions), value)
        if config is not None and container is None and namespace == INVOCATIONS:
            dimensions["EndpointConfigName"] = config
            self._statistics.record(Metric.of(namespace, name, dimensions), value)
