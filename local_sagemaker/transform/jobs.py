"""Batch transform: CreateTransformJob, DescribeTransformJob, ListTransformJobs, StopTransformJob.

Sources: docs.aws.amazon.com/sagemaker/latest/dg/batch-transform.html,
…/your-algorithms-batch-code.html and …/APIReference/API_CreateTransformJob.html. Objects are spread
over the instances. An object's output is written only when the whole object succeeds. One failed
object fails the job, but the outputs of the others stay. If the emulator ends during a job, the
next start marks the job Failed with an InternalServerError.
"""

import asyncio
import gzip
import json
import logging
import shutil
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local_sagemaker.account.billing import Account
from local_sagemaker.account.cloud import Cloud, Operation, page
from local_sagemaker.account.rates import TRANSFORM
from local_sagemaker.account.state import Document
from local_sagemaker.account.storage import (
    DataError,
    InputObject,
    S3Location,
    download,
    failure_reason,
    matching_objects,
    shard,
    upload,
)
from local_sagemaker.clock import MACHINE
from local_sagemaker.endpoints.instances import Instance
from local_sagemaker.endpoints.models import Models, ModelSpec
from local_sagemaker.endpoints.pipeline import Invocation
from local_sagemaker.endpoints.serving_containers import InstanceFailedError, ServingContainer
from local_sagemaker.errors import ServiceError, not_emulated, validation
from local_sagemaker.faults.plan import CAPACITY_REASON, NoCapacityError, Subject
from local_sagemaker.http.client import ContainerUnreachableError
from local_sagemaker.jobs.failures import FAILURE_LIMIT_CHARACTERS, RESTARTED
from local_sagemaker.transform.records import (
    DataProcessing,
    RecordError,
    assemble,
    batches,
    split_lines,
)

_log = logging.getLogger(__name__)
KIND = "transform-job"
LOG_GROUP = "/aws/sagemaker/TransformJobs"
_DEFAULT_PAYLOAD_MB = 6
_PAYLOAD_LIMIT_MB = 100
_DEFAULT_TIMEOUT_SECONDS = 600
_DEFAULT_RETRIES = 3
_RETRY_PAUSE_SECONDS = 0.2
_MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class _Plan:
    """How objects become requests."""

    split: bool
    single: bool
    payload_bytes: int
    concurrency: int
    timeout_seconds: float
    retries: int
    headers: dict[str, str]
    by_line: bool
    gzip: bool
    processing: DataProcessing | None


