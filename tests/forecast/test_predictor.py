"""Requests to a loaded model, and models that a stranger wrote."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containers.forecast.model_file import StoredForecast, write_model
from containers.forecast.predictor import ForecastModel, ForecastPredictor
from containers.runtime.predictor import Answer, InvalidModel, InvalidRequest

PREDICTOR = ForecastPredictor()


def stored(frequency: str = "h", points: int = 336) -> StoredForecast:
    mean = [1 + point / 1000 for point in range(points)]
    return StoredForecast(
        model="ridge",
        frequency=frequency,
        unit="kWh",
        start=datetime(2025, 3, 30, tzinfo=UTC),
        mean=mean,
        quantiles={0.1: [value / 2 for value in mean], 0.5: mean, 0.9: [value * 2 for value in mean]},
    )


def loaded(folder: Path, content: StoredForecast | None = None) -> ForecastModel:
    write_model(folder, content or stored())
    (folder / "card.json").write_text(json.dumps({"format": 1, "version": "20250401t000000-1a2b"}))
    return PREDICTOR.load(folder)


def ask(model: ForecastModel, request: Any) -> dict[str, Any]:
    answer = PREDICTOR.predict(model, json.dumps(request).encode(), "application/json", "application/json")
    return dict(json.loads(answer.body))


def test_a_week_of_hours_is_answered_as_the_contract_says(tmp_path: Path) -> None:
    answer = ask(loaded(tmp_path), {"period": 7})
    assert list(answer) == ["model", "version", "frequency", "unit", "timestamps", "mean", "quantiles"]
    assert (answer["model"], answer["version"], answer["frequency"]) == ("ridge", "20250401t000000-1a2b", "h")
    assert answer["timestamps"][0] == "2025-03-30T00:00:00Z"
    assert answer["timestamps"][-1] == "2025-04-05T23:00:00Z"
    assert answer["mean"] == [1 + point / 1000 for point in range(168)]
    assert {level: len(values) for level, values in answer["quantiles"].items()} == {"0.1": 168, "0.5": 168, "0.9": 168}


def test_hours_and_chosen_quantiles_are_answered(tmp_path: Path) -> None:
    answer = ask(loaded(tmp_path), {"hours": 48, "quantiles": [0.9, 0.1]})
    assert len(answer["mean"]) == 48
    assert list(answer["quantiles"]) == ["0.1", "0.9"]
    assert ask(loaded(tmp_path), {"hours": 1, "quantiles": []})["quantiles"] == {}


def test_days_are_answered_by_a_daily_model(tmp_path: Path) -> None:
    model = loaded(tmp_path, stored("D", 28))
    assert ask(model, {"period": 28})["timestamps"][-1] == "2025-04-26T00:00:00Z"
    with pytest.raises(InvalidRequest, match="forecasts days"):
        ask(model, {"hours": 24})


@pytest.mark.parametrize(
    ("request_body", "field", "words"),
    [
        ({"period": 15}, "period", "at most 14"),
        ({"hours": 337}, "hours", "at most 336"),
        ({"period": 0}, "period", "whole number from 1"),
        ({"period": -7}, "period", "whole number from 1"),
        ({"period": "7"}, "period", "whole number from 1"),
        ({"period": 7.0}, "period", "whole number from 1"),
        ({"period": True}, "period", "whole number from 1"),
        ({"period": 10**400}, "period", "at most 14"),
        ({"period": 7, "hours": 2}, "period", "either"),
        ({}, "period", "either"),
        ({"period": 7, "horizon": 3}, "horizon", "there is no field 'horizon'"),
        ({"period": 7, "quantiles": [0.2]}, "quantiles", "0.1, 0.5, 0.9, not 0.2"),
        ({"period": 7, "quantiles": "0.1"}, "quantiles", "list of numbers"),
        ({"period": 7, "quantiles": [0.1] * 4}, "quantiles", "at most 3"),
        ([7], None, "JSON object"),
    ],
)
def test_a_request_that_cannot_be_answered_names_its_field(
    tmp_path: Path, request_body: Any, field: str | None, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        ask(loaded(tmp_path), request_body)
    assert caught.value.field == field


def test_bodies_and_types_that_are_not_json_are_refused(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    for body in (b"", b"{", b"\xff", b"[" * 60_000, b" " * 70_000):
        with pytest.raises(InvalidRequest):
            PREDICTOR.predict(model, body, "application/json", "*/*")
    with pytest.raises(InvalidRequest) as caught:
        PREDICTOR.predict(model, b'{"period": 7}', "text/csv", "*/*")
    assert caught.value.field == "Content-Type"
    with pytest.raises(InvalidRequest) as caught:
        PREDICTOR.predict(model, b'{"period": 7}', "application/json", "text/csv")
    assert caught.value.field == "Accept"
    assert PREDICTOR.predict(model, b'{"period": 7}', "application/json; charset=utf-8", "text/csv, */*;q=0.1").body


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["period", "hours", "quantiles"]), inner)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.one_of(st.binary(max_size=40), _JSON.map(lambda value: json.dumps(value).encode())))
def test_any_body_is_answered_or_refused(tmp_path: Path, body: bytes) -> None:
    model = loaded(tmp_path)
    answer: Answer | None = None
    try:
        answer = PREDICTOR.predict(model, body, "application/json", "")
    except InvalidRequest as refused:
        assert refused.message  # noqa: PT017 - either outcome is right
    if answer is not None:
        told = json.loads(answer.body)
        assert len(told["timestamps"]) == len(told["mean"]) >= 1


def _document(folder: Path) -> dict[str, Any]:
    loaded(folder, stored("D", 28))
    return dict(json.loads((folder / "model.json").read_text()))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format"),
        ({"frequency": "W"}, "frequency"),
        ({"frequency": ["h"]}, "frequency"),
        ({"model": "<script>"}, "model"),
        ({"unit": "MWh"}, "unit"),
        ({"start": "soon"}, "start"),
        ({"start": "9999-12-31T00:00:00Z"}, "start"),
        ({"mean": []}, "mean"),
        ({"mean": [1.0] * 29}, "mean"),
        ({"mean": ["1"] * 28}, "mean"),
        ({"mean": [-1.0] * 28}, "mean"),
        ({"mean": [float("nan")] * 28}, "mean"),
        ({"mean": [10**400] * 28}, "mean"),
        ({"mean": [True] * 28}, "mean"),
        ({"quantiles": {}}, "quantiles"),
        ({"quantiles": {"0.5": [1.0] * 27}}, "as many values"),
        ({"quantiles": {"1.5": [1.0] * 28}}, "no quantile level"),
        ({"quantiles": {"median": [1.0] * 28}}, "no quantile level"),
        ({"quantiles": {"0.1": [2.0] * 28, "0.9": [1.0] * 28}}, "cross"),
    ],
)
def test_a_hostile_model_is_refused_with_its_field(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    document = {**_document(tmp_path), **changes}
    (tmp_path / "model.json").write_text(json.dumps(document))
    with pytest.raises(InvalidModel, match=words):
        PREDICTOR.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * ((1 << 20) + 1)])
@pytest.mark.parametrize("name", ["model.json", "card.json"])
def test_files_that_are_not_json_objects_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    loaded(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidModel, match=name):
        PREDICTOR.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InvalidModel, match=name):
        PREDICTOR.load(tmp_path)


def test_a_model_outlives_its_folder_and_says_its_size(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    assert len(ask(model, {"period": 14})["mean"]) == 336
    assert 10_000 < PREDICTOR.size(model) < 200_000


def test_the_server_imports_nothing_that_made_the_models() -> None:
    heavy = ("numpy", "pandas", "pyarrow", "scipy", "lightgbm", "prophet", "holidays")
    code = f"import sys, containers.forecast.predictor; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
