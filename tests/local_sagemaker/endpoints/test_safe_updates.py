"""Updates of endpoints with a DeploymentConfig, through boto3 unchanged."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.faults.client import FaultsClient
from local_sagemaker.faults.plan import Rule
from tests.local_sagemaker.asynchronous_endpoints import Async, Mailbox
from tests.local_sagemaker.conftest import (
    Emulator,
    create_endpoint_config,
    create_model,
    made_endpoints,
    running_emulator,
    settled_endpoint,
    unique,
    wait_for,
)
from tests.local_sagemaker.endpoints.load import under_load

Endpoint = Callable[..., str]


@pytest.fixture(scope="module")
def cloud(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator on which a minute of AWS's passes in two seconds."""
    state = tmp_path_factory.mktemp("updates") / "state"
    yield from running_emulator(
        local_cloud,
        state,
        "--time-lapse",
        "30",
        "--metrics-seconds",
        "0.5",
        "--quota",
        "ml.c5.large for endpoint usage=3",
    )


@pytest.fixture(scope="module")
def sagemaker(cloud: Emulator) -> Any:
    return cloud.client("sagemaker")


@pytest.fixture(scope="module")
def runtime(cloud: Emulator) -> Any:
    return cloud.client("sagemaker-runtime")


@pytest.fixture(scope="module")
def cloudwatch(cloud: Emulator) -> Any:
    return cloud.client("cloudwatch")


@pytest.fixture
def endpoint(sagemaker: Any) -> Iterator[Endpoint]:
    yield from made_endpoints(sagemaker)


def version(sagemaker: Any, name: str, instances: int = 1, **environment: str) -> str:
    """A configuration whose containers tell this version."""
    model = create_model(sagemaker, Environment={"ECHO_VERSION": name, **environment})
    return create_endpoint_config(sagemaker, model, instances=instances)


def blue_green(kind: str, wait: int = 60, **more: Any) -> dict[str, Any]:
    routing = {"Type": kind, "WaitIntervalInSeconds": wait, **more}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}


def percent(value: int) -> dict[str, Any]:
    return {"Type": "CAPACITY_PERCENT", "Value": value}


def count(value: int) -> dict[str, Any]:
    return {"Type": "INSTANCE_COUNT", "Value": value}


