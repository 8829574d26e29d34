"""A tenant's move to another tier: the setting, and the moment at which serving follows it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tenantry.aws import objects
from tenantry.capacity.new_endpoints import deploying, ensure_endpoints
from tenantry.errors import TenantryError
from tenantry.hosting.invocation import invoke
from tenantry.hosting.shapes.catalogue import route_in, shape_named
from tenantry.models import artifacts
from tenantry.models.registry import Champion, ModelRegistry
from tenantry.names import ids, tiers
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import OPEN
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment


class OneModelForAllError(TenantryError):
    """A tenant of a shared model has no tier of its own."""


@dataclass(frozen=True)
class TenantTier:
    """The tier a tenant's next request is made in, and where it is served until then.

    ``own`` tells whether it is the tenant's own setting or the workload's. ``champion`` is that of
    its default model, or of one that is not served in the tier yet. ``on_their_way`` counts
    unfinished requests that were taken in with another tier and keep it.
    """

    tenant: ids.TenantId
    workload: ids.WorkloadName
    tier: tiers.Tier
    own: bool
    champion: Champion | None
    on_their_way: int

    @property
    def what_moves_when(self) -> str:
        """For people, in sentences."""
        said = (
            f"Requests of {self.tenant} for {self.workload} that are taken in from now on are "
            f"made in tier {self.tier}."
        )
        if self.on_their_way:
            said += (
                " 1 request that is not finished yet keeps another tier."
                if self.on_their_way == 1
                else f" {self.on_their_way} requests that are not finished yet keep another tier."
            )
        if self.champion is None:
            return f"{said} It has no model yet."
        served = (
            f"It is served by version {self.champion.version} from {self.champion.endpoint}, "
            f"tier {self.champion.tier}"
        )
        if self.champion.tier == self.tier:
            return f"{said} {served}."
        return (
            f"{said} {served}, until the model of such a request is registered, or it is moved "
            f"(`tenantry tier {self.tenant} {self.workload} {self.tier} --now`)."
        )


def tier_of(deployment: Deployment, workload: Workload, tenant: ids.TenantId) -> TenantTier:
    """A tenant's tier, the champion of one of its models, and the unfinished requests of all."""
    name, registry = ids.workload_name(workload.name), ModelRegistry(deployment)
    own = registry.own_tier(tenant, name)
    tier = own or workload.tier
    models = list(map(workload.served_by, registry.models_of(tenant, name)))
    queue = RequestQueue(deployment)
    rows = [row for model in models for row in queue.of_tenant(name, model)]
    others = sum(row.status in OPEN and row.tier != tier for row in rows)
    of_models = [registry.champion(model, name) for model in models]
    champions = [one for one in of_models if one is not None]
    elsewhere = [one for one in champions if one.tier != tier]
    champion = next(iter([*elsewhere, *champions]), None)
    return TenantTier(tenant, name, tier, own is not None, champion, others)


def change_tier(
    deployment: Deployment,
    workload: Workload,
    tenant: ids.TenantId,
    tier: tiers.Tier,
    *,
    by: str,
    why: str = "",
) -> TenantTier:
    """Give a tenant a tier of its own. A repeated call changes only the record of who set it last.

    Raises:
        OneModelForAllError: the workload has a shared model.
    """
    if workload.shared_model is not None:
        raise OneModelForAllError(
            f"one model answers for all tenants of {workload.name}, from the {workload.tier}: a "
            f"tenant has no tier of its own; give it a workload with models of single tenants"
        )
    ModelRegistry(deployment).set_tier(
        tenant, ids.workload_name(workload.name), tier, by=by, why=why
    )
    return tier_of(deployment, workload, tenant)


def move_to_its_tier(deployment: Deployment, workload: Workload, tenant: ids.TenantId) -> bool:
    """Serve a tenant's present versions, one of each of its models, from the machines of its tier,
    without a failed request.

    The new endpoint is made first, and has answered the smoke request with the version before the
    pointer is flipped. The former one goes on for those who looked the route up before
    (``tenantry.tenants.unused`` removes it later). A repeated call does nothing.

    Returns:
        Whether a model was moved; False where it has none, or is served there already.

    Raises:
        EndpointFailedError: the new endpoint could not be brought into service, or does not answer.
        InvocationRefusedError: its container refuses the version.
        ArchiveDiffersError: the version's archive does not match its promise.
        objects.ObjectMissingError: the version's archive is gone.
        ChampionChangedError: another version became champion meanwhile; try again.

    After each of these errors, the model that could not be moved is served as before.
    """
    name, registry = ids.workload_name(workload.name), ModelRegistry(deployment)
    tier = registry.own_tier(tenant, name) or workload.tier
    moved = [_move(deployment, workload, model, tier) for model in registry.models_of(tenant, name)]
    return any(moved)


def _move(
    deployment: Deployment, workload: Workload, tenant: ids.ModelId, tier: tiers.Tier
) -> bool:
    name, registry = ids.workload_name(workload.name), ModelRegistry(deployment)
    champion = registry.champion(tenant, name)
    if champion is None or champion.tier == tier:
        return False
    version = registry.version(tenant, name, champion.version)
    if version is None:
        raise objects.ObjectMissingError(
            f"version {champion.version} of {tenant} is not in the registry"
        )
    machines = tiers.machines_of(tier, tenant)
    route = route_in(deployment.prefix, workload, tier, tenant, champion.version)
    artifacts.place(deployment, version, machines)
    began = datetime.now(UTC)
    with ExitStack() as until_moved:
        if shape_named(route.shape).deploys:
            until_moved.enter_context(deploying(deployment, workload, machines, began))(route)
        else:
            ensure_endpoints(deployment, workload, machines, began)
        invoke(deployment, route, dict(workload.serving.smoke_request))
        registry.move(champion, route, tier)
    return True


def tier_metadata(stands: TenantTier, *, by: str, why: str = "") -> Mapping[str, Any]:
    """The metadata of the change, for people in Dagster, on the tenant's partition of
    ``endpoint_registration``."""
    served = stands.champion
    moves = served is None or served.tier != stands.tier
    return {
        "decision": f"tier {stands.tier}" + (" from the next request on" if moves else ""),
        "tier": stands.tier,
        **(
            {"served_by": served.version, "served_in_tier": served.tier}
            if served is not None
            else {}
        ),
        "by": by,
        **({"why": why} if why else {}),
    }
