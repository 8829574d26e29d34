"""SageMaker Processing jobs whose names follow from what they do: a repeated call adopts the job
that is there."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from botocore.exceptions import ClientError

from tenantry.aws import objects
from tenantry.errors import TenantryError

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import (
        CreateProcessingJobRequestTypeDef,
        DescribeProcessingJobResponseTypeDef,
    )

    from tenantry.aws.deployment import Deployment

_T = TypeVar("_T")
_FIRST_PAUSE: Final = 0.5  # seconds
_LONGEST_PAUSE: Final = 10.0


class ProcessingFailedError(TenantryError, RuntimeError):
    """A processing job ended without its result; the message says why."""


class StillProcessingError(TenantryError, RuntimeError):
    """A processing job goes on; a repeated call adopts it."""


def result_of_job(
    deployment: Deployment,
    name: Callable[[int], str],
    request: Callable[[str], CreateProcessingJobRequestTypeDef],
    read: Callable[[], _T],
    *,
    tell: Callable[[str], None],
    deadline: float | None = None,
) -> _T:
    """The result of a processing job, which is made unless it is there. A job that failed is
    followed by another, and so is one whose result has expired.

    Args:
        deployment: clients.
        name: the job's name; its argument counts the jobs that do the same, from 1 on.
        request: puts the job's inputs in S3, and returns the request for the job of that name.
        read: reads the result from S3; raises ``objects.ObjectMissingError`` without one.
        tell: gets a sentence for each step.
        deadline: of ``time.monotonic``, until which to wait; None waits for the job's end.

    Raises:
        ProcessingFailedError: the job failed, with its own words; or it left no result.
        StillProcessingError: the deadline is over, and the job goes on.
    """
    for number in itertools.count(1):
        job = name(number)
        known = _describe(deployment, job)
        if known is None:
            _create(deployment, request(job))
        elif known["ProcessingJobStatus"] in {"Failed", "Stopped"}:
            continue
        _wait(deployment, job, tell, deadline)
        try:
            return read()
        except objects.ObjectMissingError as error:
            if known is None:
                raise ProcessingFailedError(
                    f"processing job {job} left no result: {error}"
                ) from error
    raise AssertionError("the numbers of jobs have no end")


def _create(deployment: Deployment, request: CreateProcessingJobRequestTypeDef) -> None:
    try:
        deployment.sagemaker.create_processing_job(**request)
    except ClientError as error:
        if objects.error_code(error) != "ResourceInUse":  # another call made it in this moment
            raise


def _describe(deployment: Deployment, job: str) -> DescribeProcessingJobResponseTypeDef | None:
    try:
        return deployment.sagemaker.describe_processing_job(ProcessingJobName=job)
    except ClientError as error:
        if "not find" in str(error) or "not found" in str(error):
            return None
        raise


def _wait(
    deployment: Deployment, job: str, tell: Callable[[str], None], deadline: float | None
) -> None:
    pause = _FIRST_PAUSE
    while True:
        found = deployment.sagemaker.describe_processing_job(ProcessingJobName=job)
        status = found["ProcessingJobStatus"]
        tell(f"processing job {job} is {status}")
        if status == "Completed":
            return
        if status in {"Failed", "Stopped"}:
            why = found.get("ExitMessage") or found.get("FailureReason") or "see its log"
            raise ProcessingFailedError(f"processing job {job} is {status}: {why}")
        left = _LONGEST_PAUSE if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise StillProcessingError(f"processing job {job} is {status}")
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, _LONGEST_PAUSE)
