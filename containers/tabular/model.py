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
MOST_CATEGORIES: Final = 1 << 16
"""Of a column. XGBoost keeps a bit for each number up to the greatest."""

_OF_NODES: Final = (
    "base_weights",
    "default_left",
    "left_children",
    "loss_changes",
    "parents",
    "right_children",
    "split_conditions",
    "split_indices",
    "split_type",
    "sum_hessian",
)
_LEAF: Final = -1


@dataclass(frozen=True)
class Model:
    """A loaded model. `bytes` is what it holds in memory: measured, as many as
    its file has."""

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
    kinds = ["c" if column.kind == "category" else "q" for column in columns]
    names = [column.name for column in columns]
    booster, parameters = learner["gradient_booster"], learner["learner_model_param"]
    model = booster["model"]
    trees = model["trees"]
    told = {
        "objective": (learner["objective"]["name"], "binary:logistic"),
        "booster": (booster["name"], "gbtree"),
        "names": (learner["feature_names"], names),
        "kinds": (learner["feature_types"], kinds),
        "features": (int(parameters["num_feature"]), len(columns)),
        "classes": (int(parameters["num_class"]), 0),
        "targets": (int(parameters["num_target"]), 1),
        "trees": (int(model["gbtree_model_param"]["num_trees"]), len(trees)),
        "trees a round": (int(model["gbtree_model_param"]["num_parallel_tree"]), 1),
        "rounds": (model["iteration_indptr"], list(range(len(trees) + 1))),
        "groups": (model["tree_info"], [0] * len(trees)),
        "category values": (model["cats"]["enc"], []),
    }
    wrong = [name for name, (found, expected) in told.items() if found != expected]
    if wrong:
        raise ValueError(f"the {wrong[0]} are others")
    for tree in trees:
        _check_tree(tree, kinds)


def _check_tree(tree: Any, kinds: Sequence[str]) -> None:
    """Raises `ValueError` unless the nodes are a tree, and each splits by a column there is."""
    nodes = int(tree["tree_param"]["num_nodes"])
    if nodes < 1 or any(len(tree[name]) != nodes for name in _OF_NODES):
        raise ValueError("the nodes are not of one number")
    if int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise ValueError("a leaf holds several values")
    by_category = tree["categories_nodes"]
    waiting, reached = [0], set()
    while waiting:
        node = waiting.pop()
        if node in reached:
            raise ValueError("the nodes are no tree")
        reached.add(node)
        left, right = tree["left_children"][node], tree["right_children"][node]
        if left == right == _LEAF:
            continue
        column = tree["split_indices"][node]
        if not (0 < left < nodes and 0 < right < nodes and 0 <= column < len(kinds)):
            raise ValueError("a node's child or column is not there")
        if (tree["split_type"][node] == 1) != (kinds[column] == "c"):
            raise ValueError("a node splits a column of another kind")
        waiting += (left, right)
    if {node for node in reached if tree["split_type"][node] == 1} - {*by_category}:
        raise ValueError("a node has no categories")
    starts, sizes = tree["categories_segments"], tree["categories_sizes"]
    if not len(starts) == len(sizes) == len(by_category) or sorted({*by_category}) != by_category:
        raise ValueError("the categories are not of one number")
    every = len(tree["categories"])
    if any(
        start < 0 or size < 1 or start + size > every
        for start, size in zip(starts, sizes, strict=True)
    ):
        raise ValueError("a node's categories are not there")
    if any(not 0 <= code < MOST_CATEGORIES for code in tree["categories"]):
        raise ValueError("a category has no such number")
