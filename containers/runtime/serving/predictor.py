"""What a family of models gives the server: how its models are loaded, how large they are, and what
they answer."""

from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from containers.runtime.errors import ContainerError

ModelT = TypeVar("ModelT")


@dataclass(frozen=True, slots=True)
class Answer:
    """A prediction as it goes out: body and content type."""

    body: bytes
    content_type: str = "application/json"


class InvalidModelError(ContainerError):
    """The files of a model are not a model of this family; the message is told to whoever asked for
    the load.

    `reason` names the kind of fault for programs, as in `adapter_too_large`, where the family tells
    kinds apart.
    """

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class InvalidRequestError(ContainerError):
    """The request cannot be answered as it stands; `field` is the one at fault, where there is one.

    `reason` names the kind of fault for programs, as in `start_beyond_reach`, where the family
    tells kinds apart.
    """

    def __init__(self, message: str, field: str | None = None, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.reason = reason


class Predictor(Protocol[ModelT]):
    """A family of models, as the server uses it.

    More attributes are honoured where a family has them:

    - `inline: bool`: `predict` takes microseconds and is called on the event loop; otherwise it
      runs in a thread.
    - `unload(model) -> None`: called when a model leaves memory, for what garbage collection does
      not return.
    - `start() -> None`: called once, before the server listens, for what all models share; raises
      `ValueError` with what is wrong with the settings.
    - `close() -> None`: called once, after the last request.
    - `status() -> dict`: the family's own figures, shown with the server's.

    `predict` may also be a coroutine function: then the family does its own batching across the
    requests in flight, and answers each when it is ready. It is cancelled when its client goes
    away. It, and `predict` in a thread, may raise the errors of `serving_errors` too.
    """

    family: str

    def load(self, folder: Path) -> ModelT:
        """Read a model from its files; the folder may be gone afterwards. Raises
        `InvalidModelError`."""
        ...

    def size(self, model: ModelT) -> int:
        """The memory the model holds, in bytes."""
        ...

    def predict(
        self, model: ModelT, body: bytes, content_type: str, accept: str
    ) -> Answer | Awaitable[Answer]:
        """Answer one request. Raises `InvalidRequestError`."""
        ...
