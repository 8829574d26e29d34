"""A deployment whose SageMaker sees a minute of metrics in each second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infrastructure.deploy import deploy
from infrastructure.local_cloud import LocalCloud, local_sagemaker_running, sagemaker_variables
from tenantry.aws.deployment import Deployment
from tenantry.hosting.endpoints import ensure_endpoint
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.names.tiers import Shared
from tests.tenantry.serving.tiny_family import World, tiny_workload

CONTAINERS = Path(__file__).parents[1] / "serving" / "containers"


@pytest.fixture(scope="module")
def paced(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Its endpoints, real-time and asynchronous, with an instance each."""
    local_cloud.reset()
    folder = tmp_path_factory.mktemp("capacity")
    pace = ("--time-lapse", "60", "--metrics-seconds", "0.5")
    with (
        local_sagemaker_running(folder, CONTAINERS, *pace) as url,
        pytest.MonkeyPatch.context() as variables,
    ):
        for name, value in sagemaker_variables(url).items():
            variables.setenv(name, value)
        deploy()
        deployment, tiny = Deployment.from_stack(), tiny_workload()
        for shape in (MULTI_MODEL, ASYNCHRONOUS):
            endpoint = ensure_endpoint(deployment, tiny, Shared("bridge"), shape)
        yield World(deployment, tiny, endpoint.name, folder)
