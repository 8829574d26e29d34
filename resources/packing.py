"""Which requests share a training job: plain functions over rows, without a call to anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from resources import keys
from resources.request_queue import Request
from workloads.schema import Pack


@dataclass(frozen=True)
class PlannedPack:
    """Requests that will share a job: one tier, one request a tenant, a silo tenant alone."""

    pack: keys.PackId
    tier: keys.Tier
    requests: tuple[Request, ...]


def plan_packs(due: Sequence[Request], limits: Pack, at: datetime, *, most_packs: int) -> list[PlannedPack]:
    """Cut due requests into packs.

    A tenant's first model goes first, then whoever has waited longest. A pack that is not full waits for company until its
    oldest request has waited ``limits.wait_seconds``. Of several requests of one tenant the oldest is taken, the others
    wait for their turn.

    Args:
        due: pending requests whose time has come.
        limits: the workload's.
        at: this moment.
        most_packs: how many may be started now.
    """
    packs: list[PlannedPack] = []
    taken: set[keys.TenantId] = set()
    queues: dict[keys.Tier, list[Request]] = {"silo": [], "bridge": [], "pool": []}
    for request in sorted(due, key=lambda r: (not r.first, r.accepted, r.request)):
        if request.tenant not in taken:
            taken.add(request.tenant)
            queues[request.tier].append(request)
    groups: list[tuple[keys.Tier, list[Request]]] = [("silo", [request]) for request in queues["silo"]]
    shared: tuple[keys.Tier, ...] = ("bridge", "pool")
    for tier in shared:
        waiting = queues[tier]
        for start in range(0, len(waiting), limits.most_tenants):
            group = waiting[start : start + limits.most_tenants]
            waited = max((at - request.due).total_seconds() for request in group)
            if len(group) == limits.most_tenants or waited >= limits.wait_seconds:
                groups.append((tier, group))
    groups.sort(key=lambda group: min((not r.first, r.accepted) for r in group[1]))
    for tier, group in groups[:most_packs]:
        members = [f"{r.tenant}/{r.request}/{r.attempt}" for r in group]
        packs.append(PlannedPack(keys.pack_id_of(members), tier, tuple(group)))
    return packs
