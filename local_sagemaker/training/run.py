"""One running training job: its instances, its containers, its input and output."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from local_sagemaker.account.billing import Account
from local_sagemaker.account.cloud import Cloud
from local_sagemaker.account.logs import LogStream
from local_sagemaker.account.state import Document
from local_sagemaker.account.storage import (
    DataError,
    InputObject,
    S3Location,
    download_all,
    failure_reason,
    list_prefix,
    read_manifest,
    shard,
    upload,
    upload_folder,
)
from local_sagemaker.errors import LocalSageMakerError
from local_sagemaker.faults.plan import CAPACITY_REASON, ContainerFaults, Exposure, Subject
from local_sagemaker.processes.containers import Container
from local_sagemaker.processes.launch import ImagesError, Program
from local_sagemaker.training.checkpoints import CheckpointSync
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

_log = logging.getLogger(__name__)
KIND = "training-job"
LOG_GROUP = "/aws/sagemaker/TrainingJobs"
STOP_GRACE_SECONDS = 120
"""Seconds between SIGTERM and SIGKILL (your-algorithms-training-algo-running-container: how a
training image is stopped)."""
CHECKPOINT_SYNC_SECONDS = 1.0
_LONGEST_RUNTIME_SECONDS = 28 * 24 * 3600
_DEFAULT_RUNTIME_SECONDS = 24 * 3600


class JobFailedError(LocalSageMakerError):
    """The job ends as Failed, with the message as FailureReason."""


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
        self._host_names = [
            f"algo-{number}" for number in range(1, job["ResourceConfig"]["InstanceCount"] + 1)
        ]
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
            await asyncio.to_thread(_sync_rest, syncs)
            raise
        if ended == "Interrupted":
            return ended  # data not yet in S3 are lost with the instances
        await asyncio.to_thread(_sync_rest, syncs)
        if ended != "MaxWaitTimeExceeded":
            self._move("Uploading", "Uploading generated training model")
            await asyncio.to_thread(self._upload)
        return ended

    def _move(self, secondary: str, message: str) -> None:
        self._jobs._move(self._name, self._job, secondary, message)

    def _program(self) -> Program:
        """ContainerEntrypoint and ContainerArguments as AWS documents them; the default entry point
        is `train`."""
        algorithm = self._job["AlgorithmSpecification"]
        try:
            return self._cloud.runtime.images.program(
                algorithm["TrainingImage"],
                "train",
                algorithm.get("ContainerEntrypoint"),
                algorithm.get("ContainerArguments", []),
            )
        except ImagesError as error:
            raise JobFailedError(
                f"ClientError: Cannot pull algorithm container: {error}"
            ) from error

    def _download(self) -> None:
        for host in self._hosts:
            host.write_configuration(self._job, self._host_names)
        for channel in self._job.get("InputDataConfig", []):
            source = channel["DataSource"]["S3DataSource"]
            location = S3Location.parse(source["S3Uri"])
            manifest = source["S3DataType"] == "ManifestFile"
            objects = (
                read_manifest(self._cloud.s3, location)
                if manifest
                else list_prefix(self._cloud.s3, location)
            )
            for number, host in enumerate(self._hosts):
                share = objects
                if source.get("S3DataDistributionType") == "ShardedByS3Key":
                    share = shard(objects, len(self._hosts), number)
                self._download_share(channel["ChannelName"], share, host)

    def _download_share(self, channel: str, share: list[InputObject], host: TrainingHost) -> None:
        try:
            download_all(self._cloud.s3, share, host.channel(channel), self._cloud.transfers)
        except (DataError, ClientError) as error:
            raise JobFailedError(
                failure_reason(error, f"Data download failed: channel {channel}: ")
            ) from error

    def _checkpoints(self) -> list[CheckpointSync]:
        config = self._job.get("CheckpointConfig")
        if config is None:
            return []
        syncs = []
        for host in self._hosts:
            folder = host.path_of(config.get("LocalPath", "/opt/ml/checkpoints"))
            folder.mkdir(parents=True, exist_ok=True)
            sync = CheckpointSync(
                self._cloud.s3, folder, S3Location.parse(config["S3Uri"]), self._cloud.transfers
            )
            sync.copy_in()
            syncs.append(sync)
        return syncs

    async def _train(self, program: Program, syncs: list[CheckpointSync]) -> str:
        epoch = int(self._cloud.clock.now())
        logs = [
            self._cloud.log_stream(LOG_GROUP, f"{self._name}/{host}-{epoch}")
            for host in self._host_names
        ]
        containers: list[Container] = []
        faults: list[ContainerFaults] = []
        ended = asyncio.Event()
        syncing = asyncio.create_task(_keep_syncing(syncs, ended))
        exposure = self._expose_to_interruption()
        try:
            for host, log in zip(self._hosts, logs, strict=True):
                container = await self._start(program, host, log)
                containers.append(container)
                subject = Subject(
                    f"{self._subject.where}/{host.name}", job=self._name, images=(self._image,)
                )
                faults.append(ContainerFaults(self._cloud.faults, subject, container, serves=False))
            return await self._watch(containers)
        except (ImagesError, OSError) as error:
            raise JobFailedError(
                f"ClientError: the container could not be started: {error}"
            ) from error
        finally:
            if exposure is not None:
                exposure.withdraw()
            for fault in faults:
                fault.withdraw()
            ended.set()
            # Stop every container after any end of the training, such as a failed host or the
            # emulator's end.
            await asyncio.gather(*(container.stop(0) for container in containers))
            # Let the current round of syncing end first, because the folders must not disappear
            # during it.
            await asyncio.gather(syncing, *(log.close() for log in logs), return_exceptions=True)

    def _expose_to_interruption(self) -> Exposure | None:
        if not self._spot:
            return None
        self._interrupted.clear()

        def interrupt(seconds: float | None) -> bool:
            self._absent_seconds = seconds or 0.0
            self._interrupted.set()
            return True

        return self._cloud.faults.expose(self._subject, {"spot_interruption": interrupt})

    async def _start(self, program: Program, host: TrainingHost, log: LogStream) -> Container:
        environment = {
            **self._job.get("Environment", {}),
            "SAGEMAKER_REGION": self._cloud.settings.region,
            "TRAINING_JOB_NAME": self._name,
            "TRAINING_JOB_ARN": self._job["TrainingJobArn"],
        }
        return await self._cloud.runtime.start(program, host.base, environment, log.write)

    async def _watch(self, containers: list[Container]) -> str:
        """Wait for the end of all hosts, the first failure, a stop, an interruption, or the time
        limit."""
        run_seconds = self._job["StoppingCondition"]["MaxRuntimeInSeconds"] - seconds_trained(
            self._job, self._cloud.clock
        )
        allowed = min(run_seconds, self._wait_seconds_left())
        deadline = self._cloud.clock.ticks() + max(0.0, allowed)
        running = {
            asyncio.create_task(container.wait()): number
            for number, container in enumerate(containers)
        }
        stop = asyncio.create_task(self._stop.wait())
        interruption = asyncio.create_task(self._interrupted.wait())
        try:
            while running:
                left = self._cloud.clock.machine_seconds(deadline - self._cloud.clock.ticks())
                done, _ = await asyncio.wait(
                    {*running, stop, interruption},
                    timeout=max(0.0, left),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if stop in done:
                    await self._end(containers)
                    return "Stopped"
                if interruption in done:
                    return "Interrupted"
                if not done:
                    what = "runtime" if run_seconds <= allowed else "wait time"
                    self._job["TrainingJobStatus"] = "Stopping"
                    self._move("Stopping", f"Training job reached its maximum {what}")
                    await self._end(containers)
                    return "MaxRuntimeExceeded" if run_seconds <= allowed else "MaxWaitTimeExceeded"
                for task in done:
                    number = running.pop(task)
                    if task.result() != 0:
                        raise JobFailedError(self._failure_reason(number, int(task.result())))
            return "Completed"
        finally:
            for task in (stop, interruption, *running):
                task.cancel()

    async def _end(self, containers: list[Container]) -> None:
        await asyncio.gather(*(container.stop(STOP_GRACE_SECONDS) for container in containers))

    def _failure_reason(self, number: int, exit_code: int) -> str:
        host = self._hosts[number]
        return (
            host.failure()
            or f"AlgorithmError: {host.name} ended without a failure file, exit code: {exit_code}"
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


async def _keep_syncing(syncs: list[CheckpointSync], ended: asyncio.Event) -> None:
    while syncs and not ended.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), CHECKPOINT_SYNC_SECONDS)
            return
        for sync in syncs:
            try:
                await asyncio.to_thread(sync.sync_out)
            except (ClientError, BotoCoreError, OSError) as error:
                # A folder that disappears while it is read raises OSError; the next round reads the
                # current state.
                _log.warning("checkpoints could not be synced, trying again: %s", error)


def _sync_rest(syncs: Iterable[CheckpointSync], attempts: int = 5) -> None:
    """Sync the rest that the last round missed, after the containers have ended."""
    for sync in syncs:
        for _ in range(attempts):
            if not sync.sync_out():
                break
        else:
            raise JobFailedError(
                f"InternalServerError: checkpoints could not be uploaded in {attempts} attempts"
            )
