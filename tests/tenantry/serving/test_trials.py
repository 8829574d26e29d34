"""Trials of a second version on a share of a tenant's requests, with real endpoints."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tenantry.aws import objects
from tenantry.hosting.endpoints import ensure_endpoint
from tenantry.hosting.invocation import InvocationRefusedError
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.models.registry import Champion, ChampionChangedError, ModelRegistry, ModelVersion
from tenantry.models.trial import Trial
from tenantry.names import ids, s3_keys
from tenantry.names.tiers import Shared
from tenantry.trials.exchanges import Exchange, exchanges_of
from tenantry.trials.running import TrialRefusedError, end, guard, promote, start
from tenantry.trials.verdict import verdict_of
from tenantry.workloads.sections import Cache
from tests.containers.runtime.serving import archive_model
from tests.tenantry.onboarding.registration import NAME, route_to, trained_version
from tests.tenantry.serving.test_every_shape import registered, shaped
from tests.tenantry.serving.tiny_family import World

CHAMPION, CHALLENGER = 100.0, 200.0


@pytest.fixture(scope="module")
def bridge(world: World) -> World:
    """The world with the bridge tier's multi-model endpoint in service, and a smoke request."""
    serving = world.tiny.serving.model_copy(update={"smoke_request": {"add": 1}})
    tiny = world.tiny.model_copy(update={"serving": serving})
    ensure_endpoint(world.deployment, tiny, Shared("bridge"), MULTI_MODEL)
    return replace(world, tiny=tiny)


def uncached(world: World) -> World:
    serving = world.tiny.serving.model_copy(update={"cache": Cache(enabled=False)})
    return replace(world, tiny=world.tiny.model_copy(update={"serving": serving}))


def version(
    world: World, tenant: ids.TenantId, number: int, mean: float, **fields: Any
) -> ModelVersion:
    """A trained version whose answers are near ``mean``."""
    file = archive_model(world.folder / tenant / f"{number}.tar.gz", mean, **fields)
    return trained_version(world.deployment, tenant, number, file.read_bytes(), {"mase": 1.0})


def served(world: World) -> tuple[ids.TenantId, ModelVersion]:
    """A new tenant with a champion, and a version to try beside it."""
    tenant = ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")
    world.crown(tenant, 1)
    registry = ModelRegistry(world.deployment)
    champion = registry.champion(tenant, NAME)
    assert champion is not None
    first = version(world, tenant, 2, CHAMPION)
    key = s3_keys.endpoint_model(champion.endpoint, tenant, first.version)
    content = objects.read_bytes(
        world.deployment.s3, world.deployment.data_bucket, first.archive, 1 << 20
    )
    objects.write_bytes(world.deployment.s3, world.deployment.data_bucket, key, content)
    registry.crown(first, route_to(champion.endpoint, first), champion)
    return tenant, version(world, tenant, 3, CHALLENGER)


def champion_of(world: World, tenant: ids.TenantId) -> Champion:
    found = ModelRegistry(world.deployment).champion(tenant, NAME)
    assert found is not None
    return found


def trial_of(world: World, tenant: ids.TenantId) -> Trial:
    trial = champion_of(world, tenant).trial
    assert trial is not None
    return trial


def started(world: World, tenant: ids.TenantId, model: ModelVersion, percent: int = 20) -> Trial:
    start(world.deployment, world.tiny, tenant, model.version, percent=percent, by="test")
    return trial_of(world, tenant)


def told(world: World, tenant: ids.TenantId, trial: Trial) -> list[Exchange]:
    now = datetime.now(UTC)
    return list(exchanges_of(world.deployment, NAME, tenant, trial, now))


def ask(world: World, tenant: ids.TenantId, requests: list[dict[str, Any]]) -> list[float]:
    """The answers of three clients at once, in the order of the requests; each answer is the mean
    of the version that gave it, and the request's number."""

    def answers(some: list[dict[str, Any]]) -> list[float]:
        with world.client(tenant) as client:
            return [client.predict(request)["mean"] - request["add"] for request in some]

    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(answers, (requests[place::3] for place in range(3))))
    found = dict[int, float]()
    for place, part in enumerate(parts):
        found |= {place + 3 * number: answer for number, answer in enumerate(part)}
    return [found[number] for number in range(len(requests))]


