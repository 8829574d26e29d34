"""Training: one model per customer, chosen by backtest among what the customer's tier allows."""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from containers.forecast.backtest import Chosen, choose
from containers.forecast.candidates import Average, Candidate, SeasonalNaive, WeeklyMedian
from containers.forecast.global_model import GlobalModel
from containers.forecast.model_file import StoredForecast, write_model
from containers.forecast.preparation import RefusedData
from containers.forecast.prophet_map import Prophet
from containers.forecast.ridge import Ridge
from containers.forecast.series import (
    PER_DAY,
    SEASON,
    STEP,
    Series,
    UnusableSeries,
    daily,
    future_points,
    read_series,
    weeks_of,
)
from containers.forecast.settings import (
    DEFAULT_HORIZON_DAYS,
    DEFAULT_OWN,
    DEFAULT_POOL,
    GLOBAL,
    LARGEST_HORIZON_DAYS,
    InvalidHyperparameter,
    Settings,
    parse_settings,
)
from containers.forecast.stock_prophet import StockProphet
from containers.runtime.packed_training import Refused, Task, Trained
from containers.runtime.training_input import InvalidTrainingInput


class ForecastTrainer:
    """Energy forecasts for the packed training loop."""

    family = "forecast"

    def train(
        self, tasks: Sequence[Task], hyperparameters: Mapping[str, str], workspace: Path
    ) -> Iterator[Trained | Refused]:
        """Yield each customer's model as soon as it is made.

        Raises `InvalidTrainingInput` for hyperparameters that no task can be trained with.
        """
        try:
            settings = parse_settings(hyperparameters)
        except InvalidHyperparameter as error:
            raise InvalidTrainingInput(str(error)) from error
        pool: list[tuple[Task, Series]] = []
        for number, task in enumerate(tasks):
            try:
                series = _series(task, settings, workspace / f"{number}-prepared")
                if task.tier == "pool" and GLOBAL in (settings.candidates or DEFAULT_POOL):
                    # The global model needs them all before it can say anything of one.
                    pool.append((task, series))
                else:
                    yield _trained(task, series, settings, None, workspace)
            except (RefusedData, UnusableSeries) as error:
                yield Refused(task, str(error))
        for frequency in ("h", "D"):
            members = [(task, series) for task, series in pool if series.frequency == frequency]
            if not members:
                continue
            model = GlobalModel([weeks_of(series) for _, series in members], settings.quantiles, settings.seed)
            for task, series in members:
                try:
                    yield _trained(task, series, settings, model, workspace)
                except UnusableSeries as error:
                    yield Refused(task, str(error))


def _trained(task: Task, series: Series, settings: Settings, model: GlobalModel | None, workspace: Path) -> Trained:
    weeks = weeks_of(series)
    names = settings.candidates or (DEFAULT_POOL if model else DEFAULT_OWN)
    candidates = [_own(name, settings) for name in names if name != GLOBAL]
    averages = []
    if model:
        candidates.insert(0, model.candidate(weeks))
        averages = [Average(GLOBAL, "ridge")] if "ridge" in names else []
    if not candidates:
        raise UnusableSeries(f"{GLOBAL} is for tenants of the pool tier, and no other candidate is allowed.")
    chosen = choose(weeks, candidates, _weeks_ahead(series, settings), settings.quantiles, averages)
    folder = Path(tempfile.mkdtemp(prefix="model-", dir=workspace))
    return store(task, series, chosen, settings, folder)


def _own(name: str, settings: Settings) -> Candidate:
    match name:
        case "ridge":
            return Ridge()
        case "weekly_median":
            return WeeklyMedian()
        case "seasonal_naive":
            return SeasonalNaive()
        case "prophet":
            return StockProphet(settings.seed) if settings.prophet == "stock" else Prophet()
    raise ValueError(f"no candidate is named {name}")