def guarded(config: dict[str, Any], *alarms: str) -> dict[str, Any]:
    return config | {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": a} for a in alarms]}}


def put_alarm(cloudwatch: Any, endpoint: str, config: str) -> str:
    """An alarm on errors of the new fleet alone."""
    name = unique("alarm")
    cloudwatch.put_metric_alarm(
        AlarmName=name,
        Namespace="AWS/SageMaker",
        MetricName="Invocation4XXErrors",
        Dimensions=[
            {"Name": "EndpointName", "Value": endpoint},
            {"Name": "VariantName", "Value": "variant-1"},
            {"Name": "EndpointConfigName", "Value": config},
        ],
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=10,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
    )
    return name


def holding(cloud: Emulator) -> int:
    """The instances that the quota of endpoints counts now."""
    return int(cloud.control("GET", "/_local/health")["instances"]["endpoint"])


def stage(sagemaker: Any, name: str, wanted: str) -> Any:
    """The description of an endpoint whose new fleet is in this stage."""

    def at(description: Any) -> bool:
        (variant,) = description.get("PendingDeploymentSummary", {}).get(
            "ProductionVariants", [None]
        )
        return bool(variant) and variant["VariantStatus"][0]["Status"] == wanted

    return wait_for(lambda: sagemaker.describe_endpoint(EndpointName=name), at)


@pytest.fixture(scope="module", autouse=True)
def overdue(paced_emulator: Emulator) -> Iterator[tuple[str, str]]:
    """The old configuration and the name of an endpoint whose update takes too long. It takes ten
    seconds, so it begins before the other tests."""
    sagemaker = paced_emulator.client("sagemaker")
    config = version(sagemaker, "old")
    endpoints = made_endpoints(sagemaker)
    name = next(endpoints)(config)
    policy = blue_green("LINEAR", 550, LinearStepSize=percent(50))
    policy["BlueGreenUpdatePolicy"]["MaximumExecutionTimeoutInSeconds"] = 600
    sagemaker.update_endpoint(
        EndpointName=name, EndpointConfigName=version(sagemaker, "new"), DeploymentConfig=policy
    )
    yield config, name
    next(endpoints, None)


@pytest.mark.parametrize(
    ("policy", "instances", "first"),
    [
        (blue_green("ALL_AT_ONCE", 30), 1, 1.0),
        (blue_green("CANARY", 45, CanarySize=percent(30)), 1, 0.3),
        (blue_green("LINEAR", 30, LinearStepSize=count(1)), 2, 0.5),
        (
            {"RollingUpdatePolicy": {"MaximumBatchSize": count(1), "WaitIntervalInSeconds": 30}},
            2,
            0.5,
        ),
    ],
    ids=["all at once", "canary", "linear", "rolling"],
)
def test_an_update_shifts_the_traffic_step_by_step_and_loses_no_request(
    sagemaker: Any,
    runtime: Any,
    cloud: Emulator,
    endpoint: Endpoint,
    policy: dict[str, Any],
    instances: int,
    first: float,
) -> None:
    # The instances of the test before are gone.
    wait_for(lambda: holding(cloud), lambda instances: instances == 0)
    name = endpoint(version(sagemaker, "old", instances))
    new = version(sagemaker, "new", instances)
    held: set[int] = set()
    with under_load(runtime, name) as load:
        wait_for(lambda: load.versions["old"], lambda answers: answers > 5)
        sagemaker.update_endpoint(
            EndpointName=name, EndpointConfigName=new, DeploymentConfig=policy
        )
        seen, counted = [], []
        while (ended := sagemaker.describe_endpoint(EndpointName=name))[
            "EndpointStatus"
        ] == "Updating":
            if pending := ended.get("PendingDeploymentSummary"):
                assert pending["EndpointConfigName"] == new
                (old,), (fresh,) = ended["ProductionVariants"], pending["ProductionVariants"]
                assert old["CurrentWeight"] == pytest.approx(1 - fresh["CurrentWeight"])
                assert fresh["CurrentInstanceCount"] >= fresh["CurrentWeight"]
                assert fresh["DesiredInstanceCount"] == instances
                seen.append(fresh["CurrentWeight"])
                held.add(holding(cloud))
                if seen[-1] == pytest.approx(first):
                    counted.append(load.counted())
            time.sleep(0.05)
        load.forget()
        wait_for(lambda: load.versions["new"], lambda answers: answers > 5)
    assert seen == sorted(seen)
    assert seen[0] == 0.0
    assert seen[-1] == pytest.approx(1.0)
    assert any(weight == pytest.approx(first) for weight in seen)
    during = counted[-1] - counted[0]
    assert during["new"] > 0
    assert (during["old"] > 0) == (first < 1)
    assert max(held) == (instances + 1 if "RollingUpdatePolicy" in policy else 2 * instances)
    assert load.failures == []
    assert ended["EndpointConfigName"] == new
    assert ended["LastDeploymentConfig"] == policy
    assert "FailureReason" not in ended
    assert "PendingDeploymentSummary" not in ended
    assert ended["ProductionVariants"][0]["CurrentInstanceCount"] == instances
    assert set(load.versions) == {"new"}
    assert holding(cloud) == instances


@pytest.mark.parametrize(
    ("policy", "instances", "most"),
    [
        (blue_green("CANARY", 1200, CanarySize=percent(20)), 1, 0.5),
        (
            {
                "RollingUpdatePolicy": {
                    "MaximumBatchSize": count(1),
                    "WaitIntervalInSeconds": 600,
                    "RollbackMaximumBatchSize": count(1),
                }
            },
            2,
            0.85,
        ),
    ],
    ids=["canary", "rolling"],
)
def test_an_alarm_rolls_back_and_only_the_new_fleet_s_callers_saw_errors(
    sagemaker: Any,
    runtime: Any,
    cloudwatch: Any,
    endpoint: Endpoint,
    policy: dict[str, Any],
    instances: int,
    most: float,
) -> None:
    config = version(sagemaker, "old", instances)
    name = endpoint(config)
    bad = version(sagemaker, "bad", instances, ECHO_AS_IS="1")
    alarm = put_alarm(cloudwatch, name, bad)
    with under_load(runtime, name, b"poison") as load:
        sagemaker.update_endpoint(
            EndpointName=name, EndpointConfigName=bad, DeploymentConfig=guarded(policy, alarm)
        )
        stage(sagemaker, name, "Baking")
        load.forget()
        ended = settled_endpoint(sagemaker, name)
        failures, answers = len(load.failures), load.versions.total()
        load.forget()
        wait_for(lambda: load.versions["old"], lambda answers: answers > 20)
        assert len(load.failures) == failures
    assert ended["EndpointStatus"] == "InService"
    assert ended["EndpointConfigName"] == config
    assert alarm in ended["FailureReason"]
    assert ended["ProductionVariants"][0]["CurrentInstanceCount"] == instances
    assert failures > 10
    assert failures / (failures + answers) < most  # of 0.2 or 0.5 that are expected
    assert all("(400)" in failure for failure in load.failures)


def test_a_new_fleet_that_does_not_become_healthy_is_rolled_back(
    sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    config = version(sagemaker, "old", 2)
    name = endpoint(config)
    broken = version(sagemaker, "broken", 2, ECHO_BROKEN="1")
    policy = {"RollingUpdatePolicy": {"MaximumBatchSize": count(1), "WaitIntervalInSeconds": 30}}
    with under_load(runtime, name) as load:
        sagemaker.update_endpoint(
            EndpointName=name, EndpointConfigName=broken, DeploymentConfig=policy
        )
        ended = settled_endpoint(sagemaker, name)
        wait_for(lambda: load.versions["old"], lambda answers: answers > 5)
    assert load.failures == []
    assert (ended["EndpointStatus"], ended["EndpointConfigName"]) == ("InService", config)
    assert "ping health check" in ended["FailureReason"]
    assert ended["ProductionVariants"][0]["CurrentInstanceCount"] == 2


def test_an_alarm_that_is_in_alarm_already_takes_the_update_back_before_any_traffic(
    sagemaker: Any, runtime: Any, cloudwatch: Any, endpoint: Endpoint
) -> None:
    config = version(sagemaker, "old")
    name, alarm = endpoint(config), unique("alarm")
    cloudwatch.put_metric_alarm(
        AlarmName=alarm,
        Namespace=unique("n"),
        MetricName="m",
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=0,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="breaching",
    )
    wait_for(
        lambda: cloudwatch.describe_alarms(AlarmNames=[alarm])["MetricAlarms"][0]["StateValue"],
        lambda state: state == "ALARM",
    )
    with under_load(runtime, name) as load:
        sagemaker.update_endpoint(
            EndpointName=name,
            EndpointConfigName=version(sagemaker, "new"),
            DeploymentConfig=guarded(blue_green("ALL_AT_ONCE"), alarm),
        )
        ended = settled_endpoint(sagemaker, name)
        wait_for(lambda: load.versions["old"], lambda answers: answers > 5)
    assert (ended["EndpointStatus"], ended["EndpointConfigName"]) == ("InService", config)
    assert alarm in ended["FailureReason"]
    assert set(load.versions) == {"old"}
    assert load.failures == []


def test_a_deployment_config_is_kept_for_updates_that_retain_it(
    sagemaker: Any, cloud: Emulator
) -> None:
    name, config = unique("endpoint"), version(sagemaker, "old", 2)
    kept = blue_green("LINEAR", 30, LinearStepSize=percent(50))
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config, DeploymentConfig=kept)
    assert settled_endpoint(sagemaker, name)["LastDeploymentConfig"] == kept
    change = [{"VariantName": "variant-1", "DesiredInstanceCount": 1}]
    sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=name, DesiredWeightsAndCapacities=change
    )
    settled_endpoint(sagemaker, name)
    scaling = cloud.client("application-autoscaling")
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/variant-1",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    scaling.register_scalable_target(**target, MinCapacity=1, MaxCapacity=3)
    new = version(sagemaker, "new", 2)
    sagemaker.update_endpoint(
        EndpointName=name,
        EndpointConfigName=new,
        RetainDeploymentConfig=True,
        RetainAllVariantProperties=True,
    )
    (half,) = stage(sagemaker, name, "Baking")["PendingDeploymentSummary"]["ProductionVariants"]
    assert (half["CurrentWeight"], half["DesiredInstanceCount"]) == (0.5, 1)
    ended = settled_endpoint(sagemaker, name)
    assert (ended["EndpointConfigName"], ended["LastDeploymentConfig"]) == (new, kept)
    assert ended["ProductionVariants"][0]["CurrentInstanceCount"] == 1
    scaling.register_scalable_target(**target, MinCapacity=2)
    wait_for(
        lambda: sagemaker.describe_endpoint(EndpointName=name),
        lambda described: (
            described["EndpointStatus"] == "InService"
            and described["ProductionVariants"][0]["CurrentInstanceCount"] == 2
        ),
    )
    sagemaker.delete_endpoint(EndpointName=name)


