"""The tenants of a workload and the state of each, read page by page: there may be ten thousand."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, islice
from typing import TYPE_CHECKING, Final

from tenantry.models.registry import Champion, ModelRegistry
from tenantry.names import ids
from tenantry.requests.newest import newest_of
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Status, now
from tenantry.serving.moments import data_age
from tenantry.training.shared_model import served
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

PAGE: Final = 100  # tenants whose versions one call reads
_CALLS_AT_ONCE: Final = 8
NOT_WELL: Final[tuple[Status, ...]] = ("failed", "refused", "dead_lettered")


@dataclass(frozen=True)
class TenantStanding:
    """The state of a tenant: its champion and that one's score, the end of its data, and the status
    of its newest request."""

    tenant: ids.ModelId
    workload: ids.WorkloadName
    version: ids.Version | None
    metric: str
    score: float | None
    data_end: datetime | None
    usable_until: datetime | None
    request: ids.RequestId | None
    status: Status | None

    @property
    def too_old(self) -> bool:
        """Whether its data ended too long ago for its model to predict this moment."""
        return self.usable_until is not None and self.usable_until <= now()


@dataclass(frozen=True)
class Page:
    """Some tenants; ``more`` tells whether others come after them."""

    tenants: Sequence[TenantStanding]
    more: bool


def roster(deployment: Deployment, workload: Workload, *, after: str, most: int) -> Iterator[Page]:
    """The tenants that a model answers for, or that have an unfinished or dead-lettered request,
    by their ids.

    Args:
        deployment: the tables.
        workload: whose tenants.
        after: only those whose ids come after this one.
        most: how many.

    Yields:
        Pages of at most ``PAGE`` tenants, read as they are taken.
    """
    name = ids.workload_name(workload.name)
    queue = RequestQueue(deployment)
    waiting = [*queue.open(name), *queue.with_status(name, "dead_lettered")]
    without = sorted({row.tenant for row in waiting if row.tenant > after})
    champions = _champions(deployment, workload, after)
    found = heapq.merge(
        ((champion.tenant, champion) for champion in champions),
        ((tenant, None) for tenant in without),
        key=lambda pair: pair[0],
    )
    each = (
        (tenant, next((champion for _, champion in of_one if champion), None))
        for tenant, of_one in groupby(found, key=lambda pair: pair[0])
    )
    coming = next(each, None)
    with ThreadPoolExecutor(_CALLS_AT_ONCE) as pool:
        while coming is not None and most:
            page = [coming, *islice(each, min(PAGE, most) - 1)]
            coming, most = next(each, None), most - len(page)
            yield Page(_standings(queue, workload, page, pool), coming is not None)


def _champions(deployment: Deployment, workload: Workload, after: str) -> Iterator[Champion]:
    """What answers for each model of a tenant, by its id, and the model that all share."""
    name, registry = ids.workload_name(workload.name), ModelRegistry(deployment)
    own = registry.each_champion(name, after=after)
    if workload.shared_model is None:
        return own
    of_all = (one for one in served(deployment, workload) if one.tenant > after)
    return heapq.merge(own, of_all, key=lambda one: one.tenant)


def _standings(
    queue: RequestQueue,
    workload: Workload,
    page: Sequence[tuple[ids.ModelId, Champion | None]],
    pool: ThreadPoolExecutor,
) -> list[TenantStanding]:
    name, metric = ids.workload_name(workload.name), workload.quality.metric
    champions = [champion for _, champion in page if champion is not None]
    versions = ModelRegistry(queue.deployment).versions_of(champions)
    requests = pool.map(lambda tenant: newest_of(queue.of_tenant(name, tenant)), dict(page))
    found = []
    for (tenant, champion), newest in zip(page, requests, strict=True):
        version = versions.get(tenant)
        age = data_age(version.card) if version is not None else None
        found.append(
            TenantStanding(
                tenant=tenant,
                workload=name,
                version=champion.version if champion is not None else None,
                metric=metric,
                score=version.metrics.get(metric) if version is not None else None,
                data_end=age.end if age is not None else None,
                usable_until=age.usable_until if age is not None else None,
                request=newest.request if newest is not None else None,
                status=newest.status if newest is not None else None,
            )
        )
    return found


def problems_of(listed: Sequence[TenantStanding]) -> list[str]:
    """The tenants' problems, a sentence for each kind."""
    found = []
    for status in NOT_WELL:
        tenants = [one.tenant for one in listed if one.status == status]
        if tenants:
            found.append(
                f"{len(tenants)} with a newest request that is {status}: `tenantry tenant "
                f"{tenants[0]}` tells why"
            )
    if too_old := [one.tenant for one in listed if one.too_old]:
        found.append(
            f"{len(too_old)} with data too old to predict from, {too_old[0]} for one; their owners "
            f"were told"
        )
    return found
