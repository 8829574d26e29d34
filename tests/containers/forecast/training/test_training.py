"""Customers' files through preparation, training, archive and server, as in a job and an
endpoint."""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from containers.forecast.consumption.preparation import prepare
from containers.forecast.consumption.series import Weeks
from containers.forecast.consumption.synthetic import generate
from containers.forecast.models.prophet_map import forecast_many
from containers.forecast.serving.predictor import ForecastPredictor
from containers.forecast.stored_forecasts.starts import DATA_END, FIELD
from containers.forecast.training.settings import (
    InvalidHyperparameterError,
    Settings,
    parse_settings,
)
from containers.forecast.training.trainer import ForecastTrainer
from containers.runtime.archives.archive import write_archive
from containers.runtime.training.packed_training import Refused, Task, Trained
from containers.runtime.training.training_input import InvalidTrainingInputError

CUSTOMERS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared hourly series of four customers, over a clock change, below folders `0` to `3`."""
    base = tmp_path_factory.mktemp("prepared")
    frame = generate(
        CUSTOMERS, datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 7, 1, tzinfo=UTC), seed=3
    )
    for customer, part in frame.groupby("customer_id"):
        raw = base / f"{customer}.parquet"
        part.to_parquet(raw, index=False)
        prepare([raw], base / str(customer), {"timezone": "Europe/London", "country": "GB"})
    return base


def task(data: Path, customer: int, tier: str = "bridge") -> Task:
    return Task(
        f"t-{customer}",
        f"tenant-{customer}",
        "v1",
        tier,
        data / str(customer),
        {"timezone": "Europe/London"},
    )


def train(workspace: Path, *tasks: Task, **hyperparameters: str) -> dict[str, Trained | Refused]:
    workspace.mkdir(parents=True, exist_ok=True)
    return {
        result.task.tenant: result
        for result in ForecastTrainer().train(tasks, hyperparameters, workspace)
    }


def one(workspace: Path, wanted: Task, **hyperparameters: str) -> Trained:
    result = train(workspace, wanted, **hyperparameters)[wanted.tenant]
    assert isinstance(result, Trained)
    return result


def answer(trained: Trained, request: Mapping[str, Any]) -> dict[str, Any]:
    """The model's answer, by default from the end of its data."""
    (trained.folder / "card.json").write_text(
        json.dumps({"format": 1, "version": "v1", **trained.card})
    )
    predictor = ForecastPredictor()
    model = predictor.load(trained.folder)
    asked = json.dumps({FIELD: DATA_END, **request}).encode()
    return dict(json.loads(predictor.predict(model, asked, "application/json", "").body))


def test_a_customers_file_becomes_a_model_that_answers_from_the_end_of_its_data(
    data: Path, tmp_path: Path
) -> None:
    trained = one(tmp_path, task(data, 0))
    assert trained.metrics["mase"] < trained.metrics["baseline_mase"]
    assert 0.5 < trained.metrics["coverage80"] <= 1.0
    assert trained.card["data"]["end"] == "2025-07-01T00:00:00Z"
    assert set(trained.card["candidates"]) == {"ridge", "weekly_median", "seasonal_naive"}
    told = answer(trained, {"period": 14})
    assert told["timestamps"][0] == "2025-07-01T00:00:00Z"
    assert told["model"] == trained.card["model"]
    assert len(trained.preview["truth"]) == len(trained.preview["q90"]) == 168