def test_both_fleets_of_an_asynchronous_endpoint_take_from_its_queue(
    cloud: Emulator, s3: Any, bucket: str, local_cloud: LocalCloud
) -> None:
    own = Async(cloud, s3, bucket, Mailbox(local_cloud))
    name = own.endpoint(own.config(environment={"ECHO_VERSION": "old"}))
    own.sagemaker.update_endpoint(
        EndpointName=name,
        EndpointConfigName=own.config(environment={"ECHO_VERSION": "new"}),
        DeploymentConfig=blue_green("CANARY", 60, CanarySize=percent(50)),
    )
    stage(own.sagemaker, name, "Baking")
    sent = [own.send(name, f"request {number}") for number in range(20)]
    answers = [own.answer(one) for one in sent]
    assert [one["body"] for one in answers] == [f"request {number}" for number in range(20)]
    assert {one["environment"]["ECHO_VERSION"] for one in answers} == {"old", "new"}
    assert "FailureReason" not in settled_endpoint(own.sagemaker, name)
    assert own.answer(own.send(name, "last"))["environment"]["ECHO_VERSION"] == "new"
    own.close()


def test_a_planned_failure_takes_an_accepted_update_back(
    sagemaker: Any, cloud: Emulator, endpoint: Endpoint
) -> None:
    config = version(sagemaker, "old")
    name = endpoint(config)
    with FaultsClient(cloud.url).planned(Rule(kind="failed_update", endpoint=name)):
        sagemaker.update_endpoint(
            EndpointName=name,
            EndpointConfigName=version(sagemaker, "new"),
            DeploymentConfig=blue_green("CANARY", CanarySize=percent(10)),
        )
        ended = settled_endpoint(sagemaker, name)
    assert ended["EndpointConfigName"] == config
    assert ended["FailureReason"]


