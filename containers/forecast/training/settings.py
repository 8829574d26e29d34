"""The hyperparameters of a forecast training job. SageMaker passes strings; this module parses them
once."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast

from containers.runtime.errors import ContainerError

Tier = Literal["silo", "bridge", "pool"]

OWN_DATA: Final = ("ridge", "weekly_median", "seasonal_naive", "prophet")
"""Candidates fitted on one customer's data alone."""

GLOBAL: Final = "global_lightgbm"
"""The candidate only for pool tenants, fitted on all their data together."""

DEFAULT_OWN: Final = ("ridge", "weekly_median", "seasonal_naive")
DEFAULT_POOL: Final = (GLOBAL, *DEFAULT_OWN)
"""The default candidates. The first is the champion unless another is clearly better in the
backtest."""

DEFAULT_HORIZON_DAYS: Final = {"h": 14, "D": 28}
LARGEST_HORIZON_DAYS: Final = {"h": 14, "D": 28}

KNOWN: Final = ("frequency", "candidates", "quantiles", "horizon_days", "prophet", "seed")
RUNTIME: Final = ("batch_size",)
"""Hyperparameters that the training loop reads itself."""


class InvalidHyperparameterError(ContainerError, ValueError):
    """A hyperparameter is unknown or malformed; the message names it and says what it may be."""


@dataclass(frozen=True)
class Settings:
    """How models are made.

    - `frequency`: `auto` takes that of the data; `D` sums an hourly series to days.
    - `candidates`: names to choose among; None means the tier's defaults. Only tenants of tier pool
      use `global_lightgbm`; other tenants choose among the rest.
    - `quantiles`: levels that a model forecasts, ascending, including 0.1, 0.5 and 0.9.
    - `horizon_days`: days from the start to the end of one forecast; None means 14 hourly and 28
      daily.
    - `prophet`: how the candidate `prophet` is fitted: all customers at once in numpy, or one by
      one by the library.
    """

    frequency: Literal["auto", "h", "D"] = "auto"
    candidates: tuple[str, ...] | None = None
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    horizon_days: int | None = None
    prophet: Literal["batched", "stock"] = "batched"
    seed: int = 0


def parse_settings(
    hyperparameters: Mapping[str, str], available: tuple[str, ...] = (*OWN_DATA, GLOBAL)
) -> Settings:
    """Parse hyperparameters; raises `InvalidHyperparameterError` for one that is unknown or
    malformed."""
    for name in hyperparameters:
        if name not in KNOWN and name not in RUNTIME and not name.startswith("sagemaker_"):
            raise InvalidHyperparameterError(
                f"hyperparameter {name!r} is unknown; there are {', '.join(KNOWN + RUNTIME)}"
            )
    frequency = _one_of(hyperparameters, "frequency", ("auto", "h", "D"))
    prophet = _one_of(hyperparameters, "prophet", ("batched", "stock"))
    return Settings(
        frequency=cast(Literal["auto", "h", "D"], frequency),
        candidates=_candidates(hyperparameters.get("candidates", "default"), available),
        quantiles=_quantiles(hyperparameters.get("quantiles", "[0.1, 0.5, 0.9]")),
        horizon_days=_whole(hyperparameters, "horizon_days", 1, max(LARGEST_HORIZON_DAYS.values())),
        prophet=cast(Literal["batched", "stock"], prophet),
        seed=_whole(hyperparameters, "seed", 0, 2**31 - 1) or 0,
    )


def _one_of(hyperparameters: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    value = hyperparameters.get(name, allowed[0])
    if value not in allowed:
        raise InvalidHyperparameterError(
            f"hyperparameter {name!r} is {value[:60]!r}; it must be one of {', '.join(allowed)}"
        )
    return value


def _whole(hyperparameters: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    value = hyperparameters.get(name)
    if value is None:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", value) or not least <= int(value) <= most:
        raise InvalidHyperparameterError(
            f"hyperparameter {name!r} is {value[:60]!r}; it must be a whole number from {least} to "
            f"{most}"
        )
    return int(value)


def _candidates(text: str, available: tuple[str, ...]) -> tuple[str, ...] | None:
    if text == "default":
        return None
    names = _json_list("candidates", text)
    if not names or not all(isinstance(name, str) and name in available for name in names):
        raise InvalidHyperparameterError(
            f"hyperparameter 'candidates' is {text[:60]!r}; it must be 'default' or a JSON list of "
            f"some of "
            f"{', '.join(available)}"
        )
    return tuple(dict.fromkeys(cast(list[str], names)))


def _quantiles(text: str) -> tuple[float, ...]:
    levels = _json_list("quantiles", text)
    usable = all(
        type(level) in (int, float) and math.isfinite(cast(float, level)) for level in levels
    )
    if (
        not usable
        or not all(0.0 < cast(float, level) < 1.0 for level in levels)
        or len(levels) > 19
    ):
        raise InvalidHyperparameterError(
            f"hyperparameter 'quantiles' is {text[:60]!r}; it must be a JSON list of at most 19 "
            f"levels between 0 and 1"
        )
    # Every model is scored at these three levels, so that models stay comparable.
    return tuple(sorted({*(round(cast(float, level), 6) for level in levels), 0.1, 0.5, 0.9}))


def _json_list(name: str, text: str) -> list[object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise InvalidHyperparameterError(
            f"hyperparameter {name!r} is {text[:60]!r}; it must be a JSON list"
        )
    return value
