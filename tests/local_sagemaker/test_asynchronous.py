"""Asynchronous endpoints, through boto3 unchanged: S3 in and out, SNS messages (read from an SQS
queue), CloudWatch metrics."""

from __future__ import annotations

import base64
import datetime
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ParamValidationError

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.faults.client import FaultsClient
from local_sagemaker.faults.plan import Rule
from tests.local_sagemaker.conftest import (
    Emulator,
    create_endpoint_config,
    create_model,
    keys,
    settled_endpoint,
    unique,
    wait_for,
)

VARIANT = "variant-1"
TEST_NOTIFICATION = {
    "eventVersion": "1.0",
    "eventSource": "aws:sagemaker",
    "eventName": "TestNotification",
}


class Mailbox:
    """A success and an error topic whose messages land in one queue; what arrived, by
    InferenceId."""

    def __init__(self, cloud: LocalCloud) -> None:
        place: dict[str, Any] = {"endpoint_url": cloud.ministack_url, "region_name": "eu-west-1"}
        self._sns: Any = boto3.client("sns", **place)
        self._sqs: Any = boto3.client("sqs", **place)
        self._queue = self._sqs.create_queue(QueueName=unique("results"))["QueueUrl"]
        queue_arn = self._sqs.get_queue_attributes(
            QueueUrl=self._queue, AttributeNames=["QueueArn"]
        )["Attributes"]
        self.success = self._sns.create_topic(Name=unique("success"))["TopicArn"]
        self.error = self._sns.create_topic(Name=unique("error"))["TopicArn"]
        for topic in (self.success, self.error):
            self._sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue_arn["QueueArn"])
        self.messages: dict[str, list[Any]] = {}
        self.tests: Counter[str] = Counter()

    def delete_success_topic(self) -> None:
        self._sns.delete_topic(TopicArn=self.success)

    def collect(self, wait_seconds: int = 0) -> None:
        """Read what is in the queue now, or arrives within `wait_seconds`."""
        while found := self._sqs.receive_message(
            QueueUrl=self._queue, MaxNumberOfMessages=10, WaitTimeSeconds=wait_seconds
        ).get("Messages"):
            for entry in found:
                envelope = json.loads(entry["Body"])
                message = json.loads(envelope["Message"])
                failed = message.get("invocationStatus") == "Failed"
                if message == TEST_NOTIFICATION:
                    self.tests[envelope["TopicArn"]] += 1
                else:
                    assert envelope["TopicArn"] == (self.error if failed else self.success)
                    self.messages.setdefault(message["inferenceId"], []).append(message)
                self._sqs.delete_message(QueueUrl=self._queue, ReceiptHandle=entry["ReceiptHandle"])

    def message(self, inference_id: str) -> Any:
        """The one message about a request, once it is there."""

        def read() -> list[Any]:
            self.collect()
            return self.messages.get(inference_id, [])

        (message,) = wait_for(read, bool)
        return message

    def wait_for_all(self, inference_ids: set[str]) -> None:
        """Until there is a message about each request; then it is made sure that there is just one,
        and none about another."""

        def missing() -> set[str]:
            self.collect()
            return inference_ids - set(self.messages)

        wait_for(missing, lambda left: not left)
        self.collect(wait_seconds=1)
        assert {name: len(found) for name, found in self.messages.items()} == dict.fromkeys(
            inference_ids, 1
        )


