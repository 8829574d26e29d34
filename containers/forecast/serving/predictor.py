"""Answers the server's requests from stored forecasts, with the standard library alone.

A request names the start of its forecast, by default the present
(`containers.forecast.stored_forecasts.starts`). A start may lie from a week before the end of the
model's data until two months after it, on the customer's clock. Intervals grow with the distance. A
start beyond that raises `InvalidRequestError` with the date of the data's end. Training again with
newer data gives newer forecasts.

A request may carry fresh readings instead. The answer then starts from their end, by what the model
learned (`containers.forecast.serving.fresh`, which imports numpy).
"""

import json
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import accumulate, chain
from pathlib import Path
from time import time
from typing import Any, Final

from containers.forecast.stored_forecasts import fresh_readings, starts
from containers.forecast.stored_forecasts.model_file import (
    WEEK,
    MalformedModelError,
    Points,
    StoredForecast,
    StoredHorizon,
    read_card,
    read_model,
)
from containers.runtime.serving.predictor import Answer, InvalidModelError, InvalidRequestError

LARGEST_BODY: Final = 128 << 10
"""Bytes of a request: 53 weeks of hourly readings take up to 90 KB."""

FIELDS: Final = (starts.FIELD, "period", "hours", "quantiles", fresh_readings.FIELD)

DAYS_KEPT: Final = 2
"""Days of starts for which a model caches its answers, because most requests are for today or
tomorrow."""

_STARTS_KEPT: Final = 4
_HOUR: Final = 3600
# Memory of CPython objects besides their text, in bytes, measured with sys.getsizeof and rounded
# up.
_OVERHEAD: Final = 4096
_NUMBER: Final = 32  # of a float in a list


class _Row:
    """Values as JSON text; one slice cuts out consecutive values."""

    __slots__ = ("ends", "text")

    def __init__(self, cells: Sequence[str]) -> None:
        self.text = ",".join(cells)
        self.ends = array("I", (end - 1 for end in accumulate(len(cell) + 1 for cell in cells)))

    def cut(self, first: int, count: int) -> str:
        return self.text[self.ends[first - 1] + 1 if first else 0 : self.ends[first + count - 1]]


@dataclass(frozen=True, slots=True)
class _Rows:
    """The points for all starts of a day: from the day's first point on, as many as the day's last
    start may ask for."""

    timestamps: _Row
    mean: _Row
    quantiles: Mapping[float, _Row]


class _Values:
    """A model's values by point, numbered from the end of its data; earlier points are negative.

    `about` is the model without the values.
    """

    def __init__(self, stored: StoredForecast | StoredHorizon) -> None:
        none = Points((), {})
        self.about = (
            replace(stored, points=none)
            if isinstance(stored, StoredHorizon)
            else replace(stored, before=none, first=none, later=none)
        )
        parts = (
            (stored.points,)
            if isinstance(stored, StoredHorizon)
            else (stored.before, stored.first, stored.later)
        )
        self.levels = tuple(sorted(parts[0].quantiles))
        # One array for each part and column: the mean, then the levels.
        self._parts = [
            [array("d", part.mean), *(array("d", part.quantiles[level]) for level in self.levels)]
            for part in parts
        ]

    def columns(self, first: int, count: int) -> list[list[float]]:
        """Mean and quantiles of `count` points from `first` on."""
        stored = self.about
        if isinstance(stored, StoredHorizon):
            return [list(column[first : first + count]) for column in self._parts[0]]
        week = WEEK[stored.frequency]
        before, within, later = self._parts
        if stored.frequency == "D":
            places: Sequence[int] = range(first, first + count)
        else:
            places = _places(stored.timezone, stored.end, first, count)
        known, middle = len(before[0]), 1 + self.levels.index(0.5)
        result: list[list[float]] = [[] for _ in before]
        for place in places:
            if place >= week:
                number = place // week
                factor = stored.spread[min(number, len(stored.spread)) - 1]
                point = place - number * week
                median = later[middle][point]
                result[0].append(later[0][point])
                for column in range(1, len(later)):
                    told = later[column][point]
                    if factor != 1.0:
                        told = float(f"{max(median + (told - median) * factor, 0.0):.4g}")
                    result[column].append(told)
            else:
                # If the clock skipped an hour in the week before the end, that week has one point
                # more than it has hours.
                part, point = (within, place) if place >= 0 else (before, max(known + place, 0))
                for column, values in enumerate(part):
                    result[column].append(values[point])
        return result

    def size(self) -> int:
        return sum(column.itemsize * len(column) for part in self._parts for column in part)

    def widest(self) -> int:
        """Characters of the longest value, with room for digits that an interval's growth adds."""
        largest = max(
            (max(column, default=0.0) for part in self._parts for column in part), default=0.0
        )
        return max(len("1.234e-05"), len(repr(largest)) + 2)


