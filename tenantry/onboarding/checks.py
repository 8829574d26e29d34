"""The checks of a tenant's assets: plain questions, each with an answer and the facts behind it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from tenantry.hosting.endpoints import EndpointFailedError
from tenantry.hosting.invocation import InvocationRefusedError, invoke
from tenantry.hosting.shapes.catalogue import UnknownShapeError
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.onboarding.drift import CHECK as DRIFT
from tenantry.onboarding.drift import drift_of
from tenantry.requests.newest import newest_of
from tenantry.requests.queue import RequestQueue
from tenantry.serving.moments import DataAge, data_age, too_old_for
from tenantry.shown.report import AssetName, Finding
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

DATA_AGE: Final = "data_age"


@dataclass(frozen=True)
class Check:
    """A named question about one tenant's asset."""

    asset: AssetName
    name: str
    description: str
    ask: Callable[[Deployment, Workload, ids.ModelId], Finding]
    concerns: Callable[[Workload], bool] = lambda _: True


def data_quality(deployment: Deployment, workload: Workload, tenant: ids.ModelId) -> Finding:
    """Whether the tenant's last upload could be used, and its repairs."""
    name = ids.workload_name(workload.name)
    last = newest_of(RequestQueue(deployment).of_tenant(name, tenant))
    if last is None:
        return Finding(passed=False, facts={"reason": "no upload of it has been taken in"})
    if last.status == "refused":
        return Finding(passed=False, facts={"reason": last.reason or "no reason recorded"})
    prepared = last.facts.get("training_data")
    return Finding(
        passed=True,
        facts=dict(json.loads(prepared)["repairs"]) if prepared else {"status": last.status},
    )


def better_than_baseline(
    deployment: Deployment, workload: Workload, tenant: ids.ModelId
) -> Finding:
    """Whether the champion beat the workload's baseline on data neither had seen, and met the
    requirement."""
    registry, name = ModelRegistry(deployment), ids.workload_name(workload.name)
    champion = registry.champion(tenant, name)
    model = registry.version(tenant, name, champion.version) if champion else None
    if model is None:
        return Finding(passed=False, facts={"reason": "it has no model yet"})
    quality = workload.quality
    verdict = quality.verdict(model.metrics)
    if verdict is None:
        return Finding(
            passed=False,
            facts={"reason": f"version {model.version} has no {quality.metric} or no baseline"},
        )
    passed, found = verdict
    return Finding(passed, {"version": model.version, **found})


def endpoint_answers(deployment: Deployment, workload: Workload, tenant: ids.ModelId) -> Finding:
    """Whether the endpoint answers the workload's smoke request with this tenant's champion,
    now."""
    champion = ModelRegistry(deployment).champion(tenant, ids.workload_name(workload.name))
    if champion is None:
        return Finding(passed=False, facts={"reason": "it has no model yet"})
    began = time.perf_counter()
    try:
        invoke(deployment, champion.route, dict(workload.serving.smoke_request))
    except (InvocationRefusedError, EndpointFailedError, UnknownShapeError) as error:
        return Finding(passed=False, facts={"version": champion.version, "reason": str(error)})
    milliseconds = round((time.perf_counter() - began) * 1000, 1)
    return Finding(passed=True, facts={"version": champion.version, "milliseconds": milliseconds})


def age_facts(age: DataAge, at: datetime, reason: str | None) -> dict[str, Any]:
    """The facts that the check ``data_age`` shows."""
    facts: dict[str, Any] = {
        "data_end": age.end.isoformat(),
        "data_age_days": age.days(at),
        "usable_until": age.usable_until.isoformat(),
    }
    return facts | ({"reason": reason} if reason else {})


def young_enough(deployment: Deployment, workload: Workload, tenant: ids.ModelId) -> Finding:
    """Whether the champion's data are young enough for it to predict today."""
    champion = ModelRegistry(deployment).champion(tenant, ids.workload_name(workload.name))
    if champion is None:
        return Finding(passed=False, facts={"reason": "it has no model yet"})
    at = datetime.now(UTC)
    age = data_age(champion.card)
    if age is None:
        return Finding(
            passed=False,
            facts={"reason": f"version {champion.version} does not tell how old its data are"},
        )
    reason = too_old_for(workload, champion.card, at.date())
    return Finding(reason is None, age_facts(age, at, reason))


CHECKS: Final = (
    Check("training_data", "data_quality", "The tenant's last upload could be used.", data_quality),
    Check(
        "fine_tuned_artifact",
        "better_than_baseline",
        "The champion beats the workload's baseline, and scored what is required of any model.",
        better_than_baseline,
    ),
    Check(
        "fine_tuned_artifact",
        DATA_AGE,
        "The champion's data are young enough for it to predict today.",
        young_enough,
        lambda workload: workload.moment is not None,
    ),
    Check(
        "endpoint_registration",
        "endpoint_answers",
        "The endpoint answers with the tenant's champion.",
        endpoint_answers,
    ),
    Check(
        "endpoint_registration",
        DRIFT,
        "The served model is about as good, on data that came after it was made, as it was at "
        "training.",
        drift_of,
        lambda workload: workload.drift is not None,
    ),
)
