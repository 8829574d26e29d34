"""Drift: what a served model told of days that came after it, beside their values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from containers.example.predictor import LONGEST
from containers.example.preparation import read_days
from containers.example.profile import scores

FEWEST: Final = 7
"""Fresh days that a score rests on at least."""


def question(prepared: Path, card: Mapping[str, Any]) -> dict[str, Any] | None:
    """What to ask the served model about the days after its own; None where too few are there."""
    days = read_days(prepared)
    fresh = days[days.index > pd.Timestamp(card["end"])]
    if len(fresh) < FEWEST:
        return None
    first, last = fresh.index[0], fresh.index[-1]
    return {"start": str(first.date()), "days": min((last - first).days + 1, LONGEST)}


def score(answer: Mapping[str, Any], prepared: Path) -> dict[str, Any] | None:
    """What the answer to `question` was worth; None where no day lies before it."""
    days, told = (
        read_days(prepared),
        pd.Series(answer["mean"], pd.to_datetime(answer["timestamps"])),
    )
    before, truth = days[days.index < told.index[0]], days.reindex(told.index)
    if before.empty:
        return None
    facts = {"fresh_days": int(truth.count())}
    return {"metrics": scores(truth, told, before), "facts": facts, "preview": {}}
