"""An operator's changes: each is made once and records its author; a second operator gets an
error."""

from __future__ import annotations

import getpass
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tenantry.aws.deployment import Deployment
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.requests.workload_controls import WorkloadControls
from tenantry.serving.client import TenantClient
from tenantry.shown import operator_events
from tenantry.uploads.intake import drain_queue
from tenantry.workloads.schema import read_workloads
from tests.tenantry.command_line.conftest import (
    ENERGY,
    Call,
    caller,
    claimed,
    dead_lettered,
    document,
    now_of,
    pending,
)

SCRIPT = str(Path(sys.executable).parent / "tenantry")
PORTRAITS = ids.workload_name("portraits")
OPERATOR = f"operator {getpass.getuser()}"


# ---- retry ---------------------------------------------------------------------------------------


def test_a_dead_lettered_request_is_tried_again_from_the_start(
    call: Call, queue: RequestQueue
) -> None:
    row = dead_lettered(queue, "acme")
    shown = call("retry", "acme", "--why", "the image is fixed").stdout
    assert shown == f"retried: acme, energy, request {row.request}\n"
    after = now_of(queue, row)
    assert (after.status, after.attempt, after.reason) == ("pending", 1, None)
    assert after.version != row.version  # an endpoint may have loaded the previous one
    assert [(change["by"], change["why"]) for change in after.history][-1] == (
        OPERATOR,
        "the image is fixed",
    )
    assert "there is nothing to retry" in call("retry", "acme", status=1).stderr


def test_of_a_tenant_its_latest_request_is_retried_or_the_one_that_is_named(
    call: Call, queue: RequestQueue
) -> None:
    first = dead_lettered(queue, "acme")
    latest = queue.cancel(pending(queue, "acme", "two"), why="a mistake")
    done = document(call("retry", "acme", "--json"))
    assert [one["request"] for one in done["retried"]] == [latest.request]
    assert [one["status"] for one in done["retried"]] == ["pending"]
    call("retry", "acme", "--request", first.request)
    assert now_of(queue, first).status == "pending"
    assert "has no request" in call("retry", "acme", "--request", "0" * 32, status=1).stderr

    refused = ids.request_id_of(ENERGY, ids.tenant_id("bolt"), "refused")
    manifest = "uploads/bolt/energy/u/manifest.json"
    queue.refuse_at_the_door(
        ENERGY,
        ids.tenant_id("bolt"),
        refused,
        manifest,
        "the manifest is not JSON",
        "manifest_unreadable",
    )
    assert "upload again" in call("retry", "bolt", status=1).stderr


def test_a_tenant_of_two_workloads_is_asked_about(call: Call, queue: RequestQueue) -> None:
    dead_lettered(queue, "acme")
    queue.cancel(pending(queue, "acme", workload=PORTRAITS), why="a mistake")
    assert (
        "energy and portraits; name one with --workload" in call("retry", "acme", status=1).stderr
    )
    call("retry", "acme", "--workload", "portraits")
    call("retry", "acme")  # only one request can still be retried
    assert {
        row.status
        for name in (ENERGY, PORTRAITS)
        for row in queue.of_tenant(name, ids.tenant_id("acme"))
    } == {"pending"}


def test_all_dead_lettered_requests_are_retried_when_that_is_confirmed(
    call: Call, queue: RequestQueue
) -> None:
    rows = [dead_lettered(queue, f"t-{number}") for number in range(3)]
    refused = call("retry", "--all-dead-lettered", stdin="n\n", status=1)
    assert "Retry 3 dead-lettered requests?" in refused.stderr
    assert {now_of(queue, row).status for row in rows} == {"dead_lettered"}
    assert len(document(call("retry", "--all-dead-lettered", "--yes", "--json"))["retried"]) == 3
    assert {now_of(queue, row).status for row in rows} == {"pending"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["retry"],
        ["retry", "acme", "--all-dead-lettered"],
        ["cancel"],
        ["cancel", "acme", "--pack", "p-1"],
    ],
)
def test_whom_a_change_is_for_must_be_said_once(arguments: list[str]) -> None:
    assert "name either a TENANT or --" in caller(None)(*arguments, status=2).stderr


