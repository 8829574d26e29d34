"""The benchmark of batch, in short: churn beside plain XGBoost, and dynamic batching."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import batch

SHORT = ["--churn-rows", "8000", "--trees", "10", "--rounds", "1", "--seconds", "0.2"]


def told(capsys: pytest.CaptureFixture[str], part: str) -> dict[str, Any]:
    assert batch.main(["--only", part, *SHORT]) == 0
    figures: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return figures


def test_requests_share_calls_only_with_dynamic_batching(
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = told(capsys, "batching")
    assert figures["batching_mean_batch"] > 1
    assert [figures["dynamic_batching_gain"]] == figures["dynamic_batching_gains"]
    assert min(figures["batching_on_requests_per_s"], figures["batching_off_requests_per_s"]) > 0


@pytest.mark.slow
def test_both_ways_learn_from_all_rows_and_score_alike(capsys: pytest.CaptureFixture[str]) -> None:
    """The benchmark itself refuses if the scores differ."""
    figures = told(capsys, "churn")
    assert 6000 < figures["churn_rows"] < figures["scored_rows"] < 10_000
    assert min(figures["churn_rows_per_s"], figures["churn_plain_rows_per_s"]) > 0
    assert figures["churn_rows_per_s_over_plain"] > 0
    assert figures["churn_peak_memory_mb"] > 50


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        (["--churn-rows", "100"], "--churn-rows must be at least 8000"),
        (["--rounds", "0"], "and --rounds must be at least 1"),
        (["--only", "other"], "invalid choice"),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    capsys: pytest.CaptureFixture[str], argument: list[str], said: str
) -> None:
    with pytest.raises(SystemExit):
        batch.main(argument)
    assert said in " ".join(capsys.readouterr().err.split())