@pytest.mark.parametrize("frequency", ["h", "D"])
def test_forecasts_are_near_what_came_after(tmp_path: Path, frequency: str) -> None:
    frame = generate(1, datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 7, 8, tzinfo=UTC), seed=5)
    cut = pd.Timestamp("2025-07-01T00:00:00Z")
    raw = tmp_path / "raw.parquet"
    frame[frame.timestamp < cut].to_parquet(raw, index=False)
    prepare([raw], tmp_path / "0", {"timezone": "UTC"})
    told = answer(one(tmp_path / "work", task(tmp_path, 0), frequency=frequency), {"period": 7})
    truth = frame[frame.timestamp >= cut].set_index("timestamp").consumption
    if frequency == "D":
        truth = truth.resample("D").sum()
    assert len(told["mean"]) == len(truth)
    error = np.abs(np.array(told["quantiles"]["0.5"]) - truth.to_numpy()).sum() / truth.sum()
    assert error < (0.15 if frequency == "h" else 0.08)
    inside = (truth.to_numpy() >= told["quantiles"]["0.1"]) & (
        truth.to_numpy() <= told["quantiles"]["0.9"]
    )
    assert inside.mean() > 0.5


@pytest.mark.parametrize("tier", ["bridge", "pool"])
def test_quantiles_never_cross_and_never_fall_below_zero(tmp_path: Path, tier: str) -> None:
    random = np.random.default_rng(1)
    for customer in range(2):
        hours = pd.date_range("2025-01-01", periods=24 * 70, freq="h", tz="UTC")
        # Mostly zero, with occasional high values.
        spiky = random.exponential(1.0, len(hours)) * (random.random(len(hours)) < 0.2)
        raw = tmp_path / f"{customer}.parquet"
        pd.DataFrame({"timestamp": hours, "consumption": spiky}).to_parquet(raw)
        prepare([raw], tmp_path / str(customer), {})
    results = train(
        tmp_path / "work",
        task(tmp_path, 0, tier),
        task(tmp_path, 1, tier),
        quantiles="[0.05, 0.25, 0.75, 0.95]",
    )
    for trained in results.values():
        assert isinstance(trained, Trained)
        told = answer(trained, {"period": 14})
        assert list(told["quantiles"]) == ["0.05", "0.1", "0.25", "0.5", "0.75", "0.9", "0.95"]
        levels = np.array(list(told["quantiles"].values()))
        assert (np.diff(levels, axis=0) >= 0).all()
        assert levels.min() >= 0
        assert min(told["mean"]) >= 0


@pytest.mark.parametrize("name", ["ridge", "weekly_median"])
def test_each_candidate_beats_the_seasonal_naive_forecast(
    data: Path, tmp_path: Path, name: str
) -> None:
    tasks = [task(data, customer) for customer in range(CUSTOMERS)]
    results = train(tmp_path / "work", *tasks, candidates=json.dumps([name]))
    metrics = [trained.metrics for trained in results.values() if isinstance(trained, Trained)]
    assert len(metrics) == CUSTOMERS
    for score in ("mase", "pinball"):
        assert np.mean([each[score] for each in metrics]) < np.mean(
            [each[f"baseline_{score}"] for each in metrics]
        )


def test_the_naive_candidate_scores_as_the_baseline(data: Path, tmp_path: Path) -> None:
    metrics = one(tmp_path, task(data, 0), candidates='["seasonal_naive"]').metrics
    assert metrics["mase"] == metrics["baseline_mase"]
    assert metrics["pinball"] == metrics["baseline_pinball"]


def test_batched_prophet_continues_a_series_of_its_own_kind() -> None:
    hours = np.arange(24 * 7 * 30)
    daily, weekly = np.sin(2 * np.pi * hours / 24), np.cos(2 * np.pi * hours / 168)
    series = 10 + hours / 2000 + 2 * daily + weekly
    other = 50 - hours / 500 + 5 * weekly
    other[100:300] = np.nan
    known = 24 * 7 * 26
    histories = [
        Weeks(values[:known].reshape(-1, 168), known, "h", None) for values in (series, other)
    ]
    told = forecast_many(histories, 4)
    for values, forecast in zip((series, other), told, strict=True):
        assert np.abs(forecast.ravel() - values[known:]).max() < 0.02 * values[known:].mean()
    # A single fit gives the same result, because each fit holds only one customer's data.
    assert np.array_equal(forecast_many(histories[1:], 4)[0], told[1])


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # the library's own call of pandas
def test_the_librarys_prophet_is_a_choice(data: Path, tmp_path: Path) -> None:
    stock = one(
        tmp_path / "stock", task(data, 0), candidates='["prophet"]', prophet="stock", frequency="D"
    )
    batched = one(tmp_path / "batched", task(data, 0), candidates='["prophet"]', frequency="D")
    ours, theirs = answer(batched, {"period": 7})["mean"], answer(stock, {"period": 7})["mean"]
    assert np.abs(np.subtract(ours, theirs)).sum() / np.sum(theirs) < 0.05


