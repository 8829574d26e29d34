"""A change of the file reaches each endpoint that exists: the other tier's and silo tenants'."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from tenantry.capacity.every_endpoint import (
    NoEndpointOfItsOwnError,
    OtherEndpoints,
    mend_others,
    own_endpoint,
)
from tenantry.capacity.registration import deregister, register_capacity, registered
from tenantry.capacity.scaled_endpoints import Kind, scaled_endpoint
from tenantry.capacity.timetable import Bounds
from tenantry.hosting.endpoints import EndpointFailedError, ensure_endpoint
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS, NotAsynchronousError
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.names import ids
from tenantry.names.tiers import Machines, Own, Shared
from tenantry.onboarding.member import owed_members
from tenantry.onboarding.pack import PackAtWork
from tenantry.onboarding.registering import RegistrationStage
from tenantry.requests.queue import RequestQueue
from tenantry.shown.capacity_view import others_in_words, others_metadata, others_that_differed
from tenantry.shown.report import ONBOARDING
from tenantry.workloads.folder import FOLDER, FOLDER_VARIABLE
from tenantry.workloads.schema import Workload
from tenantry.workloads.sections import Serving
from tests.tenantry.capacity.test_registration import FORECAST, with_history
from tests.tenantry.command_line.conftest import caller, document
from tests.tenantry.onboarding.registration import NAME, trained_version
from tests.tenantry.onboarding.test_onboarding import Heard
from tests.tenantry.serving.tiny_family import World

FROM_ZERO = {
    "minimum": 0,
    "maximum": 2,
    "policies": [{"kind": "scale_from_zero"}, {"kind": "backlog", "target": 4}],
}


def saying(workload: Workload, **sections: Any) -> Workload:
    """The workload with other sections in ``serving``, or ``asynchronous_silo`` below it."""
    said = workload.serving.model_dump(mode="json", exclude_none=True)
    if (below := sections.pop("asynchronous_silo", None)) is not None:
        said["asynchronous"]["silo_capacity"] = below
    return workload.model_copy(update={"serving": Serving.model_validate(said | sections)})


@pytest.fixture(autouse=True)
def one_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line reads a file of energy whose tiers are all multi-model."""
    file = yaml.safe_load((FOLDER / "energy.yaml").read_text())
    del file["hosting"]
    (tmp_path / "energy.yaml").write_text(yaml.safe_dump(file))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))


@pytest.fixture(scope="module")
def served(paced: World) -> ids.TenantId:
    """A silo tenant with a model, whose two endpoints are there, beside the tier pool's."""
    tenant = paced.tenant(tier="silo")
    ensure_endpoint(paced.deployment, paced.tiny, Shared("pool"), MULTI_MODEL)
    for shape in (MULTI_MODEL, ASYNCHRONOUS):
        ensure_endpoint(paced.deployment, paced.tiny, Own(tenant), shape)
    return tenant


def bounds(world: World, machines: Machines, kind: Kind = "real_time") -> Bounds | None:
    of = scaled_endpoint(world.deployment.prefix, world.tiny, machines, kind)
    return registered(world.deployment, of).bounds


def mended(world: World, workload: Workload, kind: Kind = "real_time") -> OtherEndpoints:
    return mend_others(world.deployment, workload, kind, tell=lambda _: None)


def test_a_later_change_of_the_file_reaches_the_endpoints_that_exist(
    paced: World, served: ids.TenantId
) -> None:
    before = saying(
        paced.tiny,
        capacity={"minimum": 1, "maximum": 3},
        silo_capacity={
            "minimum": 1,
            "maximum": 2,
            "timetable": [{"name": "day", "cron": "0 7 * * *", "minimum": 1}],
        },
    )
    first = mended(paced, before)
    assert [one.scaled.whose for one in first.looked_at] == ["pool", served]
    assert others_that_differed(first) == []
    assert (bounds(paced, Shared("pool")), bounds(paced, Own(served))) == (
        Bounds(1, 3),
        Bounds(1, 2),
    )
    assert bounds(paced, Shared("bridge")) is None, "the asset's own registration is apart"
    after = saying(
        paced.tiny,
        capacity={"minimum": 1, "maximum": 3},
        silo_capacity={
            "minimum": 1,
            "maximum": 4,
            "monthly_budget_usd": 3.5 * 730 * paced.tiny.serving.usd_per_hour,
        },
    )
    told = list[str]()
    second = mend_others(paced.deployment, after, "real_time", tell=told.append)
    name = own_endpoint(paced.deployment, after, served, "real_time").name
    assert others_that_differed(second) == [
        (
            f"{name} ({served}): maximum was 2; it is 3; scheduled action tenantry-day was there "
            f"without the YAML"
        )
    ]
    assert told == [
        "2 of 2 other endpoints are looked at: 1 differed from the file, 0 could not be registered"
    ]
    assert bounds(paced, Own(served)) == Bounds(1, 3)
    changes = paced.deployment.aws_calls.copy()
    assert others_that_differed(mended(paced, after)) == []
    new = paced.deployment.aws_calls - changes
    reading = ("Describe", "List", "Query")
    assert not [call for call in new if not any(word in call for word in reading)], new
    assert new["application-autoscaling:DescribeScalableTargets"] == 1


