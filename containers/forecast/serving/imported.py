"""Forecasts that were made elsewhere, taken over as models of a customer.

The server's own reader judges `model.json`. The fields of the card come from that file, so that a
card cannot tell of other data than the forecasts do.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from containers.forecast.serving.predictor import ForecastPredictor
from containers.forecast.stored_forecasts.model_file import (
    CARD_FILE,
    LARGEST_FILE,
    MODEL_FILE,
    MalformedModelError,
    StoredForecast,
    read_model,
)
from containers.forecast.stored_forecasts.starts import STEP, stamp
from containers.runtime.archives.imported import ModelFormat, Owner, TakenOver
from containers.runtime.archives.imported import take_over as take_over_archive

METRICS: Final = frozenset(
    {"mase", "baseline_mase", "wape", "baseline_wape", "pinball", "baseline_pinball", "coverage80"}
)


def take_over(
    archive: Path,
    destination: Path,
    owner: Mapping[str, str],
    environment: Mapping[str, str],  # noqa: ARG001 - forecasts belong to no base
) -> TakenOver:
    """Check an archive of a forecast model, and write it anew.

    Args:
        archive: the stranger's archive.
        destination: an empty folder.
        owner: the fields of `Owner`.
        environment: the endpoint's variables.

    Raises `RefusedDataError`.
    """
    predictor = ForecastPredictor()
    form = ModelFormat(
        family=predictor.family,
        members={MODEL_FILE: LARGEST_FILE},
        optional=frozenset(),
        metrics=METRICS,
        described=_described,
        load=predictor.load,
    )
    return take_over_archive(archive, destination, Owner(**owner), form)


def _described(folder: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    metrics = card.get("metrics", {})
    if any(metrics.get(name, 0) < 0 for name in METRICS):
        raise MalformedModelError(f"{CARD_FILE}: no error is below zero, and no coverage")
    stored = read_model(folder)
    if not isinstance(stored, StoredForecast):
        raise MalformedModelError(f"{MODEL_FILE}: format must be 2 or 3")
    first = stored.end - len(stored.before.mean) * STEP[stored.frequency]
    return {
        "model": stored.model,
        "frequency": stored.frequency,
        "timezone": stored.timezone,
        "unit": stored.unit,
        "data": {"end": stamp(stored.end)},
        "horizon_points": stored.horizon,
        "usable_from": stamp(first),
        "usable_until": stamp(stored.end + timedelta(days=stored.reach)),
        "quantiles": sorted(stored.first.quantiles),
        "fresh_readings": stored.learned.model if stored.learned else None,
    }
