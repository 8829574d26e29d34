"""A record: a request of one tenant's model, among the models of many, in a batch transform or of
an asynchronous endpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contracts.documents import parse_json
from contracts.errors import MalformedDocumentError
from contracts.patterns import ARCHIVE


@dataclass(frozen=True)
class Record:
    """The model to ask (``{tenant}/{version}.tar.gz``), and the request."""

    model: str
    request: Any

    @classmethod
    def parse(cls, content: bytes) -> Record:
        """Read a record. Raises ``MalformedDocumentError``."""
        found = parse_json(content, "the record")
        if not isinstance(found, dict) or "request" not in found:
            raise MalformedDocumentError(
                "the record", "", "must be an object with 'model' and 'request'"
            )
        model = found.get("model")
        if not isinstance(model, str) or not ARCHIVE.fullmatch(model):
            raise MalformedDocumentError(
                "the record", "model", "must be '{tenant}/{version}.tar.gz'"
            )
        return cls(model, found["request"])

    def line(self) -> bytes:
        """The record as one line of JSON, without its end. Raises ``ValueError``, ``TypeError``
        for a request that is no JSON."""
        request = dict(self.request) if isinstance(self.request, Mapping) else self.request
        document = {"model": self.model, "request": request}
        return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
