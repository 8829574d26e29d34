"""A bad release is taken back by its alarm while callers ask, and the asset's page says why; a
shadow's other answers are told there, too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetCheckKey,
    AssetChecksDefinition,
    AssetsDefinition,
    AssetSelection,
    DagsterInstance,
    ExecuteInProcessResult,
    materialize,
)

from assets.serving_endpoints import CHECK, serving_endpoint_asset
from infrastructure.deploy import deploy
from infrastructure.local_cloud import LocalCloud, local_sagemaker_running, sagemaker_variables
from orchestration.checks import shadow_check
from orchestration.private_dagster.chosen_partitions import asset_key
from orchestration.workload_definitions import known_warnings_left_out
from resources import tenantry_resource
from tenantry.aws.deployment import Deployment
from tenantry.hosting.endpoints import describe_endpoint
from tenantry.hosting.invocation import InvocationRefusedError
from tenantry.hosting.shapes.container_managed import CONTAINER_MANAGED
from tenantry.hosting.shapes.shape import SHADOW
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.names.tiers import Shared
from tenantry.workloads.hosting import Hosting
from tenantry.workloads.schema import Workload
from tenantry.workloads.sections import Cache
from tests.orchestration.running import TENANTRY
from tests.tenantry.onboarding.registration import NAME
from tests.tenantry.serving.tiny_family import MEANS, World, tiny_workload

KEY = asset_key("energy", "serving_endpoint")
ASKED = {"add": 1}
TINY = Path(__file__).resolve().parents[1] / "tenantry/serving/containers"
LAPSE = 60
"""A minute of SageMaker's takes a second."""


