"""``fleet``: all tenants of a workload in one table, with checks over all of them."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from dagster import (
    AssetCheckKey,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetsDefinition,
    DagsterInstance,
    MaterializeResult,
    asset,
)

from assets.described import described
from orchestration.private_dagster.check_results import latest_results
from orchestration.private_dagster.chosen_partitions import asset_key, metadata_value
from resources.tenantry_resource import TenantryResource
from tenantry.onboarding.checks import CHECKS as CHECKS_OF_A_TENANT
from tenantry.shown.fleet_view import CHECKS, fleet_checks, fleet_metadata
from tenantry.tenants.fleet import fleet_of
from tenantry.workloads.schema import Workload


def fleet_asset(workload: Workload) -> AssetsDefinition:
    """``fleet``, brought up to date every hour by the schedule, and by hand at any time."""
    key = asset_key(workload.name, "fleet")

    @asset(
        key=key,
        deps=[asset_key(workload.name, "endpoint_registration")],
        check_specs=[
            AssetCheckSpec(name, asset=key, description=description)
            for name, description in CHECKS.items()
        ],
        **described(workload, "fleet", "scores, ages, waits, failures and costs of all tenants."),
    )
    def fleet(
        context: AssetExecutionContext, tenantry: TenantryResource
    ) -> Iterator[MaterializeResult[Any]]:
        found = fleet_of(tenantry.deployment, workload, datetime.now(UTC))
        yield MaterializeResult(
            metadata=_shown(fleet_metadata(found)),
            check_results=[
                AssetCheckResult(
                    check_name=check.name,
                    passed=check.passed,
                    severity=AssetCheckSeverity.WARN,
                    metadata=_shown(check.facts),
                )
                for check in fleet_checks(found, _results(context.instance, workload))
            ],
        )

    return fleet


def _results(instance: DagsterInstance, workload: Workload) -> dict[str, Mapping[str, bool]]:
    """Whether each tenant passed each check of the workload's assets, by the check's name."""
    keys = [
        AssetCheckKey(asset_key(workload.name, check.asset), check.name)
        for check in CHECKS_OF_A_TENANT
        if check.concerns(workload)
    ]
    return {key.name: found for key, found in latest_results(instance, keys).items()}


def _shown(values: Any) -> dict[str, Any]:
    return {name: metadata_value(name, value) for name, value in values.items()}
