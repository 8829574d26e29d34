"""The stack in the account: its outputs as typed values, and the boto3 clients that reach them.

The same code finds AWS or the local cloud: botocore reads from the environment where to send its
calls.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tenantry.aws.image_digests import ImageDigestsError, parse_image_digests
from tenantry.aws.queues import Queue
from tenantry.aws.tables import Table
from tenantry.errors import TenantryError

if TYPE_CHECKING:
    from mypy_boto3_application_autoscaling import ApplicationAutoScalingClient
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sagemaker import SageMakerClient
    from mypy_boto3_sagemaker_runtime import SageMakerRuntimeClient
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient

STACK_VARIABLE: Final = "TENANTRY_STACK"
DEFAULT_STACK: Final = "tenantry"
# Throttling is retried by botocore; SageMaker's endpoints answer within 60 s, so reads wait a
# little longer.
_RETRIES: Final = Config(
    retries={"mode": "standard", "total_max_attempts": 10},
    connect_timeout=5,
    read_timeout=70,
    max_pool_connections=32,
    # botocore builds its own user agent for every call, at a twentieth of the call's CPU time.
    user_agent=f"Tenantry Boto3/{boto3.__version__}",
)
# Before the second and the third attempt botocore pauses for at most 1 s and 2 s:
# https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
_FEW_RETRIES: Final = _RETRIES.merge(Config(retries={"mode": "standard", "total_max_attempts": 3}))
_CONSOLES: Final = {  # by partition
    "aws": "console.aws.amazon.com",
    "aws-us-gov": "console.amazonaws-us-gov.com",
    "aws-cn": "console.amazonaws.cn",
}
# SageMaker's control plane and Application Auto Scaling have quotas of few calls a second for the
# whole account: a client that was throttled slows down.
_SLOWS_DOWN: Final = _RETRIES.merge(Config(retries={"mode": "adaptive", "total_max_attempts": 10}))


def aws_session() -> boto3.Session:
    """A session in the region that ``AWS_REGION`` names, else where boto3 itself looks:
    ``AWS_DEFAULT_REGION``, the profile.

    AWS's other SDKs and its command line read ``AWS_REGION``, and ECS sets that one alone; boto3
    does not read it (https://docs.aws.amazon.com/sdkref/latest/guide/feature-region.html).
    """
    return boto3.Session(region_name=os.environ.get("AWS_REGION") or None)


class DeploymentMissingError(TenantryError, RuntimeError):
    """The stack is not there, or lacks an output; the message says how to make it."""


@dataclass(frozen=True)
class Deployment:
    """The names of everything the stack made, and clients for it (each made once, when first
    used)."""

    prefix: str
    uploads_bucket: str
    data_bucket: str
    uploads_queue_url: str
    uploads_dead_letters_url: str
    notices_queue_url: str
    requests_table: str
    models_table: str
    tenants_topic: str
    operators_topic: str
    async_success_topic: str
    async_error_topic: str
    async_failures_queue_url: str
    training_role: str
    serving_role: str
    async_role: str
    batch_role: str
    processing_role: str
    pipeline_role: str
    tenant_client_role: str
    silo_roles: str
    silo_policy: str
    image_repositories: str
    image_digests: Mapping[str, str] = field(default_factory=dict, hash=False)
    session: boto3.Session = field(default_factory=aws_session, repr=False, compare=False)
    aws_calls: Counter[str] = field(default_factory=Counter, repr=False, compare=False)

    @classmethod
    def from_stack(cls, stack: str | None = None) -> Self:
        """Read the outputs of ``stack`` (default: the variable ``TENANTRY_STACK``, or
        ``tenantry``).

        Raises:
            DeploymentMissingError: there is no such stack, or it lacks an output.
        """
        stack = stack or os.environ.get(STACK_VARIABLE, DEFAULT_STACK)
        session = aws_session()
        try:
            found = session.client("cloudformation", config=_RETRIES).describe_stacks(
                StackName=stack
            )["Stacks"][0]
        except (BotoCoreError, ClientError) as error:
            raise DeploymentMissingError(
                f"CloudFormation stack {stack!r} cannot be read ({error}); make it with "
                f"`python -m infrastructure.deploy --stack {stack}` and check AWS_ENDPOINT_URL and "
                f"credentials"
            ) from error
        outputs = {
            output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])
        }
        try:
            return cls(
                prefix=outputs["Prefix"],
                uploads_bucket=outputs["UploadsBucket"],
                data_bucket=outputs["DataBucket"],
                uploads_queue_url=outputs["UploadsQueueUrl"],
                uploads_dead_letters_url=outputs["UploadsDeadLetterQueueUrl"],
                notices_queue_url=outputs["NoticesQueueUrl"],
                requests_table=outputs["RequestsTable"],
                models_table=outputs["ModelsTable"],
                tenants_topic=outputs["TenantsTopicArn"],
                operators_topic=outputs["OperatorsTopicArn"],
                async_success_topic=outputs["AsyncSuccessTopicArn"],
                async_error_topic=outputs["AsyncErrorTopicArn"],
                async_failures_queue_url=outputs["AsyncFailuresQueueUrl"],
                training_role=outputs["TrainingRoleArn"],
                serving_role=outputs["ServingRoleArn"],
                async_role=outputs["AsyncRoleArn"],
                batch_role=outputs["BatchRoleArn"],
                processing_role=outputs["ProcessingRoleArn"],
                pipeline_role=outputs["PipelineRoleArn"],
                tenant_client_role=outputs["TenantClientRoleArn"],
                silo_roles=outputs["SiloRolesArn"],
                silo_policy=outputs["SiloPolicyArn"],
                image_repositories=outputs["ImageRepositories"],
                image_digests=parse_image_digests(outputs.get("ImageDigests", "")),
                session=session,
            )
        except KeyError as error:
            raise DeploymentMissingError(
                f"stack {stack!r} has no output {error}; update it with `python -m "
                f"infrastructure.deploy --stack {stack}`"
            ) from error
        except ImageDigestsError as error:
            raise DeploymentMissingError(
                f"output 'ImageDigests' of stack {stack!r} cannot be read: {error}"
            ) from error

    def image(self, container: str, tag: str) -> str:
        """The URI of a container's image: by its digest where a release pinned it, else by its tag.

        SageMaker takes both forms:
        https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_ContainerDefinition.html
        """
        if digest := self.image_digests.get(f"{container}:{tag}"):
            return f"{self.image_repositories}/{container}@{digest}"
        return f"{self.image_repositories}/{container}:{tag}"

    def console_url(self, kind: str, name: str) -> str | None:
        """The page of a SageMaker job (``jobs``) or endpoint (``endpoints``) in AWS's console; None
        for a local cloud, which has none."""
        region = self.session.region_name
        console = _CONSOLES.get(self.session.get_partition_for_region(region))
        host = urlsplit(self.sagemaker.meta.endpoint_url).hostname or ""
        if console is None or not host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            return None
        return f"https://{region}.{console}/sagemaker/home?region={region}#/{kind}/{name}"

    def _client(self, service: str, config: Config = _RETRIES) -> Any:
        # The name is a variable.
        client = self.session.client(service, config=config)  # type: ignore[call-overload]

        def count(event_name: str, **_: Any) -> None:
            self.aws_calls[f"{service}:{event_name.rpartition('.')[2]}"] += 1

        client.meta.events.register("before-send", count)
        return client

    @cached_property
    def s3(self) -> S3Client:
        """S3."""
        client: S3Client = self._client("s3")
        return client

    @cached_property
    def sqs(self) -> SQSClient:
        """SQS."""
        client: SQSClient = self._client("sqs")
        return client

    @cached_property
    def sns(self) -> SNSClient:
        """SNS."""
        client: SNSClient = self._client("sns")
        return client

    @cached_property
    def dynamodb(self) -> DynamoDBClient:
        """DynamoDB."""
        client: DynamoDBClient = self._client("dynamodb")
        return client

    @cached_property
    def requests(self) -> Table:
        """The requests table."""
        return Table(self.dynamodb, self.requests_table, "request")

    @cached_property
    def models(self) -> Table:
        """The models table."""
        return Table(self.dynamodb, self.models_table, "item")

    @property
    def uploads_queue(self) -> Queue:
        """S3's events about uploads."""
        return Queue(self.sqs, self.uploads_queue_url)

    @property
    def uploads_dead_letters(self) -> Queue:
        """The events that could not be taken in."""
        return Queue(self.sqs, self.uploads_dead_letters_url)

    @property
    def async_failures(self) -> Queue:
        """SageMaker's messages about asynchronous questions that failed."""
        return Queue(self.sqs, self.async_failures_queue_url)

    @property
    def results_database(self) -> str:
        """The database in Glue of the tables of batch results: the prefix, with underscores, as
        Athena takes names
        (https://docs.aws.amazon.com/athena/latest/ug/tables-databases-columns-names.html)."""
        return self.prefix.replace("-", "_")

    @cached_property
    def glue(self) -> Any:
        """Glue's Data Catalog, which holds the tables of batch results."""
        return self._client("glue")

    @cached_property
    def athena(self) -> Any:
        """Athena, which answers SQL about these tables."""
        return self._client("athena")

    @cached_property
    def iam(self) -> Any:
        """IAM, for the execution roles of silo tenants."""
        return self._client("iam")

    @cached_property
    def logs(self) -> CloudWatchLogsClient:
        """CloudWatch Logs."""
        client: CloudWatchLogsClient = self._client("logs")
        return client

    @cached_property
    def cloudwatch(self) -> CloudWatchClient:
        """CloudWatch's metrics and alarms."""
        client: CloudWatchClient = self._client("cloudwatch")
        return client

    @cached_property
    def auto_scaling(self) -> ApplicationAutoScalingClient:
        """Application Auto Scaling, which sets the number of endpoints' instances."""
        client: ApplicationAutoScalingClient = self._client("application-autoscaling", _SLOWS_DOWN)
        return client

    @cached_property
    def sagemaker(self) -> SageMakerClient:
        """SageMaker's control plane."""
        client: SageMakerClient = self._client("sagemaker", _SLOWS_DOWN)
        return client

    @cached_property
    def runtime(self) -> SageMakerRuntimeClient:
        """SageMaker's endpoints."""
        client: SageMakerRuntimeClient = self._client("sagemaker-runtime")
        return client

    @cached_property
    def hasty_runtime(self) -> SageMakerRuntimeClient:
        """SageMaker's endpoints, for a caller that turns elsewhere when one is unavailable. It
        knows so within 3 s, where ``runtime`` goes on asking for a minute."""
        client: SageMakerRuntimeClient = self._client("sagemaker-runtime", _FEW_RETRIES)
        return client