def test_a_bridge_tenants_archive_is_the_same_alone_and_in_any_pack(
    data: Path, tmp_path: Path
) -> None:
    names = json.dumps(["global_lightgbm", "ridge", "weekly_median", "seasonal_naive", "prophet"])

    def archive(where: str, *tasks: Task) -> bytes:
        result = train(tmp_path / where, *tasks, candidates=names)["tenant-1"]
        assert isinstance(result, Trained)
        (result.folder / "card.json").write_text(json.dumps(dict(result.card), sort_keys=True))
        write_archive(result.folder, tmp_path / f"{where}.tar.gz")
        return (tmp_path / f"{where}.tar.gz").read_bytes()

    alone = archive("alone", task(data, 1))
    assert archive("again", task(data, 1)) == alone
    assert archive("packed", *(task(data, customer) for customer in (0, 1, 2, 3))) == alone
    assert archive("mixed", task(data, 3, "pool"), task(data, 1), task(data, 2, "pool")) == alone


def test_pool_tenants_share_a_global_model_and_others_do_not(data: Path, tmp_path: Path) -> None:
    results = train(
        tmp_path / "work", *(task(data, customer, "pool") for customer in range(CUSTOMERS))
    )
    shared = []
    for trained in results.values():
        assert isinstance(trained, Trained)
        assert "global_lightgbm" in trained.card["candidates"]
        assert "global_lightgbm_and_ridge" in trained.card["candidates"]
        shared.append(trained)
    assert np.mean([each.metrics["mase"] for each in shared]) < np.mean(
        [each.metrics["baseline_mase"] for each in shared]
    )
    assert "global_lightgbm" not in one(tmp_path / "bridge", task(data, 0)).card["candidates"]
    refused = train(tmp_path / "only", task(data, 0), candidates='["global_lightgbm"]')["tenant-0"]
    assert isinstance(refused, Refused)
    assert "pool tier" in refused.reason


def test_raw_files_without_a_preparation_step_are_prepared_on_the_way(
    data: Path, tmp_path: Path
) -> None:
    raw = tmp_path / "5"
    raw.mkdir()
    (raw / "data.csv").write_bytes((data / "0" / "data.csv").read_bytes())
    assert (
        one(tmp_path / "work", task(tmp_path, 5)).card["model"]
        == one(tmp_path / "w", task(data, 0)).card["model"]
    )


def test_bad_data_fail_their_own_task_alone(data: Path, tmp_path: Path) -> None:
    broken = {
        "6": "timestamp,consumption\n2025-01-01T00:00:00Z,-1\n2025-01-01T01:00:00Z,1\n",
        "7": "nonsense\n",
    }
    for name, content in broken.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.csv").write_text(content)
    damaged = tmp_path / "8"
    damaged.mkdir()
    (damaged / "data.csv").write_text("timestamp,consumption\n")
    (damaged / "series.json").write_text('{"format": 1, "frequency": []}')
    tasks = [task(tmp_path, 6), task(data, 0), task(tmp_path, 7), task(tmp_path, 8)]
    results = train(tmp_path / "work", *tasks)
    assert isinstance(results["tenant-0"], Trained)
    for tenant, words in (
        ("tenant-6", "negative"),
        ("tenant-7", "no column"),
        ("tenant-8", "series.json"),
    ):
        refused = results[tenant]
        assert isinstance(refused, Refused)
        assert words in refused.reason
        assert not refused.retryable


