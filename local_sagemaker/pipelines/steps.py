"""The steps that run as jobs: the operations that each calls, and the members that they use."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Call = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Calls an operation of SageMaker as a client would: the operation's name, and its request. Raises
ServiceError."""


@dataclass(frozen=True)
class JobStep:
    """A type of step. `what` is the resource in names of operations and members: `TrainingJob` in
    CreateTrainingJob and TrainingJobName. `role` is the member of the request with the role."""

    what: str
    role: str | None
    stops: bool = True

    @property
    def name_member(self) -> str:
        """The member with the name of the job."""
        return f"{self.what}Name"

    @property
    def status_member(self) -> str:
        """The member with the status; a model has none."""
        return f"{self.what}Status"

    @property
    def arn_member(self) -> str:
        """The member with the ARN."""
        return f"{self.what}Arn"


JOB_STEPS: Final[Mapping[str, JobStep]] = {
    "Processing": JobStep("ProcessingJob", "RoleArn"),
    "Training": JobStep("TrainingJob", "RoleArn"),
    "Transform": JobStep("TransformJob", None),
    "Model": JobStep("Model", "ExecutionRoleArn", stops=False),
}
"""By the Type in a definition."""
EXECUTED: Final = (*JOB_STEPS, "Condition", "Fail")
"""The types of steps that are executed."""
KNOWN: Final = (
    *EXECUTED,
    "RegisterModel",
    "Callback",
    "Tuning",
    "Lambda",
    "QualityCheck",
    "ClarifyCheck",
    "EMR",
    "EMRServerless",
    "AutoML",
    "EndpointConfig",
    "Endpoint",
    "InferenceComponent",
    "Lineage",
    "Job",
    "Cleanup",
    "ForEach",
)
"""The types that SageMaker has."""
