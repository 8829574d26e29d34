"""A tick of the launcher: the requests that it claims, supersedes or lets wait, and the effect of
an operator's command."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from dagster import DagsterInstance
from dagster._core.test_utils import create_run_for_test
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from orchestration.launcher import runs_to_request
from tenantry.models.registry import ModelRegistry, ModelVersion
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import OPEN, now
from tenantry.requests.workload_controls import WorkloadControls
from tenantry.workloads.schema import Workload
from tests.orchestration.launching import ENERGY, again, ask, notices, tick
from tests.tenantry.onboarding.registration import route_to


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
    """Its owner may have the notice that the model is ready; a superseded request would say that
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
        ENERGY,
        who,
        name,
        made_of.manifest_key,
        "bridge",
        first=False,
        uploaded=at,
        notify_owner=False,
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
        """One tick, and the end of all requests that are then in a pack."""
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
        ENERGY,
        who,
        quiet,
        "k",
        "bridge",
        first=False,
        notify_owner=False,
        why="re-training: it is old",
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
    """Its row stays the same, and the tenant has no model."""
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
