"""What to work on: the requests of a pack, or what a person asked for by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tenantry.names import keys
from tenantry.requests.newest import newest_of
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import IN_A_PACK, Request
from tenantry.workloads.schema import Workload


@dataclass(frozen=True)
class Work:
    """A request to work on, and the version its model will have.

    ``owed`` tells whether the queue waits for it: then its row is moved along. A person who
    materialises an asset by hand makes a new version and leaves the queue alone.
    """

    request: Request
    version: keys.Version
    owed: bool

    @property
    def tenant(self) -> keys.TenantId:
        """The tenant it is for."""
        return self.request.tenant


def owed_work(requests: Sequence[Request], pack: keys.PackId) -> list[Work]:
    """The requests of a pack that are still to be worked on."""
    return [
        Work(request, request.version, owed=True)
        for request in requests
        if request.pack == pack and request.status in IN_A_PACK and request.version is not None
    ]


def work_by_hand(
    queue: RequestQueue, workload: Workload, tenants: Sequence[keys.TenantId], run: str
) -> Iterator[tuple[keys.TenantId, Work | None]]:
    """What a person asked for: each tenant's latest usable upload, to become a version of its own.

    Yields:
        The tenant, and its work; None when nothing usable was ever uploaded.
    """
    name = keys.workload_name(workload.name)
    for tenant in tenants:
        latest = newest_of(
            request
            for request in queue.of_tenant(name, tenant)
            if request.version is not None and request.status != "refused"
        )
        if latest is not None:
            yield (
                tenant,
                Work(
                    latest, keys.version_of(f"{latest.request}{run}", latest.uploaded), owed=False
                ),
            )
        else:
            yield tenant, None