def test_of_two_who_retry_a_request_at_once_one_is_told_that_it_moved_on(
    call: Call, queue: RequestQueue
) -> None:
    row = dead_lettered(queue, "acme")
    both = [
        subprocess.Popen(
            [SCRIPT, "retry", "acme"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [process.communicate(timeout=60) for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], told
    (complaint,) = [error for _, error in told if error]
    assert "no longer dead_lettered" in complaint or "there is nothing to retry" in complaint
    after = now_of(queue, row)
    assert (after.status, [change["by"] for change in after.history].count(OPERATOR)) == (
        "pending",
        1,
    )


# ---- cancel --------------------------------------------------------------------------------------


def test_a_tenants_unfinished_requests_are_cancelled_and_can_be_brought_back(
    call: Call, queue: RequestQueue
) -> None:
    waiting, on_its_way = pending(queue, "acme", "two"), claimed(queue, "acme")
    other = claimed(queue, "bolt")
    for no in ("n\n", ""):  # an answer, and none
        assert "nothing was changed" in call("cancel", "acme", stdin=no, status=1).stderr
    assert now_of(queue, waiting).status == "pending"
    shown = call("cancel", "acme", "--why", "the contract ended", stdin="y\n")
    assert "Cancel 2 requests (" in shown.stderr
    for row in (waiting, on_its_way):
        after = now_of(queue, row)
        assert (after.status, after.pack, after.reason) == ("cancelled", None, "the contract ended")
        assert after.history[-1]["by"] == OPERATOR
    assert now_of(queue, other).status == "claimed"  # its pack goes on without acme
    assert "acme has no unfinished request" in call("cancel", "acme", "--yes", status=1).stderr
    call("retry", "acme")
    assert sorted(now_of(queue, row).status for row in (waiting, on_its_way)) == [
        "cancelled",
        "pending",
    ]


def test_what_moved_on_while_the_operator_was_asked_stays_as_it_is(
    call: Call, queue: RequestQueue
) -> None:
    row, other = pending(queue, "acme"), pending(queue, "acme", "two")
    process = subprocess.Popen(
        [SCRIPT, "cancel", "acme", "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    asked = process.stderr.read(len("Cancel 2 requests (2 pending)?"))
    queue.claim([row], ids.pack_id("p-1"))
    said, error = process.communicate("y\n", timeout=60)
    assert (asked, process.returncode) == ("Cancel 2 requests (2 pending)?", 1)
    assert f"request {row.request} of acme is no longer pending" in error
    assert '"not_done": [{"workload": "energy", "tenant": "acme"' in said
    assert (now_of(queue, row).status, now_of(queue, other).status) == ("claimed", "cancelled")


# ---- pause, resume, drain ------------------------------------------------------------------------


def test_a_workload_is_paused_with_a_reason_and_goes_on(call: Call, deployment: Deployment) -> None:
    controls = WorkloadControls(deployment)
    assert "Missing option '--why'" in call("pause", "energy", status=2).stderr
    call("pause", "energy", "--why", "a new image")
    pause = controls.paused(ENERGY)
    assert pause is not None
    assert (pause.by, pause.why) == (OPERATOR, "a new image")
    assert controls.paused(PORTRAITS) is None
    assert call("resume", "energy").stdout == "energy goes on\n"
    assert controls.paused(ENERGY) is None
    assert call("resume", "energy").stdout == "energy was not paused\n"


def test_draining_waits_until_nothing_is_on_its_way_and_leaves_the_workload_paused(
    call: Call, queue: RequestQueue, deployment: Deployment
) -> None:
    row, waiting = claimed(queue, "acme"), pending(queue, "bolt")
    given_up = call("drain", "energy", "--timeout", "0", "--json", status=1)
    assert (
        "1 requests of energy are still on their way after 0 s; it stays paused" in given_up.stderr
    )
    assert document(given_up)["on_their_way"] == 1
    WorkloadControls(deployment).resume(ENERGY)

    def finish() -> None:
        deadline = time.monotonic() + 60
        while WorkloadControls(deployment).paused(ENERGY) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        queue.fail(row, "its container was killed", attempts=3)

    worker = threading.Thread(target=finish)
    worker.start()
    try:
        shown = call("drain", "energy").stdout
    finally:
        worker.join()
    assert (
        shown == "nothing of energy is on its way; it stays paused until `tenantry resume energy`\n"
    )
    assert WorkloadControls(deployment).paused(ENERGY) is not None
    assert (now_of(queue, row).status, now_of(queue, waiting).status) == ("failed", "pending")


def test_draining_that_is_interrupted_leaves_the_workload_paused(
    queue: RequestQueue, deployment: Deployment
) -> None:
    claimed(queue, "acme")
    process = subprocess.Popen([SCRIPT, "drain", "energy"], stderr=subprocess.PIPE, text=True)
    while WorkloadControls(deployment).paused(ENERGY) is None and process.poll() is None:
        time.sleep(0.05)
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error.splitlines()[-1]) == (130, "Interrupted.")
    assert WorkloadControls(deployment).paused(ENERGY) is not None


# ---- a tenant's tier -----------------------------------------------------------------------------


def test_a_tenant_gets_a_tier_of_its_own_and_is_told_what_moves_when(
    call: Call, queue: RequestQueue, deployment: Deployment
) -> None:
    assert "acme, energy: tier bridge, that of energy." in call("tier", "acme", "energy").stdout
    row = pending(queue, "acme")
    shown = " ".join(
        call("tier", "acme", "energy", "silo", "--why", "its contract says so").stdout.split()
    )
    assert "acme, energy: tier silo, its own." in shown
    assert (
        "taken in from now on are made in tier silo. 1 request that is not finished yet keeps "
        "another tier" in shown
    )
    assert now_of(queue, row).tier == "bridge"
    assert ModelRegistry(deployment).tier(ids.tenant_id("acme"), ENERGY, "bridge") == "silo"
    stands = document(call("tier", "acme", "energy", "--json"))["tier"]
    assert (stands["tier"], stands["own"], stands["on_their_way"], stands["champion"]) == (
        "silo",
        True,
        1,
        None,
    )
    assert "tier bridge, that of portraits" in call("tier", "acme", "portraits").stdout
    assert "'platinum' is not one of" in call("tier", "acme", "energy", "platinum", status=2).stderr


# ---- what else the UI does, too ------------------------------------------------------------------


def test_re_training_is_asked_for_and_an_endpoint_that_is_not_there_has_no_capacity(
    call: Call,
) -> None:
    assert document(call("retrain", "energy", "--yes", "--json"))["retraining"]["champions"] == 0
    assert (
        "Ask for up to 300 re-trainings of energy?"
        in call("retrain", "energy", stdin="n\n", status=1).stderr
    )
    assert "is not there" in call("capacity", "energy", "2", "--yes", status=1).stderr
    assert (
        "2 instances for 8 hours, at 0.115 USD"
        in call("capacity", "energy", "2", stdin="n\n", status=1).stderr
    )


def test_models_are_loaded_ahead_where_the_file_says_which(
    call: Call, deployment: Deployment
) -> None:
    assert document(call("prewarm", "energy", "--json"))["loaded"] == 0
    left = list(operator_events.waiting(deployment, 100))[-1]
    assert (left.event.asset, left.event.metadata["chosen"]) == ("prewarmed_models", 0)
    assert "has no section `serving.prewarming`" in call("prewarm", "portraits", status=1).stderr


# ---- the uploads' dead letters -------------------------------------------------------------------


def test_dead_letters_of_uploads_are_sent_back_and_taken_in(
    call: Call, queue: RequestQueue, deployment: Deployment
) -> None:
    workloads = read_workloads()
    with TenantClient(deployment, workloads["energy"], ids.tenant_id("acme")) as client:
        client.upload({"consumption.csv": b"timestamp,consumption\n"})
    (message,) = deployment.sqs.receive_message(QueueUrl=deployment.uploads_queue_url)["Messages"]
    deployment.sqs.send_message(
        QueueUrl=deployment.uploads_dead_letters_url, MessageBody=message["Body"]
    )
    deployment.sqs.delete_message(
        QueueUrl=deployment.uploads_queue_url, ReceiptHandle=message["ReceiptHandle"]
    )

    assert "nothing was changed" in call("redrive", stdin="n\n", status=1).stderr
    assert document(call("redrive", "--yes", "--json"))["sent_back"] == 1
    drain_queue(deployment, workloads, lambda *_: None, max_seconds=20)
    assert [row.tenant for row in queue.due(ENERGY)] == ["acme"]
