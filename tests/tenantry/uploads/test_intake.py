"""From S3's own events to the queue, through the real bucket, queue, table and topics."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.trace_context import trace_id_of
from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, s3_keys
from tenantry.requests.queue import RequestQueue
from tenantry.uploads import manifests
from tenantry.uploads.intake import Intake, drain_queue, find_lost_uploads
from tenantry.workloads.schema import read_workloads

WORKLOADS = read_workloads()
NAME = ids.workload_name("energy")


@dataclass
class Known:
    """The introduced tenants; ``broken`` simulates a Dagster that is down."""

    tenants: list[str] = field(default_factory=list)
    broken: bool = False

    def __call__(self, workload: ids.WorkloadName, tenants: Sequence[ids.ModelId]) -> None:
        if self.broken:
            raise ConnectionError("Dagster's database is down")
        self.tenants += tenants


@pytest.fixture
def deployment(deployment: Deployment) -> Deployment:
    """The stack, after the intake of S3's configuration event, which reports no upload."""
    assert (left(deployment), drained(deployment).messages, left(deployment)) == (1, 1, 0)
    return deployment


@pytest.fixture
def operators(deployment: Deployment) -> str:
    """URL of a queue that receives operators' notices."""
    url = deployment.sqs.create_queue(QueueName="operators")["QueueUrl"]
    arn = "arn:aws:sqs:eu-west-1:123456789012:operators"
    deployment.sns.subscribe(TopicArn=deployment.operators_topic, Protocol="sqs", Endpoint=arn)
    return url


def put(deployment: Deployment, tenant: str, upload: str = "u1", content: bytes = b"x") -> str:
    who, which = ids.tenant_id(tenant), ids.upload_id(upload)
    return manifests.put_upload(
        deployment, NAME, who, which, {"a.csv": content}, {"timezone": "UTC"}
    )


def put_raw(deployment: Deployment, key: str, content: bytes) -> None:
    objects.write_bytes(deployment.s3, deployment.uploads_bucket, key, content)


def drained(deployment: Deployment, known: Known | None = None) -> Intake:
    return drain_queue(deployment, WORKLOADS, known or Known(), max_seconds=20)


def left(deployment: Deployment) -> int:
    """Messages in the uploads queue, seen or not."""
    names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = deployment.sqs.get_queue_attributes(
        QueueUrl=deployment.uploads_queue_url, AttributeNames=names
    )
    return sum(int(count) for count in found["Attributes"].values())


def told(deployment: Deployment, url: str | None = None) -> list[Any]:
    """Everything in a queue of notices."""
    bodies: list[Any] = []
    while True:
        found = deployment.sqs.receive_message(
            QueueUrl=url or deployment.notices_queue_url, MaxNumberOfMessages=10
        )
        if not found.get("Messages"):
            return bodies
        for message in found["Messages"]:
            bodies.append(json.loads(message["Body"]))
            deployment.sqs.delete_message(
                QueueUrl=url or deployment.notices_queue_url, ReceiptHandle=message["ReceiptHandle"]
            )


def rows(deployment: Deployment, tenant: str) -> list[tuple[str, str | None]]:
    found = RequestQueue(deployment).of_tenant(NAME, ids.tenant_id(tenant))
    return [(row.status, row.reason) for row in found]


def test_an_upload_becomes_a_request_its_tenant_is_introduced_and_the_event_is_gone(
    deployment: Deployment,
) -> None:
    key, known = put(deployment, "acme"), Known()
    done = drained(deployment, known)
    assert (done.messages, done.accepted, done.repeated, done.refused) == (1, 1, 0, [])
    assert known.tenants == ["acme"]
    (row,) = RequestQueue(deployment).due(NAME)
    assert (row.tenant, row.manifest_key, row.first, row.tier) == ("acme", key, True, "bridge")
    assert left(deployment) == 0
    assert told(deployment) == []
    assert drained(deployment).messages == 0


def test_a_repeated_event_and_a_repeated_upload_are_nothing_new(deployment: Deployment) -> None:
    key = put(deployment, "acme")
    drained(deployment)
    (row,) = RequestQueue(deployment).due(NAME)
    objects.copy(deployment.s3, deployment.uploads_bucket, key, key + ".copy")
    put(deployment, "acme", "u1")
    put(deployment, "acme", "u2")
    done = drained(deployment)
    assert (done.accepted, done.repeated) == (0, 2)
    (same,) = RequestQueue(deployment).due(NAME)
    # S3 gives times to the second, and the second upload may have come in the next second.
    as_before = replace(same, manifest_key=row.manifest_key, uploaded=row.uploaded, due=row.due)
    assert replace(as_before, traceparent=row.traceparent) == row
    assert left(deployment) == 0


