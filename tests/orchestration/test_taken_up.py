"""A pack whose run died is taken up: what the dead run had made stays made in Dagster's eyes, whatever becomes of the next run."""

from __future__ import annotations

from dagster import DagsterInstance

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.faults import Rule
from local_sagemaker.faults_client import FaultsClient
from resources.deployment import Deployment
from tests.orchestration.conftest import Upload
from tests.orchestration.running import at_once, metadata_of, onboard, statuses, take_in
from workloads.schema import Workload


def test_what_an_earlier_run_made_stays_made_though_the_next_run_dies_too(
    deployment: Deployment,
    local_cloud: LocalCloud,
    dagster_instance: DagsterInstance,
    energy: Workload,
    upload: Upload,
    consumption: dict[str, bytes],
) -> None:
    tenant = upload("acme", consumption["tenant-0"])
    take_in(deployment, dagster_instance)

    def seen() -> dict[str, str]:
        assets = ("training_data", "fine_tuned_artifact", "endpoint_registration")
        return {asset: statuses(dagster_instance, "energy", asset, [tenant])[tenant] for asset in assets}

    no_endpoint = Rule(kind="resource_limit", operation="CreateEndpoint")
    with FaultsClient(local_cloud.sagemaker_url).planned(no_endpoint):
        for _ in range(2):
            (done,) = onboard(deployment, dagster_instance, at_once(energy))
            assert not done.success
    assert seen() == {
        "training_data": "MATERIALIZED",
        "fine_tuned_artifact": "MATERIALIZED",
        "endpoint_registration": "FAILED",
    }
    told = metadata_of(dagster_instance, "energy", "fine_tuned_artifact")[tenant]
    assert {"version", "mase", "training_job", "card"} <= told.keys()
    (done,) = onboard(deployment, dagster_instance, at_once(energy))
    assert done.success
    assert set(seen().values()) == {"MATERIALIZED"}
