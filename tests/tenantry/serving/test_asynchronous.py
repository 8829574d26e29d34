"""Asynchronous questions: one endpoint for all tenants of a tier, with each answer under its
tenant's own prefix."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.hosting import invocation
from tenantry.hosting.endpoints import EndpointFailedError, ensure_endpoint
from tenantry.hosting.invocation import Answer, EndpointBusyError, InvocationRefusedError, invoke
from tenantry.hosting.route import Route
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS, NotAsynchronousError
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, s3_keys, sagemaker_names
from tenantry.names.tiers import Own, Shared
from tenantry.serving.asynchronous import Failure, Submitted, deliver_failures
from tenantry.serving.client import NoModelYetError, TenantClient
from tenantry.serving.metrics import InferenceMetrics
from tenantry.workloads.schema import read_workloads
from tests.tenantry.hosting.instances import set_instances
from tests.tenantry.onboarding.registration import NAME
from tests.tenantry.serving.inference_counts import counted
from tests.tenantry.serving.tiny_family import MEANS, World, tiny_workload

ACME = ids.tenant_id("acme"), ids.version_name("v1")


def mean(answer: Answer) -> float:
    return float(json.loads(answer.content)["mean"])


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Mailbox:
    """SageMaker's messages about answered questions, from a queue like an app's subscription."""

    def __init__(self, deployment: Deployment) -> None:
        self._sqs = deployment.sqs
        self._queue = self._sqs.create_queue(QueueName=f"answers-{uuid.uuid4().hex[:8]}")[
            "QueueUrl"
        ]
        arn = self._sqs.get_queue_attributes(QueueUrl=self._queue, AttributeNames=["QueueArn"])[
            "Attributes"
        ]["QueueArn"]
        deployment.sns.subscribe(
            TopicArn=deployment.async_success_topic,
            Protocol="sqs",
            Endpoint=arn,
            Attributes={"RawMessageDelivery": "true"},
        )
        self.told: Counter[str] = Counter()

    def collect(self) -> int:
        """Read the waiting messages; returns the number of reported answers so far."""
        while found := self._sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10).get(
            "Messages"
        ):
            for message in found:
                self.told[json.loads(message["Body"])["inferenceId"]] += 1
                self._sqs.delete_message(
                    QueueUrl=self._queue, ReceiptHandle=message["ReceiptHandle"]
                )
        return self.told.total()


# ---- the endpoint --------------------------------------------------------------------------------


def test_the_endpoint_is_as_the_workload_says_and_left_alone_then(world: World) -> None:
    deployment = world.deployment
    again = ensure_endpoint(deployment, world.tiny, Shared("bridge"), ASYNCHRONOUS)
    assert (again.name, again.change) == (world.endpoint, "unchanged")
    assert again.name == "tenantry-energy-bridge-async"
    config = deployment.sagemaker.describe_endpoint_config(EndpointConfigName=again.config)
    said = config["AsyncInferenceConfig"]
    bucket = deployment.data_bucket
    assert said["OutputConfig"]["S3OutputPath"] == f"s3://{bucket}/async"
    assert said["OutputConfig"]["S3FailurePath"] == f"s3://{bucket}/async-failures/energy"
    assert said["OutputConfig"]["NotificationConfig"]["ErrorTopic"] == deployment.async_error_topic
    assert said["ClientConfig"] == {"MaxConcurrentInvocationsPerInstance": 4}
    model = deployment.sagemaker.describe_model(
        ModelName=config["ProductionVariants"][0]["ModelName"]
    )
    assert model["ExecutionRoleArn"] == deployment.async_role
    assert model["PrimaryContainer"]["Environment"]["TENANTRY_MODELS_URI"] == (
        f"s3://{bucket}/endpoints/tenantry-energy-bridge/models/"
    )


def test_a_workload_without_an_asynchronous_endpoint_says_how_to_get_one(world: World) -> None:
    energy, tenant = read_workloads()["energy"], world.tenant()
    with pytest.raises(NotAsynchronousError, match=r"add serving\.asynchronous to energy\.yaml"):
        ensure_endpoint(world.deployment, energy, Shared("bridge"), ASYNCHRONOUS)
    with (
        TenantClient(world.deployment, energy, tenant) as client,
        pytest.raises(NotAsynchronousError),
    ):
        client.submit({"add": 1})


def test_an_endpoint_that_is_not_there_yet_is_named(world: World) -> None:
    pool = world.tenant(tier="pool")
    with world.client(pool) as client:
        with pytest.raises(EndpointFailedError, match=r"tenantry-energy-pool-async .* not found"):
            client.submit({"add": 1})
        # an unaccepted question does not count as submitted
        with pytest.raises(EndpointFailedError, match="not found"):
            client.submit({"add": 1})


# ---- questions and answers -----------------------------------------------------------------------


def test_questions_asked_at_zero_instances_are_all_answered_once_when_there_is_one(
    world: World,
) -> None:
    deployment, mailbox = world.deployment, Mailbox(world.deployment)
    tenants = [world.tenant() for _ in range(4)]
    assert set_instances(deployment, world.endpoint, 0).instances == 0
    questions = [(tenant, add) for tenant in tenants for add in range(5)]

    def ask(question: tuple[ids.TenantId, int]) -> Submitted:
        with world.client(question[0]) as client:
            submitted = client.submit({"add": question[1]})
            assert client.result(submitted) is None
            return submitted

    with ThreadPoolExecutor(4) as pool:
        asked = list(pool.map(ask, questions))
    with world.client(tenants[0]) as client, pytest.raises(TimeoutError, match="may still come"):
        client.wait(asked[0], 0.2)
    assert set_instances(deployment, world.endpoint, 1).instances == 1
    for (tenant, add), submitted in zip(questions, asked, strict=True):
        with world.client(tenant) as client:
            assert mean(client.wait(submitted, 60)) == MEANS[tenant] + add
        assert submitted.output_key.startswith(f"async/{tenant}/energy/")
    until(lambda: mailbox.collect() >= 20)
    assert mailbox.told == Counter(
        {sagemaker_names.inference_id(submitted.id, 1): 1 for submitted in asked}
    )


def test_the_same_question_is_asked_once_however_often_it_is_submitted(world: World) -> None:
    tenant, hold = world.tenant(), world.folder / uuid.uuid4().hex
    request, before = {"add": 1, "wait_for": str(hold)}, world.invocations()
    with world.client(tenant) as client:
        first = client.submit(request)
    with world.client(tenant) as client:  # another process
        second = client.submit(dict(reversed(request.items())))
        assert client.result(second) is None
        assert (second.id, second.output_key) == (first.id, first.output_key)
        assert (second.at, second.due) == (first.at, first.due)
        hold.touch()
        answer = client.wait(second, 60)
        third = client.submit(request)
        assert third.answer == client.result(third) == answer
        assert world.invocations() == before + 1
        assert mean(answer) == MEANS[tenant] + 1


def test_an_answer_is_kept_and_given_to_whoever_asks_next_either_way(world: World) -> None:
    tenant, request = world.tenant(), {"add": 7}
    with world.client(tenant) as client:
        answer = client.wait(client.submit(request), 60)
    for name in world.keys_of(tenant):
        world.deployment.s3.delete_object(
            Bucket=world.deployment.data_bucket, Key=f"async/{tenant}/energy/{name}"
        )
    before = world.invocations()
    with world.client(tenant) as client:
        assert client.result(client.submit(request)) == answer
        assert client.predict_bytes(request) == answer  # without any real-time endpoint
    assert world.invocations() == before


def test_an_answer_is_archived_with_its_models_trace(world: World) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    traced = world.tenant(traceparent=f"00-{trace_id}-00f067aa0ba902b7-01")
    s3, bucket = world.deployment.s3, world.deployment.data_bucket
    for tenant, told in ((traced, trace_id), (world.tenant(), None)):
        with world.client(tenant) as client:
            client.wait(client.submit({"add": 1}), 60)
        (entry,) = s3.list_objects_v2(Bucket=bucket, Prefix=f"archive/{tenant}/")["Contents"]
        exchange = json.loads(objects.read_bytes(s3, bucket, entry["Key"], 1 << 20))
        assert exchange.get("trace_id") == told


def test_submitted_questions_are_counted_as_the_others_are(world: World) -> None:
    tenant, before = world.tenant(), counted(world.deployment, "energy")
    with InferenceMetrics(world.deployment) as metrics:
        for _ in range(3):
            with TenantClient(world.deployment, world.tiny, tenant, metrics) as client:
                client.wait(client.submit({"add": 1}), 60)
    after = counted(world.deployment, "energy")
    assert {name: after[name][0] - before[name][0] for name in after} == {
        "NumberOfInferenceRequests": 3,
        "CacheHits": 2,
        "CacheMisses": 1,
    }


def test_the_apps_own_session_may_ask_the_endpoint_for_the_tenants(world: World) -> None:
    tenant, before, app = world.tenant(), world.invocations(), Deployment.from_stack()
    with TenantClient(world.deployment, world.tiny, tenant, submitter=app) as client:
        assert mean(client.wait(client.submit({"add": 1}), 60)) == MEANS[tenant] + 1
    assert app.aws_calls == {"sagemaker-runtime:InvokeEndpointAsync": 1}
    assert world.invocations() == before


def test_a_picture_comes_back_as_its_bytes(world: World) -> None:
    tenant = world.tenant()
    with world.client(tenant) as client:
        picture = client.wait(client.submit({"add": 1}, accept="image/png"), 60)
        document = client.wait(client.submit({"add": 1}), 60)
    assert picture.content.startswith(b"\x89PNG")
    assert (picture.content_type, document.content_type) == ("image/png", "application/json")


def test_a_new_champion_is_asked_anew(world: World) -> None:
    tenant = world.tenant()
    with world.client(tenant) as client:
        old = client.wait(client.submit({"add": 1}), 60)
        world.crown(tenant, 2)
        new = client.wait(client.submit({"add": 1}), 60)
    assert mean(new) == MEANS[tenant] + 1 != mean(old)


def test_what_is_not_repeatable_is_asked_each_time(world: World) -> None:
    tenant, before = world.tenant(), world.invocations()
    seeded = tiny_workload(repeatable_with=("seed",))
    with TenantClient(world.deployment, seeded, tenant) as client:
        asked = [client.submit({"add": 1}) for _ in range(2)]
        assert [mean(client.wait(each, 60)) for each in asked] == [MEANS[tenant] + 1] * 2
        assert world.invocations() == before + 2
        assert asked[0].output_key != asked[1].output_key
        repeatable = [client.submit({"add": 1, "seed": 4}) for _ in range(2)]
        assert repeatable[0].id == repeatable[1].id
        client.wait(repeatable[1], 60)
    assert world.invocations() == before + 3


def test_a_tenants_client_gives_no_other_tenants_answer(world: World) -> None:
    one, other = world.tenant(), world.tenant()
    with world.client(one) as client:
        submitted = client.submit({"add": 1})
        client.wait(submitted, 60)
    with world.client(other) as client, pytest.raises(ids.InvalidIdError, match="not of tenant"):
        client.result(submitted)
    with pytest.raises(NoModelYetError), world.client(ids.tenant_id("nobody")) as client:
        client.submit({"add": 1})


def test_a_silo_tenants_endpoint_is_its_own_and_writes_below_its_prefix_alone(world: World) -> None:
    deployment, tenant = world.deployment, world.tenant(tier="silo")
    image = "al2-ami-sagemaker-inference-gpu-2-1"
    tiny = world.tiny.model_copy(
        update={"serving": world.tiny.serving.model_copy(update={"ami_version": image})}
    )
    endpoint = ensure_endpoint(deployment, tiny, Own(tenant), ASYNCHRONOUS)
    assert (
        endpoint.name
        == sagemaker_names.shaped_endpoint_name("tenantry", NAME, Own(tenant), "async")
        != world.endpoint
    )
    tags = deployment.sagemaker.list_tags(ResourceArn=endpoint.arn)["Tags"]
    assert {"Key": "tenantry:tenant", "Value": tenant} in tags
    config = deployment.sagemaker.describe_endpoint_config(EndpointConfigName=endpoint.config)
    assert config["ProductionVariants"][0]["InferenceAmiVersion"] == image
    output = config["AsyncInferenceConfig"]["OutputConfig"]
    own = f"s3://{deployment.data_bucket}/async/{tenant}/energy"
    assert output["S3OutputPath"] == output["S3FailurePath"] == own
    with world.client(tenant) as client:
        assert mean(client.wait(client.submit({"add": 1}), 60)) == MEANS[tenant] + 1
        refused = client.submit({"add": "x"})
        assert refused.failure_key.startswith(f"async/{tenant}/energy/")
        with pytest.raises(InvocationRefusedError, match="'add' must be a number"):
            client.wait(refused, 60)
    deployment.sagemaker.delete_endpoint(EndpointName=endpoint.name)


# ---- failures ------------------------------------------------------------------------------------


def delivered(world: World, question: str) -> list[Failure]:
    """Deliver failures to their tenants until this question's failure; returns them."""
    found: list[Failure] = []
    deadline = time.monotonic() + 60
    while question not in {failure.question for failure in found}:
        assert time.monotonic() < deadline
        found += deliver_failures(world.deployment)
    return found


