"""Customers' files through preparation, training, archive and server, as a job and an endpoint take them."""

import json
from datetime import UTC, datetime
from pathlib import Path

from containers.forecast.predictor import ForecastPredictor
from containers.forecast.preparation import prepare
from containers.forecast.synthetic import generate
from containers.forecast.training import ForecastTrainer
from containers.runtime.packed_training import Task, Trained


def test_a_customers_file_becomes_a_model_that_answers(tmp_path: Path) -> None:
    raw = tmp_path / "consumption.parquet"
    frame = generate(1, datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 6, 1, tzinfo=UTC))
    frame.to_parquet(raw)
    prepare([raw], tmp_path / "data", {"timezone": "Europe/London", "country": "GB"})
    task = Task("t-1", "acme", "v1", "bridge", tmp_path / "data", {"timezone": "Europe/London"})
    workspace = tmp_path / "work"
    workspace.mkdir()

    (trained,) = list(ForecastTrainer().train([task], {}, workspace))

    assert isinstance(trained, Trained)
    assert trained.metrics["mase"] < trained.metrics["baseline_mase"]
    (trained.folder / "card.json").write_text(json.dumps({"format": 1, "version": "v1"}))
    predictor = ForecastPredictor()
    answer = json.loads(
        predictor.predict(predictor.load(trained.folder), b'{"period": 7}', "application/json", "*/*").body
    )
    assert answer["timestamps"][0] == "2025-06-01T00:00:00Z"
    assert len(answer["mean"]) == len(answer["quantiles"]["0.9"]) == 168