def short(folder: Path, days: int, seed: int = 0) -> Path:
    frame = generate(
        1,
        datetime(2025, 3, 1, tzinfo=UTC),
        datetime(2025, 3, 1, tzinfo=UTC) + timedelta(days=days),
        seed=seed,
    )
    raw = folder / "raw.parquet"
    frame.to_parquet(raw)
    prepare([raw], folder / "0", {"timezone": "Europe/London"})
    return folder


@pytest.mark.parametrize("days", [3, 4, 8, 27, 55, 56])
@pytest.mark.parametrize("frequency", ["h", "D"])
def test_a_short_history_gets_a_model_from_the_third_day_on(
    tmp_path: Path, days: int, frequency: str
) -> None:
    trained = one(tmp_path / "work", task(short(tmp_path, days), 0), frequency=frequency)
    assert (trained.card["model"] == "calendar_profile") == (days < 56)
    told = answer(trained, {"period": 14})
    assert len(told["mean"]) == 14 * (24 if frequency == "h" else 1)
    assert all(0 < trained.metrics[name] < 20 for name in ("mase", "baseline_mase", "pinball"))
    assert len(trained.preview["truth"]) == len(trained.preview["mean"])
    low, middle, high = (np.array(told["quantiles"][level]) for level in ("0.1", "0.5", "0.9"))
    assert (low <= middle).all()
    assert (middle <= high).all()
    held = datetime.fromisoformat(trained.card["held_out"]["start"])
    assert trained.card["usable_from"] == trained.card["held_out"]["start"]
    assert datetime.fromisoformat(trained.card["held_out"]["end"]) - held == timedelta(
        days=min(7, days // 3)
    )
    # A pool tenant with three days does not share data with others.
    assert (
        one(tmp_path / "pool", task(tmp_path, 0, "pool"), frequency=frequency).metrics
        if days < 56
        else True
    )


def test_first_models_are_as_good_as_the_day_before_and_say_how_little_they_know(
    tmp_path: Path,
) -> None:
    shares, errors = [], []
    for seed in range(8):
        folder = tmp_path / str(seed)
        folder.mkdir()
        told = answer(one(folder / "work", task(short(folder, 3, seed), 0)), {"period": 7})
        frame = generate(
            1, datetime(2025, 3, 1, tzinfo=UTC), datetime(2025, 3, 11, tzinfo=UTC), seed=seed
        )
        known, truth = frame.consumption.to_numpy()[:72], frame.consumption.to_numpy()[72:]
        low, middle, high = (np.array(told["quantiles"][level]) for level in ("0.1", "0.5", "0.9"))
        shares.append(((truth >= low) & (truth <= high)).mean())
        errors.append(np.abs(truth - middle).sum() / np.abs(truth - np.tile(known[-24:], 7)).sum())
    assert np.mean(errors) < 1
    assert 0.7 < np.mean(shares) < 0.97


def test_a_model_says_what_it_was_held_out_from_and_reaches_two_months(
    data: Path, tmp_path: Path
) -> None:
    trained = one(tmp_path, task(data, 0))
    assert trained.card["usable_from"] == "2025-06-24T00:00:00Z"
    assert trained.card["usable_until"] == "2025-09-02T00:00:00Z"
    week_before = answer(trained, {"period": 7, "start": "2025-06-24T00:00:00Z"})
    assert week_before["mean"] == trained.preview["mean"]
    widths = []
    for days in (1, 8, 30, 60):
        told = answer(
            trained, {"period": 7, "start": (date(2025, 7, 1) + timedelta(days=days)).isoformat()}
        )
        assert told["timestamps"][0] == f"{date(2025, 6, 30) + timedelta(days=days)}T23:00:00Z"
        widths.append(np.subtract(told["quantiles"]["0.9"], told["quantiles"]["0.1"]).mean())
    assert widths[1] < widths[2] < widths[3]
    assert (trained.folder / "model.json").stat().st_size < 20_000


@pytest.mark.parametrize("gap", [(0, 300), (300, 740), (900, 1300), (1000, 1450), (1, 1)])
@pytest.mark.parametrize("idle", [False, True])
def test_long_gaps_and_idle_months_still_give_finite_forecasts(
    tmp_path: Path, gap: tuple[int, int], idle: bool
) -> None:
    hours = pd.date_range("2025-02-01", periods=24 * 63, freq="h", tz="UTC")
    values = 1 + np.sin(np.arange(len(hours)) / 24 * 2 * np.pi) ** 2
    if idle:
        values[:1100] = 0.0
    values[gap[0] + 1 : gap[1]] = np.nan
    raw = tmp_path / "raw.parquet"
    pd.DataFrame({"timestamp": hours, "consumption": values}).to_parquet(raw)
    prepare([raw], tmp_path / "0", {"timezone": "Europe/London"})
    names = '["ridge", "weekly_median", "seasonal_naive", "prophet"]'
    told = answer(one(tmp_path / "work", task(tmp_path, 0), candidates=names), {"period": 14})
    assert np.isfinite(told["mean"]).all()
    assert max(told["quantiles"]["0.9"]) < 10


def test_daily_data_cannot_be_forecast_by_the_hour(tmp_path: Path) -> None:
    raw = tmp_path / "raw.parquet"
    generate(1, datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 7, 1, tzinfo=UTC), "D").to_parquet(
        raw
    )
    prepare([raw], tmp_path / "0", {})
    refused = train(tmp_path / "work", task(tmp_path, 0), frequency="h")["tenant-0"]
    assert isinstance(refused, Refused)
    assert "Upload hourly readings" in refused.reason
    assert one(tmp_path / "D", task(tmp_path, 0)).card["horizon_points"] == 28