def test_a_silo_tenants_asynchronous_endpoint_goes_to_zero_and_starts_for_a_request(
    paced: World, served: ids.TenantId
) -> None:
    from_zero = saying(paced.tiny, asynchronous_silo=FROM_ZERO)
    (one,) = mended(paced, from_zero, "asynchronous").looked_at
    assert (one.scaled.whose, bounds(paced, Own(served), "asynchronous")) == (served, Bounds(0, 2))
    there = registered(paced.deployment, one.scaled)
    assert set(there.policies) == {"tenantry-scale_from_zero", "tenantry-backlog"}
    assert set(there.alarms) == {f"{one.scaled.name}-backlog-without-capacity"}
    fixed = mended(paced, paced.tiny, "asynchronous")
    assert "alarm" in others_that_differed(fixed)[0]
    assert bounds(paced, Own(served), "asynchronous") == Bounds(1, 1)
    assert registered(paced.deployment, one.scaled).alarms == {}
    without = paced.tiny.model_copy(
        update={"serving": paced.tiny.serving.model_copy(update={"asynchronous": None})}
    )
    with pytest.raises(NotAsynchronousError):
        mended(paced, without, "asynchronous")


def test_an_endpoint_that_fails_is_told_and_does_not_stop_the_others(
    paced: World, served: ids.TenantId
) -> None:
    refused = Own(ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}"))
    broken = paced.tiny.model_copy(update={"container": "nowhere"})
    with pytest.raises(EndpointFailedError):
        ensure_endpoint(paced.deployment, broken, refused, MULTI_MODEL)
    name = MULTI_MODEL.endpoint_name(paced.deployment.prefix, NAME, refused)
    found = mended(paced, saying(paced.tiny, silo_capacity={"minimum": 1, "maximum": 5}))
    table = others_metadata(paced.deployment, found)
    paced.deployment.sagemaker.delete_endpoint(EndpointName=name)
    assert bounds(paced, Own(served)) == Bounds(1, 5)
    rows = table["other endpoints"].rows
    assert (rows[0]["endpoint"], rows[0]["tenant or tier"], rows[0]["minimum"]) == (
        name,
        "a silo tenant without a model",
        "",
    )
    assert "the endpoint is Failed" in rows[0]["differed"]
    assert (table["other_endpoints"], table["other_endpoints_failed"]) == (3, 1)
    (silo,) = (row for row in rows if row["tenant or tier"] == served)
    assert (silo["minimum"], silo["maximum"], silo["instances"]) == (1, 5, 1)


def test_what_the_time_does_not_suffice_for_is_left_and_counted(
    paced: World, served: ids.TenantId
) -> None:
    found = mend_others(
        paced.deployment, paced.tiny, "real_time", tell=lambda _: None, most_seconds=-1.0
    )
    assert (found.looked_at, found.left) == ((), 2)
    assert others_metadata(paced.deployment, found) == {"other_endpoints_left": 2}
    assert others_that_differed(found) == ["2 endpoints were left for the next run"]
    assert served


