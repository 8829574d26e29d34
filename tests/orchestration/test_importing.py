"""A model that was trained elsewhere inside Dagster: its artifact and its registration are shown,
and no training data."""

from __future__ import annotations

import io
import json
import tarfile

from dagster import DagsterInstance

from tenantry.aws.deployment import Deployment
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import TenantClient
from tenantry.workloads.schema import Workload
from tests.conftest import TrainedForecast
from tests.orchestration.running import metadata_of, onboard, statuses, take_in, unexplained

ENERGY = ids.workload_name("energy")


def without_owner(archive: bytes) -> bytes:
    """The archive with a card that names no tenant."""
    sink = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as old,
        tarfile.open(fileobj=sink, mode="w:gz") as new,
    ):
        for member in old.getmembers():
            file = old.extractfile(member)
            assert file is not None
            content = file.read()
            if member.name == "card.json":
                card = json.loads(content)
                del card["tenant"]
                content = json.dumps(card).encode()
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return sink.getvalue()


def test_an_import_shows_its_artifact_and_registration_and_a_bad_one_its_reason(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    workload: Workload,
    trained_forecasts: list[TrainedForecast],
) -> None:
    acme, globex = ids.tenant_id("acme"), ids.tenant_id("globex")
    archive = trained_forecasts[0].archive
    TenantClient(deployment, workload, acme).import_model(without_owner(archive))
    TenantClient(deployment, workload, globex).import_model(archive)  # another tenant's
    taken = take_in(deployment, dagster_instance)
    assert (taken.accepted, taken.refused) == (2, [])

    (result,) = onboard(deployment, dagster_instance, workload)

    assert result.success, "operators cannot mend an owner's upload"
    shown = {
        asset: statuses(dagster_instance, "energy", asset, [acme, globex])
        for asset in ("training_data", "fine_tuned_artifact", "endpoint_registration")
    }
    assert shown == {
        "training_data": {"acme": "none", "globex": "none"},
        "fine_tuned_artifact": {"acme": "MATERIALIZED", "globex": "FAILED"},
        "endpoint_registration": {"acme": "MATERIALIZED", "globex": "FAILED"},
    }
    (row,) = RequestQueue(deployment).of_tenant(ENERGY, acme)
    artifacts = metadata_of(dagster_instance, "energy", "fine_tuned_artifact")
    assert artifacts["acme"]["version"] == row.version
    assert artifacts["acme"]["mase"] == trained_forecasts[0].outcome["metrics"]["mase"]
    assert "another tenant's" in artifacts["globex"]["not_made"]
    registered = metadata_of(dagster_instance, "energy", "endpoint_registration")["acme"]
    assert registered["decision"] == "the tenant's first model"
    assert unexplained(dagster_instance, workload) == set()
