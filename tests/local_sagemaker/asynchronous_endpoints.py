"""Asynchronous endpoints of the echo container, and a mailbox for their messages."""

from __future__ import annotations

import json
import uuid
from collections import Counter
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
    """A success and an error topic whose messages go to one queue, with the received messages by
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
        """Read the messages that are in the queue or arrive within `wait_seconds`."""
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

    def message(self, inference_id: str, seconds: float = 30.0) -> Any:
        """The only message about a request, once it has arrived."""

        def read() -> list[Any]:
            self.collect()
            return self.messages.get(inference_id, [])

        (message,) = wait_for(read, bool, seconds)
        return message

    def wait_for_all(self, inference_ids: set[str]) -> None:
        """Wait for a message about each request. Then check that there is exactly one for each, and
        none about another request."""

        def missing() -> set[str]:
            self.collect()
            return inference_ids - set(self.messages)

        wait_for(missing, lambda left: not left)
        self.collect(wait_seconds=1)
        assert {name: len(found) for name, found in self.messages.items()} == dict.fromkeys(
            inference_ids, 1
        )


class Async:
    """Creates asynchronous endpoints of the echo container, and sends them requests whose bodies
    are objects in a bucket."""

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
        """The name of a new configuration. `changes` are members of OutputConfig (None removes a
        member), `environment` is the container's."""
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
        """An endpoint that is InService with this many instances."""
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
        """The echo container's answer, once the success message has arrived."""
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
