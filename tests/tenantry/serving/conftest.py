"""A SageMaker that knows the tiny container, with an asynchronous endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infrastructure.deploy import deploy
from infrastructure.local_cloud import LocalCloud, local_sagemaker_running, sagemaker_variables
from tenantry.aws.deployment import Deployment
from tenantry.hosting.endpoints import ensure_endpoint
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS
from tenantry.names.tiers import Shared
from tests.tenantry.serving.tiny_family import World, tiny_workload


@pytest.fixture(scope="module")
def world(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A separate SageMaker that knows the tiny container, with the bridge tier's asynchronous
    endpoint."""
    local_cloud.reset()
    folder = tmp_path_factory.mktemp("asynchronous")
    with (
        local_sagemaker_running(folder, Path(__file__).parent / "containers") as url,
        pytest.MonkeyPatch.context() as variables,
    ):
        for name, value in sagemaker_variables(url).items():
            variables.setenv(name, value)
        deploy()
        deployment = Deployment.from_stack()
        tiny = tiny_workload()
        endpoint = ensure_endpoint(deployment, tiny, Shared("bridge"), ASYNCHRONOUS)
        assert (endpoint.change, endpoint.instances) == ("created", 1)
        yield World(deployment, tiny, endpoint.name, folder)
