"""Packs whose runs die: the launcher finds the tenant at fault, and gives up no other."""

from __future__ import annotations

import json
import uuid
from typing import Any

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, RunRequest
from dagster._core.test_utils import create_run_for_test
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestration.launcher import MAX_RUNS_A_PACK, PACK_TAG, runs_to_request
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import now
from tenantry.workloads.schema import Workload
from tests.orchestration.launching import ENERGY, again, ask, notices, tick
from tests.pipes_sagemaker.broken_calls import Body


def begun(instance: DagsterInstance, asked: RunRequest) -> DagsterRun:
    """The requested run, in the state of a started run."""
    run: DagsterRun = create_run_for_test(instance, str(asked.job_name), tags=dict(asked.tags))
    event = DagsterEvent(DagsterEventType.RUN_START.value, run.job_name)
    instance.report_dagster_event(event, run.run_id)
    return run


def work_off(
    instance: DagsterInstance,
    queue: RequestQueue,
    workload: Workload,
    poison: set[str],
    *,
    max_ticks: int,
) -> list[set[str]]:
    """Tick until no work is left. A run with a poisoned tenant dies; any other registers its pack.
    Returns the tenants of the dead runs."""
    died = []
    for _ in range(max_ticks):
        for asked in list(runs_to_request(instance, queue, workload, lost_run_seconds=60)):
            run = begun(instance, asked)
            rows = [row for row in queue.in_packs(ENERGY) if row.pack == asked.tags[PACK_TAG]]
            tenants = {str(row.tenant) for row in rows}
            if tenants & poison:
                died.append(tenants)
                instance.report_run_failed(run)
                continue
            for row in rows:
                queue.move(queue.move(again(queue, row), "trained", why=""), "registered", why="")
            instance.report_dagster_event(
                DagsterEvent(DagsterEventType.RUN_SUCCESS.value, run.job_name), run.run_id
            )
        if not queue.open(ENERGY):
            return died
    raise AssertionError("something is still owed")


def impatient(workload: Workload, attempts: int = 2) -> Workload:
    """The workload, with immediate retries."""
    scheduling = workload.scheduling.model_copy(
        update={"retry_seconds": 1e-6, "max_per_tenant_a_day": None}
    )
    training = workload.training.model_copy(update={"attempts": attempts})
    return workload.model_copy(update={"scheduling": scheduling, "training": training})