def test_a_refused_question_says_why_and_may_be_asked_again(world: World) -> None:
    tenant, before = world.tenant(), world.invocations()
    with world.client(tenant) as client:
        submitted = client.submit({"add": "x"})
        for _ in range(2):
            with pytest.raises(InvocationRefusedError, match=r"^'add' must be a number$"):
                client.wait(submitted, 60)
        # the failure in a question's record is not trusted
        delivered(world, submitted.id)
        again = client.submit({"add": "x"})
        assert (again.id, again.attempt) == (submitted.id, 2)
        with pytest.raises(InvocationRefusedError, match="'add' must be a number"):
            client.wait(again, 60)
    assert world.invocations() == before + 2


def test_a_failure_is_brought_to_its_tenants_prefix(world: World) -> None:
    deployment, tenant = world.deployment, world.tenant()
    with world.client(tenant) as client:
        submitted = client.submit({"add": "x"})
        (failure,) = [
            found for found in delivered(world, submitted.id) if found.question == submitted.id
        ]
        assert (failure.tenant, failure.attempt, failure.reason) == (
            tenant,
            1,
            "'add' must be a number",
        )
        assert f"{submitted.id}.failure-1" in world.keys_of(tenant)
        # A tenant's session sees only its own prefix.
        deployment.s3.delete_object(Bucket=deployment.data_bucket, Key=submitted.failure_key)
        with pytest.raises(InvocationRefusedError, match=r"^'add' must be a number$"):
            client.result(submitted)
    assert deliver_failures(deployment) == []


