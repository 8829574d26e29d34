"""Scheduled re-training on real tables: its tenants, times and data, and that a second request
changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.aws.deployment import Deployment
from tenantry.hosting.route import Route
from tenantry.models.registry import Champion, ModelRegistry, ModelVersion
from tenantry.names import ids, s3_keys
from tenantry.names.purposes import Purpose
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request, Status
from tenantry.training.retraining import ask_for_retraining, occasion_of
from tenantry.workloads.schema import Workload, read_workloads
from tenantry.workloads.sections import Retraining
from tests.tenantry.onboarding.registration import route_to

NAME = ids.workload_name("energy")
ENERGY = read_workloads()["energy"]
NOW = datetime(2026, 6, 1, tzinfo=UTC)
THE_WAY: tuple[Status, ...] = ("claimed", "training", "trained", "registered")


@pytest.fixture
def queue(deployment: Deployment) -> RequestQueue:
    return RequestQueue(deployment, by="a test")


@pytest.fixture
def registry(deployment: Deployment) -> ModelRegistry:
    return ModelRegistry(deployment)


def retrained(workload: Workload = ENERGY, **changes: object) -> Workload:
    """The workload with another ``retraining`` section."""
    settings = Retraining.model_validate({"cron": "0 3 * * *", "older_than_days": 30, **changes})
    return workload.model_copy(update={"retraining": settings})


def another_image(workload: Workload) -> Workload:
    return workload.model_copy(update={"image_tag": "0.2.0"})


def upload(
    queue: RequestQueue,
    tenant: str,
    days_ago: int,
    until: Status = "registered",
    number: int = 1,
    purpose: Purpose = "training",
) -> Request:
    """A request from an upload of this many days ago, advanced to the status ``until``."""
    who, at = ids.tenant_id(tenant), NOW - timedelta(days=days_ago)
    request = ids.request_id_of(NAME, who, f"content {number}")
    manifest = s3_keys.upload_manifest(NAME, who, ids.upload_id(f"upload-{number}"))
    assert queue.accept(
        NAME,
        who,
        request,
        manifest,
        "bridge",
        first=number == 1,
        uploaded=at,
        group="London",
        purpose=purpose,
    )
    row = queue.get(NAME, who, request)
    assert row is not None
    for status in THE_WAY[: THE_WAY.index(until) + 1] if until in THE_WAY else ():
        row = queue.move(row, status, why="test")
    return row


def version_of(request: Request, days_ago: int, workload: Workload = ENERGY) -> ModelVersion:
    assert request.version is not None
    made = NOW - timedelta(days=days_ago)
    return ModelVersion(
        request.tenant,
        NAME,
        request.version,
        "bridge",
        "archive",
        1,
        "a" * 64,
        request.request,
        "job",
        made=made,
        recipe=workload.recipe,
    )


def champion(
    registry: ModelRegistry, request: Request, days_ago: int, workload: Workload = ENERGY
) -> Champion:
    model = version_of(request, days_ago, workload)
    registry.add(model)
    return registry.crown(
        model, route_to("endpoint", model), registry.champion(request.tenant, NAME)
    )


def pending(queue: RequestQueue) -> Mapping[str, Request]:
    rows = queue.get_many([row.key for row in queue.with_status(NAME, "pending")], NAME)
    return {row.tenant: row for row in rows}


def test_the_tenants_whose_champions_are_old_get_a_request_from_their_latest_upload_once(
    deployment: Deployment, queue: RequestQueue, registry: ModelRegistry
) -> None:
    old, young = upload(queue, "old", 100), upload(queue, "young", 100)
    latest = upload(queue, "old", 50, number=2)
    champion(registry, old, 99)
    champion(registry, young, 29)

    done = ask_for_retraining(deployment, retrained(), by="run 1", at=NOW)
    assert (done.champions, done.due, dict(done.outcomes), done.complete) == (
        2,
        1,
        {"asked": 1},
        True,
    )
    (asked,) = pending(queue).values()
    assert (asked.tenant, asked.manifest_key, asked.uploaded) == (
        "old",
        latest.manifest_key,
        latest.uploaded,
    )
    assert (asked.tier, asked.group, asked.first) == ("bridge", "London", False)
    assert not asked.notify_owner, "the tenant did not ask for it"
    assert asked.history[0]["by"] == "run 1"
    assert (
        asked.history[0]["why"]
        == f"re-training: {old.version}, of 2026-02-22, is older than 30 days"
    )

    again = ask_for_retraining(deployment, retrained(), at=NOW + timedelta(hours=1))
    assert (again.champions, again.due) == (2, 0)
    assert pending(queue) == {"old": asked}


def test_a_re_training_is_made_of_what_was_made_last_and_not_of_what_was_uploaded_again_in_vain(
    deployment: Deployment, queue: RequestQueue, registry: ModelRegistry
) -> None:
    older, latest = upload(queue, "acme", 100), upload(queue, "acme", 50, number=2)
    champion(registry, older, 99)
    champion(registry, latest, 49)
    moment = NOW - timedelta(days=10)
    assert queue.accept(
        NAME, older.tenant, older.request, "k3", "bridge", first=False, uploaded=moment
    )
    (once_more,) = pending(queue).values()
    queue.cancel(once_more, why="the later one is to stay")
    ask_for_retraining(deployment, retrained(), at=NOW)
    (asked,) = pending(queue).values()
    assert asked.manifest_key == latest.manifest_key


def test_a_process_that_dies_after_asking_asks_the_same_once_more_which_is_nothing_new(
    deployment: Deployment, queue: RequestQueue, registry: ModelRegistry
) -> None:
    crowned = champion(registry, upload(queue, "acme", 100), 99)
    ask_for_retraining(deployment, retrained(), at=NOW)
    registry.note_retraining(crowned, "")  # as if it had died before this write
    (asked,) = pending(queue).values()
    queue.cancel(asked, why="nobody wants it")

    done = ask_for_retraining(deployment, retrained(), at=NOW)
    assert dict(done.outcomes) == {"asked before": 1}
    assert pending(queue) == {}


def test_a_champion_made_by_another_image_or_hyperparameters_is_challenged_once_for_each_recipe(
    deployment: Deployment, queue: RequestQueue, registry: ModelRegistry
) -> None:
    champion(registry, upload(queue, "acme", 3), 2)
    assert ask_for_retraining(deployment, retrained(), at=NOW).due == 0

    changed = retrained(another_image(ENERGY), older_than_days=None)
    assert dict(ask_for_retraining(deployment, changed, at=NOW).outcomes) == {"asked": 1}
    (asked,) = pending(queue).values()
    assert "made by another image or other hyperparameters" in asked.history[0]["why"]
    row = asked
    for status in THE_WAY:  # it loses, and the champion stays
        row = queue.move(row, status, why="test")
    assert ask_for_retraining(deployment, changed, at=NOW + timedelta(days=400)).due == 0

    training = ENERGY.training.model_copy(update={"hyperparameters": {"frequency": "D"}})
    other = retrained(ENERGY.model_copy(update={"training": training}))
    assert dict(ask_for_retraining(deployment, other, at=NOW).outcomes) == {"asked": 1}
    ignored = retrained(another_image(ENERGY), when_made_otherwise=False)
    assert ask_for_retraining(deployment, ignored, at=NOW).due == 0


def test_who_has_an_open_request_or_nothing_registered_is_left_alone(
    deployment: Deployment, queue: RequestQueue, registry: ModelRegistry
) -> None:
    champion(registry, upload(queue, "busy", 100), 99)
    upload(queue, "busy", 1, until="claimed", number=2)
    lost = upload(queue, "lost", 100, until="claimed")
    champion(registry, lost, 99)
    queue.fail(lost, "no archive", attempts=1)

    done = ask_for_retraining(deployment, retrained(), at=NOW)
    assert dict(done.outcomes) == {"nothing registered to train on": 1}
    assert pending(queue) == {}
    assert ask_for_retraining(deployment, retrained(), at=NOW).due == 0, (
        "it is not looked at every night"
    )


def test_a_champion_that_was_imported_is_left_alone_and_one_that_an_import_challenged_is_not(
    deployment: Deployment, queue: RequestQueue, registry: ModelRegistry
) -> None:
    for tenant in ("imported", "trained", "only-imported"):
        data = None if tenant == "only-imported" else upload(queue, tenant, 120)
        archive = upload(queue, tenant, 100, number=2, purpose="import")
        champion(registry, archive if tenant != "trained" or data is None else data, 99)

    done = ask_for_retraining(deployment, retrained(), at=NOW)
    assert dict(done.outcomes) == {"nothing registered to train on": 2, "asked": 1}
    (asked,) = pending(queue).values()
    assert (asked.tenant, asked.purpose) == ("trained", "training")


def test_a_rolled_back_tenant_is_not_given_the_same_again_but_made_otherwise_or_of_newer_data(
    deployment: Deployment, queue: RequestQueue, registry: ModelRegistry
) -> None:
    for tenant in ("same", "newer"):
        first, second = upload(queue, tenant, 120), upload(queue, tenant, 100, number=2)
        champion(registry, first, 119)
        bad = champion(registry, second, 99)
        good = version_of(first, 119)
        registry.return_to(good, route_to("endpoint", good), bad, None)
    upload(queue, "newer", 50, number=3)  # it was registered, and lost

    done = ask_for_retraining(deployment, retrained(), at=NOW)
    assert dict(done.outcomes) == {"rolled back from the same": 1, "asked": 1}
    assert set(pending(queue)) == {"newer"}
    ask_for_retraining(deployment, retrained(another_image(ENERGY)), at=NOW)
    assert set(pending(queue)) == {"newer", "same"}


def test_a_round_asks_for_no_more_than_its_limit_and_the_next_goes_on(
    deployment: Deployment, queue: RequestQueue, registry: ModelRegistry
) -> None:
    for number in range(5):
        champion(registry, upload(queue, f"t{number}", 100), 99)
    rounds = [ask_for_retraining(deployment, retrained(max_at_once=2), at=NOW) for _ in range(4)]
    assert [(done.due, done.complete) for done in rounds] == [
        (2, False),
        (2, False),
        (1, True),
        (0, True),
    ]
    assert set(pending(queue)) == {f"t{number}" for number in range(5)}


def test_idle_tenants_cost_no_call_of_their_own(
    deployment: Deployment, queue: RequestQueue, registry: ModelRegistry
) -> None:
    def calls() -> int:
        before = sum(deployment.aws_calls.values())
        assert ask_for_retraining(deployment, retrained(), at=NOW).due == 0
        return sum(deployment.aws_calls.values()) - before

    request = upload(queue, "acme", 10)
    champion(registry, request, 9)
    few = calls()
    for number in range(40):
        idle = replace(version_of(request, 9), tenant=ids.tenant_id(f"idle-{number}"))
        registry.crown(idle, route_to("endpoint", idle), None)
    assert calls() == few


def test_a_workload_without_the_section_is_never_retrained(deployment: Deployment) -> None:
    assert (
        ask_for_retraining(deployment, ENERGY.model_copy(update={"retraining": None})).champions
        == 0
    )


@given(
    age=st.floats(0, 1000),
    days=st.one_of(st.none(), st.integers(1, 400)),
    later=st.floats(0, 1000),
    otherwise=st.booleans(),
)
def test_an_occasion_keeps_its_name_within_a_stretch_and_has_another_in_the_next(
    age: float, days: int | None, later: float, otherwise: bool
) -> None:
    settings = Retraining(cron="0 3 * * *", older_than_days=days)
    made = NOW - timedelta(days=age)
    crowned = Champion(
        ids.tenant_id("acme"),
        NAME,
        ids.version_name("v1"),
        Route("multi_model", "e", ids.tenant_id("acme"), ids.version_name("v1")),
        "bridge",
        None,
        NOW,
        1,
        made=made,
        recipe="old" if otherwise else "new",
    )
    moments = [NOW, NOW + timedelta(days=later)]
    occasions = [occasion_of(crowned, "new", settings, at) for at in moments]
    stretches = [0 if days is None else (at - made) // timedelta(days=days) for at in moments]
    for occasion, stretch in zip(occasions, stretches, strict=True):
        assert (occasion is not None) == (otherwise or stretch >= 1)
    first, second = occasions
    if first is not None and second is not None:
        assert (first.name == second.name) == (stretches[0] == stretches[1])