def test_what_aws_does_not_allow_is_refused_and_changes_nothing(
    sagemaker: Any, endpoint: Endpoint
) -> None:
    name = endpoint(version(sagemaker, "old", 2))
    before = sagemaker.describe_endpoint(EndpointName=name)
    new = version(sagemaker, "new", 2)
    model = create_model(sagemaker)
    other = create_endpoint_config(sagemaker, model, model)
    late = blue_green("ALL_AT_ONCE", 600)
    late["BlueGreenUpdatePolicy"]["MaximumExecutionTimeoutInSeconds"] = 600
    rolling = {"RollingUpdatePolicy": {"MaximumBatchSize": count(2), "WaitIntervalInSeconds": 0}}
    for config, policy, why in (
        (new, blue_green("CANARY"), "CanarySize is required"),
        (new, blue_green("ALL_AT_ONCE", CanarySize=count(1)), "CanarySize is not allowed"),
        (new, blue_green("CANARY", CanarySize=percent(51)), "between 1% and 50%"),
        (new, blue_green("CANARY", CanarySize=count(2)), "between 1% and 50%"),
        (new, blue_green("LINEAR", LinearStepSize=percent(9)), "between 10% and 50%"),
        (new, rolling, "between 5% and 50%"),
        (new, rolling | blue_green("ALL_AT_ONCE"), "Only one update policy"),
        (new, late, "should be larger than the total waiting time"),
        (new, guarded(blue_green("ALL_AT_ONCE"), "no-alarm"), "Could not find the alarm no-alarm"),
        (other, blue_green("ALL_AT_ONCE"), "must have the same variant name"),
    ):
        with pytest.raises(ClientError, match=why) as error:
            sagemaker.update_endpoint(
                EndpointName=name, EndpointConfigName=config, DeploymentConfig=policy
            )
        assert error.value.response["Error"]["Code"] == "ValidationException"
    after = sagemaker.describe_endpoint(EndpointName=name)
    del before["ResponseMetadata"], after["ResponseMetadata"]
    assert after == before


