"""The parts of the example container: figures that can be checked by hand, and each refusal."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from containers.example import drift
from containers.example.predictor import ProfilePredictor
from containers.example.preparation import prepare
from containers.example.trainer import ProfileTrainer
from containers.runtime.serving.predictor import InvalidModelError, InvalidRequestError
from containers.runtime.training.packed_training import Refused, Task, Trained
from contracts.refused_data import RefusedDataError
from tenantry.shown.previews import pictures_of_preview

MONDAY = date(2026, 1, 5)


def csv(days: int, **changed: str) -> str:
    """A table from a Monday on: 10 on Mondays to 70 on Sundays, and 1 more each week."""
    rows = [
        f"{MONDAY + timedelta(number)},{10 * (number % 7 + 1) + number // 7}"
        for number in range(days)
    ]
    text = "\n".join(["date,value", *rows, ""])
    for right, wrong in changed.items():
        text = text.replace(right, wrong)
    return text


def prepared(folder: Path, *texts: str) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder.parent / f"{folder.name}-{number}.csv" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return prepare(files, folder, {})


def trained(base: Path, text: str) -> Trained | Refused:
    prepared(base / "data", text)
    (base / "workspace").mkdir()
    task = Task("t-1", "acme", "v1", "bridge", base / "data")
    (result,) = ProfileTrainer().train([task], {}, base / "workspace")
    return result


def asked(model: list[float], **request: Any) -> Any:
    body = json.dumps(request).encode()
    return json.loads(ProfilePredictor().predict(model, body, "application/json", "").body)


def test_a_model_answers_each_weekdays_mean_and_is_scored_on_the_last_week(tmp_path: Path) -> None:
    result = trained(tmp_path, csv(35))
    assert isinstance(result, Trained)
    # Four weeks with 0, 1, 2 and 3 more than the first have a mean of 1.5 more; the fifth has 4.
    assert result.metrics["mae"] == 2.5
    # The mean of all days before is 41.5; the last week has 14, 24, … 74.
    assert result.metrics["baseline_mae"] == 17.5
    assert result.card == {"end": "2026-02-08"}
    assert result.preview["truth"][0] == 14
    assert result.preview["q10"][0] < result.preview["mean"][0] < result.preview["q90"][0]
    assert pictures_of_preview(result.preview, "acme")["plot"].startswith(b"\x89PNG")
    predictor = ProfilePredictor()
    model = predictor.load(result.folder)
    told = asked(model, days=2, start="2026-03-02")
    assert told == {"timestamps": ["2026-03-02", "2026-03-03"], "mean": [12.0, 22.0]}
    assert len(asked(model, days=1)["mean"]) == 1, "from today on"
    assert predictor.size(model) > 7 * 24


def test_days_that_are_missing_or_told_twice_are_counted_and_cost_nothing_else(
    tmp_path: Path,
) -> None:
    again = "date,value\n2026-01-05,99\n2026-01-06,\n,7\n2026-01-07,1e300\n"
    made = prepared(tmp_path / "data", csv(35), again)
    assert (made["rows"], made["repairs"]) == (35, {"left_out": 3, "repeated": 1})
    assert made["facts"] == {"first": "2026-01-05", "last": "2026-02-08"}
    assert "2026-01-05,99" in (tmp_path / "data/days.csv").read_text()
    closed = "\n".join(line for line in csv(42).splitlines() if line[-3:-1] != ",7")
    result = trained(tmp_path / "closed", closed)
    assert isinstance(result, Trained)
    assert result.preview["truth"][0] is None, "no Sunday"
    pictures_of_preview(result.preview, "acme")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (csv(35, **{"date,": "day,"}), "table_unreadable"),
        (csv(35, **{"2026-01-06": "06.01.2026"}), "table_unreadable"),
        (csv(35, **{",21": ",many"}), "table_unreadable"),
        ("", "table_unreadable"),
        ("\x89PNG\r\n\x1a\n\0\xff", "table_unreadable"),
        (csv(27), "history_too_short"),
        (csv(0), "history_too_short"),
    ],
)
def test_what_cannot_become_a_model_is_refused_with_a_cure(
    tmp_path: Path, text: str, code: str
) -> None:
    with pytest.raises(RefusedDataError) as refused:
        prepared(tmp_path / "data", text)
    assert refused.value.code == code
    assert refused.value.cure.split()[0] in ("Write", "Upload")
    assert "many" not in str(refused.value)
    assert list((tmp_path / "data").iterdir()) == []


def test_values_that_never_vary_give_no_model(tmp_path: Path) -> None:
    text = "date,value\n" + "".join(f"{MONDAY + timedelta(day)},5\n" for day in range(35))
    result = trained(tmp_path, text)
    assert isinstance(result, Refused)
    assert "Upload a history that varies" in result.reason


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", None),
        (b"[" * 100_000, None),
        (b"[7]", None),
        (b'{"days": 7, "weeks": 1}', None),
        (b"{}", "days"),
        (b'{"days": true}', "days"),
        (b'{"days": 0}', "days"),
        (b'{"days": 367}', "days"),
        (b'{"days": 7, "start": "soon"}', "start"),
        (b'{"days": 7, "start": 2026}', "start"),
        (b'{"days": 7, "start": "9999-12-31"}', "start"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(body: bytes, field: str | None) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        ProfilePredictor().predict([1.0] * 7, body, "application/json", "")
    assert refused.value.field == field


@pytest.mark.parametrize(
    "content", [None, "", "{}", "7", "[1, 2]", '[1, 2, 3, 4, 5, 6, "x"]', "[1, 2, 3, 4, 5, 6, NaN]"]
)
def test_files_that_are_no_model_are_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "profile.json").write_text(content)
    with pytest.raises(InvalidModelError, match=r"profile\.json"):
        ProfilePredictor().load(tmp_path)


def test_days_that_came_after_a_model_tell_what_it_was_worth(tmp_path: Path) -> None:
    result = trained(tmp_path, csv(35))
    assert isinstance(result, Trained)
    model = ProfilePredictor().load(result.folder)
    prepared(tmp_path / "fresh", csv(42))
    question = drift.question(tmp_path / "fresh", result.card)
    assert question == {"start": "2026-02-09", "days": 7}
    found = drift.score(asked(model, **question), tmp_path / "fresh")
    assert found is not None
    # The sixth week has 5 more than the first, the model 2 more; the mean before it is 42.
    assert found["metrics"] == {"mae": 3.0, "baseline_mae": round(123 / 7, 4)}
    prepared(tmp_path / "early", csv(41))
    assert drift.question(tmp_path / "early", result.card) is None
    of_the_first_day = {"timestamps": [str(MONDAY)], "mean": [1.0]}
    assert drift.score(of_the_first_day, tmp_path / "fresh") is None, "nothing lies before it"
