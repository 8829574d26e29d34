"""One execution of a pipeline: it starts steps in their order and follows their jobs.

Sources: docs.aws.amazon.com/sagemaker/latest/dg/build-and-manage-steps-types.html,
…/pipelines-retry-policy.html (which errors are tried again) and
…/APIReference/API_StopPipelineExecution.html. The state is a document, so an execution continues
after a restart of the emulator.
"""

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from local_sagemaker.account.cloud import Cloud
from local_sagemaker.account.state import Document
from local_sagemaker.account.storage import S3Location
from local_sagemaker.clock import MACHINE
from local_sagemaker.errors import ServiceError
from local_sagemaker.jobs.failures import FAILURE_LIMIT_CHARACTERS
from local_sagemaker.pipelines.definition import Definition, Step
from local_sagemaker.pipelines.references import UnknownReferenceError, Values, member_of
from local_sagemaker.pipelines.steps import JOB_STEPS, Call

_log = logging.getLogger(__name__)
FAILURE: Final = "Step failure: One or multiple steps failed."
"""The FailureReason of an execution, in AWS's words."""
_PACE_SECONDS: Final = 0.1
_RETRY_SECONDS: Final = 1.0
_ATTEMPTS: Final = 10
_RUNNING: Final = ("Starting", "Executing", "Stopping")
_NAME_LIMIT: Final = 63
_TAG: Final = "sagemaker:pipeline-execution-arn"
"""AWS's tag of what a pipeline creates; the SageMaker Python SDK finds executions by it."""
_TAG_LIMIT: Final = 256
"""The characters of a tag's value. A long name of a pipeline makes a longer ARN."""


