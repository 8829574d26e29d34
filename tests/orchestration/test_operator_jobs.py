"""An operator's actions in the UI: the jobs that control a workload's requests, like the
commands."""

from __future__ import annotations

from typing import Any

import pytest
from dagster import DagsterInstance

from orchestration.definitions import defs
from orchestration.partitions import add_tenants
from tenantry.aws.deployment import Deployment
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.requests.workload_controls import WorkloadControls
from tests.orchestration.running import TENANTRY, run, uploads_observed
from tests.tenantry.command_line.conftest import ENERGY, claimed, dead_lettered, now_of, pending


@pytest.fixture
def queue(deployment: Deployment) -> RequestQueue:
    return RequestQueue(deployment, by="test")


def test_requests_are_retried_and_cancelled_by_a_run_that_says_so_in_their_history(
    queue: RequestQueue, dagster_instance: DagsterInstance
) -> None:
    lost = [dead_lettered(queue, tenant) for tenant in ("acme", "bolt")]
    add_tenants(dagster_instance, ENERGY, [row.tenant for row in lost])
    waiting, on_its_way = pending(queue, "cone"), claimed(queue, "dune")
    retry = defs.resolve_job_def("energy_retry")
    done = retry.execute_in_process(
        instance=dagster_instance,
        partition_key="acme",
        resources={"tenantry": TENANTRY},
        run_config={"ops": {"energy_retry_requests": {"config": {"why": "the image is fixed"}}}},
    )
    assert done.success
    assert [now_of(queue, row).status for row in lost] == ["pending", "dead_lettered"]
    last = now_of(queue, lost[0]).history[-1]
    assert (last["by"], last["why"]) == (f"run {done.run_id}", "the image is fixed")
    config: Any = {"ops": {"energy_retry_requests": {"config": {"all_dead_lettered": True}}}}
    assert run(dagster_instance, "energy_retry", config).success
    assert now_of(queue, lost[1]).status == "pending"
    config = {"ops": {"energy_retry_requests": {"config": {"tenants": ["acme", "nobody"]}}}}
    assert not run(dagster_instance, "energy_retry", config).success, (
        "one waits already, the other never uploaded"
    )

    config = {
        "ops": {
            "energy_cancel_requests": {
                "config": {"tenants": ["cone", "dune", "nobody"], "why": "it ended"}
            }
        }
    }
    assert not run(dagster_instance, "energy_cancel", config).success, "nobody has a request"
    assert [
        (now_of(queue, row).status, now_of(queue, row).reason) for row in (waiting, on_its_way)
    ] == [("cancelled", "it ended")] * 2


def test_a_workload_is_paused_and_goes_on_and_dead_letters_go_back(
    deployment: Deployment, dagster_instance: DagsterInstance
) -> None:
    controls = WorkloadControls(deployment)
    config = {"ops": {"energy_pause_workload": {"config": {"why": "a new image"}}}}
    done = run(dagster_instance, "energy_pause", config)
    assert done.success
    pause = controls.paused(ENERGY)
    assert pause is not None
    assert (pause.by, pause.why) == (f"run {done.run_id}", "a new image")
    assert run(dagster_instance, "energy_resume", None).success
    assert controls.paused(ENERGY) is None
    resumed, paused = uploads_observed(dagster_instance, "energy")
    assert paused == {
        "requests": "paused: none is claimed",
        "by": f"run {done.run_id}",
        "why": "a new image",
    }
    assert resumed["requests"] == "claimed again"
    # The launchpad asks for no configuration, and an empty reason is told as such.
    for given, shown in ((None, "paused in the UI"), ({"why": " "}, "no reason was given")):
        chosen = None if given is None else {"ops": {"energy_pause_workload": {"config": given}}}
        assert run(dagster_instance, "energy_pause", chosen).success
        pause = controls.paused(ENERGY)
        assert pause is not None
        assert pause.why == shown
    assert run(dagster_instance, "energy_resume", None).success
    assert run(dagster_instance, "energy_resume", None).success
    assert len(uploads_observed(dagster_instance, "energy")) == 5, "nothing was changed"

    deployment.sqs.send_message(
        QueueUrl=deployment.uploads_dead_letters_url, MessageBody="an event"
    )
    assert run(dagster_instance, "redrive_uploads", None).success
    back = deployment.sqs.receive_message(
        QueueUrl=deployment.uploads_queue_url, MaxNumberOfMessages=10
    )["Messages"]
    assert "an event" in [message["Body"] for message in back]


def test_a_workload_whose_file_is_gone_is_wound_down_by_a_run_and_no_other_is(
    queue: RequestQueue, dagster_instance: DagsterInstance
) -> None:
    open_, gone = pending(queue, "acme"), ids.workload_name("weather")
    queue.accept(
        gone,
        open_.tenant,
        open_.request,
        "uploads/acme/weather/u/manifest.json",
        "bridge",
        first=True,
    )
    config = {"ops": {"end_workload": {"config": {"workload": "energy"}}}}
    assert not run(dagster_instance, "wind_down_workload", config).success
    config = {"ops": {"end_workload": {"config": {"workload": "weather"}}}}
    assert run(dagster_instance, "wind_down_workload", config).success
    assert now_of(queue, open_).status == "pending"
    assert [row.status for row in queue.of_tenant(gone, open_.tenant)] == ["cancelled"]
