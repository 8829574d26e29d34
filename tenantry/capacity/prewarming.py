"""Loads the models that will be asked in the coming hours, before they are asked.

The first request of a model waits until an instance has loaded it. In the morning all models are
asked for the first time since others took their room.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from tenantry.capacity.asked import AskedHours, asked_hours
from tenantry.hosting.endpoints import EndpointFailedError
from tenantry.hosting.invocation import InvocationRefusedError, invoke
from tenantry.hosting.shapes.catalogue import SHAPES, UnknownShapeError
from tenantry.models.registry import Champion, ModelRegistry
from tenantry.names import ids
from tenantry.workloads.capacity import Prewarming
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_SAME_WEEKDAY: Final = 2
"""What a day of the same weekday counts; any other counts one."""
_AT_ONCE: Final = 4
_FAILURES: Final = 5
"""After so many failures of endpoints the others are not tried: their callers have to be
answered."""


@dataclass(frozen=True)
class Prewarmed:
    """What was loaded. ``asked`` counts the tenants whose models were asked in these hours of
    earlier days, ``chosen`` those that were to be loaded.

    ``failed`` has the reason for each that was not. ``untried`` were left out after too many
    failures.
    """

    asked: int
    chosen: int
    loaded: int
    untried: int
    seconds: float
    failed: Mapping[ids.ModelId, str]

    @property
    def figures(self) -> dict[str, int | float]:
        """The numbers, by name."""
        return {
            "asked": self.asked,
            "chosen": self.chosen,
            "loaded": self.loaded,
            "failed": len(self.failed),
            "untried": self.untried,
            "seconds": round(self.seconds, 3),
        }

    def __str__(self) -> str:
        said = f"loaded {self.loaded} of {self.chosen} models in {self.seconds:.1f} s"
        if self.failed:
            said += f"; {len(self.failed)} failed"
        if self.untried:
            said += f"; {self.untried} were not tried after {_FAILURES} failures of endpoints"
        return said


def prewarm(
    deployment: Deployment, workload: Workload, section: Prewarming, now: datetime
) -> Prewarmed:
    """Ask the workload's smoke request of each model that will be asked in the coming hours.

    The ones most likely to be asked come last, so that none of the others takes their room.

    Args:
        deployment: where.
        workload: the models'.
        section: which models, and how many.
        now: with a time zone.
    """
    name = ids.workload_name(workload.name)
    # An endpoint of one version has loaded it already.
    champions = {
        one.tenant: one
        for one in ModelRegistry(deployment).champions(name)
        if not getattr(SHAPES.get(one.route.shape), "deploys", False)
    }
    hours = asked_hours(deployment, name, sorted(champions), now, section.days + 1)
    wanted = [tenant for tenant in most_wanted(hours, section, now) if tenant in champions]
    began = time.monotonic()
    chosen = [champions[tenant] for tenant in reversed(wanted[: section.most])]
    failed, untried = _load(deployment, workload, chosen)
    return Prewarmed(
        asked=len(wanted),
        chosen=len(chosen),
        loaded=len(chosen) - len(failed) - untried,
        untried=untried,
        seconds=time.monotonic() - began,
        failed=failed,
    )


def most_wanted(hours: AskedHours, section: Prewarming, now: datetime) -> list[ids.ModelId]:
    """The tenants whose models were asked within the coming hours of an earlier day, by the clocks
    of the section's zone.

    Those that were asked on most days come first, and those with most requests among these. A day
    of the same weekday counts twice.
    """
    local = now.astimezone(ZoneInfo(section.timezone))
    ranks = dict[ids.ModelId, tuple[int, int]]()
    for tenant, by_hour in hours.items():
        days = dict[int, int]()
        for ago in range(1, section.days + 1):
            # a day of the calendar, of 23 or 25 hours where clocks are changed
            begin = (local - ago * _DAY).astimezone(UTC)
            end = begin + section.hours * _HOUR
            requests = sum(
                count for hour, count in by_hour.items() if begin < hour + _HOUR and hour < end
            )
            if requests:
                days[ago] = requests
        if days:
            counted = sum(_SAME_WEEKDAY if ago % 7 == 0 else 1 for ago in days)
            ranks[tenant] = (counted, sum(days.values()))
    return sorted(ranks, key=lambda tenant: (*(-rank for rank in ranks[tenant]), tenant))


def _load(
    deployment: Deployment, workload: Workload, champions: Sequence[Champion]
) -> tuple[dict[ids.ModelId, str], int]:
    """The reasons of those that were not loaded, and how many were not tried."""
    failed = dict[ids.ModelId, str]()
    unavailable, untried = 0, 0

    def load(champion: Champion) -> Exception | None:
        try:
            invoke(deployment, champion.route, dict(workload.serving.smoke_request), hasty=True)
        except (InvocationRefusedError, EndpointFailedError, UnknownShapeError) as error:
            return error
        return None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for start in range(0, len(champions), _AT_ONCE):
            some = champions[start : start + _AT_ONCE]
            if unavailable >= _FAILURES:
                untried += len(some)
                continue
            for champion, error in zip(some, pool.map(load, some), strict=True):
                if error is not None:
                    failed[champion.tenant] = str(error)
                    unavailable += isinstance(error, EndpointFailedError)
    return failed, untried
