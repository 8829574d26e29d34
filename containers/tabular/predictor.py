"""Serving: the probability for each row of a request.

A call of XGBoost costs as much as many rows of it. Requests of one model that wait together are
therefore answered by one call.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from containers.runtime.serving.predictor import Answer, InvalidRequestError
from containers.tabular.model import Model, read_model
from containers.tabular.request import Question, parse

Asked = tuple[Model, bytes, str, str]
"""A model, and a request's body, content type and accepted type."""


class TabularPredictor:
    """Boosted trees for the model server."""

    family = "tabular"

    def start(self) -> None:
        """Import what every model needs, before the server listens."""
        import xgboost  # noqa: F401 - loaded for its effect

    def load(self, folder: Path) -> Model:
        """Read a model; raises `InvalidModelError`."""
        return read_model(folder)

    def size(self, model: Model) -> int:
        """Bytes of its trees' file, as many as they take in memory."""
        return model.bytes

    def predict(self, model: Model, body: bytes, content_type: str, accept: str) -> Answer:
        """Answer `{"rows": [{…}]}`, one row, or CSV; raises `InvalidRequestError`.

        The answer is `{"scores": […]}`, a probability for each row. Where rows have an `id`, `ids`
        echoes them.
        """
        (answer,) = self.predict_batch([(model, body, content_type, accept)])
        if isinstance(answer, InvalidRequestError):
            raise answer
        return answer

    def predict_batch(self, questions: Sequence[Asked]) -> list[Answer | InvalidRequestError]:
        """Answer requests that wait together: for each its answer, or the reason against it."""
        answers: dict[int, Answer | InvalidRequestError] = {}
        together: dict[int, list[tuple[int, Model, Question]]] = {}
        for place, (model, body, content_type, _accept) in enumerate(questions):
            try:
                question = parse(body, content_type, model.columns)
            except InvalidRequestError as error:
                answers[place] = error
            else:
                together.setdefault(id(model), []).append((place, model, question))
        for group in together.values():
            told = scores(group[0][1], [question.features for *_, question in group])
            for (place, _, question), probabilities in zip(group, told, strict=True):
                answers[place] = _answer(question, probabilities)
        return [answers[place] for place in range(len(questions))]


def scores(model: Model, features: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """The probabilities for the rows of several questions of one model, by one call of XGBoost."""
    rows = np.concatenate(features) if len(features) > 1 else features[0]
    told: NDArray[np.float32] = model.booster.inplace_predict(rows)
    return np.split(told, np.cumsum([len(part) for part in features])[:-1])


def _answer(question: Question, probabilities: NDArray[np.float32]) -> Answer:
    # Six digits: a probability is not known to more.
    answer: dict[str, object] = {
        "scores": [float(f"{told:.6g}") for told in probabilities.tolist()]
    }
    if question.ids is not None:
        answer["ids"] = question.ids
    return Answer(json.dumps(answer).encode())
