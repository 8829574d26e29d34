"""Which requests share a training job, and which go first: plain functions over rows, without any
calls.

The rules, which ``docs/concepts.md`` gives with their bounds:

- Of several requests for one model only the newest is worth making; the others are superseded.
- A tenant has one request on its way at a time, so it takes one seat in one pack, however much it
  uploads, and for however many of its models.
- Within a tier the request that has waited longest goes first. A tenant's first model has a head
  start of a fixed number of seconds. A request that has waited longer than that goes before it, so
  none starves.
- Between tiers the next pack goes to the tier that has the fewest packs on their way for its
  weight.
- A pack holds requests of one tier and one group. Requests that were set apart share a pack only
  with those they were set apart with. A silo tenant's request is alone. A pack that is not full
  waits for more requests until its longest waiting one has waited ``wait_seconds``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tenantry.names import ids, tiers
from tenantry.requests.rows import Request
from tenantry.workloads.sections import Pack, Scheduling


@dataclass(frozen=True)
class PlannedPack:
    """Requests that will share a job: one tier, one group, one request a tenant, a silo tenant
    alone."""

    pack: ids.PackId
    tier: tiers.Tier
    requests: tuple[Request, ...]


def plan_packs(
    due: Sequence[Request],
    on_their_way: Sequence[Request],
    limits: Pack,
    scheduling: Scheduling,
    at: datetime,
    *,
    max_packs: int,
) -> list[PlannedPack]:
    """Cut due requests into packs.

    Args:
        due: pending requests whose time has come, one a model.
        on_their_way: requests that are in packs already.
        limits: the workload's, for a pack.
        scheduling: the workload's, for the order of requests.
        at: this moment.
        max_packs: how many may be started now.
    """
    head_start = timedelta(seconds=scheduling.first_model_seconds)

    def turn(request: Request) -> tuple[datetime, datetime, str]:
        return (
            request.due - head_start if request.first else request.due,
            request.accepted,
            request.request,
        )

    busy = {ids.tenant_of(request.tenant) for request in on_their_way}
    waiting: dict[tuple[tiers.Tier, str, str], list[Request]] = {}
    for request in sorted(due, key=turn):
        if (tenant := ids.tenant_of(request.tenant)) not in busy:
            busy.add(tenant)
            waiting.setdefault((request.tier, request.group, request.apart), []).append(request)
    ready: dict[tiers.Tier, list[list[Request]]] = {}
    for (tier, _, _), requests in waiting.items():
        size = 1 if tier == "silo" else limits.max_tenants
        for start in range(0, len(requests), size):
            pack = requests[start : start + size]
            waited = max((at - request.due).total_seconds() for request in pack)
            if len(pack) == size or waited >= limits.wait_seconds:
                ready.setdefault(tier, []).append(pack)
    for packs in ready.values():
        packs.sort(key=lambda pack: min(map(turn, pack)))
    running = Counter({tier: len(packs) for tier, packs in _packs_by_tier(on_their_way).items()})
    planned: list[PlannedPack] = []
    while ready and len(planned) < max_packs:
        tier = min(
            ready, key=lambda t: (running[t] / scheduling.weight(t), min(map(turn, ready[t][0])))
        )
        requests = ready[tier].pop(0)
        if not ready[tier]:
            del ready[tier]
        running[tier] += 1
        # A request that comes back is due at another moment, so its next pack has another id and
        # another job.
        members = [f"{r.tenant}/{r.request}/{r.due.isoformat()}" for r in requests]
        alone = requests[0].tenant if tier == "silo" else None
        planned.append(PlannedPack(ids.pack_id_of(members, alone), tier, tuple(requests)))
    return planned


def _packs_by_tier(on_their_way: Iterable[Request]) -> Mapping[tiers.Tier, set[ids.PackId | None]]:
    packs: dict[tiers.Tier, set[ids.PackId | None]] = {}
    for request in on_their_way:
        packs.setdefault(request.tier, set()).add(request.pack)
    return packs
