"""The errors this service answers with, by the codes and words that SageMaker uses.

`docs.aws.amazon.com/sagemaker/latest/APIReference/CommonErrors.html` lists the common ones; the
others stand in botocore's service model.
"""

from typing import Any


class LocalSageMakerError(Exception):
    """Something that the emulator raises on purpose."""


class ServiceError(LocalSageMakerError):
    """An error that is answered to the caller.

    `code` is AWS's error code, `status` the HTTP status where the service model has none, and
    `fields` the further members of a modelled error (`OriginalStatusCode` of ModelError, for one).
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
    """A resource that does not exist; SageMaker answers with ValidationException, not with a code
    of its own."""
    return validation(f"Could not find {what}.")


def not_emulated(what: str) -> ServiceError:
    """A request that AWS would accept and this emulator cannot honour. Refusing is better than
    pretending."""
    return validation(
        f"{what} is not emulated yet by local_sagemaker; leave it out of the request."
    )
