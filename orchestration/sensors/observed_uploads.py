"""Shows the uploads that were taken in on the workloads' asset ``uploads``."""

from dataclasses import asdict

from dagster import AssetObservation, DagsterInstance

from orchestration.private_dagster.chosen_partitions import asset_key
from tenantry.uploads.intake import Intake


def observe_uploads(instance: DagsterInstance, done: Intake) -> None:
    """Observe each workload's ``uploads``, where a round of intake found anything new."""
    for workload, its in done.of_workload.items():
        if its.accepted or its.refused:
            instance.report_runless_asset_event(
                AssetObservation(asset_key(workload, "uploads"), metadata=asdict(its))
            )
