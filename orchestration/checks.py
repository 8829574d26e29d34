"""Asset checks a person can run for a tenant at any time; onboarding reports the same ones as it
goes."""

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    asset_check,
)

from orchestration.partitions import tenants_of
from orchestration.private_dagster.chosen_partitions import asset_key, metadata_value
from resources.tenantry_resource import TenantryResource
from tenantry.names import ids
from tenantry.onboarding.checks import CHECKS, Check
from tenantry.workloads.schema import Workload


def checks_of(workload: Workload) -> list[AssetChecksDefinition]:
    """The asset checks of a workload."""
    return [_asset_check(workload, check) for check in CHECKS if check.concerns(workload)]


def _asset_check(workload: Workload, check: Check) -> AssetChecksDefinition:
    @asset_check(
        asset=asset_key(workload.name, check.asset),
        name=check.name,
        description=check.description,
        partitions_def=tenants_of(workload.name),
    )
    def ask(context: AssetCheckExecutionContext, tenantry: TenantryResource) -> AssetCheckResult:
        op_context = context.op_execution_context
        tenants = [ids.tenant_id(key) for key in op_context.partition_keys]
        findings = {tenant: check.ask(tenantry.deployment, workload, tenant) for tenant in tenants}
        if len(findings) == 1:
            (finding,) = findings.values()
            shown = {name: metadata_value(name, value) for name, value in finding.facts.items()}
            return AssetCheckResult(
                passed=finding.passed, severity=AssetCheckSeverity.WARN, metadata=shown
            )
        failed = {
            tenant: {
                name: value for name, value in finding.facts.items() if not isinstance(value, bytes)
            }
            for tenant, finding in findings.items()
            if not finding.passed
        }
        return AssetCheckResult(
            passed=not failed,
            severity=AssetCheckSeverity.WARN,
            metadata={
                "tenants": len(findings),
                "failed": len(failed),
                "reasons": dict(list(failed.items())[:50]),
            },
        )

    return ask
