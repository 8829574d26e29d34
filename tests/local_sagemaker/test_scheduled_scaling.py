"""Application Auto Scaling's scalable targets and scheduled actions, through boto3 unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import boto3
import pytest

from tests.local_sagemaker.conftest import (
    Emulator,
    create_endpoint_config,
    create_model,
    settled_endpoint,
    unique,
    wait_for,
)
from tests.local_sagemaker.scalable_targets import Target, refused


def soon(seconds: float = 1.5, zone: str = "UTC") -> str:
    """`at(…)`, so many seconds from now, by the clocks of a zone."""
    moment = (datetime.now(UTC) + timedelta(seconds=seconds)).astimezone(ZoneInfo(zone))
    return f"at({moment:%Y-%m-%dT%H:%M:%S})"


@pytest.fixture(scope="session")
def scaling(emulator: Emulator) -> Any:
    """boto3's application-autoscaling client."""
    return emulator.client("application-autoscaling")


@pytest.fixture
def target(scaling: Any, sagemaker: Any, endpoint: Callable[..., str]) -> Target:
    """Of an endpoint that answers in real time, with an instance."""
    model = create_model(sagemaker)
    return Target(scaling, sagemaker, endpoint(create_endpoint_config(sagemaker, model)))


def test_capacity_is_brought_within_the_bounds_and_stays_when_the_target_goes(
    target: Target,
) -> None:
    arn = target.register(2, 3)
    assert target.register(2, 3) == arn, "the same target"
    target.wait_for(2)
    target.register(1, 1)
    target.wait_for(1)
    assert target.activities() == [
        ("Setting desired instance count to 1.", "maximum capacity was set to 1", "Successful"),
        ("Setting desired instance count to 2.", "minimum capacity was set to 2", "Successful"),
    ]
    (described,) = target.described()
    assert (described["MinCapacity"], described["MaxCapacity"]) == (1, 1)
    assert described["RoleARN"].endswith("ApplicationAutoScaling_SageMakerEndpoint")

    target.client.deregister_scalable_target(**target.scope)
    assert target.described() == []
    assert target.instances() == 1
    code, _ = refused(lambda: target.client.deregister_scalable_target(**target.scope))
    assert code == "ObjectNotFoundException"


def test_scheduled_actions_change_the_bounds_by_the_clocks_of_their_zone(target: Target) -> None:
    target.register(1, 1)
    target.put("morning", soon(zone="Asia/Tokyo"), 2, 2, Timezone="Asia/Tokyo")
    target.put("next-year", "cron(0 7 ? * MON-FRI *)", 4, 4)
    target.wait_for(2)
    assert target.actions() == ["next-year"], "what runs once is gone after that"
    assert target.activities()[-1] == (
        "Setting min capacity to 2 and max capacity to 2",
        "scheduled action name morning was triggered",
        "Successful",
    )
    target.client.delete_scheduled_action(**target.scope, ScheduledActionName="next-year")
    assert target.actions() == []
    code, _ = refused(
        lambda: target.client.delete_scheduled_action(
            **target.scope, ScheduledActionName="next-year"
        )
    )
    assert code == "ObjectNotFoundException"


def test_a_suspended_target_lets_its_actions_pass(target: Target) -> None:
    target.register(1, 1, SuspendedState={"ScheduledScalingSuspended": True})
    target.put("morning", soon(), 2, 2)
    wait_for(target.actions, lambda found: found == [])
    assert (target.instances(), target.activities()) == (1, [])


def test_a_change_that_the_quota_refuses_is_told_once_and_tried_again(
    target: Target, emulator: Emulator
) -> None:
    target.register(40, 40)
    wait_for(target.activities, lambda found: bool(found))
    ((description, _, status),) = target.activities()
    assert (description, status) == ("Setting desired instance count to 40.", "Failed")
    target.register(2, 2)
    target.wait_for(2)


