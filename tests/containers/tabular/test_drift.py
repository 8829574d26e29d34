"""A served model against the months that came after its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from containers.runtime.training.packed_training import Trained
from containers.tabular import drift
from containers.tabular.predictor import TabularPredictor
from containers.tabular.synthetic import generate
from tests.containers.tabular.churn import prepared_tenants
from tests.containers.tabular.conftest import MONTHS, SEED, Shared

FRESH = "tenant-0000/v1"


def asked(model: Trained, question: dict[str, Any]) -> Any:
    predictor = TabularPredictor()
    body = json.dumps(question).encode()
    loaded = predictor.load(model.folder)
    return json.loads(predictor.predict(loaded, body, "application/json", "").body)


def drifted(shared: Shared, folder: Path, drift_from: int | None) -> dict[str, Any]:
    prepared_tenants(folder, generate(1, 1500, MONTHS + 4, SEED, drift_from=drift_from))
    question = drift.question(folder / FRESH, shared.model.card)
    assert question is not None
    found = drift.score(asked(shared.model, question), folder / FRESH)
    assert found is not None
    return found


def test_a_changed_effect_is_told_though_the_columns_look_as_before(
    shared: Shared, tmp_path: Path
) -> None:
    steady = drifted(shared, tmp_path / "steady", None)
    changed = drifted(shared, tmp_path / "changed", MONTHS - 1)
    assert set(steady["metrics"]) == {"logloss", "baseline_logloss", "auc", "calibration_error"}
    assert set(steady["metrics"]) <= set(shared.model.metrics)
    assert steady["metrics"]["logloss"] < steady["metrics"]["baseline_logloss"]

    def beside_baseline(found: dict[str, Any]) -> float:
        share: float = found["metrics"]["logloss"] / found["metrics"]["baseline_logloss"]
        return share

    assert beside_baseline(changed) > beside_baseline(steady) + 0.05
    assert changed["metrics"]["auc"] < steady["metrics"]["auc"] - 0.05
    assert steady["facts"]["fresh_rows"] > drift.FEWEST
    assert len(steady["preview"]["bins"]) == 10


def test_only_rows_after_the_models_own_are_asked_and_at_most_so_many(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared_tenants(tmp_path / "rows", generate(1, 1500, MONTHS + 1, SEED))
    fresh = tmp_path / "rows" / FRESH
    question = drift.question(fresh, shared.model.card)
    assert question is not None
    ids = [row["id"] for row in question["rows"]]
    assert ids == sorted(ids)
    assert len(question["rows"]) == len(drift._known(fresh)) - ids[0], "the last month, alone"
    monkeypatch.setattr(drift, "MOST", 250)
    fewer = drift.question(fresh, shared.model.card)
    assert fewer is not None
    assert len(fewer["rows"]) == 250
    assert {row["id"] for row in fewer["rows"]} < set(ids)


def test_too_little_is_not_compared(shared: Shared, tmp_path: Path) -> None:
    prepared_tenants(tmp_path / "rows", generate(1, 1500, MONTHS, SEED))
    assert drift.question(tmp_path / "rows" / FRESH, shared.model.card) is None, "nothing is newer"
    prepared_tenants(tmp_path / "few", generate(1, 100, MONTHS + 2, SEED))
    assert drift.question(tmp_path / "few" / FRESH, shared.model.card) is None
    all_of_them = {"ids": [0, 1], "scores": [0.1, 0.2]}
    assert drift.score(all_of_them, tmp_path / "few" / FRESH) is None, "nothing lies before"
