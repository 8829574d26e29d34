"""The Dagster resource through which assets, sensors and schedules reach the deployment."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from dagster import ConfigurableResource
from pydantic import Field

from resources.deployment import DEFAULT_STACK, Deployment

if TYPE_CHECKING:
    from resources.pipes_sagemaker import PipesSageMakerTrainingJobClient


@cache
def _deployment(stack: str) -> Deployment:
    return Deployment.from_stack(stack)


class TenantryResource(ConfigurableResource["TenantryResource"]):
    """The deployment a code location works on. Its clients are made once in a process."""

    stack: str = Field(DEFAULT_STACK, description="Name of the CloudFormation stack.")
    poll_seconds: float = Field(
        15.0,
        gt=0,
        description="Seconds between looks at a running job; each look is one Describe call, whose rate is limited.",
    )
    lost_run_seconds: float = Field(
        90.0,
        gt=0,
        description="A run that showed no sign of life for so long is taken to be dead, and its pack is taken up again.",
    )

    @property
    def deployment(self) -> Deployment:
        """The stack's names and clients. Raises ``DeploymentMissing``."""
        return _deployment(self.stack)

    def training_client(self) -> PipesSageMakerTrainingJobClient:
        """The Pipes client that runs packed training jobs."""
        from resources.pipes_sagemaker import PipesSageMakerTrainingJobClient
        from resources.pipes_sagemaker_readers import PipesSageMakerLogReader, PipesSageMakerMessageReader

        deployment = self.deployment
        interval = min(5.0, self.poll_seconds)
        return PipesSageMakerTrainingJobClient(
            client=deployment.sagemaker,
            message_reader=PipesSageMakerMessageReader(
                bucket=deployment.data_bucket, client=deployment.s3, interval=interval
            ),
            log_reader=PipesSageMakerLogReader(
                client=deployment.logs, interval=interval, settle=min(3.0, self.poll_seconds)
            ),
            poll_interval=self.poll_seconds,
        )
