"""Drift: asks served models about the days of fresh data, and compares their scores with those at
training.

Fresh data come with uploads, so the question is asked when a newer upload has been prepared, before
its own model is made. A person can also ask it for a tenant. The family's module makes the question
and scores the answer: a workload's ``drift.module`` has ``question(prepared, card)`` and
``score(answer, prepared)``. Both are called in a process apart, or by a processing job where the
data are large (``evaluation_jobs``).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tenantry.aws import objects
from tenantry.aws.notices import tell_operators
from tenantry.aws.processing_jobs import ProcessingFailedError, StillProcessingError
from tenantry.hosting.endpoints import EndpointFailedError
from tenantry.hosting.invocation import InvocationRefusedError, invoke
from tenantry.hosting.route import Route
from tenantry.models.registry import Champion, FreshScore, ModelRegistry, ModelVersion
from tenantry.names import ids, s3_keys
from tenantry.onboarding.evaluation_jobs import score_by_job
from tenantry.requests.newest import is_older, newest_of
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request
from tenantry.shown.previews import pictures_of_preview
from tenantry.shown.report import Finding, Report
from tenantry.uploads.bounded_calls import CallFailedError
from tenantry.uploads.current_data import current_data
from tenantry.uploads.training_data import TrainingData, call_limits, calls_of
from tenantry.workloads.drift import Drift
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

CHECK: Final = "drift"
_ASKED_AT_ONCE: Final = 4
_MAX_SECONDS: Final = 60.0
"""How long a pack's training waits for the questions to its served models."""
_MAY_BE_LATE_SECONDS: Final = 5.0
"""How much longer a look at a processing job may take: it calls AWS once more."""
_MAX_NAMED: Final = 50  # tenants named in one message to the operators


@dataclass(frozen=True)
class _Scored:
    """The score of a served model's answer: metrics as training names them, facts and a preview for
    people."""

    metrics: Mapping[str, float]
    facts: Mapping[str, Any]
    preview: Mapping[str, Any]

    @classmethod
    def parse(cls, said: Any) -> _Scored:
        """From the result of the family's module. Raises ``CallFailedError``."""
        match said:
            case {"metrics": dict(metrics), "facts": dict(facts), "preview": dict(preview)}:
                if all(
                    isinstance(value, int | float) and not isinstance(value, bool)
                    for value in metrics.values()
                ):
                    return cls(metrics, facts, preview)
        raise CallFailedError("the score of the served model is not metrics, facts and preview")


def check_drift(
    deployment: Deployment,
    workload: Workload,
    prepared: Sequence[tuple[Request, TrainingData]],
    report: Report,
    *,
    max_seconds: float = _MAX_SECONDS,
) -> set[ids.ModelId]:
    """Compare served models with freshly prepared data, report the check ``drift`` of each, and
    tell operators which ones drifted.

    It skips tenants who had no model when they uploaded. Errors go to ``report`` alone.

    Args:
        deployment: buckets and clients.
        workload: its ``drift`` section has the settings; without one nothing is done.
        prepared: requests, each with the data prepared from its upload.
        report: receives each tenant's check.
        max_seconds: seconds after which tenants not yet looked at are left out.

    Returns:
        The tenants whose models a processing job is still evaluating. A repeated call finds its
        result.
    """
    if workload.drift is None:
        return set()
    challengers = [(request, data) for request, data in prepared if not request.first]
    if not challengers:
        return set()
    pool = ThreadPoolExecutor(_ASKED_AT_ONCE, thread_name_prefix="drift")
    deadline = time.monotonic() + max_seconds

    def ask(
        members: Sequence[tuple[Request, TrainingData]], seconds: float
    ) -> dict[Future[Finding | None], tuple[Request, TrainingData]]:
        look = partial(drift_against, deployment, workload, wait_seconds=seconds)
        return {pool.submit(look, one.tenant, data): (one, data) for one, data in members}

    asked = ask(challengers, 0.0)
    done, late = wait(asked, timeout=max_seconds)
    # The others come before those whose processing jobs take their time.
    by_jobs = [asked[future] for future in done if _goes_on(future)]
    asked = {future: member for future, member in asked.items() if member not in by_jobs}
    left = max(0.0, deadline - time.monotonic())
    asked |= (again := ask(by_jobs, left))
    done |= wait(again, timeout=left + _MAY_BE_LATE_SECONDS).done
    pool.shutdown(wait=False, cancel_futures=True)
    if late:
        report.info(
            f"drift: {len(late)} of {len(challengers)} tenants were not looked at within "
            f"{max_seconds:g} s"
        )
    drifted: dict[ids.ModelId, Finding] = {}
    going_on = {request.tenant for request, _ in again.values()}
    for future, (request, _) in asked.items():
        if future not in done:
            continue
        tenant = request.tenant
        if (error := future.exception()) is not None:
            if not isinstance(error, StillProcessingError):
                going_on.discard(tenant)
                said = f"its drift could not be told: {type(error).__name__}: {error}"
                report.info(f"{tenant}: {said}")
            continue
        going_on.discard(tenant)
        finding = future.result()
        if finding is None:
            continue
        report.checked("endpoint_registration", CHECK, tenant, finding.facts, passed=finding.passed)
        if not finding.passed:
            drifted[tenant] = finding
    try:
        _tell_operators(deployment, workload, drifted)
    # Dagster has the checks already; an onboarding does not fail for a lost message.
    except Exception as error:  # noqa: BLE001
        report.info(f"operators could not be told of drift: {type(error).__name__}: {error}")
    if going_on:
        report.info(
            f"drift: processing jobs are evaluating the models of {len(going_on)} tenants, whose "
            f"data are large; the check `drift` has the result when they end"
        )
    return going_on


