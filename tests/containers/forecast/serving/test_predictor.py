"""Requests to a loaded model, and untrusted models."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containers.forecast.serving.predictor import ForecastModel, ForecastPredictor
from containers.forecast.stored_forecasts import starts
from containers.forecast.stored_forecasts.model_file import Points, StoredForecast, write_model
from containers.runtime.serving.predictor import Answer, InvalidModelError, InvalidRequestError

PREDICTOR = ForecastPredictor()


END = datetime(2025, 3, 28, tzinfo=UTC)  # two days before London's clock goes on at 01:00


def points(mean: list[float]) -> Points:
    return Points(
        mean, {0.1: [value / 2 for value in mean], 0.5: mean, 0.9: [value * 2 for value in mean]}
    )


def stored(frequency: str = "h", horizon: int = 336, end: datetime = END) -> StoredForecast:
    """A model that forecasts 1, 1.001, … for the first week, 2, … for later weeks, and 0.5, … for
    the week before."""
    week = 168 if frequency == "h" else 7
    before, first, later = (
        [base + point / 1000 for point in range(week)] for base in (0.5, 1.0, 2.0)
    )
    spread = [1.0, 1.5, *[2.0] * 11]
    return StoredForecast(
        "ridge",
        frequency,
        "kWh",
        "Europe/London",
        end,
        63,
        horizon,
        points(before),
        points(first),
        points(later),
        spread,
    )


def loaded(folder: Path, content: StoredForecast | None = None) -> ForecastModel:
    write_model(folder, content or stored())
    (folder / "card.json").write_text(json.dumps({"format": 1, "version": "20250401t000000-1a2b"}))
    return PREDICTOR.load(folder)


def ask(model: ForecastModel, request: Any) -> dict[str, Any]:
    """The model's answer, by default from the end of its data."""
    if isinstance(request, dict) and "start" not in request:
        request = {**request, starts.FIELD: starts.DATA_END}
    answer = PREDICTOR.predict(
        model, json.dumps(request).encode(), "application/json", "application/json"
    )
    return dict(json.loads(answer.body))


def test_a_week_of_hours_is_answered_as_the_contract_says(tmp_path: Path) -> None:
    answer = ask(loaded(tmp_path), {"period": 7})
    assert list(answer) == [
        "model",
        "version",
        "frequency",
        "unit",
        "start",
        "timestamps",
        "mean",
        "quantiles",
    ]
    assert (answer["model"], answer["version"], answer["frequency"]) == (
        "ridge",
        "20250401t000000-1a2b",
        "h",
    )
    assert answer["start"] == answer["timestamps"][0] == "2025-03-28T00:00:00Z"
    assert answer["timestamps"][-1] == "2025-04-03T23:00:00Z"
    # On the 30th the clock jumps from 01:00 to 02:00, and the week's points skip that hour too.
    assert answer["mean"][:49] == [1 + point / 1000 for point in range(49)]
    assert answer["mean"][49:167] == [1 + point / 1000 for point in range(50, 168)]
    assert {level: len(values) for level, values in answer["quantiles"].items()} == {
        "0.1": 168,
        "0.5": 168,
        "0.9": 168,
    }


@pytest.mark.parametrize(
    ("asked", "first", "mean"),
    [
        ("2025-03-21", "2025-03-21T00:00:00Z", 0.5),  # the held-out week, as it was forecast
        ("2025-03-29", "2025-03-29T00:00:00Z", 1.024),
        ("2025-03-31", "2025-03-30T23:00:00Z", 1.072),  # midnight in summer time
        (
            "2025-03-31T06:30",
            "2025-03-31T06:00:00Z",
            1.079,
        ),  # the next full hour: 07:00 by the clock
        ("2025-03-31T06:00+02:00", "2025-03-31T04:00:00Z", 1.077),
        ("2025-05-29", "2025-05-28T23:00:00Z", 2.144),  # 62 days on, the last that may be asked for
    ],
)
def test_an_answer_begins_at_its_start_by_the_customers_clock(
    tmp_path: Path, asked: str, first: str, mean: float
) -> None:
    model = loaded(tmp_path)
    for _ in range(2):  # first computed, then from the cache
        answer = ask(model, {"period": 14, "start": asked})
        assert answer["start"] == answer["timestamps"][0] == first
        assert len(answer["mean"]) == len(answer["timestamps"]) == 336
        assert answer["mean"][0] == mean