def test_a_model_that_is_not_there_fails_its_own_question_alone(world: World) -> None:
    deployment, tenant, other = world.deployment, world.tenant(), world.tenant()
    version = ModelRegistry(deployment).champion(tenant, NAME)
    assert version is not None
    deployment.s3.delete_object(
        Bucket=deployment.data_bucket,
        Key=s3_keys.endpoint_model(version.endpoint, tenant, version.version),
    )
    with world.client(tenant) as client, world.client(other) as neighbour:
        asked, beside = client.submit({"add": 1}), neighbour.submit({"add": 1})
        with pytest.raises(InvocationRefusedError, match=f"there is no model '{tenant}/"):
            client.wait(asked, 60)
        assert mean(neighbour.wait(beside, 60)) == MEANS[other] + 1


def test_messages_about_nothing_of_ours_are_left_out(world: World) -> None:
    deployment = world.deployment
    question = "0" * 32
    good: dict[str, Any] = {
        "invocationStatus": "Failed",
        "inferenceId": f"{question}-2",
        "failureReason": "the instance was lost",
        "requestParameters": {
            "inputLocation": f"s3://{deployment.data_bucket}/async/acme/energy/{question}.input"
        },
    }

    def elsewhere(location: str) -> dict[str, Any]:
        return good | {"requestParameters": {"inputLocation": location}}

    bad: list[Any] = [
        {"eventName": "TestNotification"},
        good | {"inferenceId": "something else"},
        good | {"inferenceId": f"{'1' * 32}-1"},
        good | {"responseBody": {"content": 7}},
        good | {"requestParameters": {}},
        elsewhere(f"s3://other-bucket/async/acme/energy/{question}.input"),
        elsewhere(f"s3://{deployment.data_bucket}/async/../acme/energy/{question}.input"),
        elsewhere(f"s3://{deployment.data_bucket}/predictions/acme/energy/{question}.input"),
        [],
        7,
        None,
    ]
    for message in [*map(json.dumps, bad), "no JSON", json.dumps(good)]:
        deployment.sqs.send_message(
            QueueUrl=deployment.async_failures_queue_url, MessageBody=message
        )
    acme = ids.tenant_id("acme")
    assert [found for found in delivered(world, question) if found.tenant == acme] == [
        Failure(NAME, acme, ids.question_id(question), 2, "the instance was lost")
    ]
    key = s3_keys.async_failure(NAME, acme, ids.question_id(question), 2)
    assert (
        objects.read_bytes(deployment.s3, deployment.data_bucket, key, 1000)
        == b"the instance was lost"
    )


