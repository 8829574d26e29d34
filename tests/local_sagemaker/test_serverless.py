"""Serverless endpoints, through boto3 unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.account.billing import (
    DATA_IN,
    DATA_OUT,
    PROVISIONED_COMPUTE,
    PROVISIONED_CONCURRENCY,
    REQUESTS,
    SERVERLESS_COMPUTE,
    Bill,
    Line,
)
from tests.local_sagemaker.conftest import (
    ECHO,
    ROLE,
    Emulator,
    create_endpoint_config,
    create_model,
    made_endpoints,
    running_emulator,
    settled_endpoint,
    unique,
    wait_for,
)

LAPSE = 6
IDLE_SECONDS = 12.0
SETUP_SECONDS = 1.2
Endpoint = Callable[..., str]


@pytest.fixture(scope="module")
def cloud(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator whose environments are idle for two of the machine's seconds."""
    yield from running_emulator(
        local_cloud,
        tmp_path_factory.mktemp("serverless") / "state",
        *("--time-lapse", str(LAPSE), "--metrics-seconds", "0.5"),
        *("--serverless-idle-seconds", str(IDLE_SECONDS)),
        *("--serverless-setup-seconds", str(SETUP_SECONDS), "--serverless-setup-sigma", "0"),
    )


@pytest.fixture(scope="module")
def sagemaker(cloud: Emulator) -> Any:
    return cloud.client("sagemaker")


@pytest.fixture(scope="module")
def runtime(cloud: Emulator) -> Any:
    return cloud.client("sagemaker-runtime")


@pytest.fixture
def endpoint(sagemaker: Any) -> Iterator[Endpoint]:
    yield from made_endpoints(sagemaker)


def serverless(
    sagemaker: Any,
    *models: str,
    memory: int = 2048,
    most: int = 5,
    warm: int = 0,
    environment: dict[str, str] | None = None,
    more: dict[str, Any] | None = None,
    **variant: Any,
) -> str:
    """A configuration with one serverless variant per model, `variant-1` and so on."""
    name = unique("config")
    config = {"MemorySizeInMB": memory, "MaxConcurrency": most}
    config |= {"ProvisionedConcurrency": warm} if warm else {}
    models = models or (create_model(sagemaker, Environment=environment or {}),)
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {
                "VariantName": f"variant-{number}",
                "ModelName": model,
                "ServerlessConfig": config,
                **variant,
            }
            for number, model in enumerate(models, 1)
        ],
        **(more or {}),
    )
    return name


def ask(runtime: Any, endpoint: str, body: str = "hello") -> Any:
    answer = runtime.invoke_endpoint(EndpointName=endpoint, Body=body.encode())
    return json.loads(answer["Body"].read())


def at_once(runtime: Any, endpoint: str, count: int, body: str = "sleep 1.5") -> list[Any]:
    """The answers to so many requests at once; an error's code in the place of an answer."""

    def one(_: int) -> Any:
        try:
            return ask(runtime, endpoint, body)["pid"]
        except ClientError as error:
            return error.response["Error"]["Code"]

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def total(cloud: Emulator, endpoint: str, metric: str, statistic: str = "Sum") -> float:
    """A statistic of a metric of the endpoint's variant, over all that was recorded."""
    monitored = cloud.client("cloudwatch").get_metric_statistics(
        Namespace="/aws/sagemaker/Endpoints" if metric == "MemoryUtilization" else "AWS/SageMaker",
        MetricName=metric,
        Dimensions=[
            {"Name": "EndpointName", "Value": endpoint},
            {"Name": "VariantName", "Value": "variant-1"},
        ],
        StartTime=datetime.now(UTC) - timedelta(hours=1),
        EndTime=datetime.now(UTC) + timedelta(minutes=5),
        Period=86_400,
        Statistics=[statistic],
    )["Datapoints"]
    assert monitored, f"{metric} has no values"
    values = [float(point[statistic]) for point in monitored]
    return max(values) if statistic == "Maximum" else sum(values)


