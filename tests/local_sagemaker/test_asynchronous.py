"""Requests to an asynchronous endpoint, through boto3 unchanged: S3 in and out, and SNS messages
(read from an SQS queue)."""

from __future__ import annotations

import base64
import datetime
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ParamValidationError

from infrastructure.local_cloud import LocalCloud
from tests.local_sagemaker.asynchronous_endpoints import Async, Mailbox
from tests.local_sagemaker.conftest import (
    Emulator,
    create_endpoint_config,
    create_model,
    settled_endpoint,
    unique,
    wait_for,
)


@pytest.fixture(scope="module")
def shared_mailbox(local_cloud: LocalCloud) -> Mailbox:
    return Mailbox(local_cloud)


@pytest.fixture(scope="module")
def shared(hurried_emulator: Emulator, s3: Any, shared_mailbox: Mailbox) -> Iterator[Async]:
    """For tests that need no endpoint of their own: see `steady`."""
    bucket = unique("test")
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    made = Async(hurried_emulator, s3, bucket, shared_mailbox)
    yield made
    made.close()


@pytest.fixture(scope="module")
def steady(shared: Async) -> str:
    """An endpoint with one instance, which includes responses in its messages."""
    return shared.endpoint(
        shared.config(include=["SUCCESS_NOTIFICATION_TOPIC", "ERROR_NOTIFICATION_TOPIC"])
    )


