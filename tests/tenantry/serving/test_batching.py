"""Tenants' requests share calls of the model, on an endpoint and in a batch prediction."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from infrastructure.deploy import deploy
from infrastructure.local_cloud import LocalCloud, local_sagemaker_running, sagemaker_variables
from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.batch.periods import Period
from tenantry.batch.transform import predict_batch
from tenantry.hosting.endpoints import ensure_endpoint
from tenantry.hosting.invocation import InvocationRefusedError, invoke
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.models.registry import ModelRegistry
from tenantry.names.tiers import Shared
from tenantry.workloads.batching import Batching
from tests.tenantry.onboarding.registration import NAME
from tests.tenantry.serving.tiny_family import MEANS, World, tiny_workload


@pytest.fixture(scope="module")
def world(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A separate SageMaker with the bridge tier's endpoint, whose container gathers batches."""
    local_cloud.reset()
    folder = tmp_path_factory.mktemp("together")
    with (
        local_sagemaker_running(folder, Path(__file__).parent / "containers") as url,
        pytest.MonkeyPatch.context() as variables,
    ):
        for name, value in sagemaker_variables(url).items():
            variables.setenv(name, value)
        deploy()
        deployment, tiny = Deployment.from_stack(), tiny_workload()
        batching = Batching(max_batch=4, max_wait_ms=50)
        serving = tiny.serving.model_copy(update={"batching": batching})
        tiny = tiny.model_copy(update={"container": "together", "serving": serving})
        endpoint = ensure_endpoint(deployment, tiny, Shared("bridge"), MULTI_MODEL)
        yield World(deployment, tiny, endpoint.name, folder)


def test_tenants_on_one_endpoint_share_calls_and_each_gets_its_own_answer(world: World) -> None:
    tenants = [world.tenant() for _ in range(3)]
    champions = {
        tenant: ModelRegistry(world.deployment).champion(tenant, NAME) for tenant in tenants
    }

    def ask(number: int) -> dict[str, Any]:
        tenant = tenants[number % 3]
        champion = champions[tenant]
        assert champion is not None
        answer = invoke(world.deployment, champion.route, {"add": number})
        document: dict[str, Any] = json.loads(answer.content)
        assert document["mean"] == MEANS[tenant] + number
        return document

    def refused() -> str:
        champion = champions[tenants[0]]
        assert champion is not None
        with pytest.raises(InvocationRefusedError) as error:
            invoke(world.deployment, champion.route, {"add": "x"})
        return str(error.value)

    deadline, largest = time.monotonic() + 100, 0
    with ThreadPoolExecutor(7) as threads:
        while largest < 2:
            assert time.monotonic() < deadline, "no two requests shared a call"
            faulty = threads.submit(refused)
            largest = max(one["batch"] for one in threads.map(ask, range(6)))
            assert "'add' must be a number" in faulty.result()
            assert largest <= 4


def test_a_batch_prediction_is_answered_in_batches(world: World) -> None:
    tenants = [world.tenant() for _ in range(5)]
    registry = ModelRegistry(world.deployment)
    champions = [found for one in tenants if (found := registry.champion(one, NAME))]
    period = Period(world.tiny.batches[0], date(2026, 1, 10))
    result = predict_batch(world.deployment, world.tiny, period, "b-1", champions, poll=0.1)
    assert len(result.predictions) == 5
    for prediction in result.predictions:
        assert prediction.key, prediction.reason
        bucket = world.deployment.data_bucket
        document = json.loads(
            objects.read_bytes(world.deployment.s3, bucket, prediction.key, 1 << 20)
        )
        assert document["mean"] == MEANS[prediction.tenant]
        assert 1 <= document["batch"] <= 4
