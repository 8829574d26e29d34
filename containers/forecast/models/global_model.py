"""One gradient-boosted quantile model of all pool tenants of a batch, only for pool tenants.

It learns patterns that no single series shows often enough. This is the agreement of the pool tier:
each tenant's model uses other tenants' data as well. Bridge and silo tenants never take part.

It is fitted twice: on the weeks before every customer's backtest, for choice and calibration, and
on all weeks, for the served forecasts. A fixed number of sampled rows keeps its cost independent of
the number of customers.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from containers.forecast.consumption.series import Floats, Weeks
from containers.forecast.models.backtest import BACKTEST_WEEKS
from containers.forecast.models.candidates import carried_forward
from containers.forecast.models.features import FADING, NAMES, features
from containers.forecast.models.holiday_calendar import is_holiday

if TYPE_CHECKING:
    import lightgbm

ROWS: Final = 100_000
"""Rows that each model is fitted on, from all customers together."""

TREES: Final = 100
LONGEST: Final = 60
"""Weeks of each customer's history that rows are taken from."""

WARM_UP: Final = 4
LARGEST_RATIO: Final = 20.0
"""The cap of targets, which are consumption divided by the customer's own level."""

_LEVEL: Final = NAMES.index("level_of_median_8")

_PARAMETERS: Final[dict[str, Any]] = {
    "num_leaves": 31,
    "learning_rate": 0.1,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.5,
    "bagging_freq": 1,
    "max_bin": 127,
    "verbose": -1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
}


class GlobalModel:
    """The model of one batch of pool tenants."""

    def __init__(self, members: Sequence[Weeks], levels: Sequence[float], seed: int) -> None:
        """Fit on `members`, all of one frequency; `seed` decides which rows are sampled."""
        self._levels = tuple(levels)
        self._late = self._fitted(members, 0, seed)
        self._early = self._fitted(members, BACKTEST_WEEKS + 1, seed)

    def candidate(self, weeks: Weeks) -> "GlobalCandidate":
        """The model as a candidate for one of its members, whose whole series is `weeks`."""
        return GlobalCandidate(self, weeks.end)

    def boosters(self, *, late: bool) -> "Sequence[lightgbm.Booster]":
        """The boosters of the mean and of each level; the late ones have seen all weeks."""
        return self._late if late else self._early

    def _fitted(
        self, members: Sequence[Weeks], left_out: int, seed: int
    ) -> "Sequence[lightgbm.Booster]":
        import lightgbm

        random = np.random.default_rng(seed)
        share = ROWS // len(members) + 1
        rows: list[Floats] = []
        targets: list[Floats] = []
        for weeks in members:
            values = weeks.values
            filled = carried_forward(values)
            inputs = features(filled, weeks)
            stop = len(values) - left_out
            first = int(np.argmax(np.isfinite(values).any(axis=1)))
            # If a history is too short to leave out its backtest, leave out all of it.
            start = max(first + WARM_UP, stop - LONGEST)
            known = (
                np.argwhere(np.isfinite(values[start:stop]))
                if stop > start
                else np.empty((0, 2), dtype=np.int64)
            )
            if len(known) == 0:
                continue
            chosen = known[random.choice(len(known), min(share, len(known)), replace=False)]
            origin, point = chosen[:, 0] + start, chosen[:, 1]
            seen = inputs[origin - 1, point]
            level = _level(seen)
            rows.append(np.column_stack([seen / level[:, None], _calendar(weeks, origin, point)]))
            targets.append(np.minimum(values[origin, point] / level, LARGEST_RATIO))
        if not rows:
            return ()
        table, truth = np.concatenate(rows).astype(np.float32), np.concatenate(targets)

        def fitted(level_of: float | None) -> "lightgbm.Booster":
            objective: dict[str, Any] = (
                {"objective": "regression"}
                if level_of is None
                else {"objective": "quantile", "alpha": level_of}
            )
            parameters = {**_PARAMETERS, **objective, "seed": seed}
            return lightgbm.train(parameters, lightgbm.Dataset(table, truth), TREES)

        # Run the fits in parallel with one thread each, because threads within a fit busy-wait for
        # each other on shared cores.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as executor:
            return list(executor.map(fitted, (None, *self._levels)))


class GlobalCandidate:
    """The global model, for one member."""

    name = "global_lightgbm"

    def __init__(self, model: GlobalModel, end: int) -> None:
        self._model = model
        self._end = end
        # Without early boosters, no member's history is long enough for a backtest.
        self.shortest = WARM_UP + 4 if model.boosters(late=False) else 1 << 30

    def forecast(
        self, weeks: Weeks, origins: Sequence[int], ahead: int, levels: Sequence[float]
    ) -> Floats:
        """Mean and quantiles, from the boosters that have seen no week from the first origin on."""
        end_of_fit = weeks.end - (len(weeks.values) - origins[0]) * weeks.season
        boosters = self._model.boosters(late=end_of_fit >= self._end)
        seen = features(carried_forward(weeks.values), weeks)[np.asarray(origins) - 1]
        points = np.arange(weeks.season)
        result = np.empty((len(origins), ahead, weeks.season, 1 + len(levels)))
        for week in range(min(ahead, 2)):
            if week == 1:
                seen[..., FADING] = 0.0
            rows = seen.reshape(-1, len(NAMES))
            level = _level(rows)
            origin = np.repeat(np.asarray(origins) + week, weeks.season)
            calendar = _calendar(weeks, origin, np.tile(points, len(origins)))
            table = np.column_stack([rows / level[:, None], calendar]).astype(np.float32)
            for column, booster in enumerate(boosters):
                told = np.asarray(booster.predict(table, num_threads=1)) * level
                result[:, week, :, column] = told.reshape(len(origins), weeks.season)
        result[:, 2:] = result[:, 1:2]
        return result


def _level(seen: Floats) -> Floats:
    """The customer's level in kWh, by which a row's inputs and target are divided."""
    level: Floats = np.maximum(seen[..., _LEVEL], np.maximum(0.01 * seen.max(axis=-1), 1e-6))
    return level


def _calendar(
    weeks: Weeks, origin: "np.typing.NDArray[np.int64]", point: "np.typing.NDArray[np.int64]"
) -> Floats:
    """Hour, weekday, day of the year, day ahead and public holiday of points of weeks, on the local
    clock."""
    local = weeks.end + (origin - len(weeks.values)) * weeks.season + point
    day = local // weeks.per_day
    return np.column_stack(
        [
            local % weeks.per_day,
            (day + 3) % 7,
            day % 365.2425,
            point // weeks.per_day,
            is_holiday(weeks.country, day),
        ]
    )