def test_a_question_whose_time_has_passed_is_missed_and_asked_again(world: World) -> None:
    deployment, tenant = world.deployment, world.tenant()
    hold = world.folder / uuid.uuid4().hex
    with world.client(tenant) as client:
        submitted = client.submit({"add": 1, "wait_for": str(hold)})
        late = replace(submitted, due=datetime.now(UTC) - timedelta(seconds=1))
        with pytest.raises(objects.ObjectMissingError, match="neither answered nor refused"):
            client.result(late)
        key = s3_keys.async_submitted(NAME, tenant, submitted.id)
        record = json.loads(objects.read_bytes(deployment.s3, deployment.data_bucket, key, 10_000))
        objects.write_json(
            deployment.s3, deployment.data_bucket, key, record | {"due": late.due.isoformat()}
        )
        again = client.submit({"add": 1, "wait_for": str(hold)})
        assert again.attempt == 2
        hold.touch()
        assert mean(client.wait(again, 60)) == MEANS[tenant] + 1


@pytest.mark.parametrize(
    "record",
    [b"", b"{}", b"[]", b'{"format": 1, "question": "other"}', b"\xff", b" " * 70_000],
    ids=["empty", "no fields", "a list", "another question", "no text", "too large"],
)
def test_a_record_that_is_damaged_is_as_if_nothing_had_been_asked(
    world: World, record: bytes
) -> None:
    tenant, before = world.tenant(), world.invocations()
    with world.client(tenant) as client:
        submitted = client.submit({"add": 1})
        client.wait(submitted, 60)
    deployment, bucket = world.deployment, world.deployment.data_bucket
    objects.write_bytes(
        deployment.s3, bucket, s3_keys.async_submitted(NAME, tenant, submitted.id), record
    )
    kept = s3_keys.cached_answer(NAME, tenant, submitted.question.version, submitted.id)
    deployment.s3.delete_object(Bucket=bucket, Key=kept)
    with world.client(tenant) as client:
        assert mean(client.wait(client.submit({"add": 1}), 60)) == MEANS[tenant] + 1
    assert world.invocations() == before + 2


