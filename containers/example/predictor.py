"""Serving: the usual values on a request's days, with the standard library alone."""

import json
import math
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from containers.runtime.serving.predictor import Answer, InvalidModelError, InvalidRequestError

MODEL: Final = "profile.json"
LONGEST: Final = 366
"""Most days of one answer."""


class ProfilePredictor:
    """Weekday profiles for the model server."""

    family = "example"
    inline = True

    def load(self, folder: Path) -> list[float]:
        """Read seven means, Monday first; raises `InvalidModelError` for anything else."""
        try:
            means = [float(mean) for mean in json.loads((folder / MODEL).read_bytes())]
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise InvalidModelError(f"{MODEL} cannot be read") from error
        if len(means) != 7 or not all(map(math.isfinite, means)):
            raise InvalidModelError(f"{MODEL} does not hold seven numbers")
        return means

    def size(self, model: list[float]) -> int:
        """Bytes of the list and its numbers."""
        return sys.getsizeof(model) + sum(map(sys.getsizeof, model))

    def predict(
        self,
        model: list[float],
        body: bytes,
        content_type: str,  # noqa: ARG002 - the body is always JSON
        accept: str,  # noqa: ARG002 - as above
    ) -> Answer:
        """Answer `{"days": 7, "start": "2026-03-02"}`; raises `InvalidRequestError`."""
        days = _days(body)
        answer = {"timestamps": list(map(str, days)), "mean": [model[d.weekday()] for d in days]}
        return Answer(json.dumps(answer).encode())


def _days(body: bytes) -> list[date]:
    """The days of a request, by default from today on (UTC)."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError('the body is not JSON such as {"days": 7}') from error
    if not isinstance(request, dict) or not request.keys() <= {"days", "start"}:
        raise InvalidRequestError("the body must be an object of days, and perhaps start")
    count, start = request.get("days"), request.get("start", str(datetime.now(UTC).date()))
    if type(count) is not int or not 1 <= count <= LONGEST:
        raise InvalidRequestError(f"days must be a whole number from 1 to {LONGEST}", "days")
    try:
        first = date.fromisoformat(start)
        return [first + timedelta(days=number) for number in range(count)]
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidRequestError("start must be a date such as 2026-03-02", "start") from error
