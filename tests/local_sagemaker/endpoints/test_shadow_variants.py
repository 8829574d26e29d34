"""Shadow variants, through boto3 unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from infrastructure.local_cloud import LocalCloud
from tests.local_sagemaker.conftest import (
    Emulator,
    create_model,
    settled_endpoint,
    unique,
    wait_for,
)
from tests.local_sagemaker.endpoints.load import under_load

Endpoint = Callable[..., str]


def shadowed(sagemaker: Any, weight: float = 1.0, **environment: str) -> str:
    """A configuration of the container "live" with a shadow of the container "shadow"."""

    def variant(name: str, **more: Any) -> dict[str, Any]:
        model = create_model(
            sagemaker,
            Environment={"ECHO_VERSION": name, **(environment if name == "shadow" else {})},
        )
        return {
            "VariantName": name,
            "ModelName": model,
            "InstanceType": "ml.m5.large",
            "InitialInstanceCount": 1,
            **more,
        }

    config = unique("config")
    sagemaker.create_endpoint_config(
        EndpointConfigName=config,
        ProductionVariants=[variant("live")],
        ShadowProductionVariants=[variant("shadow", InitialVariantWeight=weight)],
    )
    return config


@pytest.fixture(scope="module")
def logs(local_cloud: LocalCloud) -> Any:
    return boto3.client("logs", endpoint_url=local_cloud.ministack_url, region_name="eu-west-1")


def copies(logs: Any, endpoint: str) -> list[dict[str, Any]]:
    """The lines about copies to the shadow."""
    try:
        events = logs.filter_log_events(logGroupName=f"/aws/sagemaker/Endpoints/{endpoint}")
    except logs.exceptions.ResourceNotFoundException:
        return []
    return [
        {"id": event["message"].split("[")[2].split("]")[0]}
        | json.loads(event["message"].partition("] {")[2].join(["{", ""]))
        for event in events["events"]
        if event["logStreamName"].endswith("/data-log")
    ]


def total(emulator: Emulator, endpoint: str, variant: str, metric: str) -> float:
    now = datetime.now(UTC)
    points = emulator.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName=metric,
        Dimensions=[
            {"Name": "EndpointName", "Value": endpoint},
            {"Name": "VariantName", "Value": variant},
        ],
        StartTime=now - timedelta(minutes=10),
        EndTime=now + timedelta(minutes=2),
        Period=60,
        Statistics=["Sum"],
    )["Datapoints"]
    return float(sum(point["Sum"] for point in points))


def test_a_shadow_sees_the_requests_and_answers_nobody(
    sagemaker: Any, runtime: Any, emulator: Emulator, logs: Any, endpoint: Endpoint
) -> None:
    name = endpoint(shadowed(sagemaker))
    (shadow,) = sagemaker.describe_endpoint(EndpointName=name)["ShadowProductionVariants"]
    assert (shadow["VariantName"], shadow["CurrentInstanceCount"]) == ("shadow", 1)
    runtime.invoke_endpoint(EndpointName=name, Body=b"upper same", InferenceId="first")
    with pytest.raises(ClientError, match="as you wished"):
        runtime.invoke_endpoint(EndpointName=name, Body=b"fail 503", InferenceId="third")
    with under_load(runtime, name, b"secret words") as load:
        wait_for(lambda: load.versions.total(), lambda answers: answers > 30)
    assert load.failures == []
    assert set(load.versions) == {"live"}
    asked = load.versions.total() + 2
    lines = wait_for(lambda: copies(logs, name), lambda lines: len(lines) == asked)
    assert "secret" not in json.dumps(lines)
    by_id = {line["id"]: line for line in lines}
    same, failed = by_id["first"], by_id["third"]
    assert same["agree"] is True
    assert same["shadow"]["sha256"] == same["production"]["sha256"]
    assert same["shadow"]["bytes"] == len(b"SAME")
    assert same["shadow"]["latencyMicroseconds"] > 0
    assert (failed["production"]["status"], failed["shadow"]["status"]) == (503, 503)
    assert sum(line["agree"] for line in lines) == 2  # the others tell their versions
    assert total(emulator, name, "shadow", "Invocations") == asked
    assert total(emulator, name, "shadow", "Invocation5XXErrors") == 1
    with pytest.raises(ClientError, match="Variant shadow of endpoint"):
        runtime.invoke_endpoint(EndpointName=name, Body=b"?", TargetVariant="shadow")


def test_a_slow_or_failing_shadow_delays_and_fails_no_caller_and_gets_its_share(
    sagemaker: Any, runtime: Any, emulator: Emulator, logs: Any, endpoint: Endpoint
) -> None:
    name = endpoint(shadowed(sagemaker, 0.5, ECHO_AS_IS="1"))
    with under_load(runtime, name, b"poison") as load:
        wait_for(lambda: load.versions["live"], lambda answers: answers > 100)
    assert load.failures == []
    asked = load.versions["live"]
    wait_for(
        lambda: len(copies(logs, name)) - total(emulator, name, "shadow", "Invocations"),
        lambda difference: difference == 0,
    )
    lines = copies(logs, name)
    assert 0.2 < len(lines) / asked < 0.8
    assert {line["shadow"]["status"] for line in lines} == {400}
    assert not any(line["agree"] for line in lines)
    change = [{"VariantName": "shadow", "DesiredWeight": 0.0, "DesiredInstanceCount": 2}]
    sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=name, DesiredWeightsAndCapacities=change
    )
    described = settled_endpoint(sagemaker, name)
    (shadow,) = described["ShadowProductionVariants"]
    assert (shadow["CurrentWeight"], shadow["CurrentInstanceCount"]) == (0.0, 2)
    assert [one["VariantName"] for one in described["ProductionVariants"]] == ["live"]
    runtime.invoke_endpoint(EndpointName=name, Body=b"poison")
    assert total(emulator, name, "shadow", "Invocations") == len(lines)


def test_an_endpoint_has_one_production_and_one_shadow_variant(sagemaker: Any) -> None:
    model = create_model(sagemaker)

    def variant(name: str) -> dict[str, Any]:
        return {
            "VariantName": name,
            "ModelName": model,
            "InstanceType": "ml.m5.large",
            "InitialInstanceCount": 1,
        }

    def create(production: list[str], shadows: list[str], **more: Any) -> None:
        sagemaker.create_endpoint_config(
            EndpointConfigName=unique("c"),
            ProductionVariants=[variant(name) for name in production],
            ShadowProductionVariants=[variant(name) for name in shadows],
            **more,
        )

    for production, shadows in ((["a", "b"], ["c"]), (["a"], ["b", "c"])):
        with pytest.raises(ClientError, match="you can only specify one variant for"):
            create(production, shadows)
    with pytest.raises(ClientError, match="must have different names"):
        create(["a"], ["a"])
    output = {"OutputConfig": {"S3OutputPath": "s3://bucket/out/"}}
    with pytest.raises(ClientError, match="not supported when specifying an AsyncInferenceConfig"):
        create(["a"], ["b"], AsyncInferenceConfig=output)
    create(["a"], ["b"])
