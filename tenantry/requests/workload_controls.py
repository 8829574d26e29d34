"""What an operator says about a whole workload: whether its requests may be claimed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from tenantry.names import ids, table_keys
from tenantry.requests.rows import now

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_ITEM: Final = "controls"
_MAX_WHY: Final = 1000  # characters kept of a reason


@dataclass(frozen=True)
class Pause:
    """Since when a workload is paused, by whom, and why."""

    at: datetime
    by: str
    why: str


@dataclass(frozen=True)
class WorkloadControls:
    """Pauses and resumes workloads. ``by`` is who does."""

    deployment: Deployment
    by: str = "tenantry"

    def _key(self, workload: ids.WorkloadName) -> dict[str, Any]:
        return {"tenant": {"S": table_keys.workload_partition(workload)}, "request": {"S": _ITEM}}

    def pause(self, workload: ids.WorkloadName, why: str) -> Pause:
        """Claim no further requests of a workload. Uploads go on becoming requests, and packs on
        their way go on."""
        pause = Pause(now(), self.by, why[:_MAX_WHY])
        item = {"at": {"S": pause.at.isoformat()}, "by": {"S": pause.by}, "why": {"S": pause.why}}
        self.deployment.dynamodb.put_item(
            TableName=self.deployment.requests_table, Item={**self._key(workload), **item}
        )
        return pause

    def resume(self, workload: ids.WorkloadName) -> None:
        """Claim requests again; a workload that is not paused stays as it is."""
        self.deployment.dynamodb.delete_item(
            TableName=self.deployment.requests_table, Key=self._key(workload)
        )

    def paused(self, workload: ids.WorkloadName) -> Pause | None:
        """The pause a workload is in, read consistently; None when it is not paused."""
        answer = self.deployment.dynamodb.get_item(
            TableName=self.deployment.requests_table, Key=self._key(workload), ConsistentRead=True
        )
        item = answer.get("Item")
        return (
            None
            if item is None
            else Pause(datetime.fromisoformat(item["at"]["S"]), item["by"]["S"], item["why"]["S"])
        )