def test_the_same_hour_is_forecast_alike_from_every_start(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    told: dict[str, float] = {}
    for day in range(1, 22):
        answer = ask(model, {"hours": 60, "start": f"2025-04-{day:02}T{day:02}:00"})
        for stamp, value in zip(answer["timestamps"], answer["quantiles"]["0.9"], strict=True):
            assert told.setdefault(stamp, value) == value


def test_intervals_grow_with_the_distance_from_the_data_and_stay_in_order(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    widths = []
    for week in range(1, 9):
        start = starts.stamp(END + timedelta(weeks=week, hours=3))
        answer = ask(model, {"hours": 1, "start": start})
        low, middle, high = (answer["quantiles"][level][0] for level in ("0.1", "0.5", "0.9"))
        assert 0 <= low <= middle <= high
        widths.append(high - middle)
    assert widths[1] == pytest.approx(widths[0] * 1.5, rel=1e-3)
    assert widths[2:] == pytest.approx([widths[0] * 2] * 6, rel=1e-3)


def test_without_a_start_the_present_is_meant(tmp_path: Path) -> None:
    for frequency in ("h", "D"):
        before = datetime.now(UTC)
        end = (before - timedelta(days=20)).replace(hour=0, minute=0, second=0, microsecond=0)
        model = loaded(tmp_path, stored(frequency, 28, end))
        for _ in range(2):
            body = PREDICTOR.predict(model, b'{"period": 1}', "application/json", "").body
            card = {"frequency": frequency, "timezone": "Europe/London"}
            expected = {
                starts.resolve({}, card, now)["start"] for now in (before, datetime.now(UTC))
            }
            assert json.loads(body)["start"] in expected


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ("2025-05-31", "start_beyond_reach"),
        (None, "start_beyond_reach"),
        ("2025-03-20", "start_before_reach"),
        ("tomorrow", "start_malformed"),
        (20250401, "start_malformed"),
    ],
)
def test_a_start_that_cannot_be_answered_is_refused_with_its_kind_and_the_end_of_the_data(
    tmp_path: Path, start: Any, reason: str
) -> None:
    model = loaded(tmp_path)
    body = json.dumps({"period": 1} if start is None else {"period": 1, "start": start}).encode()
    with pytest.raises(InvalidRequestError) as caught:
        PREDICTOR.predict(model, body, "application/json", "")
    assert (caught.value.field, caught.value.reason) == ("start", reason)
    assert (
        reason == "start_malformed"
        or "its data end at 2025-03-28T00:00:00Z" in caught.value.message
    )


