"""The section ``serving.batching`` of a workload's file: requests that share a model's call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import Field

from contracts import variables
from contracts.limits import BATCH_REQUESTS, BATCH_WAIT_MS
from tenantry.workloads.code import defines
from tenantry.workloads.section import Section

if TYPE_CHECKING:
    from tenantry.workloads.schema import Workload

_FUNCTION: Final = "predict_batch"
VARIABLES: Final = (variables.MAX_BATCH, variables.MAX_WAIT_MS)
"""The container's variables that the section sets."""


class Batching(Section):
    """Requests in flight that the container answers in one call; each by itself if left out."""

    max_batch: int = Field(
        ge=2, le=BATCH_REQUESTS, description="requests that one call answers at most"
    )
    max_wait_ms: int = Field(
        default=0,
        ge=0,
        le=BATCH_WAIT_MS,
        description="how long a request waits for others while the model is idle",
    )

    @property
    def variables(self) -> dict[str, str]:
        """The container's variables that turn it on."""
        values = (str(self.max_batch), str(self.max_wait_ms))
        return dict(zip(VARIABLES, values, strict=True))


def batching_fault(workload: Workload) -> str | None:
    """Why a workload's container cannot answer in batches as its file says; None where it can.

    The container's code is looked at, but not imported.
    """
    container = workload.serving_container
    if workload.serving.batching is None or defines(container, _FUNCTION):
        return None
    return (
        f"serving.batching: no module of containers/{container} defines {_FUNCTION}, so its "
        f"server would not start; remove batching, or write that function "
        f"(docs/adding-a-workload.md). A family that batches by itself has variables of its own"
    )
