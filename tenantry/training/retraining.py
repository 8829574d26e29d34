"""Re-training on a schedule: a challenger for every champion that is old, or was made by another
recipe than the present one.

A tenant that uploads anew gets its challenger by that alone. For the others this module puts
requests into the queue, made from their latest registered upload. From there they go the way of any
other request, and are compared at registration.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from botocore.exceptions import BotoCoreError, ClientError

from tenantry.models.registry import Champion, ModelRegistry
from tenantry.names import ids
from tenantry.requests.newest import Moment, is_older
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request, now
from tenantry.workloads.schema import Workload
from tenantry.workloads.sections import Retraining

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_LOG = logging.getLogger(__name__)
Outcome = Literal[
    "asked",
    "asked before",
    "nothing registered to train on",
    "rolled back from the same",
    "could not be asked",
]


@dataclass(frozen=True)
class Occasion:
    """Why a champion is challenged. ``name`` stays the same for the same occasion; the next
    occasion has another."""

    name: str
    why: str


@dataclass
class Round:
    """The results of one round of asking."""

    champions: int = 0
    due: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    complete: bool = True  # whether every champion was looked at

    def __str__(self) -> str:
        said = (
            ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
            or "none"
        )
        rest = "" if self.complete else "; the others are looked at next time"
        return (
            f"{self.champions} champions looked at, {self.due} due for a challenger: {said}{rest}"
        )


def occasion_of(
    champion: Champion, recipe: str, settings: Retraining, at: datetime
) -> Occasion | None:
    """The occasion on which a champion is to be challenged at a moment; None when there is none.

    A champion of another recipe than ``recipe``, or older than ``older_than_days``, is challenged
    once in each stretch of so many days. It is challenged once more when the recipe changes. So a
    challenger that loses is not trained again the next night.
    """
    made = champion.made or champion.since
    stretches = (
        0
        if settings.older_than_days is None
        else (at - made) // timedelta(days=settings.older_than_days)
    )
    if settings.when_made_otherwise and champion.recipe and champion.recipe != recipe:
        why = f"{champion.version} was made by another image or other hyperparameters"
    elif stretches >= 1:
        why = (
            f"{champion.version}, of {made:%Y-%m-%d}, is older than {settings.older_than_days} days"
        )
    else:
        return None
    return Occasion(f"{champion.version}/{recipe}/{stretches}", why)


def ask_for_retraining(
    deployment: Deployment, workload: Workload, *, by: str = "tenantry", at: datetime | None = None
) -> Round:
    """Put a request into the queue for each tenant whose champion is to be challenged. A repeated
    call asks for nothing new.

    Champions are read page by page, and each tenant's row decides. More is read only for those that
    are due, at most ``max_at_once`` of them. Tenants with an open request are left alone: they get
    a new model anyhow.

    Args:
        deployment: the tables.
        workload: its ``retraining`` section says when; without one nothing is asked for.
        by: the author, for the requests' history.
        at: the present.
    """
    done = Round()
    settings, name = workload.retraining, ids.workload_name(workload.name)
    if settings is None:
        return done
    queue, registry = RequestQueue(deployment, by=by), ModelRegistry(deployment)
    busy = {request.tenant for request in queue.open(name)}
    for champion, occasion in _due(registry, workload, settings, at or now(), busy, done):
        if sum(done.outcomes.values()) >= settings.max_at_once:
            done.complete = False
            break
        done.due += 1
        try:
            done.outcomes[_ask(queue, registry, workload, champion, occasion)] += 1
        except (ClientError, BotoCoreError, ValueError, KeyError):
            _LOG.exception("no re-training of %s could be asked for", champion.tenant)
            done.outcomes["could not be asked"] += 1
            continue
        # Ask first, note second: a process that dies in between asks once more, which makes nothing
        # new.
        registry.note_retraining(champion, occasion.name)
    return done


def _due(
    registry: ModelRegistry,
    workload: Workload,
    settings: Retraining,
    at: datetime,
    busy: Set[ids.ModelId],
    done: Round,
) -> Iterator[tuple[Champion, Occasion]]:
    recipe = workload.recipe
    for champion in registry.each_champion(ids.workload_name(workload.name)):
        done.champions += 1
        occasion = occasion_of(champion, recipe, settings, at)
        if (
            occasion is not None
            and occasion.name != champion.retraining
            and champion.tenant not in busy
        ):
            yield champion, occasion


def _ask(
    queue: RequestQueue,
    registry: ModelRegistry,
    workload: Workload,
    champion: Champion,
    occasion: Occasion,
) -> Outcome:
    tenant, name = champion.tenant, champion.workload
    requests = queue.of_tenant(name, tenant)
    registered = [
        (request.version, request)
        for request in requests
        if request.status == "registered" and request.version and request.purpose == "training"
    ]
    if not registered:
        return "nothing registered to train on"
    # The newest by its version's upload: a later upload of the same content does not count.
    made, latest = max(registered, key=lambda made: (Moment.of(made[0]), made[1].accepted))
    if is_older(made, champion.version):
        # The champion was imported after this upload, whose model would not follow it.
        return "nothing registered to train on"
    if champion.rolled_back_from is not None and _same_again(
        registry, workload, champion, latest, requests
    ):
        return "rolled back from the same"
    new = queue.accept(
        name,
        tenant,
        ids.request_id_of(name, tenant, f"re-training of {latest.manifest_key} on {occasion.name}"),
        latest.manifest_key,
        registry.tier(tenant, name, workload.tier),
        first=False,
        why=f"re-training: {occasion.why}",
        # The upload's own moment, so that an upload that came since is newer, in the queue and at
        # registration.
        uploaded=latest.uploaded,
        group=latest.group,
        notify_owner=False,
        traceparent=latest.traceparent,
    )
    return "asked" if new else "asked before"


def _same_again(
    registry: ModelRegistry,
    workload: Workload,
    champion: Champion,
    latest: Request,
    requests: list[Request],
) -> bool:
    """Whether a re-training would only repeat the version that was rolled back, from the same
    upload and by the same recipe."""
    turned_away = registry.version(
        champion.tenant, champion.workload, champion.rolled_back_from or ids.Version("")
    )
    if turned_away is None or turned_away.recipe != workload.recipe:
        return False
    manifests = {request.request: request.manifest_key for request in requests}
    return manifests.get(turned_away.request) == latest.manifest_key
