"""An operator's views: the queue, packs, a tenant's story, for people and for machines."""

from __future__ import annotations

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.names import ids, s3_keys
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import now
from tenantry.requests.workload_controls import WorkloadControls
from tenantry.serving.client import TenantClient
from tenantry.uploads.intake import drain_queue
from tenantry.workloads.schema import read_workloads
from tests.tenantry.command_line.conftest import (
    ENERGY,
    Call,
    claimed,
    dead_lettered,
    document,
    pending,
)


def test_in_an_empty_deployment_every_command_says_that_there_is_nothing(call: Call) -> None:
    shown = call("status").stdout
    assert {"energy", "portraits"} <= set(shown.split())
    assert "Uploads to be taken in: " in shown
    assert "dead-letter" not in shown
    assert shown.splitlines()[-1] == "All well."
    assert document(call("status", "--json"))["problems"] == []
    for command in ("jobs", "endpoints"):
        assert call(command).stdout == "There are none.\n"
        assert document(call(command, "energy", "--json")) == {"format": 1, command: []}
    assert call("redrive").stdout == "0 events were sent back\n"
    assert call("retry", "--all-dead-lettered").stdout == "Nothing is dead-lettered.\n"


def test_the_status_counts_requests_and_shows_packs_waits_and_a_pause(
    call: Call, queue: RequestQueue, deployment: Deployment
) -> None:
    pending(queue, "waiting")
    claimed(queue, "acme")
    row = claimed(queue, "bolt")
    queue.move(row, "training", why="its data are good", changes={"job": "tenantry-energy-p-1"})
    dead_lettered(queue, "unlucky")
    WorkloadControls(deployment, by="operator ann").pause(ENERGY, "a new\x1b[2J image")

    found = document(call("status", "energy", "--json"))
    (energy,) = found["workloads"]
    counts = {status: count for status, count in energy["requests"].items() if count}
    assert counts == {"pending": 1, "claimed": 1, "training": 1, "dead_lettered": 1}
    assert 0 <= energy["oldest_wait"] < 60
    # The row names a job that SageMaker does not know yet.
    assert energy["packs"] == [
        {"pack": "p-1", "tier": "bridge", "requests": {"claimed": 1, "training": 1}, "job": None}
    ]
    assert (energy["paused"]["by"], energy["endpoints"]) == ("operator ann", [])
    assert found["well"] is False
    assert found["problems"] == [
        "energy is paused; `tenantry resume energy` ends it",
        (
            "Requests of energy that wait for you: 1 dead_lettered; `tenantry requests energy "
            "--status dead_lettered` tells why"
        ),
    ]

    shown = call("status", "energy").stdout
    for words in (
        "1 dead_lettered",
        "by operator ann: a new [2J image",
        "p-1",
        "no job yet",
        "the oldest has been due",
        "Not well:",
        "energy is paused; `tenantry resume energy` ends it",
    ):
        assert words in shown
    assert "All well." not in shown
    assert "\x1b" not in shown


def test_a_tenants_story_says_what_its_request_was_trained_with_last(
    call: Call, queue: RequestQueue
) -> None:
    row = claimed(queue, "acme")
    row = queue.move(
        row, "training", why="its data are good", changes={"hyperparameters": {"rank": "2"}}
    )
    row = queue.fail(row, "its container was killed", attempts=3)
    row = queue.move(row, "pending", why="try 2")
    (row,) = queue.claim([row], ids.pack_id("p-2"))
    queue.move(
        row,
        "training",
        why="its data are still good",
        changes={"hyperparameters": {"rank": "4", "base": "tiny"}},
    )
    shown = call("tenant", "acme").stdout
    assert "its data are still good; trained with base tiny, rank 4" in " ".join(shown.split())
    assert "rank 2" not in shown
    (energy,) = document(call("tenant", "acme", "--json"))["workloads"]
    assert [one["hyperparameters"] for one in energy["requests"]] == [{"rank": "4", "base": "tiny"}]


