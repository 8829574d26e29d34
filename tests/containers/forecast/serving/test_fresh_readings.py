"""Requests that carry fresh readings: answered from their end by what the model learned."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from containers.forecast.consumption.preparation import prepare
from containers.forecast.consumption.prepared_files import Series, readings_of
from containers.forecast.consumption.series import daily, read_series
from containers.forecast.consumption.synthetic import generate
from containers.forecast.serving.predictor import LARGEST_BODY, ForecastModel, ForecastPredictor
from containers.forecast.stored_forecasts import starts
from containers.forecast.stored_forecasts.fresh_readings import (
    FreshReadings,
    InvalidReadingsError,
    end_of,
)
from containers.forecast.training.trainer import ForecastTrainer
from containers.runtime.serving.predictor import InvalidModelError, InvalidRequestError
from containers.runtime.training.packed_training import Task, Trained

PREDICTOR = ForecastPredictor()
BEGIN, END = datetime(2025, 4, 1, tzinfo=UTC), datetime(2025, 10, 20, tzinfo=UTC)
SHORT = 40
"""Days of the short history."""

Folders = dict[str, Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Series of three customers by name, all of which end a week before London's clock goes back:
    `0` and `1` of half a year, `short` of weeks. `{name}-later` is two weeks longer."""
    base = tmp_path_factory.mktemp("prepared")
    frame = generate(3, BEGIN, END + timedelta(days=14), seed=8)
    parameters = {"timezone": "Europe/London", "country": "GB"}
    for customer, name in enumerate(("0", "1", "short")):
        part = frame[frame.customer_id == customer]
        if name == "short":
            part = part[part.timestamp >= END - timedelta(days=SHORT)]
        for folder, until in ((name, END), (f"{name}-later", END + timedelta(days=14))):
            part[part.timestamp < until].to_parquet(base / f"{folder}.parquet", index=False)
            prepare([base / f"{folder}.parquet"], base / folder, parameters)
    return base


CANDIDATES: dict[str, dict[str, str]] = {
    "ridge": {},
    "weekly_median": {"candidates": '["weekly_median"]'},
    "seasonal_naive": {"candidates": '["seasonal_naive"]'},
    "calendar_profile": {},
    "daily ridge": {"frequency": "D"},
    "daily median": {"candidates": '["weekly_median"]', "frequency": "D"},
    "daily profile": {"frequency": "D"},
    "many quantiles": {"quantiles": "[0.05, 0.25, 0.75, 0.95]"},
    "prophet": {"candidates": '["prophet"]'},
    "prophet or median": {"candidates": '["prophet", "weekly_median"]'},
}


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """The trained model of each kind of `CANDIDATES`, made when first asked for."""
    known: dict[str, Trained] = {}

    def one(kind: str) -> Trained:
        if kind not in known:
            series = "short" if "profile" in kind else "0"
            known[kind] = trained(data, series, tmp_path_factory.mktemp("work"), CANDIDATES[kind])
        return known[kind]

    return one


def trained(
    data: Path, series: str, work: Path, hyperparameters: Mapping[str, str], tier: str = "bridge"
) -> Trained:
    tasks = [Task(name, name, "v1", tier, data / name, {}) for name in (series, "1")]
    for result in ForecastTrainer().train(tasks, hyperparameters, work):
        if isinstance(result, Trained) and result.task.tenant == series:
            card = {"format": 1, "version": "v1", **result.card}
            (result.folder / "card.json").write_text(json.dumps(card))
            return result
    raise AssertionError("training refused its data")


def readings(data: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((data / name / "readings.json").read_text()))


def ask(model: Trained | ForecastModel, request: Mapping[str, Any]) -> dict[str, Any]:
    loaded = PREDICTOR.load(model.folder) if isinstance(model, Trained) else model
    body = json.dumps({starts.FIELD: starts.DATA_END, **request}).encode()
    return dict(json.loads(PREDICTOR.predict(loaded, body, "application/json", "").body))


def refused(model: Trained, request: Mapping[str, Any]) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        ask(model, {"period": 7, **request})
    return caught.value


LEARNING = [kind for kind in CANDIDATES if not kind.startswith("prophet")]


