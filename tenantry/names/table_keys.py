"""Every key of the tables, built from validated ids. Nothing else formats one."""

from __future__ import annotations

from typing import Final

from tenantry.names.ids import RequestId, TenantId, Version, WorkloadName


def table_partition(tenant: TenantId, workload: WorkloadName) -> str:
    """Partition key of both tables; the tenant leads, so that ``dynamodb:LeadingKeys`` can hold to
    it."""
    return f"{tenant}#{workload}"


def history_partition(tenant: TenantId, workload: WorkloadName) -> str:
    """Partition key, in the requests table, of what no longer fits into the histories of a tenant's
    requests."""
    return f"{table_partition(tenant, workload)}#history"


def history_item(request: RequestId, since: str) -> str:
    """Sort key of a request's changes from a moment on; without a moment, what all of them begin
    with."""
    return f"{request}#{since}"


def upload_counts_partition(tenant: TenantId, workload: WorkloadName) -> str:
    """Partition key, in the requests table, of how many uploads a tenant handed in on a day."""
    return f"{table_partition(tenant, workload)}#uploads"


ACCOUNT_PARTITION: Final = "_account"
"""Partition key, in the requests table, of what all workloads share; no tenant's id begins with
``_``."""


def workload_partition(workload: WorkloadName) -> str:
    """Partition key, in the requests table, of what belongs to a workload rather than to a
    tenant."""
    return f"_workload#{workload}"


def version_item(version: Version) -> str:
    """Sort key of a version in the models table."""
    return f"version#{version}"


def queue_key(workload: WorkloadName, status: str) -> str:
    """Partition key of the requests table's index of open requests."""
    return f"{workload}#{status}"
