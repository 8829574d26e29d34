"""A period: which of a workload's batches, and of which day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from tenantry.names import ids
from tenantry.workloads.batches import Batch


@dataclass(frozen=True)
class Period:
    """What a prediction is filed under. ``day`` is the date of the batch's moment, by the clocks of
    its zone."""

    batch: Batch
    day: date

    @property
    def cadence(self) -> ids.BatchName:
        """The name of the batch."""
        return ids.batch_name(self.batch.name)

    def __str__(self) -> str:
        return f"{self.batch.name} of {self.day.isoformat()}"
