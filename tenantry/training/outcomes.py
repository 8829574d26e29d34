"""The outcomes of a packed training job's tasks, as they reach the control plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contracts import progress
from contracts.errors import MalformedDocumentError
from contracts.limits import OUTCOME_BYTES
from contracts.outcomes import Outcome
from tenantry.aws import objects
from tenantry.names import ids, s3_keys

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment


def outcome_in_message(message: Any) -> Outcome | None:
    """The outcome a container's progress message carries; None for a message about something else.

    Raises:
        MalformedDocumentError: it claims to be one and is not, or its task is no request's id.
    """
    outcome = progress.outcome_of(message)
    if outcome is not None:
        try:
            ids.request_id(outcome.task)
        except ids.InvalidIdError as error:
            raise MalformedDocumentError("the outcome", "task", "is no request's id") from error
    return outcome


def stored_outcome(deployment: Deployment, left: str) -> Outcome:
    """The outcome that lies beside an archive, which its training left under the key ``left``.

    Raises:
        objects.ObjectMissingError: it is not there.
        objects.ObjectTooLargeError: it is larger than an outcome may be.
        MalformedDocumentError: it is not an outcome.
    """
    key = s3_keys.outcome_beside(left)
    content = objects.read_bytes(deployment.s3, deployment.data_bucket, key, OUTCOME_BYTES)
    return Outcome.parse(content)
