"""Asynchronous endpoints of single tests: their instances start, stop, die and restart, their
buckets and topics disappear, and CloudWatch has their metrics."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.faults.client import FaultsClient
from local_sagemaker.faults.plan import Rule
from tests.local_sagemaker.asynchronous_endpoints import VARIANT, Async, Mailbox
from tests.local_sagemaker.conftest import (
    Emulator,
    create_endpoint_config,
    create_model,
    keys,
    settled_endpoint,
    unique,
    wait_for,
)


@pytest.fixture
def own(
    hurried_emulator: Emulator, s3: Any, bucket: str, local_cloud: LocalCloud
) -> Iterator[Async]:
    """Endpoints with their own bucket and topics."""
    made = Async(hurried_emulator, s3, bucket, Mailbox(local_cloud))
    yield made
    made.close()


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
    assert own.instances(name) == 0
    own.mailbox.collect()
    assert own.mailbox.messages == {}  # InService again before the running request has ended
    assert own.answer(running)["body"] == "sleep 1 running"
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

    queued = own.send(busy, "upper later")  # accepted although no instance has started yet
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


def test_a_request_that_was_draining_at_a_kill_waits_for_capacity_and_is_answered_once(
    mortal: tuple[Emulator, Async],
) -> None:
    emulator, own = mortal
    name = own.endpoint(own.config(concurrency=1))
    sent = [own.send(name, "sleep 2 draining"), own.send(name, "upper waiting")]
    own.scale(name, 0)
    assert own.instances(name) == 0

    emulator.kill()
    wait_for(emulator.containers, lambda left: not left)
    emulator.start()

    assert own.instances(name) == 0
    assert emulator.containers() == []
    own.scale(name, 1)
    own.mailbox.wait_for_all({one["InferenceId"] for one in sent})


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
    own: Async, hurried_emulator: Emulator
) -> None:
    cloudwatch = hurried_emulator.client("cloudwatch")
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