class TransformJobs:
    """All transform jobs of the account, and the tasks of the running ones."""

    def __init__(self, cloud: Cloud, models: Models) -> None:
        self._cloud = cloud
        self._models = models
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.operations: dict[str, Operation] = {
            "CreateTransformJob": self.create,
            "DescribeTransformJob": self.describe,
            "ListTransformJobs": self.list_page,
            "StopTransformJob": self.stop,
        }

    def start(self) -> None:
        """After a restart, mark jobs in progress Failed, because their containers are gone."""
        for name, job in self._cloud.store.all(KIND):
            if job["TransformJobStatus"] in ("InProgress", "Stopping"):
                self._finish(name, job, "Failed", RESTARTED)

    async def close(self) -> None:
        """Kill the instances of every job in progress."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def create(self, params: dict[str, Any]) -> dict[str, Any]:
        """CreateTransformJob: check the request, store it, and start the job."""
        name = params["TransformJobName"]
        arn = self._cloud.arn(KIND, name)
        if self._cloud.taken(KIND, name):
            raise ServiceError(
                "ResourceInUse",
                "Transform job names must be unique within an AWS account and region, "
                f"and a transform job with this name already exists ({arn})",
            )
        _check_request(params)
        model = self._models.get(params["ModelName"])
        spec = ModelSpec.parse(model)
        if spec.direct:
            raise validation("Batch transform does not support models with direct invocation")
        if spec.multi_model:
            raise validation("Batch transform does not support multi-model containers")
        resources = params["TransformResources"]
        self._cloud.quota(TRANSFORM).hold(
            name, {resources["InstanceType"]: resources["InstanceCount"]}
        )
        now = self._cloud.clock.now()
        job = {key: value for key, value in params.items() if key != "Tags"} | {
            "TransformJobArn": arn,
            "TransformJobStatus": "InProgress",
            "CreationTime": now,
            "LastModifiedTime": now,
        }
        self._cloud.store.put(KIND, name, job)
        self._cloud.put_tags(arn, params.get("Tags"))
        task = asyncio.create_task(self._run(name, job, spec))
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._forget(name))
        return {"TransformJobArn": arn}

    async def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeTransformJob."""
        return self._job(params["TransformJobName"])

    async def list_page(self, params: dict[str, Any]) -> dict[str, Any]:
        """ListTransformJobs."""
        jobs, token = page(self._cloud.store.all(KIND), params, status="TransformJobStatus")
        return {"TransformJobSummaries": jobs, "NextToken": token}

    async def stop(self, params: dict[str, Any]) -> dict[str, Any]:
        """StopTransformJob: stop the containers; the outputs of finished objects stay."""
        name = params["TransformJobName"]
        job = self._job(name)
        if job["TransformJobStatus"] not in ("InProgress", "Stopping"):
            raise validation(
                f"The request was rejected because the transform job is in status "
                f"{job['TransformJobStatus']}."
            )
        if job["TransformJobStatus"] == "InProgress":
            job["TransformJobStatus"] = "Stopping"
            self._cloud.store.put(KIND, name, job)
            self._tasks[name].cancel()
        return {}

    def _job(self, name: str) -> Document:
        job = self._cloud.store.get(KIND, name)
        if job is None:
            raise validation(f"Could not find requested job with name: {name}")
        return job

    def _forget(self, name: str) -> None:
        self._tasks.pop(name, None)
        self._cloud.quota(TRANSFORM).release(name)

    def _finish(self, name: str, job: Document, status: str, reason: str | None = None) -> None:
        job["TransformJobStatus"] = status
        job["TransformEndTime"] = job["LastModifiedTime"] = self._cloud.clock.now()
        if reason is not None:
            job["FailureReason"] = reason[:FAILURE_LIMIT_CHARACTERS]
        self._cloud.store.put(KIND, name, job)

    async def _run(self, name: str, job: Document, spec: ModelSpec) -> None:
        folder = self._cloud.folder / KIND / name
        try:
            failures = await _Run(self._cloud, name, job, spec, folder).run()
            if failures:
                self._finish(name, job, "Failed", f"ClientError: {failures}")
            else:
                self._finish(name, job, "Completed")
        except asyncio.CancelledError:
            if job["TransformJobStatus"] != "Stopping":
                raise
            self._finish(name, job, "Stopped")
        except NoCapacityError as failure:
            self._finish(name, job, "Failed", str(failure))
        except InstanceFailedError as failure:
            self._finish(name, job, "Failed", f"AlgorithmError: {failure}")
        except (DataError, ClientError, BotoCoreError) as error:
            self._finish(name, job, "Failed", failure_reason(error))
        except Exception as error:  # noqa: BLE001 - logged, and becomes the FailureReason
            _log.exception("transform job %s", name)
            self._finish(
                name, job, "Failed", f"InternalServerError: {type(error).__name__}: {error}"
            )
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


