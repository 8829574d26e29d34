"""Runs of any job whose process is gone are failed; live runs are left alone."""

from __future__ import annotations

import time

import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.storage.tags import HIDDEN_TAG_PREFIX

from infrastructure.local_cloud import LocalCloud
from orchestration.definitions import defs
from orchestration.launcher import fail_lost_runs
from resources.run_heartbeat import HEARTBEAT_TAG, last_heartbeat, run_heartbeat
from tenantry.aws.deployment import Deployment
from tenantry.workloads.schema import Workload
from tests.orchestration.running import run


def left_behind(instance: DagsterInstance, silent_for: float) -> DagsterRun:
    """A run in the state that a killed process leaves."""
    job = defs.resolve_job_def("energy_endpoint_capacity")
    made = instance.create_run_for_job(job, tags={HEARTBEAT_TAG: f"{time.time() - silent_for:.0f}"})
    instance.handle_run_event(
        made.run_id, DagsterEvent(DagsterEventType.RUN_START.value, made.job_name)
    )
    return made


def test_a_silent_run_is_failed_and_a_live_one_goes_on(dagster_instance: DagsterInstance) -> None:
    silent, alive = left_behind(dagster_instance, 100), left_behind(dagster_instance, 1)
    assert fail_lost_runs(dagster_instance, lost_run_seconds=60) == 1
    status = {made.run_id: made.status for made in dagster_instance.get_runs()}
    assert status == {
        silent.run_id: DagsterRunStatus.FAILURE,
        alive.run_id: DagsterRunStatus.STARTED,
    }
    assert fail_lost_runs(dagster_instance, lost_run_seconds=60) == 0


def test_the_heartbeat_of_an_earlier_release_counts_and_this_ones_is_hidden() -> None:
    assert last_heartbeat({}) is None
    assert last_heartbeat({"tenantry/alive": "7"}) == 7.0
    assert last_heartbeat({"tenantry/alive": "7", HEARTBEAT_TAG: "9"}) == 9.0
    assert HEARTBEAT_TAG.startswith(HIDDEN_TAG_PREFIX)


def test_a_run_of_any_job_has_a_heartbeat(
    deployment: Deployment,
    local_cloud: LocalCloud,
    dagster_instance: DagsterInstance,
    energy: Workload,
) -> None:
    began = time.time()
    done = run(
        dagster_instance,
        "energy_batch_predictions",
        {"ops": {"energy_predict_everyone": {"config": {}}}},
    )
    (made,) = dagster_instance.get_runs()
    assert done.run_id == made.run_id
    assert float(made.tags[HEARTBEAT_TAG]) >= began - 1


def test_a_database_that_is_away_for_a_moment_does_not_make_a_run_seem_dead(
    dagster_instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AwayOnce:
        """Dagster's instance, whose database refuses the second tag."""

        tags = 0

        def add_run_tags(self, run_id: str, tags: dict[str, str]) -> None:
            self.tags += 1
            if self.tags == 2:
                raise ConnectionError("the database is failing over")
            dagster_instance.add_run_tags(run_id, tags)

    monkeypatch.setattr("resources.run_heartbeat.HEARTBEAT_SECONDS", 0.1)
    made = left_behind(dagster_instance, 100)
    flaky = AwayOnce()
    with run_heartbeat(flaky, made.run_id):  # type: ignore[arg-type]  # all it needs of an instance
        deadline = time.monotonic() + 10
        while flaky.tags < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert flaky.tags >= 4
