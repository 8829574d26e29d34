"""Whether a model stays as good on fresh readings as one that is trained anew: `python -m
benchmarks.fresh_data [--data FILE] [--customers N] [--nights N] [--tier TIER] [--frequency F]`.

Every customer's model is trained once, three weeks before the end of the data. Then a day's
readings arrive each night, as a file of that day, and `extend` lays them beside the others. Each
night the next seven days are predicted in three ways:

- `retrained`: by a model that is trained that night on all readings so far;
- `fresh`: by the first model, asked with `readings.json` of that night;
- `stored`: by the first model, asked without readings.

MASE and MAE are of the median, `pinball` and `coverage80` of the quantiles 0.1 and 0.9 too; all are
means over nights and customers. `ratio` is the MASE of `fresh` over that of `retrained`. Without
`--data` the customers are synthetic. The last line is JSON.
"""

# ruff: noqa: E402 - BLAS reads its number of threads when numpy is first imported

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

# Before numpy is imported.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import numpy as np

from containers.forecast.consumption.preparation import extend, prepare
from containers.forecast.consumption.prepared_files import DAY, READINGS_FILE, STEP, read_prepared
from containers.forecast.consumption.series import Floats, Series, daily, read_series, weeks_of
from containers.forecast.consumption.split import split
from containers.forecast.consumption.synthetic import generate
from containers.forecast.models.scores import naive_error, score
from containers.forecast.serving.predictor import ForecastModel, ForecastPredictor
from containers.forecast.stored_forecasts import fresh_readings, starts
from containers.forecast.training.trainer import ForecastTrainer
from containers.runtime.training.packed_training import Task, Trained

HORIZON_DAYS: Final = 7
LEVELS: Final = (0.1, 0.5, 0.9)
WAYS: Final = ("retrained", "fresh", "stored")
METRICS: Final = ("mase", "mae", "pinball", "coverage80")