class _Run:
    """One job from its start to its end."""

    def __init__(
        self, cloud: Cloud, name: str, job: Document, spec: ModelSpec, folder: Path
    ) -> None:
        self._cloud = cloud
        self._name = name
        self._job = job
        self._spec = spec
        self._folder = folder

    async def run(self) -> str:
        """Run the job; returns a report of the failed objects, empty when none failed."""
        if self._cloud.faults.strikes(
            "capacity", Subject(f"job {self._name}", job=self._name, images=self._spec.images)
        ):
            raise NoCapacityError(CAPACITY_REASON)
        objects = await asyncio.to_thread(self._inputs)
        self._job["TransformStartTime"] = self._cloud.clock.now()
        count = self._job["TransformResources"]["InstanceCount"]
        shares = [share for number in range(count) if (share := shard(objects, count, number))]
        async with self._instances(len(shares)) as instances:
            plan = _plan(self._job, await _execution_parameters(instances[0].containers[0]))
            work = [
                self._share(instance, share, plan)
                for instance, share in zip(instances, shares, strict=True)
            ]
            failures = [failure for failed in await asyncio.gather(*work) for failure in failed]
        if not failures:
            return ""
        return (
            f"{len(failures)} of {len(objects)} input objects failed. See job logs for more "
            f"information. {'; '.join(failures)}"
        )

    def _inputs(self) -> list[InputObject]:
        source = self._job["TransformInput"]["DataSource"]["S3DataSource"]
        return matching_objects(self._cloud.s3, source)

    @asynccontextmanager
    async def _instances(self, count: int) -> AsyncIterator[list[Instance]]:
        environment = _environment(self._job)
        subjects = [
            Subject(f"job {self._name}/{number}", job=self._name, images=self._spec.images)
            for number in range(1, count + 1)
        ]
        account = Account(
            TRANSFORM, self._job["TransformJobArn"], self._job["TransformResources"]["InstanceType"]
        )
        instances = [
            Instance(self._cloud, self._spec, LOG_GROUP, self._name, environment, subject, account)
            for subject in subjects
        ]
        try:
            starts = await asyncio.gather(
                *(instance.start() for instance in instances), return_exceptions=True
            )
            for outcome in starts:
                if isinstance(outcome, BaseException):
                    raise outcome
            yield instances
        finally:
            await asyncio.gather(*(instance.stop(5.0) for instance in instances))

    async def _share(self, instance: Instance, share: list[InputObject], plan: _Plan) -> list[str]:
        """Transform an instance's objects, several at a time; returns the reason for each failed
        one."""
        requests = asyncio.Semaphore(plan.concurrency)
        objects = asyncio.Semaphore(plan.concurrency)

        async def attempt(number: int, item: InputObject) -> str | None:
            async with objects:
                try:
                    await self._transform(
                        instance, item, self._folder / instance.id / str(number), plan, requests
                    )
                except (RecordError, DataError, ClientError) as error:
                    return f"{item.location.uri}: {error}"
                return None

        return [
            failure
            for failure in await asyncio.gather(
                *(attempt(number, item) for number, item in enumerate(share))
            )
            if failure
        ]

    async def _transform(
        self,
        instance: Instance,
        item: InputObject,
        scratch: Path,
        plan: _Plan,
        requests: asyncio.Semaphore,
    ) -> None:
        source, result = scratch.with_suffix(".in"), scratch.with_suffix(".out")
        await asyncio.to_thread(download, self._cloud.s3, item.location, source)
        waiting: deque[asyncio.Task[bytes]] = deque()
        try:
            with result.open("wb") as file:
                for batch in _batches_of(source, plan):
                    answer = self._answer_to(instance, batch, plan, requests)
                    waiting.append(asyncio.create_task(answer))
                    if len(waiting) > plan.concurrency:
                        file.write(await waiting.popleft())
                while waiting:
                    file.write(await waiting.popleft())
            target = S3Location.parse(self._job["TransformOutput"]["S3OutputPath"]).child(
                f"{item.name}.out"
            )
            await asyncio.to_thread(upload, self._cloud.s3, result, target)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            source.unlink(missing_ok=True)
            result.unlink(missing_ok=True)

    async def _answer_to(
        self, instance: Instance, batch: list[bytes], plan: _Plan, requests: asyncio.Semaphore
    ) -> bytes:
        """The output of one mini-batch. Raises RecordError when a container refuses it or fails too
        often."""
        records = plan.processing.request(batch) if plan.processing else batch
        body = b"\n".join(records) + b"\n" if plan.split else records[0]
        async with requests:
            output = await self._send(instance, body, plan)
        if plan.processing is None:
            return assemble(output, by_line=plan.by_line)
        outputs = [line for line in output.split(b"\n") if line] if plan.split else [output]
        results = plan.processing.output(batch, outputs)
        return b"".join(assemble(result, by_line=plan.by_line) for result in results)

    async def _send(self, instance: Instance, body: bytes, plan: _Plan) -> bytes:
        for attempt in range(plan.retries + 1):
            invocation = Invocation(self._cloud.clock, instance.containers)
            try:
                answer = await invocation.send(plan.headers, body, plan.timeout_seconds)
            except TimeoutError:
                failure = (
                    f"the {invocation.at.named} did not answer within {plan.timeout_seconds:.0f} "
                    f"seconds"
                )
            except ContainerUnreachableError as error:
                failure = f"the {invocation.at.named} did not answer: {error}"
            else:
                if answer.status == 200:
                    return answer.body
                failure = f"the {invocation.at.named} answered {answer.status}: {answer.text[:300]}"
                if answer.status < 500:
                    break
            if attempt < plan.retries:
                await MACHINE.sleep(_RETRY_PAUSE_SECONDS * 2**attempt)
        raise RecordError(failure)


def _batches_of(path: Path, plan: _Plan) -> Iterator[list[bytes]]:
    """The mini-batches of one object. Raises RecordError."""
    try:
        with gzip.open(path) if plan.gzip else path.open("rb") as file:
            if plan.split:
                chunks: Iterable[bytes] = iter(lambda: file.read(_MEGABYTE), b"")
                yield from batches(split_lines(chunks), plan.payload_bytes, single=plan.single)
            else:
                yield from batches(
                    [file.read(plan.payload_bytes + 1)], plan.payload_bytes, single=True
                )
    except (gzip.BadGzipFile, EOFError) as error:
        raise RecordError(f"the object is no gzip file: {error}") from error


