"""Training: a profile of each tenant's week, scored on the last week."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from containers.example.predictor import MODEL
from containers.example.preparation import read_days
from containers.example.profile import profile, scores, usual
from containers.runtime.training.packed_training import Refused, Task, Trained


class ProfileTrainer:
    """Weekday profiles for the packed training loop."""

    family = "example"

    def train(
        self,
        tasks: Sequence[Task],
        hyperparameters: Mapping[str, str],  # noqa: ARG002 - the family has none
        workspace: Path,
    ) -> Iterator[Trained | Refused]:
        """Yield each tenant's model as soon as it is made."""
        for task in tasks:
            days = read_days(task.data)
            if days.nunique() == 1:
                yield Refused(task, "All values are the same. Upload a history that varies.")
                continue
            yield _trained(task, days, workspace / task.task)


def _trained(task: Task, days: "pd.Series[float]", folder: Path) -> Trained:
    week = pd.date_range(end=days.index[-1], periods=7)
    before, truth = days[days.index < week[0]], days.reindex(week)
    means = profile(before)
    told = usual(means, week)
    low, high = (before - usual(means, before.index)).quantile([0.1, 0.9])
    folder.mkdir()
    (folder / MODEL).write_text(json.dumps(profile(days)))
    return Trained(
        task,
        folder,
        metrics=scores(truth, told, before),
        card={"end": str(week[-1].date())},
        preview={
            "kind": "forecast",
            "local_start": week[0].isoformat(),
            "frequency": "D",
            "unit": "",
            "truth": [None if pd.isna(value) else value for value in truth],
            "mean": list(told),
            "q10": list(told + low),
            "q90": list(told + high),
        },
    )
