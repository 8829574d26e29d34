"""Models of several containers, as inference pipelines and with direct invocation, through boto3
unchanged."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.account.billing import Bill
from local_sagemaker.faults.client import FaultsClient
from local_sagemaker.faults.plan import Rule, Strike
from tests.local_sagemaker.conftest import (
    ECHO,
    ROLE,
    Emulator,
    create_endpoint_config,
    create_model,
    settled_endpoint,
    tar_gz,
    unique,
    wait_for,
)
from tests.local_sagemaker.test_transform import AS_IS, ended, put, read, transform

Endpoint = Callable[..., str]
OTHER_ECHO = ECHO.replace("echo:1", "echo:2")
DIRECT = {"Mode": "Direct"}


def containers(*changes: dict[str, Any], names: str = "first second") -> list[dict[str, Any]]:
    """Two echo containers with names, from images with different tags."""
    return [
        {"Image": image, "ContainerHostname": name, **change}
        for image, name, change in zip(
            (ECHO, OTHER_ECHO), names.split(), changes or ({}, {}), strict=True
        )
    ]


def multi_container(sagemaker: Any, given: list[dict[str, Any]], **more: Any) -> str:
    """The name of a new model of these containers."""
    name = unique("model")
    sagemaker.create_model(ModelName=name, Containers=given, ExecutionRoleArn=ROLE, **more)
    return name


def ask(runtime: Any, endpoint: str, body: str = "hello", **request: Any) -> Any:
    answer = runtime.invoke_endpoint(EndpointName=endpoint, Body=body.encode(), **request)
    return json.loads(answer["Body"].read())


def refusal(runtime: Any, endpoint: str, body: str = "hello", **request: Any) -> Any:
    """The error that a request ends with."""
    with pytest.raises(ClientError) as error:
        ask(runtime, endpoint, body, **request)
    return error.value.response


def metric(
    emulator: Emulator, name: str, endpoint: str, container: str | None, namespace: str
) -> dict[str, float]:
    """Count and sum of a metric's values, of a container or the variant; zeros of no values."""
    dimensions = {"EndpointName": endpoint, "VariantName": "variant-1"}
    if container is not None:
        dimensions["ContainerName"] = container
    now = datetime.datetime.now(datetime.UTC)
    points = emulator.client("cloudwatch").get_metric_statistics(
        Namespace=namespace,
        MetricName=name,
        Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
        Statistics=["SampleCount", "Sum"],
        StartTime=now - datetime.timedelta(minutes=10),
        EndTime=now + datetime.timedelta(minutes=10),
        Period=60,
    )["Datapoints"]
    return {
        statistic: sum(point[statistic] for point in points) for statistic in ("SampleCount", "Sum")
    }


def of_calls(emulator: Emulator, endpoint: str, container: str | None, name: str) -> float:
    return metric(emulator, name, endpoint, container, "AWS/SageMaker")["Sum"]


