"""Each hosting shape, chosen in the file: deployed, asked by several clients, updated while they
ask, and taken down to nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from tenantry.aws import objects
from tenantry.batch.periods import Period
from tenantry.batch.transform import predict_batch
from tenantry.capacity.new_endpoints import deploying, ensure_endpoints
from tenantry.hosting.endpoints import describe_endpoint, endpoints_beginning
from tenantry.hosting.shapes.catalogue import real_time_shape, route_in
from tenantry.models.registry import ModelRegistry, ModelVersion
from tenantry.names import ids
from tenantry.names.tiers import Tier, machines_of
from tenantry.onboarding.registration import (
    ArtifactUnusableError,
    Registration,
    register,
    roll_back,
)
from tenantry.tenants.wind_down import wind_down
from tenantry.workloads.hosting import Hosting, Pipeline, PipelineContainer, SingleModel
from tenantry.workloads.sections import Cache
from tests.containers.runtime.serving import archive_model
from tests.tenantry.onboarding.registration import NAME, trained_version
from tests.tenantry.serving.tiny_family import World

ASKED = {"add": 1}
SHAPED: list[tuple[Tier, str]] = [
    ("bridge", "multi_model"),
    ("bridge", "container_managed"),
    ("silo", "single_model"),
    ("silo", "serverless"),
    ("bridge", "multi_container"),
    ("bridge", "pipeline"),
]
RELAYED = Pipeline.model_construct(
    shape="pipeline",
    before=(
        PipelineContainer.model_construct(
            container="relay", image_tag="0.1.0", environment={"RELAY_ADDS": "5"}
        ),
    ),
    after=(
        PipelineContainer.model_construct(
            container="relay", image_tag="0.1.0", environment={"RELAY_ADDS": "-5"}
        ),
    ),
)
"""Adds five to a request's number, and takes five from the answer: so both containers were asked
where an answer is right."""


def shaped(world: World, **shapes: Any) -> World:
    """The world with a workload of these shapes, whose models are asked each time."""
    serving = world.tiny.serving.model_copy(
        update={"smoke_request": ASKED, "cache": Cache(enabled=False), "asynchronous": None}
    )
    hosting = (
        # A file names a container of the repository; this one is the tests' own.
        Hosting.model_construct(**{**dict(Hosting()), **dict.fromkeys(shapes, RELAYED)})
        if "pipeline" in shapes.values()
        else Hosting.model_validate(shapes)
    )
    tiny = world.tiny.model_copy(update={"serving": serving, "hosting": hosting})
    return replace(world, tiny=tiny)


def version(
    world: World, tenant: ids.TenantId, number: int, mean: float, tier: Tier
) -> ModelVersion:
    """A trained version whose answers are near ``mean``."""
    file = archive_model(world.folder / tenant / f"{number}.tar.gz", mean)
    return trained_version(world.deployment, tenant, number, file.read_bytes(), {}, tier=tier)


def registered(world: World, model: ModelVersion) -> Registration:
    """What the registration stage of a run does with a version."""
    deployment, workload, began = world.deployment, world.tiny, datetime.now(UTC)
    route = route_in(deployment.prefix, workload, model.tier, model.tenant, model.version)
    machines = machines_of(model.tier, model.tenant)

    if real_time_shape(workload, model.tier).deploys:
        with deploying(deployment, workload, machines, began) as deploy:
            return register(deployment, workload, model, route, deploy=deploy)
    ensure_endpoints(deployment, workload, machines, began)
    return register(deployment, workload, model, route)


@contextmanager
def asking(world: World, tenant: ids.TenantId, answers: list[float]) -> Iterator[None]:
    """Three clients ask until the end of the block; any failure of theirs is the block's."""
    stop = threading.Event()

    def ask() -> None:
        with world.client(tenant) as client:
            while not stop.is_set():
                answers.append(client.predict(ASKED)["mean"])

    with ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(ask) for _ in range(3)]
        try:
            yield
            enough = len(answers) + 20
            while len(answers) < enough and not any(one.done() for one in clients):
                stop.wait(0.02)
        finally:
            stop.set()
        for one in clients:
            one.result()


def archived(world: World, tenant: ids.TenantId) -> set[tuple[str, float]]:
    """The versions and the answers of the archived exchanges."""
    s3, bucket = world.deployment.s3, world.deployment.data_bucket
    records = [
        json.loads(objects.read_bytes(s3, bucket, key, 10_000))
        for key in objects.keys_under(s3, bucket, f"archive/{tenant}/")
    ]
    return {(one["version"], one["response"]["mean"]) for one in records}


