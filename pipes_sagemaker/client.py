"""A Dagster Pipes client for Amazon SageMaker training jobs.

It starts a job, or adopts the one of that name that an earlier run left. It follows the job's
messages and log lines while it runs, on any number of instances. It stops the job when the Dagster
run is terminated. It knows nothing of any one project. ``docs/pipes-sagemaker.md`` has a complete
example.
"""

import random
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

import boto3
import dagster._check as check
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from dagster import (
    AssetExecutionContext,
    MetadataValue,
    OpExecutionContext,
    PipesClient,
    open_pipes_session,
)
from dagster._core.definitions.resource_annotation import TreatAsResourceParam
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.pipes.client import PipesClientCompletedInvocation, PipesContextInjector
from dagster._core.pipes.context import PipesSession
from dagster_aws.pipes import PipesS3ContextInjector
from dagster_pipes import DAGSTER_PIPES_MESSAGES_ENV_VAR

from pipes_sagemaker.comparison import difference
from pipes_sagemaker.errors import (
    FailureClass,
    TrainingJobDiffersError,
    TrainingJobFailedError,
    TrainingJobResourceLimitExceededError,
    failure_class,
)
from pipes_sagemaker.readers import (
    LOG_GROUP,
    PipesSageMakerLogReader,
    PipesSageMakerMessageReader,
    TrainingJobLogs,
    error_code,
    is_transient,
)

if TYPE_CHECKING:
    from mypy_boto3_sagemaker import SageMakerClient
    from mypy_boto3_sagemaker.type_defs import (
        CreateTrainingJobRequestTypeDef,
        DescribeTrainingJobResponseTypeDef,
    )

__all__ = [
    "FailureClass",
    "PipesSageMakerLogReader",
    "PipesSageMakerMessageReader",
    "PipesSageMakerTrainingJobClient",
    "TrainingJobDiffersError",
    "TrainingJobFailedError",
    "TrainingJobResourceLimitExceededError",
    "failure_class",
]

# https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTrainingJob.html
MAX_ENVIRONMENT_ENTRIES: Final = 100
MAX_ENVIRONMENT_VALUE: Final = 512
MAX_TAGS: Final = 50
MAX_TAG_VALUE: Final = 256

_ENDED: Final = frozenset({"Completed", "Failed", "Stopped"})
_NOT_IN_TAGS: Final = re.compile(r"[^\w .:/=+\-@]")
_ALREADY_EXISTS: Final = re.compile(
    r"already exist|cannot create already existing|must be unique within an aws account",
    re.IGNORECASE,
)
_NOT_FOUND: Final = re.compile(r"not found|could not find|does not exist", re.IGNORECASE)
_ENDED_ALREADY: Final = re.compile(r"is in status", re.IGNORECASE)


