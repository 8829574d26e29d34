"""Runs of an asset that starts the counting container, and their results."""

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dagster import AssetExecutionContext, DagsterInstance, MaterializeResult, asset, materialize

from pipes_sagemaker.client import PipesSageMakerTrainingJobClient

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/pipes-sagemaker.md"
BUCKET = "pipes"
Params = dict[str, Any]


def example_code(language_line: str) -> str:
    """The code block of the docs page that starts with this line."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    [code] = [block for block in blocks if block.startswith(language_line)]
    return str(code)


def counting(*, instances: int = 1, name: str | None = None, **hyperparameters: str) -> Params:
    """A request for the counting container."""
    return {
        "TrainingJobName": name or f"counting-{uuid.uuid4().hex[:12]}",
        "AlgorithmSpecification": {
            "TrainingImage": "registry/counting:1",
            "TrainingInputMode": "File",
        },
        "HyperParameters": {"count": "3", **hyperparameters},
        "RoleArn": "arn:aws:iam::123456789012:role/training",
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/output"},
        "ResourceConfig": {
            "InstanceType": "ml.m5.large",
            "InstanceCount": instances,
            "VolumeSizeInGB": 1,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": 120},
    }


@dataclass
class Outcome:
    """The results of a run of the asset."""

    success: bool
    error: BaseException | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    custom_messages: list[Any] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


def run_asset(
    pipes: PipesSageMakerTrainingJobClient,
    params: Params,
    on_custom_message: Callable[[Any], None] | None = None,
    **options: Any,
) -> Outcome:
    """Materialise an asset that uses the client, in a real ephemeral instance."""
    outcome = Outcome(success=False)

    @asset
    def counted(
        context: AssetExecutionContext, pipes: PipesSageMakerTrainingJobClient
    ) -> MaterializeResult[Any]:
        try:
            completed = pipes.run(
                context=context,
                # The tests build it as plain JSON.
                create_training_job_params=params,  # type: ignore[arg-type]
                on_custom_message=on_custom_message,
                **options,
            )
        except BaseException as error:
            outcome.error = error
            raise
        outcome.custom_messages = list(completed.get_custom_messages())
        return completed.get_materialize_result()

    with DagsterInstance.ephemeral() as instance:
        result = materialize(
            [counted], instance=instance, resources={"pipes": pipes}, raise_on_error=False
        )
        outcome.success = result.success
        outcome.log = [entry.user_message for entry in instance.all_logs(result.run_id)]
        if result.success:
            [event] = result.asset_materializations_for_node("counted")
            outcome.metadata = {key: value.value for key, value in event.metadata.items()}
    return outcome


def numbers_by_host(messages: list[Any]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for message in messages:
        if "number" in message:
            found.setdefault(message["host"], []).append(message["number"])
    return found
