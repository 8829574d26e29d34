"""Asset checks a person can run for a tenant at any time, which onboarding reports as it goes; and
what a shadow answers otherwise."""

from datetime import UTC, datetime, timedelta

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AutomationCondition,
    asset_check,
)

from orchestration.partitions import tenants_of
from orchestration.private_dagster.chosen_partitions import asset_key, metadata_value
from resources.tenantry_resource import TenantryResource
from tenantry.hosting.shadows import has_shadow, report_of_shared
from tenantry.names import ids
from tenantry.onboarding.checks import CHECKS, Check
from tenantry.workloads.schema import Workload


def checks_of(workload: Workload) -> list[AssetChecksDefinition]:
    """The asset checks of a workload."""
    checks = [_asset_check(workload, check) for check in CHECKS if check.concerns(workload)]
    return [*checks, *([shadow_check(workload)] if has_shadow(workload) else [])]


def shadow_check(workload: Workload) -> AssetChecksDefinition:
    """``shadow_agrees``: whether a shadow answers as its endpoint does; looked at every hour."""

    @asset_check(
        asset=asset_key(workload.name, "serving_endpoint"),
        name="shadow_agrees",
        description="The answers of the shadow in the last hour are those that callers got.",
        automation_condition=AutomationCondition.on_cron("5 * * * *"),
    )
    def shadow_agrees(tenantry: TenantryResource) -> AssetCheckResult:
        now = datetime.now(UTC)
        report = report_of_shared(tenantry.deployment, workload, now - timedelta(hours=1), now)
        return AssetCheckResult(
            passed=not report.disagreement,
            severity=AssetCheckSeverity.WARN,
            metadata={
                "endpoint": report.endpoint,
                "shadow": workload.hosting.shadow.image_tag if workload.hosting.shadow else "",
                "compared": report.compared,
                "differing": report.differing,
                "failed": report.failed,
                "unmatched": report.unmatched,
                **(
                    {"disagreement": round(report.disagreement, 4)}
                    if report.disagreement is not None
                    else {}
                ),
            },
        )

    return shadow_agrees


def _asset_check(workload: Workload, check: Check) -> AssetChecksDefinition:
    @asset_check(
        asset=asset_key(workload.name, check.asset),
        name=check.name,
        description=check.description,
        partitions_def=tenants_of(workload.name),
    )
    def ask(context: AssetCheckExecutionContext, tenantry: TenantryResource) -> AssetCheckResult:
        op_context = context.op_execution_context
        tenants = [ids.model_id(key) for key in op_context.partition_keys]
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
