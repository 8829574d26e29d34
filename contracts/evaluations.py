"""What a processing job that evaluates a served model on newer data reads and leaves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from contracts.documents import Fields
from contracts.limits import FORMAT

EVALUATION_FILE: Final = "evaluation.json"
SCORE_FILE: Final = "score.json"
MODEL_FILE: Final = "model.tar.gz"
DATA, MODEL, EVALUATION = "data", "model", "evaluation"
"""The folders of the job's inputs: the prepared data, the model's archive, and what to do."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Of either document."""
_MODULE: Final = re.compile(r"containers(\.[a-z_][a-z0-9_]*)+")


@dataclass(frozen=True)
class Evaluation:
    """What to do: the family's module that makes the question and scores the answer, and the card
    of the model."""

    module: str
    card: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        """The content of ``evaluation.json``."""
        return {"format": FORMAT, "module": self.module, "card": dict(self.card)}

    @classmethod
    def parse(cls, content: bytes) -> Evaluation:
        """From ``evaluation.json``. Raises ``MalformedDocumentError``."""
        fields = Fields.read(content, EVALUATION_FILE, MAX_BYTES)
        fields.require_format()
        return cls(fields.text("module", _MODULE), fields.mapping("card"))


def score_document(score: Mapping[str, Any] | None) -> dict[str, Any]:
    """The content of ``score.json``; None where the module finds too few data."""
    return {"format": FORMAT, "score": None if score is None else dict(score)}


def parse_score(content: bytes) -> dict[str, Any] | None:
    """The score in a ``score.json``. Raises ``MalformedDocumentError``."""
    fields = Fields.read(content, SCORE_FILE, MAX_BYTES)
    fields.require_format()
    if "score" not in fields.values:
        fields.refuse("score", "is missing")
    return fields.optional("score", lambda score: dict(score.values))
