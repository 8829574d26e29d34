"""How well the drift check distinguishes change from chance: `python -m benchmarks.drift --data
FILE [--customers N]`.

For each customer it trains a model on 17 weeks, in the real way. It then compares the model with
the following week, unchanged and with its consumption multiplied. The report gives two shares of
customers:

- those for whom the check warns, at several tolerances;
- those whose challenger, trained with that week, takes over. The challenger is compared with the
  champion's score on the same week, and with the champion's score at its own training.

The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from containers.forecast.consumption.preparation import RefusedDataError, prepare
from containers.forecast.consumption.split import split
from containers.forecast.serving import drift
from containers.forecast.serving.predictor import ForecastPredictor
from containers.forecast.training.trainer import ForecastTrainer
from containers.runtime.training.packed_training import Task, Trained
from tenantry.workloads.schema import read_workloads
from tenantry.workloads.sections import Quality

WEEKS: Final = 17
LEVELS: Final = (1.0, 1.3, 1.5, 2.0)
TOLERANCES: Final = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Watched:
    """A customer's champion and challenger: the champion's score at training, its score on the
    fresh week, and the challenger's score."""

    promised: Mapping[str, float]
    found: Mapping[str, float]
    challenger: Mapping[str, float]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="customer_id, timestamp, consumption; CSV or Parquet",
    )
    parser.add_argument("--customers", type=int, default=100, help="so many, evenly picked")
    options = parser.parse_args()
    energy = read_workloads()["energy"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        names = split(options.data, folder / "raw")
        picked = names[:: max(1, len(names) // options.customers)][: options.customers]
        figures: dict[str, dict[str, float]] = {}
        for level in LEVELS:
            watched = [
                one
                for name in picked
                if (one := _watch(folder / "raw" / name / "data.csv", level, folder)) is not None
            ]
            figures[f"{level:g}"] = _told(watched, energy.quality)
            print(f"consumption × {level:g}:", figures[f"{level:g}"], flush=True)
    print(json.dumps({"customers": len(picked), "levels": figures}))
    return 0


def _watch(file: Path, level: float, folder: Path) -> Watched | None:
    """One customer at one level; None if these weeks allow no model."""
    rows = pd.read_csv(file)
    times = pd.to_datetime(rows["timestamp"], utc=True)
    end = times.max().floor("D")
    cut = end - pd.Timedelta(days=7)
    within = (times >= cut - pd.Timedelta(weeks=WEEKS)) & (times < end)
    rows, times = rows[within].reset_index(drop=True), times[within].reset_index(drop=True)
    rows.loc[times >= cut, "consumption"] *= level
    try:
        champion = _trained(rows[times < cut], folder)
        challenger = _trained(rows, folder)
    except RefusedDataError:
        return None
    if champion is None or challenger is None:
        return None
    fresh = challenger.task.data
    asked = drift.question(fresh, champion.card)
    if asked is None:
        return None
    (champion.folder / "card.json").write_text(json.dumps({"version": "v1"}))
    predictor = ForecastPredictor()
    said = predictor.predict(
        predictor.load(champion.folder), json.dumps(asked).encode(), "application/json", "*/*"
    )
    scored = drift.score(json.loads(said.body), fresh)
    return None if scored is None else Watched(champion.metrics, scored.metrics, challenger.metrics)


def _trained(rows: pd.DataFrame, folder: Path) -> Trained | None:
    scratch = Path(tempfile.mkdtemp(dir=folder))
    rows[["timestamp", "consumption"]].to_csv(scratch / "raw.csv", index=False)
    parameters = {"timezone": "Europe/London", "country": "GB"}
    prepare([scratch / "raw.csv"], scratch / "prepared", parameters)
    task = Task("0" * 32, "tenant", "v1", "bridge", scratch / "prepared", parameters)
    (outcome,) = ForecastTrainer().train([task], {}, scratch)
    return outcome if isinstance(outcome, Trained) else None


def _told(watched: Sequence[Watched], quality: Quality) -> dict[str, float]:
    def share(chosen: Sequence[bool]) -> float:
        return round(sum(chosen) / max(1, len(chosen)), 3)

    def follows(challenger: Mapping[str, float], champion: Mapping[str, float]) -> bool:
        one, other = quality.skill(challenger), quality.skill(champion)
        return one is None or other is None or not quality.is_worse(one, other, quality.tolerance)

    metric = quality.metric
    warned = {
        f"warned_at_{tolerance:g}": share(
            [
                quality.is_worse(one.found[metric], one.promised[metric], tolerance)
                for one in watched
            ]
        )
        for tolerance in TOLERANCES
    }
    return {
        "customers": len(watched),
        **warned,
        "follows_by_the_same_data": share([follows(one.challenger, one.found) for one in watched]),
        "follows_by_what_was_promised": share(
            [follows(one.challenger, one.promised) for one in watched]
        ),
    }


if __name__ == "__main__":
    sys.exit(main())
