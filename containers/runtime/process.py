"""The processing entry point of all containers: it evaluates a served model on newer data, or
splits a file of many customers, as the job's environment says.

An evaluation asks the model as its endpoint would. The model, the data and the instructions are the
job's inputs; the score is its output (`contracts.evaluations`).
"""

import asyncio
import importlib
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Final

from containers.runtime.archives.archive import extract_archive
from containers.runtime.errors import ContainerError
from containers.runtime.serving.predictor import Answer, ModelT, Predictor
from contracts.documents import to_bytes
from contracts.errors import ContractError
from contracts.evaluations import (
    DATA,
    EVALUATION,
    EVALUATION_FILE,
    MODEL,
    MODEL_FILE,
    SCORE_FILE,
    Evaluation,
    score_document,
)
from contracts.variables import PROCESS

_JSON: Final = "application/json"
_MESSAGE_BYTES: Final = 1024
"""SageMaker hands on so much of a message as the job's ExitMessage:
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeProcessingJob.html"""


def main(predictor: Predictor[ModelT], split: Callable[[], None] | None = None) -> int:
    """Do what the job is for; returns the exit status. An error's message is the job's ExitMessage:
    https://docs.aws.amazon.com/sagemaker/latest/dg/build-your-own-processing-container.html.

    `split` splits the file of the input folder; a container without it refuses such a job.
    """
    base = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
    try:
        _process(predictor, split, base / "processing")
    except Exception as error:
        # The message of another error may quote a tenant's data.
        mine = isinstance(error, ContainerError | ContractError)
        said = str(error) if mine else type(error).__name__
        _leave_message(base, said)
        if not mine:
            raise
        sys.stderr.write(f"{said}\n")
        return 1
    return 0


def _process(predictor: Predictor[ModelT], split: Callable[[], None] | None, folder: Path) -> None:
    wanted = os.environ.get(PROCESS, "split")
    if wanted == "evaluate":
        destination = folder / "output"
        destination.mkdir(parents=True, exist_ok=True)
        score = evaluate(predictor, folder / "input")
        (destination / SCORE_FILE).write_bytes(to_bytes(score_document(score)))
    elif wanted != "split":
        raise ContainerError(f"{PROCESS} is {wanted[:100]!r}; it must be evaluate or split")
    elif split is None:
        raise ContainerError("this container splits no files")
    else:
        split()


def evaluate(predictor: Predictor[ModelT], inputs: Path) -> dict[str, Any] | None:
    """The score of a model on newer data; None where the module finds too few.

    `inputs` has the folders that `contracts.evaluations` names. Raises what the predictor and the
    family's module raise, `RefusedArchiveError`, and `MalformedDocumentError`.
    """
    said = Evaluation.parse((inputs / EVALUATION / EVALUATION_FILE).read_bytes())
    drift = importlib.import_module(said.module)
    question = drift.question(inputs / DATA, said.card)
    if question is None:
        return None
    with tempfile.TemporaryDirectory(prefix="model-") as folder:
        extract_archive(inputs / MODEL / MODEL_FILE, Path(folder))
        if start := getattr(predictor, "start", None):
            start()
        answer = asyncio.run(_answer(predictor, predictor.load(Path(folder)), question))
    score = drift.score(json.loads(answer), inputs / DATA)
    return asdict(score) if is_dataclass(score) and not isinstance(score, type) else score


async def _answer(predictor: Predictor[ModelT], model: ModelT, question: Any) -> bytes:
    told = predictor.predict(model, json.dumps(question).encode(), _JSON, _JSON)
    answer: Answer = await told if inspect.isawaitable(told) else told
    if answer.file is None:
        return answer.body
    with answer.file as file:
        return file.read()


def _leave_message(base: Path, said: str) -> None:
    folder = base / "output"
    if folder.is_dir():
        content = said.encode()[:_MESSAGE_BYTES].decode(errors="ignore")
        (folder / "message").write_text(content, encoding="utf-8")
