"""How good and how cheap the energy forecasts are: `python -m benchmarks.forecast --data FILE
[--customers N] [--quick] [--only MODEL …]`.

It scores the last four weekly origins of every customer, with a horizon of seven days. `default` is
a bridge tenant's model, `pool` a pool tenant's. Each origin uses the real trainer and its
`model.json`, on a history cut at the origin. The single candidates are trained the same way, each
as the only candidate. `prophet` is the library with its defaults, which takes seconds per fit. An
option limits it to a subsample of the customers; the other models are then scored on that subsample
too.

Then it reports the error by distance. From a history cut ten and fourteen weeks before the end,
`default` and the seasonal naive forecast predict the seven days that start 1, 7, 30 and 60 days
later.

MASE, WAPE and coverage are of the median and the quantiles 0.1 and 0.9; `pinball` is the weighted
quantile loss of 0.1, 0.5 and 0.9. All are means over origins and customers. CPU seconds are those
of this process and its children, per customer and origin, including reading and writing, with one
thread in BLAS. The last line is JSON.
"""

# ruff: noqa: E402 - BLAS reads its number of threads when numpy is first imported

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

# Before numpy is imported.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import numpy as np

from containers.forecast.consumption.preparation import Frequency, prepare
from containers.forecast.consumption.series import (
    STEP,
    Floats,
    Series,
    daily,
    read_series,
    weeks_of,
)
from containers.forecast.consumption.split import split
from containers.forecast.models.scores import naive_error, score
from containers.forecast.serving.predictor import ForecastModel, ForecastPredictor
from containers.forecast.stored_forecasts import starts
from containers.forecast.training.trainer import ForecastTrainer
from containers.runtime.archives.archive import write_archive
from containers.runtime.training.packed_training import Task, Trained

LEVELS: Final = (0.1, 0.5, 0.9)
ORIGINS: Final = 4
HORIZON_DAYS: Final = 7
DISTANCES: Final = (1, 7, 30, 60)
"""Days after the data's end at which a forecast starts."""

DISTANT_ORIGINS: Final = (14, 10)
"""Weeks before the end at which the history is cut for them."""

LEAST_SHARE: Final = 0.01
"""Least share of the usual consumption. WAPE and pinball loss, which are relative to consumption,
leave out weeks with less."""

METRICS: Final = ("mase", "wape", "pinball", "coverage80")

TRAINED: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "default": ("bridge", {}),
    "pool": ("pool", {}),
    "ridge": ("bridge", {"candidates": '["ridge"]'}),
    "weekly_median": ("bridge", {"candidates": '["weekly_median"]'}),
    "seasonal_naive": ("bridge", {"candidates": '["seasonal_naive"]'}),
    "prophet_batched": ("bridge", {"candidates": '["prophet"]'}),
}
"""The models that the trainer makes: tier and hyperparameters."""


@dataclass(frozen=True)
class Customer:
    """One customer: the whole series; the first three letters of its name are its source."""

    name: str
    series: Series

    @property
    def source(self) -> str:
        """The source of the data, such as `res` or `com`."""
        return self.name[:3]


