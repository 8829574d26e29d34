"""A request that finds no instance is parked in the asynchronous queue, and answered from there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from local_sagemaker.faults.client import FaultsClient
from local_sagemaker.faults.plan import Rule, Strike
from tenantry.aws import objects
from tenantry.hosting.endpoints import EndpointFailedError, describe_endpoint, ensure_endpoint
from tenantry.hosting.invocation import EndpointBusyError, InvocationRefusedError
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.names import ids, s3_keys
from tenantry.names.tiers import Shared
from tenantry.serving.asynchronous import ParkedError, Submitted, deliver_failures
from tenantry.serving.client import TenantClient
from tenantry.serving.metrics import InferenceMetrics
from tests.tenantry.hosting.instances import set_instances
from tests.tenantry.onboarding.registration import NAME
from tests.tenantry.serving.inference_counts import counted
from tests.tenantry.serving.tiny_family import MEANS, World, parking, tiny_workload

REAL_TIME = "tenantry-energy-bridge"


@pytest.fixture(scope="module")
def parks(world: World) -> World:
    """The same world, with a workload that parks requests. It has no real-time endpoint yet."""
    _ = world.deployment.hasty_runtime  # a boto3 session makes clients in one thread
    return replace(world, tiny=parking(world.tiny))


@pytest.fixture
def real_time(parks: World) -> Iterator[str]:
    """The real-time endpoint, which is deleted after the test."""
    yield ensure_endpoint(parks.deployment, parks.tiny, Shared("bridge"), MULTI_MODEL).name
    parks.deployment.sagemaker.delete_endpoint(EndpointName=REAL_TIME)
    until(lambda: describe_endpoint(parks.deployment, REAL_TIME) is None)


@pytest.fixture
def faults(parks: World) -> FaultsClient:
    return FaultsClient(parks.deployment.sagemaker.meta.endpoint_url)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def asked_at_once(world: World) -> int:
    return world.deployment.aws_calls["sagemaker-runtime:InvokeEndpoint"]


def ticket_of(client: TenantClient, request: dict[str, Any]) -> Submitted:
    with pytest.raises(ParkedError, match=r"is parked .* after 0 s; it may still come") as parked:
        client.predict(request, wait_seconds=0)
    return parked.value.submitted


def exchanges(world: World, tenant: ids.TenantId) -> list[dict[str, Any]]:
    """A tenant's archived exchanges, oldest first."""
    s3, bucket = world.deployment.s3, world.deployment.data_bucket
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=f"archive/{tenant}/").get("Contents", [])
    return [json.loads(objects.read_bytes(s3, bucket, one["Key"], 1 << 20)) for one in listed]


# ---- without an endpoint -------------------------------------------------------------------------


def test_requests_without_an_endpoint_are_answered_once_when_there_is_an_instance(
    parks: World,
) -> None:
    deployment, tenants = parks.deployment, [parks.tenant() for _ in range(4)]
    set_instances(deployment, parks.endpoint, 0)
    before, asked = parks.invocations(), counted(deployment, NAME)

    with InferenceMetrics(deployment) as metrics, ThreadPoolExecutor(4) as pool:

        def ask(tenant: ids.TenantId) -> float:
            with TenantClient(deployment, parks.tiny, tenant, metrics) as client:
                return float(client.predict({"add": 1}, wait_seconds=60)["mean"])

        answers = [pool.submit(ask, tenant) for tenant in tenants]
        until(lambda: parks.invocations() == before + 4)
        assert not any(answer.done() for answer in answers)
        set_instances(deployment, parks.endpoint, 1)
        assert [answer.result() for answer in answers] == [MEANS[one] + 1 for one in tenants]
        assert [ask(tenant) for tenant in tenants] == [MEANS[one] + 1 for one in tenants]
    assert parks.invocations() == before + 4
    after = counted(deployment, NAME)
    assert {name: after[name][0] - asked[name][0] for name in after} == {
        "NumberOfInferenceRequests": 8,
        "CacheHits": 4,
        "CacheMisses": 4,
    }
    for tenant in tenants:
        first, second = exchanges(parks, tenant)
        assert (first["cached"], first["response"]["mean"]) == (False, MEANS[tenant] + 1)
        assert (second["cached"], "response" in second) == (True, False)
        assert first["question"] == second["question"]


