"""The shared model of a workload: made from the current data of all tenants, and asked for as any
other model, by a request of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tenantry.models.registry import Champion, ModelRegistry
from tenantry.names import ids, s3_keys
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import OPEN, SHARED_GROUP, Request, now
from tenantry.uploads.current_data import current_data_of
from tenantry.uploads.training_data import TrainingData
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment


@dataclass(frozen=True)
class TenantData:
    """The data of one tenant, among those that a shared model is made from."""

    tenant: ids.ModelId
    data: TrainingData


def data_of_all(deployment: Deployment, workload: ids.WorkloadName) -> list[TenantData]:
    """The current data of every tenant of a workload, by tenant."""
    tenants = list(_tenants_with_data(deployment, workload))
    found = current_data_of(deployment, workload, tenants)
    return [TenantData(tenant, found[tenant].data) for tenant in tenants if tenant in found]


def served(deployment: Deployment, workload: Workload) -> list[Champion]:
    """What each tenant's model is answered by: its own champion, or for each with data the one of
    the shared model."""
    name, registry = ids.workload_name(workload.name), ModelRegistry(deployment)
    if workload.shared_model is None:
        return registry.champions(name)
    shared = registry.champion(ids.SHARED, name)
    if shared is None:
        return []
    return [replace(shared, tenant=one.tenant) for one in data_of_all(deployment, name)]


def joined(request: Request, every: list[TenantData]) -> TrainingData:
    """The data of all tenants as those of one model. Its files are theirs."""
    if request.version is None:
        raise ValueError("a request without a version makes no model")
    return TrainingData(
        version=request.version,
        files=(),
        rows=sum(one.data.rows for one in every),
        fingerprint=_digest(every),
        facts={"tenants": len(every)},
    )


def ask_for_shared_model(
    deployment: Deployment, workload: Workload, *, by: str, why: str
) -> Request | None:
    """Ask for the shared model of the present data. A repeated call asks for nothing new.

    Args:
        deployment: the tables and the bucket.
        workload: its ``shared_model`` section says how many tenants it takes.
        by: the author, for the request's history.
        why: for the history.

    Returns:
        The request, new or known; None without enough tenants' data, and while one is on its way.
    """
    section, name = workload.shared_model, ids.workload_name(workload.name)
    if section is None:
        return None
    queue = RequestQueue(deployment, by=by)
    if any(row.status in OPEN for row in queue.of_tenant(name, ids.SHARED)):
        return None
    every = data_of_all(deployment, name)
    if len(every) < section.fewest_tenants:
        return None
    request = ids.request_id_of(name, ids.SHARED, f"{workload.recipe} {_digest(every)}")
    queue.accept(
        name,
        ids.SHARED,
        request,
        "",
        "pool",
        first=ModelRegistry(deployment).champion(ids.SHARED, name) is None,
        why=why,
        uploaded=now(),
        group=SHARED_GROUP,
        notify_owner=False,
    )
    return queue.get(name, ids.SHARED, request)


def _digest(every: list[TenantData]) -> str:
    said = json.dumps([[one.tenant, one.data.version] for one in every])
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def _tenants_with_data(deployment: Deployment, workload: ids.WorkloadName) -> Iterator[ids.ModelId]:
    root = s3_keys.training_data_root(workload)
    pages = deployment.s3.get_paginator("list_objects_v2").paginate(
        Bucket=deployment.data_bucket, Prefix=root, Delimiter="/"
    )
    for page in pages:
        for folder in page.get("CommonPrefixes", []):
            tenant = folder["Prefix"].removeprefix(root).rstrip("/")
            if tenant != ids.SHARED:
                yield ids.tenant_id(tenant)
