"""One running training job: its instances, its containers, its input and output."""

from __future__ import annotations

import asyncio
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from local_sagemaker.account.billing import Account
from local_sagemaker.account.cloud import Cloud
from local_sagemaker.account.state import Document
from local_sagemaker.account.storage import (
    DataError,
    InputObject,
    S3Location,
    download_all,
    failure_reason,
    host_share,
    source_objects,
    upload,
    upload_folder,
)
from local_sagemaker.faults.plan import CAPACITY_REASON, Exposure, Subject
from local_sagemaker.jobs.cluster import Cluster, Ending, HostFailedError, program_of
from local_sagemaker.jobs.failures import JobFailedError
from local_sagemaker.jobs.folder_sync import FolderSync, kept_in_sync, sync_rest
from local_sagemaker.jobs.hosts import host_names
from local_sagemaker.processes.launch import Program
from local_sagemaker.training.layout import TrainingHost, archive
from local_sagemaker.training.requests import (
    artifacts_of,
    is_archived,
    output_of,
    seconds_trained,
    usage_of,
)

if TYPE_CHECKING:
    from local_sagemaker.training.jobs import TrainingJobs

KIND = "training-job"
LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_SECONDARY_STATUS = {
    Ending.COMPLETED: "Completed",
    Ending.STOPPED: "Stopped",
    Ending.INTERRUPTED: "Interrupted",
}


