"""The hyperparameters of a training job of trees. SageMaker passes strings; this module parses them
once."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from containers.runtime.errors import ContainerError

RUNTIME: Final = ("batch_size",)
"""Hyperparameters that the training loop reads itself."""

LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "rounds": (1, 5000),
    "patience": (1, 1000),
    "learning_rate": (0.001, 1.0),
    "max_depth": (1, 12),
    "min_child_weight": (0.0, 1e6),
    "reg_lambda": (0.0, 1e6),
    "max_bin": (2, 256),
    "held_out": (0.05, 0.5),
    "most_rows": (1000, 10**9),
    "seed": (0, 2**31 - 1),
    "threads": (0, 1024),
}
"""The least and the greatest value of each hyperparameter."""


class InvalidHyperparameterError(ContainerError, ValueError):
    """A hyperparameter is unknown or malformed; the message names it and says what it may be."""


@dataclass(frozen=True)
class Settings:
    """How trees are grown. The names are XGBoost's
    (https://xgboost.readthedocs.io/en/stable/parameter.html), except for these:

    - `rounds`: most trees; a model keeps the trees up to its best score on the held-out rows.
    - `patience`: rounds without a better score, after which no more are tried.
    - `held_out`: the share of customers that models are scored on.
    - `most_rows`: where there are more rows, a part of the customers is left out, so that memory
      has a bound: some 100 bytes a row.
    - `threads`: 0 means as many as this process may use.
    """

    rounds: int = 1000
    patience: int = 30
    learning_rate: float = 0.1
    max_depth: int = 5
    min_child_weight: float = 10.0
    reg_lambda: float = 1.0
    max_bin: int = 256
    held_out: float = 0.2
    most_rows: int = 10_000_000
    seed: int = 0
    threads: int = 0

    def parameters(self) -> dict[str, object]:
        """What XGBoost is told."""
        return {
            "objective": "binary:logistic",
            "eval_metric": "logloss",
            "tree_method": "hist",
            "learning_rate": self.learning_rate,
            "max_depth": self.max_depth,
            "min_child_weight": self.min_child_weight,
            "reg_lambda": self.reg_lambda,
            "max_bin": self.max_bin,
            "seed": self.seed,
            "nthread": self.workers(),
            "verbosity": 0,
        }

    def workers(self) -> int:
        """The number of threads."""
        return self.threads or len(os.sched_getaffinity(0))


def parse_settings(hyperparameters: Mapping[str, str]) -> Settings:
    """Parse hyperparameters; raises `InvalidHyperparameterError` for one that is unknown or
    malformed."""
    kinds = {field.name: field.type for field in fields(Settings)}
    said: dict[str, int | float] = {}
    for name, text in hyperparameters.items():
        if name in RUNTIME or name.startswith("sagemaker_"):
            continue
        if name not in kinds:
            raise InvalidHyperparameterError(
                f"hyperparameter {name!r} is unknown; there are {', '.join([*kinds, *RUNTIME])}"
            )
        least, most = LIMITS[name]
        whole = kinds[name] is int
        try:
            value: int | float = int(text) if whole else float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise InvalidHyperparameterError(
                f"hyperparameter {name!r} is {text[:60]!r}; it must be a "
                f"{'whole number' if whole else 'number'} from {least:g} to {most:g}"
            )
        said[name] = value
    return Settings(**said)  # type: ignore[arg-type]
