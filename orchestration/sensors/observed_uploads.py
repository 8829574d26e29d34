"""Shows the uploads that were taken in on the workloads' asset ``uploads``."""

from collections.abc import Mapping
from typing import Any, Final

from dagster import AssetObservation, DagsterInstance

from orchestration.private_dagster.chosen_partitions import asset_key, metadata_value
from tenantry.uploads.intake import Intake, WorkloadIntake

_MOST_REASONS: Final = 50


def observe_uploads(instance: DagsterInstance, done: Intake) -> None:
    """Observe each workload's ``uploads``, where a round of intake found anything new."""
    for workload, its in done.of_workload.items():
        if its.accepted or its.refused:
            instance.report_runless_asset_event(
                AssetObservation(asset_key(workload, "uploads"), metadata=_shown(its))
            )


def _shown(its: WorkloadIntake) -> Mapping[str, Any]:
    """The counts, and why tenants were refused: one that was never accepted has no partition whose
    page could say so."""
    shown: dict[str, Any] = {
        "accepted": its.accepted,
        "known_already": its.known_already,
        "refused": its.refused,
    }
    if its.reasons:
        some = dict(list(its.reasons.items())[:_MOST_REASONS])
        shown["why_refused"] = metadata_value("why_refused", some)
    return shown