def test_an_asynchronous_endpoint_goes_to_zero_and_a_real_time_one_does_not(
    target: Target, scaling: Any, sagemaker: Any, bucket: str, endpoint: Callable[..., str]
) -> None:
    code, message = refused(lambda: target.register(0, 1))
    assert (code, "real time" in message) == ("ValidationException", True)
    config = create_endpoint_config(
        sagemaker,
        create_model(sagemaker),
        asynchronous={"OutputConfig": {"S3OutputPath": f"s3://{bucket}/out"}},
    )
    waiting = Target(scaling, sagemaker, endpoint(config))
    waiting.register(0, 0)
    waiting.wait_for(0)
    waiting.register(1, 1)
    waiting.wait_for(1)


def test_a_target_goes_with_its_endpoint(target: Target) -> None:
    target.register(1, 2)
    target.put("morning", "cron(0 7 ? * MON-FRI *)", 2, 2)
    target.sagemaker.delete_endpoint(EndpointName=target.endpoint)
    wait_for(target.described, lambda found: found == [])
    assert target.actions() == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"MinCapacity": 3, "MaxCapacity": 2}, "less than minimum"),
        ({"MinCapacity": -1}, "0 or more"),
        ({"ResourceId": "service/web/app"}, "not endpoint/NAME/variant/NAME"),
        ({"ResourceId": "endpoint/none/variant/variant-1"}, "no variant variant-1 of an endpoint"),
        ({"ServiceNamespace": "ecs"}, "not emulated"),
        ({"ScalableDimension": "ecs:service:DesiredCount"}, "not emulated"),
    ],
)
def test_a_target_that_cannot_be_is_refused_with_the_reason(
    target: Target, changes: dict[str, Any], why: str
) -> None:
    request = {**target.scope, "MinCapacity": 1, "MaxCapacity": 2, **changes}
    code, message = refused(lambda: target.client.register_scalable_target(**request))
    assert code == "ValidationException"
    assert why in message


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"Schedule": "cron(99 99 ? * * *)"}, "minutes '99'"),
        ({"Timezone": "Europe/Londn"}, "Time zone"),
        ({"Schedule": "at(2020-01-01T00:00:00)"}, "no time that is still to come"),
        ({"ScalableTargetAction": {}}, "needs a Schedule and a ScalableTargetAction"),
        ({"ScalableTargetAction": {"MinCapacity": 2, "MaxCapacity": 1}}, "less than minimum"),
    ],
)
def test_an_action_that_could_never_run_is_refused_with_the_reason(
    target: Target, changes: dict[str, Any], why: str
) -> None:
    target.register(1, 2)
    request = {
        **target.scope,
        "ScheduledActionName": "a",
        "Schedule": "rate(1 day)",
        "ScalableTargetAction": {"MinCapacity": 1},
        **changes,
    }
    code, message = refused(lambda: target.client.put_scheduled_action(**request))
    assert code == "ValidationException"
    assert why in message
    assert target.actions() == []


@pytest.fixture
def restarted(local_cloud: Any, tmp_path: Any) -> Iterator[Emulator]:
    """An emulator that the test may kill."""
    emulator = Emulator(local_cloud, tmp_path / "state")
    emulator.start()
    yield emulator
    emulator.stop()
    assert emulator.containers() == []


def test_what_was_due_while_the_emulator_was_killed_is_done_when_it_is_back(
    restarted: Emulator,
) -> None:
    sagemaker = restarted.client("sagemaker")
    name = unique("endpoint")
    config = create_endpoint_config(sagemaker, create_model(sagemaker))
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    assert settled_endpoint(sagemaker, name)["EndpointStatus"] == "InService"
    target = Target(restarted.client("application-autoscaling"), sagemaker, name)
    target.register(1, 1)
    target.put("morning", soon(2.0), 2, 2)
    restarted.kill()
    restarted.start()
    target.wait_for(2)
    assert target.actions() == []


def test_the_environment_of_the_local_cloud_leads_there(deployment: Any) -> None:
    client = boto3.client("application-autoscaling", region_name="eu-west-1")
    assert client.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []
