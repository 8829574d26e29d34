"""Training: one model per customer, chosen by backtest among the candidates of the customer's
tier."""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from containers.forecast.consumption.preparation import RefusedDataError
from containers.forecast.consumption.series import (
    PER_DAY,
    STEP,
    Series,
    UnusableSeriesError,
    daily,
    read_series,
    weeks_of,
)
from containers.forecast.models.backtest import choose
from containers.forecast.models.candidates import Average, Candidate, SeasonalNaive, WeeklyMedian
from containers.forecast.models.distance import REACH_DAYS
from containers.forecast.models.global_model import GlobalModel
from containers.forecast.models.learned import points_of, short
from containers.forecast.models.prophet_map import Prophet
from containers.forecast.models.ridge import Ridge
from containers.forecast.models.scores import Chosen
from containers.forecast.models.short_history import first_model, is_short
from containers.forecast.models.stock_prophet import StockProphet
from containers.forecast.stored_forecasts.model_file import StoredForecast, write_model
from containers.forecast.stored_forecasts.starts import stamp
from containers.forecast.training.settings import (
    DEFAULT_HORIZON_DAYS,
    DEFAULT_OWN,
    DEFAULT_POOL,
    GLOBAL,
    LARGEST_HORIZON_DAYS,
    InvalidHyperparameterError,
    Settings,
    parse_settings,
)
from containers.runtime.training.packed_training import Refused, Task, Trained
from containers.runtime.training.training_input import InvalidTrainingInputError


class ForecastTrainer:
    """Energy forecasts for the packed training loop."""

    family = "forecast"

    def train(
        self, tasks: Sequence[Task], hyperparameters: Mapping[str, str], workspace: Path
    ) -> Iterator[Trained | Refused]:
        """Yield each customer's model as soon as it is made.

        Raises `InvalidTrainingInputError` for hyperparameters that no task can train with.
        """
        try:
            settings = parse_settings(hyperparameters)
        except InvalidHyperparameterError as error:
            raise InvalidTrainingInputError(str(error)) from error
        pool: list[tuple[Task, Series]] = []
        for number, task in enumerate(tasks):
            try:
                series = _series(task, settings, workspace / f"{number}-prepared")
                if (
                    task.tier == "pool"
                    and GLOBAL in (settings.candidates or DEFAULT_POOL)
                    and not is_short(weeks_of(series))
                ):
                    # The global model needs all series before it can forecast one.
                    pool.append((task, series))
                else:
                    yield _trained(task, series, settings, None, workspace)
            except (RefusedDataError, UnusableSeriesError) as error:
                yield Refused(task, str(error))
        for frequency in ("h", "D"):
            members = [(task, series) for task, series in pool if series.frequency == frequency]
            if not members:
                continue
            model = GlobalModel(
                [weeks_of(series) for _, series in members], settings.quantiles, settings.seed
            )
            for task, series in members:
                try:
                    yield _trained(task, series, settings, model, workspace)
                except UnusableSeriesError as error:
                    yield Refused(task, str(error))


def _trained(
    task: Task, series: Series, settings: Settings, model: GlobalModel | None, workspace: Path
) -> Trained:
    weeks = weeks_of(series)
    folder = Path(tempfile.mkdtemp(prefix="model-", dir=workspace))
    if is_short(weeks):
        return store(task, series, first_model(weeks, settings.quantiles), settings, folder)
    names = settings.candidates or (DEFAULT_POOL if model else DEFAULT_OWN)
    candidates = [_own(name, settings) for name in names if name != GLOBAL]
    averages = []
    if model:
        candidates.insert(0, model.candidate(weeks))
        averages = [Average(GLOBAL, "ridge")] if "ridge" in names else []
    if not candidates:
        raise UnusableSeriesError(
            f"{GLOBAL} is for tenants of the pool tier, and no other candidate is allowed."
        )
    chosen = choose(weeks, candidates, settings.quantiles, averages)
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
        raise UnusableSeriesError(
            "The workload forecasts hours, and the data are daily. Upload hourly readings."
        )
    if settings.horizon_days and settings.horizon_days > LARGEST_HORIZON_DAYS[series.frequency]:
        raise UnusableSeriesError(
            f"The workload asks for {settings.horizon_days} days ahead; hourly models reach "
            f"{LARGEST_HORIZON_DAYS[series.frequency]}."
        )
    return series


def _horizon_days(series: Series, settings: Settings) -> int:
    return settings.horizon_days or DEFAULT_HORIZON_DAYS[series.frequency]


def store(task: Task, series: Series, chosen: Chosen, settings: Settings, folder: Path) -> Trained:
    """Write a customer's model into `folder`, and return its metrics, card and preview."""
    points = _horizon_days(series, settings) * PER_DAY[series.frequency]
    end = datetime.fromtimestamp(series.end, UTC)
    before = end - len(chosen.held_out) * timedelta(seconds=STEP[series.frequency])
    write_model(
        folder,
        StoredForecast(
            model=chosen.name,
            frequency=series.frequency,
            unit="kWh",
            timezone=series.timezone,
            end=end,
            reach=REACH_DAYS,
            horizon=points,
            before=points_of(chosen.held_out, settings.quantiles),
            first=points_of(chosen.final[0], settings.quantiles),
            later=points_of(chosen.final[1], settings.quantiles),
            spread=chosen.spread,
            learned=chosen.learned,
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
            "data": {
                "start": stamp(datetime.fromtimestamp(series.start, UTC)),
                "end": stamp(end),
                "rows": len(series.values),
            },
            "held_out": {"start": stamp(before), "end": stamp(end)},
            "horizon_points": points,
            "usable_from": stamp(before),
            "usable_until": stamp(end + timedelta(days=REACH_DAYS)),
            "quantiles": list(settings.quantiles),
            "fresh_readings": chosen.learned.model if chosen.learned else None,
        },
        preview=_preview(series, chosen, settings),
    )


def _preview(series: Series, chosen: Chosen, settings: Settings) -> dict[str, Any]:
    """The held-out points, truth beside forecast, on the local clock: for a plot."""
    weeks = weeks_of(series)
    told = chosen.held_out
    truth = [
        None if math.isnan(value) else value for value in short(weeks.values.ravel()[-len(told) :])
    ]
    local_start = (weeks.end - len(told)) * STEP[series.frequency]
    levels = list(settings.quantiles)
    return {
        "kind": "forecast",
        "local_start": datetime.fromtimestamp(local_start, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "frequency": series.frequency,
        "timezone": series.timezone,
        "unit": "kWh",
        "truth": truth,
        "mean": short(told[:, 0]),
        "q10": short(told[:, 1 + levels.index(0.1)]),
        "q90": short(told[:, 1 + levels.index(0.9)]),
    }
