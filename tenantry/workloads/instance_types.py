"""Which machines SageMaker's multi-model endpoints run on: the one rule, checked as a workload's
file is read."""

from __future__ import annotations

import re
from typing import Final

# https://docs.aws.amazon.com/sagemaker/latest/dg/multi-model-support.html: "all of the CPU instance
# types", and of the GPU instance types these, all of one GPU.
MULTI_MODEL_GPU_TYPES: Final = (
    "ml.p2.xlarge",
    "ml.p3.2xlarge",
    *(f"ml.g4dn.{size}" for size in ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge")),
    *(f"ml.g5.{size}" for size in ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge")),
)
_NEURON: Final = re.compile(r"^ml\.(inf|trn)\d")
_GPU: Final = re.compile(r"^ml\.(g|gr|p)\d")  # no family without an accelerator begins so


def has_gpu(instance_type: str) -> bool:
    """Whether a type of machine has a GPU."""
    return _GPU.match(instance_type) is not None


def multi_model_fault(instance_type: str) -> str | None:
    """Why no multi-model endpoint runs on an instance type, and the cure, as a sentence; None where
    one does."""
    if _NEURON.match(instance_type):
        return (
            f"{instance_type} cannot be multi-model: SageMaker has no multi-model endpoints on "
            f"Inferentia or Trainium; choose"
            " a CPU type or a GPU type of one GPU, such as ml.g5.xlarge. docs/gpu-serving.md says "
            "how Inferentia is served from"
        )
    if _GPU.match(instance_type) and instance_type not in MULTI_MODEL_GPU_TYPES:
        return (
            f"{instance_type} cannot be multi-model: of the GPU types SageMaker takes "
            f"{', '.join(MULTI_MODEL_GPU_TYPES)};"
            " choose one of those or a CPU type, and keep this type for serving.asynchronous, "
            "batch or training"
        )
    return None