def test_the_ticket_of_a_parked_request_gives_its_answer_later(parks: World) -> None:
    deployment, tenant, before = parks.deployment, parks.tenant(), parks.invocations()
    set_instances(deployment, parks.endpoint, 0)
    asked = counted(deployment, NAME)
    with parks.client(tenant) as client:
        ticket = ticket_of(client, {"add": 2})
        assert client.result(ticket) is None
    with parks.client(tenant) as client:  # another process
        assert ticket_of(client, {"add": 2}).id == ticket.id
    assert parks.invocations() == before + 1
    after = counted(deployment, NAME)
    assert {name: after[name][0] - asked[name][0] for name in after} == {
        "NumberOfInferenceRequests": 2,
        "CacheHits": 1,  # on its way already
        "CacheMisses": 1,
    }
    set_instances(deployment, parks.endpoint, 1)
    with parks.client(tenant) as client:
        assert json.loads(client.wait(ticket, 60).content)["mean"] == MEANS[tenant] + 2
    (exchange,) = exchanges(parks, tenant)
    assert exchange["question"] == ticket.id


def test_an_answer_that_nobody_fetched_is_archived_and_kept_for_who_asks_again(
    parks: World, tmp_path: Path
) -> None:
    tenant, before, hold = parks.tenant(), parks.invocations(), tmp_path / "hold"
    request = {"add": 3, "wait_for": str(hold)}
    with parks.client(tenant) as client:
        ticket = ticket_of(client, request)
        hold.touch()
        until(lambda: str(ticket.id) in parks.keys_of(tenant))
        assert exchanges(parks, tenant) == []
        assert client.predict(request, wait_seconds=60)["mean"] == MEANS[tenant] + 3
    assert parks.invocations() == before + 1
    (exchange,) = exchanges(parks, tenant)
    assert exchange["response"]["mean"] == MEANS[tenant] + 3
    kept = s3_keys.cached_answer(NAME, tenant, ticket.question.version, ticket.id)
    parks.deployment.s3.head_object(Bucket=parks.deployment.data_bucket, Key=kept)


def test_a_parked_request_fails_as_one_that_is_answered_at_once(parks: World) -> None:
    tenant = parks.tenant()
    with parks.client(tenant) as client:
        with pytest.raises(InvocationRefusedError, match=r"^'add' must be a number$"):
            client.predict({"add": "x"}, wait_seconds=60)
        with pytest.raises(EndpointBusyError, match=r"^it was not ready in 1 s$"):
            client.predict({"late": True}, wait_seconds=60)
        # The tenant's session reads the copy under its own prefix.
        ticket = client.submit({"late": True, "add": 2})
        until(lambda: any(one.question == ticket.id for one in deliver_failures(parks.deployment)))
        with pytest.raises(EndpointBusyError, match=r"^it was not ready in 1 s$"):
            client.result(replace(ticket, failure_key=""))


def test_a_request_too_large_for_either_endpoint_is_refused(parks: World) -> None:
    most, before = MULTI_MODEL.limits.max_payload_bytes, parks.invocations()
    with parks.client(parks.tenant()) as client:
        with pytest.raises(InvocationRefusedError, match=f"takes at most {most}"):
            client.predict({"add": 1, "padding": "x" * most})
        assert parks.invocations() == before
        # The endpoint takes it, but not with the model's name beside it.
        with pytest.raises(InvocationRefusedError, match="bytes"):
            client.predict({"add": 1, "padding": "x" * (most - 40)}, wait_seconds=60)
        assert parks.invocations() == before + 1