@pytest.mark.parametrize("kind", LEARNING)
def test_the_readings_of_the_training_data_give_the_stored_forecast(
    made: Callable[[str], Trained], data: Path, kind: str
) -> None:
    model = made(kind)
    own = readings(data, "short" if "profile" in kind else "0")
    stored = ask(model, {"period": 14})
    fresh = ask(model, {"period": 14, "readings": own})
    assert fresh.pop("data_end") == model.card["data"]["end"] == "2025-10-20T00:00:00Z"
    assert list(fresh) == list(stored)
    for field in ("model", "version", "frequency", "unit", "start", "timestamps"):
        assert fresh[field] == stored[field]
    # Forecasts have four digits, and readings five.
    assert fresh["mean"] == pytest.approx(stored["mean"], rel=2e-3)
    for level, values in stored["quantiles"].items():
        assert fresh["quantiles"][level] == pytest.approx(values, rel=2e-3)


@pytest.mark.parametrize("kind", ["weekly_median", "seasonal_naive", "calendar_profile"])
def test_a_model_without_coefficients_is_on_new_readings_as_one_trained_on_them(
    made: Callable[[str], Trained], data: Path, tmp_path: Path, kind: str
) -> None:
    name = "short" if "profile" in kind else "0"
    fresh = ask(made(kind), {"period": 14, "readings": readings(data, f"{name}-later")})
    anew = ask(trained(data, f"{name}-later", tmp_path, CANDIDATES[kind]), {"period": 14})
    assert fresh["data_end"] == fresh["start"] == anew["start"] == "2025-11-03T00:00:00Z"
    assert fresh["timestamps"] == anew["timestamps"]
    # The calibration of the others is that of the first training.
    assert fresh["mean"][:168] == pytest.approx(anew["mean"][:168], rel=2e-3)
    if kind == "calendar_profile":
        for level, values in anew["quantiles"].items():
            assert fresh["quantiles"][level] == pytest.approx(values, rel=2e-3)


def test_fresh_readings_are_worth_a_training(
    made: Callable[[str], Trained], data: Path, tmp_path: Path
) -> None:
    """Where the level has doubled since training, the stored forecast cannot know it."""
    model = made("ridge")
    later = readings(data, "0-later")
    later["values"] = [
        value if number < len(later["values"]) - 336 else 2 * value
        for number, value in enumerate(later["values"])
    ]
    start = {"start": "2025-11-03T00:00:00Z", "period": 7}
    old, new = (ask(model, {**start, **more})["mean"] for more in ({}, {"readings": later}))
    assert np.mean(new) > 1.3 * np.mean(old)