def test_a_forged_record_leads_to_nobody_elses_failure_or_answer(world: World) -> None:
    """A tenant may write under its own prefix, which includes the record of a question."""
    deployment, bucket = world.deployment, world.deployment.data_bucket
    attacker, victim = world.tenant(), world.tenant()
    with world.client(victim) as client:
        theirs = client.submit({"add": "x"})
        with pytest.raises(InvocationRefusedError):
            client.wait(theirs, 60)
    secret = s3_keys.async_failure(NAME, victim, theirs.id, 1)
    objects.write_bytes(deployment.s3, bucket, secret, b"the victim's own words", "text/plain")
    objects.write_bytes(
        deployment.s3, bucket, theirs.failure_key, b"the victim's own words", "text/plain"
    )
    with world.client(attacker) as client:
        asked = client.submit({"add": 1})
        client.wait(asked, 60)
    record = s3_keys.async_submitted(NAME, attacker, asked.id)
    known = json.loads(objects.read_bytes(deployment.s3, bucket, record, 10_000))
    forged = [
        secret,
        theirs.failure_key,
        f"async/{attacker}/energy/../../{victim}/energy/{theirs.id}.failure-1",
    ]
    for key in forged:
        for gone in (
            s3_keys.async_output(NAME, attacker, asked.id),
            s3_keys.cached_answer(NAME, attacker, asked.question.version, asked.id),
        ):
            deployment.s3.delete_object(Bucket=bucket, Key=gone)
        objects.write_json(
            deployment.s3, bucket, record, known | {"failure": key, "output": secret}
        )
        with world.client(attacker) as client:
            again = client.submit({"add": 1})
            assert again.attempt == 1, "the record is believed but for the keys it names"
            assert again.failure_key == ""
            assert client.result(again) is None
            assert client.result(replace(again, output_key=secret)) is None
    assert all("victim" not in name for name in world.keys_of(attacker))


# ---- a real-time endpoint that has too much to do ------------------------------------------------


@pytest.fixture(scope="module")
def busy(world: World) -> ids.TenantId:
    """A tenant on a real-time endpoint of the tiny family."""
    ensure_endpoint(world.deployment, world.tiny, Shared("bridge"), MULTI_MODEL)
    return world.tenant()


def test_a_busy_endpoint_is_asked_again_for_a_while(
    world: World, busy: ids.TenantId, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left = tmp_path / "left"
    left.write_text("2")
    with world.client(busy) as client:
        assert client.predict({"add": 1, "busy": str(left)})["mean"] == MEANS[busy] + 1
        assert left.read_text() == "-1"
        left.write_text("1000")
        monkeypatch.setattr(invocation, "BUSY_SECONDS", 0.3)
        with pytest.raises(EndpointBusyError, match="three are waiting"):
            client.predict({"add": 2, "busy": str(left)})
        with pytest.raises(EndpointBusyError, match="not ready in 1 s"):
            client.predict({"add": 3, "late": True})


def test_an_asynchronous_endpoint_answers_nothing_at_once(world: World) -> None:
    with pytest.raises(
        (EndpointFailedError, InvocationRefusedError, ClientError), match="InvokeEndpointAsync"
    ):
        invoke(world.deployment, Route("multi_model", world.endpoint, *ACME), {})
    with pytest.raises(InvocationRefusedError, match=r"ask it with TenantClient\.submit"):
        invoke(world.deployment, Route("asynchronous", world.endpoint, *ACME), {})
