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


def takes_no_batches(container: str) -> str | None:
    """Why a container's family takes no batches, and what would; None where it may.

    The container's code is looked at, but not imported.
    """
    if defines(container, _FUNCTION):
        return None
    return (
        f"no module of containers/{container} defines {_FUNCTION}; docs/adding-a-workload.md tells "
        f"how to write it. A family that batches by itself has variables of its own"
    )


def batching_fault(workload: Workload) -> str | None:
    """Why a workload's container cannot answer in batches as its file says; None where it can."""
    if workload.serving.batching is None:
        return None
    fault = takes_no_batches(workload.serving_container)
    return None if fault is None else f"serving.batching: {fault}; remove batching"