def lines(cloud: Emulator, endpoint: str) -> dict[str, Line]:
    """The endpoint's lines of the bill, by what they count."""
    bill = Bill.model_validate(cloud.control("GET", "/_local/bill"))
    return {line.what: line for line in bill.lines if line.resource.endswith(f"/{endpoint}")}


def test_an_endpoint_is_in_service_without_a_container_and_the_first_request_starts_one(
    cloud: Emulator, sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    mark = {"ECHO_MARK": unique("mark")}
    name = endpoint(serverless(sagemaker, environment=mark))
    assert cloud.containers(**mark) == []
    (variant,) = sagemaker.describe_endpoint(EndpointName=name)["ProductionVariants"]
    wanted = {"MemorySizeInMB": 2048, "MaxConcurrency": 5}
    assert variant["CurrentServerlessConfig"] == variant["DesiredServerlessConfig"] == wanted
    assert not {"CurrentInstanceCount", "DesiredInstanceCount"} & variant.keys()
    assert ask(runtime, name)["pid"] == ask(runtime, name)["pid"]
    assert total(cloud, name, "Invocations") == 2
    assert total(cloud, name, "ModelSetupTime", "SampleCount") == 1
    assert total(cloud, name, "ModelSetupTime") >= SETUP_SECONDS * 1e6 * 0.99
    assert total(cloud, name, "OverheadLatency", "Maximum") >= SETUP_SECONDS * 1e6 * 0.99
    wait_for(lambda: cloud.containers(**mark), lambda found: found == [])


def test_concurrent_requests_each_have_an_environment_and_more_are_throttled(
    cloud: Emulator, sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    name = endpoint(serverless(sagemaker, most=3))
    answers = at_once(runtime, name, 5, "sleep 2")
    pids = [answer for answer in answers if isinstance(answer, int)]
    assert len(pids) == len(set(pids)) == 3
    assert answers.count("ThrottlingException") == 2
    assert total(cloud, name, "Invocation4XXErrors") == 2
    assert total(cloud, name, "ServerlessConcurrentExecutionsUtilization", "Maximum") == 1.0
    assert ask(runtime, name)["pid"] in pids


def test_provisioned_environments_are_warm_and_stay(
    cloud: Emulator, sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    mark = {"ECHO_MARK": unique("mark")}
    name = endpoint(serverless(sagemaker, most=3, warm=1, environment=mark))
    assert len(cloud.containers(**mark)) == 1
    first = ask(runtime, name)["pid"]
    assert total(cloud, name, "ModelSetupTime", "SampleCount") == 1
    pids = set(at_once(runtime, name, 3))
    assert first in pids
    assert len(pids) == 3
    assert total(cloud, name, "ServerlessProvisionedConcurrencyInvocations") == 2
    assert total(cloud, name, "ServerlessProvisionedConcurrencySpilloverInvocations") == 2
    assert total(cloud, name, "ServerlessProvisionedConcurrencyUtilization", "Maximum") == 1.0
    assert total(cloud, name, "ServerlessProvisionedConcurrencyExecutions", "Maximum") == 1.0
    wait_for(lambda: cloud.containers(**mark), lambda found: len(found) == 1)
    with pytest.raises(ClientError, match="the model process exited"):
        ask(runtime, name, "die")
    wait_for(lambda: total(cloud, name, "ModelSetupTime", "SampleCount"), lambda count: count == 4)
    assert ask(runtime, name)["pid"] not in pids
    assert total(cloud, name, "ModelSetupTime", "SampleCount") == 4
    billed = lines(cloud, name)
    assert billed[PROVISIONED_CONCURRENCY].quantity > IDLE_SECONDS * 2
    assert billed[PROVISIONED_COMPUTE].quantity > 0
    assert billed[SERVERLESS_COMPUTE].price is not None
    assert billed[PROVISIONED_CONCURRENCY].price is None
    assert billed[PROVISIONED_CONCURRENCY].price_source == "no price is known"


def test_concurrency_is_changed_without_a_new_configuration(
    cloud: Emulator, sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    mark = {"ECHO_MARK": unique("mark")}
    name = endpoint(serverless(sagemaker, most=2, environment=mark))

    def change(**config: int) -> Any:
        sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=name,
            DesiredWeightsAndCapacities=[
                {"VariantName": "variant-1", "ServerlessUpdateConfig": config}
            ],
        )
        (variant,) = settled_endpoint(sagemaker, name)["ProductionVariants"]
        assert variant["CurrentServerlessConfig"] == variant["DesiredServerlessConfig"]
        return variant["CurrentServerlessConfig"]

    assert change(MaxConcurrency=1, ProvisionedConcurrency=1) == {
        "MemorySizeInMB": 2048,
        "MaxConcurrency": 1,
        "ProvisionedConcurrency": 1,
    }
    assert len(cloud.containers(**mark)) == 1
    assert at_once(runtime, name, 2, "sleep 2").count("ThrottlingException") == 1
    with pytest.raises(ClientError, match="must be less than or equal to MaxConcurrency 1"):
        change(ProvisionedConcurrency=2)
    with pytest.raises(ClientError, match="DesiredInstanceCount is not valid for the serverless"):
        sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=name,
            DesiredWeightsAndCapacities=[{"VariantName": "variant-1", "DesiredInstanceCount": 2}],
        )


def test_an_update_loses_no_request(sagemaker: Any, runtime: Any, endpoint: Endpoint) -> None:
    name = endpoint(serverless(sagemaker, environment={"ECHO_COLOUR": "blue"}))
    green = serverless(sagemaker, environment={"ECHO_COLOUR": "green"})
    colours: list[str] = []
    ended = False

    def ask_on(_: int) -> None:
        while not ended:
            body = "sleep 0.1 x"
            colours.append(ask(runtime, name, body)["environment"]["ECHO_COLOUR"])

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask_on, number) for number in range(3)]
        try:
            wait_for(lambda: len(colours), lambda count: count > 5)
            sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=green)
            wait_for(lambda: colours[-3:], lambda latest: set(latest) == {"green"})
        finally:
            ended = True
        for one in asking:
            one.result()
    assert settled_endpoint(sagemaker, name)["EndpointConfigName"] == green
    assert set(colours) == {"blue", "green"}
    assert ask(runtime, name)["environment"]["ECHO_COLOUR"] == "green"