def _goes_on(future: Future[Finding | None]) -> bool:
    return isinstance(future.exception(), StillProcessingError)


def drift_against(
    deployment: Deployment,
    workload: Workload,
    tenant: ids.ModelId,
    data: TrainingData,
    *,
    wait_seconds: float | None = None,
) -> Finding | None:
    """Whether the tenant's served model is still as good as at its training, by newer data.

    ``wait_seconds`` is how long to wait for a processing job; None waits for its end.

    Returns:
        The finding; None when there is nothing to tell: no champion, a champion of the same or a
        newer upload, or too few new data.

    Raises:
        InvocationRefusedError, EndpointFailedError, UnknownShapeError,
        objects.ObjectMissingError, ValueError, StillProcessingError, ProcessingFailedError, and
        what the family's module raises.
    """
    registry, name = ModelRegistry(deployment), ids.workload_name(workload.name)
    champion = registry.champion(tenant, name)
    if workload.drift is None or champion is None or not is_older(champion.version, data.version):
        return None
    model = registry.version(tenant, name, champion.version)
    return (
        None
        if model is None
        else _compare(deployment, workload, workload.drift, champion, model, data, wait_seconds)
    )


def newest_data(
    deployment: Deployment, workload: Workload, tenant: ids.ModelId
) -> TrainingData | None:
    """The newest prepared data of a tenant's model; None before any were prepared.

    Raises ``ValueError`` or ``TypeError`` for a row that cannot be read.
    """
    name = ids.workload_name(workload.name)
    if (current := current_data(deployment, name, tenant)) is not None:
        return current.data
    # Before the pointer was kept, the rows of requests alone told.
    newest = newest_of(
        request
        for request in RequestQueue(deployment).of_tenant(name, tenant)
        if request.facts.get("training_data")
    )
    return None if newest is None else TrainingData.from_json(newest.facts["training_data"])


def drift_of(deployment: Deployment, workload: Workload, tenant: ids.ModelId) -> Finding:
    """The same check for a tenant's newest prepared upload, when a person asks for it."""
    try:
        data = newest_data(deployment, workload, tenant)
        if data is None:
            return Finding(passed=True, facts={"reason": "no upload of it was prepared yet"})
        finding = drift_against(deployment, workload, tenant, data)
    except (
        InvocationRefusedError,
        EndpointFailedError,
        CallFailedError,
        ProcessingFailedError,
        LookupError,
        ValueError,
        TypeError,
    ) as error:
        return Finding(
            passed=False, facts={"reason": f"it could not be told: {type(error).__name__}: {error}"}
        )
    if finding is None:
        return Finding(
            passed=True, facts={"reason": "nothing tells of days after its champion was made"}
        )
    return finding


def _compare(
    deployment: Deployment,
    workload: Workload,
    drift: Drift,
    champion: Champion,
    model: ModelVersion,
    data: TrainingData,
    wait_seconds: float | None,
) -> Finding | None:
    scored = _score(deployment, workload, drift, champion.route, model, data, wait_seconds)
    return None if scored is None else _finding(workload, drift, model, scored)


