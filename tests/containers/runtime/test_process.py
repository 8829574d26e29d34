"""A container's `process`, started as a processing job starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from containers.example import drift
from containers.example.predictor import MODEL, ProfilePredictor
from containers.example.preparation import prepare
from containers.runtime.archives.archive import write_archive
from contracts.evaluations import DATA, EVALUATION, EVALUATION_FILE, MODEL_FILE, SCORE_FILE
from contracts.evaluations import MODEL as MODEL_FOLDER
from contracts.variables import PROCESS
from tests.conftest import ROOT

CARD = {"end": "2026-01-28"}
MEANS = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The inputs of an evaluation: six weeks of days, of which the model's own end after four."""
    inputs = tmp_path / "processing" / "input"
    for name in (DATA, MODEL_FOLDER, EVALUATION):
        (inputs / name).mkdir(parents=True)
    (tmp_path / "output").mkdir()
    raw = tmp_path / "days.csv"
    days = [(date, number % 7 + 1.5) for number, date in enumerate(_days())]
    raw.write_text("\n".join(["date,value", *(f"{day},{value}" for day, value in days), ""]))
    prepare([raw], inputs / DATA, {})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / MODEL).write_text(json.dumps(MEANS))
    write_archive(tmp_path / "model", inputs / MODEL_FOLDER / MODEL_FILE)
    instruct(tmp_path, {"format": 1, "module": "containers.example.drift", "card": CARD})
    return tmp_path


def _days() -> list[str]:
    import pandas as pd

    return [str(day.date()) for day in pd.date_range("2026-01-01", periods=42)]


def instruct(base: Path, document: Mapping[str, Any]) -> None:
    path = base / "processing" / "input" / EVALUATION / EVALUATION_FILE
    path.write_text(json.dumps(document))


def run(base: Path, wanted: str | None = "evaluate", container: str = "example") -> tuple[int, str]:
    """The exit status, and the message that becomes the job's ExitMessage."""
    told = {} if wanted is None else {PROCESS: wanted}
    done = subprocess.run(
        [sys.executable, str(ROOT / "containers" / container / "process")],
        env={**os.environ, **told, "SAGEMAKER_BASE_DIR": str(base)},
        capture_output=True,
        text=True,
        check=False,
    )
    message = base / "output" / "message"
    return done.returncode, message.read_text() if message.exists() else ""


def test_a_model_is_asked_about_the_newer_data_and_its_answer_scored(base: Path) -> None:
    assert run(base) == (0, "")
    found = json.loads((base / "processing" / "output" / SCORE_FILE).read_bytes())
    data = base / "processing" / "input" / DATA
    question = drift.question(data, CARD)
    answer = ProfilePredictor().predict(MEANS, json.dumps(question).encode(), "", "")
    assert found == {"format": 1, "score": drift.score(json.loads(answer.body), data)}
    assert found["score"]["facts"] == {"fresh_days": 14}


def test_too_few_newer_data_have_no_score(base: Path) -> None:
    card = {"end": "2026-02-10"}
    instruct(base, {"format": 1, "module": "containers.example.drift", "card": card})
    assert run(base) == (0, "")
    found = json.loads((base / "processing" / "output" / SCORE_FILE).read_bytes())
    assert found == {"format": 1, "score": None}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"format": 2}, "evaluation.json: 'format' must be 1"),
        ({"format": 1, "module": "os", "card": CARD}, "evaluation.json: 'module' must match"),
        ({"format": 1, "module": "containers.no.such"}, "ModuleNotFoundError"),
        ({"format": 1, "module": "containers.example.drift", "card": {}}, "KeyError"),
    ],
)
def test_instructions_that_cannot_be_followed_fail_the_job_with_the_reason(
    base: Path, document: dict[str, Any], said: str
) -> None:
    instruct(base, document)
    status, message = run(base)
    assert status == 1
    assert message.startswith(said)


def test_an_archive_that_is_no_model_fails_the_job_with_the_reason(base: Path) -> None:
    archive = base / "processing" / "input" / MODEL_FOLDER / MODEL_FILE
    (base / "model" / MODEL).write_text("[1]")
    write_archive(base / "model", archive)
    assert run(base) == (1, "profile.json does not hold seven numbers")
    archive.write_bytes(b"no archive")
    status, message = run(base)
    assert status == 1
    assert message.startswith("model.tar.gz is not a whole gzipped tar archive")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (None, "this container splits no files"),
        ("split", "this container splits no files"),
        ("dance", "TENANTRY_PROCESS is 'dance'; it must be evaluate or split"),
    ],
)
def test_a_job_for_something_else_is_refused(base: Path, wanted: str | None, said: str) -> None:
    assert run(base, wanted) == (1, said)


def test_a_file_that_cannot_be_split_fails_the_job_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "processing" / "input").mkdir(parents=True)
    (tmp_path / "processing" / "input" / "raw.csv").write_text("customer_id,timestamp\n1,2\n")
    status, message = run(tmp_path, "split", "forecast")
    assert status == 1
    assert "no column consumption" in message


@pytest.mark.parametrize("container", ["example", "forecast", "tabular"])
def test_each_container_with_a_drift_module_can_process(container: str) -> None:
    assert (ROOT / "containers" / container / "drift.py").exists() or container == "forecast"
    assert os.access(ROOT / "containers" / container / "process", os.X_OK)