class Async:
    """Makes asynchronous endpoints of the echo container and sends them requests whose bodies are
    objects in a bucket."""

    def __init__(self, emulator: Emulator, s3: Any, bucket: str, mailbox: Mailbox) -> None:
        self.sagemaker = emulator.client("sagemaker")
        self.runtime = emulator.client("sagemaker-runtime")
        self.s3 = s3
        self.bucket = bucket
        self.mailbox = mailbox
        self.made: list[str] = []

    def config(
        self, *, concurrency: int | None = None, include: list[str] | None = None, **changes: Any
    ) -> str:
        """The name of a configuration; `changes` are of OutputConfig (None leaves a member out),
        `environment` of the container."""
        environment = changes.pop("environment", {})
        output = {
            "S3OutputPath": f"s3://{self.bucket}/out",
            "S3FailurePath": f"s3://{self.bucket}/failed/",
            "NotificationConfig": {
                "SuccessTopic": self.mailbox.success,
                "ErrorTopic": self.mailbox.error,
                "IncludeInferenceResponseIn": include or [],
            },
            **changes,
        }
        client = (
            {}
            if concurrency is None
            else {"ClientConfig": {"MaxConcurrentInvocationsPerInstance": concurrency}}
        )
        return create_endpoint_config(
            self.sagemaker,
            create_model(self.sagemaker, Environment=environment),
            asynchronous={
                "OutputConfig": {
                    name: value for name, value in output.items() if value is not None
                },
                **client,
            },
        )

    def endpoint(
        self, config: str | None = None, *, instances: int = 1, name: str | None = None
    ) -> str:
        """An endpoint that is InService with so many instances."""
        name = name or unique("async")
        self.sagemaker.create_endpoint(
            EndpointName=name, EndpointConfigName=config or self.config()
        )
        self.made.append(name)
        assert settled_endpoint(self.sagemaker, name)["EndpointStatus"] == "InService"
        if instances != 1:
            self.scale(name, instances)
            assert self.instances(name) == instances
        return name

    def scale(self, name: str, instances: int) -> None:
        change = [{"VariantName": VARIANT, "DesiredInstanceCount": instances}]
        self.sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=name, DesiredWeightsAndCapacities=change
        )

    def instances(self, name: str) -> int:
        variants = settled_endpoint(self.sagemaker, name)["ProductionVariants"]
        return int(variants[0]["CurrentInstanceCount"])

    def send(self, name: str, body: str, **request: Any) -> Any:
        """InvokeEndpointAsync; its answer."""
        key = f"in/{uuid.uuid4().hex}"
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=body.encode())
        return self.runtime.invoke_endpoint_async(
            EndpointName=name, InputLocation=f"s3://{self.bucket}/{key}", **request
        )

    def read(self, location: str) -> Any:
        """The object at an S3 URI."""
        bucket, _, key = location.removeprefix("s3://").partition("/")
        return self.s3.get_object(Bucket=bucket, Key=key)

    def answer(self, sent: Any) -> Any:
        """What the echo container answered, once the success message is there."""
        assert self.mailbox.message(sent["InferenceId"])["invocationStatus"] == "Completed"
        return json.loads(self.read(sent["OutputLocation"])["Body"].read())

    def failure(self, sent: Any) -> tuple[str, bytes]:
        """The reason in the error message and the object at FailureLocation; there is no output."""
        message = self.mailbox.message(sent["InferenceId"])
        assert message["invocationStatus"] == "Failed"
        with pytest.raises(ClientError, match="NoSuchKey"):
            self.read(sent["OutputLocation"])
        return message["failureReason"], self.read(sent["FailureLocation"])["Body"].read()

    def close(self) -> None:
        left = {
            entry["EndpointName"]
            for entry in self.sagemaker.list_endpoints(MaxResults=100)["Endpoints"]
        }
        for name in left.intersection(self.made):
            settled_endpoint(self.sagemaker, name)
            self.sagemaker.delete_endpoint(EndpointName=name)


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


@pytest.fixture
def own(
    hurried_emulator: Emulator, s3: Any, bucket: str, local_cloud: LocalCloud
) -> Iterator[Async]:
    """With a bucket and topics of its own."""
    made = Async(hurried_emulator, s3, bucket, Mailbox(local_cloud))
    yield made
    made.close()


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
    assert shared.mailbox.message(fits["InferenceId"])["invocationStatus"] == "Completed"


def test_a_container_that_dies_fails_the_request_it_had_and_no_other(own: Async) -> None:
    name = own.endpoint(own.config(concurrency=1))
    before = own.answer(own.send(name, "hello"))["pid"]
    fatal, *others = [own.send(name, body) for body in ("die", "one", "two", "three")]
    assert "Received server error (0) from model" in own.failure(fatal)[0]
    answers = [own.answer(sent) for sent in others]
    assert [answer["body"] for answer in answers] == ["one", "two", "three"]
    assert before not in {answer["pid"] for answer in answers}