@pytest.mark.parametrize(("tier", "shape"), SHAPED)
def test_a_shape_is_deployed_updated_under_load_and_taken_down(
    world: World, tier: Tier, shape: str
) -> None:
    world = shaped(world, **{tier: shape})
    tenant = ids.tenant_id(f"s-{shape.replace('_', '-')}")
    first = version(world, tenant, 1, 100.0, tier)
    assert registered(world, first).crowned
    served = ModelRegistry(world.deployment).champion(tenant, NAME)
    assert served is not None
    assert served.route.shape == shape
    answers = list[float]()
    with asking(world, tenant, answers):
        second = version(world, tenant, 2, 200.0, tier)
        assert registered(world, second).crowned
        replaced = len(answers)
    assert set(answers) == {101.0, 201.0}
    assert answers[-1] == 201.0
    assert len(answers) > replaced
    assert archived(world, tenant) == {(first.version, 101.0), (second.version, 201.0)}
    with asking(world, tenant, answers):
        serving = world.tiny.serving.model_copy(update={"environment": {"TINY": shape[:8]}})
        changed = replace(world, tiny=world.tiny.model_copy(update={"serving": serving}))
        before = describe_endpoint(world.deployment, served.endpoint)
        assert registered(changed, second).crowned
        after = describe_endpoint(world.deployment, served.endpoint)
    assert before is not None
    assert after is not None
    assert before["EndpointConfigName"] != after["EndpointConfigName"]
    with asking(world, tenant, answers):
        assert roll_back(world.deployment, world.tiny, tenant).version == first.version
    assert answers[-1] == 101.0
    assert set(answers) == {101.0, 201.0}
    taken_down(world)


def taken_down(world: World) -> None:
    """Nothing of the workload is left in SageMaker."""
    deployment = world.deployment
    wind_down(deployment, NAME, by="the test", delete_data=True)
    beginning = f"{deployment.prefix}-{NAME}-"
    left = [
        one["EndpointName"]
        for one in endpoints_beginning(deployment, beginning)
        if one["EndpointStatus"] != "Deleting"
    ]
    assert left == []
    sagemaker = deployment.sagemaker
    assert sagemaker.list_endpoint_configs(NameContains=beginning)["EndpointConfigs"] == []
    assert sagemaker.list_models(NameContains=beginning)["Models"] == []


def test_a_version_that_cannot_be_deployed_leaves_the_champion_serving(world: World) -> None:
    world = shaped(world, silo="single_model")
    tenant = ids.tenant_id("s-broken")
    first = version(world, tenant, 1, 100.0, "silo")
    registered(world, first)
    broken = trained_version(world.deployment, tenant, 2, b"no archive", {}, tier="silo")
    answers = list[float]()
    with asking(world, tenant, answers), pytest.raises(ArtifactUnusableError, match="deployed"):
        registered(world, broken)
    assert set(answers) == {101.0}
    champion = ModelRegistry(world.deployment).champion(tenant, NAME)
    assert champion is not None
    assert champion.version == first.version
    noted = ModelRegistry(world.deployment).version(tenant, NAME, broken.version)
    assert noted is not None
    assert noted.status == "rejected"
    assert "extract model data archive" in noted.note
    taken_down(world)


def test_a_version_that_does_not_answer_is_taken_back(world: World) -> None:
    world = shaped(world, silo="single_model")
    tenant = ids.tenant_id("s-silent")
    first, second = (version(world, tenant, one, 100.0 * one, "silo") for one in (1, 2))
    registered(world, first)
    refused = world.tiny.serving.model_copy(update={"smoke_request": {"add": "no"}})
    hostile = replace(world, tiny=world.tiny.model_copy(update={"serving": refused}))
    with pytest.raises(ArtifactUnusableError, match="refused the model"):
        registered(hostile, second)
    with world.client(tenant) as client:
        assert client.predict(ASKED) == {"mean": 101.0}
    taken_down(world)


def test_a_batch_has_the_containers_of_its_own_tiers_shape(world: World) -> None:
    """A silo tenant's endpoint has none around the model, so its batch has none either."""
    before = RELAYED.model_copy(update={"after": ()})
    hosting = Hosting.model_construct(
        **{**dict(Hosting()), "bridge": before, "silo": SingleModel()}
    )
    batch = world.tiny.batches[0].model_copy(update={"request": ASKED})
    tiny = world.tiny.model_copy(update={"hosting": hosting, "batches": (batch,)})
    answers = {}
    tiers: tuple[Tier, ...] = ("bridge", "silo")
    for tier in tiers:
        tenant = ids.tenant_id(f"s-batch-{tier}")
        model = version(world, tenant, 1, 100.0, tier)
        route = route_in(world.deployment.prefix, tiny, tier, tenant, model.version)
        champion = ModelRegistry(world.deployment).crown(model, route, None)
        day, name = date(2026, 3, 2), f"b-{tier}"
        predict_batch(world.deployment, tiny, Period(batch, day), name, [champion], poll=0.1)
        with world.client(tenant) as client:
            (answers[tier],) = client.predictions(day)
    assert answers == {"bridge": {"mean": 106.0}, "silo": {"mean": 101.0}}
