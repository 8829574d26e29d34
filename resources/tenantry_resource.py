"""The Dagster resource through which assets, sensors and schedules reach the deployment."""

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from dagster import ConfigurableResource, InitResourceContext, ResourceDependency
from pydantic import BaseModel, ConfigDict, Field

from contracts.logs import log_fields
from resources.run_heartbeat import run_heartbeat
from tenantry.aws.deployment import DEFAULT_STACK, Deployment

if TYPE_CHECKING:
    from pipes_sagemaker.client import PipesSageMakerTrainingJobClient


@cache
def _deployment(stack: str) -> Deployment:
    return Deployment.from_stack(stack)


class Settings(BaseModel):
    """A code location's stack, rates and intervals. They belong to the deployment, so no launchpad
    offers them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stack: str = Field(DEFAULT_STACK, description="Name of the CloudFormation stack.")
    poll_seconds: float = Field(
        15.0,
        gt=0,
        description="Seconds between looks at the running jobs; each look is one List call for all "
        "of them.",
    )
    training_job_rate: float = Field(
        default=1.0,
        gt=0,
        description="CreateTrainingJob calls a second of all runs together; the account's quota "
        "limits it.",
    )
    training_job_burst: int = Field(
        default=3,
        ge=1,
        description="CreateTrainingJob calls that may be made at once after a quiet time.",
    )
    lost_run_seconds: float = Field(
        90.0,
        gt=0,
        description="A run that gave no heartbeat for so long is taken to be dead, and its "
        "pack is taken up again.",
    )


class TenantryResource(ConfigurableResource["TenantryResource"]):
    """The deployment a code location works on. Its clients are made once in a process.

    A run sends heartbeats while it uses it.
    """

    settings: ResourceDependency[Settings]

    @contextmanager
    def yield_for_execution(self, context: InitResourceContext) -> Generator["TenantryResource"]:
        """Called by Dagster around a run, or around an evaluation of a sensor or a schedule, which
        is no run."""
        run = context.run
        if run is None or context.instance is None:
            yield self
        else:
            with log_fields(run=run.run_id), run_heartbeat(context.instance, run.run_id):
                yield self

    @property
    def deployment(self) -> Deployment:
        """The stack's names and clients. Raises ``DeploymentMissingError``."""
        return _deployment(self.settings.stack)

    def training_client(self, messages: str) -> "PipesSageMakerTrainingJobClient":
        """The Pipes client that runs a pack's training jobs; ``messages`` is the prefix of their
        messages."""
        from pipes_sagemaker.client import PipesSageMakerTrainingJobClient
        from pipes_sagemaker.readers import PipesSageMakerLogReader, PipesSageMakerMessageReader
        from tenantry.aws.request_budget import RequestBudget
        from tenantry.training.job_statuses import TrainingJobStatuses

        deployment, settings = self.deployment, self.settings
        budget = RequestBudget(
            deployment, "CreateTrainingJob", settings.training_job_rate, settings.training_job_burst
        )
        interval = min(5.0, settings.poll_seconds)
        return PipesSageMakerTrainingJobClient(
            client=deployment.sagemaker,
            message_reader=PipesSageMakerMessageReader(
                bucket=deployment.data_bucket,
                client=deployment.s3,
                key_prefix=messages,
                interval=interval,
            ),
            log_reader=PipesSageMakerLogReader(
                client=deployment.logs, interval=interval, settle=min(3.0, settings.poll_seconds)
            ),
            poll_interval=settings.poll_seconds,
            job_watch=TrainingJobStatuses(deployment, settings.poll_seconds),
            before_create=budget.wait,
        )
