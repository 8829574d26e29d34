"""An operator's setting for a whole workload: whether its requests may be claimed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from tenantry.names import ids, table_keys
from tenantry.requests.rows import now

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_MAX_WHY: Final = 1000  # characters kept of a reason
_NO_REASON: Final = "no reason was given"


@dataclass(frozen=True)
class Pause:
    """The pause of a workload: its beginning, its author and its reason."""

    at: datetime
    by: str
    why: str


@dataclass(frozen=True)
class WorkloadControls:
    """Pauses and resumes workloads. ``by`` is the actor."""

    deployment: Deployment
    by: str = "tenantry"

    def pause(self, workload: ids.WorkloadName, why: str) -> Pause:
        """Claim no further requests of a workload. Uploads go on becoming requests, and packs on
        their way go on. A blank ``why`` is told as no reason."""
        pause = Pause(now(), self.by, why.strip()[:_MAX_WHY] or _NO_REASON)
        self.deployment.requests.put(
            table_keys.controls_item(workload),
            {"at": pause.at.isoformat(), "by": pause.by, "why": pause.why},
        )
        return pause

    def resume(self, workload: ids.WorkloadName) -> None:
        """Claim requests again; a workload that is not paused stays as it is."""
        self.deployment.requests.delete(table_keys.controls_item(workload))

    def paused(self, workload: ids.WorkloadName) -> Pause | None:
        """The pause a workload is in, read consistently; None when it is not paused."""
        row = self.deployment.requests.get(table_keys.controls_item(workload))
        if row is None:
            return None
        return Pause(datetime.fromisoformat(row["at"]), row["by"], row["why"])
