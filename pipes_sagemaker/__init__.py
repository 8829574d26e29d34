"""A Dagster Pipes client for SageMaker training jobs; knows nothing of this project.

``from pipes_sagemaker import PipesSageMakerTrainingJobClient`` loads Dagster, importing this
package does not: ``pipes_sagemaker.container`` runs where there is none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pipes_sagemaker.client import PipesSageMakerTrainingJobClient
    from pipes_sagemaker.errors import (
        FailureClass,
        TrainingJobDiffersError,
        TrainingJobFailedError,
        TrainingJobResourceLimitExceededError,
        failure_class,
    )
    from pipes_sagemaker.readers import PipesSageMakerLogReader, PipesSageMakerMessageReader

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

_WHERE: Final = {
    "FailureClass": "pipes_sagemaker.errors",
    "PipesSageMakerLogReader": "pipes_sagemaker.readers",
    "PipesSageMakerMessageReader": "pipes_sagemaker.readers",
    "PipesSageMakerTrainingJobClient": "pipes_sagemaker.client",
    "TrainingJobDiffersError": "pipes_sagemaker.errors",
    "TrainingJobFailedError": "pipes_sagemaker.errors",
    "TrainingJobResourceLimitExceededError": "pipes_sagemaker.errors",
    "failure_class": "pipes_sagemaker.errors",
}

# A type checker reads the imports above, so that it reports an unknown name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(_WHERE[name]), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
