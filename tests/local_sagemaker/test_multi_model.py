"""Multi-model endpoints, through boto3 unchanged."""

from __future__ import annotations

import datetime
import io
import json
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from infrastructure.local_cloud import LocalCloud
from tests.local_sagemaker.conftest import (
    Emulator,
    create_endpoint_config,
    create_model,
    settled_endpoint,
    tar_gz,
    wait_for,
)

Endpoint = Callable[..., str]


@pytest.fixture
def models(s3: Any, bucket: str) -> str:
    """The prefix of ten models, `t0/v.tar.gz` to `t9/v.tar.gz`, and some bad ones."""
    for number in range(10):
        s3.put_object(
            Bucket=bucket, Key=f"models/t{number}/v.tar.gz", Body=tar_gz(weights=str(number))
        )
    s3.put_object(
        Bucket=bucket, Key="models/refused.tar.gz", Body=tar_gz(refuse="weights of another family")
    )
    s3.put_object(Bucket=bucket, Key="models/junk.tar.gz", Body=b"junk")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("passwords")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    s3.put_object(Bucket=bucket, Key="models/link.tar.gz", Body=buffer.getvalue())
    s3.put_object(Bucket=bucket, Key="models/outside.tar.gz", Body=tar_gz(**{"../../outside": "x"}))
    return f"s3://{bucket}/models/"


def multi_model(
    sagemaker: Any, prefix: str, instances: int = 1, *, cache: str = "Enabled", **environment: str
) -> str:
    """The name of an endpoint configuration."""
    model = create_model(
        sagemaker,
        Mode="MultiModel",
        ModelDataUrl=prefix,
        Environment=environment,
        MultiModelConfig={"ModelCacheSetting": cache},
    )
    return create_endpoint_config(sagemaker, model, instances=instances)


def ask(runtime: Any, endpoint: str, model: str, body: str = "hello") -> Any:
    answer = runtime.invoke_endpoint(EndpointName=endpoint, TargetModel=model, Body=body.encode())
    return json.loads(answer["Body"].read())


def log_lines(cloud: LocalCloud, endpoint: str) -> Counter[str]:
    """Counts of the lines that an endpoint's containers printed, by first word."""
    logs = boto3.client("logs", endpoint_url=cloud.ministack_url, region_name="eu-west-1")
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
    found: Counter[str] = Counter()
    if not logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
        return found
    for stream in logs.describe_log_streams(logGroupName=group)["logStreams"]:
        events = logs.get_log_events(
            logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True
        )
        found.update(event["message"].split()[0] for event in events["events"])
    return found


def test_a_model_is_loaded_on_its_first_call_and_kept(
    sagemaker: Any, runtime: Any, models: str, endpoint: Endpoint
) -> None:
    name = endpoint(multi_model(sagemaker, models))
    first = ask(runtime, name, "t3/v.tar.gz")
    assert (first["files"], first["target"], first["loaded"]) == (
        {"weights": "3"},
        "t3/v.tar.gz",
        1,
    )
    assert ask(runtime, name, "t4/v.tar.gz")["files"] == {"weights": "4"}
    assert ask(runtime, name, "t3/v.tar.gz")["loaded"] == 2


def test_a_container_out_of_memory_loses_its_least_used_model(
    sagemaker: Any, runtime: Any, local_cloud: LocalCloud, models: str, endpoint: Endpoint
) -> None:
    name = endpoint(multi_model(sagemaker, models, ECHO_CAPACITY="2"))
    for number in (0, 1, 0, 2, 0):  # 1 is the least used when 2 is loaded
        answer = ask(runtime, name, f"t{number}/v.tar.gz")
        assert answer["files"] == {"weights": str(number)}
        assert answer["loaded"] <= 2
    # The loads are 0, 1 and 2. If 0 had been unloaded for 2, its last call would be a fourth load.
    lines = wait_for(lambda: log_lines(local_cloud, name), lambda found: found["unloaded"] == 1)
    assert lines["loaded"] == 3


def test_a_sweep_over_all_models_does_not_unload_the_hot_ones(
    sagemaker: Any, runtime: Any, local_cloud: LocalCloud, models: str, endpoint: Endpoint
) -> None:
    name = endpoint(multi_model(sagemaker, models, ECHO_CAPACITY="3"))
    for number in (0, 1, 0, 1, 0, 1):
        ask(runtime, name, f"t{number}/v.tar.gz")
    for number in range(2, 10):
        for _ in range(2):
            ask(runtime, name, f"t{number}/v.tar.gz")
    for number in (0, 1):
        ask(runtime, name, f"t{number}/v.tar.gz")
    ask(runtime, name, "t9/v.tar.gz")
    lines = wait_for(lambda: log_lines(local_cloud, name), lambda found: found["unloaded"] == 7)
    assert lines["loaded"] == 10


