"""Requests that find no instance start the first one, which leaves when it has answered them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import pytest

from tenantry.aws import objects
from tenantry.capacity.registration import deregister, register_capacity
from tenantry.capacity.scaled_endpoints import ScaledEndpoint, scaled_endpoint
from tenantry.hosting.endpoints import describe_endpoint, ensure_endpoint
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS
from tenantry.names.tiers import Machines, Tier, machines_of
from tenantry.workloads.capacity import EndpointCapacity
from tests.tenantry.capacity.test_registration import instances, scaled, until
from tests.tenantry.hosting.instances import set_instances
from tests.tenantry.serving.tiny_family import MEANS, World, parking

TOGETHER: Final = 2
"""Requests of each cycle."""
FROM_ZERO: Final[dict[str, Any]] = {"kind": "scale_from_zero"}
BACKLOG: Final[dict[str, Any]] = {"kind": "backlog", "target": 4, "in_cooldown_seconds": 60}


@pytest.fixture(scope="module")
def parks(paced: World) -> World:
    """A workload that parks requests. The real-time endpoint that it had was deleted."""
    _ = paced.deployment.hasty_runtime  # a boto3 session makes clients in one thread
    name = scaled(paced).name
    paced.deployment.sagemaker.delete_endpoint(EndpointName=name)
    until(lambda: describe_endpoint(paced.deployment, name) is None)
    return replace(paced, tiny=parking(paced.tiny))


def at_zero(world: World, machines: Machines, *policies: dict[str, Any]) -> ScaledEndpoint:
    """The asynchronous endpoint on some machines, with these policies and without an instance."""
    deployment = world.deployment
    ensure_endpoint(deployment, world.tiny, machines, ASYNCHRONOUS)
    section = {"minimum": 0, "maximum": 1, "policies": policies}
    of = replace(
        scaled_endpoint(deployment.prefix, world.tiny, machines, "asynchronous"),
        section=EndpointCapacity.model_validate(section),
    )
    register_capacity(deployment, of)
    set_instances(deployment, of.name, 0)
    return of


@contextmanager
def seen_instances(world: World, of: ScaledEndpoint) -> Iterator[list[int]]:
    """The numbers of instances within the block, one after another."""
    seen, ended = [instances(world, of)], threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            if (now := instances(world, of)) != seen[-1]:
                seen.append(now)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        ended.set()
        looking.join()


def go_through(world: World, tier: Tier, cycles: int, *policies: dict[str, Any]) -> None:
    """Go from zero to one and back so many times, with requests of an app that only calls
    ``predict``. Without a policy that scales in, the test itself does."""
    deployment, tenant = world.deployment, world.tenant(tier=tier)

    def ask(add: int) -> float:
        with world.client(tenant) as client:
            return float(client.predict({"add": add}, wait_seconds=60)["mean"])

    of = at_zero(world, machines_of(tier, tenant), *policies)
    with seen_instances(world, of) as seen, ThreadPoolExecutor(TOGETHER) as pool:
        for cycle in range(cycles):
            adds = range(cycle * TOGETHER, (cycle + 1) * TOGETHER)
            assert list(pool.map(ask, adds)) == [MEANS[tenant] + add for add in adds]
            until(lambda: seen[-1] == 1)
            if BACKLOG not in policies:
                set_instances(deployment, of.name, 0)
            until(lambda: seen[-1] == 0)
    assert seen == [0, *[1, 0] * cycles]
    deregister(deployment, of.name)
    listed = deployment.s3.get_paginator("list_objects_v2").paginate(
        Bucket=deployment.data_bucket, Prefix=f"archive/{tenant}/"
    )
    archived = [
        json.loads(objects.read_bytes(deployment.s3, deployment.data_bucket, one["Key"], 1 << 20))
        for page in listed
        for one in page.get("Contents", [])
    ]
    assert sorted(one["request"]["add"] for one in archived) == list(range(cycles * TOGETHER))
    assert {one["cached"] for one in archived} == {False}


def test_parked_requests_go_through_zero_and_one_and_zero(parks: World) -> None:
    before = parks.invocations()
    go_through(parks, "bridge", 3, FROM_ZERO)
    assert parks.invocations() == before + 3 * TOGETHER


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_hundred_cycles_lose_and_repeat_no_request(parks: World) -> None:
    """On four endpoints at the same time, each of a silo tenant's own."""
    before = parks.invocations()
    with ThreadPoolExecutor(4) as pool:
        cycles = [pool.submit(go_through, parks, "silo", 25, FROM_ZERO, BACKLOG) for _ in range(4)]
        for one in cycles:
            one.result()
    assert parks.invocations() == before + 100 * TOGETHER
