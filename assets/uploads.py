"""``uploads``: the tenants' files, from which the other assets begin."""

from dagster import AssetSpec

from assets.described import described
from orchestration.private_dagster.chosen_partitions import asset_key
from tenantry.workloads.schema import Workload


def uploads_asset(workload: Workload) -> AssetSpec:
    """``uploads``, which nothing here makes. The sensor ``new_uploads`` observes it. An operator
    who pauses the workload adds an observation, too."""
    return AssetSpec(
        asset_key(workload.name, "uploads"),
        **described(
            workload,
            "uploads",
            "what tenants hand in. The sensor new_uploads takes each in, as a request or with the "
            "reason of its refusal.",
        ),
    )
