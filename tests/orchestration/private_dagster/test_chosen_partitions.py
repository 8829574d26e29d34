"""One run for a chosen set of tenants: each has its own status, in any event log."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from dagster import (
    AssetCheckKey,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetRecordsFilter,
    AssetSpec,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    DynamicPartitionsDefinition,
    Failure,
    MaterializeResult,
    RunsFilter,
    define_asset_job,
    multi_asset,
)
from dagster._core.storage.partition_status_cache import AssetPartitionStatus
from sqlalchemy.exc import SQLAlchemyError

from orchestration.private_dagster.chosen_partitions import (
    FAILURES_OF_TAG,
    RunReport,
    outputs_are_reported_already,
    plan,
)
from tenantry.names import ids

TENANTS = DynamicPartitionsDefinition(name="test_tenants")
KEY = AssetKey(["test", "training_data"])


@multi_asset(
    specs=[AssetSpec(KEY, skippable=True, partitions_def=TENANTS)],
    partitions_def=TENANTS,
    can_subset=True,
)
def packed(context: AssetExecutionContext) -> Iterator[MaterializeResult[None]]:
    chosen = [ids.tenant_id(name) for name in ("acme", "globex")]
    plan(context.op_execution_context, [KEY], chosen)
    seen_while_running.update(statuses(context.instance))
    with RunReport(context.op_execution_context, "test") as report:
        report.materialized("training_data", chosen[0], {"rows": 3, "facts": {"a": 1}}, "digest-1")
        if index := context.run.tags.get("breaks"):
            with broken(Path(index)), pytest.raises(SQLAlchemyError):
                report.flush()
        if context.run.tags.get("waits"):
            wait_until_written(context.instance)
        report.checked("training_data", "data_quality", chosen[0], {"gaps": 0}, passed=True)
        report.checked("training_data", "data_quality", chosen[1], {"gaps": 9}, passed=False)
        report.failed("training_data", chosen[1], "nine gaps")
    outputs_are_reported_already(context)
    if context.run.tags.get("fails"):
        raise Failure("globex failed", allow_retries=False)
    yield from ()


def wait_until_written(instance: DagsterInstance) -> None:
    """The first materialisation becomes visible without another event or the report's end."""
    deadline = time.monotonic() + 30
    while statuses(instance)["acme"] != AssetPartitionStatus.MATERIALIZED:
        assert time.monotonic() < deadline, "a single event was never written"
        time.sleep(0.05)
    seen_while_running.update(statuses(instance))


seen_while_running: dict[str, AssetPartitionStatus | None] = {}
DEFINITIONS = Definitions(assets=[packed], jobs=[define_asset_job("packed_job", selection=[KEY])])


def statuses(instance: DagsterInstance) -> dict[str, AssetPartitionStatus | None]:
    names = ["acme", "globex", "initech"]
    found = instance.get_status_by_partition(KEY, names, TENANTS)
    return {name: (found or {}).get(name) for name in names}


CHOSEN_STORAGE = {
    "telemetry": {"enabled": False},
    "storage": {
        "custom": {
            "module": "orchestration.private_dagster.dagster_storage",
            "class": "ChosenStorage",
            "config": {"base_dir": {"env": "DAGSTER_HOME"}},
        }
    },
}


@pytest.fixture(params=["Dagster's own event log", "batches"])
def instance(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DagsterInstance]:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    overrides = CHOSEN_STORAGE if request.param == "batches" else {"telemetry": {"enabled": False}}
    with DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        instance.add_dynamic_partitions("test_tenants", ["acme", "globex", "initech"])
        yield instance


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


def test_an_event_is_written_within_a_second_though_no_other_follows(
    instance: DagsterInstance,
) -> None:
    result = DEFINITIONS.resolve_job_def("packed_job").execute_in_process(
        instance=instance, tags={"waits": "yes"}
    )
    assert result.success
    assert seen_while_running["acme"] == AssetPartitionStatus.MATERIALIZED
    assert seen_while_running["globex"] == AssetPartitionStatus.IN_PROGRESS