def test_a_trial_answers_its_share_and_the_same_question_gets_the_same_version(
    bridge: World,
) -> None:
    tenant, challenger = served(bridge)
    requests = [{"add": number} for number in range(60)]
    assert set(ask(bridge, tenant, requests[:3])) == {CHAMPION}
    trial = started(bridge, tenant, challenger, percent=40)
    expected = [CHALLENGER if trial.takes(one) else CHAMPION for one in requests]
    assert 0.2 < expected.count(CHALLENGER) / 60 < 0.6
    assert ask(bridge, tenant, requests) == expected
    before = bridge.deployment.aws_calls["sagemaker-runtime:InvokeEndpoint"]
    assert ask(bridge, tenant, requests) == expected
    after = bridge.deployment.aws_calls["sagemaker-runtime:InvokeEndpoint"]
    assert after == before, "each version's answers were kept"

    found = told(bridge, tenant, trial)
    counts = Counter((one.side, one.outcome) for one in found)
    # Three questions to the champion were answered before the trial, and are kept from then.
    kept_before = expected[:3].count(CHAMPION)
    assert counts == {
        ("trial", "answered"): expected.count(CHALLENGER),
        ("trial", "kept"): expected.count(CHALLENGER),
        ("champion", "answered"): expected.count(CHAMPION) - kept_before,
        ("champion", "kept"): expected.count(CHAMPION) + kept_before,
    }
    verdict = verdict_of(
        bridge.deployment, bridge.tiny, champion_of(bridge, tenant), trial, datetime.now(UTC)
    )
    assert verdict.word == "too early"
    assert verdict.failures.trial_requests == expected.count(CHALLENGER)
    assert verdict.more > 100
    assert any(f"About {verdict.more} more requests" in said for said in verdict.sentences)


def test_a_promoted_version_serves_all_and_an_ended_one_nobody(bridge: World) -> None:
    tenant, challenger = served(bridge)
    deployment, tiny = bridge.deployment, bridge.tiny
    before = champion_of(bridge, tenant)
    started(bridge, tenant, challenger, percent=50)
    assert start(
        deployment, tiny, tenant, challenger.version, percent=50, by="test"
    ) == champion_of(bridge, tenant), "a repeated start changes nothing"
    ended = end(deployment, tiny, tenant, by="someone", why="it was for a look")
    assert ended is not None
    assert champion_of(bridge, tenant) == before
    assert end(deployment, tiny, tenant, by="someone") is None
    registry = ModelRegistry(deployment)
    noted = registry.version(tenant, NAME, challenger.version)
    assert noted is not None
    assert (noted.status, "was ended by someone: it was for a look" in noted.note) == (
        "trained",
        True,
    )
    requests = [{"add": number} for number in range(12)]
    assert set(ask(bridge, tenant, requests)) == {CHAMPION}

    started(bridge, tenant, challenger, percent=50)
    done = promote(deployment, tiny, tenant, by="someone", why="it is better")
    assert not isinstance(done, Champion)
    now = champion_of(bridge, tenant)
    assert (now.version, now.previous, now.trial) == (challenger.version, before.version, None)
    assert promote(deployment, tiny, tenant, by="someone") == now, "again changes nothing"
    assert set(ask(bridge, tenant, requests)) == {CHALLENGER}
    statuses = {one.version: one.status for one in registry.versions(tenant, NAME)}
    assert statuses[challenger.version] == "champion"
    assert statuses[before.version] == "former_champion"


def test_a_failing_trial_never_fails_the_tenant_and_ends_by_itself(bridge: World) -> None:
    world = uncached(bridge)
    tenant, _ = served(world)
    # It answers the smoke request, and no number above 1.
    challenger = version(world, tenant, 4, -1.0)
    trial = started(world, tenant, challenger, percent=50)
    assert guard(world.deployment, world.tiny) == []
    requests = [{"add": number} for number in range(2, 32)]
    drawn = sum(trial.takes(one) for one in requests)
    assert drawn >= 5
    assert set(ask(world, tenant, requests)) == {CHAMPION}
    found = told(world, tenant, trial)
    assert Counter((one.side, one.outcome) for one in found) == {
        ("trial", "failed-alone"): drawn,
        ("champion", "answered"): 30 - drawn,
    }
    records = archived(world, tenant)
    assert len(records) == 30
    failures = [one["trial"]["failure"] for one in records if one["trial"]["side"] == "trial"]
    assert {failure["kind"] for failure in failures} == {"refused"}

    (ended,) = guard(world.deployment, world.tiny)
    assert (ended.trial.version, ended.champion.trial) == (challenger.version, None)
    assert guard(world.deployment, world.tiny) == []
    noted = ModelRegistry(world.deployment).version(tenant, NAME, challenger.version)
    assert noted is not None
    assert f"it failed {drawn} of {drawn} requests" in noted.note