def test_where_nothing_can_be_parked_the_error_names_what_is_missing(parks: World) -> None:
    missing = rf"^[^;]*{REAL_TIME} of account \d+ not found"
    tenant, before = parks.tenant(), parks.invocations()
    with (
        TenantClient(parks.deployment, tiny_workload(), tenant) as client,
        pytest.raises(EndpointFailedError, match=rf"{missing}\.$"),
    ):
        client.predict({"add": 1})
    assert parks.invocations() == before
    both = r"energy-pool of .* not found.*; nor can .*: .*energy-pool-async of .* not found"
    with (
        parks.client(parks.tenant(tier="pool")) as client,
        pytest.raises(EndpointFailedError, match=both),
    ):
        client.predict({"add": 1})


# ---- with an endpoint that has no instance -------------------------------------------------------


def test_requests_are_parked_while_the_instance_is_replaced(
    parks: World, real_time: str, faults: FaultsClient
) -> None:
    tenant, before = parks.tenant(), parks.invocations()
    with parks.client(tenant) as client:
        for add in range(2):
            slow = Rule(kind="slow_provisioning", endpoint=real_time, after_seconds=(4.0, 4.0))
            with faults.planned(slow):
                faults.now(Strike(kind="kill_container", endpoint=real_time))
                until(lambda: instances(parks) == 0)
                at_once = asked_at_once(parks)
                assert client.predict({"add": add}, wait_seconds=60)["mean"] == MEANS[tenant] + add
                assert asked_at_once(parks) <= at_once + 3
            assert parks.invocations() == before + add + 1
            until(lambda: instances(parks) == 1)
        at_once = asked_at_once(parks)
        assert client.predict({"add": 9})["mean"] == MEANS[tenant] + 9
    assert (asked_at_once(parks), parks.invocations()) == (at_once + 1, before + 2)
    assert len(exchanges(parks, tenant)) == 3


def test_requests_are_parked_while_the_endpoint_is_made_again(
    parks: World, faults: FaultsClient
) -> None:
    tenant, before = parks.tenant(), parks.invocations()
    slow = Rule(kind="slow_provisioning", endpoint=REAL_TIME, after_seconds=(3.0, 3.0))
    with faults.planned(slow), ThreadPoolExecutor(1) as pool, parks.client(tenant) as client:
        made = pool.submit(
            ensure_endpoint, parks.deployment, parks.tiny, Shared("bridge"), MULTI_MODEL
        )
        until(lambda: describe_endpoint(parks.deployment, REAL_TIME) is not None)
        assert client.predict({"add": 1}, wait_seconds=60)["mean"] == MEANS[tenant] + 1
        assert not made.done()
        assert parks.invocations() == before + 1
        made.result()
        assert client.predict({"add": 2})["mean"] == MEANS[tenant] + 2
        parks.deployment.sagemaker.delete_endpoint(EndpointName=REAL_TIME)  # by mistake
        until(lambda: describe_endpoint(parks.deployment, REAL_TIME) is None)
        assert client.predict({"add": 3}, wait_seconds=60)["mean"] == MEANS[tenant] + 3
    assert parks.invocations() == before + 2


def test_other_errors_of_the_endpoint_are_retried_as_long_as_without_parking(
    parks: World, real_time: str, faults: FaultsClient
) -> None:
    tenant, before = parks.tenant(), parks.invocations()
    throttled = Rule(kind="throttle", operation="InvokeEndpoint", endpoint=real_time, most=4)
    with faults.planned(throttled), parks.client(tenant) as client:
        assert client.predict({"add": 1})["mean"] == MEANS[tenant] + 1
        assert faults.report().rules[0].happened == 4
        with pytest.raises(EndpointBusyError, match="not ready in 1 s"):
            client.predict({"late": True})
        with pytest.raises(InvocationRefusedError, match="'add' must be a number"):
            client.predict({"add": "x"})
    assert parks.invocations() == before


def instances(world: World) -> int:
    described = describe_endpoint(world.deployment, REAL_TIME)
    assert described is not None
    return described["ProductionVariants"][0]["CurrentInstanceCount"]
