"""One local cloud for the whole test session, emptied for each test that asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from infrastructure.deploy import deploy
from infrastructure.local_cloud import LocalCloud, running
from resources.deployment import Deployment

ROOT = Path(__file__).resolve().parents[1]
settings.register_profile("tenantry", deadline=None)  # a busy machine is no defect
settings.load_profile("tenantry")


@pytest.fixture(scope="session")
def local_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """ministack and local_sagemaker, started once; ``os.environ`` points every AWS SDK at them."""
    with running(tmp_path_factory.mktemp("local-cloud"), ROOT / "containers") as cloud:
        before = dict(os.environ)
        os.environ.update(cloud.environment)
        try:
            yield cloud
        finally:
            os.environ.clear()
            os.environ.update(before)


@pytest.fixture
def empty_cloud(local_cloud: LocalCloud) -> LocalCloud:
    """The local cloud with nothing in it."""
    local_cloud.reset()
    return local_cloud


@pytest.fixture
def deployment(empty_cloud: LocalCloud) -> Deployment:
    """The stack, applied to an empty local cloud: a quarter of a second, so each test gets one of its own."""
    deploy()
    return Deployment.from_stack()
