"""One run for a chosen set of tenants: each has a status of its own."""

from collections.abc import Iterator

import pytest
from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetSpec,
    DagsterInstance,
    Definitions,
    DynamicPartitionsDefinition,
    Failure,
    MaterializeResult,
    define_asset_job,
    multi_asset,
)
from dagster._core.storage.partition_status_cache import AssetPartitionStatus

from assets.chosen_partitions import RunReport, outputs_are_reported_already, plan
from resources import keys

TENANTS = DynamicPartitionsDefinition(name="test_tenants")
KEY = AssetKey(["test", "training_data"])


@multi_asset(specs=[AssetSpec(KEY, skippable=True, partitions_def=TENANTS)], partitions_def=TENANTS, can_subset=True)
def packed(context: AssetExecutionContext) -> Iterator[MaterializeResult[None]]:
    chosen = [keys.tenant_id(name) for name in ("acme", "globex")]
    plan(context.op_execution_context, [KEY], chosen)
    seen_while_running.update(statuses(context.instance))
    RunReport(context.op_execution_context, "test").materialized(
        "training_data", chosen[0], {"rows": 3, "facts": {"a": 1}}, "digest-1"
    )
    RunReport(context.op_execution_context, "test").checked(
        "training_data", "data_quality", chosen[0], {"gaps": 0}, passed=True
    )
    outputs_are_reported_already(context)
    if context.run.tags.get("fails"):
        raise Failure("globex failed", allow_retries=False)
    yield from ()


seen_while_running: dict[str, AssetPartitionStatus | None] = {}
DEFINITIONS = Definitions(assets=[packed], jobs=[define_asset_job("packed_job", selection=[KEY])])


def statuses(instance: DagsterInstance) -> dict[str, AssetPartitionStatus | None]:
    names = ["acme", "globex", "initech"]
    found = instance.get_status_by_partition(KEY, names, TENANTS)
    return {name: (found or {}).get(name) for name in names}


@pytest.fixture
def instance(dagster_instance: DagsterInstance) -> DagsterInstance:
    dagster_instance.add_dynamic_partitions("test_tenants", ["acme", "globex", "initech"])
    return dagster_instance


def test_each_chosen_tenant_is_in_progress_then_materialized_or_failed_and_others_are_untouched(
    instance: DagsterInstance,
) -> None:
    job = DEFINITIONS.resolve_job_def("packed_job")
    result = job.execute_in_process(instance=instance, tags={"fails": "yes"}, raise_on_error=False)
    assert not result.success
    assert seen_while_running == {
        "acme": AssetPartitionStatus.IN_PROGRESS,
        "globex": AssetPartitionStatus.IN_PROGRESS,
        "initech": None,
    }
    assert statuses(instance) == {
        "acme": AssetPartitionStatus.MATERIALIZED,
        "globex": AssetPartitionStatus.FAILED,
        "initech": None,
    }


def test_metadata_data_version_and_check_of_a_tenant_are_its_own(instance: DagsterInstance) -> None:
    result = DEFINITIONS.resolve_job_def("packed_job").execute_in_process(instance=instance)
    assert result.success
    (materialization,) = result.get_asset_materialization_events()
    assert materialization.partition == "acme"
    event = materialization.step_materialization_data.materialization
    assert event.metadata["rows"].value == 3
    assert (event.tags or {})["dagster/data_version"] == "digest-1"
    (check,) = result.get_asset_check_evaluations()
    assert (check.partition, check.check_name, check.passed) == ("acme", "data_quality", True)
