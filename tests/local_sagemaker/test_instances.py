"""Instances of endpoints come and go: which one leaves, what becomes of its requests, and when the
endpoint is InService again."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.account.billing import Bill
from local_sagemaker.faults.client import FaultsClient
from local_sagemaker.faults.plan import Rule
from tests.local_sagemaker.asynchronous_endpoints import Async, Mailbox
from tests.local_sagemaker.conftest import (
    Emulator,
    create_endpoint_config,
    create_model,
    settled_endpoint,
    tar_gz,
    wait_for,
)

Endpoint = Callable[..., str]
VARIANT = "variant-1"


def ask(runtime: Any, endpoint: str, body: str = "hello", **request: Any) -> Any:
    answer = runtime.invoke_endpoint(EndpointName=endpoint, Body=body.encode(), **request)
    return json.loads(answer["Body"].read())


def scale(sagemaker: Any, endpoint: str, count: int) -> None:
    change = [{"VariantName": VARIANT, "DesiredInstanceCount": count}]
    sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=endpoint, DesiredWeightsAndCapacities=change
    )


def healthy(sagemaker: Any, endpoint: str) -> int:
    described = sagemaker.describe_endpoint(EndpointName=endpoint)
    return int(described["ProductionVariants"][0]["CurrentInstanceCount"])


def wait_until_gone(sagemaker: Any, endpoint: str) -> None:
    wait_for(
        lambda: sagemaker.list_endpoints(NameContains=endpoint)["Endpoints"], lambda left: not left
    )


def instances_billed(emulator: Emulator, endpoint: str, seconds: float) -> range:
    """How many instances of an endpoint are billed over some seconds from now: one number, or more
    where this machine took long for the two questions."""

    def billed() -> tuple[float, float, float]:
        asked = time.monotonic()
        bill = Bill.model_validate(emulator.control("GET", "/_local/bill"))
        lines = [line for line in bill.resources if str(line.resource).endswith(f"/{endpoint}")]
        return asked, sum(line.instance_seconds for line in lines), time.monotonic()

    first_asked, before, first_told = billed()
    time.sleep(seconds)
    asked, after, told = billed()
    least, most = (after - before) / (told - first_asked), (after - before) / (asked - first_told)
    return range(math.ceil(least), math.floor(most) + 1)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for requests that take long."""
    with ThreadPoolExecutor(8) as threads:
        yield threads


