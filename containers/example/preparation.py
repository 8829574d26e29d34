"""Turns a tenant's files into one table of days, which training and drift read."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from contracts.refused_data import RefusedDataError

TABLE: Final = "days.csv"
FEWEST_DAYS: Final = 28
"""Three weeks to learn from, and one that the model is scored on."""
LARGEST: Final = 1e12
"""A value this large or larger counts as missing."""


def prepare(
    files: Sequence[Path],
    destination: Path,
    parameters: Mapping[str, Any],  # noqa: ARG001 - the workload has none
) -> dict[str, Any]:
    """Write a row for each day of CSV files with the columns `date` and `value`.

    Raises `RefusedDataError` for files that cannot be read or contain too few days.
    """
    try:
        table = pd.concat([pd.read_csv(file, dtype=str)[["date", "value"]] for file in files])
        dates = pd.to_datetime(table["date"], format="%Y-%m-%d")
        values = pd.to_numeric(table["value"]).set_axis(dates)
    except (ValueError, KeyError) as error:
        raise RefusedDataError(
            "The files are not CSV with the columns date and value.",
            "files",
            "Write dates as 2026-03-31, and numbers with a decimal point.",
            code="table_unreadable",
        ) from error
    dated = values[values.index.notna()]
    usable = dated[dated.abs() < LARGEST]
    days = usable[~usable.index.duplicated(keep="last")].sort_index()
    if len(days) < FEWEST_DAYS:
        raise RefusedDataError(
            f"The files tell of {len(days)} days; at least {FEWEST_DAYS} are needed.",
            "date",
            "Upload a longer history.",
            code="history_too_short",
        )
    content = days.to_csv(header=["value"], index_label="date").encode()
    (destination / TABLE).write_bytes(content)
    return {
        "rows": len(days),
        "repairs": {"left_out": len(values) - len(usable), "repeated": len(usable) - len(days)},
        "facts": {"first": str(days.index[0].date()), "last": str(days.index[-1].date())},
        "fingerprint": hashlib.sha256(content).hexdigest(),
    }


def read_days(folder: Path) -> "pd.Series[float]":
    """The values that `prepare` wrote into a folder, in order of their days."""
    table = pd.read_csv(folder / TABLE, dtype={"value": float}, index_col="date", parse_dates=True)
    return table["value"]
