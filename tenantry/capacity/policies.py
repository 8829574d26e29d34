"""The policies of the YAML as the requests that Application Auto Scaling and CloudWatch take."""

from __future__ import annotations

from typing import Any, Final, assert_never

from tenantry.capacity.scaled_endpoints import ScaledEndpoint
from tenantry.serving.metrics import MISSES
from tenantry.serving.metrics import NAMESPACE as REQUESTS_NAMESPACE
from tenantry.workloads.capacity import (
    Backlog,
    Predictive,
    ScaleFromZero,
    TargetTracking,
    UsageRate,
)

_INSTANCES: Final = "/aws/sagemaker/Endpoints"
_ENDPOINTS: Final = "AWS/SageMaker"
_FROM_ZERO_PERIODS: Final = 1
_HOST_METRICS: Final = {"cpu": "CPUUtilization", "gpu": "GPUUtilization"}


def policy_requests(endpoint: ScaledEndpoint) -> list[dict[str, Any]]:
    """PutScalingPolicy's PolicyName, PolicyType and configuration for each policy that follows a
    metric. A forecast becomes scheduled actions instead (``tenantry.capacity.ahead``)."""
    return [
        _request(endpoint, policy)
        for policy in endpoint.section.policies
        if not isinstance(policy, Predictive)
    ]


def _request(
    endpoint: ScaledEndpoint, policy: TargetTracking | UsageRate | Backlog | ScaleFromZero
) -> dict[str, Any]:
    match policy:
        case TargetTracking(metric="invocations_per_instance"):
            kind = "SageMakerVariantInvocationsPerInstance"
            metric: dict[str, Any] = {
                "PredefinedMetricSpecification": {"PredefinedMetricType": kind}
            }
        case TargetTracking():
            metric = _customized(
                _INSTANCES, _HOST_METRICS[policy.metric], endpoint.dimensions, "Average"
            )
        case Backlog():
            metric = _customized(
                _ENDPOINTS, "ApproximateBacklogSizePerInstance", _of_endpoint(endpoint), "Average"
            )
        case UsageRate():
            metric = {"CustomizedMetricSpecification": {"Metrics": usage_rate(endpoint, policy)}}
        case ScaleFromZero():
            return {
                "PolicyName": f"tenantry-{policy.kind}",
                "PolicyType": "StepScaling",
                "StepScalingPolicyConfiguration": {
                    "AdjustmentType": "ChangeInCapacity",
                    "MetricAggregationType": "Average",
                    "Cooldown": 300,
                    "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
                },
            }
        case _:
            assert_never(policy)
    suffix = f"-{policy.metric}" if isinstance(policy, TargetTracking) else ""
    return {
        "PolicyName": f"tenantry-{policy.kind}{suffix}",
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": {
            "TargetValue": policy.target,
            **metric,
            "ScaleOutCooldown": policy.out_cooldown_seconds,
            "ScaleInCooldown": policy.in_cooldown_seconds,
            "DisableScaleIn": not policy.scale_in,
        },
    }


def usage_rate(endpoint: ScaledEndpoint, policy: UsageRate) -> list[dict[str, Any]]:
    """The metrics of article 002's formula, and the formula.

    ``m1`` counts instances, as CPUUtilization has a sample for each of them a minute. ``m2`` counts
    the requests that reach the endpoint. On the file's own shared endpoint these are the workload's
    misses of the cache. Another endpoint answers some tenants alone, so its own metric counts them.
    One instance answers 60 / seconds × units requests a minute.
    """
    of_workload = [
        {"Name": "Workload", "Value": endpoint.workload},
        {"Name": "Environment", "Value": endpoint.environment},
    ]
    requests = (
        _statistic("m2", _ENDPOINTS, endpoint.requests_metric, endpoint.dimensions)
        if endpoint.whose
        else _statistic("m2", REQUESTS_NAMESPACE, MISSES, of_workload)
    )
    return [
        _statistic("m1", _INSTANCES, "CPUUtilization", endpoint.dimensions),
        requests,
        {
            "Id": "e1",
            "Label": "utilization rate",
            "Expression": f"IF(m1 != 0, m2 / (m1 * 60 / {policy.seconds_per_answer:g} * "
            f"{policy.units_per_instance}))",
            "ReturnData": True,
        },
    ]


def alarm_name(endpoint: str) -> str:
    """The alarm that starts an endpoint's first instance."""
    return f"{endpoint}-backlog-without-capacity"


def alarm_requests(endpoint: ScaledEndpoint, arn_of: dict[str, str]) -> list[dict[str, Any]]:
    """PutMetricAlarm's requests: the alarm that starts the first instance
    (docs.aws.amazon.com/sagemaker/latest/dg/async-inference-autoscale.html).

    Args:
        endpoint: whose.
        arn_of: the policies' ARNs by name.
    """
    return [
        {
            "AlarmName": alarm_name(endpoint.name),
            "AlarmDescription": "A request waits and there is no instance.",
            "Namespace": _ENDPOINTS,
            "MetricName": "HasBacklogWithoutCapacity",
            "Dimensions": _of_endpoint(endpoint),
            "Statistic": "Average",
            "Period": 60,
            "EvaluationPeriods": _FROM_ZERO_PERIODS,
            "DatapointsToAlarm": _FROM_ZERO_PERIODS,
            "Threshold": 1.0,
            "ComparisonOperator": "GreaterThanOrEqualToThreshold",
            "TreatMissingData": "missing",
            "AlarmActions": [arn_of[f"tenantry-{policy.kind}"]],
        }
        for policy in endpoint.section.policies
        if isinstance(policy, ScaleFromZero)
    ]


def _customized(
    namespace: str, name: str, dimensions: list[dict[str, str]], statistic: str
) -> dict[str, Any]:
    return {
        "CustomizedMetricSpecification": {
            "Namespace": namespace,
            "MetricName": name,
            "Dimensions": dimensions,
            "Statistic": statistic,
        }
    }


def _statistic(
    called: str, namespace: str, name: str, dimensions: list[dict[str, str]]
) -> dict[str, Any]:
    metric = {"Namespace": namespace, "MetricName": name, "Dimensions": dimensions}
    return {
        "Id": called,
        "MetricStat": {"Metric": metric, "Stat": "SampleCount"},
        "ReturnData": False,
    }


def _of_endpoint(endpoint: ScaledEndpoint) -> list[dict[str, str]]:
    return [{"Name": "EndpointName", "Value": endpoint.name}]
