"""A model's files: XGBoost's own JSON, and the columns that the model was made of.

JSON rather than UBJSON: the standard library reads it, so that a file is checked before XGBoost
follows its numbers without a check. Neither is a pickle.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from containers.runtime.serving.predictor import InvalidModelError
from containers.tabular.table import Column, column_of

if TYPE_CHECKING:
    import xgboost

TREES: Final = "trees.json"
COLUMNS: Final = "columns.json"
LARGEST_TREES: Final = 64 << 20
"""Bytes: 5,000 trees of 120 nodes each."""
LARGEST_COLUMNS: Final = 256 << 10
MOST_COLUMNS: Final = 1000

_OF_NODES: Final = (
    "left_children",
    "right_children",
    "split_indices",
    "split_conditions",
    "split_type",
    "default_left",
    "base_weights",
)
_LEAF: Final = -1


@dataclass(frozen=True)
class Model:
    """A loaded model. `bytes` is what it holds in memory, at most."""

    booster: "xgboost.Booster"
    columns: Sequence[Column]
    bytes: int


def write_model(folder: Path, booster: "xgboost.Booster", columns: Sequence[Column]) -> None:
    """Write a model into `folder`."""
    (folder / TREES).write_bytes(booster.save_raw("json"))
    (folder / COLUMNS).write_text(json.dumps([column.to_json() for column in columns]))


def read_model(folder: Path) -> Model:
    """Read and check a model. Raises `InvalidModelError` for anything that training does not
    write."""
    import xgboost

    columns = _columns(_read(folder / COLUMNS, LARGEST_COLUMNS))
    content = _read(folder / TREES, LARGEST_TREES)
    try:
        _check(json.loads(content)["learner"], columns)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise InvalidModelError(f"{TREES} is not a model of these columns") from error
    # A server answers many requests at once, each in a thread of its own.
    booster = xgboost.Booster({"nthread": 1, "verbosity": 0})
    try:
        booster.load_model(bytearray(content))
    except xgboost.core.XGBoostError as error:
        raise InvalidModelError(f"XGBoost cannot read {TREES}") from error
    return Model(booster, columns, len(content))


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise InvalidModelError(f"{path.name} cannot be read") from error
    if len(content) > most:
        raise InvalidModelError(f"{path.name} is larger than {most} bytes")
    return content


def _columns(content: bytes) -> tuple[Column, ...]:
    try:
        said = json.loads(content)
        columns = tuple(map(column_of, said))
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidModelError(f"{COLUMNS} does not describe columns") from error
    if not columns or len(columns) > MOST_COLUMNS:
        raise InvalidModelError(f"{COLUMNS} does not describe 1 to {MOST_COLUMNS} columns")
    if len({column.name for column in columns}) < len(columns):
        raise InvalidModelError(f"{COLUMNS} names a column twice")
    return columns


def _check(learner: Any, columns: Sequence[Column]) -> None:
    """Raises `ValueError`, or what Python raises for a missing or malformed part."""
    if learner["feature_names"] != [column.name for column in columns]:
        raise ValueError("the features are others")
    if learner["objective"]["name"] != "binary:logistic":
        raise ValueError("the objective is another")
    booster = learner["gradient_booster"]
    if booster["name"] != "gbtree" or int(learner["learner_model_param"]["num_feature"]) != len(
        columns
    ):
        raise ValueError("the trees are of another kind")
    for tree in booster["model"]["trees"]:
        _check_tree(tree, columns)


def _check_tree(tree: Any, columns: Sequence[Column]) -> None:
    """Raises `ValueError` unless the nodes are a tree, and each splits by a column there is."""
    nodes = int(tree["tree_param"]["num_nodes"])
    if nodes < 1 or any(len(tree[name]) != nodes for name in _OF_NODES):
        raise ValueError("the nodes are not of one number")
    lefts, rights = tree["left_children"], tree["right_children"]
    categorical = set(tree["categories_nodes"])
    waiting, seen = [0], 0
    while waiting:
        node = waiting.pop()
        seen += 1
        if seen > nodes:
            raise ValueError("the nodes are no tree")
        left, right = lefts[node], rights[node]
        if left == right == _LEAF:
            continue
        if not (0 < left < nodes and 0 < right < nodes and left != right):
            raise ValueError("a node's child is not there")
        column = columns[tree["split_indices"][node]]
        if tree["split_indices"][node] < 0 or (node in categorical) != (column.kind == "category"):
            raise ValueError("a node splits a column of another kind")
        waiting += (left, right)
    starts, sizes = tree["categories_segments"], tree["categories_sizes"]
    if len(starts) != len(sizes) or len(starts) != len(tree["categories_nodes"]):
        raise ValueError("the categories are not of one number")
    if any(
        not 0 <= start <= start + size <= len(tree["categories"])
        for start, size in zip(starts, sizes, strict=True)
    ) or any(not 0 <= one < 1 << 16 for one in tree["categories"]):
        raise ValueError("a node's categories are not there")
