"""The requests that policies become: valid by AWS's own model, and those of article 002."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from botocore.loaders import create_loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from tenantry.capacity.policies import alarm_requests, policy_requests
from tenantry.capacity.scaled_endpoints import Kind, ScaledEndpoint
from tenantry.names import ids
from tenantry.workloads.capacity import EndpointCapacity

SCOPE = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "endpoint/e/variant/AllTraffic",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}


def endpoint(*policies: dict[str, Any], kind: Kind = "real_time") -> ScaledEndpoint:
    least = 0 if kind == "asynchronous" else 1
    section = EndpointCapacity.model_validate(
        {"minimum": least, "maximum": 4, "policies": policies}
    )
    return ScaledEndpoint("images", kind, section, 1.0, ids.workload_name("portraits"), "prod")


def valid(service: str, operation: str, request: dict[str, Any]) -> bool:
    model = ServiceModel(create_loader().load_service_model(service, "service-2"))
    shape = model.operation_model(operation).input_shape
    assert shape is not None
    report = ParamValidator().validate(request, shape)
    assert not report.has_errors(), report.generate_report()
    return True


@pytest.mark.parametrize(
    "policy",
    [
        {"kind": "target_tracking", "metric": "invocations_per_instance", "target": 70},
        {"kind": "target_tracking", "metric": "cpu", "target": 60, "scale_in": False},
        {"kind": "target_tracking", "metric": "gpu", "target": 80},
        {"kind": "usage_rate", "seconds_per_answer": 2.5},
        {"kind": "backlog", "target": 5},
        {"kind": "scale_from_zero"},
    ],
    ids=lambda policy: f"{policy['kind']} {policy.get('metric', '')}",
)
def test_each_policy_is_valid_by_the_services_model(policy: dict[str, Any]) -> None:
    of = endpoint(policy, kind="asynchronous")
    (request,) = policy_requests(of)
    assert valid("application-autoscaling", "PutScalingPolicy", {**SCOPE, **request})
    for alarm in alarm_requests(of, {request["PolicyName"]: "arn:aws:autoscaling:x"}):
        assert valid("cloudwatch", "PutMetricAlarm", alarm)


def test_the_usage_rate_is_article_002s() -> None:
    """Its numbers are the policy's defaults; only the names of the metric of requests differ."""
    (request,) = policy_requests(
        endpoint({"kind": "usage_rate", "seconds_per_answer": 10, "units_per_instance": 12})
    )
    told = request["TargetTrackingScalingPolicyConfiguration"]
    assert request["PolicyType"] == "TargetTrackingScaling"
    instances, requests, rate = told.pop("CustomizedMetricSpecification")["Metrics"]
    assert told == {
        "TargetValue": 0.75,
        "ScaleOutCooldown": 60,
        "ScaleInCooldown": 120,
        "DisableScaleIn": False,
    }
    assert instances == {
        "Id": "m1",
        "MetricStat": {
            "Metric": {
                "MetricName": "CPUUtilization",
                "Namespace": "/aws/sagemaker/Endpoints",
                "Dimensions": [
                    {"Name": "EndpointName", "Value": "images"},
                    {"Name": "VariantName", "Value": "AllTraffic"},
                ],
            },
            "Stat": "SampleCount",
        },
        "ReturnData": False,
    }
    assert (requests["Id"], requests["MetricStat"]["Stat"]) == ("m2", "SampleCount")
    assert rate == {
        "Id": "e1",
        "Label": "utilization rate",
        "Expression": "IF(m1 != 0, m2 / (m1 * 60 / 10 * 12))",
        "ReturnData": True,
    }


@pytest.mark.parametrize(
    ("whose", "kind", "metric"),
    [
        ("", "real_time", "CacheMisses"),
        ("acme", "real_time", "Invocations"),
        ("pool", "asynchronous", "InvocationsProcessed"),
    ],
)
def test_the_usage_rate_of_an_endpoint_for_some_tenants_counts_their_requests_alone(
    whose: str, kind: Kind, metric: str
) -> None:
    of = replace(endpoint({"kind": "usage_rate", "seconds_per_answer": 10}, kind=kind), whose=whose)
    (request,) = policy_requests(of)
    told = request["TargetTrackingScalingPolicyConfiguration"]["CustomizedMetricSpecification"]
    counted = told["Metrics"][1]["MetricStat"]["Metric"]
    assert counted["MetricName"] == metric
    assert (counted["Dimensions"] == of.dimensions) == bool(whose)


def test_a_forecast_is_no_policy_of_aws() -> None:
    assert policy_requests(endpoint({"kind": "predictive", "seconds_per_answer": 1})) == []