def test_a_request_is_answered_in_s3_and_told_through_sns(shared: Async, steady: str) -> None:
    sent = shared.send(
        steady,
        "upper abc",
        ContentType="text/csv",
        Accept="text/plain",
        InferenceId="my-own",
        CustomAttributes="t=7",
    )
    assert sent["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert sent["InferenceId"] == "my-own"
    assert sent["OutputLocation"].startswith(f"s3://{shared.bucket}/out/")
    assert sent["OutputLocation"].endswith(".out")
    assert sent["FailureLocation"].startswith(f"s3://{shared.bucket}/failed/")
    message = shared.mailbox.message("my-own")
    output = shared.read(sent["OutputLocation"])
    assert (output["Body"].read(), output["ContentType"]) == (b"ABC", "text/plain")
    moments = [
        datetime.datetime.fromisoformat(message.pop(name)) for name in ("receivedTime", "eventTime")
    ]
    assert moments[0] < moments[1]
    request = message["requestParameters"]
    assert request.pop("inputLocation").startswith(f"s3://{shared.bucket}/in/")
    assert message == {
        "awsRegion": "eu-west-1",
        "invocationStatus": "Completed",
        "requestParameters": {
            "accept": "text/plain",
            "contentType": "text/csv",
            "endpointName": steady,
        },
        "responseParameters": {
            "contentType": "text/plain",
            "outputLocation": sent["OutputLocation"],
        },
        "responseBody": {
            "content": base64.b64encode(b"ABC").decode(),
            "message": "Check S3 path location(if configured) or Cloudwatch for additional "
            "details.",
            "encoding": "BASE64",
        },
        "inferenceId": "my-own",
        "eventVersion": "1.0",
        "eventSource": "aws:sagemaker",
        "eventName": "InferenceResult",
    }
    with pytest.raises(ClientError, match="NoSuchKey"):
        shared.read(sent["FailureLocation"])


def test_the_container_gets_the_request_s_headers_and_an_id_is_made_up(
    shared: Async, steady: str
) -> None:
    sent = shared.send(steady, "hello", Accept="application/json")
    answer = shared.answer(sent)
    assert (answer["body"], answer["accept"]) == ("hello", "application/json")
    assert answer["inference"] == sent["InferenceId"]
    assert uuid.UUID(sent["InferenceId"])


def test_a_body_may_come_inline(shared: Async, steady: str) -> None:
    sent = shared.runtime.invoke_endpoint_async(EndpointName=steady, Body=b"x" * 128_000)
    assert len(shared.answer(sent)["body"]) == 128_000
    assert shared.mailbox.message(sent["InferenceId"])["requestParameters"] == {
        "endpointName": steady
    }


def test_a_request_may_name_the_place_of_its_output(shared: Async, steady: str) -> None:
    sent = shared.send(steady, "upper a", S3OutputPathExtension="acme/today", Filename="answer.txt")
    assert sent["OutputLocation"] == f"s3://{shared.bucket}/out/acme/today/answer.txt"
    shared.mailbox.message(sent["InferenceId"])
    assert shared.read(sent["OutputLocation"])["Body"].read() == b"A"


def test_the_same_inference_id_twice_is_two_requests(shared: Async, steady: str) -> None:
    sent = [shared.send(steady, f"upper {letter}", InferenceId="twice") for letter in "ab"]

    def told() -> int:
        shared.mailbox.collect()
        return len(shared.mailbox.messages.get("twice", []))

    wait_for(told, lambda count: count == 2)
    assert [shared.read(one["OutputLocation"])["Body"].read() for one in sent] == [b"A", b"B"]


def test_a_large_response_is_not_included_in_the_message(shared: Async, steady: str) -> None:
    fits, too_large = shared.send(steady, "fill 131072"), shared.send(steady, "fill 131073")
    assert len(shared.mailbox.message(fits["InferenceId"])["responseBody"]["content"]) == 174_764
    assert "responseBody" not in shared.mailbox.message(too_large["InferenceId"])
    assert shared.read(too_large["OutputLocation"])["ContentLength"] == 131_073


@pytest.mark.parametrize(("status", "side"), [(400, "client"), (503, "server")])
def test_an_error_of_the_container_lies_under_the_failure_path(
    shared: Async, steady: str, status: int, side: str, local_cloud: LocalCloud
) -> None:
    sent = shared.send(steady, f"fail {status}")
    reason, body = shared.failure(sent)
    assert reason == (
        f"ClientError: Received {side} error ({status}) from model. "
        "See the SageMaker Endpoint logs in your account for more information."
    )
    assert json.loads(body) == {"error": "as you wished"}
    message = shared.mailbox.message(sent["InferenceId"])
    assert list(message) == [
        "awsRegion",
        "eventTime",
        "receivedTime",
        "invocationStatus",
        "failureReason",
        "requestParameters",
        "responseBody",
        "inferenceId",
        "eventVersion",
        "eventSource",
        "eventName",
    ]
    assert base64.b64decode(message["responseBody"]["content"]) == body
    logs: Any = boto3.client(
        "logs", endpoint_url=local_cloud.ministack_url, region_name="eu-west-1"
    )

    def lines() -> list[str]:
        found = logs.filter_log_events(
            logGroupName=f"/aws/sagemaker/Endpoints/{steady}",
            filterPattern=f'"{sent["InferenceId"]}"',
        )
        return [
            event["message"]
            for event in found["events"]
            if event["logStreamName"].endswith("/data-log")
        ]

    (line,) = wait_for(lines, bool)
    assert f"Received {side} error ({status}) from primary with message" in line
    assert "as you wished" in line


def test_a_request_that_takes_too_long_fails(shared: Async, steady: str) -> None:
    sent = shared.send(steady, "sleep 30", InvocationTimeoutSeconds=60)
    reason, body = shared.failure(sent)
    assert "Received server error (0) from model" in reason
    assert body.decode() == reason
    assert "responseBody" not in shared.mailbox.message(sent["InferenceId"])


def test_an_input_that_is_missing_or_too_large_fails(shared: Async, steady: str) -> None:
    missing = shared.runtime.invoke_endpoint_async(
        EndpointName=steady, InputLocation=f"s3://{shared.bucket}/in/nothing"
    )
    fits = shared.send(steady, "fill 1 ".ljust(1024 * 1024))
    too_large = shared.send(steady, "x" * (1024 * 1024 + 1))
    reason, body = shared.failure(missing)
    assert "Failed to download the request payload" in reason
    assert "NoSuchKey" in reason
    assert body.decode() == reason
    assert "has 1048577 bytes" in shared.failure(too_large)[0]
    too_long = shared.send(steady, "fill 1048577")
    assert "Received server error (0) from model" in shared.failure(too_long)[0]
    assert shared.mailbox.message(fits["InferenceId"])["invocationStatus"] == "Completed"


def test_an_asynchronous_endpoint_takes_no_other_invocations_and_no_other_endpoint_takes_these(
    shared: Async, steady: str
) -> None:
    with pytest.raises(ClientError, match="Use InvokeEndpointAsync") as error:
        shared.runtime.invoke_endpoint(EndpointName=steady, Body=b"hello")
    assert error.value.response["Error"]["Code"] == "ValidationError"
    real_time = unique("real-time")
    config = create_endpoint_config(shared.sagemaker, create_model(shared.sagemaker))
    shared.sagemaker.create_endpoint(EndpointName=real_time, EndpointConfigName=config)
    shared.made.append(real_time)
    with pytest.raises(ClientError, match="not in service"):
        shared.send(real_time, "hello")
    settled_endpoint(shared.sagemaker, real_time)
    with pytest.raises(ClientError, match="has no AsyncInferenceConfig") as error:
        shared.send(real_time, "hello")
    assert error.value.response["Error"]["Code"] == "ValidationError"
    with pytest.raises(ClientError, match="DesiredInstanceCount must be at least 1"):
        shared.scale(real_time, 0)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "Exactly one of InputLocation and Body"),
        ({"InputLocation": "s3://b/k", "Body": b"x"}, "Exactly one of InputLocation and Body"),
        ({"Body": b"x" * 128_001}, "128000"),
        ({"InputLocation": "https://b.s3.amazonaws.com/k"}, "is not an S3 URI"),
        ({"InputLocation": "s3://b/"}, "names no object"),
        ({"Body": b"x", "RequestTTLSeconds": 21_601}, "less than or equal to 21600"),
        ({"Body": b"x", "InvocationTimeoutSeconds": 3_601}, "less than or equal to 3600"),
        ({"Body": b"x", "InferenceId": "i" * 65}, "less than or equal to 64"),
        ({"Body": b"x", "Filename": "a/b"}, "regular expression pattern"),
    ],
)
def test_requests_beyond_the_limits_are_refused(
    shared: Async, steady: str, request_: Any, words: str
) -> None:
    with pytest.raises(ClientError, match=words) as error:
        shared.runtime.invoke_endpoint_async(EndpointName=steady, **request_)
    assert error.value.response["Error"]["Code"] == "ValidationError"


