"""How SageMaker is told to update an endpoint: which share of the traffic goes first, how long it
is watched, and which errors take the update back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from tenantry.aws.objects import error_code
from tenantry.hosting.shapes.shape import VARIANT
from tenantry.workloads.hosting import Updates

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_LONGEST_SECONDS: Final = 28_800
"""API_BlueGreenUpdatePolicy, MaximumExecutionTimeoutInSeconds; the least is 600."""
_LEAST_TO_SHARE: Final = 2
"""Of one instance, no share is at most half: API_TrafficRoutingConfig, CanarySize."""


def forget_guard(deployment: Deployment, config: str) -> None:
    """Delete the alarm of an update that has ended, or whose configuration is removed."""
    try:
        deployment.cloudwatch.delete_alarms(AlarmNames=[_alarm_of(config)])
    except ClientError as error:
        if error_code(error) != "ResourceNotFound":
            raise


def _alarm_of(config: str) -> str:
    """Each update has its own alarm, as an earlier one's could still be in ALARM."""
    return f"{config}-errors"


def deployment_config(
    deployment: Deployment, updates: Updates, endpoint: str, config_name: str, instances: int
) -> dict[str, Any] | None:
    """UpdateEndpoint's ``DeploymentConfig``; None where SageMaker's default does.

    The alarm that it names is made; ``forget_guard`` deletes it after the update. It counts the
    requests to the new instances alone.

    Args:
        deployment: CloudWatch's client.
        updates: the file's section.
        endpoint: the endpoint's name.
        config_name: its new configuration's.
        instances: how many it has. One instance takes all traffic at once.
    """
    if not updates.guarded:
        return None
    size = {"Type": "CAPACITY_PERCENT", "Value": updates.percent}
    strategy = updates.strategy if instances >= _LEAST_TO_SHARE else "all_at_once"
    config: dict[str, Any]
    if strategy == "rolling":
        config = {
            "RollingUpdatePolicy": {
                "MaximumBatchSize": size,
                "WaitIntervalInSeconds": updates.wait_seconds,
                "MaximumExecutionTimeoutInSeconds": _LONGEST_SECONDS,
            }
        }
    else:
        routing: dict[str, Any] = {
            "Type": strategy.upper(),
            "WaitIntervalInSeconds": updates.wait_seconds,
        }
        if strategy == "canary":
            routing["CanarySize"] = size
        elif strategy == "linear":
            routing["LinearStepSize"] = size
        config = {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": routing,
                "TerminationWaitInSeconds": updates.wait_seconds,
                "MaximumExecutionTimeoutInSeconds": _LONGEST_SECONDS,
            }
        }
    if updates.error_percent is not None:
        name = _alarm_of(config_name)
        _put_alarm(deployment, name, endpoint, config_name, updates.error_percent)
        config["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": name}]}
    return config


def _put_alarm(
    deployment: Deployment, name: str, endpoint: str, config_name: str, percent: float
) -> None:
    # The average of Invocation5XXErrors is the share of requests that failed:
    # docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html
    deployment.cloudwatch.put_metric_alarm(
        AlarmName=name,
        AlarmDescription="Takes an update of the endpoint back.",
        Namespace="AWS/SageMaker",
        MetricName="Invocation5XXErrors",
        Dimensions=[
            {"Name": "EndpointName", "Value": endpoint},
            {"Name": "VariantName", "Value": VARIANT},
            {"Name": "EndpointConfigName", "Value": config_name},
        ],
        Statistic="Average",
        Period=60,
        EvaluationPeriods=1,
        DatapointsToAlarm=1,
        Threshold=percent / 100,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
    )
