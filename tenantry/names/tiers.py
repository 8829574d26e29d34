"""The machines that serve a tenant: its own, or those that all tenants of a tier share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tenantry.names.ids import TenantId

Tier = Literal["silo", "bridge", "pool"]
SharedTier = Literal["bridge", "pool"]


@dataclass(frozen=True)
class Own:
    """The machines of one tenant alone: the tier ``silo``."""

    tenant: TenantId
    tier: Literal["silo"] = "silo"


@dataclass(frozen=True)
class Shared:
    """The machines that all tenants of a tier share."""

    tier: SharedTier


Machines = Own | Shared


def machines_of(tier: Tier, tenant: TenantId) -> Machines:
    """The machines that serve a tenant of a tier."""
    return Own(tenant) if tier == "silo" else Shared(tier)