def test_a_horizon_beyond_two_weeks_of_hours_is_refused(data: Path, tmp_path: Path) -> None:
    refused = train(tmp_path / "work", task(data, 0), horizon_days="15")["tenant-0"]
    assert isinstance(refused, Refused)
    assert "reach 14" in refused.reason
    assert one(tmp_path / "three", task(data, 0), horizon_days="3").card["horizon_points"] == 72


def test_hyperparameters_are_strings_and_have_defaults() -> None:
    assert parse_settings({}) == Settings()
    assert parse_settings({"batch_size": "500", "sagemaker_region": "eu-west-1"}) == Settings()
    parsed = parse_settings(
        {
            "frequency": "D",
            "candidates": '["ridge"]',
            "quantiles": "[0.05]",
            "horizon_days": "28",
            "prophet": "stock",
        }
    )
    assert parsed == Settings("D", ("ridge",), (0.05, 0.1, 0.5, 0.9), 28, "stock")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frequency", "W"),
        ("candidates", "ridge"),
        ("candidates", '["arima"]'),
        ("candidates", "[]"),
        ("candidates", "[[]]"),
        ("quantiles", "[0]"),
        ("quantiles", "[NaN]"),
        ("quantiles", "[1e999]"),
        ("quantiles", '["0.1"]'),
        ("quantiles", "[" * 5000),
        ("horizon_days", "0"),
        ("horizon_days", "29"),
        ("horizon_days", "7.5"),
        ("prophet", "both"),
        ("seed", "-1"),
        ("learning_rate", "0.1"),
    ],
)
def test_unknown_or_malformed_hyperparameters_are_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidHyperparameterError, match=name):
        parse_settings({name: value})


def test_a_job_with_malformed_hyperparameters_fails_as_a_whole(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidTrainingInputError, match="horizon_days"):
        train(tmp_path, task(data, 0), horizon_days="soon")
