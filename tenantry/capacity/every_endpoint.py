"""Every endpoint of a workload follows its file: finds the endpoints that exist, and mends what is
registered for them."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from tenantry.capacity.registration import MOST_AT_ONCE, Mended, Override, Registrations, mend
from tenantry.capacity.scaled_endpoints import (
    Kind,
    ScaledEndpoint,
    endpoint_named,
    scaled_endpoint,
    shape_of,
)
from tenantry.errors import TenantryError
from tenantry.hosting.endpoints import EndpointFailedError, describe_endpoint, endpoints_beginning
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.names.tiers import Own, Shared, SharedTier
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_TIERS: Final[tuple[SharedTier, ...]] = ("bridge", "pool")
_MOST_SECONDS: Final = 1200.0
"""The next hour's run goes on with what a run leaves."""
_NOT_YET: Final = frozenset({"Creating", "Deleting"})
_SERVES: Final = frozenset({"InService", "Updating", "SystemUpdating", "RollingBack"})
_NO_MODEL: Final = "a silo tenant without a model"


class NoEndpointOfItsOwnError(TenantryError, LookupError):
    """The tenant has no endpoint of its own; the message says how it gets one."""


@dataclass(frozen=True)
class OtherEndpoint:
    """An endpoint and what was mended; ``failure`` says why nothing could be."""

    scaled: ScaledEndpoint
    mended: Mended | None
    failure: str = ""

    @property
    def differed(self) -> str:
        """What was not as the file says, or the failure; empty where all was."""
        return self.failure or "; ".join(self.mended.differed if self.mended is not None else ())

    @property
    def override(self) -> Override | None:
        """An operator's number that holds."""
        return None if self.mended is None else self.mended.override


@dataclass(frozen=True)
class OtherEndpoints:
    """The endpoints of a workload and kind besides the shared one of the file's own tier.
    ``left`` counts those that the time did not suffice for."""

    looked_at: tuple[OtherEndpoint, ...]
    left: int


def own_endpoint(
    deployment: Deployment, workload: Workload, tenant: ids.ModelId, kind: Kind
) -> ScaledEndpoint:
    """A silo tenant's own endpoint.

    Raises:
        NoEndpointOfItsOwnError: the tenant has none, or none with instances.
        NotAsynchronousError: the workload has no asynchronous endpoint.
    """
    if not shape_of(workload, "silo", kind).has_instances:
        raise NoEndpointOfItsOwnError(
            f"the endpoint of {tenant} for {workload.name} is serverless, so it has no instances; "
            f"hosting.silo.max_concurrency is its limit"
        )
    scaled = scaled_endpoint(deployment.prefix, workload, Own(tenant), kind)
    if describe_endpoint(deployment, scaled.name) is None:
        raise NoEndpointOfItsOwnError(
            f"{tenant} has no endpoint of its own for {workload.name}; it gets one with its first "
            f"model in the tier silo (`tenantry tier {tenant} {workload.name} silo`)"
        )
    return scaled


def mend_others(
    deployment: Deployment,
    workload: Workload,
    kind: Kind,
    *,
    tell: Callable[[str], None],
    most_seconds: float = _MOST_SECONDS,
) -> OtherEndpoints:
    """Mend what is registered for each endpoint besides the shared one of the file's own tier.
    An endpoint's failure does not stop the others.

    It costs two calls for each endpoint, two for each fifty, and one for each change.

    Args:
        deployment: where.
        workload: its file.
        kind: of the endpoints.
        tell: takes a message about the progress after each fifty.
        most_seconds: no endpoint is begun later. The order is random, so that the next run does
            not leave the same ones again.

    Raises:
        NotAsynchronousError: the workload has no asynchronous endpoint.
    """
    there = _others_there(deployment, workload, kind)
    random.shuffle(there)
    deadline = time.monotonic() + most_seconds
    done = list[OtherEndpoint]()
    for start in range(0, len(there), MOST_AT_ONCE):
        if time.monotonic() > deadline:
            break
        some = there[start : start + MOST_AT_ONCE]
        found = Registrations(deployment, [scaled for scaled, _ in some])
        for scaled, status in some:
            if time.monotonic() > deadline:
                break
            done.append(_mended(deployment, found, scaled, status))
        failed = sum(bool(one.failure) for one in done)
        mended = sum(bool(one.differed) for one in done) - failed
        tell(
            f"{len(done)} of {len(there)} other endpoints are looked at: {mended} differed from "
            f"the file, {failed} could not be registered"
        )
    done.sort(key=lambda one: one.scaled.name)
    return OtherEndpoints(tuple(done), len(there) - len(done))


def _mended(
    deployment: Deployment, found: Registrations, scaled: ScaledEndpoint, status: str
) -> OtherEndpoint:
    try:
        if status not in _SERVES:
            raise EndpointFailedError(f"the endpoint is {status}")
        return OtherEndpoint(scaled, mend(deployment, scaled, found.of(scaled)))
    except (TenantryError, ClientError, BotoCoreError, ValueError) as error:
        return OtherEndpoint(scaled, None, f"{type(error).__name__}: {error}")


def _others_there(
    deployment: Deployment, workload: Workload, kind: Kind
) -> list[tuple[ScaledEndpoint, str]]:
    """The endpoints that exist, each with its status. Those that are being made are left to their
    makers, which register them."""
    prefix, name = deployment.prefix, ids.workload_name(workload.name)
    statuses = _statuses(deployment, f"{prefix}-{name}-")
    shared = [scaled_endpoint(prefix, workload, Shared(tier), kind) for tier in _TIERS]
    found = [(one, statuses[one.name]) for one in shared if one.whose and one.name in statuses]
    of_tiers = {
        shape_of(workload, tier, each).endpoint_name(prefix, name, Shared(tier))
        for each in ("real_time", "asynchronous")
        for tier in _TIERS
    }
    shape = shape_of(workload, "silo", kind)
    if statuses.keys() <= of_tiers or not shape.has_instances:
        return found
    owners = {
        shape.endpoint_name(prefix, name, Own(champion.tenant)): champion.tenant
        for champion in ModelRegistry(deployment).each_champion(name)
    }
    # A tenant whose first model was refused has an endpoint and no champion.
    end = f"-{shape.end}" if shape.end else ""
    of_a_tenant = re.compile(rf"{re.escape(f'{prefix}-{name}-')}silo-[0-9a-f]{{16}}{end}")
    return found + [
        (
            endpoint_named(each, prefix, workload, "silo", kind, whose=owners.get(each, _NO_MODEL)),
            status,
        )
        for each, status in statuses.items()
        if each in owners or of_a_tenant.fullmatch(each)
    ]


def _statuses(deployment: Deployment, beginning: str) -> dict[str, str]:
    """The status of each endpoint whose name begins so, by name."""
    return {
        one["EndpointName"]: one["EndpointStatus"]
        for one in endpoints_beginning(deployment, beginning)
        if one["EndpointStatus"] not in _NOT_YET
    }
