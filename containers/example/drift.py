"""Drift: compares a served model's forecast with the values of later days."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from containers.example.predictor import LONGEST
from containers.example.preparation import read_days
from containers.example.profile import scores

FEWEST: Final = 7
"""The least number of fresh days for a score."""


def question(prepared: Path, card: Mapping[str, Any]) -> dict[str, Any] | None:
    """The request to the served model for the days after its own; None where there are too few."""
    days = read_days(prepared)
    fresh = days[days.index > pd.Timestamp(card["end"])]
    if len(fresh) < FEWEST:
        return None
    first, last = fresh.index[0], fresh.index[-1]
    return {"start": str(first.date()), "days": min((last - first).days + 1, LONGEST)}


def score(answer: Mapping[str, Any], prepared: Path) -> dict[str, Any] | None:
    """The score of the answer to `question`; None without any day before it."""
    days, told = (
        read_days(prepared),
        pd.Series(answer["mean"], pd.to_datetime(answer["timestamps"])),
    )
    before, truth = days[days.index < told.index[0]], days.reindex(told.index)
    if before.empty:
        return None
    facts = {"fresh_days": int(truth.count())}
    return {"metrics": scores(truth, told, before), "facts": facts, "preview": {}}