class PipesSageMakerTrainingJobClient(PipesClient, TreatAsResourceParam):
    """A pipes client for running training jobs on Amazon SageMaker, on one instance or several.

    Args:
        message_reader: Reads the messages of all instances from S3.
        client: A SageMaker client; by default ``boto3.client("sagemaker")`` with ten attempts a
            call.
        context_injector: How the context reaches the container; by default through S3, beside the
            messages (``PipesS3ContextInjector``), because an environment value holds at most 512
            characters.
        log_reader: Forwards log lines; by default a :py:class:`PipesSageMakerLogReader`.
        forward_logs: Whether log lines are forwarded at all.
        forward_termination: Whether to stop the job if the Dagster run is terminated.
        poll_interval: Seconds between two DescribeTrainingJob calls, give or take a fifth. Its rate
            is a quota of the account: count one call per interval and running job.
        create_timeout: Seconds for which CreateTrainingJob is tried again while it is throttled or
            SageMaker fails; as long a job that exists already may not be describable.
        outage_timeout: Seconds for which DescribeTrainingJob may fail in a row, by throttling,
            faults of the service or no connection, before the run gives up. The job goes on; a new
            run adopts it.
        job_watch: Returns the secondary status of a job in progress, by its name; "" for a job in
            progress whose status is unknown, None when nothing is known. While it returns the
            status that was described last, DescribeTrainingJob is not called: one caller may watch
            all jobs of an account. It is asked every ``poll_interval`` and must not raise.
        before_create: Called before each CreateTrainingJob call: the place to wait for one's turn,
            or to raise.
    """

    def __init__(
        self,
        *,
        message_reader: PipesSageMakerMessageReader,
        client: "SageMakerClient | None" = None,
        context_injector: PipesContextInjector | None = None,
        log_reader: PipesSageMakerLogReader | None = None,
        forward_logs: bool = True,
        forward_termination: bool = True,
        poll_interval: float = 15.0,
        create_timeout: float = 300.0,
        outage_timeout: float = 3600.0,
        job_watch: Callable[[str], str | None] | None = None,
        before_create: Callable[[], object] | None = None,
    ) -> None:
        self._client: SageMakerClient = client or boto3.client(
            "sagemaker", config=Config(retries={"mode": "standard", "total_max_attempts": 10})
        )
        self._message_reader = check.inst_param(
            message_reader, "message_reader", PipesSageMakerMessageReader
        )
        self._context_injector = check.opt_inst_param(
            context_injector, "context_injector", PipesContextInjector
        )
        self._log_reader = (log_reader or PipesSageMakerLogReader()) if forward_logs else None
        self.forward_termination = check.bool_param(forward_termination, "forward_termination")
        self.poll_interval = poll_interval
        self.create_timeout = create_timeout
        self.outage_timeout = outage_timeout
        self._job_watch = job_watch
        self._before_create = before_create

    # Every Pipes client names the parameters of its own service.
    def run(  # type: ignore[override]
        self,
        *,
        context: OpExecutionContext | AssetExecutionContext,
        create_training_job_params: "CreateTrainingJobRequestTypeDef",
        extras: dict[str, Any] | None = None,
        on_custom_message: Callable[[Any], None] | None = None,
        raise_on_failure: bool = True,
    ) -> PipesClientCompletedInvocation:
        """Run a training job to its end, enriched with the pipes protocol; adopt it if it exists
        already.

        Args:
            context: The context of the currently executing Dagster op or asset.
            create_training_job_params: Parameters of ``create_training_job``. Give a
                ``TrainingJobName`` that is the same for the same work: a new run finds a job by it.
                They are not changed.
            extras: Additional information to pass to the Pipes session in the container.
            on_custom_message: Called in this thread with each custom message as it arrives, those
                of one instance in their order. An adopted job's messages are all given again. If it
                raises, the run ends and the job goes on.
            raise_on_failure: Whether a job that ends without completing raises; if not, see the
                status in the metadata.

        Returns:
            Results, custom messages, and the job's metadata.

        Raises:
            TrainingJobFailedError: The job ended Failed or Stopped.
            TrainingJobDiffersError: A job of this name exists that is other work.
            TrainingJobResourceLimitExceededError: A quota is used up.
            ValueError: The environment or the tags exceed SageMaker's limits.
            TimeoutError: SageMaker could not be asked about the job for too long. The job, if there
                is one, goes on.
            ClientError: SageMaker refused a request.
        """
        job_name = create_training_job_params["TrainingJobName"]
        instance_count = _instance_count(create_training_job_params)
        messages = self._message_reader.for_training_job(job_name, instance_count, context.log)
        context_injector = self._context_injector or PipesS3ContextInjector(
            bucket=messages.bucket, client=messages.client, key_prefix=f"{messages.job_folder}/"
        )
        logs: TrainingJobLogs | None = None
        if self._log_reader:
            logs = self._log_reader.for_training_job(job_name, instance_count, context.log)
        # Dagster's own session reads members of AssetExecutionContext that warn of their
        # deprecation; these do not.
        op_context = (
            context.op_execution_context if isinstance(context, AssetExecutionContext) else context
        )
        with open_pipes_session(
            context=op_context,
            message_reader=messages,
            context_injector=context_injector,
            extras=extras,
        ) as session:
            request = self._enrich(create_training_job_params, session)
            try:
                self._start_or_adopt(context, request, messages)
                described = self._wait(
                    context, job_name, session, messages, logs, on_custom_message
                )
            except (DagsterExecutionInterruptedError, KeyboardInterrupt):
                if self.forward_termination:
                    self._terminate(context, request)
                raise
        metadata = self._extract_dagster_metadata(described)
        if described["TrainingJobStatus"] != "Completed" and raise_on_failure:
            raise TrainingJobFailedError(described, self._console_url(job_name), metadata)
        return PipesClientCompletedInvocation(session, metadata=metadata)

    def _enrich(
        self, params: "CreateTrainingJobRequestTypeDef", session: PipesSession
    ) -> "CreateTrainingJobRequestTypeDef":
        """The parameters with the Pipes environment and Dagster's tags, within SageMaker's
        limits."""
        environment = {**params.get("Environment", {}), **session.get_bootstrap_env_vars()}
        if len(environment) > MAX_ENVIRONMENT_ENTRIES:
            raise ValueError(
                f"Environment has {len(environment)} entries with those of Pipes"
                f" ({', '.join(session.get_bootstrap_env_vars())}); SageMaker takes "
                f"{MAX_ENVIRONMENT_ENTRIES}."
            )
        for name, value in environment.items():
            if len(value) > MAX_ENVIRONMENT_VALUE:
                raise ValueError(
                    f"Environment.{name} has {len(value)} characters; SageMaker takes "
                    f"{MAX_ENVIRONMENT_VALUE}."
                    " Pass what is longer through S3 (for the Pipes context: "
                    "PipesS3ContextInjector)."
                )
        tags = {tag["Key"]: tag["Value"] for tag in params.get("Tags", [])}
        for key, value in session.default_remote_invocation_info.items():
            tags[key] = _NOT_IN_TAGS.sub("_", value)[:MAX_TAG_VALUE]
        if len(tags) > MAX_TAGS:
            raise ValueError(
                f"Tags has {len(tags)} entries with those of Dagster; SageMaker takes {MAX_TAGS}."
            )
        request = dict(params)
        request.update(
            Environment=environment,
            Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
        )
        return cast("CreateTrainingJobRequestTypeDef", request)

    def _start_or_adopt(
        self,
        context: OpExecutionContext | AssetExecutionContext,
        request: "CreateTrainingJobRequestTypeDef",
        messages: PipesSageMakerMessageReader,
    ) -> None:
        """Make the job, or attach to the one there is. After a lost answer the next try finds the
        job and attaches."""
        job_name = request["TrainingJobName"]
        deadline = time.monotonic() + self.create_timeout
        delay = 1.0
        while True:
            try:
                if self._before_create:
                    self._before_create()
            except Exception:
                # A job that exists costs no further one: this run may be here to take up another
                # run's job.
                if self._exists(context, job_name):
                    break
                raise
            try:
                self._client.create_training_job(**request)
                context.log.info(
                    f"[pipes] SageMaker training job {job_name} started"
                    f"{_as_link(self._console_url(job_name))}"
                )
                return
            except (ClientError, BotoCoreError) as error:
                if isinstance(error, ClientError) and _already_exists(error):
                    break
                if isinstance(error, ClientError) and error_code(error) == "ResourceLimitExceeded":
                    if self._exists(context, job_name):  # the limit may be spent on this very job
                        break
                    raise TrainingJobResourceLimitExceededError(job_name, str(error)) from error
                if not is_transient(error) or time.monotonic() + delay > deadline:
                    raise
                context.log.warning(
                    f"[pipes] CreateTrainingJob {job_name} is tried again in about {delay:.0f} s: "
                    f"{error}"
                )
            # Jitter between callers, not a secret.
            time.sleep(delay * random.uniform(0.75, 1.25))  # noqa: S311
            delay = min(2 * delay, 30.0)
        self._adopt(context, request, messages, deadline)

    def _exists(self, context: OpExecutionContext | AssetExecutionContext, job_name: str) -> bool:
        """Whether there is a job of this name; only SageMaker's answer that there is none counts as
        no."""
        deadline = time.monotonic() + self.create_timeout
        while True:
            try:
                if self._describe(job_name, context) is not None:
                    return True
            except ClientError as error:
                if _not_found(error):
                    return False
                raise
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"Whether SageMaker training job {job_name} exists could not be learned."
                )
            time.sleep(self.poll_interval)

    def _adopt(
        self,
        context: OpExecutionContext | AssetExecutionContext,
        request: "CreateTrainingJobRequestTypeDef",
        messages: PipesSageMakerMessageReader,
        deadline: float,
    ) -> None:
        job_name = request["TrainingJobName"]
        while (existing := self._describe(job_name, context)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"SageMaker training job {job_name} exists, but cannot be described."
                )
            time.sleep(self.poll_interval)
        found = difference(request, existing)
        if found:
            raise TrainingJobDiffersError(job_name, *found)
        encoded = existing.get("Environment", {}).get(DAGSTER_PIPES_MESSAGES_ENV_VAR, "")
        try:
            messages.attach(encoded)
        except ValueError as error:
            field = f"Environment.{DAGSTER_PIPES_MESSAGES_ENV_VAR}"
            raise TrainingJobDiffersError(
                job_name, field, "a location for messages", encoded
            ) from error
        context.log.info(
            f"[pipes] SageMaker training job {job_name} exists since "
            f"{existing['CreationTime']:%Y-%m-%d %H:%M:%S %Z} with"
            f" the same inputs, {existing['TrainingJobStatus']}: adopted"
            f"{_as_link(self._console_url(job_name))}"
        )

    def _describe(
        self, job_name: str, context: OpExecutionContext | AssetExecutionContext
    ) -> "DescribeTrainingJobResponseTypeDef | None":
        """The job as it is now; None if SageMaker cannot say at the moment."""
        try:
            return self._client.describe_training_job(TrainingJobName=job_name)
        except (ClientError, BotoCoreError) as error:
            if not is_transient(error):
                raise
            context.log.warning(
                f"[pipes] DescribeTrainingJob {job_name} will be tried again: {error}"
            )
            return None

    def _wait(
        self,
        context: OpExecutionContext | AssetExecutionContext,
        job_name: str,
        session: PipesSession,
        messages: PipesSageMakerMessageReader,
        logs: TrainingJobLogs | None,
        on_custom_message: Callable[[Any], None] | None,
    ) -> "DescribeTrainingJobResponseTypeDef":
        """Follow the job to its end: its status, messages and logs, each at its own pace, all in
        this thread."""
        delivered = 0
        reported: set[tuple[str, str]] = set()

        def deliver() -> None:
            nonlocal delivered
            for message in session.get_custom_messages()[delivered:]:
                delivered += 1
                if on_custom_message:
                    on_custom_message(message)

        described: DescribeTrainingJobResponseTypeDef | None = None
        describe_due = messages_due = last_answer = time.monotonic()
        while described is None or described["TrainingJobStatus"] not in _ENDED:
            if time.monotonic() >= messages_due:
                messages.poll()
                deliver()
                messages_due = time.monotonic() + messages.interval
            if logs:
                logs.poll()
            if time.monotonic() >= describe_due:
                unchanged = described is not None and self._is_unchanged(described)
                answer = described if unchanged else self._describe(job_name, context)
                if answer is not None:
                    described, last_answer = answer, time.monotonic()
                    _report_transitions(context, described, reported)
                elif time.monotonic() - last_answer > self.outage_timeout:
                    raise TimeoutError(
                        f"SageMaker has not described training job {job_name} for "
                        f"{self.outage_timeout:.0f} s."
                        " The job goes on: run again to adopt it."
                    )
                # Jitter.
                describe_due = time.monotonic() + self.poll_interval * random.uniform(0.8, 1.2)  # noqa: S311
                continue
            due = min(describe_due, messages_due, logs.due if logs else describe_due)
            time.sleep(max(due - time.monotonic(), 0.01))
        messages.drain()
        deliver()
        if logs:
            logs.drain()
        return described

    def _is_unchanged(self, described: "DescribeTrainingJobResponseTypeDef") -> bool:
        """Whether the job watch shows this job as it was described last, so that it need not be
        described."""
        seen = self._job_watch(described["TrainingJobName"]) if self._job_watch else None
        return seen is not None and seen in {"", described["SecondaryStatus"]}

    def _terminate(
        self,
        context: OpExecutionContext | AssetExecutionContext,
        request: "CreateTrainingJobRequestTypeDef",
    ) -> None:
        """Stop the job, unless its name belongs to other work: the interruption may have come
        before that was known."""
        job_name = request["TrainingJobName"]
        for attempt in range(5):
            try:
                if (
                    difference(
                        request, self._client.describe_training_job(TrainingJobName=job_name)
                    )
                    is None
                ):
                    context.log.warning(
                        f"[pipes] Dagster process interrupted! Stopping SageMaker training job "
                        f"{job_name}."
                    )
                    self._client.stop_training_job(TrainingJobName=job_name)
                return
            except (ClientError, BotoCoreError) as error:
                if isinstance(error, ClientError) and (
                    _not_found(error) or _ENDED_ALREADY.search(str(error))
                ):
                    return
                if attempt == 4 or not is_transient(error):
                    context.log.exception(
                        f"[pipes] SageMaker training job {job_name} could not be stopped: it goes "
                        f"on."
                    )
                    return
                time.sleep(2.0**attempt)

    def _extract_dagster_metadata(
        self, described: "DescribeTrainingJobResponseTypeDef"
    ) -> dict[str, Any]:
        job_name = described["TrainingJobName"]
        status, secondary_status = described["TrainingJobStatus"], described["SecondaryStatus"]
        resources = cast("Mapping[str, Any]", described.get("ResourceConfig", {}))
        metadata: dict[str, Any] = {
            "AWS SageMaker Training Job Name": job_name,
            "AWS SageMaker Training Job ARN": described["TrainingJobArn"],
            "AWS SageMaker Training Job URL": _url(self._console_url(job_name)),
            "AWS SageMaker Training Job Status": status,
            "AWS SageMaker Training Job Secondary Status": secondary_status,
            "AWS CloudWatch Logs URL": _url(self._logs_url(job_name)),
            "Instance Type": resources.get("InstanceType"),
            "Instance Count": resources.get("InstanceCount"),
            "Training Seconds": described.get("TrainingTimeInSeconds"),
            "Billable Seconds": described.get("BillableTimeInSeconds"),
            "S3 Output": described.get("ModelArtifacts", {}).get("S3ModelArtifacts"),
        }
        if status != "Completed":
            reason = described.get("FailureReason", "")
            metadata["Failure Reason"] = reason
            metadata["Failure Class"] = failure_class(status, secondary_status, reason)
        return {key: value for key, value in metadata.items() if value is not None}

    def _console_url(self, job_name: str) -> str | None:
        region = self._client.meta.region_name
        console = self._console()
        return console and f"https://{console}/sagemaker/home?region={region}#/jobs/{job_name}"

    def _logs_url(self, job_name: str) -> str | None:
        region = self._client.meta.region_name
        console, group = self._console(), LOG_GROUP.replace("/", "$252F")
        return console and (
            f"https://{console}/cloudwatch/home?region={region}#logsV2:log-groups/log-group/{group}"
            f"$3FlogStreamNameFilter$3D{job_name}$252F"
        )

    def _console(self) -> str | None:
        """The host of AWS's console; None where the client's endpoint is not AWS's."""
        host = urlsplit(self._client.meta.endpoint_url).hostname or ""
        on_aws = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
        return _console_of(self._client.meta.region_name) if on_aws else None


