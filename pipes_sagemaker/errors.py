"""The ways in which a SageMaker training job can fail, each with an error of its own."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import DescribeTrainingJobResponseTypeDef

FailureClass = Literal[
    "capacity", "algorithm", "client", "internal", "max_runtime", "max_wait", "stopped", "unknown"
]
"""Why a job did not complete, in this order: no machine was available; the container failed; the
request or the data cannot work; SageMaker failed; its time was up (``StoppingCondition``); waiting
for spot took too long; a caller stopped it; unknown."""

_FAILURE_PREFIXES: Final[Mapping[str, FailureClass]] = {
    "CapacityError": "capacity",
    "InsufficientCapacity": "capacity",
    "AlgorithmError": "algorithm",
    "ClientError": "client",
    "InternalServerError": "internal",
}


class PipesSageMakerError(Exception):
    """A training job did not end as it should; the base class of this module's errors."""


class TrainingJobFailedError(PipesSageMakerError):
    """The job ended without completing.

    Attributes:
        job_name: The name of the job.
        status: ``Failed`` or ``Stopped``.
        secondary_status: For a stopped job why: ``MaxRuntimeExceeded``, ``MaxWaitTimeExceeded`` or
            ``Stopped``.
        failure_reason: SageMaker's ``FailureReason``; empty if there is none.
        failure_class: See :py:data:`FailureClass`.
        console_url: The job's page in AWS's console; None where there is none.
        metadata: The metadata that the completed invocation would have had.
    """

    def __init__(
        self,
        described: "DescribeTrainingJobResponseTypeDef",
        console_url: str | None,
        metadata: Mapping[str, Any],
    ) -> None:
        self.job_name = described["TrainingJobName"]
        self.status: str = described["TrainingJobStatus"]
        self.secondary_status: str = described["SecondaryStatus"]
        self.failure_reason = described.get("FailureReason", "")
        self.failure_class = failure_class(self.status, self.secondary_status, self.failure_reason)
        self.console_url = console_url
        self.metadata = metadata
        reason = self.failure_reason or "SageMaker gave no reason"
        super().__init__(
            f"SageMaker training job {self.job_name} ended {self.status} ({self.secondary_status},"
            f" {self.failure_class}): {reason}." + (f" See {console_url}" if console_url else "")
        )


class TrainingJobDiffersError(PipesSageMakerError):
    """A job of this name exists, and it is not the same work, so it is not adopted.

    Attributes:
        job_name: The name of the job.
        field: The first field that differs, as a path: ``HyperParameters.epochs``.
    """

    def __init__(self, job_name: str, field: str, requested: object, existing: object) -> None:
        self.job_name = job_name
        self.field = field
        super().__init__(
            f"SageMaker training job {job_name} exists already with another {field}: requested"
            f" {str(requested)[:200]!r}, existing {str(existing)[:200]!r}. Names cannot be used "
            f"twice: choose another one."
        )


class TrainingJobResourceLimitExceededError(PipesSageMakerError):
    """A quota of the account is used up (``ResourceLimitExceeded``). No job was made; the same
    request may succeed later.

    Attributes:
        job_name: The name of the job that was not made.
    """

    def __init__(self, job_name: str, message: str) -> None:
        self.job_name = job_name
        super().__init__(f"SageMaker training job {job_name} was not made: {message}")


def failure_class(status: str, secondary_status: str, failure_reason: str) -> FailureClass:
    """Classify how a job ended, by its secondary status or by the prefix of its ``FailureReason``.

    A reason without a known prefix is the container's own, from ``/opt/ml/output/failure``.
    """
    if status == "Stopped":
        by_status: dict[str, FailureClass] = {
            "MaxRuntimeExceeded": "max_runtime",
            "MaxWaitTimeExceeded": "max_wait",
        }
        return by_status.get(secondary_status, "stopped")
    for prefix, name in _FAILURE_PREFIXES.items():
        if failure_reason.startswith(prefix):
            return name
    return "algorithm" if failure_reason else "unknown"