@pytest.fixture(scope="module")
def world(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A fast SageMaker that knows the tiny container, and a workload of it, container-managed on
    two instances."""
    local_cloud.reset()
    folder = tmp_path_factory.mktemp("guarded")
    with (
        local_sagemaker_running(folder, TINY, "--time-lapse", str(LAPSE)) as url,
        pytest.MonkeyPatch.context() as variables,
    ):
        for name, value in sagemaker_variables(url).items():
            variables.setenv(name, value)
        deploy()
        deployment = Deployment.from_stack()
        tiny = tiny_workload()
        serving = tiny.serving.model_copy(
            update={
                "asynchronous": None,
                "cache": Cache(enabled=False),
                "smoke_request": ASKED,
                "instances": 2,
            }
        )
        tiny = hosted(tiny.model_copy(update={"serving": serving}))
        endpoint = CONTAINER_MANAGED.endpoint_name(deployment.prefix, NAME, Shared("bridge"))
        # The resource keeps the clients of a process; this module's SageMaker is its own.
        tenantry_resource._deployment.cache_clear()
        yield World(deployment, tiny, endpoint, folder)
        tenantry_resource._deployment.cache_clear()


def hosted(workload: Workload, **more: Any) -> Workload:
    """The workload, container-managed on the bridge."""
    hosting = Hosting.model_validate({"bridge": "container_managed", **more})
    return workload.model_copy(update={"hosting": hosting})


def with_environment(workload: Workload, **environment: str) -> Workload:
    serving = workload.serving.model_copy(update={"environment": environment})
    return workload.model_copy(update={"serving": serving})


def serving_endpoint(workload: Workload) -> AssetsDefinition:
    with known_warnings_left_out():
        return serving_endpoint_asset(workload)


def run(
    instance: DagsterInstance,
    *what: AssetsDefinition | AssetChecksDefinition,
    selection: AssetSelection | None = None,
) -> ExecuteInProcessResult:
    return materialize(
        list(what),
        instance=instance,
        resources={"tenantry": TENANTRY},
        raise_on_error=False,
        selection=selection,
    )


def check(instance: DagsterInstance, name: str) -> tuple[bool, dict[str, Any]]:
    """The latest evaluation of a check: whether it passed, and its metadata."""
    found = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [AssetCheckKey(KEY, name)]
    )
    event = found[AssetCheckKey(KEY, name)].event
    assert event is not None
    assert event.dagster_event is not None
    evaluation = event.dagster_event.asset_check_evaluation_data
    return evaluation.passed, {name: one.value for name, one in evaluation.metadata.items()}


@contextmanager
def callers(world: World, tenant: ids.TenantId, outcomes: list[float | None]) -> Iterator[None]:
    """Three callers ask until the block ends; None stands for a refused request."""
    stop = threading.Event()

    def ask() -> None:
        with world.client(tenant) as client:
            while not stop.is_set():
                try:
                    outcomes.append(client.predict(ASKED)["mean"])
                except InvocationRefusedError:
                    outcomes.append(None)
                stop.wait(0.02)

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            yield
        finally:
            stop.set()
        for one in asking:
            one.result()


@pytest.fixture(scope="module")
def tenant(world: World) -> ids.TenantId:
    """A bridge tenant with a champion on the endpoint of the world."""
    tenant = world.tenant()
    registry = ModelRegistry(world.deployment)
    champion = registry.champion(tenant, NAME)
    assert champion is not None
    route = CONTAINER_MANAGED.route(world.endpoint, tenant, champion.version)
    registry.move(champion, route, "bridge")
    return tenant


def test_a_bad_release_is_taken_back_by_its_alarm_and_the_asset_says_why(
    world: World, tenant: ids.TenantId, dagster_instance: DagsterInstance
) -> None:
    assert run(dagster_instance, serving_endpoint(world.tiny)).success
    assert check(dagster_instance, CHECK) == (True, {})
    before = describe_endpoint(world.deployment, world.endpoint)
    assert before is not None
    guarded = hosted(
        world.tiny,
        updates={"strategy": "canary", "percent": 50, "wait_seconds": 1200, "error_percent": 5},
    )
    bad = with_environment(guarded, TINY_FAILS="1")
    outcomes = list[float | None]()
    with callers(world, tenant, outcomes):
        done = run(dagster_instance, serving_endpoint(bad))
        assert done.success, "a failed run would deploy the same release again"
        refused = outcomes.count(None)
        enough = len(outcomes) + 30
        while len(outcomes) < enough:
            threading.Event().wait(0.02)
        assert outcomes.count(None) == refused, "nobody is refused after the rollback"
    passed, told = check(dagster_instance, CHECK)
    assert not passed
    assert "alarm" in told["reason"]
    after = describe_endpoint(world.deployment, world.endpoint)
    assert after is not None
    assert after["EndpointConfigName"] == before["EndpointConfigName"]
    assert 0 < refused < 0.8 * len(outcomes)
    assert {one for one in outcomes if one is not None} == {MEANS[tenant] + 1}
    alarms = world.deployment.cloudwatch.describe_alarms(AlarmNamePrefix=world.endpoint)
    assert alarms["MetricAlarms"] == [], "the update's alarm is gone with it"


def test_a_good_release_passes_its_canary(
    world: World, tenant: ids.TenantId, dagster_instance: DagsterInstance
) -> None:
    guarded = hosted(
        world.tiny,
        updates={"strategy": "canary", "percent": 50, "wait_seconds": 60, "error_percent": 5},
    )
    good = with_environment(guarded, TINY="2")
    outcomes = list[float | None]()
    with callers(world, tenant, outcomes):
        assert run(dagster_instance, serving_endpoint(good)).success
    assert set(outcomes) == {MEANS[tenant] + 1}
    assert check(dagster_instance, CHECK) == (True, {})


def test_a_shadow_that_answers_otherwise_is_told_on_the_assets_page(
    world: World, tenant: ids.TenantId, dagster_instance: DagsterInstance
) -> None:
    shadow = {"image_tag": world.tiny.image_tag, "environment": {"TINY_MORE": "0.5"}}
    shadowed = hosted(world.tiny, shadow=shadow)
    assert run(dagster_instance, serving_endpoint(shadowed)).success
    described = describe_endpoint(world.deployment, world.endpoint)
    assert described is not None
    assert [one["VariantName"] for one in described["ShadowProductionVariants"]] == [SHADOW]
    with world.client(tenant) as client:
        assert [client.predict({"add": one})["mean"] for one in range(5)] == [
            MEANS[tenant] + one for one in range(5)
        ]
    told: dict[str, Any] = {}
    for _ in range(100):
        of_shadow = AssetSelection.checks(AssetCheckKey(KEY, "shadow_agrees"))
        both = serving_endpoint(shadowed), shadow_check(shadowed)
        assert run(dagster_instance, *both, selection=of_shadow).success
        passed, told = check(dagster_instance, "shadow_agrees")
        if told["compared"] == 5:
            break
        threading.Event().wait(0.2)
    assert (told["compared"], told["differing"], told["failed"]) == (5, 5, 0)
    assert told["disagreement"] == 1.0
    assert not passed
