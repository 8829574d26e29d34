"""Models, endpoint configurations, endpoints and single-model invocations, through boto3
unchanged."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

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

Endpoint = Callable[..., str]


def ask(runtime: Any, endpoint: str, body: str = "hello", **request: Any) -> dict[str, Any]:
    answer = runtime.invoke_endpoint(EndpointName=endpoint, Body=body.encode(), **request)
    return {"variant": answer.get("InvokedProductionVariant"), **json.loads(answer["Body"].read())}


def test_an_archive_is_served_and_the_headers_of_a_request_reach_the_container(
    sagemaker: Any, runtime: Any, s3: Any, bucket: str, endpoint: Endpoint
) -> None:
    s3.put_object(Bucket=bucket, Key="model.tar.gz", Body=tar_gz(**{"weights.json": "[1]"}))
    model = create_model(
        sagemaker, ModelDataUrl=f"s3://{bucket}/model.tar.gz", Environment={"ECHO_COLOUR": "blue"}
    )
    name = endpoint(create_endpoint_config(sagemaker, model))
    answer = runtime.invoke_endpoint(
        EndpointName=name,
        Body=b"hello",
        ContentType="text/csv",
        Accept="application/json",
        CustomAttributes="trace=7",
    )
    assert answer["ContentType"] == "application/json"
    assert answer["CustomAttributes"] == "trace=7"
    assert answer["InvokedProductionVariant"] == "variant-1"
    document = json.loads(answer["Body"].read())
    assert document["files"] == {"weights.json": "[1]"}
    assert document["accept"] == "application/json"
    assert document["environment"]["ECHO_COLOUR"] == "blue"
    assert document["environment"]["SAGEMAKER_MULTI_MODEL"] == "false"


def test_the_content_type_of_an_answer_is_the_container_s(
    sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    name = endpoint(create_endpoint_config(sagemaker, create_model(sagemaker)))
    answer = runtime.invoke_endpoint(EndpointName=name, Body=b"upper abc")
    assert (answer["ContentType"], answer["Body"].read()) == ("text/plain", b"ABC")


def test_the_objects_of_an_uncompressed_prefix_lie_in_the_model_folder(
    sagemaker: Any, runtime: Any, s3: Any, bucket: str, endpoint: Endpoint
) -> None:
    s3.put_object(Bucket=bucket, Key="models/acme/1.txt", Body="one")
    s3.put_object(Bucket=bucket, Key="models/zeta/2.txt", Body="two")
    source = {
        "S3Uri": f"s3://{bucket}/models/",
        "S3DataType": "S3Prefix",
        "CompressionType": "None",
    }
    model = create_model(sagemaker, ModelDataSource={"S3DataSource": source})
    name = endpoint(create_endpoint_config(sagemaker, model))
    assert ask(runtime, name)["files"] == {"acme/1.txt": "one", "zeta/2.txt": "two"}


def test_an_error_of_the_container_is_a_model_error_with_its_status_and_message(
    sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    name = endpoint(create_endpoint_config(sagemaker, create_model(sagemaker)))
    with pytest.raises(ClientError) as error:
        ask(runtime, name, "fail 503")
    response: Any = error.value.response
    assert response["Error"]["Code"] == "ModelError"
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert response["OriginalStatusCode"] == 503
    assert json.loads(response["OriginalMessage"]) == {"error": "as you wished"}


def test_a_payload_over_the_limit_is_refused(
    sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    name = endpoint(create_endpoint_config(sagemaker, create_model(sagemaker)))
    assert len(ask(runtime, name, "x" * 6_291_456)["body"]) == 6_291_456
    with pytest.raises(ClientError) as error:
        ask(runtime, name, "x" * 6_291_457)
    assert error.value.response["Error"]["Code"] == "ValidationError"


def test_a_response_that_takes_longer_than_the_limit_is_a_model_error(
    hurried_emulator: Emulator,
) -> None:
    client, runtime = (
        hurried_emulator.client("sagemaker"),
        hurried_emulator.client("sagemaker-runtime"),
    )
    name = unique("endpoint")
    client.create_endpoint(
        EndpointName=name, EndpointConfigName=create_endpoint_config(client, create_model(client))
    )
    assert settled_endpoint(client, name)["EndpointStatus"] == "InService"
    assert ask(runtime, name)["body"] == "hello"
    with pytest.raises(ClientError, match="timed out while waiting for a response") as error:
        ask(runtime, name, "sleep 30")
    assert error.value.response["Error"]["Code"] == "ModelError"
    client.delete_endpoint(EndpointName=name)


def test_an_instance_that_dies_is_replaced(
    sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    name = endpoint(create_endpoint_config(sagemaker, create_model(sagemaker)))
    before = ask(runtime, name)["pid"]
    with pytest.raises(ClientError) as error:
        ask(runtime, name, "die")
    assert error.value.response["Error"]["Code"] == "ModelError"

    def answering() -> Any:
        try:
            return ask(runtime, name)["pid"]
        except ClientError:
            return before

    assert wait_for(answering, lambda pid: pid != before) != before


def test_variants_share_traffic_by_weight_and_can_be_asked_for(
    sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    config = create_endpoint_config(sagemaker, create_model(sagemaker), create_model(sagemaker))
    name = endpoint(config)
    assert ask(runtime, name, TargetVariant="variant-2")["variant"] == "variant-2"
    weights = [
        {"VariantName": "variant-1", "DesiredWeight": 0.0},
        {"VariantName": "variant-2", "DesiredWeight": 1.0},
    ]
    sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=name, DesiredWeightsAndCapacities=weights
    )
    settled_endpoint(sagemaker, name)
    assert Counter(ask(runtime, name)["variant"] for _ in range(20)) == {"variant-2": 20}
    with pytest.raises(ClientError, match="variant-3"):
        ask(runtime, name, TargetVariant="variant-3")


def test_capacity_follows_what_is_desired_and_no_request_is_lost(
    sagemaker: Any, runtime: Any, emulator: Emulator, endpoint: Endpoint
) -> None:
    routing = {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"}
    name = endpoint(
        create_endpoint_config(sagemaker, create_model(sagemaker), RoutingConfig=routing)
    )

    def scale(count: int) -> Any:
        change = [{"VariantName": "variant-1", "DesiredInstanceCount": count}]
        sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=name, DesiredWeightsAndCapacities=change
        )

    scale(3)
    assert settled_endpoint(sagemaker, name)["ProductionVariants"][0]["CurrentInstanceCount"] == 3
    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(ask, runtime, name, "sleep 0.5") for _ in range(12)]
        # As six have been answered, the other six are on their way to all three instances.
        wait_for(lambda: sum(future.done() for future in waiting), lambda done: done >= 6)
        scale(1)
        assert len({future.result()["pid"] for future in waiting}) >= 2
    assert settled_endpoint(sagemaker, name)["ProductionVariants"][0]["CurrentInstanceCount"] == 1
    assert len({ask(runtime, name)["pid"] for _ in range(5)}) == 1
    with pytest.raises(ClientError, match=r"service limit 'ml\.m5\.large for endpoint usage'"):
        scale(50)


def test_an_update_replaces_the_fleet(sagemaker: Any, runtime: Any, endpoint: Endpoint) -> None:
    name = endpoint(
        create_endpoint_config(
            sagemaker, create_model(sagemaker, Environment={"ECHO_VERSION": "1"})
        )
    )
    assert ask(runtime, name)["environment"]["ECHO_VERSION"] == "1"
    config = create_endpoint_config(
        sagemaker, create_model(sagemaker, Environment={"ECHO_VERSION": "2"})
    )
    sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config)
    assert sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"] == "Updating"
    assert settled_endpoint(sagemaker, name)["EndpointConfigName"] == config
    assert ask(runtime, name)["environment"]["ECHO_VERSION"] == "2"


def test_a_failed_update_leaves_the_old_fleet_serving(
    sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    config = create_endpoint_config(
        sagemaker, create_model(sagemaker, Environment={"ECHO_VERSION": "1"})
    )
    name = endpoint(config)
    broken = create_endpoint_config(
        sagemaker, create_model(sagemaker, Environment={"ECHO_BROKEN": "1"})
    )
    sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=broken)
    description = settled_endpoint(sagemaker, name)
    assert description["EndpointStatus"] == "InService"
    assert "ping health check" in description["FailureReason"]
    assert description["EndpointConfigName"] == config
    assert ask(runtime, name)["environment"]["ECHO_VERSION"] == "1"


def test_an_update_can_retain_counts(sagemaker: Any, endpoint: Endpoint) -> None:
    config = create_endpoint_config(sagemaker, create_model(sagemaker))
    name = endpoint(config)
    change = [{"VariantName": "variant-1", "DesiredInstanceCount": 2}]
    sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=name, DesiredWeightsAndCapacities=change
    )
    settled_endpoint(sagemaker, name)
    sagemaker.update_endpoint(
        EndpointName=name, EndpointConfigName=config, RetainAllVariantProperties=True
    )
    assert settled_endpoint(sagemaker, name)["ProductionVariants"][0]["CurrentInstanceCount"] == 2


def test_a_container_that_never_becomes_healthy_fails_the_endpoint(
    sagemaker: Any, runtime: Any
) -> None:
    config = create_endpoint_config(
        sagemaker, create_model(sagemaker, Environment={"ECHO_BROKEN": "1"})
    )
    name = unique("endpoint")
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    description = settled_endpoint(sagemaker, name)
    assert description["EndpointStatus"] == "Failed"
    assert "exit code 1" in description["FailureReason"]
    with pytest.raises(ClientError, match="not in service"):
        ask(runtime, name)
    sagemaker.delete_endpoint(EndpointName=name)


def test_a_deleted_endpoint_is_gone_with_its_processes(
    sagemaker: Any, runtime: Any, emulator: Emulator
) -> None:
    name = unique("endpoint")
    sagemaker.create_endpoint(
        EndpointName=name,
        EndpointConfigName=create_endpoint_config(sagemaker, create_model(sagemaker)),
    )
    settled_endpoint(sagemaker, name)
    pid = ask(runtime, name)["pid"]
    assert pid in emulator.containers()
    sagemaker.delete_endpoint(EndpointName=name)
    wait_for(emulator.containers, lambda left: pid not in left)

    def gone() -> bool:
        try:
            sagemaker.describe_endpoint(EndpointName=name)
        except ClientError as error:
            return "Could not find endpoint" in str(error)
        return False

    wait_for(gone, bool)


def test_an_endpoint_can_be_deleted_while_it_is_created(sagemaker: Any, emulator: Emulator) -> None:
    before = set(emulator.containers())
    config = create_endpoint_config(
        sagemaker, create_model(sagemaker, Environment={"ECHO_UNHEALTHY": "1"}), instances=2
    )
    name = unique("endpoint")
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    wait_for(lambda: set(emulator.containers()) - before, lambda new: len(new) == 2)
    sagemaker.delete_endpoint(EndpointName=name)
    wait_for(lambda: set(emulator.containers()) - before, lambda new: not new)


def test_names_are_used_once(sagemaker: Any) -> None:
    model = create_model(sagemaker)
    with pytest.raises(ClientError, match="Cannot create already existing model"):
        sagemaker.create_model(
            ModelName=model, PrimaryContainer={"Image": ECHO}, ExecutionRoleArn=ROLE
        )
    config = create_endpoint_config(sagemaker, model)
    variants = sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
    with pytest.raises(ClientError, match="Cannot create already existing endpoint configuration"):
        sagemaker.create_endpoint_config(EndpointConfigName=config, ProductionVariants=variants)


def test_models_and_configurations_are_listed_and_deleted(sagemaker: Any) -> None:
    model = create_model(sagemaker)
    config = create_endpoint_config(sagemaker, model)
    assert [
        entry["ModelName"] for entry in sagemaker.list_models(NameContains=model)["Models"]
    ] == [model]
    listed = sagemaker.list_endpoint_configs(NameContains=config)["EndpointConfigs"]
    assert [entry["EndpointConfigName"] for entry in listed] == [config]
    sagemaker.delete_endpoint_config(EndpointConfigName=config)
    sagemaker.delete_model(ModelName=model)
    assert sagemaker.list_models(NameContains=model)["Models"] == []
    assert sagemaker.list_endpoint_configs(NameContains=config)["EndpointConfigs"] == []


def test_model_data_must_be_there(sagemaker: Any, bucket: str) -> None:
    with pytest.raises(ClientError, match="Could not find model data"):
        create_model(sagemaker, ModelDataUrl=f"s3://{bucket}/nothing.tar.gz")


@pytest.mark.parametrize(
    ("member", "value"),
    [
        (
            "DataCaptureConfig",
            {
                "InitialSamplingPercentage": 1,
                "DestinationS3Uri": "s3://b",
                "CaptureOptions": [{"CaptureMode": "Input"}],
            },
        )
    ],
)
def test_hosting_options_that_are_not_emulated_are_refused_by_name(
    sagemaker: Any, member: str, value: Any
) -> None:
    variants = [
        {
            "VariantName": "v",
            "ModelName": create_model(sagemaker),
            "InitialInstanceCount": 1,
            "InstanceType": "ml.m5.large",
        }
    ]
    with pytest.raises(ClientError) as error:
        sagemaker.create_endpoint_config(
            EndpointConfigName=unique("c"), ProductionVariants=variants, **{member: value}
        )
    assert error.value.response["Error"]["Code"] == "ValidationException"
    assert member in str(error.value) or member[0].lower() + member[1:] in str(error.value)


@pytest.mark.aws_verified
def test_a_missing_endpoint_is_a_validation_exception(api: Any) -> None:
    with pytest.raises(ClientError, match="Could not find endpoint") as error:
        api.describe_endpoint(EndpointName=unique("nowhere"))
    assert error.value.response["Error"]["Code"] == "ValidationException"


def test_invoking_a_missing_endpoint_is_a_validation_error(runtime: Any) -> None:
    name = unique("nowhere")
    with pytest.raises(
        ClientError, match=f"Endpoint {name} of account 123456789012 not found"
    ) as error:
        ask(runtime, name)
    assert error.value.response["Error"]["Code"] == "ValidationError"
