"""Why jobs fail."""

from typing import Final

from local_sagemaker.errors import LocalSageMakerError

RESTARTED: Final = (
    "InternalServerError: local_sagemaker's process ended while the job ran. Please try again."
)
"""The FailureReason of a job that was in progress when the emulator ended."""
FAILURE_LIMIT_CHARACTERS: Final = 1024
"""The longest FailureReason (docs.aws.amazon.com/sagemaker/latest/APIReference/
API_DescribeTrainingJob.html)."""


class JobFailedError(LocalSageMakerError):
    """The job ends as Failed, with the message as FailureReason."""