def test_a_model_that_one_instance_cannot_carry_is_loaded_on_a_second(
    sagemaker: Any, runtime: Any, local_cloud: LocalCloud, models: str, endpoint: Endpoint
) -> None:
    config = multi_model(sagemaker, models, instances=2, SAGEMAKER_MODEL_SERVER_WORKERS="2")
    name = endpoint(config)
    hot, home = "t1/v.tar.gz", ask(runtime, name, "t1/v.tar.gz")["pid"]
    with ThreadPoolExecutor(4) as pool:
        waiting = []
        for _ in range(3):  # the third is one more than an instance answers at once
            waiting.append(pool.submit(ask, runtime, name, hot, "sleep 1"))
            time.sleep(0.1)
        wait_for(lambda: ask(runtime, name, hot)["pid"], lambda pid: pid != home, 0.7)
        assert {future.result()["pid"] for future in waiting} == {home}
    # Alone it is asked where it was first, so that the second copy can be unloaded.
    assert {ask(runtime, name, hot)["pid"] for _ in range(4)} == {home}
    lines = wait_for(lambda: log_lines(local_cloud, name), lambda found: found["loaded"] > 1)
    assert lines["loaded"] == 2


def test_models_are_spread_over_instances_and_found_again(
    sagemaker: Any, runtime: Any, models: str, endpoint: Endpoint
) -> None:
    name = endpoint(multi_model(sagemaker, models, instances=2))
    homes = {number: ask(runtime, name, f"t{number}/v.tar.gz")["pid"] for number in range(6)}
    assert sorted(Counter(homes.values()).values()) == [3, 3]
    assert homes == {
        number: ask(runtime, name, f"t{number}/v.tar.gz")["pid"] for number in range(6)
    }


def test_concurrent_first_calls_load_a_model_once(
    sagemaker: Any, runtime: Any, local_cloud: LocalCloud, models: str, endpoint: Endpoint
) -> None:
    name = endpoint(multi_model(sagemaker, models, instances=2, ECHO_LOAD_SECONDS="0.3"))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(runtime, name, "t1/v.tar.gz"), range(8)))
    assert len({answer["pid"] for answer in answers}) == 1
    assert (
        wait_for(lambda: log_lines(local_cloud, name), lambda found: found["loaded"] > 0)["loaded"]
        == 1
    )


def test_many_threads_over_more_models_than_fit_all_get_their_own_model(
    sagemaker: Any, runtime: Any, models: str, endpoint: Endpoint
) -> None:
    name = endpoint(multi_model(sagemaker, models, ECHO_CAPACITY="2"))
    numbers = [index * 7 % 10 for index in range(60)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: ask(runtime, name, f"t{number}/v.tar.gz"), numbers))
    assert [answer["files"]["weights"] for answer in answers] == [str(number) for number in numbers]


def test_a_model_that_loads_slowly_is_not_ready_and_its_load_goes_on(
    sagemaker: Any, runtime: Any, local_cloud: LocalCloud, models: str, endpoint: Endpoint
) -> None:
    name = endpoint(multi_model(sagemaker, models, ECHO_LOAD_SECONDS="2"))
    with pytest.raises(ClientError) as error:
        ask(runtime, name, "t1/v.tar.gz")
    assert error.value.response["Error"]["Code"] == "ModelNotReadyException"
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert ask(runtime, name, "t1/v.tar.gz")["files"] == {"weights": "1"}
    assert (
        wait_for(lambda: log_lines(local_cloud, name), lambda found: found["loaded"] > 0)["loaded"]
        == 1
    )


def test_disk_copies_beyond_the_limit_are_deleted_with_their_models(
    sagemaker: Any, runtime: Any, s3: Any, bucket: str, endpoint: Endpoint
) -> None:
    """Eight megabytes hold two models of three; the third evicts the first one from disk and
    memory."""
    for number in range(3):
        s3.put_object(
            Bucket=bucket, Key=f"big/{number}.tar.gz", Body=tar_gz(weights=str(number) * 3_000_000)
        )
    name = endpoint(multi_model(sagemaker, f"s3://{bucket}/big/"))
    assert [ask(runtime, name, f"{number}.tar.gz")["loaded"] for number in (0, 1, 2)] == [1, 2, 2]
    assert ask(runtime, name, "0.tar.gz")["files"]["weights"][0] == "0"


def test_a_container_without_room_for_any_model_says_so(
    sagemaker: Any, runtime: Any, models: str, endpoint: Endpoint
) -> None:
    name = endpoint(multi_model(sagemaker, models, ECHO_CAPACITY="0"))
    with ThreadPoolExecutor(3) as pool:
        for waiting in [
            pool.submit(ask, runtime, name, f"t{number}/v.tar.gz") for number in range(3)
        ]:
            error: Any = waiting.exception()
            assert error.response["OriginalStatusCode"] == 507


