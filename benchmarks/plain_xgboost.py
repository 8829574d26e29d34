"""Plain XGBoost, the measure of the churn benchmark: what one writes without this product.

    python -m benchmarks.plain_xgboost train FOLDER MODEL PARAMETERS ROUNDS
    python -m benchmarks.plain_xgboost score FOLDER MODEL SCORES

One process reads all Parquet files below a folder into memory. It trains on four fifths of the
rows, and follows the loss of the rest. Or it writes the probability of each row, as a NumPy file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import xgboost
from numpy.typing import NDArray
from pyarrow import compute, parquet

TARGET: Final = "churned"
SPLIT: Final = "split"
CATEGORIES: Final = {"contract": ("monthly", "annual", "multi_year")}
"""The categories of a column, in the order of their numbers."""
OTHERS: Final = ("customer", "period")
HELD_OUT: Final = 5
"""One row of so many is not learned from."""


def features_of(table: pa.Table) -> NDArray[np.float32]:
    """All features of the rows, with a category's number and NaN where missing."""
    names = [name for name in table.column_names if name not in (TARGET, SPLIT, *OTHERS)]
    features = np.empty((len(table), len(names)), np.float32)
    for place, name in enumerate(names):
        cells = table[name]
        if name in CATEGORIES:
            whole = cells.combine_chunks()
            numbers = compute.index_in(whole.dictionary, value_set=pa.array(CATEGORIES[name]))
            cells = numbers.take(whole.indices)
        elif pa.types.is_boolean(cells.type):
            cells = cells.cast(pa.uint8())
        features[:, place] = cells.cast(pa.float32()).to_numpy(zero_copy_only=False)
    return features


def read(folder: Path, *, known: bool) -> pa.Table:
    """The rows of all files, in order of their paths; with ``known``, those with a target."""
    tables = [parquet.read_table(path) for path in sorted(folder.rglob("*.parquet"))]
    table = pa.concat_tables(tables).unify_dictionaries()
    return table.filter(table[TARGET].is_valid()) if known else table


def train(folder: Path, model: Path, parameters: dict[str, Any], rounds: int) -> None:
    """Train as many rounds."""
    table = read(folder, known=True)
    held_out = table[SPLIT].to_numpy() % HELD_OUT == 0
    features, target = features_of(table), table[TARGET].cast(pa.float32()).to_numpy()
    types = ["c" if name in CATEGORIES else "q" for name in table.column_names[3:-1]]
    learned = xgboost.QuantileDMatrix(
        features[~held_out],
        target[~held_out],
        feature_types=types,
        max_bin=parameters["max_bin"],
        enable_categorical=True,
    )
    rest = xgboost.QuantileDMatrix(
        features[held_out],
        target[held_out],
        feature_types=types,
        max_bin=parameters["max_bin"],
        enable_categorical=True,
        ref=learned,
    )
    booster = xgboost.train(
        parameters, learned, rounds, evals=[(rest, "held_out")], verbose_eval=False
    )
    booster.save_model(model)


def score(folder: Path, model: Path, scores: Path) -> None:
    """Write the probabilities of all rows."""
    booster = xgboost.Booster(model_file=model)
    np.save(scores, booster.inplace_predict(features_of(read(folder, known=False))))


if __name__ == "__main__":
    command, rows, trees, *more = sys.argv[1:]
    if command == "train":
        train(Path(rows), Path(trees), json.loads(more[0]), int(more[1]))
    else:
        score(Path(rows), Path(trees), Path(more[0]))
