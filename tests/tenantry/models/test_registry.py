"""Versions and champions, on a real table: the pointer is flipped by one writer at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tenantry.aws.deployment import Deployment
from tenantry.models.registry import Champion, ChampionChangedError, ModelRegistry, ModelVersion
from tenantry.names import ids

NAME, ACME = ids.workload_name("energy"), ids.tenant_id("acme")


def version(number: int, tenant: ids.TenantId = ACME) -> ModelVersion:
    return ModelVersion(
        tenant=tenant,
        workload=NAME,
        version=ids.version_name(f"2026010{number}t000000-aaaaaaaa"),
        tier="bridge",
        archive=f"checkpoints/energy/p-1/{tenant}/{number}.tar.gz",
        size=10 + number,
        sha256="a" * 64,
        request=ids.request_id(f"{number:032x}"),
        job="job",
        metrics={"mase": 0.1 + 0.2, "baseline_mase": 1e-300},
        card={"model": "ridge", "nested": {"list": [1, 2.5, None]}},
    )


@pytest.fixture
def registry(deployment: Deployment) -> ModelRegistry:
    return ModelRegistry(deployment)


def test_a_version_is_read_as_it_was_written_and_written_once(registry: ModelRegistry) -> None:
    first, second = version(1), version(2)
    registry.add(second)
    registry.add(first)
    registry.add(replace(first, size=999, metrics={}))
    assert registry.versions(ACME, NAME) == [first, second]
    assert registry.version(ACME, NAME, first.version) == first
    assert registry.version(ACME, NAME, ids.version_name("v9")) is None
    assert registry.versions(ids.tenant_id("acm"), NAME) == []


def test_what_became_of_a_version_is_noted_with_a_reason_of_some_length(
    registry: ModelRegistry,
) -> None:
    registry.add(version(1))
    registry.note(version(1), "rejected", "z" * 5000)
    (noted,) = registry.versions(ACME, NAME)
    assert (noted.status, noted.note) == ("rejected", "z" * 1000)


def test_the_first_champion_and_each_that_follows_it(registry: ModelRegistry) -> None:
    assert registry.champion(ACME, NAME) is None
    first = registry.crown(version(1), "endpoint", None)
    assert (first.turn, first.previous, first.version) == (1, None, version(1).version)
    second = registry.crown(version(2), "endpoint", first)
    assert (second.turn, second.previous) == (2, first.version)
    assert registry.champion(ACME, NAME) == second


def test_who_compared_with_an_earlier_champion_does_not_flip_the_pointer(
    registry: ModelRegistry,
) -> None:
    first = registry.crown(version(1), "endpoint", None)
    second = registry.crown(version(2), "endpoint", first)
    for outdated in (None, first):
        with pytest.raises(ChampionChangedError, match="changed while"):
            registry.crown(version(3), "endpoint", outdated)
    # Back and forth: the same version again, yet another turn.
    third = registry.crown(version(1), "endpoint", second)
    assert third.version == first.version
    with pytest.raises(ChampionChangedError):
        registry.crown(version(3), "endpoint", first)
    assert registry.champion(ACME, NAME) == third


@pytest.mark.parametrize("reigning", [False, True])
def test_of_many_who_flip_the_pointer_at_once_one_does(
    registry: ModelRegistry, reigning: bool
) -> None:
    before = registry.crown(version(1), "endpoint", None) if reigning else None

    def flip(number: int) -> Champion | None:
        try:
            return registry.crown(version(number), "endpoint", before)
        except ChampionChangedError:
            return None

    with ThreadPoolExecutor(6) as pool:
        crowned = [champion for champion in pool.map(flip, range(2, 8)) if champion is not None]
    assert [registry.champion(ACME, NAME)] == crowned


def test_champions_lists_every_tenants_champion_of_the_workload_by_tenant(
    registry: ModelRegistry,
) -> None:
    for name in ("zeta", "acme", "mid"):
        tenant = ids.tenant_id(name)
        registry.add(version(1, tenant))
        registry.set_tier(tenant, NAME, "pool")
        registry.crown(version(1, tenant), "endpoint", None)
    registry.add(version(1, ids.tenant_id("nobody")))
    portraits = ids.workload_name("portraits")
    registry.crown(replace(version(1), workload=portraits), "another", None)
    assert [champion.tenant for champion in registry.champions(NAME)] == ["acme", "mid", "zeta"]
    assert [champion.tenant for champion in registry.champions(portraits)] == ["acme"]
    assert registry.champions(ids.workload_name("churn")) == []


def test_a_tenants_own_tier_goes_before_the_workloads(registry: ModelRegistry) -> None:
    assert registry.tier(ACME, NAME, "bridge") == "bridge"
    registry.set_tier(ACME, NAME, "silo")
    assert registry.tier(ACME, NAME, "bridge") == "silo"
    assert registry.tier(ids.tenant_id("bolt"), NAME, "pool") == "pool"
    assert registry.versions(ACME, NAME) == []
