"""Scalable targets, as a test drives them through boto3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local_sagemaker.conftest import wait_for

DIMENSION = "sagemaker:variant:DesiredInstanceCount"


class Target:
    """The first variant of an endpoint, as Application Auto Scaling names it."""

    def __init__(self, client: Any, sagemaker: Any, endpoint: str) -> None:
        self.client = client
        self.sagemaker = sagemaker
        self.endpoint = endpoint
        self.scope = {
            "ServiceNamespace": "sagemaker",
            "ResourceId": f"endpoint/{endpoint}/variant/variant-1",
            "ScalableDimension": DIMENSION,
        }

    def register(self, least: int, most: int, **more: Any) -> str:
        answer = self.client.register_scalable_target(
            **self.scope, MinCapacity=least, MaxCapacity=most, **more
        )
        return str(answer["ScalableTargetARN"])

    def described(self) -> list[Any]:
        found: list[Any] = self.client.describe_scalable_targets(
            ServiceNamespace="sagemaker", ResourceIds=[self.scope["ResourceId"]]
        )["ScalableTargets"]
        return found

    def put(self, name: str, schedule: str, least: int, most: int, **more: Any) -> None:
        self.client.put_scheduled_action(
            **self.scope,
            ScheduledActionName=name,
            Schedule=schedule,
            ScalableTargetAction={"MinCapacity": least, "MaxCapacity": most},
            **more,
        )

    def put_policy(self, name: str, configuration: dict[str, Any]) -> Any:
        """PutScalingPolicy of target tracking; its answer."""
        return self.client.put_scaling_policy(
            **self.scope,
            PolicyName=name,
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration=configuration,
        )

    def put_steps(self, name: str, steps: list[dict[str, Any]], cooldown: int = 60) -> Any:
        """PutScalingPolicy of step scaling by numbers of instances; its answer."""
        return self.client.put_scaling_policy(
            **self.scope,
            PolicyName=name,
            PolicyType="StepScaling",
            StepScalingPolicyConfiguration={
                "AdjustmentType": "ChangeInCapacity",
                "StepAdjustments": steps,
                "Cooldown": cooldown,
            },
        )

    def policies(self) -> list[Any]:
        found: list[Any] = self.client.describe_scaling_policies(**self.scope)["ScalingPolicies"]
        return found

    def actions(self) -> list[str]:
        found = self.client.describe_scheduled_actions(**self.scope)["ScheduledActions"]
        return [action["ScheduledActionName"] for action in found]

    def activities(self) -> list[tuple[str, str, str]]:
        """Description, cause and status of each activity, the latest first."""
        found = self.client.describe_scaling_activities(**self.scope)["ScalingActivities"]
        return [(one["Description"], one["Cause"], one["StatusCode"]) for one in found]

    def instances(self) -> int:
        described = self.sagemaker.describe_endpoint(EndpointName=self.endpoint)
        return int(described["ProductionVariants"][0]["CurrentInstanceCount"])

    def wait_for(self, instances: int) -> None:
        wait_for(self.instances, lambda found: found == instances)
        wait_for(
            self.activities, lambda found: not [one for one in found if one[2] == "InProgress"]
        )


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    """The code and the message of a call that is refused."""
    with pytest.raises(ClientError) as error:
        call()
    return error.value.response["Error"]["Code"], error.value.response["Error"]["Message"]
