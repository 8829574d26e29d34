"""A minimal complete family of models: a model is the mean of its tenant's numbers.

`python -m tests.containers.runtime.tiny_family train` or `… serve` runs it, like a container's
scripts.
"""

import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from containers.runtime.serving import server
from containers.runtime.serving.predictor import (
    Answer,
    InvalidModelError,
    InvalidRequestError,
    Predictor,
    Question,
)
from containers.runtime.serving.serving_errors import TooManyRequestsError
from containers.runtime.training import packed_training
from containers.runtime.training.packed_training import (
    InvalidTrainingInputError,
    Refused,
    Task,
    Trained,
    Underway,
)


def wait_for(path: Path | str | None) -> None:
    """Return when `path` exists; at once when it is None."""
    while path is not None and not Path(path).exists():
        time.sleep(0.005)


class TinyTrainer:
    """Computes the means of a batch; `parameters["misbehave"]` names a failure."""

    family = "tiny"

    def train(
        self, tasks: Sequence[Task], hyperparameters: Mapping[str, str], workspace: Path
    ) -> Iterator[Trained | Refused | Underway]:
        if hyperparameters.get("average", "mean") != "mean":
            raise InvalidTrainingInputError("hyperparameter 'average' must be 'mean'")
        with (workspace.parent.parent / "batches.log").open("a") as log:
            log.write(json.dumps([task.task for task in tasks]) + "\n")
        for task in tasks:
            numbers = json.loads((task.data / "numbers.json").read_bytes())
            match task.parameters.get("misbehave"):
                case "raise":
                    raise RuntimeError(f"cannot digest {len(numbers)} numbers")
                case "exit":
                    raise SystemExit("a library gave up")
                case "memory":
                    raise MemoryError("the data are too large")
                case "silent":
                    continue
                case "under way for ever":
                    (workspace.parent.parent / "waiting").touch()
                    while True:
                        time.sleep(0.005)
                        yield Underway(tasks, 1, 2)
                case "wait":
                    (workspace.parent.parent / "waiting").touch()
                    wait_for(workspace.parent.parent / "go on")
            if not numbers:
                yield Refused(task, "the upload has no numbers")
                continue
            yield self._trained(task, numbers, workspace)
            if task.parameters.get("misbehave") == "twice":
                yield Refused(task, "a second thought")

    def _trained(self, task: Task, numbers: list[float], workspace: Path) -> Trained:
        folder = workspace / task.task
        folder.mkdir()
        mean = sum(numbers) / len(numbers)
        (folder / "model.json").write_text(json.dumps({"mean": mean}))
        metrics = {"error": max(numbers) - mean}
        preview: dict[str, object] = {"numbers": numbers}
        match task.parameters.get("misbehave"):
            case "nan":
                metrics["error"] = float("nan")
            case "link":
                (folder / "model.json").unlink()
                (folder / "model.json").symlink_to("/etc/passwd")
            case "no folder":
                folder = workspace / "nowhere"
            case "large preview":
                preview = {"numbers": numbers * 300_000}
            case "large card":
                return Trained(task, folder, metrics, {"words": "x" * 100_000}, preview)
        files = self._pictures(task.parameters.get("pictures", []), folder)
        return Trained(task, folder, metrics, {"model": "mean"}, preview, files)

    def _pictures(self, names: list[str], folder: Path) -> dict[str, Path]:
        """A file beside the archive for each name; the name states the file's fault."""
        files = {}
        for number, name in enumerate(names):
            path = folder.with_name(f"{folder.name}-{number}")
            match name:
                case "link.png":
                    path.symlink_to("/etc/passwd")
                case "absent.png":
                    pass
                case "large.png":
                    with path.open("wb") as file:
                        file.truncate(20 * 1024 * 1024)
                case _:
                    path.write_bytes(name.encode())
            files[name] = path
        return files


@dataclass
class TinyModel:
    """The mean, and the memory that it pretends to use."""

    mean: float
    size: int