class TrainingRun:
    """One job from Starting to its end."""

    def __init__(
        self,
        jobs: TrainingJobs,
        cloud: Cloud,
        name: str,
        job: Document,
        folder: Path,
        stop: asyncio.Event,
    ) -> None:
        self._jobs = jobs
        self._cloud = cloud
        self._name = name
        self._job = job
        self._stop = stop
        self._folder = folder
        self._host_names = host_names(job["ResourceConfig"]["InstanceCount"])
        self._hosts: list[TrainingHost] = []
        self._spot: bool = job.get("EnableManagedSpotTraining", False)
        self._image: str = job["AlgorithmSpecification"]["TrainingImage"]
        self._subject = Subject(f"job {name}", job=name, images=(self._image,))
        self._interrupted = asyncio.Event()
        self._absent_seconds = 0.0

    async def run(self) -> str:
        """Run the job; returns its final secondary status. Raises JobFailedError."""
        while True:
            ended = await self._acquire()
            if ended is not None:
                return ended
            begun = self._cloud.clock.now()
            self._job.setdefault("TrainingStartTime", begun)
            self._job["Attempts"] = [*self._job.get("Attempts", []), [begun, None]]
            billed = self._cloud.meter.begin(
                Account(
                    usage_of(self._job),
                    self._job["TrainingJobArn"],
                    self._job["ResourceConfig"]["InstanceType"],
                    self._job["ResourceConfig"].get("VolumeSizeInGB", 0),
                ),
                len(self._host_names),
                self._cloud.settings.spot_billed_share if self._spot else 1.0,
            )
            try:
                ended = await self._attempt()
            finally:
                billed.end()
                self._job["Attempts"][-1][1] = self._cloud.clock.now()
            if ended != "Interrupted":
                return ended
            self._move(
                "Interrupted", "The managed spot instances of the training job were interrupted"
            )
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
            if (ended := await self._wait(self._absent_seconds)) is not None:
                return ended
            self._move("Starting", "Starting the training job")

    async def _acquire(self) -> str | None:
        """Get the instances. Returns the job's final secondary status if it does not get them.
        Raises JobFailedError."""
        if self._job["Warm"]:
            return await self._wait(0.0)
        fault = self._cloud.faults.strikes("capacity", self._subject)
        seconds = self._cloud.clock.machine_seconds(self._cloud.settings.provisioning_seconds)
        if fault is not None and not self._spot:
            raise JobFailedError(CAPACITY_REASON)
        if fault is not None:
            seconds += math.inf if fault.seconds is None else fault.seconds
        return await self._wait(seconds)

    async def _wait(self, seconds: float) -> str | None:
        """Wait without instances, in the machine's seconds. Returns the job's final secondary
        status if it is stopped or waits too long."""
        left = self._cloud.clock.machine_seconds(self._wait_seconds_left())
        if seconds <= 0 and left > 0 and not self._stop.is_set():
            return None
        try:
            await asyncio.wait_for(self._stop.wait(), max(0.0, min(seconds, left)))
        except TimeoutError:
            if left > seconds:
                return None
            self._job["TrainingJobStatus"] = "Stopping"
            self._move("Stopping", "Training job exceeded its maximum wait time")
            return "MaxWaitTimeExceeded"
        return "Stopped"

    def _wait_seconds_left(self) -> float:
        """In AWS's seconds. MaxWaitTimeInSeconds limits a spot job's waiting and running together;
        other jobs wait without limit."""
        if not self._spot:
            return math.inf
        limit: float = self._job["StoppingCondition"]["MaxWaitTimeInSeconds"]
        created: float = self._job["CreationTime"]
        return limit - self._cloud.clock.since(created)

    async def _attempt(self) -> str:
        """Run from fresh instances to the end of the training or to their interruption. Raises
        JobFailedError."""
        program = await asyncio.to_thread(self._program)
        self._move("Downloading", "Downloading input data")
        self._hosts = [TrainingHost(self._folder / name, name) for name in self._host_names]
        await asyncio.to_thread(self._download)
        syncs = await asyncio.to_thread(self._checkpoints)
        if self._stop.is_set():
            return "Stopped"
        self._move("Training", "Training image download completed. Training in progress.")
        try:
            ended = await self._train(program, syncs)
        except JobFailedError:
            await asyncio.to_thread(sync_rest, syncs, "checkpoints")
            raise
        if ended == "Interrupted":
            return ended  # data not yet in S3 are lost with the instances
        await asyncio.to_thread(sync_rest, syncs, "checkpoints")
        if ended != "MaxWaitTimeExceeded":
            self._move("Uploading", "Uploading generated training model")
            await asyncio.to_thread(self._upload)
        return ended

    def _move(self, secondary: str, message: str) -> None:
        self._jobs._move(self._name, self._job, secondary, message)

    def _program(self) -> Program:
        """The default entry point of training is `train`."""
        return program_of(self._cloud, self._image, "train", self._job["AlgorithmSpecification"])

    def _download(self) -> None:
        for host in self._hosts:
            host.write_configuration(self._job, self._host_names)
        for channel in self._job.get("InputDataConfig", []):
            source = channel["DataSource"]["S3DataSource"]
            objects = source_objects(self._cloud.s3, source)
            for number, host in enumerate(self._hosts):
                share = host_share(objects, source, len(self._hosts), number)
                self._download_share(channel["ChannelName"], share, host)

    def _download_share(self, channel: str, share: list[InputObject], host: TrainingHost) -> None:
        try:
            download_all(self._cloud.s3, share, host.channel(channel), self._cloud.transfers)
        except (DataError, ClientError) as error:
            raise JobFailedError(
                failure_reason(error, f"Data download failed: channel {channel}: ")
            ) from error

    def _checkpoints(self) -> list[FolderSync]:
        config = self._job.get("CheckpointConfig")
        if config is None:
            return []
        syncs = []
        for host in self._hosts:
            folder = host.path_of(config.get("LocalPath", "/opt/ml/checkpoints"))
            folder.mkdir(parents=True, exist_ok=True)
            sync = FolderSync(
                self._cloud.s3, folder, S3Location.parse(config["S3Uri"]), self._cloud.transfers
            )
            sync.copy_in()
            syncs.append(sync)
        return syncs

    async def _train(self, program: Program, syncs: list[FolderSync]) -> str:
        run_seconds = self._job["StoppingCondition"]["MaxRuntimeInSeconds"] - seconds_trained(
            self._job, self._cloud.clock
        )
        wait_seconds = self._wait_seconds_left()

        def time_is_over() -> None:
            what = "runtime" if run_seconds <= wait_seconds else "wait time"
            self._job["TrainingJobStatus"] = "Stopping"
            self._move("Stopping", f"Training job reached its maximum {what}")

        cluster = Cluster(
            self._cloud, self._hosts, self._subject, LOG_GROUP, self._stop, self._interrupted
        )
        environment = {
            **self._job.get("Environment", {}),
            "SAGEMAKER_REGION": self._cloud.settings.region,
            "TRAINING_JOB_NAME": self._name,
            "TRAINING_JOB_ARN": self._job["TrainingJobArn"],
        }
        exposure = self._expose_to_interruption()
        try:
            async with kept_in_sync(syncs):
                ending = await cluster.run(
                    program, environment, min(run_seconds, wait_seconds), time_is_over
                )
        except HostFailedError as failure:
            raise JobFailedError(self._failure_reason(failure)) from failure
        finally:
            if exposure is not None:
                exposure.withdraw()
        if ending is Ending.TIME_LIMIT:
            return "MaxRuntimeExceeded" if run_seconds <= wait_seconds else "MaxWaitTimeExceeded"
        return _SECONDARY_STATUS[ending]

    def _expose_to_interruption(self) -> Exposure | None:
        if not self._spot:
            return None
        self._interrupted.clear()

        def interrupt(seconds: float | None) -> bool:
            self._absent_seconds = seconds or 0.0
            self._interrupted.set()
            return True

        return self._cloud.faults.expose(self._subject, {"spot_interruption": interrupt})

    def _failure_reason(self, failure: HostFailedError) -> str:
        host = self._hosts[failure.number]
        return host.failure() or (
            f"AlgorithmError: {host.name} ended without a failure file, exit code: "
            f"{failure.exit_code}"
        )

    def _upload(self) -> None:
        artifacts = artifacts_of(self._job)
        folders = [host.model for host in self._hosts]
        if is_archived(self._job):
            self._upload_archive(folders, artifacts, even_if_empty=True)
        else:
            for folder in reversed(folders):
                upload_folder(self._cloud.s3, folder, artifacts)
        self._upload_archive(
            [host.output_data for host in self._hosts],
            output_of(self._job).child("output.tar.gz"),
            even_if_empty=False,
        )

    def _upload_archive(
        self, folders: list[Path], target: S3Location, *, even_if_empty: bool
    ) -> None:
        path = self._folder / "archive.tar.gz"
        if archive(folders, path) or even_if_empty:
            upload(self._cloud.s3, path, target)
