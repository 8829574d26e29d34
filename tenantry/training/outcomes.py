"""``fine_tuned_artifact``: what a task of a packed training job left: an archive and an outcome,
read at this boundary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tenantry.aws import objects
from tenantry.errors import TenantryError
from tenantry.names import ids, s3_keys

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_MAX_OUTCOME_BYTES: Final = 8 * 1024 * 1024


class MalformedOutcomeError(TenantryError, ValueError):
    """A container reported something that is not an outcome; the message names the field."""


class _StoredFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    bytes: int = Field(ge=1)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


_FileName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]


class Outcome(BaseModel):
    """The outcome of a task (docs/contracts.md, "Training container")."""

    # A score that is no number would compare as "not worse" with every champion.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    format: Literal[1]
    task: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    tenant: str
    version: str
    status: Literal["succeeded", "failed"]
    reason: Annotated[str, Field(max_length=10_000)] | None = None
    retryable: bool = False
    seconds: float = Field(ge=0)
    cpu_seconds: float = Field(ge=0)
    archive: _StoredFile | None = None
    metrics: Mapping[str, float] = Field(default_factory=dict)
    card: Mapping[str, Any] = Field(default_factory=dict)
    preview: Mapping[str, Any] = Field(default_factory=dict)
    files: Mapping[_FileName, _StoredFile] = Field(default_factory=dict, max_length=64)
    """What lies beside the archive, by name: a tenant's first pictures, for example."""

    @property
    def key(self) -> tuple[ids.TenantId, ids.RequestId]:
        """The request it answers."""
        return ids.tenant_id(self.tenant), ids.request_id(self.task)


def outcome_in_message(message: Any) -> Outcome | None:
    """The outcome a container's progress message carries; None for a message about something else.

    Raises:
        MalformedOutcomeError: it claims to be one and is not.
    """
    if not isinstance(message, dict) or message.get("event") != "task_finished":
        return None
    try:
        outcome = Outcome.model_validate(message.get("outcome"))
        ids.tenant_id(outcome.tenant)
        ids.version_name(outcome.version)
    except (ValidationError, ids.InvalidIdError) as error:
        raise MalformedOutcomeError(
            f"a training container reported a malformed outcome: {error}"
        ) from error
    if outcome.status == "succeeded" and outcome.archive is None:
        raise MalformedOutcomeError(f"task {outcome.task} succeeded without an archive")
    return outcome


def stored_outcome(deployment: Deployment, left: str) -> Outcome:
    """The outcome that lies beside an archive, which its training left under the key ``left``.

    Raises:
        objects.ObjectMissingError: it is not there.
        objects.ObjectTooLargeError: it has more than 8 MiB.
        ValueError: it is not an outcome.
    """
    key = s3_keys.outcome_beside(left)
    content = objects.read_bytes(deployment.s3, deployment.data_bucket, key, _MAX_OUTCOME_BYTES)
    return Outcome.model_validate_json(content)