class TinyPredictor:
    """Answers `{"add": number}` with the mean plus the number."""

    family = "tiny"
    inline = True

    def load(self, folder: Path) -> TinyModel:
        try:
            document = json.loads((folder / "model.json").read_bytes())
            if document.get("misbehave") == "raise":
                raise RuntimeError("secret content of a model")
            model = TinyModel(float(document["mean"]), int(document.get("size", 1000)))
        except (OSError, ValueError, KeyError) as error:
            raise InvalidModelError(f"model.json is not a mean: {error}") from error
        wait_for(document.get("wait_for"))
        return model

    def size(self, model: TinyModel) -> int:
        return model.size

    def predict(self, model: TinyModel, body: bytes, content_type: str, accept: str) -> Answer:
        try:
            request = json.loads(body)
        except ValueError as error:
            raise InvalidRequestError("the body is not JSON") from error
        if not isinstance(request, dict) or not isinstance(request.get("add", 0), int | float):
            raise InvalidRequestError("'add' must be a number", "add")
        if request.get("misbehave") == "raise":
            raise RuntimeError("secret content of a request")
        wait_for(request.get("wait_for"))
        return Answer(json.dumps({"mean": model.mean + request.get("add", 0)}).encode())


class ThreadedPredictor(TinyPredictor):
    """The same predictor in the server's threads."""

    inline = False


class StreamingPredictor(TinyPredictor):
    """Answers an asynchronous request with its data, each byte plus `add`, without holding them."""

    def predict_stream(
        self, model: TinyModel, request: bytes, data: IO[bytes], content_type: str, accept: str
    ) -> Answer:
        add = json.loads(request)["add"]
        table = bytes((byte + add) % 256 for byte in range(256))
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the server closes it
        while piece := data.read(1 << 20):
            file.write(piece.translate(table))
        return Answer(b"", content_type, file)


class TogetherPredictor(TinyPredictor):
    """Answers several requests in one call, each with the number of requests in it.

    A request may misbehave: `raise` fails the whole call, `nothing` has no answer.
    """

    def unload(self, model: TinyModel) -> None:
        model.mean = float("nan")

    def predict_batch(self, questions: list[Question[TinyModel]]) -> list[Answer | Exception]:
        return [self._answer(question, len(questions)) for question in questions]

    def _answer(self, question: Question[TinyModel], together: int) -> Answer | Exception:
        try:
            answer = json.loads(self.predict(*question).body)
        except InvalidRequestError as error:
            return error
        if json.loads(question.body).get("misbehave") == "nothing":
            return None  # type: ignore[return-value]  # the mistake is intended
        return Answer(json.dumps({**answer, "batch": together}).encode())


class BatchingPredictor:
    """The same predictor for a family that batches the requests in flight itself, and answers each
    round together.

    It must be started, has its own figures, and lets three requests wait.
    """

    family = "tiny"

    def __init__(self) -> None:
        self._tiny = TinyPredictor()
        self._waiting: list[asyncio.Future[int]] = []
        self._called_off = 0
        self._started = False

    def start(self) -> None:
        if os.environ.get("TINY_WORD", "tiny") != "tiny":
            raise ValueError("TINY_WORD must be 'tiny'")
        self._started = True

    def close(self) -> None:
        logging.getLogger(__name__).info("tiny closed")

    def status(self) -> dict[str, int | bool]:
        return {
            "started": self._started,
            "waiting": len(self._waiting),
            "called_off": self._called_off,
        }

    def load(self, folder: Path) -> TinyModel:
        return self._tiny.load(folder)

    def size(self, model: TinyModel) -> int:
        return model.size

    async def predict(
        self, model: TinyModel, body: bytes, content_type: str, accept: str
    ) -> Answer:
        answer = json.loads(self._tiny.predict(model, body, content_type, accept).body)
        together = json.loads(body).get("together", 1)
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if len(self._waiting) == 3:
            raise TooManyRequestsError("three are waiting", retry_after_seconds=7)
        self._waiting.append(turn)
        if len(self._waiting) >= together:
            for waiting in self._waiting:
                waiting.set_result(len(self._waiting))
            self._waiting = []
        try:
            return Answer(json.dumps({**answer, "batch": await turn}).encode())
        except asyncio.CancelledError:
            self._waiting.remove(turn)
            self._called_off += 1
            raise


if __name__ == "__main__":
    predictors: dict[str, Predictor[TinyModel]] = {
        "serve": TinyPredictor(),
        "serve-threaded": ThreadedPredictor(),
        "serve-batching": BatchingPredictor(),
        "serve-together": TogetherPredictor(),
        "serve-streaming": StreamingPredictor(),
    }
    if sys.argv[1] == "train":
        sys.exit(packed_training.main(TinyTrainer()))
    sys.exit(server.main(predictors[sys.argv[1]]))