def test_metadata_data_version_check_and_reason_of_a_tenant_are_its_own(
    instance: DagsterInstance,
) -> None:
    result = DEFINITIONS.resolve_job_def("packed_job").execute_in_process(instance=instance)
    assert result.success
    of_failed, record = instance.fetch_materializations(KEY, limit=10).records
    assert of_failed.asset_materialization is not None
    assert (
        of_failed.partition_key,
        of_failed.asset_materialization.metadata["not_made"].value,
    ) == ("globex", "nine gaps")
    assert (record.run_id, record.partition_key) == (result.run_id, "acme")
    assert record.asset_materialization is not None
    assert record.asset_materialization.metadata["rows"].value == 3
    assert (record.asset_materialization.tags or {})["dagster/data_version"] == "digest-1"
    (asset,) = instance.get_asset_records([KEY])
    assert asset.asset_entry.last_materialization_storage_id == of_failed.storage_id

    checks = instance.event_log_storage.get_asset_check_execution_history(
        AssetCheckKey(KEY, "data_quality"), limit=10
    )
    evaluations = [
        check.event.asset_check_evaluation
        for check in checks
        if check.event and check.run_id == result.run_id
    ]
    assert [(e.partition, e.passed, e.metadata["gaps"].value) for e in evaluations if e] == [
        ("globex", False, 9),
        ("acme", True, 0),
    ]
    kinds = [entry.dagster_event_type for entry in instance.all_logs(result.run_id)]
    assert kinds.count(DagsterEventType.ASSET_MATERIALIZATION_PLANNED) == 2 + 1, (
        "two tenants, and Dagster's own"
    )
    assert kinds.count(DagsterEventType.ASSET_MATERIALIZATION) == 2
    assert kinds.count(DagsterEventType.ASSET_CHECK_EVALUATION) == 2
    assert kinds[-1] == DagsterEventType.RUN_SUCCESS


def test_a_failed_tenants_partition_is_failed_though_the_run_went_well(
    instance: DagsterInstance,
) -> None:
    job = DEFINITIONS.resolve_job_def("packed_job")
    first = job.execute_in_process(instance=instance)
    assert first.success
    assert statuses(instance)["globex"] == AssetPartitionStatus.FAILED
    (stand_in,) = instance.get_runs(RunsFilter(tags={FAILURES_OF_TAG: first.run_id}))
    assert (stand_in.status, stand_in.job_name) == (DagsterRunStatus.FAILURE, "test_failed_tenants")
    said = [entry.user_message for entry in instance.all_logs(stand_in.run_id)]
    assert "globex: no training_data: nine gaps" in said

    assert job.execute_in_process(instance=instance).success
    reasons = [
        record.asset_materialization.metadata["not_made"].value
        for record in instance.fetch_materializations(KEY, limit=10).records
        if record.asset_materialization and record.partition_key == "globex"
    ]
    assert reasons == ["nine gaps"] * 2, "each failure's reason is the latest on the page"


def test_a_tenant_that_has_its_asset_keeps_it_in_sight_beside_the_reason(
    instance: DagsterInstance,
) -> None:
    made = AssetMaterialization(KEY, partition="globex", metadata={"rows": 7})
    instance.report_runless_asset_event(made)
    result = DEFINITIONS.resolve_job_def("packed_job").execute_in_process(instance=instance)
    assert result.success
    assert statuses(instance)["globex"] == AssetPartitionStatus.FAILED
    of_globex = AssetRecordsFilter(asset_key=KEY, asset_partitions=["globex"])
    (latest,) = instance.fetch_materializations(of_globex, limit=10).records
    assert latest.asset_materialization is not None
    assert latest.asset_materialization.metadata["rows"].value == 7
    (observed,) = instance.fetch_observations(of_globex, limit=10).records
    assert observed.asset_observation is not None
    assert observed.asset_observation.metadata["not_made"].value == "nine gaps"


@pytest.mark.parametrize("instance", ["batches"], indirect=True)
def test_what_cannot_be_written_waits_and_is_written_once(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    tags = {"breaks": str(tmp_path / "history" / "runs" / "index.db")}
    result = DEFINITIONS.resolve_job_def("packed_job").execute_in_process(
        instance=instance, tags=tags
    )
    assert result.success
    kinds = [entry.dagster_event_type for entry in instance.all_logs(result.run_id)]
    assert kinds.count(DagsterEventType.ASSET_MATERIALIZATION) == 2
    assert len(instance.fetch_materializations(KEY, limit=10).records) == 2


@contextmanager
def broken(index: Path) -> Iterator[None]:
    """Remove a table from the event log's index within the block, so that writes fail."""
    with closing(sqlite3.connect(index, timeout=30)) as connection:
        connection.execute("ALTER TABLE asset_keys RENAME TO hidden")
        yield
        connection.execute("ALTER TABLE hidden RENAME TO asset_keys")
