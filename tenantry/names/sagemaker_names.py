"""Names in SageMaker: of jobs, endpoints, models and configurations, and the ``TargetModel`` and
``InferenceId`` of a request."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from tenantry.names.ids import (
    DEFAULT_MODEL,
    InvalidIdError,
    ModelId,
    PackId,
    QuestionId,
    Version,
    WorkloadName,
    name_of,
    question_id,
    silo_digest,
    tenant_of,
    version_name,
)
from tenantry.names.tiers import Machines

_MAX_NAME: Final = 63  # characters, of every name that SageMaker takes


def target_model(tenant: ModelId, version: Version) -> str:
    """The ``TargetModel`` of ``InvokeEndpoint``. It begins with the tenant, so that IAM can limit a
    session to ``{tenant}/*``."""
    return f"{tenant_of(tenant)}/{version}.tar.gz"


def inference_id(question: QuestionId, attempt: int) -> str:
    """SageMaker's ``InferenceId`` of an attempt at a question."""
    return f"{question}-{attempt:d}"


def parse_inference_id(text: str) -> tuple[QuestionId, int]:
    """The question and the attempt in an ``InferenceId``. Raises ``InvalidIdError`` when it is not
    one."""
    question, _, attempt = text.partition("-")
    if not (attempt.isascii() and attempt.isdigit() and len(attempt) <= 9):
        raise InvalidIdError(f"{text[:80]!r} is not the id of an attempt at a question")
    return question_id(question), int(attempt)


_DIGEST: Final = 10


def _fitted(name: str) -> str:
    """The name as SageMaker takes it. If it is too long or ends in a hyphen, a digest of the whole
    name replaces its end."""
    if len(name) <= _MAX_NAME and not name.endswith("-"):
        return name
    return (
        f"{name[: _MAX_NAME - _DIGEST - 1]}-{hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]}"
    )


def training_job_name(prefix: str, workload: WorkloadName, pack: PackId, number: int = 1) -> str:
    """The name of a pack's training job; ``number`` counts its jobs, when one found no machine and
    another took its place."""
    return _fitted(f"{prefix}-{workload}-{pack}" + (f"-{number}" if number > 1 else ""))


def training_job_prefix(prefix: str) -> str:
    """The prefix of the names of a deployment's training jobs."""
    return f"{prefix}-"


def transform_job_name(prefix: str, workload: WorkloadName, day: date, batch: str) -> str:
    """The name of a batch's transform job."""
    return _fitted(f"{prefix}-{workload}-{day:%Y%m%d}-{version_name(batch)}")


OF_A_BATCH: Final = r"[0-9]{8}-.+"
"""After prefix and workload, in the names of transform jobs and their models."""


def processing_job_name(prefix: str, workload: WorkloadName, split: str, number: int) -> str:
    """The name of the job that splits a file; ``number`` counts the jobs of one file."""
    return _fitted(f"{prefix}-{workload}-{version_name(split)}-{number:d}")


def pipeline_name(prefix: str, workload: WorkloadName) -> str:
    """The name of a workload's pipeline."""
    return _fitted(f"{prefix}-{workload}-training")


def endpoint_name(prefix: str, workload: WorkloadName, machines: Machines) -> str:
    """The endpoint on a silo tenant's own machines, or on those of a shared tier."""
    if machines.tier == "silo":
        return _fitted(f"{prefix}-{workload}-silo-{silo_digest(machines.tenant)}")
    return _fitted(f"{prefix}-{workload}-{machines.tier}")


ENDPOINT_ENDS: Final = ("async", "single", "serverless", "containers", "managed", "pipeline")
"""The ends of the names of endpoints of other shapes than multi-model."""
_OF_A_MODEL: Final = "(?:-m[0-9a-f]{6})?"
OF_A_WORKLOAD: Final = (
    rf"(?:bridge|pool|silo-[0-9a-f]{{16}})(?:-(?:{'|'.join(ENDPOINT_ENDS)}){_OF_A_MODEL})?"
)
"""A regular expression of what follows the deployment and the workload in an endpoint's name."""


def shaped_endpoint_name(prefix: str, workload: WorkloadName, machines: Machines, end: str) -> str:
    """The endpoint there of a shape whose names end in one of ``ENDPOINT_ENDS``."""
    return _fitted(f"{endpoint_name(prefix, workload, machines)}-{end}")


def model_endpoint_name(prefix: str, workload: WorkloadName, machines: Machines, end: str) -> str:
    """The endpoint there of a shape that serves one model alone. A silo tenant's named models have
    one each, beside its default one's."""
    if machines.tier == "silo" and (name := name_of(machines.model)) != DEFAULT_MODEL:
        digest = hashlib.sha256(name.encode()).hexdigest()[:6]
        return shaped_endpoint_name(prefix, workload, machines, f"{end}-m{digest}")
    return shaped_endpoint_name(prefix, workload, machines, end)


def silo_names_are_shortened(prefix: str, workload: WorkloadName) -> bool:
    """Whether the name of an endpoint of a silo tenant may not tell what is before its end."""
    longest = max(map(len, ENDPOINT_ENDS)) + len("-m123456")
    return len(f"{prefix}-{workload}-silo-{'0' * 16}-") + longest > _MAX_NAME


_END: Final = re.compile(rf"-(?:{'|'.join(ENDPOINT_ENDS)}){_OF_A_MODEL}\Z")


def silo_role_name(endpoint: str, region: str) -> str:
    """The name of a silo tenant's execution role; ``endpoint`` is its multi-model endpoint's.

    A role's name holds in the whole account, so that two regions' roles need two names.
    """
    return _fitted(f"{endpoint}-{region}")


def without_end(endpoint: str) -> str:
    """The name of the multi-model endpoint on the same machines. A name that was shortened stays
    as it is."""
    return _END.sub("", endpoint)


def container_hostname(tenant: ModelId) -> str:
    """The container of a model on a multi-container endpoint. A digest, as an id may end
    in a hyphen, which SageMaker refuses."""
    return f"t-{hashlib.sha256(tenant.encode()).hexdigest()[:16]}"


def content_addressed_name(endpoint: str, content: Mapping[str, Any]) -> str:
    """The name of an endpoint's model or configuration: other content, another name."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_DIGEST]
    return f"{endpoint[: _MAX_NAME - _DIGEST - 1]}-{digest}"