def test_without_a_failure_path_the_reason_is_told_only(own: Async) -> None:
    name = own.endpoint(own.config(S3FailurePath=None))
    sent = own.send(name, "fail 400")
    assert "FailureLocation" not in sent
    assert "client error (400)" in own.mailbox.message(sent["InferenceId"])["failureReason"]
    assert keys(own.s3, own.bucket, "failed/") == []


def test_without_an_output_path_the_response_is_in_the_message_only(own: Async) -> None:
    name = own.endpoint(own.config(S3OutputPath=None, include=["SUCCESS_NOTIFICATION_TOPIC"]))
    sent = own.send(name, "upper abc")
    assert "OutputLocation" not in sent
    message = own.mailbox.message(sent["InferenceId"])
    assert message["responseParameters"] == {"contentType": "text/plain"}
    assert base64.b64decode(message["responseBody"]["content"]) == b"ABC"


def test_a_topic_that_went_away_costs_the_message_only(own: Async) -> None:
    name = own.endpoint()
    own.mailbox.delete_success_topic()
    sent = own.send(name, "upper abc")
    wait_for(lambda: keys(own.s3, own.bucket, "out/"), bool)
    assert own.read(sent["OutputLocation"])["Body"].read() == b"ABC"
    assert "client error (400)" in own.failure(own.send(name, "fail 400"))[0]


def test_an_output_that_cannot_be_written_is_a_failure(own: Async) -> None:
    name = own.endpoint(own.config(S3OutputPath=f"s3://{unique('no-such-bucket')}/out"))
    sent = own.send(name, "hello")
    reason = own.mailbox.message(sent["InferenceId"])["failureReason"]
    assert "Failed to upload the response" in reason
    assert own.read(sent["FailureLocation"])["Body"].read().decode() == reason


def test_fifty_requests_sent_at_zero_instances_are_each_answered_once_after_scaling_up(
    own: Async,
) -> None:
    name = own.endpoint(own.config(concurrency=3), instances=0)
    bodies = {
        number: "fail 400" if number % 10 == 0 else f"upper n{number}" for number in range(50)
    }
    with ThreadPoolExecutor(8) as pool:
        sent = dict(
            zip(bodies, pool.map(lambda body: own.send(name, body), bodies.values()), strict=True)
        )
    own.mailbox.collect()
    assert own.mailbox.messages == {}
    own.scale(name, 2)
    own.mailbox.wait_for_all({answer["InferenceId"] for answer in sent.values()})
    assert len(keys(own.s3, own.bucket, "out/")) == 45
    assert len(keys(own.s3, own.bucket, "failed/")) == 5
    for number, answer in sent.items():
        failed = number % 10 == 0
        found = own.read(answer["FailureLocation" if failed else "OutputLocation"])["Body"].read()
        assert found == (b'{"error": "as you wished"}' if failed else f"N{number}".encode())


def test_a_request_that_waits_longer_than_its_ttl_fails(own: Async) -> None:
    name = own.endpoint(instances=0)
    expiring, patient = (
        own.send(name, "a", RequestTTLSeconds=60),
        own.send(name, "b", RequestTTLSeconds=21_600),
    )
    reason, body = own.failure(expiring)
    assert "RequestTTLSeconds, 60" in reason
    assert body.decode() == reason
    own.scale(name, 1)
    assert own.answer(patient)["body"] == "b"


def test_an_instance_gets_no_more_requests_at_once_than_it_may(
    own: Async, local_cloud: LocalCloud
) -> None:
    name = own.endpoint(own.config(concurrency=2), instances=0)
    sent = [own.send(name, f"sleep 0.1 {number}") for number in range(6)]
    own.scale(name, 1)
    for one in sent:
        own.answer(one)
    logs: Any = boto3.client(
        "logs", endpoint_url=local_cloud.ministack_url, region_name="eu-west-1"
    )

    def concurrent() -> list[str]:
        events = logs.filter_log_events(
            logGroupName=f"/aws/sagemaker/Endpoints/{name}", filterPattern="concurrent"
        )["events"]
        return [event["message"] for event in events]

    assert set(wait_for(concurrent, lambda lines: len(lines) == 6)) <= {
        "concurrent 1",
        "concurrent 2",
    }