def test_a_model_of_the_first_format_answers_within_its_horizon(tmp_path: Path) -> None:
    mean = [1 + point / 1000 for point in range(336)]
    old = {
        "format": 1,
        "model": "ridge",
        "frequency": "h",
        "unit": "kWh",
        "start": "2025-03-30T00:00:00Z",
        "mean": mean,
        "quantiles": {"0.5": mean},
    }
    (tmp_path / "model.json").write_text(json.dumps(old))
    (tmp_path / "card.json").write_text(json.dumps({"version": "v1", "timezone": "Europe/London"}))
    model = PREDICTOR.load(tmp_path)
    assert ask(model, {"period": 14})["mean"] == mean
    later = ask(model, {"period": 1, "start": "2025-04-12"})
    assert (later["start"], later["mean"]) == ("2025-04-11T23:00:00Z", mean[311:335])
    for request, reason in (
        ({"period": 2, "start": "2025-04-12"}, "end_beyond_reach"),
        ({"period": 1, "start": "2025-04-14"}, "start_beyond_reach"),
        ({"period": 1, "start": "2025-03-29"}, "start_before_reach"),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            ask(model, request)
        assert caught.value.reason == reason


def test_hours_and_chosen_quantiles_are_answered(tmp_path: Path) -> None:
    answer = ask(loaded(tmp_path), {"hours": 48, "quantiles": [0.9, 0.1]})
    assert len(answer["mean"]) == 48
    assert list(answer["quantiles"]) == ["0.1", "0.9"]
    assert ask(loaded(tmp_path), {"hours": 1, "quantiles": []})["quantiles"] == {}


def test_days_are_answered_by_a_daily_model(tmp_path: Path) -> None:
    model = loaded(tmp_path, stored("D", 28))
    assert ask(model, {"period": 28})["timestamps"][-1] == "2025-04-24T00:00:00Z"
    answer = ask(model, {"period": 7, "start": "2025-04-02"})
    assert answer["start"] == "2025-04-02"
    assert answer["timestamps"][0] == "2025-04-02T00:00:00Z"
    assert answer["mean"] == [1.005, 1.006, 2.0, 2.001, 2.002, 2.003, 2.004]
    with pytest.raises(InvalidRequestError, match="forecasts days"):
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
    with pytest.raises(InvalidRequestError, match=words) as caught:
        ask(loaded(tmp_path), request_body)
    assert caught.value.field == field


def test_bodies_and_types_that_are_not_json_are_refused(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    for body in (b"", b"{", b"\xff", b"[" * 60_000, b" " * 70_000):
        with pytest.raises(InvalidRequestError):
            PREDICTOR.predict(model, body, "application/json", "*/*")
    with pytest.raises(InvalidRequestError) as caught:
        PREDICTOR.predict(model, b'{"period": 7}', "text/csv", "*/*")
    assert caught.value.field == "Content-Type"
    with pytest.raises(InvalidRequestError) as caught:
        PREDICTOR.predict(model, b'{"period": 7}', "application/json", "text/csv")
    assert caught.value.field == "Accept"
    body = b'{"period": 7, "start": "2025-04-01"}'
    assert PREDICTOR.predict(
        model, body, "application/json; charset=utf-8", "text/csv, */*;q=0.1"
    ).body


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["period", "hours", "quantiles", "start"]), inner)
    ),
    max_leaves=6,
)


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=st.one_of(st.binary(max_size=40), _JSON.map(lambda value: json.dumps(value).encode())))
def test_any_body_is_answered_or_refused(tmp_path: Path, body: bytes) -> None:
    model = loaded(tmp_path)
    answer: Answer | None = None
    try:
        answer = PREDICTOR.predict(model, body, "application/json", "")
    except InvalidRequestError as refused:
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
        ({"format": 4}, "format"),
        ({"frequency": "W"}, "frequency"),
        ({"frequency": ["h"]}, "frequency"),
        ({"model": "<script>"}, "model"),
        ({"unit": "MWh"}, "unit"),
        ({"end": "soon"}, "end"),
        ({"end": "9999-12-31T00:00:00Z"}, "end"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"timezone": None}, "timezone"),
        ({"reach": 10**9}, "reach"),
        ({"reach": True}, "reach"),
        ({"horizon": 29}, "horizon"),
        ({"spread": []}, "spread"),
        ({"spread": [0.5]}, "spread"),
        ({"spread": [1e9]}, "spread"),
        ({"first": []}, "first must be an object"),
        ({"before": {"mean": [], "quantiles": {"0.5": []}}}, "same levels"),
        ({"before": {"mean": [1.0] * 8, "quantiles": {}}}, "before.mean"),
        *(
            (
                {
                    "first": {
                        "mean": [1.0] * 7,
                        "quantiles": {"0.1": [1.0] * 7, "0.5": [1.0] * 7, "0.9": [1.0] * 7},
                        **part,
                    }
                },
                words,
            )
            for part, words in (
                ({"mean": []}, "first.mean"),
                ({"mean": [1.0] * 8}, "first.mean"),
                ({"mean": ["1"] * 7}, "first.mean"),
                ({"mean": [-1.0] * 7}, "first.mean"),
                ({"mean": [float("nan")] * 7}, "first.mean"),
                ({"mean": [10**400] * 7}, "first.mean"),
                ({"mean": [True] * 7}, "first.mean"),
                ({"quantiles": {}}, "first.quantiles"),
                ({"quantiles": {"0.5": [1.0] * 6}}, "as many values"),
                ({"quantiles": {"1.5": [1.0] * 7}}, "no quantile level"),
                ({"quantiles": {"median": [1.0] * 7}}, "no quantile level"),
                ({"quantiles": {"0.1": [2.0] * 7, "0.9": [1.0] * 7}}, "cross"),
            )
        ),
    ],
)
def test_a_hostile_model_is_refused_with_its_field(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    document = {**_document(tmp_path), **changes}
    (tmp_path / "model.json").write_text(json.dumps(document))
    with pytest.raises(InvalidModelError, match=words):
        PREDICTOR.load(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * ((1 << 20) + 1)]
)
@pytest.mark.parametrize("name", ["model.json", "card.json"])
def test_files_that_are_not_json_objects_are_refused(
    tmp_path: Path, name: str, content: bytes
) -> None:
    loaded(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidModelError, match=name):
        PREDICTOR.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InvalidModelError, match=name):
        PREDICTOR.load(tmp_path)


def test_a_model_outlives_its_folder_and_says_its_size(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    promised = PREDICTOR.size(model)
    assert 10_000 < promised < 100_000
    for day in range(40):
        assert (
            len(
                ask(model, {"period": 14, "start": f"2025-04-{day % 28 + 1:02}T{day % 24:02}:00"})[
                    "mean"
                ]
            )
            == 336
        )
    kept = sum(
        len(row.text) + row.ends.itemsize * len(row.ends)
        for rows in model.days.values()
        for row in (rows.timestamps, rows.mean, *rows.quantiles.values())
    )
    assert PREDICTOR.size(model) == promised
    assert kept < promised, "a model that is asked for many days holds no more than it said"


def test_the_server_imports_nothing_that_made_the_models() -> None:
    heavy = ("numpy", "pandas", "pyarrow", "scipy", "lightgbm", "prophet", "holidays")
    code = (
        f"import sys, containers.forecast.serving.predictor; print([name for name in {heavy!r} if "
        f"name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
