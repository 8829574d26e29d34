"""An endpoint that serves nobody any more is removed after some days, with all that it left."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tenantry.aws import objects
from tenantry.aws.silo_roles import ensure_silo_role, silo_role_arn, silo_roles
from tenantry.hosting.endpoints import describe_endpoint, ensure_endpoint
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.names import ids, s3_keys
from tenantry.names.tiers import Own
from tenantry.onboarding.registration import roll_back
from tenantry.requests.queue import RequestQueue
from tenantry.tenants.unused import Unused, remove_unused, unused_endpoints, unused_parts
from tests.tenantry.command_line.conftest import caller, document
from tests.tenantry.onboarding.registration import NAME
from tests.tenantry.serving.tiny_family import World

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=8)
DAYS = 7


@pytest.fixture
def silo(world: World) -> ids.TenantId:
    """A silo tenant whose two endpoints are there."""
    tenant = world.tenant(tier="silo")
    for shape in (MULTI_MODEL, ASYNCHRONOUS):
        ensure_endpoint(world.deployment, world.tiny, Own(tenant), shape)
    return tenant


def own(world: World, tenant: ids.TenantId) -> set[str]:
    return {
        shape.endpoint_name(world.deployment.prefix, NAME, Own(tenant))
        for shape in (MULTI_MODEL, ASYNCHRONOUS)
    }


def seen(world: World, at: datetime = NOW) -> set[str]:
    return {one.name for one in unused_endpoints(world.deployment, world.tiny, at)}


def removed(world: World, at: datetime, days: float = DAYS) -> list[Unused]:
    return remove_unused(world.deployment, world.tiny, at, after_days=days)


def exists(world: World, name: str) -> bool:
    found = describe_endpoint(world.deployment, name)
    return found is not None and found["EndpointStatus"] != "Deleting"


def roles(world: World) -> set[str]:
    return {one.name for one in silo_roles(world.deployment, NAME)}


def test_a_silo_tenant_that_moved_leaves_nothing_behind(world: World, silo: ids.TenantId) -> None:
    names = own(world, silo)
    assert not names & seen(world), "it is served there"
    world.crown(silo, 2, tier="bridge")
    assert names <= seen(world)
    assert not names & {one.name for one in removed(world, NOW + timedelta(days=6))}
    other = world.tenant(tier="silo")
    kept = ensure_silo_role(world.deployment, NAME, other).name
    assert names <= {one.name for one in removed(world, LATER)}
    assert not any(exists(world, name) for name in names)
    assert exists(world, world.endpoint), "the shared endpoint stays"
    for name in names:
        prefix = s3_keys.endpoint_models_prefix(name)
        assert not list(
            objects.keys_under(world.deployment.s3, world.deployment.data_bucket, prefix)
        )
    role = silo_role_arn(world.deployment, NAME, silo).rpartition("/")[2]
    assert role in roles(world), "its endpoint had it until now"
    removed(world, LATER)
    assert roles(world) >= {kept}
    assert role not in roles(world)
    left = {one.name.rpartition("-")[0] for one in unused_parts(world.deployment, world.tiny)}
    assert not names & left, "configurations and models are gone, too"
    assert removed(world, LATER) == []


def test_a_tenant_that_comes_back_keeps_its_endpoint(world: World, silo: ids.TenantId) -> None:
    names = own(world, silo)
    world.crown(silo, 2, tier="bridge")
    assert names <= seen(world)
    request = ids.request_id_of(NAME, silo, "one")
    manifest = s3_keys.upload_manifest(NAME, silo, ids.upload_id("one"))
    queue = RequestQueue(world.deployment)
    assert queue.accept(NAME, silo, request, manifest, "silo", first=False)
    assert not names & seen(world, LATER), "a request on its way needs it"
    assert not names & {one.name for one in removed(world, LATER)}
    row = queue.get(NAME, silo, request)
    assert row is not None
    queue.cancel(row, why="the test ends it")
    again = LATER + timedelta(days=1)
    assert names <= seen(world, again)
    assert not names & {one.name for one in removed(world, again)}, "it is unused since today"
    removed(world, again + timedelta(days=8))


def test_what_an_update_replaced_goes_and_what_serves_stays(
    world: World, silo: ids.TenantId
) -> None:
    name = MULTI_MODEL.endpoint_name(world.deployment.prefix, NAME, Own(silo))
    before = describe_endpoint(world.deployment, name)
    serving = world.tiny.serving.model_copy(update={"environment": {"TINY": "2"}})
    changed = world.tiny.model_copy(update={"serving": serving})
    after = ensure_endpoint(world.deployment, changed, Own(silo), MULTI_MODEL)
    assert before is not None
    assert after.change == "updated"
    parts = unused_parts(world.deployment, world.tiny)
    assert {one.kind for one in parts if one.name.startswith(name)} == {"configuration", "model"}
    assert not [one for one in removed(world, NOW) if one.name.startswith(name)]
    gone = {one.name for one in removed(world, LATER)}
    assert before["EndpointConfigName"] in gone
    assert after.config not in gone
    with world.client(silo) as client:
        assert client.predict({"number": 1})


def test_a_rollback_to_an_endpoint_that_was_removed_makes_it_again(
    world: World, silo: ids.TenantId
) -> None:
    world.crown(silo, 2, tier="bridge")
    removed(world, NOW, days=0)
    name = MULTI_MODEL.endpoint_name(world.deployment.prefix, NAME, Own(silo))
    assert not exists(world, name)
    serving = world.tiny.serving.model_copy(update={"smoke_request": {"number": 1}})
    tiny = world.tiny.model_copy(update={"serving": serving})
    assert roll_back(world.deployment, tiny, silo).endpoint == name
    with world.client(silo) as client:
        assert client.predict({"number": 1})


def test_the_command_line_tells_and_removes(world: World, silo: ids.TenantId) -> None:
    names = own(world, silo)
    world.crown(silo, 2, tier="bridge")
    call = caller(world.deployment)
    listed = {one["name"]: one for one in document(call("endpoints", "--json"))["endpoints"]}
    assert all(listed[name]["unused_since"] for name in names)
    assert listed[world.endpoint]["unused_since"] is None
    assert listed[min(names)]["usd_per_hour"] > 0
    assert "serves nobody; removed on" in " ".join(call("endpoints", "energy").stdout.split())
    assert (
        "has not used for 7 days" in call("remove-unused", "energy", stdin="n\n", status=1).stderr
    )
    done = document(call("remove-unused", "energy", "--days", "0", "--yes", "--json"))
    assert names <= {one["name"] for one in done["removed"]}
    assert "nothing to remove" in call("remove-unused", "energy", "--yes").stdout
