"""The errors that this service answers with, in SageMaker's codes and words.

`docs.aws.amazon.com/sagemaker/latest/APIReference/CommonErrors.html` lists the common ones;
botocore's service model lists the others.
"""

from typing import Any


class LocalSageMakerError(Exception):
    """An error that the emulator raises on purpose."""


class ServiceError(LocalSageMakerError):
    """An error that the caller gets as an answer.

    `code` is AWS's error code. `status` is the HTTP status if the service model has none. `fields`
    are the further members of a modelled error, such as `OriginalStatusCode` of ModelError.
    """

    def __init__(self, code: str, message: str, status: int = 400, **fields: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.fields = fields


def validation(message: str) -> ServiceError:
    """A request that the control plane refuses: `ValidationException`."""
    return ServiceError("ValidationException", message)


def not_found(what: str) -> ServiceError:
    """A resource that does not exist; SageMaker answers with ValidationException, not with a
    separate code."""
    return validation(f"Could not find {what}.")


def not_emulated(what: str) -> ServiceError:
    """A request that AWS would accept but this emulator does not support. It refuses rather than
    pretends."""
    return validation(
        f"{what} is not emulated yet by local_sagemaker; leave it out of the request."
    )
