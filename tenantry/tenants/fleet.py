"""All tenants of a workload at one moment: the scores and ages of their models, and the waiting
requests."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from tenantry.aws import objects
from tenantry.batch.unchanged import kept_on
from tenantry.hosting.endpoints import describe_endpoint
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS
from tenantry.hosting.shapes.catalogue import shapes_of
from tenantry.models.registry import Champion, ModelRegistry, ModelVersion
from tenantry.names import ids, s3_keys
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request
from tenantry.serving.moments import data_age, too_old_for
from tenantry.training.shared_model import served
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class TenantInFleet:
    """A tenant that is served.

    ``score`` is the figure that versions are compared by (``Quality.compared``), in its form for
    people; None where its version's metrics lack it. ``age_days`` is the version's age;
    ``data_age_days`` is the time since its data ended. ``predicted`` tells whether it has a
    prediction of today or yesterday; ``too_old`` tells whether its data are too old to predict
    from.
    """

    tenant: ids.ModelId
    version: ids.Version
    tier: str
    score: float | None
    age_days: float | None
    data_age_days: float | None
    predicted: bool
    too_old: bool


@dataclass(frozen=True)
class Fleet:
    """A workload's tenants at a moment.

    ``waiting`` are requests whose time has come, and ``oldest_wait`` is how long the first of them
    has waited, in seconds. ``given_up`` are requests that failed in every try. ``predicted_for`` is
    the latest predicted day, today or yesterday; None without such a batch.
    ``serving_usd_per_hour`` is the cost of the instances in service, which all tenants share.
    """

    workload: Workload
    at: datetime
    tenants: Sequence[TenantInFleet]
    waiting: int
    oldest_wait: float
    given_up: Sequence[Request]
    predicted_for: date | None
    serving_usd_per_hour: float

    @property
    def serving_usd_per_tenant_and_month(self) -> float | None:
        """The cost of serving for each tenant in 30 days; None without tenants."""
        if not self.tenants:
            return None
        return self.serving_usd_per_hour * 24 * 30 / len(self.tenants)

    def share_younger_than(self, days: float) -> float:
        """The share of tenants whose version is younger; 1 without tenants."""
        return _share(
            tenant.age_days is not None and tenant.age_days < days for tenant in self.tenants
        )

    @property
    def share_predicted(self) -> float:
        """The share of tenants with a prediction of today or yesterday, of those whose data are not
        too old; 1 without such."""
        return _share(tenant.predicted for tenant in self.tenants if not tenant.too_old)

    @property
    def median_score(self) -> float | None:
        """The median of the scores there are."""
        scores = [tenant.score for tenant in self.tenants if tenant.score is not None]
        return statistics.median(scores) if scores else None


def fleet_of(deployment: Deployment, workload: Workload, at: datetime) -> Fleet:
    """Read the registry, the queue and the latest batch of a workload.

    Costs a query, and a read for each hundred tenants.
    """
    name = ids.workload_name(workload.name)
    registry, queue = ModelRegistry(deployment), RequestQueue(deployment)
    champions = served(deployment, workload)
    versions = registry.versions_of(champions)
    zones = [UTC, *(ZoneInfo(batch.timezone) for batch in workload.batches)]
    today = max(at.astimezone(zone).date() for zone in zones)
    day, predicted = _predicted(deployment, workload, champions, today)
    due = queue.due(name)
    return Fleet(
        workload=workload,
        at=at,
        tenants=[
            _in_fleet(workload, champion, versions.get(champion.tenant), at, predicted)
            for champion in champions
        ],
        waiting=len(due),
        oldest_wait=max([0.0, *((at - request.due).total_seconds() for request in due)]),
        given_up=queue.with_status(name, "dead_lettered"),
        predicted_for=day,
        serving_usd_per_hour=_serving_usd_per_hour(deployment, workload),
    )


def _in_fleet(
    workload: Workload,
    champion: Champion,
    version: ModelVersion | None,
    at: datetime,
    predicted: frozenset[str],
) -> TenantInFleet:
    quality = workload.quality
    skill = quality.skill(version.metrics) if version is not None else None
    made = champion.made or (version.made if version is not None else None)
    data = data_age(champion.card)
    return TenantInFleet(
        tenant=champion.tenant,
        version=champion.version,
        tier=champion.tier,
        score=None if skill is None else quality.shown(skill),
        age_days=None if made is None else (at - made) / _DAY,
        data_age_days=None if data is None else (at - data.end) / _DAY,
        predicted=champion.tenant in predicted,
        too_old=too_old_for(workload, champion.card, at.astimezone(UTC).date()) is not None,
    )


def _predicted(
    deployment: Deployment, workload: Workload, champions: Sequence[Champion], today: date
) -> tuple[date | None, frozenset[str]]:
    """The later predicted day of today and yesterday, and the tenants with a prediction of either.
    A batch of one tenant, made by hand, does not hide the night's."""
    found: dict[date, frozenset[str]] = {}
    name, days = ids.workload_name(workload.name), (today, today - _DAY)
    kept = kept_on(deployment, workload, champions, days)
    for day in days:
        keys = objects.keys_under(
            deployment.s3, deployment.data_bucket, s3_keys.batches_of_day(name, day)
        )
        tenants = frozenset(filter(None, map(s3_keys.tenant_of_batch_output, keys)))
        tenants |= kept.get(day, frozenset())
        if tenants:
            found[day] = tenants
    return max(found, default=None), frozenset().union(*found.values())


def _serving_usd_per_hour(deployment: Deployment, workload: Workload) -> float:
    """The cost of all instances of the endpoints that the workload's tenants share."""
    name, usd = ids.workload_name(workload.name), 0.0
    serving = workload.serving
    for shape in shapes_of(workload, workload.shared_machines.tier):
        asynchronous = serving.asynchronous if shape is ASYNCHRONOUS else None
        price = (asynchronous or serving).usd_per_hour
        endpoint = shape.endpoint_name(deployment.prefix, name, workload.shared_machines)
        described = describe_endpoint(deployment, endpoint)
        variants = described.get("ProductionVariants", []) if described is not None else []
        instances = sum(variant.get("CurrentInstanceCount", 0) for variant in variants)
        usd += instances * price
    return usd


def _share(holds: Iterable[bool]) -> float:
    found = list(holds)
    return sum(found) / len(found) if found else 1.0
