"""Training jobs: CreateTrainingJob, DescribeTrainingJob, ListTrainingJobs, StopTrainingJob,
UpdateTrainingJob.

A job's containers run as processes, one per instance. Its status changes as AWS documents
(docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeTrainingJob.html): Starting,
Downloading, Training, Uploading, then Completed, Failed, Stopped or MaxRuntimeExceeded; for managed
spot training also Interrupted and MaxWaitTimeExceeded
(…/dg/model-managed-spot-training-status.html). If the emulator ends during a job, the next start
marks the job Failed with an InternalServerError. It does not resume the job, because the job's
containers died with the emulator.
"""

import asyncio
import logging
import shutil
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local_sagemaker.account.cloud import Cloud, Operation, page
from local_sagemaker.account.rates import SPOT_TRAINING, TRAINING, TokenBucket
from local_sagemaker.account.state import Document
from local_sagemaker.account.storage import DataError, S3Location, failure_reason
from local_sagemaker.errors import ServiceError, validation
from local_sagemaker.jobs.failures import FAILURE_LIMIT_CHARACTERS, RESTARTED, JobFailedError
from local_sagemaker.training.requests import (
    artifacts_of,
    check_request,
    seconds_trained,
    usage_of,
    with_defaults,
)
from local_sagemaker.training.run import KIND, TrainingRun
from local_sagemaker.training.warm_pools import WarmPools

_log = logging.getLogger(__name__)


