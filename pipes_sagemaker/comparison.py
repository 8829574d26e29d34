"""Whether an existing training job is the one that is asked for."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import (
        CreateTrainingJobRequestTypeDef,
        DescribeTrainingJobResponseTypeDef,
    )

# The fields that make two jobs the same work. Each is compared only as far as the request sets it,
# because SageMaker's description adds defaults.
_COMPARED: Final[Mapping[str, Sequence[str] | None]] = {
    "AlgorithmSpecification": (
        "TrainingImage",
        "AlgorithmName",
        "TrainingInputMode",
        "ContainerEntrypoint",
        "ContainerArguments",
    ),
    "HyperParameters": None,
    "InputDataConfig": None,
    "OutputDataConfig": None,
    "CheckpointConfig": None,
    "RoleArn": None,
    "ResourceConfig": (
        "InstanceType",
        "InstanceCount",
        "InstanceGroups",
        "VolumeSizeInGB",
        "VolumeKmsKeyId",
    ),
}


def first_difference(requested: Any, existing: Any, field: str) -> tuple[str, Any, Any] | None:
    """The first place where ``existing`` is not what ``requested`` asks for: its path and both
    values; None if equal.

    Keys that only ``existing`` has are its defaults and do not count, save in HyperParameters.
    Channels are matched by name, and a slash at the end of an S3 URI means nothing.
    """
    if isinstance(requested, Mapping) and isinstance(existing, Mapping):
        extra = sorted(existing.keys() - requested.keys()) if field == "HyperParameters" else []
        for key in [*requested, *extra]:
            found = first_difference(requested.get(key), existing.get(key), f"{field}.{key}")
            if found:
                return found
        return None
    if (
        isinstance(requested, Sequence)
        and isinstance(existing, Sequence)
        and not isinstance(requested, str)
    ):
        if len(requested) != len(existing):
            return field, requested, existing
        pairs = zip(sorted(requested, key=_channel), sorted(existing, key=_channel), strict=True)
        for index, (one, other) in enumerate(pairs):
            found = first_difference(one, other, f"{field}[{_channel(one) or index}]")
            if found:
                return found
        return None
    if isinstance(requested, str) and isinstance(existing, str) and requested.startswith("s3://"):
        requested, existing = requested.rstrip("/"), existing.rstrip("/")
    return None if requested == existing else (field, requested, existing)


def _channel(item: Any) -> str:
    return str(item.get("ChannelName", "")) if isinstance(item, Mapping) else ""


def difference(
    request: "CreateTrainingJobRequestTypeDef", existing: "DescribeTrainingJobResponseTypeDef"
) -> tuple[str, Any, Any] | None:
    """The first compared field in which an existing job differs from the request."""
    for field, parts in _COMPARED.items():
        requested: Any = request.get(field) or ({} if field == "HyperParameters" else None)
        if requested is None:
            continue
        if parts is not None:
            requested = {part: requested[part] for part in parts if part in requested}
        found = first_difference(
            requested, existing.get(field) or ({} if field == "HyperParameters" else None), field
        )
        if found:
            return found
    return None
