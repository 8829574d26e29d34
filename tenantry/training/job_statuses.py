"""The states of the training jobs, asked for all of them at once: SageMaker takes few calls a
second from an account.

One item holds the jobs in progress. A process that finds it older than the poll interval and takes
its lease lists the jobs for all. The others read it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from boto3.dynamodb.conditions import Attr
from botocore.exceptions import BotoCoreError, ClientError

from tenantry.aws.tables import ConditionNotMetError
from tenantry.names import sagemaker_names, table_keys

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_log = logging.getLogger(__name__)
_ITEM: Final = table_keys.TRAINING_JOBS_ITEM
_LEASE_SECONDS: Final = 30.0
"""A process that took the lease and was silent for so long is taken for dead."""
_STALE_INTERVALS: Final = 3.0
"""A list older than this many poll intervals does not count any more."""
# 100 jobs a call (API_ListTrainingJobs). Further jobs are not known here, and are described one by
# one.
_MAX_CALLS: Final = 5


@dataclass(frozen=True)
class TrainingJobStatuses:
    """The deployment's jobs in progress, as some process listed them within the last poll
    intervals.

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
        row = self.deployment.requests.get(_ITEM, consistent=False) or {}
        seen = float(row.get("seen", 0))
        now = self.clock()
        if now - seen >= self.poll_seconds and self._take_lease(now):
            return self._refresh(now)
        if now - seen > _STALE_INTERVALS * self.poll_seconds:
            return {}
        jobs: Mapping[str, str] = row.get("jobs", {})
        return jobs

    def _take_lease(self, now: float) -> bool:
        """Whether this caller has to list. The item that it read may lag behind; the condition of
        this write does not."""
        lease, seen = Attr("lease"), Attr("seen")
        nobody_lists = lease.not_exists() | lease.lt(_number(now))
        is_old = seen.not_exists() | seen.lte(_number(now - self.poll_seconds))
        try:
            self.deployment.requests.update(
                _ITEM, {"lease": _number(now + _LEASE_SECONDS)}, only_if=nobody_lists & is_old
            )
        except ConditionNotMetError:
            return False
        return True

    def _refresh(self, now: float) -> Mapping[str, str]:
        jobs = self._list()
        # ``seen`` is the beginning of the listing: the next one shows that a job has ended
        # meanwhile.
        self.deployment.requests.update(_ITEM, {"seen": _number(now), "jobs": jobs, "lease": None})
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


def _number(seconds: float) -> Decimal:
    return Decimal(f"{seconds:.6f}")