def test_a_ttl_below_a_minute_does_not_leave_the_client(shared: Async, steady: str) -> None:
    with pytest.raises(ParamValidationError, match="RequestTTLSeconds"):
        shared.runtime.invoke_endpoint_async(EndpointName=steady, Body=b"x", RequestTTLSeconds=59)


def test_what_an_asynchronous_configuration_cannot_go_with_is_refused(shared: Async) -> None:
    output = {"OutputConfig": {"S3OutputPath": f"s3://{shared.bucket}/out"}}
    model = create_model(shared.sagemaker)
    multi_model = create_model(
        shared.sagemaker, Mode="MultiModel", ModelDataUrl=f"s3://{shared.bucket}/models/"
    )
    https = {"OutputConfig": {"S3OutputPath": "https://b.s3.amazonaws.com/out"}}
    too_many = {**output, "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 1_001}}
    refused: list[tuple[Callable[[], Any], str]] = [
        (
            lambda: create_endpoint_config(shared.sagemaker, model, model, asynchronous=output),
            "Multiple production",
        ),
        (
            lambda: create_endpoint_config(shared.sagemaker, multi_model, asynchronous=output),
            "Multi-model containers",
        ),
        (
            lambda: create_endpoint_config(shared.sagemaker, model, asynchronous=https),
            "S3OutputPath: .* not an S3 URI",
        ),
        (
            lambda: create_endpoint_config(shared.sagemaker, model, asynchronous=too_many),
            "less than or equal to 1000",
        ),
    ]
    for create, words in refused:
        with pytest.raises(ClientError, match=words) as error:
            create()
        assert error.value.response["Error"]["Code"] == "ValidationException"
    config = create_endpoint_config(shared.sagemaker, model, asynchronous=output)
    described = shared.sagemaker.describe_endpoint_config(EndpointConfigName=config)
    assert described["AsyncInferenceConfig"] == output
