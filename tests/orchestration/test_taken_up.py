"""A pack whose run died is continued: the dead run's results stay in Dagster, however the next run
ends."""

from __future__ import annotations

from dagster import DagsterInstance

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.faults.client import FaultsClient
from local_sagemaker.faults.plan import Rule
from orchestration.launcher import runs_to_request
from tenantry.aws.deployment import Deployment
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.workloads.schema import Workload
from tests.orchestration.conftest import Upload
from tests.orchestration.running import (
    TENANTRY,
    at_once,
    metadata_of,
    onboard,
    run,
    statuses,
    take_in,
)


def test_what_an_earlier_run_made_stays_made_though_the_next_run_dies_too(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy: Workload,
    upload: Upload,
    consumption: dict[str, bytes],
) -> None:
    tenant = upload("acme", consumption["tenant-0"])
    take_in(deployment, dagster_instance)

    def seen() -> dict[str, str]:
        assets = ("training_data", "fine_tuned_artifact", "endpoint_registration")
        return {
            asset: statuses(dagster_instance, "energy", asset, [tenant])[tenant] for asset in assets
        }

    def die(**_: object) -> None:
        raise MemoryError("the run's process is out of memory")

    events = TENANTRY.deployment.sagemaker.meta.events
    events.register("before-call.sagemaker.CreateEndpoint", die)
    try:
        for _ in range(2):
            (done,) = onboard(deployment, dagster_instance, at_once(energy))
            assert not done.success
    finally:
        events.unregister("before-call.sagemaker.CreateEndpoint", die)
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


def test_a_request_that_its_pack_was_written_down_without_waits_for_another_pack(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy: Workload,
    upload: Upload,
    consumption: dict[str, bytes],
) -> None:
    acme, bolt = upload("acme", consumption["tenant-0"]), upload("bolt", consumption["tenant-1"])
    take_in(deployment, dagster_instance)
    queue = RequestQueue(deployment)
    (asked,) = runs_to_request(dagster_instance, queue, at_once(energy), lost_run_seconds=60)
    config = asked.run_config["ops"]["energy_onboarding"]["config"]
    config["requests"] = [request for request in config["requests"] if request["tenant"] == acme]
    assert run(dagster_instance, str(asked.job_name), asked.run_config, dict(asked.tags)).success
    (left_out,) = queue.open(energy_name := ids.workload_name("energy"))
    assert (left_out.tenant, left_out.status) == (bolt, "claimed")

    (taken_up,) = onboard(deployment, dagster_instance, at_once(energy))
    assert not taken_up.success
    row = queue.get(energy_name, bolt, left_out.request)
    assert row is not None
    assert (row.status, row.pack, row.attempt, row.postponements) == ("pending", None, 1, 1)
    assert "was written down without it" in row.history[-1]["why"]
    assert (
        statuses(dagster_instance, "energy", "endpoint_registration", [acme])[acme]
        == "MATERIALIZED"
    )


def test_an_endpoint_that_cannot_be_had_now_makes_its_tenants_wait_and_costs_them_no_try(
    deployment: Deployment,
    local_cloud: LocalCloud,
    dagster_instance: DagsterInstance,
    energy: Workload,
    upload: Upload,
    consumption: dict[str, bytes],
) -> None:
    tenant = upload("acme", consumption["tenant-0"])
    take_in(deployment, dagster_instance)
    with FaultsClient(local_cloud.sagemaker_url).planned(
        Rule(kind="resource_limit", operation="CreateEndpoint")
    ):
        (done,) = onboard(deployment, dagster_instance, at_once(energy))
    assert not done.success
    (row,) = RequestQueue(deployment).of_tenant(ids.workload_name("energy"), tenant)
    assert (row.status, row.attempt, row.postponements) == ("pending", 1, 1)
    assert "ResourceLimitExceeded" in row.history[-1]["why"]
