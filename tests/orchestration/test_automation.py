"""The endpoint follows the YAML by itself."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dagster import (
    AssetMaterialization,
    AssetSelection,
    AutomationCondition,
    AutomationConditionSensorDefinition,
    DagsterInstance,
    evaluate_automation_conditions,
)

from orchestration.definitions import defs
from orchestration.private_dagster.chosen_partitions import asset_key
from resources import tenantry_resource

ENDPOINT = asset_key("energy", "serving_endpoint")
ONLY = AssetSelection.assets(ENDPOINT)


def test_a_missing_endpoint_is_asked_for_once_at_the_first_look(
    dagster_instance: DagsterInstance,
) -> None:
    assert (
        defs.resolve_asset_graph().get(ENDPOINT).automation_condition
        != AutomationCondition.on_missing()
    )
    first = evaluate_automation_conditions(
        defs=defs, instance=dagster_instance, asset_selection=ONLY
    )
    assert first.get_num_requested(ENDPOINT) == 1
    again = evaluate_automation_conditions(
        defs=defs, instance=dagster_instance, asset_selection=ONLY, cursor=first.cursor
    )
    assert again.get_num_requested(ENDPOINT) == 0


def test_one_that_could_not_be_made_is_asked_for_again_after_some_minutes(
    dagster_instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = datetime(2026, 3, 2, 12, 1, tzinfo=UTC)
    first = evaluate_automation_conditions(
        defs=defs, instance=dagster_instance, asset_selection=ONLY, evaluation_time=at
    )
    assert first.get_num_requested(ENDPOINT) == 1
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")  # without credentials nothing is asked twice
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    tenantry_resource._deployment.cache_clear()  # an earlier test may have reached the cloud
    job = defs.resolve_implicit_global_asset_job_def()
    failed = job.execute_in_process(
        instance=dagster_instance, asset_selection=[ENDPOINT], raise_on_error=False
    )
    assert not failed.success
    cursor, asked = first.cursor, []
    for minutes in (1, 3, 5, 7, 10):
        result = evaluate_automation_conditions(
            defs=defs,
            instance=dagster_instance,
            asset_selection=ONLY,
            cursor=cursor,
            evaluation_time=at + timedelta(minutes=minutes),
        )
        cursor = result.cursor
        asked.append(result.get_num_requested(ENDPOINT))
    assert asked == [0, 0, 1, 0, 1]


def test_capacity_is_asked_for_with_its_endpoint_and_after_each_update_of_it(
    dagster_instance: DagsterInstance,
) -> None:
    capacity = asset_key("energy", "endpoint_capacity")
    both = AssetSelection.assets(ENDPOINT, capacity)

    def look(cursor: Any) -> tuple[int, int, Any]:
        found = evaluate_automation_conditions(
            defs=defs, instance=dagster_instance, asset_selection=both, cursor=cursor
        )
        return (found.get_num_requested(ENDPOINT), found.get_num_requested(capacity), found.cursor)

    *asked, cursor = look(None)
    assert asked == [1, 1], "in one run"
    *asked, cursor = look(cursor)
    assert asked == [0, 0]
    for key in (ENDPOINT, capacity):
        dagster_instance.report_runless_asset_event(AssetMaterialization(key))
    *asked, cursor = look(cursor)
    assert asked == [0, 0], "it was just registered"
    dagster_instance.report_runless_asset_event(AssetMaterialization(ENDPOINT))
    *asked, cursor = look(cursor)
    assert asked == [0, 1], "the endpoint was updated"
    *asked, cursor = look(cursor)
    assert asked == [0, 0]


def test_the_sensor_looks_after_endpoints_and_their_capacity() -> None:
    sensor = defs.resolve_sensor_def("endpoints_follow_the_yaml")
    assert isinstance(sensor, AutomationConditionSensorDefinition)
    watched = sensor.asset_selection.resolve(defs.resolve_asset_graph())
    assert {"/".join(key.path) for key in watched} == {
        "churn/serving_endpoint",
        "churn/endpoint_capacity",
        "energy/serving_endpoint",
        "energy/endpoint_capacity",
        "portraits/serving_endpoint",
        "portraits/endpoint_capacity",
        "portraits/asynchronous_endpoint",
        "portraits/asynchronous_capacity",
    }