@lru_cache(maxsize=256)
def _timestamps(first: datetime, frequency: str, count: int) -> _Row:
    """Timestamps as text. Models with the same start share them, such as those of one night's
    training."""
    step = starts.STEP[frequency]
    naive = first.replace(tzinfo=None)
    return _Row([f'"{(naive + number * step).isoformat()}Z"' for number in range(count)])


@lru_cache(maxsize=256)
def _places(timezone: str, end: datetime, first: int, count: int) -> tuple[int, ...]:
    """The wall-clock hours between the data's end and each of `count` hours from number `first`
    on."""
    zone = starts.zone(timezone)

    def wall(number: int) -> int:
        moment = end + timedelta(hours=number)
        offset = moment.astimezone(zone).utcoffset() or timedelta()
        return int(moment.timestamp() + offset.total_seconds()) // _HOUR

    origin = wall(0)
    # The end may lie within the hour that the clock shows twice; its second showing is the first
    # point.
    return tuple(
        max(wall(number) - origin, 0 if number >= 0 else -WEEK["h"])
        for number in range(first, first + count)
    )


@dataclass(slots=True)
class ForecastModel:
    """A loaded model, and the texts of the days of its latest requests."""

    head: str
    version: str
    frequency: str
    horizon: int
    card: Mapping[str, Any]
    end: datetime
    beyond: int
    """The first point that the model does not forecast."""

    values: _Values
    days: "OrderedDict[int, _Rows]" = field(default_factory=OrderedDict)
    resolved: dict[str, tuple[str, int]] = field(default_factory=dict)
    present: tuple[float, str, int] = (0.0, "", 0)
    """The time (seconds since 1970) until which a request without a start has this start, the
    start, and its number of points from the end."""

    @property
    def per_day(self) -> int:
        """Points in a day."""
        return 24 if self.frequency == "h" else 1

    def start(self, request: Mapping[str, Any]) -> tuple[str, int]:
        """A request's start, and its number of points from the data's end. Raises
        `InvalidRequestError`."""
        asked = request.get(starts.FIELD)
        if starts.FIELD not in request:
            now = time()
            if now < self.present[0]:
                return self.present[1:]
            start, number = self._reached(request, now)
            self.present = (starts.begins(start, self.card).timestamp(), start, number)
            return start, number
        if isinstance(asked, str) and asked in self.resolved:
            return self.resolved[asked]
        found = self._reached(request, time())
        if len(self.resolved) >= _STARTS_KEPT:
            self.resolved.clear()
        self.resolved[str(asked)] = found
        return found

    def _reached(self, request: Mapping[str, Any], now: float) -> tuple[str, int]:
        try:
            resolved = starts.resolve(request, self.card, datetime.fromtimestamp(now, UTC))
            starts.check(resolved, self.card)
        except starts.InvalidStartError as error:
            raise InvalidRequestError(error.message, error.field, error.code) from error
        start = str(resolved[starts.FIELD])
        return start, (starts.instant(start) - self.end) // starts.STEP[self.frequency]

    def day(self, number: int) -> _Rows:
        """The texts of a day, counted from the data's end."""
        rows = self.days.get(number)
        if rows is None:
            first = number * self.per_day
            count = min(self.horizon + self.per_day - 1, self.beyond - first)
            mean, *levels = (
                _Row([repr(value) for value in column])
                for column in self.values.columns(first, count)
            )
            moment = self.end + first * starts.STEP[self.frequency]
            rows = _Rows(
                _timestamps(moment, self.frequency, count),
                mean,
                dict(zip(self.values.levels, levels, strict=True)),
            )
            self.days[number] = rows
            if len(self.days) > DAYS_KEPT:
                self.days.popitem(last=False)
        return rows