@pytest.fixture
def busy_pair(
    sagemaker: Any, runtime: Any, endpoint: Endpoint, pool: ThreadPoolExecutor
) -> tuple[str, list[Future[Any]]]:
    """An endpoint of two instances, and a request of two seconds to each."""
    routing = {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"}
    model = create_model(sagemaker)
    name = endpoint(create_endpoint_config(sagemaker, model, instances=2, RoutingConfig=routing))
    waiting = [pool.submit(ask, runtime, name, "sleep 2")]
    time.sleep(0.2)
    return name, [*waiting, pool.submit(ask, runtime, name, "sleep 2")]


def test_a_slow_request_does_not_lock_the_endpoint_that_is_scaled_in(
    sagemaker: Any, runtime: Any, busy_pair: tuple[str, list[Future[Any]]]
) -> None:
    name, waiting = busy_pair
    time.sleep(0.2)
    scale(sagemaker, name, 1)
    assert settled_endpoint(sagemaker, name)["EndpointStatus"] == "InService"
    assert healthy(sagemaker, name) == 1
    staying = ask(runtime, name)["pid"]
    assert {ask(runtime, name)["pid"] for _ in range(5)} == {staying}
    scale(sagemaker, name, 2)
    settled_endpoint(sagemaker, name)
    assert not any(future.done() for future in waiting)
    after = {ask(runtime, name)["pid"] for _ in range(10)}
    served = {future.result()["pid"] for future in waiting}
    assert len(served) == 2
    # The instance that drained does not come back: another has its place.
    assert served & after <= {staying}


def test_an_instance_is_billed_until_it_has_drained(
    sagemaker: Any, emulator: Emulator, busy_pair: tuple[str, list[Future[Any]]]
) -> None:
    name, waiting = busy_pair
    time.sleep(0.2)
    scale(sagemaker, name, 1)
    settled_endpoint(sagemaker, name)
    assert 2 in instances_billed(emulator, name, 0.3)
    for future in waiting:
        future.result()
    time.sleep(0.3)
    assert 1 in instances_billed(emulator, name, 0.3)


def test_deleting_an_endpoint_waits_for_the_instance_that_drains(
    sagemaker: Any, emulator: Emulator, busy_pair: tuple[str, list[Future[Any]]]
) -> None:
    name, waiting = busy_pair
    time.sleep(0.2)
    scale(sagemaker, name, 1)
    settled_endpoint(sagemaker, name)
    sagemaker.delete_endpoint(EndpointName=name)
    served = {future.result()["pid"] for future in waiting}
    assert len(served) == 2
    wait_until_gone(sagemaker, name)
    assert served.isdisjoint(emulator.containers())


def test_the_idle_instance_leaves_and_not_the_busy_one(
    sagemaker: Any, runtime: Any, endpoint: Endpoint, pool: ThreadPoolExecutor
) -> None:
    model = create_model(sagemaker)
    name = endpoint(create_endpoint_config(sagemaker, model, instances=3))
    busy = pool.submit(ask, runtime, name, "sleep 1")
    time.sleep(0.3)
    scale(sagemaker, name, 1)
    settled_endpoint(sagemaker, name)
    assert ask(runtime, name)["pid"] == busy.result()["pid"]


def test_the_instance_with_the_fewest_models_leaves(
    sagemaker: Any, runtime: Any, s3: Any, bucket: str, endpoint: Endpoint
) -> None:
    for number in range(3):
        s3.put_object(Bucket=bucket, Key=f"models/{number}", Body=tar_gz(weights=str(number)))
    model = create_model(sagemaker, Mode="MultiModel", ModelDataUrl=f"s3://{bucket}/models/")
    name = endpoint(create_endpoint_config(sagemaker, model, instances=2))
    homes = [ask(runtime, name, TargetModel=str(number))["pid"] for number in range(3)]
    (fuller,) = {pid for pid in homes if homes.count(pid) == 2}
    scale(sagemaker, name, 1)
    settled_endpoint(sagemaker, name)
    assert ask(runtime, name, TargetModel="0")["pid"] == fuller


def test_a_change_while_updating_is_refused(sagemaker: Any, endpoint: Endpoint) -> None:
    name = endpoint(create_endpoint_config(sagemaker, create_model(sagemaker)))
    scale(sagemaker, name, 2)
    for count in (1, 3):
        with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
            scale(sagemaker, name, count)
    settled_endpoint(sagemaker, name)
    assert healthy(sagemaker, name) == 2


def test_each_new_instance_serves_as_soon_as_it_is_healthy_and_is_billed_from_the_asking(
    sagemaker: Any, runtime: Any, emulator: Emulator, endpoint: Endpoint, faults: FaultsClient
) -> None:
    name = endpoint(create_endpoint_config(sagemaker, create_model(sagemaker)))
    faults.plan([Rule(kind="slow_provisioning", endpoint=name, after_seconds=(2, 2.5), most=1)])
    scale(sagemaker, name, 3)
    wait_for(lambda: healthy(sagemaker, name), lambda count: count == 2)
    described = sagemaker.describe_endpoint(EndpointName=name)
    assert described["EndpointStatus"] == "Updating"
    assert described["ProductionVariants"][0]["DesiredInstanceCount"] == 3
    assert 3 in instances_billed(emulator, name, 0.3)
    assert len({ask(runtime, name)["pid"] for _ in range(20)}) == 2
    assert healthy(sagemaker, name) == 2
    settled_endpoint(sagemaker, name)
    assert healthy(sagemaker, name) == 3


def test_a_failed_start_removes_the_instances_that_serve_already(
    sagemaker: Any,
    runtime: Any,
    s3: Any,
    bucket: str,
    emulator: Emulator,
    endpoint: Endpoint,
    faults: FaultsClient,
) -> None:
    s3.put_object(Bucket=bucket, Key="model.tar.gz", Body=tar_gz(weights="1"))
    model = create_model(sagemaker, ModelDataUrl=f"s3://{bucket}/model.tar.gz")
    name = endpoint(create_endpoint_config(sagemaker, model))
    before = ask(runtime, name)["pid"]
    faults.plan([Rule(kind="slow_provisioning", endpoint=name, after_seconds=(1, 1), most=1)])
    scale(sagemaker, name, 3)
    wait_for(lambda: healthy(sagemaker, name), lambda count: count == 2)
    s3.delete_object(Bucket=bucket, Key="model.tar.gz")  # which the slow instance finds missing
    pids = {ask(runtime, name)["pid"] for _ in range(20)}
    described = settled_endpoint(sagemaker, name)
    assert described["EndpointStatus"] == "InService"
    assert "Failed to download model data" in described["FailureReason"]
    (variant,) = described["ProductionVariants"]
    assert (variant["CurrentInstanceCount"], variant["DesiredInstanceCount"]) == (1, 1)
    assert {ask(runtime, name)["pid"] for _ in range(5)} == {before}
    wait_for(lambda: pids.intersection(emulator.containers()), lambda left: left == {before})


@pytest.fixture
def own(
    hurried_emulator: Emulator, s3: Any, bucket: str, local_cloud: LocalCloud
) -> Iterator[Async]:
    """Asynchronous endpoints with their own bucket and topics."""
    made = Async(hurried_emulator, s3, bucket, Mailbox(local_cloud))
    yield made
    made.close()


def test_deleting_an_asynchronous_endpoint_drops_what_drains(
    own: Async, hurried_emulator: Emulator
) -> None:
    name = own.endpoint(own.config(concurrency=1))
    pid = own.answer(own.send(name, "hello"))["pid"]
    dropped = own.send(name, "sleep 20")
    time.sleep(0.3)
    own.scale(name, 0)
    assert own.instances(name) == 0
    assert pid in hurried_emulator.containers()
    own.sagemaker.delete_endpoint(EndpointName=name)
    wait_for(lambda: pid in hurried_emulator.containers(), lambda found: not found, 5)
    wait_until_gone(own.sagemaker, name)
    own.mailbox.collect()
    assert dropped["InferenceId"] not in own.mailbox.messages
