"""What those who register capacity may do, and to what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from tests.isolation.template import ACCOUNT, REGION

CAPACITY: Final[Mapping[str, str]] = {
    "application-autoscaling:RegisterScalableTarget": "scalable-target new-scalable-target",
    "application-autoscaling:TagResource": "new-scalable-target",
    "application-autoscaling:DeleteScalingPolicy "
    "application-autoscaling:DeleteScheduledAction "
    "application-autoscaling:DeregisterScalableTarget "
    "application-autoscaling:PutScalingPolicy "
    "application-autoscaling:PutScheduledAction": "scalable-target",
    "cloudwatch:DeleteAlarms cloudwatch:PutMetricAlarm": "alarm",
    "application-autoscaling:DescribeScalableTargets "
    "application-autoscaling:DescribeScalingActivities "
    "application-autoscaling:DescribeScalingPolicies "
    "application-autoscaling:DescribeScheduledActions": "any",
    "cloudwatch:GetMetricData": "metrics",
    "cloudwatch:DescribeAlarms": "alarm other-alarm",
    "iam:CreateServiceLinkedRole": "service-linked-role",
}


def capacity_targets() -> Iterator[tuple[str, str, str, dict[str, str | list[str]]]]:
    """Scalable targets, which a tag tells apart, and alarms, which a name does: label, whose,
    resource and context of each."""
    target = f"arn:aws:application-autoscaling:{REGION}:{ACCOUNT}:scalable-target/0123"
    for label, tag, value in (
        ("scalable-target", "ResourceTag", "tenantry"),
        ("new-scalable-target", "RequestTag", "tenantry"),
        ("foreign", "ResourceTag", "another"),
        ("foreign", "RequestTag", "another"),
    ):
        yield label, "all", target, {f"aws:{tag}/tenantry:deployment": value}
    yield "foreign", "all", target, {}
    for tag in ("ResourceTag", "RequestTag"):  # its own, but in another region
        elsewhere = target.replace(REGION, "us-east-2")
        yield "foreign", "all", elsewhere, {f"aws:{tag}/tenantry:deployment": "tenantry"}
    alarms = f"arn:aws:cloudwatch:{REGION}:{ACCOUNT}:alarm"
    own = "tenantry-energy-bridge-async-backlog-without-capacity"
    yield "alarm", "own", f"{alarms}:{own}", {}
    tracked = "TargetTracking-endpoint/tenantry-energy-bridge/variant/AllTraffic-AlarmHigh-0123"
    yield "alarm", "all", f"{alarms}:{tracked}", {}
    for other in ("another-alarm", "TargetTracking-endpoint/another/variant/AllTraffic-AlarmHigh"):
        yield "other-alarm", "all", f"{alarms}:{other}", {}
    yield "foreign", "all", f"{alarms}:{own}".replace(REGION, "us-east-2"), {}
    service = "sagemaker.application-autoscaling.amazonaws.com"
    roles = f"arn:aws:iam::{ACCOUNT}:role/aws-service-role"
    name = "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
    for label, whose, role in (
        ("service-linked-role", service, f"{roles}/{service}/{name}"),
        ("foreign", "ecs.amazonaws.com", f"{roles}/{service}/{name}"),
        ("foreign", service, f"{roles}/ecs.amazonaws.com/AWSServiceRoleForECS"),
        ("foreign", service, f"{roles}/{service}/Another"),
        ("foreign", service, f"{roles}/{service}/{name}2"),
    ):
        yield label, "all", role, {"iam:AWSServiceName": whose}
