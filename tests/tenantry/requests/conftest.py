"""A queue of requests on a real table."""

from __future__ import annotations

import pytest

from tenantry.aws.deployment import Deployment
from tenantry.requests.queue import RequestQueue


@pytest.fixture
def queue(deployment: Deployment) -> RequestQueue:
    return RequestQueue(deployment)
