"""``uploads``: what tenants hand in, from where the other assets begin."""

from dagster import AssetSpec

from assets.described import described
from orchestration.private_dagster.chosen_partitions import asset_key
from tenantry.workloads.schema import Workload


def uploads_asset(workload: Workload) -> AssetSpec:
    """``uploads``, which nothing here makes. The sensor ``new_uploads`` observes it, and so does
    who pauses the workload."""
    return AssetSpec(
        asset_key(workload.name, "uploads"),
        **described(
            workload,
            "uploads",
            "what tenants hand in. The sensor new_uploads takes each in, as a request or with the "
            "reason of its refusal.",
        ),
    )
