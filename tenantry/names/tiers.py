"""The machines that serve a tenant: its own, or those that all tenants of a tier share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tenantry.names.ids import ModelId, TenantId, tenant_of

Tier = Literal["silo", "bridge", "pool"]
SharedTier = Literal["bridge", "pool"]


@dataclass(frozen=True)
class Own:
    """The machines of one tenant alone: the tier ``silo``. ``model`` is the one of its models that
    is meant, where each has an endpoint of its own there."""

    model: ModelId
    tier: Literal["silo"] = "silo"

    @property
    def tenant(self) -> TenantId:
        """The tenant."""
        return tenant_of(self.model)


@dataclass(frozen=True)
class Shared:
    """The machines that all tenants of a tier share."""

    tier: SharedTier


Machines = Own | Shared


def machines_of(tier: Tier, tenant: ModelId) -> Machines:
    """The machines that serve a tenant of a tier."""
    return Own(tenant) if tier == "silo" else Shared(tier)
