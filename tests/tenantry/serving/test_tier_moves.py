"""A tenant moves between tiers while it is asked: no request fails, and each answer is its own."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from tenantry.hosting.endpoints import ensure_endpoint
from tenantry.hosting.invocation import InvocationRefusedError
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.models.artifacts import ArchiveDiffersError
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, s3_keys
from tenantry.names.tiers import Shared, Tier
from tenantry.tenants.tier_changes import change_tier, move_to_its_tier, tier_of
from tenantry.tenants.unused import remove_unused, unused_endpoints
from tenantry.workloads.hosting import Hosting
from tenantry.workloads.sections import Cache
from tests.tenantry.command_line.conftest import caller
from tests.tenantry.onboarding.registration import NAME
from tests.tenantry.serving.tiny_family import MEANS, World

ASKED = {"add": 1}
NOW = datetime.now(UTC)
NO_CACHE = Cache(enabled=False)


@pytest.fixture
def world(world: World) -> World:
    """Its models have a request that they answer, and no answer is kept."""
    serving = world.tiny.serving.model_copy(update={"smoke_request": ASKED, "cache": NO_CACHE})
    shapes = {"silo": "single_model", "bridge": "multi_model", "pool": "container_managed"}
    hosting = Hosting.model_validate(shapes)
    tiny = world.tiny.model_copy(update={"serving": serving, "hosting": hosting})
    ensure_endpoint(world.deployment, tiny, Shared("bridge"), MULTI_MODEL)
    return World(world.deployment, tiny, world.endpoint, world.folder)


def move(world: World, tenant: ids.TenantId, tier: Tier) -> bool:
    change_tier(world.deployment, world.tiny, tenant, tier, by="the test")
    return move_to_its_tier(world.deployment, world.tiny, tenant)


def test_a_tenant_moves_through_all_tiers_under_load(world: World) -> None:
    tenant, stop, answers = world.tenant(), threading.Event(), list[float]()

    def ask() -> None:
        with world.client(tenant) as client:
            while not stop.is_set():
                answers.append(client.predict(ASKED)["mean"])

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            for tier in ("silo", "pool", "bridge"):
                before = len(answers)
                assert move(world, tenant, tier)
                assert not move(world, tenant, tier), "a repeated call does nothing"
                stands = tier_of(world.deployment, world.tiny, tenant)
                assert stands.champion is not None
                assert stands.champion.tier == tier
                assert stands.champion.endpoint != "" != stands.what_moves_when
                while len(answers) < before + 10 and not any(one.done() for one in asking):
                    stop.wait(0.05)
        finally:
            stop.set()
        for one in asking:
            one.result()
    assert set(answers) == {MEANS[tenant] + 1}
    assert len(answers) > 30
    left = {one.name for one in unused_endpoints(world.deployment, world.tiny, NOW)}
    assert {name.rsplit("-", 1)[-1] for name in left} >= {"single", "managed"}
    remove_unused(world.deployment, world.tiny, NOW + timedelta(days=8), after_days=7)
    assert unused_endpoints(world.deployment, world.tiny, NOW) == []


def test_each_of_a_tenants_models_moves_to_an_endpoint_of_its_own(world: World) -> None:
    tenant, registry = world.tenant(), ModelRegistry(world.deployment)
    winter = ids.model_of(tenant, ids.model_name("winter"))
    assert registry.note_name(winter, NAME, 2)
    world.crown(winter, 2)
    homes = set()
    for tier in ("silo", "bridge"):
        assert move(world, tenant, tier)
        for model in (tenant, winter):
            champion = registry.champion(model, NAME)
            assert champion is not None
            assert champion.tier == tier
            homes.add(champion.endpoint)
            with world.client(model) as client:
                assert client.predict(ASKED)["mean"] == MEANS[model] + 1
    assert len(homes) == 3, "two of the silo, and the one that all share"
    left = {one.name for one in unused_endpoints(world.deployment, world.tiny, NOW)}
    assert len(left & homes) == 2
    remove_unused(world.deployment, world.tiny, NOW + timedelta(days=8), after_days=7)
    assert unused_endpoints(world.deployment, world.tiny, NOW) == []


def test_a_tenant_whose_archive_is_wrong_stays_where_it_is_served(world: World) -> None:
    tenant = world.tenant()
    champion = ModelRegistry(world.deployment).champion(tenant, NAME)
    assert champion is not None
    key = s3_keys.artifact(NAME, tenant, champion.version)
    world.deployment.s3.put_object(Bucket=world.deployment.data_bucket, Key=key, Body=b"other")
    with pytest.raises(ArchiveDiffersError):
        move(world, tenant, "pool")
    assert ModelRegistry(world.deployment).champion(tenant, NAME) == champion
    with world.client(tenant) as client:
        assert client.predict(ASKED)


def test_a_model_that_does_not_answer_in_its_new_home_stays(world: World) -> None:
    tenant = world.tenant()
    refused = world.tiny.serving.model_copy(update={"smoke_request": {"add": "no"}})
    hostile = world.tiny.model_copy(update={"serving": refused})
    change_tier(world.deployment, hostile, tenant, "pool", by="the test")
    with pytest.raises(InvocationRefusedError):
        move_to_its_tier(world.deployment, hostile, tenant)
    stands = tier_of(world.deployment, world.tiny, tenant)
    assert stands.champion is not None
    assert stands.champion.tier == "bridge"
    assert "--now" in stands.what_moves_when


def test_a_tenant_without_a_model_has_nothing_to_move(world: World) -> None:
    assert not move(world, ids.tenant_id("nobody-yet"), "silo")


def test_the_command_line_needs_a_tier_to_move_to(world: World) -> None:
    assert set(get_args(Tier)) == {"silo", "bridge", "pool"}
    said = caller(world.deployment)("tier", "acme", "energy", "--now", status=2).stderr
    assert "--now needs the tier" in said
