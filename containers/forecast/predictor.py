"""Answers from stored forecasts, with the standard library alone: what the server runs for each request.

Forecasts begin where the training data end, whenever the request comes: a customer whose data end three weeks ago is told
about the days after that end, and the timestamps say so. Beyond the stored horizon (14 days hourly, 28 days daily) the
answer is `InvalidRequest`; newer forecasts come with newer data, by training again.
"""

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from containers.forecast.model_file import MalformedModel, read_model, read_version
from containers.runtime.predictor import Answer, InvalidModel, InvalidRequest

LARGEST_BODY: Final = 64 << 10
FIELDS: Final = ("period", "hours", "quantiles")

# What objects of CPython take beside their text, measured with sys.getsizeof and rounded up.
_OVERHEAD: Final = 2048


class _Row:
    """Values as JSON text, from which the first `n` are cut in one slice."""

    __slots__ = ("ends", "text")

    def __init__(self, cells: Sequence[str]) -> None:
        self.text = ",".join(cells)
        self.ends = array("I", (end - 1 for end in accumulate(len(cell) + 1 for cell in cells)))

    def first(self, count: int) -> str:
        return self.text[: self.ends[count - 1]]

    def size(self) -> int:
        return len(self.text) + self.ends.itemsize * len(self.ends)


@lru_cache(maxsize=256)
def _timestamps(start: datetime, frequency: str, count: int) -> _Row:
    """Shared by all models that start together, as those of one night's training do."""
    step = timedelta(hours=1) if frequency == "h" else timedelta(days=1)
    naive = start.replace(tzinfo=None)
    return _Row([f'"{(naive + number * step).isoformat()}Z"' for number in range(count)])


@dataclass(frozen=True, slots=True)
class ForecastModel:
    """A loaded model: texts ready to be cut to the length a request asks for."""

    head: str
    frequency: str
    horizon: int
    timestamps: _Row
    mean: _Row
    quantiles: Mapping[float, _Row]


class ForecastPredictor:
    """Energy forecasts for the multi-model server."""

    family = "forecast"
    inline = True

    def load(self, folder: Path) -> ForecastModel:
        """Read a model's files; raises `InvalidModel` for anything that training does not write."""
        try:
            stored = read_model(folder)
            version = read_version(folder)
        except MalformedModel as error:
            raise InvalidModel(str(error)) from error
        described = {
            "model": stored.model,
            "version": version,
            "frequency": stored.frequency,
            "unit": stored.unit,
        }
        return ForecastModel(
            head=json.dumps(described)[:-1],
            frequency=stored.frequency,
            horizon=len(stored.mean),
            timestamps=_timestamps(stored.start, stored.frequency, len(stored.mean)),
            mean=_Row([repr(value) for value in stored.mean]),
            quantiles={
                level: _Row([repr(value) for value in values]) for level, values in sorted(stored.quantiles.items())
            },
        )

    def size(self, model: ForecastModel) -> int:
        """Bytes the model holds in memory; timestamps are counted though models share them."""
        rows = (model.timestamps, model.mean, *model.quantiles.values())
        return _OVERHEAD + sum(row.size() for row in rows)

    def predict(self, model: ForecastModel, body: bytes, content_type: str, accept: str) -> Answer:
        """Answer `{"period": days}` or `{"hours": n}`; raises `InvalidRequest`."""
        _check_types(content_type, accept)
        request = _request(body)
        count = _count(request, model)
        rows = _levels(request, model)
        quantiles = ",".join(f'"{level:g}":[{row.first(count)}]' for level, row in rows.items())
        return Answer(
            (
                f'{model.head},"timestamps":[{model.timestamps.first(count)}],"mean":[{model.mean.first(count)}],'
                f'"quantiles":{{{quantiles}}}}}'
            ).encode(),
            "application/json",
        )


def _check_types(content_type: str, accept: str) -> None:
    kind = content_type.split(";")[0].strip().lower()
    if kind not in ("", "application/json"):
        raise InvalidRequest(f"the body must be application/json, not {kind[:60]!r}", "Content-Type")
    wanted = [part.split(";")[0].strip().lower() for part in accept.split(",")]
    if not any(part in ("", "*/*", "application/*", "application/json") for part in wanted):
        raise InvalidRequest(f"answers are application/json, not {accept[:60]!r}", "Accept")


def _request(body: bytes) -> dict[str, Any]:
    if len(body) > LARGEST_BODY:
        raise InvalidRequest(f"the body is larger than {LARGEST_BODY} bytes")
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the body is not JSON") from error
    if not isinstance(request, dict):
        raise InvalidRequest('the body must be a JSON object such as {"period": 7}')
    for name in request:
        if name not in FIELDS:
            raise InvalidRequest(f"there is no field {name[:60]!r}; there are {', '.join(FIELDS)}", name[:60])
    return request


def _count(request: dict[str, Any], model: ForecastModel) -> int:
    """How many points are asked for."""
    if ("period" in request) == ("hours" in request):
        raise InvalidRequest('give either "period" (days) or "hours"', "period")
    field = "period" if "period" in request else "hours"
    value = request[field]
    if type(value) is not int or value < 1:
        raise InvalidRequest(f"{field} must be a whole number from 1", field)
    if field == "hours" and model.frequency == "D":
        raise InvalidRequest("this model forecasts days; ask with period", field)
    per_unit = 24 if field == "period" and model.frequency == "h" else 1
    if value * per_unit > model.horizon:
        raise InvalidRequest(
            f"{field} must be at most {model.horizon // per_unit}: the model's forecasts end there", field
        )
    return value * per_unit


def _levels(request: dict[str, Any], model: ForecastModel) -> Mapping[float, _Row]:
    if "quantiles" not in request:
        return model.quantiles
    levels = request["quantiles"]
    if not isinstance(levels, list) or not all(type(level) in (int, float) for level in levels):
        raise InvalidRequest("quantiles must be a list of numbers", "quantiles")
    if len(levels) > len(model.quantiles):
        raise InvalidRequest(f"quantiles must name each of at most {len(model.quantiles)} levels once", "quantiles")
    for level in levels:
        if level not in model.quantiles:
            known = ", ".join(f"{known:g}" for known in model.quantiles)
            raise InvalidRequest(f"this model has the quantiles {known}, not {level!r:.20}", "quantiles")
    return {level: model.quantiles[level] for level in sorted(set(levels))}