Scores = dict[str, list[tuple[float, ...]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fresh_data", description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="customer_id, timestamp, consumption; CSV or Parquet"
    )
    parser.add_argument("--customers", type=int, default=12, help="spread over all (12)")
    parser.add_argument("--nights", type=int, default=14)
    parser.add_argument("--tier", choices=("bridge", "pool"), default="bridge")
    parser.add_argument("--frequency", choices=("auto", "D"), default="auto")
    parser.add_argument("--candidates", default="default", help="as the hyperparameter")
    parser.add_argument("--timezone", default="Europe/London")
    parser.add_argument("--country", default="GB")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="fresh-data-") as folder:
        print(json.dumps(measure(options, Path(folder))))
    return 0


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures of a run."""
    whole = _customers(options, folder)
    hyperparameters = {"frequency": options.frequency, "candidates": options.candidates}
    ahead = options.nights + HORIZON_DAYS
    for name, series in whole.items():
        _write(folder / f"{name}.csv", series, 0, _points(series) - ahead * _per_day(series))
        parameters = {"timezone": options.timezone, "country": options.country}
        prepare([folder / f"{name}.csv"], folder / "0" / name, parameters)
    first = _trained(folder / "0", list(whole), options.tier, hyperparameters)
    found: Scores = {way: [] for way in WAYS}
    nights: list[dict[str, float]] = []
    extending: list[float] = []
    answering: list[float] = []
    for night in range(1, options.nights + 1):
        for name, series in whole.items():
            stop = _points(series) - (ahead - night) * _per_day(series)
            day = folder / f"{name}-day.csv"
            _write(day, series, stop - _per_day(series), stop)
            before, after = folder / str(night - 1) / name, folder / str(night) / name
            if not np.isfinite(series.values[stop - _per_day(series) : stop]).any():
                shutil.copytree(before, after)  # no meter was read that day
                continue
            begun = time.perf_counter()
            extend(before, [day], after, {})
            extending.append(1000 * (time.perf_counter() - begun))
        anew = _trained(folder / str(night), list(whole), options.tier, hyperparameters)
        tonight: Scores = {way: [] for way in WAYS}
        for name, series in whole.items():
            here = folder / str(night) / name
            readings = json.loads((here / READINGS_FILE).read_bytes())
            told = {"retrained": _told(anew[name], {starts.FIELD: starts.DATA_END})}
            begun = time.perf_counter()
            asked = {starts.FIELD: starts.DATA_END, fresh_readings.FIELD: readings}
            told["fresh"] = _told(first[name], asked)
            answering.append(1000 * (time.perf_counter() - begun))
            start = anew[name].card["data"]["end"]
            told["stored"] = _told(first[name], {starts.FIELD: start})
            for way in WAYS:
                tonight[way].append(_scored(series, read_prepared(here), told[way], options))
        for way in WAYS:
            found[way] += tonight[way]
        nights.append({way: _means(tonight[way])["mase"] for way in WAYS})
        print(night, nights[-1], flush=True)
    means = {way: _means(found[way]) for way in WAYS}
    readings_bytes = [(folder / "0" / name / READINGS_FILE).stat().st_size for name in whole]
    return {
        "customers": len(whole),
        "nights": options.nights,
        "horizon_days": HORIZON_DAYS,
        "tier": options.tier,
        "frequency": options.frequency,
        **means,
        "ratio": round(means["fresh"]["mase"] / means["retrained"]["mase"], 4),
        "mae_ratio": round(means["fresh"]["mae"] / means["retrained"]["mae"], 4),
        "stored_ratio": round(means["stored"]["mase"] / means["retrained"]["mase"], 4),
        "ratio_of_last_night": round(nights[-1]["fresh"] / nights[-1]["retrained"], 4),
        "readings_bytes": round(statistics.mean(readings_bytes)),
        "extend_ms": round(statistics.median(extending), 2),
        "answer_ms": round(statistics.median(answering), 2),
    }


def _customers(options: argparse.Namespace, folder: Path) -> dict[str, Series]:
    """The whole series by customer."""
    raw = options.data
    if raw is None:
        raw = folder / "synthetic.parquet"
        begin, end = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 9, 1, tzinfo=UTC)
        frame = generate(options.customers, begin, end)
        frame.to_parquet(raw, index=False)
    names = split(raw, folder / "raw")
    if options.customers < len(names):
        places = np.linspace(0, len(names) - 1, options.customers).round().astype(int)
        names = [names[place] for place in places]
    parameters = {"timezone": options.timezone, "country": options.country}
    for name in names:
        prepare([folder / "raw" / name / "data.csv"], folder / "whole" / name, parameters)
    return {name: read_series(folder / "whole" / name, {}, folder) for name in names}


def _points(series: Series) -> int:
    return len(series.values)


def _per_day(series: Series) -> int:
    return DAY // STEP[series.frequency]


def _write(file: Path, series: Series, first: int, stop: int) -> None:
    """A raw file of the points from `first` until before `stop`, as a customer would send it."""
    times = series.start + STEP[series.frequency] * np.arange(first, stop)
    stamps = np.datetime_as_string(times.astype("datetime64[s]")).tolist()
    rows = [
        f"{stamp}Z,{value!r}"
        for stamp, value in zip(stamps, series.values[first:stop].tolist(), strict=True)
        if value == value
    ]
    file.write_text("\n".join(["timestamp,consumption", *rows, ""]))


def _trained(
    data: Path, names: Sequence[str], tier: str, hyperparameters: Mapping[str, str]
) -> dict[str, ForecastModel]:
    """The models of all customers, loaded as the server loads them."""
    tasks = [Task(name, name, "v1", tier, data / name, {}) for name in names]
    predictor, models = ForecastPredictor(), {}
    with tempfile.TemporaryDirectory(dir=data) as workspace:
        for result in ForecastTrainer().train(tasks, hyperparameters, Path(workspace)):
            if not isinstance(result, Trained):
                raise SystemExit(f"{result.task.tenant}: {result.reason}")
            card = {"format": 1, "version": "v1", **result.card}
            (result.folder / "card.json").write_text(json.dumps(card))
            models[result.task.tenant] = predictor.load(result.folder)
    return models


def _told(model: ForecastModel, request: Mapping[str, Any]) -> Floats:
    """Mean and quantiles of the coming days, (points, 1 + levels)."""
    body = json.dumps({"period": HORIZON_DAYS, **request}).encode()
    answer = json.loads(ForecastPredictor().predict(model, body, "application/json", "").body)
    return np.array([answer["mean"], *(answer["quantiles"][f"{level:g}"] for level in LEVELS)]).T


def _scored(
    series: Series, known: Series, told: Floats, options: argparse.Namespace
) -> tuple[float, ...]:
    """The scores of a forecast of the points after the known ones."""
    if options.frequency == "D" and series.frequency == "h":
        series, known = daily(series), daily(known)
    first = (known.end - series.start) // STEP[series.frequency]
    truth = series.values[first : first + len(told)]
    told = told[: len(truth)]
    found = score(truth, told, naive_error(weeks_of(known).values), LEVELS)
    mae = float(np.nanmean(np.abs(truth - told[:, 1 + LEVELS.index(0.5)])))
    return found.mase, mae, found.pinball, found.coverage80


def _means(scored: Sequence[tuple[float, ...]]) -> dict[str, float]:
    return {
        metric: round(float(value), 4)
        for metric, value in zip(METRICS, np.nanmean(np.array(scored), axis=0), strict=True)
    }


if __name__ == "__main__":
    sys.exit(main())
