"""A tick of the launcher: what it claims, what it supersedes, who has to wait, and what an
operator's word changes."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, RunRequest
from dagster._core.test_utils import create_run_for_test
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from orchestration.launcher import MAX_RUNS_A_PACK, PACK_TAG, runs_to_request
from tenantry.aws.deployment import Deployment
from tenantry.models.registry import ModelRegistry, ModelVersion
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import OPEN, Request, now
from tenantry.requests.workload_controls import WorkloadControls
from tenantry.workloads.schema import Workload
from tests.orchestration.running import at_once
from tests.pipes_sagemaker.broken_calls import Body
from tests.tenantry.onboarding.registration import route_to

ENERGY = ids.workload_name("energy")


@pytest.fixture
def workload(energy: Workload) -> Workload:
    return at_once(energy)


@pytest.fixture
def queue(deployment: Deployment) -> RequestQueue:
    return RequestQueue(deployment, by="test")


def ask(
    queue: RequestQueue,
    tenant: str,
    content: str = "one",
    *,
    first: bool = True,
    uploaded: datetime | None = None,
    nth: int = 1,
) -> Request:
    who = ids.tenant_id(tenant)
    request = ids.request_id_of(ENERGY, who, content)
    assert queue.accept(
        ENERGY, who, request, "k", "bridge", first=first, uploaded=uploaded, nth=nth
    )
    row = queue.get(ENERGY, who, request)
    assert row is not None
    return row


def tick(instance: DagsterInstance, queue: RequestQueue, workload: Workload) -> list[str]:
    """The packs that get a run now."""
    return [
        run.tags[PACK_TAG]
        for run in runs_to_request(instance, queue, workload, lost_run_seconds=60)
    ]


def notices(queue: RequestQueue) -> list[dict[str, str]]:
    """What the app was told."""
    received = queue.deployment.sqs.receive_message(
        QueueUrl=queue.deployment.notices_queue_url, MaxNumberOfMessages=10
    )
    return [json.loads(message["Body"]) for message in received.get("Messages", [])]


def again(queue: RequestQueue, row: Request) -> Request:
    found = queue.get(ENERGY, row.tenant, row.request)
    assert found is not None
    return found


def test_a_paused_workload_claims_nothing_until_it_is_resumed(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    controls = WorkloadControls(queue.deployment, by="operator ann")
    row = ask(queue, "acme")
    controls.pause(ENERGY, "the container is being mended")
    pause = controls.paused(ENERGY)
    assert pause is not None
    assert (pause.by, pause.why) == ("operator ann", "the container is being mended")
    assert tick(dagster_instance, queue, workload) == []
    assert again(queue, row).status == "pending"
    controls.resume(ENERGY)
    controls.resume(ENERGY)
    assert controls.paused(ENERGY) is None
    (pack,) = tick(dagster_instance, queue, workload)
    assert again(queue, row).pack == pack


def test_a_paused_workload_goes_on_with_the_packs_on_their_way(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    ask(queue, "acme")
    (pack,) = tick(dagster_instance, queue, workload)
    WorkloadControls(queue.deployment).pause(ENERGY, "")
    assert tick(dagster_instance, queue, workload) == [pack], (
        "its run was never made: the same pack again"
    )


def test_only_the_newest_upload_of_a_tenant_is_claimed_whichever_event_came_first(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    newest = ask(queue, "acme", "newest", uploaded=at + timedelta(hours=2))
    oldest, older = (
        ask(queue, "acme", "oldest", uploaded=at),
        ask(queue, "acme", "older", uploaded=at + timedelta(hours=1)),
    )
    assert len(tick(dagster_instance, queue, workload)) == 1
    assert [again(queue, row).status for row in (newest, oldest, older)] == [
        "claimed",
        "superseded",
        "superseded",
    ]
    assert newest.request in again(queue, oldest).history[-1]["why"]


def test_a_pack_gets_another_run_though_somebody_deleted_one_of_those_that_died(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    ask(queue, "acme")
    run_keys, run_ids = [], []
    for _ in range(3):
        (asked,) = runs_to_request(dagster_instance, queue, workload, lost_run_seconds=60)
        (repeated,) = runs_to_request(dagster_instance, queue, workload, lost_run_seconds=60)
        assert repeated.run_key == asked.run_key, "a tick that is repeated asks for the same run"
        run = create_run_for_test(dagster_instance, "energy_fine_tuning", tags=dict(asked.tags))
        dagster_instance.report_run_failed(run)
        run_keys.append(asked.run_key)
        run_ids.append(run.run_id)
        if len(run_ids) == 2:
            dagster_instance.delete_run(run_ids[0])
    assert len(set(run_keys)) == 3


def test_a_tenant_has_one_request_on_its_way_and_the_next_goes_when_that_is_done(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    first = ask(queue, "acme")
    tick(dagster_instance, queue, workload)
    second = ask(queue, "acme", "two")
    assert len(tick(dagster_instance, queue, workload)) == 1, (
        "the pack that has no run yet, and no other"
    )
    assert again(queue, second).status == "pending"
    queue.move(queue.move(again(queue, first), "trained", why=""), "registered", why="")
    tick(dagster_instance, queue, workload)
    assert again(queue, second).status == "claimed"


def test_a_failed_request_is_claimed_again_in_its_own_pack_unless_a_newer_one_was_made_meanwhile(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    at = now()
    rows = [ask(queue, "acme", uploaded=at), ask(queue, "bolt", uploaded=at)]
    (pack,) = tick(dagster_instance, queue, workload)
    for row in rows:
        queue.fail(again(queue, row), "lost", attempts=3, first_retry=timedelta(0))
    newer = ask(queue, "bolt", "two", uploaded=at + timedelta(hours=1))
    queue.cancel(newer, why="a cancelled one makes nothing needless")
    newest = ask(queue, "bolt", "three", uploaded=at + timedelta(hours=2))
    queue.move(queue.claim([newest], ids.pack_id("p-other"))[0], "trained", why="")
    queue.move(again(queue, newest), "registered", why="")
    (retried,) = tick(dagster_instance, queue, workload)
    assert retried != pack
    assert again(queue, rows[0]).pack == retried
    superseded = again(queue, rows[1])
    assert (superseded.status, superseded.pack) == ("superseded", None)
    assert newest.request in superseded.history[-1]["why"]


@pytest.mark.parametrize("crowned", [True, False])
def test_what_a_run_that_died_had_crowned_is_finished_before_what_was_uploaded_after_it(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload, crowned: bool
) -> None:
    """Its owner may have been told that the model is ready; a superseded request would say that
    there is none."""
    at, registry = now(), ModelRegistry(queue.deployment)
    row = ask(queue, "acme", uploaded=at)
    made = queue.move(queue.claim([row], ids.pack_id("p-other"))[0], "trained", why="")
    assert made.version is not None
    model = ModelVersion(
        tenant=made.tenant,
        workload=ENERGY,
        version=made.version,
        tier="bridge",
        archive="a",
        size=1,
        sha256="0",
        request=made.request,
        job="job",
    )
    registry.add(model)
    if crowned:
        registry.crown(model, route_to("endpoint", model), None)
        registry.note(model, "champion", "the tenant's first model")
    queue.fail(made, "4 runs died", attempts=3, first_retry=timedelta(0))
    newer = ask(queue, "acme", "two", first=False, uploaded=at + timedelta(hours=1))
    assert len(tick(dagster_instance, queue, workload)) == 1
    expected = ("claimed", "pending") if crowned else ("superseded", "claimed")
    assert (again(queue, row).status, again(queue, newer).status) == expected
    assert again(queue, row).version == made.version


def test_an_upload_whose_event_came_after_a_later_one_was_made_is_superseded_and_not_trained(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    at = now()
    late = ask(queue, "acme", uploaded=at)
    newer = ask(queue, "acme", "two", uploaded=at + timedelta(minutes=1))
    done = queue.move(queue.claim([newer], ids.pack_id("p-other"))[0], "trained", why="")
    model = ModelVersion(
        tenant=done.tenant,
        workload=ENERGY,
        version=ids.version_of(done.request, done.uploaded),
        tier="bridge",
        archive="a",
        size=1,
        sha256="0",
        request=done.request,
        job="job",
    )
    ModelRegistry(queue.deployment).add(model)
    ModelRegistry(queue.deployment).crown(model, route_to("endpoint", model), None)
    queue.move(done, "registered", why="")
    neighbour = ask(queue, "bolt", uploaded=at)
    assert len(tick(dagster_instance, queue, workload)) == 1
    assert (again(queue, late).status, again(queue, neighbour).status) == ("superseded", "claimed")


def test_an_upload_whose_event_came_late_is_made_though_something_older_was_uploaded_again_in_vain(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    at, who, registry = (
        now() - timedelta(hours=1),
        ids.tenant_id("acme"),
        ModelRegistry(queue.deployment),
    )
    for minute, content in enumerate("ab"):
        row = ask(queue, "acme", content, uploaded=at + timedelta(minutes=minute))
        done = queue.move(queue.claim([row], ids.pack_id(f"p-{content}"))[0], "trained", why="")
        model = ModelVersion(
            tenant=who,
            workload=ENERGY,
            version=ids.version_of(done.request, done.uploaded),
            tier="bridge",
            archive="a",
            size=1,
            sha256="0",
            request=done.request,
            job="job",
        )
        registry.add(model)
        registry.crown(model, route_to("endpoint", model), registry.champion(who, ENERGY))
        queue.move(done, "registered", why="")
    again_a = ids.request_id_of(ENERGY, who, "a")
    assert queue.accept(
        ENERGY, who, again_a, "k4", "bridge", first=False, uploaded=at + timedelta(minutes=3)
    )
    (last,) = queue.due(ENERGY)
    queue.cancel(last, why="")
    late = ask(queue, "acme", "late", first=False, uploaded=at + timedelta(minutes=2))
    tick(dagster_instance, queue, workload)
    assert again(queue, late).status == "claimed"


def test_what_an_operator_retries_is_made_though_a_later_upload_was_registered_and_kept_out(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    at = now() - timedelta(hours=1)
    later = ask(queue, "acme", "later", uploaded=at + timedelta(minutes=1))
    queue.move(
        queue.move(queue.claim([later], ids.pack_id("p-other"))[0], "trained", why=""),
        "registered",
        why="",
    )
    row = ask(queue, "acme", "earlier", first=False, uploaded=at)
    row = queue.retry(queue.cancel(row, why="a mistake"), why="it was none")
    tick(dagster_instance, queue, workload)
    assert again(queue, row).status == "claimed"


def test_a_re_training_that_is_tried_again_stays_though_what_it_is_made_of_was_uploaded_again(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    at, who = now() - timedelta(hours=1), ids.tenant_id("acme")
    made_of = ask(queue, "acme", uploaded=at)
    queue.move(
        queue.move(queue.claim([made_of], ids.pack_id("p-other"))[0], "trained", why=""),
        "registered",
        why="",
    )
    name = ids.request_id_of(ENERGY, who, "re-training")
    queue.accept(
        ENERGY, who, name, made_of.manifest_key, "bridge", first=False, uploaded=at, quiet=True
    )
    (row,) = queue.due(ENERGY)
    queue.fail(
        queue.claim([row], ids.pack_id("p-lost"))[0], "lost", attempts=3, first_retry=timedelta(0)
    )
    assert not queue.accept(
        ENERGY,
        who,
        made_of.request,
        "k2",
        "bridge",
        first=False,
        uploaded=at + timedelta(minutes=1),
    )
    tick(dagster_instance, queue, workload)
    assert again(queue, row).status == "claimed"


@given(
    contents=st.lists(st.sampled_from("abc"), min_size=2, max_size=6),
    order=st.randoms(use_true_random=False),
    works=st.lists(
        st.sampled_from(["nothing", "made", "failed", "postponed", "claimed"]),
        min_size=6,
        max_size=6,
    ),
)
@example(contents=["a", "b", "a"], order=Random(1), works=["made"] * 6)
@example(
    contents=["a", "b", "a"],
    order=Random(1),
    works=["claimed", "failed", "made", "made", "made", "made"],
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_was_uploaded_last_is_served_at_last_in_whatever_order_the_events_came(
    dagster_instance: DagsterInstance,
    queue: RequestQueue,
    workload: Workload,
    contents: list[str],
    order: Random,
    works: list[str],
) -> None:
    tenant, at = ids.tenant_id(f"t-{uuid.uuid4().hex}"), now() - timedelta(days=1)
    registry = ModelRegistry(queue.deployment)
    wanted = {content: ids.request_id_of(ENERGY, tenant, content) for content in contents}

    def make(end: str) -> None:
        """One tick, and what becomes of whatever is in a pack then."""
        tick(dagster_instance, queue, workload)
        for row in queue.of_tenant(ENERGY, tenant):
            if row.status == "claimed" and end == "failed":
                queue.fail(row, "lost", attempts=99, first_retry=timedelta(0))
            elif row.status == "claimed" and end == "postponed":
                queue.postpone(row, "no capacity", until=now())
            elif row.status == "claimed" and row.version is not None and end == "made":
                made = queue.move(row, "trained", why="")
                model = ModelVersion(
                    tenant=tenant,
                    workload=ENERGY,
                    version=row.version,
                    tier="bridge",
                    archive="a",
                    size=1,
                    sha256="0",
                    request=row.request,
                    job="job",
                )
                registry.add(model)
                champion = registry.champion(tenant, ENERGY)
                if champion is None or ids.upload_moment(champion.version) <= ids.upload_moment(
                    row.version
                ):
                    registry.crown(model, route_to("endpoint", model), champion)
                queue.move(made, "registered", why="")

    events = [(content, at + timedelta(minutes=minute)) for minute, content in enumerate(contents)]
    order.shuffle(events)
    for (content, moment), work in zip(events, works, strict=False):
        champion = registry.champion(tenant, ENERGY)
        queue.accept(
            ENERGY,
            tenant,
            wanted[content],
            f"{moment}",
            "bridge",
            first=champion is None,
            uploaded=moment,
        )
        if work != "nothing":
            make(work)
    while any(row.status in OPEN for row in queue.of_tenant(ENERGY, tenant)):
        make("made")
    champion = registry.champion(tenant, ENERGY)
    assert champion is not None
    model = registry.version(tenant, ENERGY, champion.version)
    assert model is not None
    (row,) = (row for row in queue.of_tenant(ENERGY, tenant) if row.request == model.request)
    assert row.content == wanted[contents[-1]]


def test_a_tenant_that_used_up_its_day_waits_and_its_neighbours_do_not(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    limited = workload.model_copy(
        update={"scheduling": workload.scheduling.model_copy(update={"max_per_tenant_a_day": 2})}
    )
    for number in range(2):
        row = ask(queue, "busy", str(number), first=number == 0)
        tick(dagster_instance, queue, limited)
        queue.move(queue.move(again(queue, row), "trained", why=""), "registered", why="")
    third, neighbour = ask(queue, "busy", "third", first=False), ask(queue, "calm", first=False)
    tick(dagster_instance, queue, limited)
    held, claimed = again(queue, third), again(queue, neighbour)
    assert (held.status, claimed.status) == ("pending", "claimed")
    assert timedelta(hours=23) < held.due - now() < timedelta(hours=24)
    assert "2 may be" in held.history[-1]["why"]


def test_a_tenant_that_used_up_its_day_is_told_once_and_retries_and_re_trainings_do_not_count(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    scheduling = workload.scheduling.model_copy(update={"max_per_tenant_a_day": 2})
    limited, who = workload.model_copy(update={"scheduling": scheduling}), ids.tenant_id("busy")
    row = ask(queue, "busy")
    for _ in range(3):
        tick(dagster_instance, queue, limited)
        queue.fail(again(queue, row), "lost", attempts=9, first_retry=timedelta(0))
    quiet = ids.request_id_of(ENERGY, who, "re-training")
    queue.accept(
        ENERGY, who, quiet, "k", "bridge", first=False, quiet=True, why="re-training: it is old"
    )
    tick(dagster_instance, queue, limited)
    assert notices(queue) == []
    for name in ("two", "three", "four"):
        for other in queue.of_tenant(ENERGY, who):
            if other.status in OPEN:
                queue.cancel(other, why="")
        row = ask(queue, "busy", name, nth=2)
        tick(dagster_instance, queue, limited)
        assert again(queue, row).status == ("claimed" if name == "two" else "pending")
    (told,) = notices(queue)
    assert (told["kind"], told["code"], told["tenant"]) == (
        "upload_waits",
        "too_many_uploads",
        "busy",
    )
    assert again(queue, row).history[-1]["code"] == "too_many_uploads"


def test_one_broken_file_uploaded_over_and_over_is_held_back_by_default(
    dagster_instance: DagsterInstance, queue: RequestQueue, workload: Workload
) -> None:
    """Its row is the same each time, and the tenant has no model."""
    row, at = ask(queue, "busy", uploaded=now() - timedelta(days=2)), now() - timedelta(hours=1)
    claims = 0
    for number in range(30):
        tick(dagster_instance, queue, workload)
        if again(queue, row).status != "claimed":
            break
        claims += 1
        queue.fail(
            again(queue, row), "it is no table", attempts=3, retryable=False, code="not_a_table"
        )
        moment = at + timedelta(seconds=number)
        assert queue.accept(
            ENERGY,
            row.tenant,
            row.request,
            "k",
            "bridge",
            first=True,
            uploaded=moment,
            nth=number + 2,
        )
    assert claims == workload.scheduling.max_per_tenant_a_day == 24
    assert again(queue, row).status == "pending"


# ---- packs that kill their runs ------------------------------------------------------------------


def begun(instance: DagsterInstance, asked: RunRequest) -> DagsterRun:
    """The run that was asked for, as one that has begun."""
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
    """Ticks until nothing is owed. A run with a poisoned tenant dies, any other registers its pack.
    Returns the tenants of those that died."""
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
    """The workload, with next tries that come at once."""
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
    """The machine was busy: that is nobody's fault, and the pack goes on as it was."""
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
    """As a row does that has reached DynamoDB's 400 KB and cannot be made smaller."""
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