def test_serverless_becomes_instances_and_never_back(
    sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    config = serverless(sagemaker)
    name = endpoint(config)
    instances = create_endpoint_config(sagemaker, create_model(sagemaker))
    sagemaker.update_endpoint(
        EndpointName=name, EndpointConfigName=instances, RetainAllVariantProperties=True
    )
    (variant,) = settled_endpoint(sagemaker, name)["ProductionVariants"]
    assert (variant["CurrentInstanceCount"], variant["DesiredInstanceCount"]) == (1, 1)
    assert "CurrentServerlessConfig" not in variant
    assert ask(runtime, name)["body"] == "hello"
    with pytest.raises(ClientError, match="cannot convert") as refused:
        sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config)
    assert refused.value.response["Error"]["Code"] == "ValidationException"


def test_payloads_have_at_most_four_megabytes(
    sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    limit = 4 * 1024 * 1024
    name = endpoint(serverless(sagemaker))
    with pytest.raises(ClientError) as refused:
        runtime.invoke_endpoint(EndpointName=name, Body=b"x" * (limit + 1))
    assert refused.value.response["Error"]["Code"] == "ValidationError"
    answer = runtime.invoke_endpoint(EndpointName=name, Body=f"fill {limit}".encode())
    assert len(answer["Body"].read()) == limit
    with pytest.raises(ClientError, match="more than the 4194304 of AWS") as refused:
        runtime.invoke_endpoint(EndpointName=name, Body=f"fill {limit + 1}".encode())
    assert refused.value.response["Error"]["Code"] == "ModelError"


def test_an_environment_beyond_its_memory_is_killed(
    cloud: Emulator, sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    name = endpoint(serverless(sagemaker, memory=1024))
    with pytest.raises(ClientError, match="the model process exited") as failed:
        ask(runtime, name, f"hog {1100 * 1024 * 1024}")
    assert failed.value.response["Error"]["Code"] == "ModelError"
    assert total(cloud, name, "MemoryUtilization", "Maximum") > 100
    assert ask(runtime, name)["body"] == "hello"


def test_an_environment_that_does_not_start_is_a_model_error(
    cloud: Emulator, sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    name = endpoint(serverless(sagemaker, environment={"ECHO_BROKEN": "1"}))
    with pytest.raises(ClientError, match="ended with exit code 1") as failed:
        ask(runtime, name)
    assert failed.value.response["Error"]["Code"] == "ModelError"
    assert total(cloud, name, "Invocation5XXErrors") == 1
    warm = unique("endpoint")
    config = serverless(sagemaker, warm=1, environment={"ECHO_BROKEN": "1"})
    sagemaker.create_endpoint(EndpointName=warm, EndpointConfigName=config)
    described = settled_endpoint(sagemaker, warm)
    assert described["EndpointStatus"] == "Failed"
    assert "ended with exit code 1" in described["FailureReason"]
    sagemaker.delete_endpoint(EndpointName=warm)


VPC = {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory": 1536}, "Valid values are in 1 GB increments"),
        ({"most": 1, "warm": 2}, "must be less than or equal to MaxConcurrency 1"),
        ({"InstanceType": "ml.m5.large"}, "InstanceType must not be specified"),
        ({"InitialInstanceCount": 1}, "InitialInstanceCount must not be specified"),
        ({"VolumeSizeInGB": 5}, "VolumeSizeInGB must not be specified"),
        ({"more": {"VpcConfig": VPC}}, "VPC configuration is not supported"),
        ({"more": {"EnableNetworkIsolation": True}}, "Network isolation is not supported"),
        (
            {"more": {"AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://a/b"}}}},
            "AsyncInferenceConfig is not supported",
        ),
    ],
)
def test_what_a_serverless_variant_may_not_have_is_refused(
    sagemaker: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ClientError, match=message) as refused:
        serverless(sagemaker, **arguments)
    assert refused.value.response["Error"]["Code"] == "ValidationException"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"VpcConfig": VPC}, "VPC configuration is not supported"),
        ({"EnableNetworkIsolation": True}, "Network isolation is not supported"),
        ({"Containers": [{"Image": ECHO}, {"Image": ECHO}]}, "Inference pipelines are not"),
        (
            {
                "Containers": [
                    {"Image": ECHO, "ContainerHostname": "one"},
                    {"Image": ECHO, "ContainerHostname": "two"},
                ],
                "InferenceExecutionConfig": {"Mode": "Direct"},
            },
            "Multi-container endpoints are not supported",
        ),
        (
            {"Containers": [{"Image": ECHO, "Mode": "MultiModel", "ModelDataUrl": "s3://a/b/"}]},
            "Multi-Model Endpoints are not supported",
        ),
        (
            {"Containers": [{"Image": ECHO, "ImageConfig": {"RepositoryAccessMode": "Vpc"}}]},
            "Private Docker registries are not supported",
        ),
    ],
)
def test_models_that_are_excluded_are_refused(
    sagemaker: Any, model: dict[str, Any], message: str
) -> None:
    name = unique("model")
    containers = {"Containers": [{"Image": ECHO}]}
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, **(containers | model))
    with pytest.raises(ClientError, match=message):
        serverless(sagemaker, name)