def test_without_a_cache_a_model_is_unloaded_after_its_call(
    sagemaker: Any, runtime: Any, models: str, endpoint: Endpoint
) -> None:
    name = endpoint(multi_model(sagemaker, models, cache="Disabled"))
    for number in range(3):
        assert ask(runtime, name, f"t{number}/v.tar.gz")["loaded"] == 1


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nothing.tar.gz", "Failed to download model data"),
        ("junk.tar.gz", "Failed to extract model data archive"),
        ("link.tar.gz", "no plain file or folder"),
        ("outside.tar.gz", "no path inside a folder"),
    ],
)
def test_a_model_that_cannot_be_brought_is_a_validation_error(
    sagemaker: Any, runtime: Any, models: str, endpoint: Endpoint, model: str, message: str
) -> None:
    name = endpoint(multi_model(sagemaker, models))
    with pytest.raises(ClientError, match=message) as error:
        ask(runtime, name, model)
    assert error.value.response["Error"]["Code"] == "ValidationError"
    assert ask(runtime, name, "t1/v.tar.gz")["files"] == {"weights": "1"}


def test_a_model_that_the_container_refuses_is_a_model_error_with_the_reason(
    sagemaker: Any, runtime: Any, models: str, endpoint: Endpoint
) -> None:
    name = endpoint(multi_model(sagemaker, models))
    with pytest.raises(ClientError, match="weights of another family") as error:
        ask(runtime, name, "refused.tar.gz")
    response: Any = error.value.response
    assert (response["Error"]["Code"], response["OriginalStatusCode"]) == ("ModelError", 400)


def test_target_model_is_required_just_here(
    sagemaker: Any, runtime: Any, models: str, endpoint: Endpoint
) -> None:
    name = endpoint(multi_model(sagemaker, models))
    with pytest.raises(ClientError, match="TargetModel is required"):
        runtime.invoke_endpoint(EndpointName=name, Body=b"x")
    single = endpoint(create_endpoint_config(sagemaker, create_model(sagemaker)))
    with pytest.raises(ClientError, match="only valid for a multi-model endpoint"):
        ask(runtime, single, "t1/v.tar.gz")


def test_after_a_death_models_are_loaded_again(
    sagemaker: Any, runtime: Any, models: str, endpoint: Endpoint
) -> None:
    name = endpoint(multi_model(sagemaker, models))
    before = ask(runtime, name, "t1/v.tar.gz")["pid"]
    with pytest.raises(ClientError):
        ask(runtime, name, "t1/v.tar.gz", "die")
    wait_for(
        lambda: sagemaker.describe_endpoint(EndpointName=name)["ProductionVariants"][0][
            "CurrentInstanceCount"
        ],
        lambda count: count == 1,
    )

    def answering() -> Any:
        try:
            return ask(runtime, name, "t1/v.tar.gz")["pid"]
        except ClientError:
            return before

    wait_for(answering, lambda pid: pid != before)


def test_the_metrics_of_a_multi_model_endpoint_reach_cloudwatch(
    sagemaker: Any, runtime: Any, emulator: Emulator, models: str, endpoint: Endpoint
) -> None:
    name = endpoint(multi_model(sagemaker, models))
    for _ in range(4):
        ask(runtime, name, "t1/v.tar.gz")
    cloudwatch = emulator.client("cloudwatch")
    dimensions = [
        {"Name": "EndpointName", "Value": name},
        {"Name": "VariantName", "Value": "variant-1"},
    ]
    now = datetime.datetime.now(datetime.UTC)

    def total(metric: str, statistic: str = "Sum", namespace: str = "AWS/SageMaker") -> float:
        points = cloudwatch.get_metric_statistics(
            Namespace=namespace,
            MetricName=metric,
            Dimensions=dimensions,
            Statistics=[statistic],
            StartTime=now - datetime.timedelta(hours=1),
            EndTime=now + datetime.timedelta(hours=1),
            Period=60,
        )["Datapoints"]
        return float(sum(point[statistic] for point in points))

    assert wait_for(lambda: total("Invocations"), lambda count: count >= 4) == 4
    assert total("ModelCacheHit") == 3
    assert total("ModelCacheHit", "SampleCount") == 4
    assert total("ModelLoadingWaitTime", "SampleCount") == 1
    assert total("ModelLatency", "SampleCount") == total("OverheadLatency", "SampleCount") == 4
    assert total("OverheadLatency") > total("ModelLoadingTime") > 0
    assert total("Invocation4XXErrors") == total("Invocation5XXErrors") == 0
    assert total("InvocationsPerInstance") == 4
    of_instances = "/aws/sagemaker/Endpoints"
    assert wait_for(lambda: total("LoadedModelCount", "SampleCount", of_instances), bool) >= 1


def test_scaling_out_gives_room_for_more_models(
    sagemaker: Any, runtime: Any, models: str, endpoint: Endpoint
) -> None:
    name = endpoint(multi_model(sagemaker, models, ECHO_CAPACITY="3"))
    change = [{"VariantName": "variant-1", "DesiredInstanceCount": 2}]
    sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=name, DesiredWeightsAndCapacities=change
    )
    settled_endpoint(sagemaker, name)
    homes = {number: ask(runtime, name, f"t{number}/v.tar.gz")["pid"] for number in range(6)}
    assert homes == {
        number: ask(runtime, name, f"t{number}/v.tar.gz")["pid"] for number in range(6)
    }
