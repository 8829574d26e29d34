"""Predictions that would come out as before: the tenant's version, the container and the request
with the data that it carries are those of its last prediction, which is kept under the new period.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from tenantry.aws import objects
from tenantry.batch.fresh_data import FreshData
from tenantry.batch.periods import Period
from tenantry.batch.transform import TenantPrediction
from tenantry.models.registry import Champion
from tenantry.names import ids, s3_keys, table_keys
from tenantry.serving.moments import of_the_day
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_AT_ONCE: Final = 8


@dataclass(frozen=True)
class KeptPrediction:
    """A prediction that was made for an earlier ``day`` of its batch, and holds for this one."""

    day: date
    prediction: TenantPrediction


def made_of(workload: Workload, period: Period, champion: Champion, fresh: FreshData) -> str:
    """The digest of everything that decides a champion's prediction."""
    request = of_the_day(workload, period.batch, period.day, fresh.get(champion.tenant))
    said = [champion.version, workload.answer_version, request]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def keep_unchanged(
    deployment: Deployment,
    workload: Workload,
    period: Period,
    champions: Sequence[Champion],
    fresh: FreshData,
) -> tuple[list[KeptPrediction], list[Champion]]:
    """File the predictions that would come out as before under the new period, by a copy within S3.
    ``fresh`` are the data that requests carry.

    Returns:
        These predictions, and the champions that have to predict. Without ``keep_unchanged`` in the
        batch, all have to.
    """
    if not period.batch.keep_unchanged or not champions:
        return [], list(champions)
    name = ids.workload_name(workload.name)
    rows = _last_predictions(deployment, name, period.cadence, champions)

    def keep(champion: Champion) -> KeptPrediction | None:
        row = rows.get(champion.tenant)
        if row is None or row["made_of"] != made_of(workload, period, champion, fresh):
            return None
        day, rows_in_it = date.fromisoformat(row["day"]), int(row["rows"])
        key = s3_keys.prediction(name, champion.tenant, period.cadence, period.day)
        if day != period.day:
            before = s3_keys.prediction(name, champion.tenant, period.cadence, day)
            try:
                objects.copy(deployment.s3, deployment.data_bucket, before, key)
            except objects.ObjectMissingError:
                return None
            _note(deployment, workload, period, champion, fresh, rows_in_it)
        prediction = TenantPrediction(champion.tenant, champion.version, key, rows_in_it, None)
        return KeptPrediction(day, prediction)

    deployment.s3, deployment.dynamodb  # noqa: B018 - made once here rather than by each thread
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        kept = list(pool.map(keep, champions))
    again = [one for one, found in zip(champions, kept, strict=True) if found is None]
    return [found for found in kept if found is not None], again


def note_made(
    deployment: Deployment,
    workload: Workload,
    period: Period,
    champions: Sequence[Champion],
    predictions: Sequence[TenantPrediction],
    fresh: FreshData,
) -> None:
    """Note what predictions were made of, for a batch with ``keep_unchanged``."""
    if not period.batch.keep_unchanged:
        return
    by_model = {one.tenant: one for one in champions}
    for prediction in predictions:
        if prediction.key is not None:
            champion = by_model[prediction.tenant]
            _note(deployment, workload, period, champion, fresh, prediction.rows)


def kept_on(
    deployment: Deployment, workload: Workload, champions: Sequence[Champion], days: Sequence[date]
) -> dict[date, frozenset[ids.ModelId]]:
    """The models whose predictions of these days were made or kept by a batch with
    ``keep_unchanged``, by day."""
    name, found = ids.workload_name(workload.name), dict[date, set[ids.ModelId]]()
    for batch in workload.batches:
        if batch.keep_unchanged:
            cadence = ids.batch_name(batch.name)
            for model, row in _last_predictions(deployment, name, cadence, champions).items():
                found.setdefault(date.fromisoformat(row["day"]), set()).add(model)
    return {day: frozenset(found[day]) for day in days if day in found}


def _last_predictions(
    deployment: Deployment,
    workload: ids.WorkloadName,
    cadence: ids.BatchName,
    champions: Sequence[Champion],
) -> dict[ids.ModelId, Mapping[str, Any]]:
    keys = [table_keys.last_prediction_item(one.tenant, workload, cadence) for one in champions]
    rows = deployment.models.get_many(keys)
    return {table_keys.parse_table_partition(str(row["tenant"]))[0]: row for row in rows}


def _note(
    deployment: Deployment,
    workload: Workload,
    period: Period,
    champion: Champion,
    fresh: FreshData,
    rows: int,
) -> None:
    key = table_keys.last_prediction_item(champion.tenant, champion.workload, period.cadence)
    made = made_of(workload, period, champion, fresh)
    deployment.models.put(key, {"made_of": made, "day": period.day.isoformat(), "rows": rows})