def test_several_variants_are_refused(sagemaker: Any) -> None:
    with pytest.raises(ClientError, match="Multiple production variants are not supported"):
        serverless(sagemaker, create_model(sagemaker), create_model(sagemaker))


def test_the_account_has_a_total_concurrency(sagemaker: Any, endpoint: Endpoint) -> None:
    large = serverless(sagemaker, most=200)
    with pytest.raises(ClientError, match="Maximum total concurrency") as refused:
        [endpoint(large) for _ in range(6)]
    assert refused.value.response["Error"]["Code"] == "ResourceLimitExceeded"


def test_a_run_is_billed_by_the_millisecond_with_the_tags_of_its_time(
    cloud: Emulator, sagemaker: Any, runtime: Any
) -> None:
    name = unique("endpoint")
    sagemaker.create_endpoint(
        EndpointName=name,
        EndpointConfigName=serverless(sagemaker, memory=3072),
        Tags=[{"Key": "tenantry:tenant", "Value": "acme"}],
    )
    arn = settled_endpoint(sagemaker, name)["EndpointArn"]
    sent = b"sleep 0.5"
    answer = runtime.invoke_endpoint(EndpointName=name, Body=sent)["Body"].read()
    latency = total(cloud, name, "ModelLatency") / 1e6
    billed = lines(cloud, name)
    compute = billed[SERVERLESS_COMPUTE]
    assert (compute.kind, compute.unit) == ("3072 MB", "GB-second")
    milliseconds = compute.quantity / 3 * 1000
    assert milliseconds == pytest.approx(round(milliseconds))
    # The metric has three digits; the bill is rounded up, and has the way to the container.
    assert 0.99 * latency <= compute.quantity / 3 < latency + 0.5 * LAPSE
    assert compute.price is not None
    assert compute.cost == pytest.approx(compute.quantity * compute.price)
    assert billed[REQUESTS].quantity == 1
    assert billed[DATA_IN].quantity * 1024**3 == pytest.approx(len(sent))
    assert billed[DATA_OUT].quantity * 1024**3 == pytest.approx(len(answer))
    assert {line.usage for line in billed.values()} == {"serverless"}
    assert all(line.tags == {"tenantry:tenant": "acme"} for line in billed.values())
    sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "tenantry:tenant", "Value": "zeta"}])
    ask(runtime, name, "pass 1")
    sagemaker.delete_endpoint(EndpointName=name)
    wait_for(
        lambda: [one["EndpointName"] for one in sagemaker.list_endpoints()["Endpoints"]],
        lambda names: name not in names,
    )
    bill = Bill.model_validate(cloud.control("GET", "/_local/bill?tag=tenantry:tenant"))
    requests = {
        line.tags["tenantry:tenant"]: line.quantity
        for line in bill.lines
        if line.resource == arn and line.what == REQUESTS
    }
    assert requests == {"acme": 1, "zeta": 1}
    assert bill.by_tag is not None
    shares = {share.value: share.cost for share in bill.by_tag}
    acme = [line.cost or 0 for line in bill.lines if line.tags == {"tenantry:tenant": "acme"}]
    assert shares["acme"] == pytest.approx(sum(acme))
    assert sum(shares.values()) == pytest.approx(bill.cost)


