"""Processing jobs: CreateProcessingJob, DescribeProcessingJob, ListProcessingJobs,
StopProcessingJob.

Sources: docs.aws.amazon.com/sagemaker/latest/dg/processing-job.html,
…/build-your-own-processing-container.html and …/APIReference/API_CreateProcessingJob.html. A job's
containers run as processes, one per instance. If the emulator ends during a job, the next start
marks the job Failed with an InternalServerError.
"""

import asyncio
import logging
import shutil
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local_sagemaker.account.cloud import Cloud, Operation, page
from local_sagemaker.account.rates import PROCESSING, TokenBucket
from local_sagemaker.account.state import Document
from local_sagemaker.account.storage import DataError, failure_reason
from local_sagemaker.errors import ServiceError, validation
from local_sagemaker.jobs.cluster import Ending
from local_sagemaker.jobs.failures import FAILURE_LIMIT_CHARACTERS, RESTARTED, JobFailedError
from local_sagemaker.processing.requests import check_request, with_defaults
from local_sagemaker.processing.run import KIND, ProcessingRun

_log = logging.getLogger(__name__)


class ProcessingJobs:
    """All processing jobs of the account, and the tasks of the running ones."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        settings = cloud.settings
        self._rate = TokenBucket(
            settings.create_training_job_rate, settings.create_training_job_burst, cloud.clock.ticks
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stops: dict[str, asyncio.Event] = {}
        self.operations: dict[str, Operation] = {
            "CreateProcessingJob": self.create,
            "DescribeProcessingJob": self.describe,
            "ListProcessingJobs": self.list_page,
            "StopProcessingJob": self.stop,
        }

    def start(self) -> None:
        """After a restart, mark jobs in progress Failed, because their containers are gone."""
        for name, job in self._cloud.store.all(KIND):
            if job["ProcessingJobStatus"] in ("InProgress", "Stopping"):
                self._finish(name, job, "Failed", RESTARTED)

    async def close(self) -> None:
        """Kill the containers of every job in progress; the jobs stay in progress on disk until the
        next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def create(self, params: dict[str, Any]) -> dict[str, Any]:
        """CreateProcessingJob: check the request, store it, and start the job."""
        self._rate.take()
        name = params["ProcessingJobName"]
        arn = self._cloud.arn(KIND, name)
        if self._cloud.taken(KIND, name):
            raise ServiceError(
                "ResourceInUse",
                "Job name must be unique within an AWS account and region, and a job with this "
                f"name already exists ({arn})",
            )
        check_request(params)
        cluster = params["ProcessingResources"]["ClusterConfig"]
        self._cloud.quota(PROCESSING).hold(
            name, {cluster["InstanceType"]: cluster["InstanceCount"]}
        )
        job = with_defaults(params) | {
            "ProcessingJobArn": arn,
            "ProcessingJobStatus": "InProgress",
            "CreationTime": self._cloud.clock.now(),
        }
        self._put(name, job)
        self._cloud.put_tags(arn, params.get("Tags"))
        self._stops[name] = asyncio.Event()
        task = asyncio.create_task(self._run(name, job))
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._forget(name))
        return {"ProcessingJobArn": arn}

    async def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeProcessingJob."""
        return self._job(params["ProcessingJobName"])

    async def list_page(self, params: dict[str, Any]) -> dict[str, Any]:
        """ListProcessingJobs, by default oldest first, as the API reference says."""
        jobs, token = page(
            self._cloud.store.all(KIND), params, status="ProcessingJobStatus", order="Ascending"
        )
        return {"ProcessingJobSummaries": jobs, "NextToken": token}

    async def stop(self, params: dict[str, Any]) -> dict[str, Any]:
        """StopProcessingJob: SIGTERM to the containers, SIGKILL after 120 s."""
        name = params["ProcessingJobName"]
        job = self._job(name)
        if job["ProcessingJobStatus"] not in ("InProgress", "Stopping"):
            raise validation(
                f"The request was rejected because the processing job is in status "
                f"{job['ProcessingJobStatus']}."
            )
        if job["ProcessingJobStatus"] == "InProgress":
            self._stopping(name, job)
            self._stops[name].set()
        return {}

    def _job(self, name: str) -> Document:
        job = self._cloud.store.get(KIND, name)
        if job is None:
            raise validation(f"Could not find requested job with name: {name}")
        return job

    def _forget(self, name: str) -> None:
        self._tasks.pop(name, None)
        self._stops.pop(name, None)

    def _put(self, name: str, job: Document) -> None:
        job["LastModifiedTime"] = self._cloud.clock.now()
        self._cloud.store.put(KIND, name, job)

    def _stopping(self, name: str, job: Document) -> None:
        job["ProcessingJobStatus"] = "Stopping"
        self._put(name, job)

    def _finish(self, name: str, job: Document, status: str, reason: str | None = None) -> None:
        job["ProcessingJobStatus"] = status
        job["ProcessingEndTime"] = self._cloud.clock.now()
        if reason is not None:
            job["FailureReason"] = reason[:FAILURE_LIMIT_CHARACTERS]
        # Release the instances before the job's end is visible, so that a client that sees the end
        # can use them.
        self._cloud.quota(PROCESSING).release(name)
        self._put(name, job)

    async def _run(self, name: str, job: Document) -> None:
        folder = self._cloud.folder / KIND / name
        try:
            ending = await ProcessingRun(
                self._cloud, job, folder, self._stops[name], lambda: self._stopping(name, job)
            ).run()
            self._finish(name, job, "Completed" if ending is Ending.COMPLETED else "Stopped")
        except JobFailedError as failure:
            self._finish(name, job, "Failed", str(failure))
        except (DataError, ClientError, BotoCoreError) as error:
            self._finish(name, job, "Failed", failure_reason(error))
        except Exception as error:  # noqa: BLE001 - logged, and becomes the FailureReason
            # An error of the emulator must end the job, because its clients would otherwise wait
            # for ever.
            _log.exception("processing job %s", name)
            self._finish(
                name, job, "Failed", f"InternalServerError: {type(error).__name__}: {error}"
            )
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