def fresh_score(
    deployment: Deployment,
    workload: Workload,
    route: Route,
    model: ModelVersion,
    data: TrainingData,
) -> Mapping[str, float] | None:
    """The metrics of a version, asked along a route, on data that came after it was made; noted on
    the version. None where the workload has no ``drift``, or there are too few new data.

    Raises:
        InvocationRefusedError, EndpointFailedError, UnknownShapeError,
        objects.ObjectMissingError, ValueError, ProcessingFailedError, and what the family's module
        raises.
        StillProcessingError: a processing job does it; a later call finds its result.
    """
    known = model.fresh
    if known is not None and known.data == data.version:
        return known.metrics
    if workload.drift is None or not is_older(model.version, data.version):
        return None
    scored = _score(deployment, workload, workload.drift, route, model, data, 0.0)
    return None if scored is None else scored.metrics


def _score(
    deployment: Deployment,
    workload: Workload,
    drift: Drift,
    route: Route,
    model: ModelVersion,
    data: TrainingData,
    wait_seconds: float | None,
) -> _Scored | None:
    """The score of a version's answer about newer data, noted on the version; None when the module
    finds too few."""
    try:
        said = _score_here(deployment, workload, drift, route, model, data)
    except objects.ObjectTooLargeError:
        if drift.job is None:
            raise
        said = score_by_job(
            deployment, workload, drift, drift.job, model, data, wait_seconds=wait_seconds
        )
    if said is None:
        return None
    scored = _Scored.parse(said)
    # Registration compares the challenger made from these data with this score.
    ModelRegistry(deployment).note_fresh_score(
        model, FreshScore(data.version, dict(scored.metrics))
    )
    return scored


def _score_here(
    deployment: Deployment,
    workload: Workload,
    drift: Drift,
    route: Route,
    model: ModelVersion,
    data: TrainingData,
) -> Any:
    """The score, by the endpoint and a process apart; None when the module finds too few data.
    Raises ``objects.ObjectTooLargeError`` for data that a job is for."""
    call = partial(
        calls_of(workload).call,
        drift.module,
        limits=call_limits(workload),
        alone=model.tier == "silo",
    )
    with tempfile.TemporaryDirectory(prefix="tenantry-drift-") as scratch:
        folder, left = Path(scratch), drift.max_bytes_here
        for name in data.files:
            key = s3_keys.training_data_file(model.workload, model.tenant, data.version, name)
            content = objects.read_bytes(deployment.s3, deployment.data_bucket, key, left)
            left -= len(content)
            (folder / name).write_bytes(content)
        question = call("question", paths={"prepared": folder}, values={"card": dict(model.card)})
        if question is None:
            return None
        if not isinstance(question, dict):
            raise CallFailedError("the question to the served model is no JSON object")
        answer = json.loads(invoke(deployment, route, question).content)
        return call("score", paths={"prepared": folder}, values={"answer": answer})


def _finding(
    workload: Workload, drift: Drift, model: ModelVersion, scored: _Scored
) -> Finding | None:
    """Whether the metric is worse than at training by more than is tolerated. None when one of the
    two is missing.

    Versions are compared by their share of the baseline's metric. Drift compares the metric itself,
    because a surprise in the data worsens the baseline as well.
    """
    quality = workload.quality
    promised, found = model.metrics.get(quality.metric), scored.metrics.get(quality.metric)
    if promised is None or found is None:
        return None
    sign = 1 if quality.lower_is_better else -1
    drifted = quality.is_worse(sign * found, sign * promised, drift.tolerance)
    comparison = {
        name: {"promised": model.metrics.get(name), "found": value}
        for name, value in scored.metrics.items()
    }
    return Finding(
        passed=not drifted,
        facts={
            **pictures_of_preview(
                scored.preview, title=f"{model.tenant}, {model.version}: what it said and what came"
            ),
            "version": model.version,
            quality.metric: float(found),
            f"promised_{quality.metric}": float(promised),
            "tolerance": drift.tolerance,
            **scored.facts,
            "metrics": comparison,
        },
    )


def _tell_operators(
    deployment: Deployment, workload: Workload, drifted: Mapping[ids.ModelId, Finding]
) -> None:
    """Send one message for a pack: if one customer drifts, hundreds may."""
    if not drifted:
        return
    metric = workload.quality.metric
    lines = [
        f"{tenant}: {metric} {finding.facts[metric]:g} where {finding.facts['version']} had"
        f" {finding.facts[f'promised_{metric}']:g} at training"
        for tenant, finding in list(drifted.items())[:_MAX_NAMED]
    ]
    if len(drifted) > _MAX_NAMED:
        lines.append(f"… and {len(drifted) - _MAX_NAMED} more")
    lines.append(
        "Their newer uploads are being trained on now; the check `drift` of endpoint_registration "
        "has the plots."
    )
    whose = "a served model" if len(drifted) == 1 else f"{len(drifted)} served models"
    tell_operators(deployment, f"{workload.name}: {whose} drifted", "\n".join(lines))