def _series(task: Task, settings: Settings, workspace: Path) -> Series:
    series = read_series(task.data, task.parameters, workspace)
    if settings.frequency == "D" and series.frequency == "h":
        series = daily(series)
    if settings.frequency == "h" and series.frequency == "D":
        raise UnusableSeries("The workload forecasts hours, and the data are daily. Upload hourly readings.")
    if settings.horizon_days and settings.horizon_days > LARGEST_HORIZON_DAYS[series.frequency]:
        raise UnusableSeries(
            f"The workload asks for {settings.horizon_days} days ahead; hourly models reach "
            f"{LARGEST_HORIZON_DAYS[series.frequency]}."
        )
    return series


def _weeks_ahead(series: Series, settings: Settings) -> int:
    return math.ceil(_horizon_days(series, settings) / 7)


def _horizon_days(series: Series, settings: Settings) -> int:
    return settings.horizon_days or DEFAULT_HORIZON_DAYS[series.frequency]


def store(task: Task, series: Series, chosen: Chosen, settings: Settings, folder: Path) -> Trained:
    """Write a customer's model into `folder` and say what is told about it."""
    points = _horizon_days(series, settings) * PER_DAY[series.frequency]
    forecast = chosen.final.reshape(-1, chosen.final.shape[-1])
    index = future_points(series, points)
    # Where the clock skips an hour, the last hour of the horizon lies one past the last week: a week before is as good.
    index = np.where(index < len(forecast), index, index - SEASON[series.frequency])
    rounded = [_rounded(column) for column in forecast[index].T]
    end = datetime.fromtimestamp(series.end, UTC)
    write_model(
        folder,
        StoredForecast(
            model=chosen.name,
            frequency=series.frequency,
            unit="kWh",
            start=end,
            mean=rounded[0],
            quantiles=dict(zip(settings.quantiles, rounded[1:], strict=True)),
        ),
    )
    return Trained(
        task=task,
        folder=folder,
        metrics={
            "mase": round(chosen.score.mase, 4),
            "baseline_mase": round(chosen.baseline.mase, 4),
            "wape": round(chosen.score.wape, 4),
            "baseline_wape": round(chosen.baseline.wape, 4),
            "pinball": round(chosen.score.pinball, 4),
            "baseline_pinball": round(chosen.baseline.pinball, 4),
            "coverage80": round(chosen.score.coverage80, 4),
        },
        card={
            "model": chosen.name,
            "candidates": {name: float(f"{error:.4g}") for name, error in chosen.errors.items()},
            "frequency": series.frequency,
            "timezone": series.timezone,
            "country": series.country,
            "unit": "kWh",
            "data": {"start": _stamp(series.start), "end": _stamp(series.end), "rows": len(series.values)},
            "held_out": {"start": _stamp(series.end - 7 * 86_400), "end": _stamp(series.end)},
            "horizon_points": points,
            "quantiles": list(settings.quantiles),
        },
        preview=_preview(series, chosen, settings),
    )


def _preview(series: Series, chosen: Chosen, settings: Settings) -> dict[str, Any]:
    """The held-out week, truth beside forecast, on the local clock: for a plot."""
    weeks = weeks_of(series)
    told = chosen.held_out[0]
    truth = [None if math.isnan(value) else value for value in _rounded(weeks.values[-1])]
    local_start = (weeks.end - weeks.season) * STEP[series.frequency]
    levels = list(settings.quantiles)
    return {
        "kind": "forecast",
        "local_start": datetime.fromtimestamp(local_start, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "frequency": series.frequency,
        "timezone": series.timezone,
        "unit": "kWh",
        "truth": truth,
        "mean": _rounded(told[:, 0]),
        "q10": _rounded(told[:, 1 + levels.index(0.1)]),
        "q90": _rounded(told[:, 1 + levels.index(0.9)]),
    }


def _rounded(values: "np.typing.NDArray[np.float64]") -> list[float]:
    """Four significant digits: finer than any meter's error, and a third of the bytes."""
    return [float(f"{value:.4g}") for value in values.tolist()]


def _stamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