def test_application_auto_scaling_keeps_provisioned_concurrency_within_its_bounds(
    cloud: Emulator, sagemaker: Any, endpoint: Endpoint
) -> None:
    scaling = cloud.client("application-autoscaling")
    name = endpoint(serverless(sagemaker, warm=1))
    scope = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/variant-1",
        "ScalableDimension": "sagemaker:variant:DesiredProvisionedConcurrency",
    }
    instances = scope | {"ScalableDimension": "sagemaker:variant:DesiredInstanceCount"}
    with pytest.raises(ClientError, match="has no desired instance count"):
        scaling.register_scalable_target(**instances, MinCapacity=1, MaxCapacity=2)
    with pytest.raises(ClientError, match="MinCapacity must be at least 1"):
        scaling.register_scalable_target(**scope, MinCapacity=0, MaxCapacity=2)
    scaling.register_scalable_target(**scope, MinCapacity=2, MaxCapacity=3)

    def provisioned() -> Any:
        (variant,) = sagemaker.describe_endpoint(EndpointName=name)["ProductionVariants"]
        return variant["CurrentServerlessConfig"]["ProvisionedConcurrency"]

    wait_for(provisioned, lambda count: count == 2)
    settled_endpoint(sagemaker, name)
    found = wait_for(
        lambda: scaling.describe_scaling_activities(ServiceNamespace="sagemaker")[
            "ScalingActivities"
        ],
        lambda activities: activities[0]["StatusCode"] == "Successful",
    )
    assert found[0]["Description"] == "Setting desired provisioned concurrency to 2."
    tracking = {
        "TargetValue": 0.7,
        "PredefinedMetricSpecification": {
            "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
        },
    }
    policy = {"PolicyName": "tracking", "PolicyType": "TargetTrackingScaling", **scope}
    member = "TargetTrackingScalingPolicyConfiguration"
    with pytest.raises(ClientError, match="is of the dimension"):
        scaling.put_scaling_policy(**policy, **{member: tracking})
    tracking["PredefinedMetricSpecification"] = {
        "PredefinedMetricType": "SageMakerVariantProvisionedConcurrencyUtilization"
    }
    alarms = scaling.put_scaling_policy(**policy, **{member: tracking})["Alarms"]
    assert len(alarms) == 2
    scaling.deregister_scalable_target(**scope)