def test_a_tenant_that_kills_every_run_is_the_only_one_given_up(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    innocent = [ask(queue, f"innocent-{number}") for number in range(5)]
    guilty = ask(queue, "guilty")
    died = work_off(dagster_instance, queue, impatient(workload), {"guilty"}, max_ticks=60)
    assert {again(queue, row).status for row in innocent} == {"registered"}
    assert all(again(queue, row).attempt == 1 for row in innocent), (
        "the guilty one's deaths are no try of theirs"
    )
    found = again(queue, guilty)
    assert (found.status, found.reason_code) == ("dead_lettered", "runs_died")
    assert died[-1] == {"guilty"}
    (told,) = notices(queue)
    assert (told["tenant"], told["code"]) == ("guilty", "runs_died")


@given(
    count=st.integers(2, 12),
    poisoned=st.sets(st.integers(0, 11), max_size=3),
    size=st.integers(2, 12),
)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_whoever_kills_runs_ends_alone_whatever_the_pack(
    dagster_instance: DagsterInstance,
    queue: RequestQueue,
    workload: Workload,
    count: int,
    poisoned: set[int],
    size: int,
) -> None:
    salt = uuid.uuid4().hex[:8]
    names = [f"t{number}-{salt}" for number in range(count)]
    poison = {names[number] for number in poisoned if number < count}
    rows = [ask(queue, name) for name in names]
    hurried = impatient(workload, attempts=1)
    pack = hurried.training.pack.model_copy(update={"max_tenants": size, "max_at_once": 20})
    hurried = hurried.model_copy(
        update={"training": hurried.training.model_copy(update={"pack": pack})}
    )
    died = work_off(dagster_instance, queue, hurried, poison, max_ticks=200)
    for row in rows:
        assert again(queue, row).status == (
            "dead_lettered" if row.tenant in poison else "registered"
        )
    for row in rows:
        if row.tenant not in poison:
            deaths = sum(row.tenant in tenants for tenants in died)
            assert deaths <= 2 * 4, "a pack of twelve is halved four times"


def test_runs_that_never_began_split_no_pack(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    """A busy machine is no tenant's fault, and the pack continues unchanged."""
    rows = [ask(queue, "acme"), ask(queue, "bolt")]
    packs = []
    for _ in range(3):
        (asked,) = runs_to_request(dagster_instance, queue, workload, lost_run_seconds=60)
        packs.append(asked.tags[PACK_TAG])
        dagster_instance.report_run_failed(
            create_run_for_test(dagster_instance, "energy_fine_tuning", tags=dict(asked.tags))
        )
    assert len(set(packs)) == 1
    assert {again(queue, row).status for row in rows} == {"claimed"}


def test_the_requests_of_a_run_that_a_person_terminated_go_back_to_the_queue(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    rows = [ask(queue, "acme"), ask(queue, "bolt")]
    (asked,) = runs_to_request(dagster_instance, queue, workload, lost_run_seconds=60)
    run = begun(dagster_instance, asked)
    dagster_instance.report_run_canceling(run)
    dagster_instance.report_run_canceled(run)
    assert tick(dagster_instance, queue, workload) == [], "nobody takes up what somebody terminated"
    for row in rows:
        found = again(queue, row)
        assert (found.status, found.pack, found.reason_code) == ("failed", None, "run_cancelled")
        assert found.due > now()


def test_a_row_that_cannot_be_changed_holds_up_nobody_elses(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    """For example, a row that has reached DynamoDB's 400 KB and cannot be made smaller."""
    stuck, neighbour = ask(queue, "stuck"), ask(queue, "neighbour")

    def refuse(request: AWSPreparedRequest, **_: object) -> Any:
        if stuck.request not in str(request.body):
            return None
        answer = json.dumps(
            {"__type": "ValidationException", "message": "the item cannot be changed"}
        ).encode()
        return AWSResponse(request.url, 400, HTTPHeaders(), Body(answer))

    events = queue.deployment.dynamodb.meta.events
    events.register("before-send.dynamodb.UpdateItem", refuse)
    try:
        packs = tick(dagster_instance, queue, workload)
        assert (len(packs), again(queue, neighbour).status, again(queue, stuck).status) == (
            1,
            "claimed",
            "pending",
        )
        queue.move(queue.move(again(queue, neighbour), "trained", why=""), "registered", why="")
        later = ask(queue, "later")
        assert len(tick(dagster_instance, queue, workload)) == 1
        assert again(queue, later).status == "claimed"
    finally:
        events.unregister("before-send.dynamodb.UpdateItem", refuse)


def test_what_was_cancelled_in_a_pack_that_is_given_back_stays_cancelled(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    rows = [ask(queue, "acme"), ask(queue, "bolt")]
    (pack,) = tick(dagster_instance, queue, workload)
    queue.cancel(again(queue, rows[0]), why="the customer left")
    (same,) = runs_to_request(dagster_instance, queue, workload, lost_run_seconds=60)
    assert same.tags[PACK_TAG] == pack
    assert same.tags["tenantry/tenants"] == "1"


def test_the_owner_of_a_request_that_is_given_up_as_its_runs_died_is_told(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    row = ask(queue, "acme")
    (pack,) = tick(dagster_instance, queue, workload)
    for _ in range(MAX_RUNS_A_PACK):
        run = create_run_for_test(dagster_instance, "energy_fine_tuning", tags={PACK_TAG: pack})
        dagster_instance.report_run_failed(run)
    training = workload.training.model_copy(update={"attempts": 1})
    assert tick(dagster_instance, queue, workload.model_copy(update={"training": training})) == []
    given_up = again(queue, row)
    assert given_up.status == "dead_lettered"
    (message,) = queue.deployment.sqs.receive_message(QueueUrl=queue.deployment.notices_queue_url)[
        "Messages"
    ]
    notice = json.loads(message["Body"])
    assert (notice["kind"], notice["request"]) == ("model_not_made", row.request)
    assert "4 runs of pack" in notice["message"]