def test_scaling_to_zero_answers_what_is_being_processed(own: Async) -> None:
    name = own.endpoint(own.config(concurrency=1))
    running, waiting = own.send(name, "sleep 1 running"), own.send(name, "waiting")
    own.scale(name, 0)
    assert own.answer(running)["body"] == "sleep 1 running"
    assert own.instances(name) == 0
    own.mailbox.collect()
    assert waiting["InferenceId"] not in own.mailbox.messages
    own.scale(name, 1)
    assert own.answer(waiting)["body"] == "waiting"


def test_requests_that_wait_during_an_update_are_answered_by_the_new_fleet(own: Async) -> None:
    name = own.endpoint(own.config(environment={"ECHO_VERSION": "1"}), instances=0)
    sent = [own.send(name, "hello") for _ in range(3)]
    own.sagemaker.update_endpoint(
        EndpointName=name, EndpointConfigName=own.config(environment={"ECHO_VERSION": "2"})
    )
    assert {own.answer(one)["environment"]["ECHO_VERSION"] for one in sent} == {"2"}
    described = settled_endpoint(own.sagemaker, name)
    assert (
        described["AsyncInferenceConfig"]["OutputConfig"]["S3OutputPath"]
        == f"s3://{own.bucket}/out"
    )
    real_time = create_endpoint_config(own.sagemaker, create_model(own.sagemaker))
    with pytest.raises(ClientError, match="between real-time and asynchronous"):
        own.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=real_time)


def test_deleting_an_endpoint_drops_its_queue(own: Async) -> None:
    config = own.config()
    name = own.endpoint(config, instances=0)
    dropped = own.send(name, "dropped")
    own.sagemaker.delete_endpoint(EndpointName=name)

    def exists() -> bool:
        return bool(own.sagemaker.list_endpoints(NameContains=name)["Endpoints"])

    wait_for(exists, lambda found: not found)
    with pytest.raises(ClientError, match="not found"):
        own.send(name, "hello")
    own.endpoint(config, name=name)
    sent = own.send(name, "hello")
    assert own.answer(sent)["body"] == "hello"
    own.mailbox.collect(wait_seconds=1)
    assert dropped["InferenceId"] not in own.mailbox.messages
    assert len(keys(own.s3, own.bucket, "out/")) == 1


@pytest.fixture
def mortal(
    local_cloud: LocalCloud, tmp_path: Path, s3: Any, bucket: str
) -> Iterator[tuple[Emulator, Async]]:
    """An emulator that a test may kill."""
    running = Emulator(local_cloud, tmp_path / "state")
    running.start()
    yield running, Async(running, s3, bucket, Mailbox(local_cloud))
    running.stop()
    assert running.containers() == []


def test_a_restart_loses_and_doubles_no_request(mortal: tuple[Emulator, Async]) -> None:
    emulator, own = mortal
    busy = own.endpoint(own.config(concurrency=1))
    idle = own.endpoint(instances=0)
    before = [own.send(busy, f"upper {number}") for number in range(3)]
    for one in before:
        own.mailbox.message(one["InferenceId"])
    after = [
        own.send(busy, "sleep 2 interrupted"),
        own.send(busy, "upper waits"),
        own.send(idle, "upper still"),
    ]
    inline = own.runtime.invoke_endpoint_async(EndpointName=busy, Body=b"upper inline")

    emulator.kill()
    wait_for(emulator.containers, lambda left: not left)
    emulator.start()

    queued = own.send(busy, "upper later")  # taken although the instances are not there yet
    assert own.answer(after[0])["body"] == "sleep 2 interrupted"
    assert own.instances(idle) == 0
    emulator.stop()
    emulator.start()
    settled_endpoint(own.sagemaker, idle)
    own.scale(idle, 1)
    own.mailbox.wait_for_all({one["InferenceId"] for one in (*before, *after, inline, queued)})
    contents = {
        own.read(one["OutputLocation"])["Body"].read()
        for one in (after[1], after[2], inline, queued)
    }
    assert contents == {b"WAITS", b"STILL", b"INLINE", b"LATER"}


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