def test_an_upload_keeps_the_trace_it_came_with_and_gets_one_where_that_cannot_be_read(
    deployment: Deployment,
) -> None:
    apps = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {"acme": apps, "before-traces": None, "globex": "garbage", "initech": apps[:-1]}
    file = {"name": "a.csv", "bytes": 1, "sha256": objects.sha256(b"x")}
    for tenant, header in headers.items():
        manifest = {"format": 1, "workload": NAME, "tenant": tenant, "files": [file]}
        deployment.s3.put_object(
            Bucket=deployment.uploads_bucket,
            Key=s3_keys.upload_manifest(NAME, ids.tenant_id(tenant), ids.upload_id("u1")),
            Body=json.dumps({**manifest, "parameters": {"timezone": "UTC"}}),
            Metadata={} if header is None else {"traceparent": header},
        )
    done = drained(deployment)
    assert (done.accepted, done.refused) == (4, [])
    traces = {
        str(row.tenant): trace_id_of(row.traceparent) for row in RequestQueue(deployment).due(NAME)
    }
    assert traces["acme"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert all(traces.values())
    assert len(set(traces.values())) == 4


def test_whoever_uploads_again_what_was_uploaded_before_something_else_gets_a_request_for_it(
    deployment: Deployment,
) -> None:
    queue = RequestQueue(deployment)
    for upload, content in (("u1", b"x"), ("u2", b"y"), ("u3", b"x")):
        put(deployment, "acme", upload, content)
        assert drained(deployment).accepted == 1
        (row,) = queue.due(NAME)
        assert row.manifest_key.endswith(f"/{upload}/manifest.json")
        (taken,) = queue.claim([row], ids.pack_id(f"p-{upload}"))
        queue.move(queue.move(taken, "trained", why=""), "registered", why="")
        time.sleep(1.1)  # S3 gives an object's time to the second
    put(deployment, "acme", "u4", b"x")
    done = drained(deployment)
    assert (done.accepted, done.repeated) == (0, 1), "that is what it has"
    assert len(queue.of_tenant(NAME, ids.tenant_id("acme"))) == 3


def test_a_bad_manifest_is_refused_once_its_owner_is_told_once_and_its_neighbours_go_on(
    deployment: Deployment,
) -> None:
    put(deployment, "acme")
    bad = s3_keys.upload_manifest(NAME, ids.tenant_id("bolt"), ids.upload_id("u1"))
    put_raw(deployment, bad, b'{"format": 1, "tenant": "\\ud800"}')
    put(deployment, "coda")
    known = Known()
    done = drained(deployment, known)
    assert (done.messages, done.accepted) == (3, 2)
    assert sorted(known.tenants) == ["acme", "coda"]
    ((refused, reason),) = done.refused
    assert refused == bad
    assert rows(deployment, "bolt") == [("refused", reason)]
    (notice,) = told(deployment)
    assert (notice["kind"], notice["tenant"], notice["workload"]) == (
        "upload_refused",
        "bolt",
        "energy",
    )
    assert reason in notice["message"]
    assert left(deployment) == 0

    put_raw(deployment, bad, b'{"format": 1, "tenant": "\\ud800"}')
    assert drained(deployment).repeated == 1
    assert told(deployment) == []


def test_an_upload_under_no_tenants_key_is_for_the_operators(
    deployment: Deployment, operators: str
) -> None:
    put_raw(deployment, "uploads/ACME/energy/u1/manifest.json", b"{}")
    done = drained(deployment)
    assert done.accepted == 0
    assert [key for key, _ in done.refused] == ["uploads/ACME/energy/u1/manifest.json"]
    (alarm,) = told(deployment, operators)
    assert "ACME" in alarm["Message"]
    assert told(deployment) == []
    assert left(deployment) == 0


@pytest.mark.parametrize(
    "body", ["garbage", "[" * 50_000, '{"Records": [{"s3": 1}]}'], ids=["word", "deep", "bent"]
)
def test_garbage_in_the_queue_is_for_the_operators_and_holds_nobody_up(
    deployment: Deployment, operators: str, body: str
) -> None:
    deployment.sqs.send_message(QueueUrl=deployment.uploads_queue_url, MessageBody=body)
    put(deployment, "acme")
    assert drained(deployment).accepted == 1
    (alarm,) = told(deployment, operators)
    assert alarm["Subject"] == "A message in the uploads queue is not an S3 event"
    assert left(deployment) == 0


def test_a_manifest_that_was_deleted_meanwhile_is_nothing(deployment: Deployment) -> None:
    key = put(deployment, "acme")
    deployment.s3.delete_object(Bucket=deployment.uploads_bucket, Key=key)
    done = drained(deployment)
    assert (done.accepted, done.repeated, done.refused) == (0, 1, [])
    assert left(deployment) == 0
    assert rows(deployment, "acme") == []


def test_while_dagster_is_down_nothing_is_lost_and_the_next_round_introduces_everyone(
    deployment: Deployment,
) -> None:
    # One second makes the messages visible again within the test.
    deployment.sqs.set_queue_attributes(
        QueueUrl=deployment.uploads_queue_url,
        Attributes={"VisibilityTimeout": "1", "RedrivePolicy": ""},
    )
    for tenant in ("acme", "bolt"):
        put(deployment, tenant)
    with pytest.raises(ConnectionError):
        drained(deployment, Known(broken=True))
    assert left(deployment) == 2

    known = Known()
    deadline = datetime.now(UTC) + timedelta(seconds=30)
    while left(deployment) and datetime.now(UTC) < deadline:
        drained(deployment, known)
    assert sorted(set(known.tenants)) == ["acme", "bolt"]
    assert rows(deployment, "acme") == rows(deployment, "bolt") == [("pending", None)]


def test_a_tenants_own_tier_stands_in_its_request(deployment: Deployment) -> None:
    ModelRegistry(deployment).set_tier(ids.tenant_id("acme"), NAME, "silo")
    put(deployment, "acme")
    drained(deployment)
    (row,) = RequestQueue(deployment).due(NAME)
    assert row.tier == "silo"


def test_an_upload_whose_event_was_lost_is_found_by_listing(deployment: Deployment) -> None:
    began = datetime.now(UTC) - timedelta(seconds=5)
    key = put(deployment, "acme")
    put_raw(deployment, "uploads/bolt/energy/u1/unfinished.csv", b"no manifest yet")
    deployment.sqs.purge_queue(QueueUrl=deployment.uploads_queue_url)
    assert drained(deployment).messages == 0
    known, soon = Known(), datetime.now(UTC) + timedelta(seconds=5)

    early = find_lost_uploads(
        deployment, WORKLOADS, known, since=began - timedelta(days=1), until=began
    ).done
    assert (early.messages, known.tenants) == (0, [])
    done = find_lost_uploads(deployment, WORKLOADS, known, since=began, until=soon).done
    assert (done.accepted, known.tenants) == (1, ["acme"])
    (row,) = RequestQueue(deployment).due(NAME)
    assert row.manifest_key == key
    again = find_lost_uploads(deployment, WORKLOADS, known, since=began, until=soon).done
    assert (again.accepted, again.repeated) == (0, 1)


def test_more_uploads_than_a_message_batch_are_all_taken_in(deployment: Deployment) -> None:
    for number in range(25):
        put(deployment, f"t{number}", content=str(number).encode())
    known = Known()
    done = drained(deployment, known)
    assert done.accepted == 25
    assert len(set(known.tenants)) == 25
    assert str(done) == "25 events: 25 accepted, 0 known already, 0 refused"


def test_a_flood_of_one_tenants_uploads_is_taken_in_after_everybody_elses_latest(
    deployment: Deployment,
) -> None:
    for number in range(30):
        put(deployment, "flood", f"u{number:03d}", content=str(number).encode())
    for tenant in ("acme", "bolt"):
        put(deployment, tenant)
    known = Known()
    assert drained(deployment, known).accepted == 32
    rows = {str(row.tenant): row.accepted for row in RequestQueue(deployment).due(NAME)}
    flood = [
        row.accepted for row in RequestQueue(deployment).of_tenant(NAME, ids.tenant_id("flood"))
    ]
    assert max(rows["acme"], rows["bolt"]) < sorted(flood)[10], "though their events came last"


def test_a_tenant_that_floods_is_refused_with_a_word_and_its_neighbours_are_not(
    deployment: Deployment,
) -> None:
    energy = WORKLOADS["energy"]
    # so ten uploads are accepted
    scheduling = energy.scheduling.model_copy(update={"max_per_tenant_a_day": 1})
    limited = {**WORKLOADS, "energy": energy.model_copy(update={"scheduling": scheduling})}
    for number in range(14):
        put(deployment, "flooder", f"u{number}", f"{number}".encode())
    put(deployment, "quiet")
    done = drain_queue(deployment, limited, Known(), max_seconds=20)
    assert (done.accepted, len(done.refused), done.repeated) == (11, 1, 3)
    rows = RequestQueue(deployment).of_tenant(NAME, ids.tenant_id("flooder"))
    assert len(rows) == 11, "one row tells of all that were refused"
    assert [row.reason_code for row in rows if row.status == "refused"] == ["too_many_uploads"]
    (notice,) = told(deployment)
    assert (notice["tenant"], notice["kind"], notice["code"]) == (
        "flooder",
        "upload_refused",
        "too_many_uploads",
    )
    assert "10 uploads" in notice["message"]


def test_a_listing_that_takes_too_long_goes_on_where_it_stopped(deployment: Deployment) -> None:
    began = datetime.now(UTC) - timedelta(seconds=5)
    for number in range(3):
        put(deployment, f"t{number}")
    for number in range(1000):
        put_raw(deployment, f"uploads/t1/energy/u1/part-{number:04d}", b"x")
    deployment.sqs.purge_queue(QueueUrl=deployment.uploads_queue_url)
    known, soon = Known(), datetime.now(UTC) + timedelta(seconds=5)
    first = find_lost_uploads(deployment, WORKLOADS, known, since=began, until=soon, max_seconds=0)
    assert first.after is not None
    second = find_lost_uploads(
        deployment, WORKLOADS, known, since=began, until=soon, after=first.after, max_seconds=0
    )
    assert second.after is None
    assert first.done.accepted + second.done.accepted == 3
    assert sorted(known.tenants) == ["t0", "t1", "t2"]
