"""Training: boosted trees from the rows of one tenant, or of all tenants of a shared model.

The rows stay in their files. XGBoost asks for them block by block, and keeps each number as the bin
that it falls into: some 100 bytes a row in all, of at most `most_rows`. It asks several times: to
count, to find the bins, and to sort the rows into them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from containers.runtime.training.packed_training import Refused, Task, Trained, Underway
from containers.runtime.training.training_input import InvalidTrainingInputError
from containers.tabular import scores
from containers.tabular.model import write_model
from containers.tabular.rows import Rows, Survey
from containers.tabular.settings import InvalidHyperparameterError, Settings, parse_settings
from containers.tabular.table import TABLE

if TYPE_CHECKING:
    import xgboost

FEWEST_ROWS: Final = 200
"""The least number of rows whose target is known, on both sides together."""
FEWEST_EACH: Final = 20
"""The least number of rows of either target to learn from, and of all rows held out."""


class TabularTrainer:
    """Boosted trees for the packed training loop."""

    family = "tabular"

    def train(
        self, tasks: Sequence[Task], hyperparameters: Mapping[str, str], workspace: Path
    ) -> Iterator[Trained | Refused | Underway]:
        """Yield each model as soon as it is made, and each round before.

        Raises `InvalidTrainingInputError` for hyperparameters that no task can train with.
        """
        try:
            settings = parse_settings(hyperparameters)
        except InvalidHyperparameterError as error:
            raise InvalidTrainingInputError(str(error)) from error
        for task in tasks:
            rows, survey = Rows(task.data, settings.held_out).at_most(settings.most_rows)
            reason = _too_little(survey)
            if reason is not None:
                yield Refused(task, reason)
                continue
            yield from _trained(task, rows, survey, settings, workspace / task.task)


def _too_little(survey: Survey) -> str | None:
    """Why nothing can be learned from the rows; None where it can."""
    known = survey.learned + survey.held_out
    if known < FEWEST_ROWS:
        return (
            f"Of {known:,} rows it is known what became of the customer; at least {FEWEST_ROWS} "
            f"are needed. Upload more customers or months."
        )
    least = min(survey.positives, survey.learned - survey.positives)
    if least < FEWEST_EACH or survey.held_out < FEWEST_EACH:
        return (
            f"Too few customers left, or stayed: at least {FEWEST_EACH} rows of either kind are "
            f"needed, of several customers. Upload more customers or months."
        )
    return None


def _matrix(
    rows: Rows, settings: Settings, ref: "xgboost.QuantileDMatrix | None" = None
) -> "xgboost.QuantileDMatrix":
    """The learned rows in bins; with `ref`, the held-out rows in the bins of those."""
    import xgboost

    names = [column.name for column in TABLE.features]
    types = ["c" if column.kind == "category" else "q" for column in TABLE.features]

    class Blocks(xgboost.DataIter):
        """The blocks of one side, again and again."""

        def reset(self) -> None:
            """Begin at the first block."""
            self.blocks = rows.blocks(held_out=ref is not None)

        def next(self, input_data: Callable[..., Any]) -> bool:
            """Hand the next block on; False where there is none."""
            block = next(self.blocks, None)
            if block is None:
                return False
            input_data(
                data=block.features, label=block.target, feature_names=names, feature_types=types
            )
            return True

    return xgboost.QuantileDMatrix(
        Blocks(),
        ref=ref,
        max_bin=settings.max_bin,
        nthread=settings.workers(),
        enable_categorical=True,
    )


def _trained(
    task: Task, rows: Rows, survey: Survey, settings: Settings, folder: Path
) -> Iterator[Trained | Underway]:
    import xgboost

    learned = _matrix(rows, settings)
    held_out = _matrix(rows, settings, learned)
    booster = xgboost.Booster(settings.parameters(), [learned, held_out])
    curve: list[float] = []
    best = 0
    for number in range(settings.rounds):
        booster.update(learned, number)
        curve.append(float(booster.eval(held_out, "held_out", number).rpartition(":")[2]))
        best = min(range(best, len(curve)), key=curve.__getitem__)
        if number - best >= settings.patience:
            break
        yield Underway([task], number + 1, settings.rounds, {"logloss": curve[-1]})
    booster = booster[: best + 1]
    folder.mkdir()
    write_model(folder, booster, TABLE.features)
    told = booster.predict(held_out).astype(np.float64)
    truth = held_out.get_label().astype(np.float64)
    base_rate = survey.positives / survey.learned
    bins = scores.calibration(truth, told)
    yield Trained(
        task,
        folder,
        metrics=_metrics(truth, told, base_rate, survey.held_out_of),
        card={
            "features": [column.name for column in TABLE.features],
            "importance": _importance(booster),
            "rows": {
                "learned": survey.learned,
                "held_out": survey.held_out,
                "left_out": survey.left_out,
            },
            "tenants": len(survey.held_out_of),
            "base_rate": round(base_rate, 6),
            "data": {"start": str(survey.first), "end": str(survey.last)},
            "trees": best + 1,
        },
        preview={
            "kind": "calibration",
            "bins": [[round(told, 6), round(true, 6), count] for told, true, count in bins],
            "loss": [[number + 1, round(loss, 6)] for number, loss in _thinned(curve)],
        },
    )


def _metrics(
    truth: scores.Floats, told: scores.Floats, base_rate: float, held_out_of: Sequence[int]
) -> dict[str, float]:
    """The scores of the held-out rows. `auc` is absent where all of them ended alike, and the worst
    tenth of the tenants where there are few tenants."""
    loss = scores.losses(truth, told)
    baseline = scores.losses(truth, np.full(len(truth), base_rate))
    found: dict[str, float | None] = {
        "logloss": float(loss.mean()),
        "baseline_logloss": float(baseline.mean()),
        "auc": scores.area_under_curve(truth, told),
        "calibration_error": scores.calibration_error(scores.calibration(truth, told)),
    }
    worst = scores.worst_decile(held_out_of, loss, baseline)
    if worst is not None:
        found |= {"worst_decile_logloss": worst[0], "worst_decile_baseline_logloss": worst[1]}
    return {name: round(value, 6) for name, value in found.items() if value is not None}


def _importance(booster: "xgboost.Booster") -> dict[str, float]:
    """Each feature's share of what all splits gained together, the greatest first."""
    gains = booster.get_score(importance_type="total_gain")
    sums = {name: float(np.sum(gain)) for name, gain in gains.items()}
    total = sum(sums.values()) or 1.0
    ordered = sorted(sums.items(), key=lambda pair: -pair[1])
    return {name: round(gain / total, 4) for name, gain in ordered}


def _thinned(curve: Sequence[float]) -> list[tuple[int, float]]:
    """At most some 200 points of a curve, the last among them."""
    step = max(1, len(curve) // 200)
    return [pair for pair in enumerate(curve) if pair[0] % step == 0 or pair[0] == len(curve) - 1]