def _url(url: str | None) -> "MetadataValue[Any] | None":
    return None if url is None else MetadataValue.url(url)


def _as_link(url: str | None) -> str:
    return "" if url is None else f": {url}"


def _console_of(region: str) -> str:
    if region.startswith("cn-"):
        return f"{region}.console.amazonaws.cn"
    if region.startswith("us-gov-"):
        return f"{region}.console.amazonaws-us-gov.com"
    return f"{region}.console.aws.amazon.com"


def _instance_count(params: "CreateTrainingJobRequestTypeDef") -> int:
    """The number of instances, over all groups of a heterogeneous cluster."""
    resources = cast("Mapping[str, Any]", params.get("ResourceConfig", {}))
    groups = resources.get("InstanceGroups")
    return (
        sum(group["InstanceCount"] for group in groups)
        if groups
        else int(resources.get("InstanceCount", 1))
    )


def _already_exists(error: ClientError) -> bool:
    return error_code(error) in {"ResourceInUse", "ValidationException"} and bool(
        _ALREADY_EXISTS.search(str(error))
    )


def _not_found(error: ClientError) -> bool:
    return bool(_NOT_FOUND.search(str(error)))


def _report_transitions(
    context: OpExecutionContext | AssetExecutionContext,
    described: "DescribeTrainingJobResponseTypeDef",
    reported: set[tuple[str, str]],
) -> None:
    for transition in described.get("SecondaryStatusTransitions", []):
        key = (transition["Status"], str(transition["StartTime"]))
        if key not in reported:
            reported.add(key)
            message = transition.get("StatusMessage", "")
            context.log.info(
                f"[pipes] SageMaker training job {described['TrainingJobName']}: "
                f"{transition['Status']}" + (f" ({message})" if message else "")
            )
