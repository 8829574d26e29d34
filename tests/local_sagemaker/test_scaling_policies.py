"""Scaling policies change the number of instances, through boto3 unchanged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from infrastructure.local_cloud import LocalCloud
from tests.local_sagemaker.asynchronous_endpoints import Async, Mailbox
from tests.local_sagemaker.conftest import (
    Emulator,
    create_endpoint_config,
    create_model,
    unique,
    wait_for,
)
from tests.local_sagemaker.scalable_targets import Target, refused


@pytest.fixture
def target(paced_emulator: Emulator, paced_endpoint: Callable[..., str]) -> Target:
    """Of an endpoint that answers in real time, with an instance."""
    sagemaker = paced_emulator.client("sagemaker")
    config = create_endpoint_config(sagemaker, create_model(sagemaker))
    scaling = paced_emulator.client("application-autoscaling")
    return Target(scaling, sagemaker, paced_endpoint(config))


@pytest.fixture
def cloudwatch(paced_emulator: Emulator) -> Any:
    return paced_emulator.client("cloudwatch")


def tracked(namespace: str, value: float = 10.0, **more: Any) -> dict[str, Any]:
    metric = {"MetricName": "load", "Namespace": namespace, "Statistic": "Average"}
    return {
        "TargetValue": value,
        "CustomizedMetricSpecification": metric,
        "ScaleOutCooldown": 60,
        "ScaleInCooldown": 60,
        **more,
    }


def test_target_tracking_follows_a_metric_up_and_down(target: Target, cloudwatch: Any) -> None:
    namespace = unique("n")
    target.register(1, 4)
    answer = target.put_policy("follow", tracked(namespace))
    assert answer["PolicyARN"].endswith(":policyName/follow")
    names = [alarm["AlarmName"] for alarm in answer["Alarms"]]
    assert [name.split("-Alarm")[1].split("-")[0] for name in names] == ["High", "Low"]

    def with_load(value: float) -> Callable[[], int]:
        def instances() -> int:
            cloudwatch.put_metric_data(
                Namespace=namespace, MetricData=[{"MetricName": "load", "Value": value}]
            )
            return target.instances()

        return instances

    wait_for(with_load(25.0), lambda count: count == 3)
    (high,) = cloudwatch.describe_alarms(AlarmNames=names[:1])["MetricAlarms"]
    assert (high["StateValue"], high["Threshold"], high["EvaluationPeriods"]) == ("ALARM", 10.0, 3)
    what, cause, _ = target.activities()[0]
    assert what == "Setting desired instance count to 3."
    assert cause == f"monitor alarm {names[0]} in state ALARM triggered policy follow"
    wait_for(with_load(2.0), lambda count: count == 1, seconds=60)
    assert "-AlarmLow-" in target.activities()[0][1]

    (policy,) = target.policies()
    assert policy["TargetTrackingScalingPolicyConfiguration"] == tracked(namespace)
    assert [alarm["AlarmName"] for alarm in policy["Alarms"]] == names
    target.client.delete_scaling_policy(**target.scope, PolicyName="follow")
    assert target.policies() == []
    assert cloudwatch.describe_alarms(AlarmNames=names)["MetricAlarms"] == []


def test_a_suspended_target_leaves_its_capacity(target: Target, cloudwatch: Any) -> None:
    namespace = unique("n")
    target.register(1, 4, SuspendedState={"DynamicScalingOutSuspended": True})
    (high, _) = target.put_policy("follow", tracked(namespace))["Alarms"]

    def state() -> str:
        cloudwatch.put_metric_data(
            Namespace=namespace, MetricData=[{"MetricName": "load", "Value": 25.0}]
        )
        (found,) = cloudwatch.describe_alarms(AlarmNames=[high["AlarmName"]])["MetricAlarms"]
        return str(found["StateValue"])

    wait_for(state, lambda found: found == "ALARM")
    assert (target.instances(), target.activities()) == (1, [])
    target.register(1, 4, SuspendedState={"DynamicScalingOutSuspended": False})
    state()
    wait_for(target.instances, lambda count: count == 3)


def from_zero(emulator: Emulator, target: Target, endpoint: str) -> None:
    """The documented policies of an asynchronous endpoint that scales to zero
    (docs.aws.amazon.com/sagemaker/latest/dg/async-inference-autoscale.html)."""
    cloudwatch = emulator.client("cloudwatch")
    one_more = {"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}
    step = target.put_steps("from-zero", [one_more])
    of_endpoint = [{"Name": "EndpointName", "Value": endpoint}]
    cloudwatch.put_metric_alarm(
        AlarmName=unique("without-capacity"),
        MetricName="HasBacklogWithoutCapacity",
        Namespace="AWS/SageMaker",
        Statistic="Average",
        Dimensions=of_endpoint,
        Period=60,
        EvaluationPeriods=2,
        DatapointsToAlarm=2,
        Threshold=1,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        TreatMissingData="missing",
        AlarmActions=[step["PolicyARN"]],
    )
    backlog = {
        "MetricName": "ApproximateBacklogSizePerInstance",
        "Namespace": "AWS/SageMaker",
        "Dimensions": of_endpoint,
        "Statistic": "Average",
    }
    target.put_policy(
        "backlog",
        {
            "TargetValue": 5.0,
            "CustomizedMetricSpecification": backlog,
            "ScaleInCooldown": 60,
            "ScaleOutCooldown": 60,
        },
    )


def test_a_queue_without_instances_gets_the_first_and_loses_it_again(
    paced_emulator: Emulator, s3: Any, bucket: str, local_cloud: LocalCloud
) -> None:
    mailbox = Mailbox(local_cloud)
    own = Async(paced_emulator, s3, bucket, mailbox)
    name = own.endpoint(instances=0)
    try:
        target = Target(paced_emulator.client("application-autoscaling"), own.sagemaker, name)
        target.register(0, 3)
        from_zero(paced_emulator, target, name)
        sent = [own.send(name, f"request {number}") for number in range(4)]
        mailbox.wait_for_all({one["InferenceId"] for one in sent})
        assert all(len(mailbox.messages[one["InferenceId"]]) == 1 for one in sent)
        assert any("triggered policy from-zero" in cause for _, cause, _ in target.activities())
        wait_for(target.instances, lambda count: count == 0, seconds=60)
        assert "triggered policy backlog" in target.activities()[0][1]
    finally:
        own.close()


def test_policies_that_could_never_act_are_refused(target: Target) -> None:
    code, _ = refused(lambda: target.put_policy("early", tracked("N")))
    assert code == "ObjectNotFoundException", "before the target is registered"
    target.register(1, 2)
    predefined = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    configurations: list[tuple[dict[str, Any], str]] = [
        (tracked("N", value=0.0), "TargetValue is 0; it must be above 0"),
        ({"TargetValue": 1.0}, "PredefinedMetricSpecification or a"),
        ({**tracked("N"), "PredefinedMetricSpecification": predefined}, "one of the two"),
        (
            {"TargetValue": 1.0, "CustomizedMetricSpecification": {"MetricName": "m"}},
            "needs Namespace, Statistic",
        ),
        (
            {
                "TargetValue": 1.0,
                "CustomizedMetricSpecification": {
                    "Metrics": [{"Id": "e", "Expression": "m1 / m2"}]
                },
            },
            "is about m1, which is no query's Id",
        ),
    ]
    for configuration, why in configurations:
        code, message = refused(partial(target.put_policy, "p", configuration))
        assert code == "ValidationException"
        assert why in message
    wrong_steps: list[tuple[list[dict[str, Any]], str]] = [
        (
            [{"ScalingAdjustment": 1}, {"MetricIntervalLowerBound": 5, "ScalingAdjustment": 1}],
            "bounds",
        ),
        (
            [
                {
                    "MetricIntervalLowerBound": 5,
                    "MetricIntervalUpperBound": 5,
                    "ScalingAdjustment": 1,
                }
            ],
            "must be below",
        ),
        (
            [
                {
                    "MetricIntervalLowerBound": 0,
                    "MetricIntervalUpperBound": 5,
                    "ScalingAdjustment": 1,
                },
                {"MetricIntervalLowerBound": 6, "ScalingAdjustment": 2},
            ],
            "neither overlap nor leave a gap",
        ),
    ]
    for steps, why in wrong_steps:
        code, message = refused(partial(target.put_steps, "s", steps))
        assert code == "ValidationException"
        assert why in message
    assert target.policies() == []
    target.put_policy("one", {"TargetValue": 1.0, "PredefinedMetricSpecification": predefined})
    code, message = refused(
        lambda: target.put_policy(
            "two", {"TargetValue": 2.0, "PredefinedMetricSpecification": predefined}
        )
    )
    assert "Only one TargetTrackingScaling policy" in message


def test_a_kill_in_the_middle_changes_neither_the_answers_nor_what_follows(
    local_cloud: LocalCloud, tmp_path: Path, s3: Any, bucket: str
) -> None:
    emulator = Emulator(
        local_cloud,
        tmp_path / "state",
        "--time-lapse",
        "60",
        "--metrics-seconds",
        "0.5",
        "--endpoint-provisioning-seconds",
        "60",
    )
    emulator.start()
    try:
        mailbox = Mailbox(local_cloud)
        own = Async(emulator, s3, bucket, mailbox)
        name = own.endpoint(own.config(concurrency=1), instances=0)
        target = Target(emulator.client("application-autoscaling"), own.sagemaker, name)
        target.register(0, 2)
        from_zero(emulator, target, name)
        sent = [own.send(name, f"sleep 0.3 {number}") for number in range(6)]
        for wanted in ("InProgress", "Successful"):  # while an instance starts, and serves
            wait_for(lambda: {status for _, _, status in target.activities()}, {wanted}.issubset)
            emulator.kill()
            emulator.start()
        mailbox.wait_for_all({one["InferenceId"] for one in sent})
        wait_for(target.instances, lambda count: count == 0, seconds=60)
    finally:
        emulator.stop()
        assert emulator.containers() == []