class ForecastPredictor:
    """Energy forecasts for the multi-model server."""

    family = "forecast"
    inline = True

    def load(self, folder: Path) -> ForecastModel:
        """Read a model's files; raises `InvalidModelError` for files that training did not
        write."""
        try:
            stored = read_model(folder)
            card = read_card(folder)
        except MalformedModelError as error:
            raise InvalidModelError(str(error)) from error
        return _model(stored, card["version"], card.get("timezone"))

    def size(self, model: ForecastModel) -> int:
        """Bytes of the model in memory with all cached days."""
        about = model.values.about
        learned = about.learned if isinstance(about, StoredForecast) else None
        numbers = (
            sum(map(len, learned.coefficients)) + sum(map(len, chain(*learned.shifts)))
            if learned
            else 0
        )
        points = model.horizon + model.per_day - 1
        cell = model.values.widest() + 1 + array("I").itemsize
        columns = points * cell * (1 + len(model.values.levels))
        timestamps = points * (len('"2026-01-01T00:00:00Z",') + array("I").itemsize)
        return (
            _OVERHEAD + numbers * _NUMBER + model.values.size() + DAYS_KEPT * (columns + timestamps)
        )

    def predict(self, model: ForecastModel, body: bytes, content_type: str, accept: str) -> Answer:
        """Answer `{"period": days}` or `{"hours": n}`, optionally with a `start` and fresh
        `readings`; raises `InvalidRequestError`."""
        _check_types(content_type, accept)
        request = _request(body)
        count = _count(request, model)
        levels = _levels(request, model)
        known = ""
        if fresh_readings.FIELD in request:
            model = _renewed(model, request)
            known = f',"data_end":"{starts.stamp(model.end)}"'
        start, number = model.start(request)
        if number + count > model.beyond:
            raise InvalidRequestError(
                f"from {start} on the model forecasts {model.beyond - number} points: its data end "
                f"at "
                f"{starts.stamp(model.end)}, and its forecasts {model.beyond} points later",
                "period" if "period" in request else "hours",
                "end_beyond_reach",
            )
        day, first = divmod(number, model.per_day)
        rows = model.day(day)
        quantiles = ",".join(
            f'"{level:g}":[{rows.quantiles[level].cut(first, count)}]' for level in levels
        )
        timestamps = rows.timestamps.cut(first, count)
        return Answer(
            (
                f'{model.head},"start":"{start}"{known},"timestamps":[{timestamps}],'
                f'"mean":[{rows.mean.cut(first, count)}],"quantiles":{{{quantiles}}}}}'
            ).encode(),
            "application/json",
        )


def _model(
    stored: StoredForecast | StoredHorizon, version: str, of_card: str | None = None
) -> ForecastModel:
    """The model of a file. A file of format 1 has no time zone, which is then that of its card."""
    described = {
        "model": stored.model,
        "version": version,
        "frequency": stored.frequency,
        "unit": stored.unit,
    }
    per_day = 24 if stored.frequency == "h" else 1
    learned = None
    if isinstance(stored, StoredHorizon):
        end, horizon, beyond = stored.start, len(stored.points.mean), len(stored.points.mean)
        first, until, timezone = end, end + beyond * starts.STEP[stored.frequency], of_card
    else:
        end, horizon, timezone = stored.end, stored.horizon, stored.timezone
        beyond = stored.reach * per_day + horizon
        first = end - len(stored.before.mean) * starts.STEP[stored.frequency]
        until = end + timedelta(days=stored.reach)
        learned = stored.learned
    return ForecastModel(
        head=json.dumps(described)[:-1],
        version=version,
        frequency=stored.frequency,
        horizon=horizon,
        card={
            "frequency": stored.frequency,
            "timezone": timezone,
            "data": {"end": starts.stamp(end)},
            "usable_from": starts.stamp(first),
            "usable_until": starts.stamp(until),
            fresh_readings.TAKEN_BY: learned.model if learned else None,
        },
        end=end,
        beyond=beyond,
        values=_Values(stored),
    )


