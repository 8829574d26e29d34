"""The interface between a family of models and the server: how to load models, their size, and
their answers."""

from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Generic, NamedTuple, Protocol, TypeVar

from containers.runtime.errors import ContainerError

ModelT = TypeVar("ModelT")


@dataclass(frozen=True, slots=True)
class Answer:
    """A prediction as the server sends it: body and content type.

    `file` takes the place of `body` where the answer may be too large for memory. The server sends
    it from its beginning, and closes it.
    """

    body: bytes
    content_type: str = "application/json"
    file: IO[bytes] | None = None


class Question(NamedTuple, Generic[ModelT]):
    """One request of a batch: the arguments of `predict`."""

    model: ModelT
    body: bytes
    content_type: str
    accept: str


class InvalidModelError(ContainerError):
    """The files of a model are not a model of this family. The client that asked for the load
    receives the message.

    `reason` names the kind of fault for programs, such as `adapter_too_large`, if the family
    distinguishes kinds.
    """

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class InvalidRequestError(ContainerError):
    """The request cannot be answered as it is; `field` is the faulty field, if there is one.

    `reason` names the kind of fault for programs, such as `start_beyond_reach`, if the family
    distinguishes kinds.
    """

    def __init__(self, message: str, field: str | None = None, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.reason = reason


class Predictor(Protocol[ModelT]):
    """A family of models, as the server uses it.

    A family may have further attributes:

    - `inline: bool`: `predict` takes microseconds and is called on the event loop; otherwise it
      runs in a thread.
    - `unload(model) -> None`: called when a model leaves memory, to release resources that garbage
      collection does not.
    - `start() -> None`: called once, before the server listens, to prepare what all models share;
      raises `ValueError` that names a fault in the settings.
    - `close() -> None`: called once, after the last request.
    - `predict_stream(model, request, data, content_type, accept) -> Answer`: for an asynchronous
      endpoint's requests, in the place of `predict`. `request` is the record's request as JSON.
      `data` is a file at the beginning of all that comes after the record's line, at most 1 GiB. It
      is called in a thread, and the server closes the file afterwards.
    - `predict_batch(questions: list[Question]) -> list[Answer | Exception]`: several requests in
      one call, of one model or of several. It returns an answer, or the exception that `predict`
      would raise, for each question, in their order. Where `variables.MAX_BATCH` asks for batches,
      the server gathers requests (`batching`) and calls it in the place of `predict`: in a thread,
      for an `inline` family too, and once at a time. If it raises, each question is asked again
      alone.
    - `status() -> dict`: the family's own figures, shown with the server's.

    `predict` may also be a coroutine function. The family then batches the requests in flight
    itself, and answers each when it is ready. The server cancels it when its client disconnects. A
    coroutine, like `predict` in a thread, may also raise the errors of `serving_errors`.

    Which of the three:

    - `predict` alone, where one request uses the processor as well as many do.
    - `predict_batch`, where one pass over many requests costs less than as many passes, as with
      matrices. All requests of a call are answered when the last is.
    - A coroutine, where requests of one batch end at different times, so that others can take their
      places: pictures of few and of many steps. `variables.MAX_BATCH` is refused for it, because
      requests would wait twice.
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