def test_events_of_uploads_that_wait_or_failed_for_good_are_counted(
    call: Call, deployment: Deployment
) -> None:
    workloads = read_workloads()
    # S3 sends a test event to a new queue
    drain_queue(deployment, workloads, lambda *_: None, max_seconds=20)
    with TenantClient(deployment, workloads["energy"], ids.tenant_id("acme")) as client:
        client.upload({"consumption.csv": b"timestamp,consumption\n"})
    deployment.sqs.send_message(QueueUrl=deployment.uploads_dead_letters_url, MessageBody="{}")
    assert document(call("status", "--json"))["upload_events"] == {
        "waiting": 1,
        "being_read": 0,
        "dead_letters": 1,
    }
    assert "Uploads in the dead-letter queue: 1; see `tenantry redrive`" in call("status").stdout


def test_a_tenants_story_is_told_in_the_order_of_time_with_who_and_why(
    call: Call, queue: RequestQueue, deployment: Deployment
) -> None:
    workloads, acme = read_workloads(), ids.tenant_id("acme")
    with TenantClient(deployment, workloads["energy"], acme) as client:
        client.upload({"consumption.csv": b"timestamp,consumption\n"})
        client.upload({"picture.bmp": b"BM"})  # not one of the workload's types
        (left,) = [client.upload({"a.csv": b"more"})]
    deployment.s3.delete_object(
        Bucket=deployment.uploads_bucket, Key=s3_keys.upload_manifest(ENERGY, acme, left)
    )  # like an upload that is still in progress
    drain_queue(deployment, workloads, lambda *_: None, max_seconds=20)
    (row,) = queue.due(ENERGY)
    (row,) = queue.claim([row], ids.pack_id("p-1"))
    RequestQueue(deployment, by="run 3f2a").fail(
        row, "the file has no rows", attempts=3, retryable=False
    )
    key = s3_keys.prediction(ENERGY, acme, ids.batch_name("nightly"), now().date())
    objects.write_bytes(deployment.s3, deployment.data_bucket, key, b"{}\n")

    (energy,) = document(call("tenant", "acme", "--json"))["workloads"]
    moments = [event["at"] for event in energy["events"]]
    assert moments == sorted(moments)
    told = [
        (event["kind"], event["what"], event["by"])
        for event in energy["events"]
        if event["id"] == row.request
    ]
    assert told == [
        ("request", "pending", "intake"),
        ("request", "claimed", "test"),
        ("request", "refused", "run 3f2a"),
    ]
    kinds = [event["kind"] for event in energy["events"]]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "upload": 3,
        "request": 4,
        "prediction": 1,
    }
    uploads = {
        event["id"]: event["what"] for event in energy["events"] if event["kind"] == "upload"
    }
    assert uploads[left] == "1 file, 4 bytes; its manifest.json has not come, so it is not complete"
    assert {row["reason"] for row in energy["requests"]} >= {"the file has no rows"}

    shown = call("tenant", "acme", "--workload", "energy").stdout
    for words in (
        "acme, energy",
        "It has no model yet.",
        "the file has no rows",
        "run 3f2a",
        "latest batch prediction",
    ):
        assert words in shown
    shortened = call("tenant", "acme", "--most", "1").stdout
    assert "(7 earlier events are left out; --most 8 shows them)" in shortened
    assert "intake" not in shortened


def test_of_a_tenant_that_never_uploaded_nothing_is_known(call: Call) -> None:
    assert (
        "nothing is known of tenant acme: it never uploaded"
        in call("tenant", "acme", status=1).stderr
    )
    assert "is not a tenant" in call("tenant", "Acme Ltd", status=2).stderr
    told = call("tenant", "acme", "--workload", "energie", status=2).stderr
    assert "there is no workload 'energie'; there are: churn, energy, portraits" in told


def test_requests_are_listed_by_status(call: Call, queue: RequestQueue) -> None:
    row = dead_lettered(queue, "unlucky")
    for number in range(3):
        pending(queue, f"waiting-{number}")
    listed = document(call("requests", "energy", "--status", "dead_lettered", "--json"))["requests"]
    assert [(one["tenant"], one["reason"], one["status"]) for one in listed] == [
        ("unlucky", row.reason, "dead_lettered")
    ]
    everything = call("requests", "energy", "--most", "2")
    assert "3 are pending; the first 2 are shown" in everything.stderr
    assert len(everything.stdout.splitlines()) == 4  # a heading, two that wait, one dead letter
    assert call("requests", "portraits").stdout == "There are none.\n"
    assert (
        "'registered' is not one of"
        in call("requests", "energy", "--status", "registered", status=2).stderr
    )