def test_each_topic_gets_a_test_notification_and_a_missing_topic_fails_the_endpoint(
    own: Async,
) -> None:
    own.endpoint()
    own.mailbox.collect()
    assert own.mailbox.tests == {own.mailbox.success: 1, own.mailbox.error: 1}
    config = own.config(NotificationConfig={"SuccessTopic": own.mailbox.success + "-gone"})
    name = unique("async")
    own.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    own.made.append(name)
    described = settled_endpoint(own.sagemaker, name)
    assert described["EndpointStatus"] == "Failed"
    assert '"sns:Publish" permissions' in described["FailureReason"]
    with pytest.raises(ClientError, match="not in service"):
        own.send(name, "hello")


def test_the_metrics_of_an_asynchronous_endpoint_reach_cloudwatch(
    own: Async, local_cloud: LocalCloud
) -> None:
    cloudwatch: Any = boto3.client(
        "cloudwatch", endpoint_url=local_cloud.ministack_url, region_name="eu-west-1"
    )
    name = own.endpoint(instances=0)
    of_endpoint = [{"Name": "EndpointName", "Value": name}]
    now = datetime.datetime.now(datetime.UTC)

    def statistic(metric: str, which: str = "Sum", dimensions: Any = None) -> float:
        points = cloudwatch.get_metric_statistics(
            Namespace="AWS/SageMaker",
            MetricName=metric,
            Statistics=[which],
            Period=86_400,
            Dimensions=dimensions or [*of_endpoint, {"Name": "VariantName", "Value": VARIANT}],
            StartTime=now - datetime.timedelta(hours=1),
            EndTime=now + datetime.timedelta(hours=1),
        )["Datapoints"]
        return float(max((point[which] for point in points), default=0.0))

    def sampled(metric: str) -> float:
        return statistic(metric, "Maximum", of_endpoint)

    sent = [own.send(name, body) for body in ("one", "two", "fail 400", "fail 500")]
    expired = own.send(name, "late", RequestTTLSeconds=60)
    own.mailbox.message(expired["InferenceId"])
    wait_for(lambda: sampled("ApproximateBacklogSize"), lambda size: size >= 4)
    assert sampled("ApproximateBacklogSizePerInstance") >= 4
    assert sampled("HasBacklogWithoutCapacity") == 1
    wait_for(lambda: sampled("ApproximateAgeOfOldestRequest"), lambda age: age > 0.5)
    own.scale(name, 1)
    for one in sent:
        own.mailbox.message(one["InferenceId"])
    wait_for(lambda: statistic("TotalProcessingTime", "SampleCount"), lambda count: count == 5)
    assert statistic("InvocationsProcessed") == 4
    assert statistic("InvocationFailures") == 3
    assert statistic("ExpiredRequests") == 1
    assert (statistic("Invocation4XXErrors"), statistic("Invocation5XXErrors")) == (1, 1)
    assert (
        statistic("TimeInBacklog", "SampleCount") == statistic("ModelLatency", "SampleCount") == 4
    )
    assert statistic("TimeInBacklog") / 1e6 < statistic("TotalProcessingTime") / 1e3
    assert statistic("Invocations") == statistic("OverheadLatency", "SampleCount") == 0
    wait_for(
        lambda: statistic("ApproximateBacklogSize", "Minimum", of_endpoint), lambda size: size == 0
    )


def test_notifications_are_lost_and_repeated_as_planned(
    own: Async, hurried_emulator: Emulator
) -> None:
    faults = FaultsClient(hurried_emulator.url)
    name = own.endpoint()
    with faults.planned(Rule(kind="lost_notification", endpoint=name)):
        lost = own.send(name, "lost")
        wait_for(faults.report, lambda report: bool(report.happened))
    with faults.planned(Rule(kind="repeated_notification", endpoint=name)):
        told = own.send(name, "told")["InferenceId"]

        def messages() -> int:
            own.mailbox.collect()
            return len(own.mailbox.messages.get(told, []))

        wait_for(messages, lambda count: count == 2)
    assert lost["InferenceId"] not in own.mailbox.messages
    assert json.loads(own.read(lost["OutputLocation"])["Body"].read())["body"] == "lost"