class TrainingJobs:
    """All training jobs of the account, and the tasks of the running ones."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        settings = cloud.settings
        self._rate = TokenBucket(
            settings.create_training_job_rate, settings.create_training_job_burst, cloud.clock.ticks
        )
        self._pools = WarmPools(cloud, KIND)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stops: dict[str, asyncio.Event] = {}
        self.operations: dict[str, Operation] = {
            "CreateTrainingJob": self.create,
            "DescribeTrainingJob": self.describe,
            "ListTrainingJobs": self.list_page,
            "StopTrainingJob": self.stop,
            "UpdateTrainingJob": self.update,
        }

    def start(self) -> None:
        """After a restart, mark jobs in progress Failed, because their containers are gone; warm
        pools keep waiting."""
        self._pools.start()
        for name, job in self._cloud.store.all(KIND):
            if job["TrainingJobStatus"] in ("InProgress", "Stopping"):
                self._finish(name, job, "Failed", RESTARTED)

    async def close(self) -> None:
        """Kill the containers of every job in progress; the jobs stay in progress on disk until the
        next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pools.close()

    async def create(self, params: dict[str, Any]) -> dict[str, Any]:
        """CreateTrainingJob: check the request, store it, and start the job."""
        self._rate.take()
        name = params["TrainingJobName"]
        arn = self._cloud.arn(KIND, name)
        if self._cloud.taken(KIND, name):
            raise ServiceError(
                "ResourceInUse",
                "Training job names must be unique within an AWS account and region, "
                f"and a training job with this name already exists ({arn})",
            )
        check_request(params)
        await asyncio.to_thread(self._check_inputs, params)
        resources = params["ResourceConfig"]
        if self._cloud.taken(KIND, name):
            raise ServiceError(
                "ResourceInUse", f"A training job with this name already exists ({arn})"
            )
        job = with_defaults(params) | {
            "TrainingJobArn": arn,
            "TrainingJobStatus": "InProgress",
            "CreationTime": self._cloud.clock.now(),
            "ModelArtifacts": {"S3ModelArtifacts": artifacts_of(params).uri},
            "SecondaryStatusTransitions": [],
        }
        job["Warm"] = self._pools.take(name, job)
        self._cloud.quota(usage_of(job)).hold(
            name, {resources["InstanceType"]: resources["InstanceCount"]}
        )
        self._move(name, job, "Starting", "Starting the training job")
        self._cloud.put_tags(arn, params.get("Tags"))
        self._stops[name] = asyncio.Event()
        task = asyncio.create_task(self._run(name, job))
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._forget(name))
        return {"TrainingJobArn": arn}

    async def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeTrainingJob."""
        return self._pools.described(self._job(params["TrainingJobName"]))

    async def update(self, params: dict[str, Any]) -> dict[str, Any]:
        """UpdateTrainingJob: set the duration of the job's warm pool; 0 ends it now."""
        name = params["TrainingJobName"]
        job = self._job(name)
        if "ResourceConfig" not in params:
            # A ProfilerConfig can only switch the profiler off, which has no effect, because there
            # is none.
            if "ProfilerConfig" in params:
                return {"TrainingJobArn": job["TrainingJobArn"]}
            raise validation("UpdateTrainingJob needs ResourceConfig.KeepAlivePeriodInSeconds")
        self._pools.update(name, job, params["ResourceConfig"]["KeepAlivePeriodInSeconds"])
        return {"TrainingJobArn": job["TrainingJobArn"]}

    async def list_page(self, params: dict[str, Any]) -> dict[str, Any]:
        """ListTrainingJobs, by default oldest first, as the API reference says."""
        wanted = params.get("WarmPoolStatusEquals")
        jobs = (
            (name, self._pools.described(job))
            for name, job in self._cloud.store.all(KIND)
            if wanted is None or job.get("WarmPoolStatus", {}).get("Status") == wanted
        )
        summaries, token = page(jobs, params, status="TrainingJobStatus", order="Ascending")
        return {"TrainingJobSummaries": summaries, "NextToken": token}

    async def stop(self, params: dict[str, Any]) -> dict[str, Any]:
        """StopTrainingJob: SIGTERM to the containers, SIGKILL after 120 s."""
        name = params["TrainingJobName"]
        job = self._job(name)
        if job["TrainingJobStatus"] not in ("InProgress", "Stopping"):
            raise validation(
                f"The request was rejected because the training job is in status "
                f"{job['TrainingJobStatus']}."
            )
        if job["TrainingJobStatus"] == "InProgress":
            job["TrainingJobStatus"] = "Stopping"
            self._move(name, job, "Stopping", "Stopping the training job")
            self._stops[name].set()
        return {}

    def _job(self, name: str) -> Document:
        job = self._cloud.store.get(KIND, name)
        if job is None:
            raise validation("Requested resource not found.")
        return job

    def _forget(self, name: str) -> None:
        self._tasks.pop(name, None)
        self._stops.pop(name, None)

    def _release(self, name: str) -> None:
        if not self._pools.holds(name):
            self._cloud.quota(TRAINING).release(name)
        self._cloud.quota(SPOT_TRAINING).release(name)

    def _check_inputs(self, params: dict[str, Any]) -> None:
        """Refuse missing inputs before accepting the job, as AWS does, in AWS's words."""
        for channel in params.get("InputDataConfig", []):
            source = channel["DataSource"]["S3DataSource"]
            try:
                location = S3Location.parse(source["S3Uri"])
                found = self._cloud.s3.list_objects_v2(
                    Bucket=location.bucket, Prefix=location.key, MaxKeys=1
                ).get("Contents")
                cause = "no object has this prefix"
            except DataError as error:
                raise validation(str(error)) from error
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
                    raise ServiceError(
                        "InternalFailure", f"S3 is unavailable at the moment: {error}", 500
                    ) from error
                found, cause = None, error.response["Error"].get("Message", str(error))
            if not found:
                raise validation(
                    f'No S3 objects found under S3 URL "{source["S3Uri"]}" given in input data '
                    f"source. Please ensure that the bucket exists "
                    f"in the selected region ({self._cloud.settings.region}), that objects exist "
                    f"under that S3 prefix, and that the role "
                    f'"{params["RoleArn"]}" has "s3:ListBucket" permissions on bucket '
                    f'"{location.bucket}". Error message from S3: {cause}'
                )

    def _move(self, name: str, job: Document, secondary: str, message: str) -> None:
        """Change to another secondary status."""
        now = self._cloud.clock.now()
        transitions = job["SecondaryStatusTransitions"]
        if transitions:
            transitions[-1]["EndTime"] = now
        transitions.append({"Status": secondary, "StartTime": now, "StatusMessage": message})
        job["SecondaryStatus"] = secondary
        job["LastModifiedTime"] = now
        self._cloud.store.put(KIND, name, job)

    def _finish(
        self,
        name: str,
        job: Document,
        status: str,
        reason: str | None = None,
        secondary: str | None = None,
    ) -> None:
        job["TrainingJobStatus"] = status
        if secondary == "MaxWaitTimeExceeded":
            job.pop("ModelArtifacts", None)  # nothing will be uploaded
        now = self._cloud.clock.now()
        if "TrainingStartTime" in job:
            job["TrainingEndTime"] = now
            seconds = seconds_trained(job, self._cloud.clock)
            share = self._cloud.settings.spot_billed_share
            job["TrainingTimeInSeconds"] = max(1, round(seconds))
            billed = seconds * share if job.get("EnableManagedSpotTraining") else seconds
            job["BillableTimeInSeconds"] = max(1, round(billed))
        if reason is not None:
            job["FailureReason"] = reason[:FAILURE_LIMIT_CHARACTERS]
        # A warm pool keeps the instances after an error of the algorithm or the client, but not
        # after AWS's own.
        self._pools.retain(name, job, healthy=not (reason or "").startswith("InternalServerError"))
        # Release the instances before the job's end is visible, so that a client that sees the end
        # can use them.
        self._release(name)
        messages = {
            "Completed": "Training job completed",
            "Stopped": "Training job stopped",
            "Failed": "Training job failed",
        }
        self._move(name, job, secondary or status, messages[status])
        job["SecondaryStatusTransitions"][-1]["EndTime"] = now
        self._cloud.store.put(KIND, name, job)

    async def _run(self, name: str, job: Document) -> None:
        folder = self._cloud.folder / KIND / name
        try:
            secondary = await TrainingRun(
                self, self._cloud, name, job, folder, self._stops[name]
            ).run()
            self._finish(
                name,
                job,
                "Completed" if secondary == "Completed" else "Stopped",
                secondary=secondary,
            )
        except JobFailedError as failure:
            self._finish(name, job, "Failed", str(failure))
        except (DataError, ClientError, BotoCoreError) as error:
            self._finish(name, job, "Failed", failure_reason(error))
        except Exception as error:  # noqa: BLE001 - logged, and becomes the FailureReason
            # An error of the emulator must end the job, because its clients would otherwise wait
            # for ever.
            _log.exception("training job %s", name)
            self._finish(
                name, job, "Failed", f"InternalServerError: {type(error).__name__}: {error}"
            )
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