def test_each_containers_answer_is_the_next_ones_request(
    sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    environments = [{"Environment": {"ECHO_NAME": name}} for name in ("one", "two", "three")]
    model = multi_container(sagemaker, [{"Image": ECHO, **given} for given in environments])
    name = endpoint(create_endpoint_config(sagemaker, model))
    request = {"ContentType": "text/csv", "Accept": "text/html", "InferenceId": "i-7"}
    third = ask(runtime, name, **request)
    second = json.loads(third["body"])
    first = json.loads(second["body"])
    asked = [first, second, third]
    assert first["body"] == "hello"
    assert [one["environment"]["ECHO_NAME"] for one in asked] == ["one", "two", "three"]
    assert [one["content_type"] for one in asked] == [
        "text/csv",
        "application/json",
        "application/json",
    ]
    assert [one["accept"] for one in asked] == [None, None, "text/html"]
    assert [one["inference"] for one in asked] == ["i-7"] * 3
    assert len({one["pid"] for one in asked}) == 3
    ports = {int(one["environment"]["SAGEMAKER_BIND_TO_PORT"]) for one in asked}
    assert len(ports) == 3
    assert max(ports) < 32_767  # AWS's multi-model-server refuses others
    (variant,) = sagemaker.describe_endpoint(EndpointName=name)["ProductionVariants"]
    assert [one["SpecifiedImage"] for one in variant["DeployedImages"]] == [ECHO] * 3
    final = runtime.invoke_endpoint(EndpointName=name, Body=b"pass pass upper abc")
    assert (final["ContentType"], final["Body"].read()) == ("text/plain", b"ABC")
    unknown = refusal(runtime, name, TargetContainerHostname="container-1")["Error"]
    assert unknown["Code"] == "ValidationError"
    assert (
        "only valid for an endpoint that is configured for direct invocation"
        in (unknown["Message"])
    )
    failed = refusal(runtime, name, "pass fail 503")
    assert failed["Error"]["Code"] == "ModelError"
    assert "Received server error (503) from container-2" in failed["Error"]["Message"]
    assert failed["OriginalStatusCode"] == 503


def test_a_pipeline_has_up_to_15_containers(
    sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    model = multi_container(sagemaker, [{"Image": ECHO}] * 15)
    name = endpoint(create_endpoint_config(sagemaker, model))
    answer = runtime.invoke_endpoint(EndpointName=name, Body=b"pass " * 14 + b"upper abc")
    assert answer["Body"].read() == b"ABC"
    failed = refusal(runtime, name, "pass " * 14 + "fail 500")["Error"]["Message"]
    assert "from container-15 with" in failed


def test_an_answer_that_is_too_large_for_the_next_container_is_a_model_error(
    sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    name = endpoint(create_endpoint_config(sagemaker, multi_container(sagemaker, containers())))
    assert len(ask(runtime, name, f"fill {5 * 1024**2}")["body"]) == 5 * 1024**2
    error = refusal(runtime, name, f"fill {5 * 1024**2 + 1}")["Error"]
    assert error["Code"] == "ModelError"
    assert (
        "Received response from first with status code 200. However, the request payload from "
        "first to second is 5242881 bytes, which has exceeded the maximum limit of 5 MB."
    ) in error["Message"]


def test_a_direct_request_goes_to_the_container_that_it_names(
    sagemaker: Any, runtime: Any, local_cloud: LocalCloud, endpoint: Endpoint
) -> None:
    model = multi_container(sagemaker, containers(), InferenceExecutionConfig=DIRECT)
    name = endpoint(create_endpoint_config(sagemaker, model))
    pids = {
        hostname: ask(runtime, name, "sleep 0", Accept="a/b", TargetContainerHostname=hostname)
        for hostname in ("first", "second")
    }
    assert pids["first"]["pid"] != pids["second"]["pid"]
    assert [one["accept"] for one in pids.values()] == ["a/b", "a/b"]
    for request, words in (
        ({}, "TargetContainerHostname is required"),
        ({"TargetContainerHostname": "third"}, "third does not exist in the endpoint"),
        ({"TargetContainerHostname": "first", "TargetModel": "m"}, "multi-model endpoint"),
    ):
        error = refusal(runtime, name, **request)["Error"]
        assert (error["Code"], words in error["Message"]) == ("ValidationError", True), error
    failed = refusal(runtime, name, "fail 400", TargetContainerHostname="second")
    assert "Received client error (400) from second" in failed["Error"]["Message"]

    logs: Any = boto3.client(
        "logs", endpoint_url=local_cloud.ministack_url, region_name="eu-west-1"
    )

    def streams() -> list[str]:
        found = logs.describe_log_streams(logGroupName=f"/aws/sagemaker/Endpoints/{name}")
        return sorted(stream["logStreamName"] for stream in found["logStreams"])

    wait_for(
        lambda: logs.describe_log_groups(logGroupNamePrefix=f"/aws/sagemaker/Endpoints/{name}"),
        lambda found: found["logGroups"],
    )
    first, second = wait_for(streams, lambda found: len(found) == 2)
    assert first.split("/")[:2] == second.split("/")[:2] == ["variant-1", first.split("/")[1]]
    assert [first.split("/")[2], second.split("/")[2]] == ["first", "second"]


def test_a_container_with_direct_invocation_has_metrics_of_its_own(
    sagemaker: Any, runtime: Any, emulator: Emulator, endpoint: Endpoint
) -> None:
    model = multi_container(sagemaker, containers(), InferenceExecutionConfig=DIRECT)
    name = endpoint(create_endpoint_config(sagemaker, model))
    for _ in range(3):
        ask(runtime, name, "sleep 0.05", TargetContainerHostname="first")
    refusal(runtime, name, "fail 500", TargetContainerHostname="second")

    def values(metric_name: str) -> list[float]:
        return [of_calls(emulator, name, one, metric_name) for one in ("first", "second", None)]

    assert values("Invocations") == [3, 1, 4]
    assert values("Invocation5XXErrors") == [0, 1, 1]
    assert values("Invocation4XXErrors") == [0, 0, 0]
    first, second, variant = values("ContainerLatency")
    assert first >= 150_000
    assert (second, variant) == (0, 0)
    assert of_calls(emulator, name, None, "ModelLatency") == pytest.approx(first, rel=0.02)
    assert all(overhead > 0 for overhead in values("OverheadLatency"))

    def samples(metric_name: str) -> list[float]:
        return [
            metric(emulator, metric_name, name, one, "/aws/sagemaker/Endpoints")["SampleCount"]
            for one in ("first", "second", None)
        ]

    wait_for(lambda: samples("CPUUtilization"), all)

    def memory() -> list[float]:
        return [
            metric(emulator, "MemoryUtilization", name, one, "/aws/sagemaker/Endpoints")["Sum"]
            for one in ("first", "second", None)
        ]

    # Another minute's sample may come between two of the three readings.
    wait_for(memory, lambda used: used[2] > 0 and used[2] == pytest.approx(used[0] + used[1]))
    assert samples("DiskUtilization")[:2] == [0, 0]


def test_the_latency_of_a_pipeline_is_that_of_all_its_containers(
    sagemaker: Any, runtime: Any, emulator: Emulator, endpoint: Endpoint
) -> None:
    name = endpoint(create_endpoint_config(sagemaker, multi_container(sagemaker, containers())))
    ask(runtime, name, "pass sleep 0.3")
    first, second = (
        of_calls(emulator, name, one, "ContainerLatency") for one in ("first", "second")
    )
    assert first > 0
    assert second >= 300_000
    assert of_calls(emulator, name, None, "ModelLatency") == pytest.approx(first + second, rel=0.02)
    refusal(runtime, name, "pass fail 500")
    assert of_calls(emulator, name, "first", "ContainerLatency") > first
    assert of_calls(emulator, name, "second", "ContainerLatency") == second
    assert of_calls(emulator, name, "first", "Invocations") == 0


def test_the_death_of_one_container_takes_its_instance_out(
    sagemaker: Any, runtime: Any, emulator: Emulator, faults: FaultsClient, endpoint: Endpoint
) -> None:
    model = multi_container(sagemaker, containers(), InferenceExecutionConfig=DIRECT)
    began = time.monotonic()
    name = endpoint(create_endpoint_config(sagemaker, model))

    def pid(hostname: str) -> Any:
        try:
            return ask(runtime, name, TargetContainerHostname=hostname)["pid"]
        except ClientError:
            return None

    before = {pid("first"), pid("second")}
    struck = faults.now(Strike(kind="kill_container", endpoint=name, image="*/echo:2"))
    assert struck == [f"endpoint {name}/variant-1/second"]
    after = wait_for(
        lambda: {pid("first"), pid("second")}, lambda pids: None not in pids and not pids & before
    )
    assert len(after) == 2
    assert not before & set(emulator.containers())
    # One machine is billed, whatever number of containers it runs.
    bill = Bill.model_validate(emulator.control("GET", "/_local/bill"))
    (billed,) = [one for one in bill.resources if str(one.resource).endswith(f"endpoint/{name}")]
    assert 0 < billed.instance_seconds <= time.monotonic() - began


def test_the_time_of_a_request_is_that_of_all_containers_together(
    hurried_emulator: Emulator,
) -> None:
    client, runtime = (
        hurried_emulator.client("sagemaker"),
        hurried_emulator.client("sagemaker-runtime"),
    )
    name = unique("endpoint")
    config = create_endpoint_config(client, multi_container(client, containers()))
    client.create_endpoint(EndpointName=name, EndpointConfigName=config)
    assert settled_endpoint(client, name)["EndpointStatus"] == "InService"
    # AWS's minute is a second here, so that one container has the time, and two have not.
    slow = Rule(kind="slow_container", endpoint=name, seconds=0.6)
    faults = FaultsClient(hurried_emulator.url)
    with faults.planned(slow):
        error = refusal(runtime, name)["Error"]
    assert "timed out while waiting for a response from container second" in error["Message"]
    assert "(0) from second" in error["Message"]
    assert ask(runtime, name)["content_type"] == "application/json"
    client.delete_endpoint(EndpointName=name)


def test_a_fault_of_instances_selects_by_any_image_of_the_model(
    sagemaker: Any, faults: FaultsClient, endpoint: Endpoint
) -> None:
    config = create_endpoint_config(sagemaker, multi_container(sagemaker, containers()))
    faults.plan(
        [
            Rule(kind="slow_provisioning", image=image, after_seconds=(0, 0))
            for image in ("*/echo:3", "*/echo:2", "*/echo:1")
        ]
    )
    name = endpoint(config)
    assert [rule.happened for rule in faults.report().rules] == [0, 1, 0]
    assert [event.where for event in faults.report().happened] == [f"endpoint {name}/variant-1"]


def test_a_container_that_does_not_start_fails_the_endpoint_and_leaves_no_other(
    sagemaker: Any, emulator: Emulator
) -> None:
    before = set(emulator.containers())
    model = multi_container(sagemaker, containers({}, {"Environment": {"ECHO_BROKEN": "1"}}))
    name = unique("endpoint")
    sagemaker.create_endpoint(
        EndpointName=name, EndpointConfigName=create_endpoint_config(sagemaker, model)
    )
    description = settled_endpoint(sagemaker, name)
    assert description["EndpointStatus"] == "Failed"
    assert "The container second ended with exit code 1" in description["FailureReason"]
    assert set(emulator.containers()) <= before
    sagemaker.delete_endpoint(EndpointName=name)


def test_the_model_that_a_request_names_goes_to_the_multi_model_container_of_a_pipeline(
    sagemaker: Any, runtime: Any, s3: Any, bucket: str, endpoint: Endpoint
) -> None:
    s3.put_object(Bucket=bucket, Key="models/a.tar.gz", Body=tar_gz(weights="1"))
    s3.put_object(Bucket=bucket, Key="models/bad.tar.gz", Body=tar_gz(refuse="another family"))
    many = {"Mode": "MultiModel", "ModelDataUrl": f"s3://{bucket}/models/"}
    model = multi_container(sagemaker, containers({}, many))
    name = endpoint(create_endpoint_config(sagemaker, model))
    second = ask(runtime, name, TargetModel="a.tar.gz")
    first = json.loads(second["body"])
    assert (second["files"], second["target"]) == ({"weights": "1"}, "a.tar.gz")
    assert (first["files"], first["target"], first["body"]) == ({}, None, "hello")
    assert [one["environment"]["SAGEMAKER_MULTI_MODEL"] for one in (first, second)] == [
        "false",
        "true",
    ]
    assert "TargetModel is required" in refusal(runtime, name)["Error"]["Message"]
    refused = refusal(runtime, name, TargetModel="bad.tar.gz")
    assert "(400) from second" in refused["Error"]["Message"]
    assert "another family" in refused["OriginalMessage"]


def test_a_model_of_several_containers_is_described_as_it_was_given(sagemaker: Any) -> None:
    given = containers({"Environment": {"A": "b"}}, {"Mode": "SingleModel"})
    for mode in ({"Mode": "Serial"}, DIRECT):
        model = multi_container(sagemaker, given, InferenceExecutionConfig=mode)
        described = sagemaker.describe_model(ModelName=model)
        assert described["Containers"] == given
        assert described["InferenceExecutionConfig"] == mode
        assert "PrimaryContainer" not in described


def test_a_transform_job_sends_its_records_through_a_pipeline(
    sagemaker: Any, s3: Any, bucket: str, local_cloud: LocalCloud
) -> None:
    put(s3, bucket, **{"lines.txt": "alpha\nbeta"})
    environment = {"ECHO_EXECUTION_PARAMETERS": json.dumps({"BatchStrategy": "SingleRecord"})}
    model = multi_container(
        sagemaker, containers({"Environment": AS_IS | environment}, {}, names="capitals telling")
    )
    job = transform(
        sagemaker,
        bucket,
        input_={"SplitType": "Line", "ContentType": "text/csv"},
        output={"AssembleWith": "Line", "Accept": "application/json"},
        ModelName=model,
    )
    assert ended(sagemaker, job)["TransformJobStatus"] == "Completed"
    told = [json.loads(line) for line in read(s3, bucket, "out/lines.txt.out").splitlines()]
    assert [one["body"] for one in told] == ["ALPHA\n", "BETA\n"]
    assert {one["content_type"] for one in told} == {"text/csv"}
    assert {one["accept"] for one in told} == {"application/json"}
    assert {one["environment"]["SAGEMAKER_BATCH"] for one in told} == {"true"}


def test_a_transform_job_fails_with_the_container_that_refused_a_record(
    sagemaker: Any, s3: Any, bucket: str
) -> None:
    put(s3, bucket, good="hello", bad="pass fail 400")
    model = multi_container(sagemaker, [{"Image": ECHO}, {"Image": ECHO}])
    job = ended(sagemaker, transform(sagemaker, bucket, ModelName=model))
    assert job["TransformJobStatus"] == "Failed"
    assert "1 of 2 input objects failed" in job["FailureReason"]
    assert "the container container-2 answered 400" in job["FailureReason"]
    assert json.loads(read(s3, bucket, "out/good.out"))["content_type"] == "application/json"


def test_a_transform_job_without_a_model_to_name_takes_no_multi_model_container(
    sagemaker: Any, bucket: str
) -> None:
    model = multi_container(sagemaker, containers({}, MANY))
    with pytest.raises(ClientError, match="does not support multi-model containers"):
        transform(sagemaker, bucket, ModelName=model)


def test_an_asynchronous_request_passes_through_a_pipeline(
    sagemaker: Any,
    runtime: Any,
    emulator: Emulator,
    s3: Any,
    bucket: str,
    endpoint: Endpoint,
    local_cloud: LocalCloud,
) -> None:
    model = multi_container(sagemaker, containers())
    output = {"S3OutputPath": f"s3://{bucket}/out", "S3FailurePath": f"s3://{bucket}/failed"}
    config = create_endpoint_config(sagemaker, model, asynchronous={"OutputConfig": output})
    name = endpoint(config)

    def result(body: str, location: str) -> str:
        answer = runtime.invoke_endpoint_async(EndpointName=name, Body=body.encode())
        key = answer[location].removeprefix(f"s3://{bucket}/")

        def stored() -> str | None:
            try:
                return read(s3, bucket, key)
            except s3.exceptions.NoSuchKey:
                return None

        found: str = wait_for(stored, lambda text: text is not None)
        return found

    assert result("pass upper abc", "OutputLocation") == "ABC"
    assert of_calls(emulator, name, "second", "ContainerLatency") > 0
    assert json.loads(result("pass fail 400", "FailureLocation")) == {"error": "as you wished"}
    # The first container has seen the request of the second, which died with it.
    assert "ClientError" in result("pass die", "FailureLocation")
    logs: Any = boto3.client(
        "logs", endpoint_url=local_cloud.ministack_url, region_name="eu-west-1"
    )

    def lines() -> list[str]:
        group = f"/aws/sagemaker/Endpoints/{name}"
        return [
            event["message"]
            for stream in logs.describe_log_streams(logGroupName=group)["logStreams"]
            if stream["logStreamName"].endswith("/data-log")
            for event in logs.get_log_events(
                logGroupName=group, logStreamName=stream["logStreamName"]
            )["events"]
        ]

    wait_for(lines, lambda found: any("error (400) from second with" in line for line in found))


MANY = {"Mode": "MultiModel", "ModelDataUrl": "s3://bucket/models/"}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"Containers": [{"Image": ECHO}] * 16}, "less than or equal to 15"),
        ({"Containers": []}, "Exactly one of PrimaryContainer and Containers"),
        (
            {"Containers": [{"Image": ECHO}] * 2, "PrimaryContainer": {"Image": ECHO}},
            "Exactly one of PrimaryContainer and Containers",
        ),
        ({"Containers": containers(names="same same")}, "different values of ContainerHostname"),
        ({"Containers": containers(names="a_b c")}, "regular expression pattern"),
        (
            {"Containers": [{"Image": ECHO, "ContainerHostname": "a"}, {"Image": ECHO}]},
            "must be given for every container",
        ),
        ({"Containers": [{"Image": ECHO}, {}]}, "Image is required"),
        (
            {"Containers": containers(MANY, MANY)},
            "More than one container in MultiModel mode is not supported with inference pipeline.",
        ),
        (
            {"Containers": containers({}, MANY), "InferenceExecutionConfig": DIRECT},
            "A multi-model container in a model with direct invocation is not emulated",
        ),
        (
            {"Containers": [{"Image": ECHO}] * 2, "InferenceExecutionConfig": DIRECT},
            "ContainerHostname is required for each container",
        ),
        (
            {"PrimaryContainer": {"Image": ECHO}, "InferenceExecutionConfig": DIRECT},
            "more than one container",
        ),
        (
            {
                "Containers": containers(
                    *[{"Environment": {f"K{one}": "x" * 1000 for one in range(17)}}] * 2
                )
            },
            "at most 32768",
        ),
        (
            {"Containers": containers({}, {"ModelDataUrl": "s3://no-such-bucket/m.tar.gz"})},
            "Could not find model data at s3://no-such-bucket/m.tar.gz",
        ),
    ],
)
def test_containers_that_make_no_model_are_refused(
    sagemaker: Any, request_: dict[str, Any], words: str
) -> None:
    name = unique("model")
    with pytest.raises(ClientError, match=words) as error:
        sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, **request_)
    assert error.value.response["Error"]["Code"] == "ValidationException"
    assert sagemaker.list_models(NameContains=name)["Models"] == []


