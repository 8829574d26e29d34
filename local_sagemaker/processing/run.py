"""One running processing job: its instances, its containers, its input and output."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from local_sagemaker.account.billing import Account
from local_sagemaker.account.cloud import Cloud
from local_sagemaker.account.rates import PROCESSING
from local_sagemaker.account.state import Document
from local_sagemaker.account.storage import (
    DataError,
    S3Location,
    download_all,
    failure_reason,
    host_share,
    matching_objects,
    upload_folder,
)
from local_sagemaker.faults.plan import CAPACITY_REASON, Subject
from local_sagemaker.jobs.cluster import Cluster, Ending, HostFailedError, program_of
from local_sagemaker.jobs.failures import JobFailedError
from local_sagemaker.jobs.folder_sync import FolderSync, kept_in_sync, sync_rest
from local_sagemaker.jobs.hosts import host_names
from local_sagemaker.processes.launch import Program
from local_sagemaker.processing.layout import ProcessingHost, exit_message
from local_sagemaker.processing.requests import outputs_of

KIND: Final = "processing-job"
LOG_GROUP: Final = "/aws/sagemaker/ProcessingJobs"


class ProcessingRun:
    """One job from its start to its end. `stop` ends it; `on_time_limit` is called when its time is
    over, before its containers are stopped."""

    def __init__(
        self,
        cloud: Cloud,
        job: Document,
        folder: Path,
        stop: asyncio.Event,
        on_time_limit: Callable[[], None],
    ) -> None:
        self._cloud = cloud
        self._job = job
        self._folder = folder
        self._stop = stop
        self._on_time_limit = on_time_limit
        self._cluster = job["ProcessingResources"]["ClusterConfig"]
        name, self._image = job["ProcessingJobName"], job["AppSpecification"]["ImageUri"]
        self._subject = Subject(f"job {name}", job=name, images=(self._image,))
        self._hosts: list[ProcessingHost] = []

    async def run(self) -> Ending:
        """Run the job. Raises JobFailedError, DataError, or botocore's errors of S3."""
        if self._cloud.faults.strikes("capacity", self._subject):
            raise JobFailedError(CAPACITY_REASON)
        if await self._stopped_within(self._cloud.settings.provisioning_seconds):
            return Ending.STOPPED
        self._job["ProcessingStartTime"] = self._cloud.clock.now()
        account = Account(
            PROCESSING,
            self._job["ProcessingJobArn"],
            self._cluster["InstanceType"],
            self._cluster["VolumeSizeInGB"],
        )
        billed = self._cloud.meter.begin(account, self._cluster["InstanceCount"])
        try:
            return await self._process()
        finally:
            billed.end()

    async def _stopped_within(self, seconds: float) -> bool:
        """Wait so many of AWS's seconds for the instances; whether the job is stopped meanwhile."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    self._stop.wait(), self._cloud.clock.machine_seconds(seconds)
                )
        return self._stop.is_set()

    async def _process(self) -> Ending:
        specification = self._job["AppSpecification"]
        program = await asyncio.to_thread(program_of, self._cloud, self._image, None, specification)
        await asyncio.to_thread(self._prepare)
        if self._stop.is_set():
            return Ending.STOPPED
        syncs = [
            FolderSync(
                self._cloud.s3,
                host.path_of(output["S3Output"]["LocalPath"]),
                S3Location.parse(output["S3Output"]["S3Uri"]),
                self._cloud.transfers,
                deletions=False,
                links=False,
            )
            for host in self._hosts
            for output in outputs_of(self._job)
            if output["S3Output"]["S3UploadMode"] == "Continuous"
        ]
        try:
            ending = await self._run_containers(program, syncs)
        except JobFailedError:
            await asyncio.to_thread(self._conclude, syncs, completed=False)
            raise
        completed = ending is Ending.COMPLETED
        await asyncio.to_thread(self._conclude, syncs, completed=completed)
        return ending

    def _prepare(self) -> None:
        """Give every host its configuration and its share of the inputs."""
        names = host_names(self._cluster["InstanceCount"])
        self._hosts = [
            ProcessingHost(self._folder / name, name, self._job, names) for name in names
        ]
        for each in self._job["ProcessingInputs"]:
            source = each["S3Input"]
            try:
                objects = matching_objects(self._cloud.s3, source)
                for number, host in enumerate(self._hosts):
                    share = host_share(objects, source, len(self._hosts), number)
                    folder = host.path_of(source["LocalPath"])
                    download_all(self._cloud.s3, share, folder, self._cloud.transfers)
            except (DataError, ClientError, BotoCoreError) as error:
                raise JobFailedError(
                    failure_reason(error, f"Failed to download data. {each['InputName']}: ")
                ) from error

    async def _run_containers(self, program: Program, syncs: list[FolderSync]) -> Ending:
        cluster = Cluster(self._cloud, self._hosts, self._subject, LOG_GROUP, self._stop)
        limit: float = self._job["StoppingCondition"]["MaxRuntimeInSeconds"]
        left = limit - self._cloud.clock.since(self._job["ProcessingStartTime"])
        try:
            async with kept_in_sync(syncs):
                return await cluster.run(
                    program, self._job.get("Environment", {}), left, self._on_time_limit
                )
        except HostFailedError as failure:
            name = self._hosts[failure.number].name
            raise JobFailedError(
                f"AlgorithmError: See job logs for more information: {name} ended, exit code: "
                f"{failure.exit_code}"
            ) from failure

    def _conclude(self, syncs: list[FolderSync], *, completed: bool) -> None:
        """Read the hosts' messages, and bring to S3 what is left of the outputs: those of the end
        of the job only if it `completed`."""
        if told := exit_message(self._hosts):
            self._job["ExitMessage"] = told
        sync_rest(syncs, "continuous outputs")
        if not completed:
            return
        for output in outputs_of(self._job):
            place = output["S3Output"]
            if place["S3UploadMode"] == "EndOfJob":
                target = S3Location.parse(place["S3Uri"])
                for host in self._hosts:
                    upload_folder(
                        self._cloud.s3, host.path_of(place["LocalPath"]), target, links=False
                    )
