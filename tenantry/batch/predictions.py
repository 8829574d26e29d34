"""``batch_predictions``: one transform job asks the champions of many tenants; each answer lies
under its tenant's prefix."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from botocore.exceptions import BotoCoreError, ClientError

from tenantry.aws.notices import Notice, tell_operators, tell_tenant
from tenantry.batch.fresh_data import FreshData, fresh_data, takes_data
from tenantry.batch.periods import Period
from tenantry.batch.result_tables import ResultTable, TableWritten
from tenantry.batch.transform import (
    BatchResult,
    TenantPrediction,
    TransformJobFailedError,
    predict_batch,
)
from tenantry.batch.unchanged import KeptPrediction, keep_unchanged, note_made
from tenantry.errors import TenantryError
from tenantry.models.registry import Champion, ModelRegistry
from tenantry.names import ids
from tenantry.onboarding.checks import DATA_AGE, age_facts
from tenantry.serving.moments import data_age, too_old_for
from tenantry.shown.answer_preview import answer_for_people
from tenantry.shown.report import Report
from tenantry.shown.series_preview import series_of
from tenantry.training.shared_model import served
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

# Each plot takes 10 kB of Dagster's event log and 11 ms of a processor, every night.
_MAX_PLOTS: Final = 1000


@dataclass(frozen=True)
class BatchJob:
    """Tenants whose predictions share one transform job: all of one tier, a silo tenant alone."""

    name: str
    champions: tuple[Champion, ...]


def batches_of(
    champions: Sequence[Champion], tenants_per_job: int, salt: str
) -> Iterator[BatchJob]:
    """Cut champions into batches.

    Args:
        champions: the champions to predict with.
        tenants_per_job: the most tenants in one job.
        salt: names this round of batches (a run's id), so that a new round makes new jobs and a
            repeated one finds its own.
    """
    ordered = sorted(champions, key=lambda champion: champion.tenant)
    shared = [[c for c in ordered if c.tier == tier] for tier in ("bridge", "pool")]
    groups = [
        group[start : start + tenants_per_job]
        for group in shared
        for start in range(0, len(group), tenants_per_job)
    ]
    groups += [[c] for c in ordered if c.tier == "silo"]
    for group in groups:
        alone = group[0].tenant if group[0].tier == "silo" else None
        members = [f"{c.tenant} {c.version}" for c in group]
        yield BatchJob(ids.batch_name_of([salt, *members], alone), tuple(group))


def predict(
    deployment: Deployment,
    workload: Workload,
    tenants: Sequence[ids.ModelId] | None,
    period: Period,
    salt: str,
    report: Report,
    *,
    poll: float,
    starting: Callable[[Sequence[ids.ModelId]], None] = lambda _: None,
    tabled: Callable[[TableWritten], None] = lambda _: None,
) -> dict[ids.ModelId, str]:
    """Predict a day for tenants, or for all with a champion (None), and report each.

    Args:
        deployment: buckets and clients.
        workload: its batch section.
        tenants: the tenants to predict for.
        period: the batch and the predicted day, which are parts of the key.
        salt: see ``batches_of``.
        report: receives an event for every tenant.
        poll: seconds between looks at a running job.
        starting: called once with the tenants that will be predicted for.
        tabled: called at the end with the table that holds the answers, unless none was written.

    Returns:
        Each tenant without a prediction, with the reason.
    """
    champions = _champions(deployment, workload, tenants)
    failures: dict[ids.ModelId, str] = {}
    served = {champion.tenant for champion in champions}
    for tenant in tenants or ():
        if tenant not in served:
            failures[tenant] = "it has no model yet"
            report.failed("batch_predictions", tenant, failures[tenant])
    fresh, unusable = fresh_data(deployment, workload, period.batch, champions)
    lacking = _lacking(workload, period, champions, fresh)
    left_out = _too_old(deployment, workload, champions, period, report, fresh)
    left_out |= _nothing_to_predict(workload, lacking - unusable.keys(), report)
    failing = {tenant: unusable[tenant] for tenant in sorted(lacking & unusable.keys())}
    # tenants that were named fail visibly; a round for all tenants leaves them out
    if tenants is not None:
        failing = left_out | failing
    for tenant, reason in failing.items():
        failures[tenant] = reason
        report.failed("batch_predictions", tenant, reason)
    without = left_out.keys() | failing.keys()
    champions = [champion for champion in champions if champion.tenant not in without]
    starting(sorted(champion.tenant for champion in champions))
    table = ResultTable(deployment, workload, period, report)
    kept, champions = keep_unchanged(deployment, workload, period, champions, fresh)
    if kept:
        report.info(f"{len(kept)} tenants keep their last prediction: nothing has changed")
        name = _tabled(table, partial(table.add_kept, kept), report)
        _report_kept(deployment, period, kept, name, report)
    # Two batches of one day never share a job.
    salt = f"{period.batch.name} {salt}"
    batches = list(batches_of(champions, period.batch.tenants_per_job, salt))
    for batch, outcome in _side_by_side(deployment, workload, period, batches, report, poll, fresh):
        if isinstance(outcome, Exception):
            for champion in batch.champions:
                failures[champion.tenant] = str(outcome)
                report.failed("batch_predictions", champion.tenant, str(outcome))
        else:
            note_made(deployment, workload, period, batch.champions, outcome.predictions, fresh)
            adding = partial(table.add, outcome.job, outcome.predictions)
            failures |= _report_batch(
                deployment, period, outcome, _tabled(table, adding, report), report
            )
    if table.written is not None:
        tabled(table.written)
    if failures:
        lines = "\n".join(f"{tenant}: {reason}" for tenant, reason in list(failures.items())[:50])
        tell_operators(
            deployment,
            f"{workload.name}: {len(failures)} tenants without a prediction: {period}",
            lines,
        )
    return failures


def _lacking(
    workload: Workload, period: Period, champions: Sequence[Champion], fresh: FreshData
) -> set[ids.ModelId]:
    """The tenants whose model holds nothing to predict from, and whose request carries nothing
    either: a shared model's, and those of a batch with ``input: all``. A version that takes no data
    holds them itself."""
    section, asked = workload.inference, period.batch.input
    if section is None or not (
        asked == "all" or (asked == "latest" and workload.shared_model is not None)
    ):
        return set()
    return {one.tenant for one in champions if one.tenant not in fresh and takes_data(section, one)}


def _nothing_to_predict(
    workload: Workload, lacking: Collection[ids.ModelId], report: Report
) -> dict[ids.ModelId, str]:
    """Each tenant whose data have no document to predict from, with the reason."""
    if not lacking or workload.inference is None:
        return {}
    reason = f"its data have nothing to predict from: there is no {workload.inference.file}"
    report.info(f"{len(lacking)} tenants are left out: {reason}")
    return dict.fromkeys(sorted(lacking), reason)


def _champions(
    deployment: Deployment, workload: Workload, tenants: Sequence[ids.ModelId] | None
) -> list[Champion]:
    """Who predicts for tenants, or for all (None): each one's champion, or the shared one for
    each with data."""
    if tenants is None:
        return served(deployment, workload)
    if workload.shared_model is not None:
        wanted = set(tenants)
        return [one for one in served(deployment, workload) if one.tenant in wanted]
    name, registry = ids.workload_name(workload.name), ModelRegistry(deployment)
    found = [registry.champion(tenant, name) for tenant in tenants]
    return [champion for champion in found if champion is not None]


def _too_old(
    deployment: Deployment,
    workload: Workload,
    champions: Sequence[Champion],
    period: Period,
    report: Report,
    fresh: FreshData,
) -> dict[ids.ModelId, str]:
    """Check the age of each champion's data. Tell the owner once when they are too old to reach the
    day.

    Returns:
        Each tenant whose champion cannot reach the day, with the reason.
    """
    reasons: dict[ids.ModelId, str] = {}
    at = datetime.combine(period.day, time(), UTC)
    for champion in champions:
        age = data_age(champion.card)
        if workload.moment is None or age is None:
            continue
        reason = too_old_for(
            workload, champion.card, period.day, period.batch, fresh.get(champion.tenant)
        )
        facts = age_facts(age, at, reason)
        report.checked(
            "fine_tuned_artifact", DATA_AGE, champion.tenant, facts, passed=reason is None
        )
        if reason is None:
            continue
        reasons[champion.tenant] = reason
        if not champion.told_too_old:
            try:
                _tell_too_old(deployment, champion, period.day, reason)
            except (
                ClientError,
                BotoCoreError,
            ) as error:  # the next batch tells the owner; the other predictions go on
                report.info(
                    f"{champion.tenant} could not be told that its data are too old: {error}"
                )
    if reasons:
        report.info(f"{len(reasons)} tenants are left out: their data are too old for the {period}")
    return reasons


def _tell_too_old(deployment: Deployment, champion: Champion, day: date, reason: str) -> None:
    """Tell the owner, then note it: an owner may be told twice, and is never left untold."""
    message = f"There is no prediction for {day.isoformat()}: {reason}"
    tell_tenant(
        deployment,
        Notice(
            "data_too_old", champion.workload, champion.tenant, message, version=champion.version
        ),
    )
    ModelRegistry(deployment).note_told_too_old(champion)


def _side_by_side(
    deployment: Deployment,
    workload: Workload,
    period: Period,
    batches: Sequence[BatchJob],
    report: Report,
    poll: float,
    fresh: FreshData,
) -> Iterator[tuple[BatchJob, BatchResult | TransformJobFailedError | ClientError | BotoCoreError]]:
    """Run the batches' jobs, ``batch.max_jobs_at_once`` at the same time, and give each one's
    outcome as it comes."""
    deployment.s3, deployment.sagemaker  # noqa: B018 - made once here rather than by each thread
    show = partial(_shown, period, plots=sum(len(b.champions) for b in batches) <= _MAX_PLOTS)
    pool = ThreadPoolExecutor(period.batch.max_jobs_at_once, thread_name_prefix="batch")
    given_up = threading.Event()
    asked: dict[Future[BatchResult], BatchJob] = {}
    try:
        for batch in batches:
            report.info(f"batch {batch.name}: one transform job for {len(batch.champions)} tenants")
            own = {one.tenant: fresh[one.tenant] for one in batch.champions if one.tenant in fresh}
            going = partial(predict_batch, fresh=own, poll=poll, show=show, given_up=given_up)
            asked[pool.submit(going, deployment, workload, period, batch.name, batch.champions)] = (
                batch
            )
        for future in as_completed(asked):
            try:
                outcome: Any = future.result()
            except (
                TransformJobFailedError,
                ClientError,
                BotoCoreError,
            ) as error:  # a quota, say: the other batches go on
                outcome = error
            yield asked.pop(future), outcome
    finally:
        # A run that was terminated does not wait for its jobs' ends.
        given_up.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _tabled(table: ResultTable, add: Callable[[], None], report: Report) -> dict[str, str]:
    """Add answers to the table. Returns its name as metadata; nothing if that failed, of which only
    the run's log tells: the predictions are there all the same."""
    try:
        add()
    except Exception as error:  # noqa: BLE001 - whatever it is, no prediction fails with it
        # Other errors may quote an answer, and a tenant's data reach no log.
        known = isinstance(error, ClientError | BotoCoreError | TenantryError)
        why = str(error) if known else type(error).__name__
        report.info(f"the table {table.name} lacks answers, and the predictions are there: {why}")
        return {}
    return {"dagster/table_name": table.name}


def _report_batch(
    deployment: Deployment,
    period: Period,
    result: BatchResult,
    table: Mapping[str, str],
    report: Report,
) -> dict[ids.ModelId, str]:
    usd = (
        result.seconds
        / 3600
        * period.batch.usd_per_hour
        * period.batch.instances
        / max(1, len(result.predictions))
    )
    failures = {}
    for prediction in result.predictions:
        if prediction.key is None:
            failures[prediction.tenant] = prediction.reason or "no reason given"
            report.failed("batch_predictions", prediction.tenant, failures[prediction.tenant])
            continue
        cost = {
            "transform_job": result.job,
            "job_seconds": result.seconds,
            "cost_usd": round(usd, 8),
            **table,
        }
        _report_made(deployment, period, prediction, cost, report)
    return failures


def _report_kept(
    deployment: Deployment,
    period: Period,
    kept: Sequence[KeptPrediction],
    table: Mapping[str, str],
    report: Report,
) -> None:
    for one in kept:
        cost = {"kept_from": one.day.isoformat(), "cost_usd": 0.0, **table}
        _report_made(deployment, period, one.prediction, cost, report)


def _report_made(
    deployment: Deployment,
    period: Period,
    prediction: TenantPrediction,
    cost: Mapping[str, Any],
    report: Report,
) -> None:
    metadata = {
        **prediction.shown,  # first: people look before they read
        "batch": period.batch.name,
        "date": period.day.isoformat(),
        "dagster/uri": f"s3://{deployment.data_bucket}/{prediction.key}",
        "dagster/partition_row_count": prediction.rows,
        "version": prediction.version,
        **({"trace_id": prediction.trace_id} if prediction.trace_id else {}),
        **cost,
    }
    data_version = f"{period.batch.name}-{period.day.isoformat()}-{prediction.version}"
    report.materialized("batch_predictions", prediction.tenant, metadata, data_version)


def _shown(
    period: Period, tenant: ids.ModelId, content: bytes, *, plots: bool
) -> tuple[int, dict[str, Any]]:
    """The number of rows in a tenant's prediction, and its metadata for people: a series' plot and
    days, or pictures. Each of several answers counts as one row."""
    first, _, further = content.strip().partition(b"\n")
    if further:
        return 2 + further.count(b"\n"), {}
    answer = answer_for_people(first)
    if answer.picture is not None:
        return len(answer.document["images"]), {"pictures": answer.picture}
    series = series_of(answer.document, ZoneInfo(period.batch.timezone))
    if series is None:
        return 1, {}
    title = f"{tenant}, predicted for {period.day:%d %B %Y} ({period.batch.timezone})"
    plot = series.plot(title) if plots else None
    return len(series.times), {**({} if plot is None else {"plot": plot}), "days": series.days()}
