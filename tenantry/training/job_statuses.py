"""What state the training jobs are in, asked for all of them at once: SageMaker takes few calls a
second from an account.

One item holds the jobs in progress. Whoever finds it older than the poll interval and takes its
lease lists the jobs for everybody; the others read it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from tenantry.aws.objects import error_code
from tenantry.names import sagemaker_names, table_keys

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_log = logging.getLogger(__name__)
_ITEM: Final = "training_jobs"
_LEASE_SECONDS: Final = 30.0
"""Whoever took the lease and was not heard of for so long is taken for dead."""
_STALE_INTERVALS: Final = 3.0
"""A list older than so many poll intervals says nothing any more."""
# 100 jobs a call (API_ListTrainingJobs). Jobs beyond are not known here, and are described one by
# one.
_MAX_CALLS: Final = 5


@dataclass(frozen=True)
class TrainingJobStatuses:
    """The deployment's jobs in progress, as somebody saw them within the last poll intervals.

    An instance, called with a job's name, is a ``job_watch`` of
    ``PipesSageMakerTrainingJobClient``.
    """

    deployment: Deployment
    poll_seconds: float
    clock: Callable[[], float] = time.time

    def __call__(self, job_name: str) -> str | None:
        """The secondary status of a job in progress ("" if SageMaker lists none); None for a job
        not known to be in progress.

        None may mean that it ended, that it is newer than the list, or that nothing could be
        learned now: describe it.
        """
        try:
            return self._in_progress().get(job_name)
        except (ClientError, BotoCoreError) as error:
            _log.warning(
                "the list of training jobs could not be had; job %s is described instead: %s",
                job_name,
                error,
            )
            return None

    def _in_progress(self) -> Mapping[str, str]:
        answer = self.deployment.dynamodb.get_item(
            TableName=self.deployment.requests_table, Key=_KEY
        )
        item = answer.get("Item", {})
        seen = float(item["seen"]["N"]) if "seen" in item else 0.0
        now = self.clock()
        if now - seen >= self.poll_seconds and self._take_lease(now):
            return self._refresh(now)
        if now - seen > _STALE_INTERVALS * self.poll_seconds or "jobs" not in item:
            return {}
        return {name: value["S"] for name, value in item["jobs"]["M"].items()}

    def _take_lease(self, now: float) -> bool:
        """Whether this caller is the one to list; the reader may have read a copy that lags behind,
        the condition does not."""
        try:
            self.deployment.dynamodb.update_item(
                TableName=self.deployment.requests_table,
                Key=_KEY,
                UpdateExpression="SET lease = :until",
                ConditionExpression="(attribute_not_exists(lease) OR lease < :now)"
                " AND (attribute_not_exists(seen) OR seen <= :old)",
                ExpressionAttributeValues={
                    ":until": _number(now + _LEASE_SECONDS),
                    ":now": _number(now),
                    ":old": _number(now - self.poll_seconds),
                },
            )
        except ClientError as error:
            if error_code(error) == "ConditionalCheckFailedException":
                return False
            raise
        return True

    def _refresh(self, now: float) -> Mapping[str, str]:
        jobs = self._list()
        # Seen when the listing began: a job that ends meanwhile is seen to have ended by the next
        # one.
        self.deployment.dynamodb.update_item(
            TableName=self.deployment.requests_table,
            Key=_KEY,
            UpdateExpression="SET seen = :now, jobs = :jobs REMOVE lease",
            ExpressionAttributeValues={
                ":now": _number(now),
                ":jobs": {"M": {name: {"S": status} for name, status in jobs.items()}},
            },
        )
        return jobs

    def _list(self) -> dict[str, str]:
        prefix = sagemaker_names.training_job_prefix(self.deployment.prefix)
        pages = self.deployment.sagemaker.get_paginator("list_training_jobs").paginate(
            NameContains=prefix,
            StatusEquals="InProgress",
            PaginationConfig={"PageSize": 100, "MaxItems": 100 * _MAX_CALLS},
        )
        return {
            job["TrainingJobName"]: job.get("SecondaryStatus", "")
            for page in pages
            for job in page["TrainingJobSummaries"]
            if job["TrainingJobName"].startswith(prefix)
        }


_KEY: Final[dict[str, Any]] = {
    "tenant": {"S": table_keys.ACCOUNT_PARTITION},
    "request": {"S": _ITEM},
}


def _number(seconds: float) -> dict[str, str]:
    return {"N": f"{seconds:.6f}"}
