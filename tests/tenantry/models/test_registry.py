"""Versions and champions, on a real table: one writer at a time moves the pointer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from tenantry.aws.deployment import Deployment
from tenantry.hosting.route import Route
from tenantry.hosting.shapes.catalogue import UnknownShapeError
from tenantry.models.registry import Champion, ChampionChangedError, ModelRegistry, ModelVersion
from tenantry.names import ids
from tenantry.serving.client import TenantClient
from tenantry.workloads.schema import read_workloads
from tests.tenantry.onboarding.registration import route_to

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


def crown(registry: ModelRegistry, model: ModelVersion, instead_of: Champion | None) -> Champion:
    return registry.crown(model, route_to("endpoint", model), instead_of)


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
    first = crown(registry, version(1), None)
    assert (first.turn, first.previous, first.version) == (1, None, version(1).version)
    second = crown(registry, version(2), first)
    assert (second.turn, second.previous) == (2, first.version)
    assert registry.champion(ACME, NAME) == second


def test_who_compared_with_an_earlier_champion_does_not_flip_the_pointer(
    registry: ModelRegistry,
) -> None:
    first = crown(registry, version(1), None)
    second = crown(registry, version(2), first)
    for outdated in (None, first):
        with pytest.raises(ChampionChangedError, match="changed while"):
            crown(registry, version(3), outdated)
    # After going back and forth, the version is the same again, but the turn is new.
    third = crown(registry, version(1), second)
    assert third.version == first.version
    with pytest.raises(ChampionChangedError):
        crown(registry, version(3), first)
    assert registry.champion(ACME, NAME) == third


@pytest.mark.parametrize("reigning", [False, True])
def test_of_many_who_flip_the_pointer_at_once_one_does(
    registry: ModelRegistry, reigning: bool
) -> None:
    before = crown(registry, version(1), None) if reigning else None

    def flip(number: int) -> Champion | None:
        try:
            return crown(registry, version(number), before)
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
        crown(registry, version(1, tenant), None)
    registry.add(version(1, ids.tenant_id("nobody")))
    portraits = ids.workload_name("portraits")
    crown(registry, replace(version(1), workload=portraits), None)
    assert [champion.tenant for champion in registry.champions(NAME)] == ["acme", "mid", "zeta"]
    assert [champion.tenant for champion in registry.champions(portraits)] == ["acme"]
    assert registry.champions(ids.workload_name("churn")) == []


def test_a_tenants_own_tier_goes_before_the_workloads(registry: ModelRegistry) -> None:
    assert registry.tier(ACME, NAME, "bridge") == "bridge"
    registry.set_tier(ACME, NAME, "silo")
    assert registry.tier(ACME, NAME, "bridge") == "silo"
    assert registry.tier(ids.tenant_id("bolt"), NAME, "pool") == "pool"
    assert registry.versions(ACME, NAME) == []


# ---- routes --------------------------------------------------------------------------------------

BEFORE_SHAPES: Any = {
    "tenant": {"S": "acme#energy"},
    "item": {"S": "champion"},
    "workload": {"S": "energy"},
    "champion_of": {"S": "acme"},
    "version": {"S": "20260101t000000-aaaaaaaa"},
    "endpoint": {"S": "tenantry-energy-bridge"},
    "tier": {"S": "bridge"},
    "since": {"S": "2026-01-01T00:00:00+00:00"},
    "turn": {"N": "7"},
    "made": {"S": "2026-01-01T00:00:00+00:00"},
    "recipe": {"S": "abcdef0123"},
    "card": {"S": '{"data_end": "2025-12-31"}'},
}
"""A champion's row from a release that had only the multi-model shape."""


def test_a_row_that_names_no_shape_is_of_the_multi_model_endpoint(registry: ModelRegistry) -> None:
    deployment = registry.deployment
    deployment.dynamodb.put_item(TableName=deployment.models_table, Item=BEFORE_SHAPES)
    champion = registry.champion(ACME, NAME)
    assert champion is not None
    assert champion.route == Route(
        shape="multi_model",
        endpoint="tenantry-energy-bridge",
        tenant=ACME,
        version=ids.version_name("20260101t000000-aaaaaaaa"),
    )
    assert champion.route.target_model == "acme/20260101t000000-aaaaaaaa.tar.gz"
    assert (champion.endpoint, champion.turn) == ("tenantry-energy-bridge", 7)
    assert registry.champions(NAME) == [champion]
    assert registry.champions_of(NAME, [ACME]) == {ACME: champion}
    assert registry.tier_and_champion(ACME, NAME, "bridge")[1] == champion
    assert crown(registry, version(2), champion).turn == 8


def test_a_row_names_its_shape_beside_all_that_an_earlier_release_reads(
    registry: ModelRegistry,
) -> None:
    deployment = registry.deployment
    champion = registry.crown(version(2), route_to("tenantry-energy-bridge", version(2)), None)
    row: Any = deployment.dynamodb.get_item(
        TableName=deployment.models_table,
        Key={"tenant": BEFORE_SHAPES["tenant"], "item": BEFORE_SHAPES["item"]},
    )["Item"]
    assert row.keys() - BEFORE_SHAPES.keys() == {"shape"}
    assert row["shape"] == {"S": "multi_model"}
    assert BEFORE_SHAPES.keys() <= row.keys()
    assert row["endpoint"] == {"S": "tenantry-energy-bridge"} == BEFORE_SHAPES["endpoint"]
    assert registry.champion(ACME, NAME) == champion


def test_a_row_of_a_shape_that_is_not_known_is_read_and_cannot_be_asked(
    registry: ModelRegistry,
) -> None:
    deployment = registry.deployment
    later = {**BEFORE_SHAPES, "shape": {"S": "hologram"}}
    deployment.dynamodb.put_item(TableName=deployment.models_table, Item=later)
    champion = registry.champion(ACME, NAME)
    assert champion is not None
    assert (champion.route.shape, champion.endpoint) == ("hologram", "tenantry-energy-bridge")
    with (
        TenantClient(deployment, read_workloads()["energy"], ACME) as client,
        pytest.raises(UnknownShapeError, match=r"'hologram'.* roll the tenant back"),
    ):
        client.predict({"period": 1, "start": "2026-01-01"})