def test_direct_invocation_is_refused_where_it_cannot_be(sagemaker: Any, bucket: str) -> None:
    model = multi_container(sagemaker, containers(), InferenceExecutionConfig=DIRECT)
    output = {"OutputConfig": {"S3OutputPath": f"s3://{bucket}/out"}}
    with pytest.raises(ClientError, match="not supported when specifying an AsyncInferenceConfig"):
        create_endpoint_config(sagemaker, model, asynchronous=output)
    with pytest.raises(ClientError, match="GPU inference is not supported"):
        create_endpoint_config(sagemaker, model, InstanceType="ml.g5.xlarge")
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{bucket}/in/"}}
    with pytest.raises(ClientError, match="does not support models with direct invocation"):
        sagemaker.create_transform_job(
            TransformJobName=unique("transform"),
            ModelName=model,
            TransformInput={"DataSource": source},
            TransformOutput={"S3OutputPath": f"s3://{bucket}/out"},
            TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
        )


def test_a_single_container_in_a_list_is_a_model_of_one(
    sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    model = multi_container(sagemaker, [{"Image": ECHO, "ContainerHostname": "alone"}])
    name = endpoint(create_endpoint_config(sagemaker, model))
    assert ask(runtime, name)["body"] == "hello"
    assert "(500) from primary" in refusal(runtime, name, "fail 500")["Error"]["Message"]
    refused = refusal(runtime, name, TargetContainerHostname="alone")["Error"]["Message"]
    assert "direct invocation" in refused


def test_an_update_can_change_the_way_a_model_is_asked(
    sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    name = endpoint(create_endpoint_config(sagemaker, create_model(sagemaker)))
    direct = multi_container(sagemaker, containers(), InferenceExecutionConfig=DIRECT)
    config = create_endpoint_config(sagemaker, direct)
    sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config)
    settled_endpoint(sagemaker, name)
    assert ask(runtime, name, TargetContainerHostname="second")["body"] == "hello"