def test_a_service_that_is_killed_during_an_update_takes_the_update_back(
    local_cloud: LocalCloud, tmp_path: Path
) -> None:
    for emulator in running_emulator(local_cloud, tmp_path / "state"):
        sagemaker = emulator.client("sagemaker")
        config, name = version(sagemaker, "old"), unique("endpoint")
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
        settled_endpoint(sagemaker, name)
        new = version(sagemaker, "new")
        sagemaker.update_endpoint(
            EndpointName=name,
            EndpointConfigName=new,
            DeploymentConfig=blue_green("ALL_AT_ONCE", 3600),
        )
        stage(sagemaker, name, "Baking")
        emulator.kill()
        emulator.start()
        ended = settled_endpoint(sagemaker, name)
        assert (ended["EndpointStatus"], ended["EndpointConfigName"]) == ("InService", config)
        assert new in ended["FailureReason"]
        answer = emulator.client("sagemaker-runtime").invoke_endpoint(EndpointName=name, Body=b"?")
        assert json.loads(answer["Body"].read())["environment"]["ECHO_VERSION"] == "old"


def test_a_rollback_that_meets_the_quota_leaves_both_fleets_serving(
    sagemaker: Any, runtime: Any, cloudwatch: Any
) -> None:
    name = unique("endpoint")

    def small(release: str) -> str:
        model = create_model(sagemaker, Environment={"ECHO_VERSION": release})
        return create_endpoint_config(sagemaker, model, instances=2, InstanceType="ml.c5.large")

    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=small("old"))
    settled_endpoint(sagemaker, name)
    new = small("new")
    alarm = put_alarm(cloudwatch, name, new)
    policy = {"RollingUpdatePolicy": {"MaximumBatchSize": count(1), "WaitIntervalInSeconds": 60}}
    sagemaker.update_endpoint(
        EndpointName=name, EndpointConfigName=new, DeploymentConfig=guarded(policy, alarm)
    )
    # The second batch is there, so the old fleet lacks an instance, and the quota of three is full.
    wait_for(
        lambda: sagemaker.describe_endpoint(EndpointName=name)["PendingDeploymentSummary"],
        lambda pending: pending["ProductionVariants"][0]["CurrentInstanceCount"] == 2,
    )
    cloudwatch.set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason="as the test asks")
    ended = wait_for(
        lambda: sagemaker.describe_endpoint(EndpointName=name),
        lambda described: described["EndpointStatus"] not in ("Updating", "InService"),
    )
    assert ended["EndpointStatus"] == "UpdateRollbackFailed"
    assert alarm in ended["FailureReason"]
    assert "'ml.c5.large for endpoint usage' is 3" in ended["FailureReason"]
    with under_load(runtime, name) as load:
        wait_for(lambda: load.versions.total(), lambda answers: answers > 20)
    assert load.failures == []
    with pytest.raises(ClientError, match="UpdateRollbackFailed"):
        sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=new)
    sagemaker.delete_endpoint(EndpointName=name)
    sagemaker.get_waiter("endpoint_deleted").wait(
        EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )


def test_an_update_that_takes_too_long_is_rolled_back(
    paced_emulator: Emulator, overdue: tuple[str, str]
) -> None:
    config, name = overdue
    ended = settled_endpoint(paced_emulator.client("sagemaker"), name)
    assert (ended["EndpointStatus"], ended["EndpointConfigName"]) == ("InService", config)
    assert "MaximumExecutionTimeoutInSeconds, 600" in ended["FailureReason"]
