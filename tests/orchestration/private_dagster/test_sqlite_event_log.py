"""The event log with kept engines has the same content as Dagster's own."""

from pathlib import Path

import pytest
from dagster import AssetKey, AssetMaterialization, DagsterInstance, asset, materialize

from orchestration.private_dagster.sqlite_event_log import KeptEngineSqliteEventLogStorage

CHOSEN = {
    "telemetry": {"enabled": False},
    "storage": {
        "custom": {
            "module": "orchestration.private_dagster.dagster_storage",
            "class": "ChosenStorage",
            "config": {"base_dir": {"env": "DAGSTER_HOME"}},
        }
    },
}


@asset
def made() -> int:
    return 1


def test_events_of_many_runs_are_kept_and_read_by_another_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with DagsterInstance.local_temp(str(tmp_path), overrides=CHOSEN) as instance:
        assert isinstance(instance.event_log_storage, KeptEngineSqliteEventLogStorage)
        runs = [materialize([made], instance=instance).run_id for _ in range(3)]
        instance.report_runless_asset_event(AssetMaterialization("made", metadata={"by": "hand"}))
    with DagsterInstance.local_temp(
        str(tmp_path), overrides={"telemetry": {"enabled": False}}
    ) as other:
        assert not isinstance(other.event_log_storage, KeptEngineSqliteEventLogStorage)
        records = other.fetch_materializations(AssetKey("made"), limit=10).records
        assert [record.run_id for record in records] == ["", *reversed(runs)]
        assert all(other.all_logs(run) for run in runs)