@dataclass(frozen=True)
class Scored:
    """One model of one customer from one origin."""

    customer: str
    source: str
    values: tuple[float, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecast", description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="customer_id, timestamp, consumption; CSV or Parquet",
    )
    parser.add_argument("--customers", type=int, help="so many customers, spread over all")
    parser.add_argument(
        "--prophet-customers", type=int, default=60, help="so many for the library's Prophet (60)"
    )
    parser.add_argument("--timezone", default="Europe/London")
    parser.add_argument("--country", default="GB")
    parser.add_argument("--quick", action="store_true", help="12 customers, 6 for Prophet")
    parser.add_argument(
        "--only", nargs="+", choices=[*TRAINED, "prophet"], help="these models alone"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.customers, options.prophet_customers = (
            options.customers or 12,
            min(6, options.prophet_customers),
        )
    with tempfile.TemporaryDirectory(prefix="forecast-benchmark-") as folder:
        customers, preparation_ms = _prepared(options, Path(folder))
        print(f"{len(customers)} customers, prepared in {preparation_ms:.1f} ms CPU each")
        hourly = _section(customers, options, Path(folder), "h")
        by_day = [Customer(customer.name, daily(customer.series)) for customer in customers]
        days = _section(by_day, options, Path(folder), "D")
    result = {
        "customers": len(customers),
        "origins": ORIGINS,
        "horizon_days": HORIZON_DAYS,
        "preparation_cpu_ms": round(preparation_ms, 2),
        **hourly,
        "daily": days,
    }
    print(json.dumps(result))
    return 0


def _prepared(options: argparse.Namespace, folder: Path) -> tuple[list[Customer], float]:
    names = split(options.data, folder / "raw")
    if options.customers and options.customers < len(names):
        names = [
            names[place]
            for place in np.linspace(0, len(names) - 1, options.customers).round().astype(int)
        ]
    parameters = {"timezone": options.timezone, "country": options.country}
    # Import once here, so that no customer's time includes the imports.
    prepare([folder / "raw" / names[0] / "data.csv"], folder / "warm", parameters)
    started = _cpu()
    for name in names:
        prepare([folder / "raw" / name / "data.csv"], folder / "data" / name, parameters)
    spent = _cpu() - started
    return [
        Customer(name, read_series(folder / "data" / name, {}, folder)) for name in names
    ], 1000 * spent / len(names)


def _section(
    customers: Sequence[Customer], options: argparse.Namespace, folder: Path, frequency: Frequency
) -> dict[str, Any]:
    scores: dict[str, list[Scored]] = {}
    costs: dict[str, dict[str, float]] = {}
    wanted = [
        name for name in (*TRAINED, "prophet") if options.only is None or name in options.only
    ]
    for name, (tier, hyperparameters) in TRAINED.items():
        if name not in wanted:
            continue
        scores[name], costs[name] = _trained(customers, tier, hyperparameters, folder)
        _show(frequency, name, scores[name], costs[name])
    count = min(options.prophet_customers, len(customers))
    places = np.unique(np.linspace(0, len(customers) - 1, count).round().astype(int))
    sample = [customers[place] for place in places]
    if "prophet" in wanted:
        scores["prophet"], costs["prophet"] = _prophet(sample)
        _show(frequency, "prophet", scores["prophet"], costs["prophet"])
    summary: dict[str, Any] = {
        "models": {name: {**_means(scored), **costs[name]} for name, scored in scores.items()},
        "by_source": {
            source: {
                name: _means([one for one in scored if one.source == source])
                for name, scored in scores.items()
                if any(one.source == source for one in scored)
            }
            for source in sorted({customer.source for customer in customers})
        },
    }
    chosen = {customer.name for customer in sample}
    same = {
        name: _means([one for one in scored if one.customer in chosen])
        for name, scored in scores.items()
    }
    summary["by_distance"] = _by_distance(customers, folder, frequency)
    summary["prophet_sample"] = {"customers": len(sample), "models": same}
    for name in ("default", "pool"):
        if name not in wanted or "prophet" not in wanted:
            continue
        summary[f"{name}_against_prophet"] = {
            "mase_below_percent": round(
                100 * (1 - same[name]["mase"] / same["prophet"]["mase"]), 1
            ),
            "pinball_below_percent": round(
                100 * (1 - same[name]["pinball"] / same["prophet"]["pinball"]), 1
            ),
            "cpu_times_less": round(
                costs["prophet"]["cpu_s_per_customer"] / costs[name]["cpu_s_per_customer"], 1
            ),
        }
    return summary


def _cut(series: Series, weeks: int) -> Series:
    """The series without its last `weeks` weeks."""
    points = weeks * 7 * 86_400 // STEP[series.frequency]
    return replace(series, values=series.values[: len(series.values) - points])


def _trained(
    customers: Sequence[Customer], tier: str, hyperparameters: Mapping[str, str], folder: Path
) -> tuple[list[Scored], dict[str, float]]:
    scored: list[Scored] = []
    spent, fits, sizes, loads = 0.0, 0, [], []
    predictor = ForecastPredictor()
    for back in range(ORIGINS, 0, -1):
        with tempfile.TemporaryDirectory(dir=folder) as name:
            here = Path(name)
            tasks = [_task(customer, back, tier, here) for customer in customers]
            whole = {customer.name: customer for customer in customers}
            started = _cpu()
            for result in ForecastTrainer().train(tasks, hyperparameters, here):
                if not isinstance(result, Trained):
                    raise SystemExit(f"{result.task.tenant}: {result.reason}")
                (result.folder / "card.json").write_text(
                    json.dumps({"format": 1, "version": "v1", **result.card})
                )
                archive = write_archive(result.folder, here / "model.tar.gz")
                spent += _cpu() - started
                sizes.append(archive.bytes)
                begun = time.perf_counter()
                model = predictor.load(result.folder)
                loads.append(1000 * (time.perf_counter() - begun))
                told = _told(
                    predictor, model, {"period": HORIZON_DAYS, starts.FIELD: starts.DATA_END}
                )
                scored.append(_scored(whole[result.task.tenant], back, told))
                fits += 1
                started = _cpu()
    return scored, {
        "cpu_s_per_customer": round(spent / fits, 4),
        "artifact_bytes": round(float(np.mean(sizes))),
        "load_ms": round(float(np.median(loads)), 3),
    }


def _by_distance(
    customers: Sequence[Customer], folder: Path, frequency: Frequency
) -> dict[str, Any]:
    """Scores of the seven days from each distance after the data's end, for each model."""
    summary: dict[str, Any] = {}
    for name in ("default", "seasonal_naive"):
        tier, hyperparameters = TRAINED[name]
        scored: dict[int, list[Scored]] = {days: [] for days in DISTANCES}
        predictor, whole = ForecastPredictor(), {customer.name: customer for customer in customers}
        for back in DISTANT_ORIGINS:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                tasks = [_task(customer, back, tier, Path(scratch)) for customer in customers]
                for result in ForecastTrainer().train(tasks, hyperparameters, Path(scratch)):
                    if not isinstance(result, Trained):
                        raise SystemExit(f"{result.task.tenant}: {result.reason}")
                    (result.folder / "card.json").write_text(
                        json.dumps({"format": 1, "version": "v1", **result.card})
                    )
                    model = predictor.load(result.folder)
                    end = starts.instant(result.card["data"]["end"])
                    for days in DISTANCES:
                        asked = {
                            "period": HORIZON_DAYS,
                            "start": starts.stamp(end + timedelta(days=days)),
                        }
                        told = _told(predictor, model, asked)
                        scored[days].append(_scored(whole[result.task.tenant], back, told, days))
        summary[name] = {str(days): _means(found) for days, found in scored.items()}
        for days, means in summary[name].items():
            print(f"{frequency} {name:16} {days:>2} days after the end", means, flush=True)
    return summary


def _told(predictor: ForecastPredictor, model: ForecastModel, request: Mapping[str, Any]) -> Floats:
    """Mean and quantiles that a model answers, (points, 1 + levels)."""
    answer = json.loads(
        predictor.predict(model, json.dumps(request).encode(), "application/json", "").body
    )
    return np.array([answer["mean"], *(answer["quantiles"][f"{level:g}"] for level in LEVELS)]).T


def _task(customer: Customer, back: int, tier: str, folder: Path) -> Task:
    """A training task on the history before the origin, written as preparation writes it."""
    cut = _cut(customer.series, back)
    data = folder / customer.name
    data.mkdir()
    described = {
        "format": 1,
        "frequency": cut.frequency,
        "timezone": cut.timezone,
        "country": cut.country,
        "unit": "kWh",
        "start": f"{np.datetime64(cut.start, 's')}Z",
        "rows": len(cut.values),
    }
    (data / "series.json").write_text(json.dumps(described))
    stamps = np.datetime_as_string(
        (cut.start + STEP[cut.frequency] * np.arange(len(cut.values))).astype("datetime64[s]")
    )
    cells = ["" if np.isnan(value) else repr(value) for value in cut.values.tolist()]
    lines = [f"{stamp}Z,{cell}" for stamp, cell in zip(stamps.tolist(), cells, strict=True)]
    (data / "data.csv").write_text("timestamp,consumption\n" + "\n".join(lines) + "\n")
    return Task(customer.name, customer.name, f"v{back}", tier, data, {})


def _scored(customer: Customer, back: int, told: Floats, days: int = 0) -> Scored:
    """The score of a forecast of the points from `days` after the history's end on."""
    series = customer.series
    cut = _cut(series, back)
    first = len(cut.values) + days * 86_400 // STEP[series.frequency]
    truth = series.values[first : first + len(told)]
    result = score(truth, told, naive_error(weeks_of(cut).values), LEVELS)
    if np.nansum(truth) < LEAST_SHARE * np.nanmean(cut.values) * np.isfinite(truth).sum():
        result = replace(result, wape=float("nan"), pinball=float("nan"))
    return Scored(
        customer.name, customer.source, tuple(getattr(result, metric) for metric in METRICS)
    )


def _prophet(customers: Sequence[Customer]) -> tuple[list[Scored], dict[str, float]]:
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as executor:
        results = list(executor.map(_prophet_of, customers))
    return [one for scored, _, _ in results for one in scored], {
        "cpu_s_per_customer": round(
            float(np.mean([spent for _, spent, _ in results])) / ORIGINS, 4
        ),
        "artifact_bytes": round(float(np.mean([size for _, _, size in results]))),
    }


def _prophet_of(customer: Customer) -> tuple[list[Scored], float, int]:
    """One customer from all origins: scores, CPU seconds, and bytes of a model as the library
    writes it, gzipped."""
    import gzip
    import logging

    import pandas as pd
    from prophet import Prophet
    from prophet.serialize import model_to_json

    logging.getLogger("cmdstanpy").setLevel(logging.ERROR)
    logging.getLogger("prophet").setLevel(logging.ERROR)
    scored, size = [], 0
    spent = 0.0
    for back in range(ORIGINS, 0, -1):
        cut = _cut(customer.series, back)
        step = STEP[cut.frequency]
        clock = pd.to_datetime(
            (cut.start + step * np.arange(len(cut.values))).astype("datetime64[s]")
        )
        points = HORIZON_DAYS * 86_400 // step
        coming = pd.to_datetime((cut.end + step * np.arange(points)).astype("datetime64[s]"))
        started = _cpu()
        model = Prophet()
        model.fit(pd.DataFrame({"ds": clock, "y": cut.values}).dropna())
        samples = model.predictive_samples(pd.DataFrame({"ds": coming}))["yhat"]
        mean = model.predict(pd.DataFrame({"ds": coming}))["yhat"].to_numpy()
        spent += _cpu() - started
        # Raise negative values to zero, because the library does not know that consumption is never
        # negative.
        told = np.maximum(
            np.column_stack([mean, *(np.quantile(samples, level, axis=1) for level in LEVELS)]), 0.0
        )
        # Its point forecast is yhat, which differs from the median of its samples only by chance.
        told[:, 2] = told[:, 0]
        scored.append(_scored(customer, back, told))
        size = len(gzip.compress(model_to_json(model).encode()))
    return scored, spent, size


def _means(scored: Sequence[Scored]) -> dict[str, float]:
    table = np.array([one.values for one in scored])
    return {
        metric: round(float(value), 4)
        for metric, value in zip(METRICS, np.nanmean(table, axis=0), strict=True)
    }


def _show(frequency: str, name: str, scored: Sequence[Scored], cost: Mapping[str, float]) -> None:
    print(f"{frequency} {name:16}", {**_means(scored), **cost}, flush=True)


def _cpu() -> float:
    """CPU seconds of this process and its ended children."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    sys.exit(main())