def test_calibration_follows_the_local_clock_to_another_hour(
    made: Callable[[str], Trained], data: Path
) -> None:
    """A noon end, after the clock went back, has the widths of the same hours of the day."""
    model, later = made("weekly_median"), readings(data, "0-later")
    noon = {**later, "values": later["values"][:-12]}
    learned = json.loads((model.folder / "model.json").read_text())["learned"]
    upper = learned["shifts"][0][2]
    told = ask(model, {"hours": 24, "readings": noon, "quantiles": [0.5, 0.9]})
    assert told["start"] == "2025-11-02T12:00:00Z"
    begin = datetime.fromisoformat(later["start"])
    back = datetime(2025, 10, 26, 1, tzinfo=UTC)
    for number, stamp in enumerate(told["timestamps"]):
        # The same hour of the last eight weeks by the local clock, of which one is in winter time.
        moment = datetime.fromisoformat(stamp)
        weeks = [moment - timedelta(weeks=week) for week in range(1, 9)]
        summer = [week - timedelta(hours=1) if week < back else week for week in weeks]
        past = [noon["values"][(week - begin) // timedelta(hours=1)] for week in summer]
        expected = float(np.quantile(past, 0.9)) + upper[moment.hour]
        assert told["quantiles"]["0.9"][number] == pytest.approx(expected, rel=2e-3)


def test_a_start_is_relative_to_the_readings_end_and_sees_nothing_after_it(
    made: Callable[[str], Trained], data: Path
) -> None:
    model, later = made("ridge"), readings(data, "0-later")
    whole = ask(model, {"period": 7, "readings": later, "start": "2025-11-05"})
    assert (whole["start"], whole["data_end"]) == ("2025-11-05T00:00:00Z", "2025-11-03T00:00:00Z")
    early = ask(model, {"period": 7, "readings": later, "start": "2025-10-30"})
    assert early["start"] == early["data_end"] == "2025-10-30T00:00:00Z"
    cut = {**later, "values": later["values"][: -4 * 24]}
    assert ask(model, {"period": 7, "readings": cut})["mean"] == early["mean"]
    for start, reason in (
        ("2025-10-19", "start_before_reach"),
        ("2026-01-05", "start_beyond_reach"),
        ("soon", "start_malformed"),
    ):
        error = refused(model, {"readings": later, "start": start})
        assert (error.field, error.reason) == ("start", reason)
    assert ask(model, {"period": 7, "readings": later, "start": "2026-01-04"})["mean"]


def test_a_daily_model_sums_hourly_readings_by_local_date(
    made: Callable[[str], Trained], data: Path, tmp_path: Path
) -> None:
    model, later = made("daily ridge"), readings(data, "0-later")
    from_hours = ask(model, {"period": 28, "readings": later})
    assert (from_hours["start"], from_hours["data_end"]) == ("2025-11-03", "2025-11-03T00:00:00Z")
    by_day = readings_of(daily(read_series(data / "0-later", {}, tmp_path)))
    assert ask(model, {"period": 28, "readings": by_day})["mean"] == pytest.approx(
        from_hours["mean"], rel=2e-3
    )
    # An evening's end leaves that date out, and so does a start on it.
    evening = {**later, "values": later["values"][:-4]}
    before = ask(model, {"period": 28, "readings": evening})
    assert before["start"] == "2025-11-02"
    for one in (later, by_day):
        same = ask(model, {"period": 28, "readings": one, "start": "2025-11-02"})
        assert same["mean"] == pytest.approx(before["mean"], rel=2e-3)
    assert refused(made("ridge"), {"readings": by_day}).reason == "readings_frequency"


@settings(max_examples=60, deadline=None)
@given(
    # The zone is drawn beside it.
    first=st.datetimes(datetime(2016, 1, 1), datetime(2026, 1, 1)),  # noqa: DTZ001
    count=st.integers(60, 200),
    zone=st.sampled_from(["Europe/London", "America/Sao_Paulo", "America/Havana", "Asia/Kolkata"]),
)
def test_both_sides_know_the_same_end_of_hours_summed_to_days(
    first: datetime, count: int, zone: str
) -> None:
    begin = first.replace(minute=0, second=0, microsecond=0, tzinfo=UTC)
    hours = Series(int(begin.timestamp()), np.ones(count), "h", zone, None)
    fresh = FreshReadings(begin, "h", [1.0] * count)
    end = end_of(fresh, {"frequency": "D", "timezone": zone})
    assert end.timestamp() == daily(hours).end


def test_a_model_that_cannot_take_readings_says_so_and_another_may_stand_by(
    made: Callable[[str], Trained], data: Path, tmp_path: Path
) -> None:
    later = {"period": 7, "readings": readings(data, "0-later")}
    alone = made("prophet")
    assert alone.card["fresh_readings"] is None
    assert refused(alone, later).reason == "readings_not_taken"
    assert ask(alone, {"period": 7})["model"] == "prophet"
    pool = trained(data, "0", tmp_path, {}, tier="pool")
    assert pool.card["model"] == "global_lightgbm_and_ridge"
    assert pool.card["fresh_readings"] == "ridge"
    assert ask(pool, {"period": 7})["model"] == "global_lightgbm_and_ridge"
    assert ask(pool, later)["model"] == "ridge"
    # `ridge` stands by with its own fit, as in a model of its own.
    assert ask(pool, later)["mean"] == ask(made("ridge"), later)["mean"]


def changed(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda own: {**own, **changes}


def last(value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda own: {**own, "values": [*own["values"][:-2], value, 1.0]}


MALFORMED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "null": (lambda _: None, "readings_malformed"),
    "a list": (lambda own: own["values"], "readings_malformed"),
    "another field": (changed(unit="kWh"), "readings_malformed"),
    "no start": (lambda own: {"frequency": "h", "values": own["values"]}, "readings_malformed"),
    "a date alone": (changed(start="2025-05-01"), "readings_malformed"),
    "long ago": (changed(start="1969-01-01T00:00:00Z"), "readings_malformed"),
    "the far future": (changed(start="2199-12-31T23:00:00Z"), "readings_malformed"),
    "no frequency": (changed(frequency=None), "readings_malformed"),
    "weekly": (changed(frequency="W"), "readings_malformed"),
    "a day at noon": (changed(frequency="D", start="2025-05-01T12:00:00Z"), "readings_malformed"),
    "no values": (changed(values=[]), "readings_malformed"),
    "values of text": (changed(values="1,2"), "readings_malformed"),
    "a missing end": (lambda own: {**own, "values": [*own["values"], None]}, "readings_malformed"),
    "text": (last("1.0"), "readings_malformed"),
    "true": (last(True), "readings_malformed"),
    "negative": (last(-0.1), "readings_malformed"),
    "not a number": (last(float("nan")), "readings_malformed"),
    "infinite": (last(float("inf")), "readings_malformed"),
    "huge": (last(10**400), "readings_malformed"),
    "a list within": (last([]), "readings_malformed"),
    "too many": (changed(values=[1] * 9000), "readings_too_many"),
    "too few": (lambda own: {**own, "values": own["values"][:1343]}, "readings_older"),
    "a short window": (
        lambda own: {**own, "start": "2025-09-25T00:00:00Z", "values": own["values"][-39 * 24 :]},
        "readings_too_few",
    ),
    "mostly missing": (
        lambda own: {
            **own,
            "values": [*[None] * (len(own["values"]) - 600), *own["values"][-600:]],
        },
        "readings_too_few",
    ),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_unusable_readings_are_refused_alike_by_the_server_and_by_the_control_plane(
    made: Callable[[str], Trained], data: Path, kind: str
) -> None:
    change, reason = MALFORMED[kind]
    model = made("ridge")
    given = change(readings(data, "0-later"))
    error = refused(model, {"readings": given})
    assert (error.field, error.reason) == ("readings", reason)
    with pytest.raises(InvalidReadingsError) as caught:
        starts.resolve({"period": 7, "readings": given}, model.card, END)
    assert (caught.value.field, caught.value.code) == ("readings", reason)


def test_the_control_plane_checks_a_start_against_the_readings_end(
    made: Callable[[str], Trained], data: Path
) -> None:
    model, later = made("ridge"), readings(data, "0-later")
    for request in ({"start": "2026-01-04"}, {"start": "2025-10-30"}, {"start": "data_end"}):
        asked = {"period": 7, "readings": later, **request}
        resolved = starts.resolve(asked, model.card, END)
        starts.check(resolved, model.card)
        assert starts.resolve(resolved, model.card, END) == resolved
        assert ask(model, resolved)["start"] == ask(model, asked)["start"] == resolved["start"]
    late = starts.resolve({"period": 7, "start": "2026-01-04"}, model.card, END)
    with pytest.raises(starts.InvalidStartError):
        starts.check(late, model.card)
    with pytest.raises(starts.InvalidStartError, match="data end at 2025-11-03"):
        starts.check({**late, "start": "2026-01-05T00:00:00Z", "readings": later}, model.card)


def test_a_year_of_readings_is_a_request_and_a_larger_body_is_none(
    made: Callable[[str], Trained], data: Path
) -> None:
    model, later = made("ridge"), readings(data, "0-later")
    more = 371 * 24 - len(later["values"])
    first = datetime.fromisoformat(later["start"]) - timedelta(hours=more)
    longest = {**later, "start": starts.stamp(first), "values": [123.45] * more + later["values"]}
    usual = ask(model, {"period": 7, "readings": later})
    assert ask(model, {"period": 7, "readings": longest})["mean"] == usual["mean"]
    loaded = PREDICTOR.load(model.folder)
    body = json.dumps({"period": 7, "readings": later}).encode()
    with pytest.raises(InvalidRequestError, match="larger than"):
        PREDICTOR.predict(loaded, body + b" " * LARGEST_BODY, "application/json", "")


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "no object": ({"learned": 7}, "learned must be an object"),
    "no model": ({"model": "global_lightgbm"}, "learned.model"),
    "no flag": ({"towards_profile": 1}, "towards_profile"),
    "no inputs": ({"inputs": []}, "inputs"),
    "too many inputs": ({"inputs": ["x"] * 65}, "inputs"),
    "inputs of numbers": ({"inputs": [1] * 17}, "inputs"),
    "fewer coefficients": ({"coefficients": [[1.0] * 17] * 3}, "4 rows of 17"),
    "a short row": ({"coefficients": [[1.0] * 16] * 4}, "4 rows of 17"),
    "no numbers": ({"coefficients": [["1"] * 17] * 4}, "coefficients must be numbers"),
    "infinite": ({"coefficients": [[1e999] * 17] * 4}, "coefficients must be numbers"),
    "not a number": ({"coefficients": [[float("nan")] * 17] * 4}, "coefficients must be numbers"),
    "huge": ({"coefficients": [[10**400] * 17] * 4}, "coefficients must be numbers"),
    "one week": ({"shifts": [[[0.0] * 24] * 3]}, "shifts must be of 2 weeks"),
    "fewer hours": ({"shifts": [[[0.0] * 23] * 3] * 2}, "3 rows of 24"),
    "no list": ({"shifts": [7, 7]}, "shifts must be a list"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_state_is_refused_with_its_field(
    made: Callable[[str], Trained], tmp_path: Path, kind: str
) -> None:
    changes, words = HOSTILE[kind]
    source = made("ridge").folder
    document = json.loads((source / "model.json").read_text())
    learned = changes.get("learned", {**document["learned"], **changes})
    (tmp_path / "model.json").write_text(json.dumps({**document, "learned": learned}))
    (tmp_path / "card.json").write_bytes((source / "card.json").read_bytes())
    with pytest.raises(InvalidModelError, match=words):
        PREDICTOR.load(tmp_path)


def test_models_of_earlier_formats_and_of_other_inputs_take_no_readings(
    made: Callable[[str], Trained], data: Path, tmp_path: Path
) -> None:
    source = made("ridge").folder
    document = json.loads((source / "model.json").read_text())
    learned = {**document["learned"], "inputs": [f"{n}" for n in range(17)]}
    earlier = {name: value for name, value in document.items() if name != "learned"}
    (tmp_path / "card.json").write_bytes((source / "card.json").read_bytes())
    for other in ({**earlier, "format": 2}, {**document, "learned": learned}):
        (tmp_path / "model.json").write_text(json.dumps(other))
        model = PREDICTOR.load(tmp_path)
        assert ask(model, {"period": 7}) == ask(made("ridge"), {"period": 7})
        with pytest.raises(InvalidRequestError) as caught:
            ask(model, {"period": 7, "readings": readings(data, "0-later")})
        assert caught.value.reason == "readings_not_taken"


def test_a_state_takes_a_few_kilobytes(made: Callable[[str], Trained]) -> None:
    document = json.loads((made("ridge").folder / "model.json").read_text())
    assert document["format"] == 3
    assert len(json.dumps(document["learned"])) < 4_000


def test_numpy_is_imported_for_readings_alone(made: Callable[[str], Trained], data: Path) -> None:
    code = """
import json, sys
from pathlib import Path
from containers.forecast.serving.predictor import ForecastPredictor
predictor = ForecastPredictor()
model = predictor.load(Path(sys.argv[1]))
request = {"period": 7, "start": "data_end"}
heavy = ("numpy", "pandas", "pyarrow", "scipy", "lightgbm", "prophet", "holidays")
for more in ({}, {"readings": json.loads(Path(sys.argv[2]).read_text())}):
    predictor.predict(model, json.dumps({**request, **more}).encode(), "", "")
    print([name for name in heavy if name in sys.modules])
"""
    arguments = [str(made("ridge").folder), str(data / "0" / "readings.json")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.splitlines() == ["[]", "['numpy']"]