def test_an_endpoint_outlives_a_restart_without_its_environments(
    cloud: Emulator, sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    marks = [{"ECHO_MARK": unique("mark")} for _ in range(2)]
    cold = endpoint(serverless(sagemaker, environment=marks[0]))
    warm = endpoint(serverless(sagemaker, warm=1, environment=marks[1]))
    ask(runtime, cold)
    cloud.stop()
    cloud.start()
    for name in (cold, warm):
        assert settled_or_updating(sagemaker, name) == "InService"
    assert [len(cloud.containers(**mark)) for mark in marks] == [0, 1]
    assert ask(runtime, cold)["body"] == ask(runtime, warm)["body"] == "hello"


def settled_or_updating(sagemaker: Any, name: str) -> Any:
    """The status after the start, in which the environments that are kept warm come up."""
    return wait_for(
        lambda: sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"],
        lambda status: status != "SystemUpdating",
    )


@pytest.mark.slow
def test_target_tracking_follows_the_utilization_of_provisioned_concurrency(
    paced_emulator: Emulator, paced_endpoint: Endpoint
) -> None:
    sagemaker = paced_emulator.client("sagemaker")
    runtime = paced_emulator.client("sagemaker-runtime")
    scaling = paced_emulator.client("application-autoscaling")
    name = paced_endpoint(serverless(sagemaker, most=3, warm=1))
    scope = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/variant-1",
        "ScalableDimension": "sagemaker:variant:DesiredProvisionedConcurrency",
    }
    scaling.register_scalable_target(**scope, MinCapacity=1, MaxCapacity=2)
    kind = "SageMakerVariantProvisionedConcurrencyUtilization"
    scaling.put_scaling_policy(
        **scope,
        PolicyName="tracking",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": 0.5,
            "PredefinedMetricSpecification": {"PredefinedMetricType": kind},
        },
    )

    def provisioned() -> Any:
        ask(runtime, name, "sleep 0.2")
        (variant,) = sagemaker.describe_endpoint(EndpointName=name)["ProductionVariants"]
        return variant["DesiredServerlessConfig"]["ProvisionedConcurrency"]

    wait_for(provisioned, lambda count: count == 2)