def test_an_operators_number_for_a_silo_tenant_holds_through_the_next_runs(
    paced: World, served: ids.TenantId
) -> None:
    shared = scaled_endpoint(paced.deployment.prefix, paced.tiny, Shared("bridge"), "real_time")
    call = caller(paced.deployment)
    arguments = ("capacity", "energy", "--tenant", served, "--yes", "--json")
    given = document(call(*arguments, "2", "--hours", "0.5"))
    assert (given["minimum"], given["maximum"], given["instances"]) == (2, 2, 2)
    assert registered(paced.deployment, shared).bounds is None, "the shared endpoint stays"
    kept = mended(paced, paced.tiny)
    assert bounds(paced, Own(served)) == Bounds(2, 2)
    assert any("an operator's number, 2 until" in line for line in others_in_words(kept))
    assert others_that_differed(kept) == []
    ended = document(call(*arguments, "--end"))
    assert (ended["minimum"], ended["maximum"], ended["instances"]) == (1, 1, 1)
    missing = call("capacity", "energy", "2", "--tenant", "nobody", "--yes", status=1)
    assert "nobody has no endpoint of its own for energy" in missing.stderr
    none = call("capacity", "energy", "--asynchronous", status=1)
    assert "add serving.asynchronous to energy.yaml" in none.stderr
    with pytest.raises(NoEndpointOfItsOwnError):
        own_endpoint(paced.deployment, paced.tiny, ids.tenant_id("nobody"), "asynchronous")


def test_the_command_line_registers_each_endpoint_and_tells_what_differed(
    paced: World, served: ids.TenantId
) -> None:
    own = own_endpoint(paced.deployment, paced.tiny, served, "real_time")
    shared = scaled_endpoint(paced.deployment.prefix, paced.tiny, Shared("bridge"), "real_time")
    register_capacity(paced.deployment, own)
    paced.deployment.auto_scaling.register_scalable_target(
        ServiceNamespace="sagemaker",
        ResourceId=own.resource,
        ScalableDimension="sagemaker:variant:DesiredInstanceCount",
        MinCapacity=1,
        MaxCapacity=9,
    )
    said = caller(paced.deployment)("capacity", "energy").stdout
    assert "2 endpoints of silo tenants and of another tier" in said
    assert f"{own.name} ({served}): maximum was 9; it is 1" in said
    shown = document(caller(paced.deployment)("capacity", "energy", "--json"))
    assert (shown["other_endpoints"], shown["others_differed"]) == (2, [])
    deregister(paced.deployment, shared.name)


def test_a_new_silo_tenants_endpoints_follow_the_file_from_the_start(paced: World) -> None:
    """Its workload's own tier is silo: only the shared machines' endpoints have assets."""
    tenant = ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")
    workload = saying(
        paced.tiny, silo_capacity={"minimum": 1, "maximum": 6}, asynchronous_silo=FROM_ZERO
    ).model_copy(update={"tier": "silo"})
    trained_version(paced.deployment, tenant, 1, b"no archive", {}, tier="silo")
    queue, pack = RequestQueue(paced.deployment), ids.pack_id("p-1")
    request = ids.request_id_of(NAME, tenant, "one")
    assert queue.accept(NAME, tenant, request, "manifest.json", "silo", first=True)
    members = list(owed_members(queue.claim(queue.due(NAME), pack), pack))
    at_work = PackAtWork(paced.deployment, workload, pack, "silo", Heard(), frozenset(ONBOARDING))
    RegistrationStage(at_work).run(members)
    assert [member.tenant for member in members] == [tenant]
    assert members[0].failure is not None, "its archive is none, and its endpoints stay"
    assert bounds(paced, Own(tenant)) == Bounds(1, 6)
    assert bounds(paced, Own(tenant), "asynchronous") == Bounds(0, 2)
    for shape in (MULTI_MODEL, ASYNCHRONOUS):
        name = shape.endpoint_name(paced.deployment.prefix, NAME, Own(tenant))
        deregister(paced.deployment, name)
        paced.deployment.sagemaker.delete_endpoint(EndpointName=name)


def test_a_silo_tenants_forecast_is_of_its_own_requests(paced: World, served: ids.TenantId) -> None:
    follows = saying(paced.tiny, silo_capacity={"minimum": 1, "maximum": 3, "policies": [FORECAST]})
    own = own_endpoint(paced.deployment, follows, served, "real_time")
    with_history(paced, own, expected=None)
    mended(paced, follows)
    assert bounds(paced, Own(served)) == Bounds(3, 3)
    assert [name for name in registered(paced.deployment, own).actions if "forecast" in name]
    before = paced.deployment.aws_calls.copy()
    assert others_that_differed(mended(paced, follows)) == []
    reads = (paced.deployment.aws_calls - before)["s3:GetObject"]
    assert 0 < reads <= 32, "docs/capacity.md says what a forecast costs"
    mended(paced, paced.tiny)
    assert bounds(paced, Own(served)) == Bounds(1, 1)
