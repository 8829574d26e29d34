"""The server's error answers: one class per status code, with JSON bodies as in
docs/contracts.md."""

import json
from typing import ClassVar

from containers.runtime.errors import ContainerError


class ServingError(ContainerError):
    """An answer that is not a prediction; `field` names the request's faulty field, if there is
    one."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "InternalError"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field

    def body(self) -> bytes:
        """The JSON document that describes the error."""
        error = {"code": self.code, "message": self.message}
        for name in ("field", "reason"):
            if (value := getattr(self, name, None)) is not None:
                error[name] = value
        return json.dumps({"error": error}).encode()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of the answer besides those of every answer."""
        return []


class BadRequestError(ServingError):
    """400: the request, or the archive it names, cannot be used as it is; `reason` names the kind
    of fault for programs."""

    status = 400
    code = "InvalidRequest"

    def __init__(self, message: str, field: str | None = None, reason: str | None = None) -> None:
        super().__init__(message, field)
        self.reason = reason


class RefusedModelError(BadRequestError):
    """400 for a load: the archive or its content is refused; nothing else is touched."""

    code = "InvalidModel"


class NotFoundError(ServingError):
    """404: the model is not loaded, or the server has no such path."""

    status = 404
    code = "NotFound"


class MethodNotAllowedError(ServingError):
    """405: the path exists, but not with this method."""

    status = 405
    code = "MethodNotAllowed"


class AlreadyLoadedError(ServingError):
    """409: the model is loaded already (the multi-model contract asks for this answer)."""

    status = 409
    code = "ModelAlreadyLoaded"


class BodyTooLargeError(ServingError):
    """413: the body is larger than the server accepts."""

    status = 413
    code = "PayloadTooLarge"


class TooManyRequestsError(ServingError):
    """429: the queue is full, for this model or for all; no work on the request has begun."""

    status = 429
    code = "TooManyRequests"

    def __init__(
        self, message: str, field: str | None = None, *, retry_after_seconds: int = 1
    ) -> None:
        super().__init__(message, field)
        self.retry_after_seconds = retry_after_seconds

    def headers(self) -> list[tuple[bytes, bytes]]:
        """When to try again (RFC 9110, section 10.2.3)."""
        return [(b"retry-after", b"%d" % self.retry_after_seconds)]


class DeadlineExceededError(ServingError):
    """504: the answer was not ready within the request's time limit; the work is cancelled."""

    status = 504
    code = "DeadlineExceeded"


class OutOfMemoryError(ServingError):
    """507: the model does not fit beside those that are loaded; SageMaker then unloads some and
    tries again."""

    status = 507
    code = "InsufficientMemory"
