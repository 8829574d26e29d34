"""The metadata of a tenant's materialised assets in Dagster, for people: locations, scores and
costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from contracts.outcomes import Outcome
from contracts.trace_context import trace_id_of
from tenantry.capacity.prewarming import Prewarmed
from tenantry.models.registry import Champion, ModelVersion
from tenantry.names import s3_keys, sagemaker_names
from tenantry.onboarding.registration import Registration
from tenantry.requests.rows import Request
from tenantry.shown.answer_preview import answer_for_people
from tenantry.shown.comparison import comparison
from tenantry.shown.previews import pictures_of_preview
from tenantry.shown.report import Report, Table
from tenantry.uploads.training_data import TrainingData
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_FAILURES_SHOWN: Final = 20


def training_data_metadata(
    deployment: Deployment, request: Request, data: TrainingData
) -> dict[str, Any]:
    """For ``training_data``: its rows, its repairs, its preparation's own facts, and its upload."""
    folder = s3_keys.training_data_root(request.workload) + s3_keys.training_data_folder(
        request.tenant, data.version
    )
    return {
        "dagster/partition_row_count": data.rows,
        "dagster/uri": f"s3://{deployment.data_bucket}/{folder}/",
        "repairs": dict(data.repairs),
        **{str(name): value for name, value in data.facts.items()},
        **_upload(deployment, request),
        "request": request.request,
        **_trace(request),
    }


def _upload(deployment: Deployment, request: Request) -> dict[str, str]:
    """Where the upload lies; nothing for a shared model, which is made of many."""
    if not request.manifest_key:
        return {}
    return {"upload": f"s3://{deployment.uploads_bucket}/{request.manifest_key}"}


def _trace(of: Request | ModelVersion) -> dict[str, str]:
    trace_id = trace_id_of(of.traceparent)
    return {"trace_id": trace_id} if trace_id else {}


def prewarming_metadata(done: Prewarmed) -> dict[str, Any]:
    """For ``prewarmed_models``: how many were loaded, and why the others were not."""
    reasons = tuple(
        {"tenant": str(tenant), "reason": reason}
        for tenant, reason in sorted(done.failed.items())[:_FAILURES_SHOWN]
    )
    return {**done.figures, **({"failures": Table(reasons)} if reasons else {})}


def artifact_metadata(
    deployment: Deployment,
    workload: Workload,
    model: ModelVersion,
    outcome: Outcome,
    usd_per_hour: float,
    hyperparameters: Mapping[str, str],
    report: Report,
) -> dict[str, Any]:
    """For ``fine_tuned_artifact``: pictures of its preview, its metrics, its archive, and its
    training's time and cost.

    Args:
        deployment: buckets, and the console to link to.
        workload: how quality is compared.
        model: the version.
        outcome: the outcome of its training.
        usd_per_hour: the price of the machine it was trained on, on demand; ``cost_usd`` is its
            task's share.
        hyperparameters: those it was trained with; none for one from before rows kept them.
        report: receives the reason why a preview gives no picture; the rest is shown all the same.
    """
    quality = workload.quality
    skill = quality.skill(model.metrics)
    # A spot machine costs less; SageMaker does not say how much.
    usd = outcome.seconds / 3600 * usd_per_hour
    return {
        **_pictures(model, outcome, report),  # first: people look before they read
        **version_and_metrics(model),
        **({quality.compared: quality.shown(skill)} if skill is not None else {}),
        "dagster/uri": f"s3://{deployment.data_bucket}/{model.archive}",
        "bytes": model.size,
        **({"files": _files(deployment, model, outcome)} if outcome.files else {}),
        "training_seconds": outcome.seconds,
        "cost_usd": round(usd, 8),
        **({"hyperparameters": dict(hyperparameters)} if hyperparameters else {}),
        "training_job": model.job,
        **_console(deployment, "jobs", model.job),
        "card": dict(model.card),
    }


