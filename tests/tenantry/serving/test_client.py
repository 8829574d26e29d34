"""The client of one tenant accepts only a tenant's id."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tenantry.aws.deployment import Deployment
from tenantry.hosting.invocation import InvocationRefusedError
from tenantry.names import ids
from tenantry.serving.client import TenantClient
from tenantry.serving.moments import at_its_moment
from tenantry.workloads.schema import read_workloads


@pytest.mark.parametrize("tenant", ["Acme Ltd", "", "_workload", "a/../b", "t" * 64, None, 7])
def test_a_client_is_made_for_a_tenants_id_alone(deployment: Deployment, tenant: Any) -> None:
    with pytest.raises(
        ids.InvalidIdError, match=r"is not a tenant id; it must match \[a-z0-9\].*: 1 to 63 small"
    ):
        TenantClient(deployment, read_workloads()["energy"], tenant)
    assert deployment.aws_calls.total() == 0


def test_a_client_of_a_tenants_id_is_made(deployment: Deployment) -> None:
    with TenantClient(deployment, read_workloads()["energy"], ids.tenant_id("acme")) as client:
        assert client.requests() == []


@pytest.mark.parametrize("workload", ["energy", "portraits"])
@pytest.mark.parametrize("request_", [[], "tomorrow", None, 7])
def test_a_request_that_is_no_mapping_is_refused_in_words(workload: str, request_: Any) -> None:
    with pytest.raises(InvocationRefusedError, match="a request is a mapping of names to values"):
        at_its_moment(read_workloads()[workload], {"family": "any"}, request_, datetime.now(UTC))