def test_a_request_that_both_versions_refuse_is_not_the_trials_fault(bridge: World) -> None:
    world = uncached(bridge)
    tenant, challenger = served(world)
    trial = started(world, tenant, challenger, percent=50)
    bad = [{"add": "no number", "n": number} for number in range(12)]
    with world.client(tenant) as client:
        for request in bad:
            with pytest.raises(InvocationRefusedError):
                client.predict(request)
    outcomes = Counter((one.side, one.outcome) for one in told(world, tenant, trial))
    drawn = sum(trial.takes(one) for one in bad)
    assert outcomes == {("trial", "failed"): drawn, ("champion", "failed"): 12 - drawn}
    assert "no number" not in json.dumps(archived(world, tenant)), "no data of a failure"
    assert guard(world.deployment, world.tiny) == []


def archived(world: World, tenant: ids.TenantId) -> list[dict[str, Any]]:
    s3, bucket = world.deployment.s3, world.deployment.data_bucket
    return [
        json.loads(objects.read_bytes(s3, bucket, key, 10_000))
        for key in objects.keys_under(s3, bucket, f"archive/{tenant}/")
    ]


def test_what_cannot_be_tried_is_refused_with_a_reason(bridge: World) -> None:
    tenant, challenger = served(bridge)
    deployment, tiny = bridge.deployment, bridge.tiny
    champion = champion_of(bridge, tenant)

    def refused(version: ids.Version, percent: int = 20, whose: ids.TenantId = tenant) -> str:
        with pytest.raises(TrialRefusedError) as error:
            start(deployment, tiny, whose, version, percent=percent, by="test")
        return str(error.value)

    unknown = ids.version_name("20250101t000000-bbbbbbbb")
    assert "has no energy model yet" in refused(challenger.version, whose=ids.tenant_id("nobody"))
    assert "is the champion" in refused(champion.version)
    assert challenger.version in refused(unknown)
    assert "1 to 50 percent, not 51" in refused(challenger.version, percent=51)
    assert "1 to 50 percent, not 0" in refused(challenger.version, percent=0)
    lost = replace(challenger, version=unknown, archive="artifacts/energy/nobody/none.tar.gz")
    ModelRegistry(deployment).add(lost)
    assert "cannot be tried" in refused(unknown)
    with pytest.raises(TrialRefusedError, match=r"no version of .* is on trial"):
        promote(deployment, tiny, tenant, by="test")

    started(bridge, tenant, challenger)
    assert "promote or end it first" in refused(challenger.version, percent=30)

    # Where an endpoint serves one deployed version, another one cannot answer beside it.
    registry = ModelRegistry(deployment)
    moved = registry.move(
        champion_of(bridge, tenant), replace(champion.route, shape="single_model"), "bridge"
    )
    assert champion_of(bridge, tenant) == moved
    assert moved.trial is None, "its version was served at the former place"
    assert "`hosting.updates`" in refused(challenger.version)


def test_two_changes_of_one_trial_do_not_both_count(bridge: World) -> None:
    tenant, challenger = served(bridge)
    registry = ModelRegistry(bridge.deployment)
    seen = champion_of(bridge, tenant)
    trial = started(bridge, tenant, challenger)
    with pytest.raises(ChampionChangedError):
        registry.note_trial(seen, replace(trial, percent=50))
    running = champion_of(bridge, tenant)
    registry.note_trial(running, None)
    with pytest.raises(ChampionChangedError):
        registry.note_trial(running, trial)
    with pytest.raises(ChampionChangedError):
        registry.note_trial(replace(seen, turn=seen.turn + 1), trial)


def test_a_new_champion_ends_the_trial(bridge: World) -> None:
    tenant, challenger = served(bridge)
    started(bridge, tenant, challenger)
    third = version(bridge, tenant, 4, 300.0)
    running = champion_of(bridge, tenant)
    ModelRegistry(bridge.deployment).crown(third, route_to(running.endpoint, third), running)
    assert champion_of(bridge, tenant).trial is None
    assert guard(bridge.deployment, bridge.tiny) == []


@pytest.mark.parametrize("shape", ["container_managed", "pipeline"])
def test_other_shapes_that_serve_any_version_try_one_beside_the_champion(
    world: World, shape: str
) -> None:
    world = shaped(world, bridge=shape)
    tenant = ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")
    champion = version(world, tenant, 1, CHAMPION)
    assert registered(world, champion).crowned
    trial = started(world, tenant, version(world, tenant, 2, CHALLENGER), percent=50)
    assert trial.route.shape == shape
    requests = [{"add": number} for number in range(20)]
    expected = [CHALLENGER if trial.takes(one) else CHAMPION for one in requests]
    assert ask(world, tenant, requests) == expected
    assert len(told(world, tenant, trial)) == 20
    promote(world.deployment, world.tiny, tenant, by="test")
    assert set(ask(world, tenant, requests)) == {CHALLENGER}
