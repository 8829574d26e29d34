"""The job that trains a whole pack, as an onboarding sees it: a call that runs it, and the ways it
may end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tenantry.errors import TenantryError

if TYPE_CHECKING:
    from pipes_sagemaker.errors import FailureClass


@dataclass(frozen=True)
class FinishedJob:
    """A training job that ended well. ``took`` is its time and its machines, for people."""

    name: str
    took: str = ""


Train = Callable[[Any, str, Callable[[Any], None]], FinishedJob]
"""Runs a CreateTrainingJob request to its end, handing over each progress message as it comes.

The text is the prefix of the job's messages in the data bucket. Raises ``JobFailedError`` when the
job does not complete, and ``NoCapacityYetError`` when SageMaker does not take it now.
"""


class JobFailedError(TenantryError, RuntimeError):
    """The packed job as a whole did not end well; tenants whose part was done are registered all
    the same.

    ``kind`` says why; it decides whether another job of the pack may do better.
    """

    def __init__(self, message: str, kind: FailureClass = "unknown") -> None:
        self.kind = kind
        super().__init__(message)


class NoCapacityYetError(TenantryError, RuntimeError):
    """SageMaker takes no further job now; the requests went back to the queue, no try was
    counted."""
