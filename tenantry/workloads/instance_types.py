"""What SageMaker's instance types have, and which of them run multi-model containers."""

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


# Of one GPU of each family, as AWS's page on accelerated instances has it:
# https://docs.aws.amazon.com/ec2/latest/instancetypes/ac.html
_GPU_GIGABYTES: Final = {
    "ml.p2": 12,
    "ml.p3": 16,
    "ml.p3dn": 32,
    "ml.p4d": 40,
    "ml.p4de": 80,
    "ml.p5": 80,
    "ml.g4dn": 16,
    "ml.g5": 24,
    "ml.g6": 24,
    "ml.g6e": 48,
    "ml.gr6": 24,
}


def has_gpu(instance_type: str) -> bool:
    """Whether a type of machine has a GPU."""
    return _GPU.match(instance_type) is not None


def has_accelerator(instance_type: str) -> bool:
    """Whether a type of machine has a GPU, or an accelerator of AWS's own."""
    return has_gpu(instance_type) or _NEURON.match(instance_type) is not None


def gpu_gigabytes(instance_type: str) -> float | None:
    """The memory of one GPU of a type of machine, in GB; None where it has none that is known."""
    return _GPU_GIGABYTES.get(instance_type.rpartition(".")[0])


def multi_model_fault(instance_type: str) -> str | None:
    """Why no multi-model endpoint runs on an instance type; None where one does."""
    if _NEURON.match(instance_type):
        return (
            f"{instance_type} cannot be multi-model: SageMaker has no multi-model endpoints on "
            f"Inferentia or Trainium"
        )
    if _GPU.match(instance_type) and instance_type not in MULTI_MODEL_GPU_TYPES:
        return (
            f"{instance_type} cannot be multi-model: of the GPU types SageMaker takes "
            f"{', '.join(MULTI_MODEL_GPU_TYPES)}"
        )
    return None