async def _execution_parameters(container: ServingContainer) -> dict[str, Any]:
    """The recommendations of the container that gets the mini-batches, if any (optional by
    …/your-algorithms-batch-code.html)."""
    try:
        answer = await container.client.request("GET", "/execution-parameters", within=2.0)
        parameters = json.loads(answer.body) if answer.status == 200 else {}
    except (ContainerUnreachableError, TimeoutError, ValueError):
        return {}
    return parameters if isinstance(parameters, dict) else {}


def _plan(job: Document, recommended: dict[str, Any]) -> _Plan:
    """The request's own values, otherwise the container's, otherwise the documented defaults.
    Raises DataError for an unusable recommendation."""
    source, output = job["TransformInput"], job["TransformOutput"]
    client = job.get("ModelClientConfig", {})
    strategy = job.get("BatchStrategy") or recommended.get("BatchStrategy") or "MultiRecord"
    payload_mb = (
        job.get("MaxPayloadInMB") or recommended.get("MaxPayloadInMB") or _DEFAULT_PAYLOAD_MB
    )
    concurrency = (
        job.get("MaxConcurrentTransforms") or recommended.get("MaxConcurrentTransforms") or 1
    )
    if (
        not isinstance(payload_mb, int)
        or not isinstance(concurrency, int)
        or payload_mb < 1
        or concurrency < 1
    ):
        raise DataError(
            f"GET /execution-parameters answers {recommended!r}; MaxPayloadInMB and "
            f"MaxConcurrentTransforms are whole numbers"
        )
    headers = {"content-type": source.get("ContentType"), "accept": output.get("Accept")}
    return _Plan(
        split=source.get("SplitType") == "Line",
        single=strategy in ("SingleRecord", "SINGLE_RECORD"),
        payload_bytes=payload_mb * _MEGABYTE,
        concurrency=concurrency,
        timeout_seconds=client.get("InvocationsTimeoutInSeconds", _DEFAULT_TIMEOUT_SECONDS),
        retries=client.get("InvocationsMaxRetries", _DEFAULT_RETRIES),
        headers={name: value for name, value in headers.items() if value},
        by_line=output.get("AssembleWith") == "Line",
        gzip=source.get("CompressionType") == "Gzip",
        processing=DataProcessing.parse(job.get("DataProcessing", {}), source.get("ContentType")),
    )


def _environment(job: Document) -> dict[str, str]:
    environment = {
        **job.get("Environment", {}),
        "SAGEMAKER_BATCH": "true",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": str(job.get("MaxPayloadInMB", _DEFAULT_PAYLOAD_MB)),
        "SAGEMAKER_BATCH_STRATEGY": "SINGLE_RECORD"
        if job.get("BatchStrategy") == "SingleRecord"
        else "MULTI_RECORD",
    }
    if job.get("MaxConcurrentTransforms"):
        environment["SAGEMAKER_MAX_CONCURRENT_TRANSFORMS"] = str(job["MaxConcurrentTransforms"])
    return environment


def _check_request(params: dict[str, Any]) -> None:
    """Check the rules that the service model lacks. Raises ValidationException."""
    source, output = params["TransformInput"], params["TransformOutput"]
    data = source["DataSource"]["S3DataSource"]
    payload_mb = params.get("MaxPayloadInMB", _DEFAULT_PAYLOAD_MB)
    if payload_mb == 0:
        raise not_emulated("MaxPayloadInMB 0 (payloads without a limit)")
    if payload_mb > _PAYLOAD_LIMIT_MB:
        raise validation(f"MaxPayloadInMB must be at most {_PAYLOAD_LIMIT_MB}")
    if payload_mb * (params.get("MaxConcurrentTransforms") or 1) > _PAYLOAD_LIMIT_MB:
        raise validation(
            f"MaxConcurrentTransforms * MaxPayloadInMB must be at most {_PAYLOAD_LIMIT_MB} MB"
        )
    if params.get("BatchStrategy") == "MultiRecord" and source.get("SplitType", "None") == "None":
        raise validation("BatchStrategy MultiRecord needs a SplitType other than None")
    try:
        S3Location.parse(data["S3Uri"])
        S3Location.parse(output["S3OutputPath"])
        processing = DataProcessing.parse(
            params.get("DataProcessing", {}), source.get("ContentType")
        )
    except (DataError, RecordError) as error:
        raise validation(str(error)) from error
    if (
        processing
        and source.get("SplitType") != "Line"
        and source["ContentType"] != "application/json"
    ):
        raise validation("DataProcessing of CSV or JSON lines needs SplitType Line")
