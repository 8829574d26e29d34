"""Managed warm pools: the instances of an ended training job wait for a matching job.

Source: docs.aws.amazon.com/sagemaker/latest/dg/train-warm-pools.html (life cycle, what matches,
what is retained), …/train-warm-pools-resource-limits.html (without a quota nothing is retained and
nothing is refused; retained instances count towards the training quota too) and
…/APIReference/API_WarmPoolStatus.html.
"""

import asyncio
import contextlib
from typing import Any

from local_sagemaker.account.billing import Account, Running
from local_sagemaker.account.cloud import Cloud, caller
from local_sagemaker.account.rates import TRAINING, WARM_POOL
from local_sagemaker.account.state import Document
from local_sagemaker.errors import ServiceError, validation

_LONGEST_CHAIN_SECONDS = 28 * 24 * 3600.0
"""The longest time that one cluster may pass from job to job (train-warm-pools.html, "Maximum warm
pool duration")."""


class WarmPools:
    """The pools of all training jobs; a job's document contains its pool. `kind` is the store's
    name for training jobs."""

    def __init__(self, cloud: Cloud, kind: str) -> None:
        self._cloud = cloud
        self._kind = kind
        self._expiries: dict[str, asyncio.TimerHandle] = {}
        self._meters: dict[str, Running] = {}

    def start(self) -> None:
        """After a restart, pools keep waiting until their time is over."""
        for name, job in self._cloud.store.all(self._kind):
            if _status(job) == "Available":
                try:
                    self._cloud.quota(TRAINING).hold(name, _instances(job))
                    self._cloud.quota(WARM_POOL).hold(name, _instances(job))
                except ServiceError:
                    self._terminate(name)
                else:
                    self._wait(name, job)

    def close(self) -> None:
        """Stop waiting; available pools stay available on disk."""
        for expiry in self._expiries.values():
            expiry.cancel()
        self._expiries.clear()
        for meter in self._meters.values():
            meter.end()
        self._meters.clear()

    def holds(self, name: str) -> bool:
        """Whether this job's instances are retained now."""
        return name in self._expiries

    def take(self, name: str, job: Document) -> bool:
        """Give the oldest matching pool to a new job, if there is one; the job then has its
        instances at once."""
        job["WarmPoolKey"] = _key(job)
        job["ClusterStartTime"] = self._cloud.clock.now()
        for former, old in self._cloud.store.all(self._kind):
            if _status(old) == "Available" and old["WarmPoolKey"] == job["WarmPoolKey"]:
                if self._cloud.clock.since(old["ClusterStartTime"]) > _LONGEST_CHAIN_SECONDS:
                    continue
                job["ClusterStartTime"] = old["ClusterStartTime"]
                self._leave(former, old, {"Status": "Reused", "ReusedByJob": name})
                job["WarmPoolStatus"] = {"Status": "InUse"}
                return True
        if job["ResourceConfig"].get("KeepAlivePeriodInSeconds"):
            job["WarmPoolStatus"] = {"Status": "InUse"}
        return False

    def retain(self, name: str, job: Document, *, healthy: bool) -> None:
        """Retain an ending job's instances for the next job, if the job asked for it, they are
        `healthy`, and the quota allows it."""
        if "WarmPoolStatus" not in job:
            return
        seconds = job["ResourceConfig"].get("KeepAlivePeriodInSeconds", 0)
        retained = {"Status": "Terminated", "ResourceRetainedBillableTimeInSeconds": 0}
        if seconds and healthy and "TrainingStartTime" in job:
            # As on AWS, a pool is created only within the quota; beyond it there is no error.
            with contextlib.suppress(ServiceError):
                self._cloud.quota(WARM_POOL).hold(name, _instances(job))
                retained["Status"] = "Available"
                job["RetainedSince"] = self._cloud.clock.now()
                self._wait(name, job)
        job["WarmPoolStatus"] = retained

    def described(self, job: Document) -> Document:
        """The job with the seconds for which its pool has been retained so far."""
        if _status(job) != "Available":
            return job
        return job | {"WarmPoolStatus": {"Status": "Available", **self._retained(job)}}

    def update(self, name: str, job: Document, seconds: int) -> None:
        """UpdateTrainingJob: set KeepAlivePeriodInSeconds; 0 ends the pool. Raises
        ValidationException."""
        if _status(job) not in ("InUse", "Available"):
            raise validation(
                f"The training job {name} has no warm pool that could be updated; its status is "
                f"{_status(job) or 'none'}."
            )
        job["ResourceConfig"]["KeepAlivePeriodInSeconds"] = seconds
        self._cloud.store.put(self._kind, name, job)
        if _status(job) == "Available":
            self._expiries.pop(name).cancel()
            self._wait(name, job)

    def _wait(self, name: str, job: Document) -> None:
        """Keep an available pool until its time is over."""
        resources = job["ResourceConfig"]
        if name not in self._meters:
            account = Account(
                WARM_POOL,
                job["TrainingJobArn"],
                resources["InstanceType"],
                resources.get("VolumeSizeInGB", 0),
            )
            self._meters[name] = self._cloud.meter.begin(account, resources["InstanceCount"])
        left = resources["KeepAlivePeriodInSeconds"] - self._cloud.clock.since(job["RetainedSince"])
        self._expiries[name] = self._cloud.clock.call_later(max(0.0, left), self._terminate, name)

    def _terminate(self, name: str) -> None:
        job = self._cloud.store.get(self._kind, name)
        if job is not None:
            self._leave(name, job, {"Status": "Terminated"})

    def _leave(self, name: str, job: Document, status: dict[str, Any]) -> None:
        """End a pool's availability; its instances are released or belong to another job."""
        if expiry := self._expiries.pop(name, None):
            expiry.cancel()
        if meter := self._meters.pop(name, None):
            meter.end()
        job["WarmPoolStatus"] = status | self._retained(job)
        self._cloud.store.put(self._kind, name, job)
        self._cloud.quota(TRAINING).release(name)
        self._cloud.quota(WARM_POOL).release(name)

    def _retained(self, job: Document) -> dict[str, int]:
        seconds = self._cloud.clock.since(job["RetainedSince"])
        return {"ResourceRetainedBillableTimeInSeconds": round(seconds)}


def _status(job: Document) -> str | None:
    status: str | None = job.get("WarmPoolStatus", {}).get("Status")
    return status


def _instances(job: Document) -> dict[str, int]:
    return {job["ResourceConfig"]["InstanceType"]: job["ResourceConfig"]["InstanceCount"]}


def _key(job: Document) -> list[Any]:
    """The properties that two jobs must share ("Matching training jobs").

    The emulator cannot read session tags. Callers of one session have the same tags, so with tag
    chaining the session itself must be the same.
    """
    resources = job["ResourceConfig"]
    vpc = job.get("VpcConfig") or {}
    chained = job.get("SessionChainingConfig", {}).get("EnableSessionTagChaining", False)
    return [
        job["RoleArn"],
        resources["InstanceType"],
        resources["InstanceCount"],
        resources["VolumeSizeInGB"],
        resources.get("VolumeKmsKeyId"),
        sorted(vpc.get("Subnets", [])),
        sorted(vpc.get("SecurityGroupIds", [])),
        job.get("EnableInterContainerTrafficEncryption", False),
        job.get("EnableNetworkIsolation", False),
        job.get("EnableManagedSpotTraining", False),
        caller.get() if chained else None,
    ]
