"""Accepted and claimed requests of two tenants, and the story of a request."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tenantry.names import ids, tiers
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request

NAME, ACME, BOLT = ids.workload_name("energy"), ids.tenant_id("acme"), ids.tenant_id("bolt")
DEFAULT_TIER: tiers.Tier = "bridge"
PACK, OTHER_PACK = ids.pack_id("p-1"), ids.pack_id("p-2")
# The story of a request, as the module documents it.
OUT_OF_A_PACK = {"pending", "failed", "refused", "cancelled", "dead_lettered"}
STORY: dict[str, set[str]] = {
    "pending": {"claimed", "pending", "refused", "superseded", "cancelled", "dead_lettered"},
    "claimed": {"training", "trained", "appended", *OUT_OF_A_PACK},
    "training": {"trained", *OUT_OF_A_PACK},
    "trained": {"registered", *OUT_OF_A_PACK},
    "failed": {"pending", "superseded", "cancelled"},
    "registered": set(),
    "appended": set(),
    "refused": {"pending"},
    "superseded": {"pending"},
    "cancelled": {"pending"},
    "dead_lettered": {"pending"},
}
AT_ONCE = timedelta(0)


def accepted(
    queue: RequestQueue, tenant: ids.TenantId = ACME, content: str = "one", **options: Any
) -> Request:
    request = ids.request_id_of(NAME, tenant, content)
    assert queue.accept(
        NAME,
        tenant,
        request,
        f"uploads/{tenant}/energy/u/manifest.json",
        "bridge",
        first=True,
        **options,
    )
    row = queue.get(NAME, tenant, request)
    assert row is not None
    return row


def claimed(queue: RequestQueue, row: Request, pack: ids.PackId = PACK) -> Request:
    (taken,) = queue.claim([row], pack)
    return taken