def imported_metadata(
    deployment: Deployment, workload: Workload, request: Request, model: ModelVersion
) -> dict[str, Any]:
    """For ``fine_tuned_artifact`` of a model that was trained elsewhere: the metrics that its maker
    claims, its archive, and the upload that it was."""
    skill = workload.quality.skill(model.metrics)
    return {
        **version_and_metrics(model),
        **({workload.quality.compared: workload.quality.shown(skill)} if skill is not None else {}),
        "dagster/uri": f"s3://{deployment.data_bucket}/{model.archive}",
        "bytes": model.size,
        "trained": "elsewhere; its metrics are those of its card",
        "upload": f"s3://{deployment.uploads_bucket}/{request.manifest_key}",
        "request": request.request,
        "card": dict(model.card),
    }


def version_and_metrics(model: ModelVersion) -> dict[str, Any]:
    """For ``fine_tuned_artifact``, the registry's own entries: the only ones when the outcome
    cannot be read any more."""
    return {
        "version": model.version,
        **_trace(model),
        **{name: float(value) for name, value in model.metrics.items()},
    }


def _console(deployment: Deployment, kind: str, name: str) -> dict[str, str]:
    url = deployment.console_url(kind, name)
    return {} if url is None else {"console": url}


def _files(deployment: Deployment, model: ModelVersion, outcome: Outcome) -> list[str]:
    folder = s3_keys.files_beside(model.beside)
    return [f"s3://{deployment.data_bucket}/{folder}{name}" for name in outcome.files]


def _pictures(model: ModelVersion, outcome: Outcome, report: Report) -> dict[str, bytes]:
    try:
        return pictures_of_preview(outcome.preview, title=f"{model.tenant}, {model.version}")
    except ValueError as error:
        report.info(f"{model.tenant}: no picture of its preview: {error}")
        return {}


def registration_metadata(
    deployment: Deployment,
    workload: Workload,
    model: ModelVersion,
    endpoint: str,
    done: Registration,
) -> dict[str, Any]:
    """For ``endpoint_registration``: the champion and the reason, and the answer of the endpoint
    called ``endpoint``."""
    quality = workload.quality
    answer = answer_for_people(done.answer.content) if done.answer is not None else None
    return {
        **({"first_pictures": answer.picture} if answer and answer.picture else {}),
        "version": model.version,
        **_trace(model),
        "decision": done.decision,
        **({"comparison": comparison(workload, model, done.reigning)} if done.reigning else {}),
        "champion": done.champion.version,
        **({"previous": done.champion.previous} if done.champion.previous else {}),
        "endpoint": endpoint,
        **_console(deployment, "endpoints", endpoint),
        "target_model": sagemaker_names.target_model(model.tenant, model.version),
        "dagster/table_name": deployment.models_table,
        **({"first_answer": answer.document} if answer else {}),
        **(
            {"smoke_milliseconds": round(done.smoke_milliseconds, 1)}
            if done.smoke_milliseconds is not None
            else {}
        ),
        **({quality.compared: quality.shown(done.skill)} if done.skill is not None else {}),
        **(
            {f"champion_{quality.compared}": quality.shown(done.champion_skill)}
            if done.champion_skill is not None
            else {}
        ),
    }


def rollback_metadata(champion: Champion, *, by: str, why: str = "") -> dict[str, Any]:
    """For ``endpoint_registration`` after a rollback: both versions, the author and the reason."""
    turned_away = champion.rolled_back_from or "another version before"
    return {
        "version": champion.version,
        "decision": f"rolled back to {champion.version} from {turned_away}",
        "champion": champion.version,
        **({"previous": champion.previous} if champion.previous else {}),
        "by": by,
        **({"why": why} if why else {}),
        "endpoint": champion.endpoint,
        "target_model": champion.route.target_model,
    }


def claims_metadata(*, paused: bool, by: str, why: str = "") -> dict[str, Any]:
    """For ``uploads``, after the workload was paused or resumed."""
    return {
        "requests": "paused: none is claimed" if paused else "claimed again",
        "by": by,
        **({"why": why} if why else {}),
    }
