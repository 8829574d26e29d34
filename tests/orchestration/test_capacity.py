"""The capacity asset and its schedules, on a real local cloud."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from dagster import AssetCheckKey, AssetKey, DagsterInstance, build_schedule_context

from orchestration.definitions import defs
from orchestration.jobs import jobs_of
from orchestration.private_dagster.chosen_partitions import asset_key
from orchestration.schedules import scheduled_of
from tenantry.aws.deployment import Deployment
from tenantry.capacity.registration import deregister, registered
from tenantry.capacity.scaled_endpoints import scaled_endpoint
from tenantry.capacity.timetable import Bounds, bounds_at
from tenantry.hosting.endpoints import Endpoint, ensure_endpoint
from tenantry.hosting.shapes.catalogue import route_in
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.hosting.shapes.single_model import SINGLE_MODEL
from tenantry.models.artifacts import place
from tenantry.names import ids
from tenantry.names.tiers import Own, Shared
from tenantry.shown.capacity_view import CHECK
from tenantry.tenants.unused import unused_endpoints
from tenantry.workloads.capacity import EndpointCapacity
from tenantry.workloads.schema import Workload
from tests.conftest import TrainedForecast
from tests.orchestration.running import run
from tests.tenantry.onboarding.registration import trained_version

JOB = "energy_endpoint_capacity"
KEY = asset_key("energy", "endpoint_capacity")


def shown(instance: DagsterInstance, key: AssetKey = KEY) -> dict[str, Any]:
    """The metadata of the latest materialisation."""
    event = instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def passed(instance: DagsterInstance) -> tuple[bool, Any]:
    """Whether the latest check passed, and what differed."""
    found = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [AssetCheckKey(KEY, CHECK)]
    )
    (record,) = found.values()
    assert record.event is not None
    result = record.event.dagster_event
    assert result is not None
    evaluation: Any = result.event_specific_data
    return evaluation.passed, evaluation.metadata["differed"].value


def test_the_asset_registers_the_file_shows_it_and_mends_what_differs(
    serving: tuple[Deployment, Workload, Endpoint], dagster_instance: DagsterInstance
) -> None:
    deployment, energy, endpoint = serving
    of = scaled_endpoint(deployment.prefix, energy, Shared("bridge"), "real_time")
    assert run(dagster_instance, JOB, None).success
    bounds = bounds_at(of.section, datetime.now(UTC), of.most)
    first = shown(dagster_instance)
    assert (first["endpoint"], first["minimum"], first["maximum"]) == (
        endpoint.name,
        bounds.minimum,
        bounds.maximum,
    )
    assert first["instances"] == bounds.minimum
    assert "data:image/png;base64," in first["capacity and demand"]
    assert passed(dagster_instance) == (True, [])
    there = registered(deployment, of)
    assert set(there.actions) == {"tenantry-business_hours", "tenantry-night"}
    assert set(there.policies) == {"tenantry-target_tracking-cpu"}

    deployment.auto_scaling.delete_scaling_policy(
        PolicyName="tenantry-target_tracking-cpu",
        ServiceNamespace="sagemaker",
        ResourceId=of.resource,
        ScalableDimension="sagemaker:variant:DesiredInstanceCount",
    )
    assert run(dagster_instance, JOB, None).success
    assert passed(dagster_instance) == (False, ["policy tenantry-target_tracking-cpu was missing"])
    assert set(registered(deployment, of).policies) == {"tenantry-target_tracking-cpu"}
    assert run(dagster_instance, JOB, None).success
    assert passed(dagster_instance) == (True, [])


def test_an_operators_number_is_given_and_ended_in_the_ui(
    serving: tuple[Deployment, Workload, Endpoint], dagster_instance: DagsterInstance
) -> None:
    def materialize(**config: Any) -> dict[str, Any]:
        ops = {"energy__endpoint_capacity": {"config": config}}
        assert run(dagster_instance, JOB, {"ops": ops}).success
        return shown(dagster_instance)

    held = materialize(instances=2, hours=0.5)
    assert (held["minimum"], held["maximum"], held["instances"]) == (2, 2, 2)
    assert held["override"].startswith("2 until ")
    assert materialize()["override"] == held["override"], "the schedules' runs keep it"
    ended = materialize(end_override=True)
    assert "override" not in ended
    assert ended["minimum"] == 1


def test_a_silo_tenants_endpoint_is_a_row_and_takes_an_operators_number(
    serving: tuple[Deployment, Workload, Endpoint],
    dagster_instance: DagsterInstance,
    trained_forecasts: list[TrainedForecast],
) -> None:
    deployment, energy, endpoint = serving
    acme = Own(ids.tenant_id("acme"))

    def materialize(**config: Any) -> bool:
        ops = {"energy__endpoint_capacity": {"config": config}}
        return run(dagster_instance, JOB, {"ops": ops}).success

    assert not materialize(tenant="acme", instances=2), "it has no endpoint of its own"
    model = trained_version(
        deployment, acme.tenant, 1, trained_forecasts[0].archive, {}, tier="silo"
    )
    place(deployment, model, acme)
    route = route_in(deployment.prefix, energy, "silo", model.tenant, model.version)
    own = ensure_endpoint(deployment, energy, acme, SINGLE_MODEL, serves=[route])
    assert materialize(tenant="acme", instances=2)
    first = shown(dagster_instance)
    assert (first["endpoint"], first["other_endpoints"]) == (endpoint.name, 1)
    assert "override" not in first, "the shared endpoint has no operator's number"
    (row,) = first["other endpoints"].records
    values = row.data
    assert (values["endpoint"], values["minimum"], values["instances"]) == (own.name, 2, 2)
    assert values["override"].startswith("2 until ")
    assert passed(dagster_instance) == (True, [])
    assert not materialize(tenant="acme"), "a tenant alone says nothing"
    assert materialize(tenant="acme", end_override=True)
    (row,) = shown(dagster_instance)["other endpoints"].records
    assert (row.data["minimum"], row.data["override"]) == (1, "")
    of = scaled_endpoint(deployment.prefix, energy, acme, "real_time")
    deployment.auto_scaling.register_scalable_target(
        ServiceNamespace="sagemaker",
        ResourceId=of.resource,
        ScalableDimension="sagemaker:variant:DesiredInstanceCount",
        MinCapacity=1,
        MaxCapacity=9,
    )
    assert not materialize(instances=600), "the shared endpoint cannot have so many"
    assert registered(deployment, of).bounds == Bounds(1, 1), "the others follow the file anyway"
    assert materialize(end_override=True)
    deregister(deployment, own.name)
    deployment.sagemaker.delete_endpoint(EndpointName=own.name)


def test_changes_of_one_name_at_two_times_have_two_schedules(energy: Workload) -> None:
    section = EndpointCapacity.model_validate(
        {
            "minimum": 1,
            "maximum": 2,
            "timetable": [{"name": "night", "cron": "0 22 * * *", "minimum": 1}],
        }
    )
    serving = energy.serving.model_copy(update={"silo_capacity": section})
    other = energy.model_copy(update={"serving": serving})
    names = [one.name for one in scheduled_of(other, jobs_of(other)) if one.job.name == JOB]
    assert f"{JOB}_night_of_silo" in names
    assert len(names) == len(set(names)) == 4


@pytest.mark.parametrize("name", ["business_hours", "night", "hourly"])
def test_each_change_of_the_timetable_and_each_hour_has_a_run(
    name: str, energy: Workload, dagster_instance: DagsterInstance
) -> None:
    schedule = defs.resolve_schedule_def(f"{JOB}_{name}")
    assert schedule.job_name == JOB
    due = datetime(2026, 3, 12, 7, tzinfo=UTC)
    with build_schedule_context(instance=dagster_instance, scheduled_execution_time=due) as context:
        (request,) = schedule.evaluate_tick(context).run_requests or ()
    assert request.run_config == {}
    assert len([one for one in scheduled_of(energy, jobs_of(energy)) if one.job.name == JOB]) == 3


def test_models_are_loaded_ahead_of_the_morning_by_a_schedule(
    serving: tuple[Deployment, Workload, Endpoint], dagster_instance: DagsterInstance
) -> None:
    _, energy, _ = serving
    section = energy.serving.prewarming
    assert section is not None
    schedule = defs.resolve_schedule_def("energy_prewarming_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == (section.cron, section.timezone)
    assert schedule.job_name == "energy_prewarming"
    assert run(dagster_instance, "energy_prewarming", None).success
    found = shown(dagster_instance, asset_key("energy", "prewarmed_models"))
    assert (found["chosen"], found["failed"], found["untried"]) == (0, 0, 0)

    without = energy.serving.model_copy(update={"prewarming": None})
    never = energy.model_copy(update={"serving": without})
    assert "prewarm" not in str([job.name for job in jobs_of(never).all])
    assert "prewarm" not in str([one.name for one in scheduled_of(never, jobs_of(never))])


def test_what_serves_nobody_is_looked_for_every_hour(
    serving: tuple[Deployment, Workload, Endpoint], dagster_instance: DagsterInstance
) -> None:
    deployment, energy, endpoint = serving
    schedule = defs.resolve_schedule_def("energy_remove_unused_schedule")
    assert (schedule.job_name, schedule.cron_schedule) == ("energy_remove_unused", "50 * * * *")
    pool = ensure_endpoint(deployment, energy, Shared("pool"), MULTI_MODEL)
    assert run(dagster_instance, "energy_remove_unused", None).success
    (found,) = unused_endpoints(deployment, energy, datetime.now(UTC))
    assert found.name == pool.name != endpoint.name, "it is kept for some days"