def _renewed(model: ForecastModel, request: dict[str, Any]) -> ForecastModel:
    """The model as if its data ended with the request's readings; those from its start on are left
    out, because a forecast knows nothing of what comes after its start."""
    about = model.values.about
    try:
        readings = fresh_readings.parse(request.pop(fresh_readings.FIELD))
        card = fresh_readings.card_of(readings, model.card)
        resolved = starts.resolve(request, card, datetime.now(UTC))
        starts.check(resolved, card)
        start = str(resolved[starts.FIELD])
        # Daily readings bear labels, as a daily model's starts do.
        daily = readings.frequency == "D"
        readings = readings.until(starts.instant(start) if daily else starts.begins(start, card))
        fresh_readings.check_enough(readings, card)

        from containers.forecast.serving.fresh import renewed

        stored = renewed(about, readings, model.values.levels)
    except (starts.InvalidStartError, fresh_readings.InvalidReadingsError) as error:
        raise InvalidRequestError(error.message, error.field, error.code) from error
    return _model(stored, model.version)


def _check_types(content_type: str, accept: str) -> None:
    kind = content_type.split(";")[0].strip().lower()
    if kind not in ("", "application/json"):
        raise InvalidRequestError(
            f"the body must be application/json, not {kind[:60]!r}", "Content-Type"
        )
    wanted = [part.split(";")[0].strip().lower() for part in accept.split(",")]
    if not any(part in ("", "*/*", "application/*", "application/json") for part in wanted):
        raise InvalidRequestError(f"answers are application/json, not {accept[:60]!r}", "Accept")


def _request(body: bytes) -> dict[str, Any]:
    if len(body) > LARGEST_BODY:
        raise InvalidRequestError(f"the body is larger than {LARGEST_BODY} bytes")
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError("the body is not JSON") from error
    if not isinstance(request, dict):
        raise InvalidRequestError('the body must be a JSON object such as {"period": 7}')
    for name in request:
        if name not in FIELDS:
            raise InvalidRequestError(
                f"there is no field {name[:60]!r}; there are {', '.join(FIELDS)}", name[:60]
            )
    return request


def _count(request: dict[str, Any], model: ForecastModel) -> int:
    """The number of points in the request."""
    if ("period" in request) == ("hours" in request):
        raise InvalidRequestError('give either "period" (days) or "hours"', "period")
    field = "period" if "period" in request else "hours"
    value = request[field]
    if type(value) is not int or value < 1:
        raise InvalidRequestError(f"{field} must be a whole number from 1", field)
    if field == "hours" and model.frequency == "D":
        raise InvalidRequestError("this model forecasts days; ask with period", field)
    per_unit = 24 if field == "period" and model.frequency == "h" else 1
    if value * per_unit > model.horizon:
        raise InvalidRequestError(
            f"{field} must be at most {model.horizon // per_unit}: so far ahead one forecast "
            f"reaches",
            field,
        )
    return value * per_unit


def _levels(request: dict[str, Any], model: ForecastModel) -> Sequence[float]:
    known = model.values.levels
    if "quantiles" not in request:
        return known
    levels = request["quantiles"]
    if not isinstance(levels, list) or not all(type(level) in (int, float) for level in levels):
        raise InvalidRequestError("quantiles must be a list of numbers", "quantiles")
    if len(levels) > len(known):
        raise InvalidRequestError(
            f"quantiles must name each of at most {len(known)} levels once", "quantiles"
        )
    for level in levels:
        if level not in known:
            named = ", ".join(f"{one:g}" for one in known)
            raise InvalidRequestError(
                f"this model has the quantiles {named}, not {level!r:.20}", "quantiles"
            )
    return sorted(set(levels))
