"""Pipelines: CreatePipeline, UpdatePipeline, DescribePipeline, DeletePipeline, ListPipelines,
StartPipelineExecution, StopPipelineExecution and what describes executions.

Sources: docs.aws.amazon.com/sagemaker/latest/dg/pipelines.html and the API reference.
"""

import asyncio
import logging
import random
import string
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local_sagemaker.account.cloud import Cloud, Operation, page
from local_sagemaker.account.state import Document
from local_sagemaker.errors import ServiceError, validation
from local_sagemaker.http.protocol import Protocol
from local_sagemaker.pipelines.definition import parse_definition
from local_sagemaker.pipelines.execution import ExecutionRun
from local_sagemaker.pipelines.steps import Call

_log = logging.getLogger(__name__)
KIND = "pipeline"
EXECUTION = "pipeline-execution"
_ID_CHARACTERS = 12
_ENDED = ("Stopped", "Failed", "Succeeded")
_DESCRIBED = ("PipelineDisplayName", "PipelineDescription", "RoleArn", "ParallelismConfiguration")


class Pipelines:
    """All pipelines of the account, their executions, and the tasks of the running ones. `call`
    calls SageMaker's operations, and `protocol` is SageMaker's."""

    def __init__(self, cloud: Cloud, call: Call, protocol: Protocol) -> None:
        self._cloud = cloud
        self._call = call
        self._protocol = protocol
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.operations: dict[str, Operation] = {
            "CreatePipeline": self.create,
            "UpdatePipeline": self.update,
            "DescribePipeline": self.describe,
            "DeletePipeline": self.delete,
            "ListPipelines": self.list_page,
            "StartPipelineExecution": self.start_execution,
            "StopPipelineExecution": self.stop_execution,
            "DescribePipelineExecution": self.describe_execution,
            "DescribePipelineDefinitionForExecution": self.describe_definition,
            "ListPipelineExecutions": self.list_executions,
            "ListPipelineExecutionSteps": self.list_steps,
            "ListPipelineParametersForExecution": self.list_parameters,
        }

    def start(self) -> None:
        """After a restart, continue the executions. The jobs that were in progress are Failed, so
        their steps fail."""
        for arn, execution in self._cloud.store.all(EXECUTION):
            if execution["PipelineExecutionStatus"] not in _ENDED:
                self._launch(arn, execution)

    async def close(self) -> None:
        """End the tasks; executions in progress stay so on disk until the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def create(self, params: dict[str, Any]) -> dict[str, Any]:
        """CreatePipeline: check the definition and store the pipeline."""
        name, token = params["PipelineName"], params["ClientRequestToken"]
        arn = self._cloud.arn(KIND, name)
        definition = await self._definition(params)
        if self._cloud.taken(KIND, name):
            known = self._cloud.store.get(KIND, name)
            if known is not None and known["Token"] == token:
                return {"PipelineArn": arn}
            raise validation(
                "Pipeline names must be unique within an AWS account and region. Pipeline with "
                f"name ({name}) already exists."
            )
        now = self._cloud.clock.now()
        pipeline = {member: params[member] for member in _DESCRIBED if member in params} | {
            "PipelineName": name,
            "PipelineArn": arn,
            "PipelineDefinition": definition,
            "PipelineStatus": "Active",
            "CreationTime": now,
            "LastModifiedTime": now,
            "Token": token,
        }
        pipeline.setdefault("PipelineDisplayName", name)
        self._cloud.store.put(KIND, name, pipeline)
        self._cloud.put_tags(arn, params.get("Tags"))
        return {"PipelineArn": arn}

    async def update(self, params: dict[str, Any]) -> dict[str, Any]:
        """UpdatePipeline; executions keep the definition that they began with."""
        self._pipeline(params["PipelineName"])
        changes = {member: params[member] for member in _DESCRIBED if member in params}
        if "PipelineDefinition" in params or "PipelineDefinitionS3Location" in params:
            changes["PipelineDefinition"] = await self._definition(params)
        pipeline = self._pipeline(params["PipelineName"])
        pipeline |= changes | {"LastModifiedTime": self._cloud.clock.now()}
        self._cloud.store.put(KIND, pipeline["PipelineName"], pipeline)
        return {"PipelineArn": pipeline["PipelineArn"]}

    async def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribePipeline."""
        pipeline = self._pipeline(params["PipelineName"])
        return pipeline | self._last_run(pipeline, "LastRunTime")

    async def delete(self, params: dict[str, Any]) -> dict[str, Any]:
        """DeletePipeline: with its executions, none of which may be in progress."""
        pipeline = self._pipeline(params["PipelineName"])
        executions = self._executions(pipeline)
        for execution in executions:
            if execution["PipelineExecutionStatus"] not in _ENDED:
                raise ServiceError(
                    "ConflictException",
                    f"Pipeline {pipeline['PipelineArn']} has the running execution "
                    f"{execution['PipelineExecutionArn']}; stop it before you delete the pipeline.",
                )
        for execution in executions:
            self._cloud.store.delete(EXECUTION, execution["PipelineExecutionArn"])
        self._cloud.store.delete(KIND, pipeline["PipelineName"])
        self._cloud.store.delete("tags", pipeline["PipelineArn"])
        return {"PipelineArn": pipeline["PipelineArn"]}

    async def list_page(self, params: dict[str, Any]) -> dict[str, Any]:
        """ListPipelines."""
        prefix = params.get("PipelineNamePrefix", "")
        pipelines = (
            (name, pipeline | self._last_run(pipeline, "LastExecutionTime"))
            for name, pipeline in self._cloud.store.all(KIND)
            if name.startswith(prefix)
        )
        summaries, token = page(pipelines, _as_page(params))
        return {"PipelineSummaries": summaries, "NextToken": token}

    async def start_execution(self, params: dict[str, Any]) -> dict[str, Any]:
        """StartPipelineExecution: once for each ClientRequestToken."""
        pipeline = self._pipeline(params["PipelineName"])
        token = params["ClientRequestToken"]
        for execution in self._executions(pipeline):
            if execution["Token"] == token:
                return {"PipelineExecutionArn": execution["PipelineExecutionArn"]}
        definition = parse_definition(pipeline["PipelineDefinition"], self._protocol)
        given = params.get("PipelineParameters", [])
        values = definition.values(given)
        identity = "".join(
            random.choices(string.ascii_lowercase + string.digits, k=_ID_CHARACTERS)  # noqa: S311 - no secret
        )
        arn = f"{pipeline['PipelineArn']}/execution/{identity}"
        now = self._cloud.clock.now()
        parallelism = params.get("ParallelismConfiguration") or pipeline.get(
            "ParallelismConfiguration"
        )
        execution = {
            "Id": identity,
            "PipelineArn": pipeline["PipelineArn"],
            "PipelineName": pipeline["PipelineName"],
            "PipelineExecutionArn": arn,
            "PipelineExecutionDisplayName": params.get(
                "PipelineExecutionDisplayName", f"execution-{int(now * 1000)}"
            ),
            "PipelineExecutionDescription": params.get("PipelineExecutionDescription"),
            "PipelineExecutionStatus": "Executing",
            "CreationTime": now,
            "LastModifiedTime": now,
            "PipelineDefinition": pipeline["PipelineDefinition"],
            "RoleArn": pipeline["RoleArn"],
            "Parameters": values,
            "PipelineParameters": given,
            "Steps": {},
            "Token": token,
        } | ({"ParallelismConfiguration": parallelism} if parallelism else {})
        self._cloud.store.put(EXECUTION, arn, execution)
        self._launch(arn, execution)
        return {"PipelineExecutionArn": arn}

    async def stop_execution(self, params: dict[str, Any]) -> dict[str, Any]:
        """StopPipelineExecution: stop the jobs of the steps, then end."""
        execution = self._execution(params)
        arn: str = execution["PipelineExecutionArn"]
        if execution["PipelineExecutionStatus"] in _ENDED:
            raise ServiceError(
                "ConflictException",
                f"Pipeline execution {arn} is in status {execution['PipelineExecutionStatus']}; "
                f"only an execution that is Executing can be stopped.",
            )
        execution["PipelineExecutionStatus"] = "Stopping"
        execution["LastModifiedTime"] = self._cloud.clock.now()
        self._cloud.store.put(EXECUTION, arn, execution)
        return {"PipelineExecutionArn": arn}

    async def describe_execution(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribePipelineExecution."""
        return self._execution(params)

    async def describe_definition(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribePipelineDefinitionForExecution: the definition that the execution began with."""
        return self._execution(params)

    async def list_executions(self, params: dict[str, Any]) -> dict[str, Any]:
        """ListPipelineExecutions."""
        executions = (
            (execution["PipelineExecutionArn"], _summary(execution))
            for execution in self._executions(self._pipeline(params["PipelineName"]))
        )
        summaries, token = page(executions, _as_page(params))
        return {"PipelineExecutionSummaries": summaries, "NextToken": token}

    async def list_steps(self, params: dict[str, Any]) -> dict[str, Any]:
        """ListPipelineExecutionSteps: the steps that began, by default the latest first."""
        steps = (
            (f"{number:06}", step | {"CreationTime": step["StartTime"]})
            for number, step in enumerate(self._execution(params)["Steps"].values())
        )
        listed, token = page(steps, {**params, "SortBy": "Name"})
        return {"PipelineExecutionSteps": listed, "NextToken": token}

    async def list_parameters(self, params: dict[str, Any]) -> dict[str, Any]:
        """ListPipelineParametersForExecution: those that the execution was given."""
        given = (
            (each["Name"], each | {"CreationTime": 0.0})
            for each in self._execution(params)["PipelineParameters"]
        )
        listed, token = page(given, {**params, "SortBy": "Name", "SortOrder": "Ascending"})
        return {"PipelineParameters": listed, "NextToken": token}

    async def _definition(self, params: dict[str, Any]) -> str:
        """The checked text of a request's definition."""
        text: str | None = params.get("PipelineDefinition")
        place = params.get("PipelineDefinitionS3Location")
        if (text is None) == (place is None):
            raise validation(
                "Give either PipelineDefinition or PipelineDefinitionS3Location, not both."
            )
        if text is None:
            text = await asyncio.to_thread(self._read, place)
        await asyncio.to_thread(parse_definition, text, self._protocol)
        return text

    def _read(self, place: Any) -> str:
        """The text of a definition in S3; the call blocks. Raises ValidationException."""
        version = {"VersionId": place["VersionId"]} if "VersionId" in place else {}
        try:
            answer = self._cloud.s3.get_object(
                Bucket=place["Bucket"], Key=place["ObjectKey"], **version
            )
            body: bytes = answer["Body"].read()
            return body.decode()
        except (ClientError, BotoCoreError, UnicodeDecodeError) as error:
            raise validation(
                f"The pipeline definition s3://{place['Bucket']}/{place['ObjectKey']} could not "
                f"be read: {error}"
            ) from error

    def _pipeline(self, name_or_arn: str) -> Document:
        """The pipeline of a name or an ARN. Raises ResourceNotFound."""
        for name, pipeline in self._cloud.store.all(KIND):
            if name_or_arn in (name, pipeline["PipelineArn"]):
                return pipeline
        arn = name_or_arn if ":" in name_or_arn else self._cloud.arn(KIND, name_or_arn)
        raise ServiceError("ResourceNotFound", f"Pipeline '{arn}' does not exist.")

    def _executions(self, pipeline: Document) -> list[Document]:
        return [
            execution
            for _, execution in self._cloud.store.all(EXECUTION)
            if execution["PipelineArn"] == pipeline["PipelineArn"]
        ]

    def _last_run(self, pipeline: Document, member: str) -> Document:
        times = [execution["CreationTime"] for execution in self._executions(pipeline)]
        return {member: max(times)} if times else {}

    def _execution(self, params: dict[str, Any]) -> Document:
        arn = params.get("PipelineExecutionArn", "")
        execution = self._cloud.store.get(EXECUTION, arn)
        if execution is None:
            raise ServiceError("ResourceNotFound", f"Pipeline execution '{arn}' does not exist.")
        return execution

    def _launch(self, arn: str, execution: Document) -> None:
        task = asyncio.create_task(self._run(arn, execution))
        self._tasks[arn] = task
        task.add_done_callback(lambda _: self._tasks.pop(arn, None))

    async def _run(self, arn: str, execution: Document) -> None:
        def put() -> None:
            self._cloud.store.put(EXECUTION, arn, execution)

        try:
            definition = parse_definition(execution["PipelineDefinition"], self._protocol)
            await ExecutionRun(self._cloud, self._call, definition, execution, put).run()
        except Exception as error:  # noqa: BLE001 - logged, and becomes the FailureReason
            # An error of the emulator must end the execution, because its clients would otherwise
            # wait for ever.
            _log.exception("pipeline execution %s", arn)
            execution["PipelineExecutionStatus"] = "Failed"
            execution["FailureReason"] = (
                f"InternalServerError: local_sagemaker: {type(error).__name__}"
            )
            put()


def _summary(execution: Document) -> Document:
    return execution | {
        "StartTime": execution["CreationTime"],
        "PipelineExecutionFailureReason": execution.get("FailureReason"),
    }


def _as_page(params: dict[str, Any]) -> dict[str, Any]:
    """The members of a List request of pipelines by the names that other lists have."""
    renamed = {
        "CreationTimeAfter": params.get("CreatedAfter"),
        "CreationTimeBefore": params.get("CreatedBefore"),
        "SortBy": "Name" if params.get("SortBy") == "PipelineExecutionArn" else None,
    }
    return params | {member: value for member, value in renamed.items() if value is not None}