class ExecutionRun:
    """One execution, whose `document` has its state. `put` stores the document; `call` calls
    SageMaker's operations."""

    def __init__(
        self,
        cloud: Cloud,
        call: Call,
        definition: Definition,
        document: Document,
        put: Callable[[], None],
    ) -> None:
        self._cloud = cloud
        self._call = call
        self._definition = definition
        self._document = document
        self._records: dict[str, Document] = document["Steps"]
        self._put = put
        self._next_attempts: dict[str, float] = {}

    async def run(self) -> None:
        """Run the execution to its end. A step that it finds under way continues."""
        while True:
            stopping = self._document["PipelineExecutionStatus"] == "Stopping"
            for name in self._with_status(*_RUNNING):
                await self._follow(self._definition.steps[name], self._records[name], stopping)
            failed = self._with_status("Failed")
            ready = [] if stopping or failed else self._ready()
            for step in ready:
                await self._begin(step)
            if not ready and not self._with_status(*_RUNNING):
                self._end("Stopped" if stopping else "Failed" if failed else "Succeeded")
                return
            if not ready:
                await MACHINE.sleep(_PACE_SECONDS)

    def _with_status(self, *statuses: str) -> list[str]:
        return [name for name, record in self._records.items() if record["StepStatus"] in statuses]

    def _end(self, status: str) -> None:
        self._document["PipelineExecutionStatus"] = status
        if status == "Failed":
            self._document["FailureReason"] = FAILURE
        self._save()

    def _save(self) -> None:
        """Every change is on disk at once, so that a restart finds it."""
        self._document["LastModifiedTime"] = self._cloud.clock.now()
        self._put()

    def _ready(self) -> list[Step]:
        """The steps that can start now, within the limit of steps at once."""
        steps = [
            step
            for step in self._definition.steps.values()
            if step.name not in self._records and self._may_start(step)
        ]
        limit: int | None = self._document.get("ParallelismConfiguration", {}).get(
            "MaxParallelExecutionSteps"
        )
        if limit is None:
            return steps
        return steps[: max(0, limit - len(self._with_status(*_RUNNING)))]

    def _may_start(self, step: Step) -> bool:
        if step.branch is not None and self._outcome(step.branch[0]) != step.branch[1]:
            return False
        ancestors = set(self._definition.ancestors(step))
        return all(name in ancestors or self._is_done(name) for name in step.needs)

    def _outcome(self, condition: str) -> str | None:
        record = self._records.get(condition, {})
        outcome: str | None = record.get("Metadata", {}).get("Condition", {}).get("Outcome")
        return outcome

    def _is_done(self, name: str) -> bool:
        """Whether a step succeeded; a Condition step, with all steps of its branch."""
        if self._records.get(name, {}).get("StepStatus") != "Succeeded":
            return False
        outcome = self._outcome(name)
        return outcome is None or all(
            self._is_done(inner) for inner in self._definition.branch(name, outcome)
        )

    async def _begin(self, step: Step) -> None:
        record: Document = {
            "StepName": step.name,
            "StepStatus": "Starting",
            "StartTime": self._cloud.clock.now(),
            "AttemptCount": 0,
        }
        if step.display_name is not None:
            record["StepDisplayName"] = step.display_name
        if step.description is not None:
            record["StepDescription"] = step.description
        if step.type in JOB_STEPS:
            record["JobName"] = self._job_name(step)
        # The name of the job is stored before the job exists, so that a restart finds the job.
        self._records[step.name] = record
        self._save()
        await self._attempt(step, record)

    def _job_name(self, step: Step) -> str:
        """`pipelines-{execution}-{step}-{random}`, as AWS names jobs, or the arguments' name with
        the random part."""
        chosen = step.arguments.get(step.job.name_member)
        given = chosen or f"pipelines-{self._document['Id']}-{step.name.replace('_', '-')}"
        random = uuid.uuid4().hex[:10]
        return f"{given[: _NAME_LIMIT - len(random) - 1].rstrip('-')}-{random}"

    async def _attempt(self, step: Step, record: Document) -> None:
        """Try to carry out a step that is Starting."""
        record["AttemptCount"] += 1
        try:
            if step.type == "Condition":
                await self._decide(step, record)
            elif step.type == "Fail":
                resolved = await self._resolved(step, {"ErrorMessage": "", **step.arguments})
                message = str(resolved["ErrorMessage"])
                record["Metadata"] = {"Fail": {"ErrorMessage": message[:3072]}}
                self._finish(record, "Failed", message)
            else:
                await self._create(step, record)
        except (UnknownReferenceError, ClientError, BotoCoreError) as error:
            self._finish(record, "Failed", f"ClientError: {error}")

    async def _decide(self, step: Step, record: Document) -> None:
        values = self._values(step)
        outcome = await asyncio.to_thread(
            lambda: all(condition.holds(values.resolve) for condition in step.conditions)
        )
        record["Metadata"] = {"Condition": {"Outcome": str(outcome)}}
        record["Properties"] = {"Outcome": str(outcome)}
        self._finish(record, "Succeeded")

    async def _create(self, step: Step, record: Document) -> None:
        operation, job = f"Create{step.job.what}", step.job
        resolved = await self._resolved(step, step.arguments)
        request = step.request(resolved, record["JobName"], self._document["RoleArn"])
        arn = self._document["PipelineExecutionArn"]
        if len(arn) <= _TAG_LIMIT:
            request["Tags"] = [*request.get("Tags", []), {"Key": _TAG, "Value": arn}]
        try:
            answer = await self._call(operation, request)
        except ServiceError as error:
            if _is_transient(error) and record["AttemptCount"] < _ATTEMPTS:
                self._next_attempts[step.name] = MACHINE.ticks() + _RETRY_SECONDS
                self._save()
                return
            reason = f"Failed to invoke sagemaker:{operation}. Error Details: {error.message}"
            self._finish(record, "Failed", f"ClientError: {reason}")
            return
        self._executing(step, record, answer[job.arn_member])

    async def _follow(self, step: Step, record: Document, stopping: bool) -> None:
        """See how a step under way gets on; stop it if the execution is stopping."""
        job = None
        if step.type in JOB_STEPS:
            try:
                job = await self._call(
                    f"Describe{step.job.what}", {step.job.name_member: record["JobName"]}
                )
            except ServiceError as error:
                if _is_transient(error):
                    return
        if job is not None:
            await self._follow_job(step, record, job, stopping)
        elif record["StepStatus"] != "Starting":
            self._finish(record, "Failed", f"ClientError: {record['JobName']} does not exist.")
        elif stopping:
            self._finish(record, "Stopped")
        elif MACHINE.ticks() >= self._next_attempts.get(step.name, 0.0):
            await self._attempt(step, record)

    async def _follow_job(
        self, step: Step, record: Document, job: dict[str, Any], stopping: bool
    ) -> None:
        if record["StepStatus"] == "Starting":  # the emulator ended before it knew of the job
            self._executing(step, record, job[step.job.arn_member])
        status = job.get(step.job.status_member, "Completed")
        if status == "Completed":
            record["Properties"] = dict(job)
            self._finish(record, "Succeeded")
        elif status == "Failed":
            self._finish(record, "Failed", job.get("FailureReason", ""))
        elif status == "Stopped" and stopping:
            self._finish(record, "Stopped")
        elif status == "Stopped":
            self._finish(record, "Failed", f"ClientError: {record['JobName']} was stopped.")
        elif stopping and record["StepStatus"] == "Executing":
            record["StepStatus"] = "Stopping"
            self._save()
            await self._stop(step, record)

    def _executing(self, step: Step, record: Document, arn: str) -> None:
        record["Metadata"] = {step.job.what: {"Arn": arn}}
        record["StepStatus"] = "Executing"
        self._save()

    async def _stop(self, step: Step, record: Document) -> None:
        try:
            await self._call(f"Stop{step.job.what}", {step.job.name_member: record["JobName"]})
        except ServiceError as error:
            # The job ended meanwhile, which the next look tells.
            _log.info("%s could not be stopped: %s", record["JobName"], error)

    def _finish(self, record: Document, status: str, reason: str | None = None) -> None:
        record["StepStatus"] = status
        record["EndTime"] = self._cloud.clock.now()
        if reason is not None:
            record["FailureReason"] = reason[:FAILURE_LIMIT_CHARACTERS]
        self._save()

    async def _resolved(self, step: Step, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments with values in the places of functions. Raises UnknownReferenceError, or
        botocore's errors of S3."""
        found: dict[str, Any] = await asyncio.to_thread(self._values(step).resolve, dict(arguments))
        return found

    def _values(self, step: Step) -> Values:
        document = self._document
        job_name = self._records[step.name].get("JobName", "")
        variables = {
            "StartDateTime": _iso(document["CreationTime"]),
            "CurrentDateTime": _iso(self._cloud.clock.now()),
            "PipelineName": document["PipelineName"],
            "PipelineArn": document["PipelineArn"],
            "PipelineExecutionId": document["Id"],
            "PipelineExecutionArn": document["PipelineExecutionArn"],
        }
        if step.type in ("Training", "Processing"):
            variables[step.job.name_member] = job_name
        properties = {
            name: record["Properties"]
            for name, record in self._records.items()
            if "Properties" in record
        }
        return Values(document["Parameters"], variables, properties, self._property_file)

    def _property_file(self, step: str, name: str) -> Any:
        """Read a property file of a step that ended, from the place of its output in S3."""
        file = self._definition.steps[step].property_files[name]
        job = self._records[step].get("Properties")
        path = ("ProcessingOutputConfig", "Outputs", file.OutputName, "S3Output", "S3Uri")
        location = S3Location.parse(member_of(job, path)).child(str(PurePosixPath(file.FilePath)))
        body = self._cloud.s3.get_object(Bucket=location.bucket, Key=location.key)["Body"].read()
        try:
            return json.loads(body)
        except ValueError as error:
            raise UnknownReferenceError(f"{location.uri} is not JSON: {error}") from error


def _is_transient(error: ServiceError) -> bool:
    """Whether Pipelines try again by themselves: Step.SERVICE_FAULT and Step.THROTTLING."""
    return error.status >= 500 or error.code == "ThrottlingException"


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
