"""Drift: asks a served model about months that came after its own, and scores the answer.

Where one of the effects changed, the columns look as before, and only the outcomes tell.
"""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from containers.tabular import scores
from containers.tabular.preparation import ROWS_FILE, SPLIT
from containers.tabular.request import ID
from containers.tabular.table import TABLE

if TYPE_CHECKING:
    import pyarrow as pa

FEWEST: Final = 200
"""The least number of fresh rows for a score; that of fewer is mostly chance."""
MOST: Final = 5000
"""Of rows in one question: the customers with the lowest hashes, so that each has all its
months."""


def question(prepared: Path, card: Mapping[str, Any]) -> dict[str, Any] | None:
    """The request to the served model for the rows after its own; None where there are too few."""
    table = _known(prepared)
    end = date.fromisoformat(card["data"]["end"])
    fresh = [place for place, day in enumerate(table[TABLE.period].to_pylist()) if day > end]
    if len(fresh) < FEWEST:
        return None
    splits = table[SPLIT].to_numpy()
    asked = sorted(sorted(fresh, key=lambda place: (splits[place], place))[:MOST])
    rows = table.select([column.name for column in TABLE.features]).take(asked).to_pylist()
    return {"rows": [{ID: place, **row} for place, row in zip(asked, rows, strict=True)]}


def score(answer: Mapping[str, Any], prepared: Path) -> dict[str, Any] | None:
    """The scores of the answer to `question`, with training's names. The baseline is the share of
    customers who left in the months before; None without such months."""
    table = _known(prepared)
    places = np.array(answer["ids"], np.int64)
    target = table[TABLE.target].to_numpy().astype(np.float64)
    periods = table[TABLE.period].cast("int32").to_numpy()
    before = target[periods < periods[places].min()]
    if not len(before):
        return None
    truth, told = target[places], np.array(answer["scores"], np.float64)
    base = np.full(len(truth), before.mean())
    bins = scores.calibration(truth, told)
    found = {
        "logloss": scores.log_loss(truth, told),
        "baseline_logloss": scores.log_loss(truth, base),
        "auc": scores.area_under_curve(truth, told),
        "calibration_error": scores.calibration_error(bins),
    }
    return {
        "metrics": {name: round(value, 6) for name, value in found.items() if value is not None},
        "facts": {"fresh_rows": len(truth), "fresh_share": round(float(truth.mean()), 4)},
        "preview": {
            "kind": "calibration",
            "bins": [[round(told, 6), round(true, 6), count] for told, true, count in bins],
        },
    }


def _known(prepared: Path) -> "pa.Table":
    """The rows whose target is known, in the file's order."""
    from pyarrow import compute, parquet

    table = parquet.read_table(prepared / ROWS_FILE, use_threads=False)
    return table.filter(compute.is_valid(table[TABLE.target]))
