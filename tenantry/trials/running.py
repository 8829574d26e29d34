"""A trial's life: it starts once its version has answered, and ends by promotion, by a person, or
because its version fails too often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tenantry.aws import objects
from tenantry.aws.notices import Notice, tell_operators, tell_tenant
from tenantry.errors import TenantryError
from tenantry.hosting.invocation import InvocationRefusedError, invoke
from tenantry.hosting.shapes.catalogue import shape_named
from tenantry.models import artifacts
from tenantry.models.registry import (
    Champion,
    ChampionChangedError,
    ModelRegistry,
    ModelVersion,
    card_beside_the_pointer,
)
from tenantry.models.trial import Trial, share
from tenantry.names import ids, table_keys
from tenantry.names.tiers import machines_of
from tenantry.onboarding.registration import note_crowned
from tenantry.requests.rows import now
from tenantry.shown import operator_events
from tenantry.trials.exchanges import exchanges_of
from tenantry.trials.verdict import Fails
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

GUARD = "the guard of trials"
_PROMOTED = "promoted after its trial"
_MAX_BY = 100  # characters


class TrialRefusedError(TenantryError, ValueError):
    """There can be no such trial, or none runs; the message says why and what would work."""


@dataclass(frozen=True)
class Ended:
    """A trial that is over, and the champion that serves the tenant."""

    trial: Trial
    champion: Champion


def start(
    deployment: Deployment,
    workload: Workload,
    tenant: ids.ModelId,
    version: ids.Version,
    *,
    percent: int = 20,
    by: str,
    why: str = "",
) -> Champion:
    """Let a version answer a share of its tenant's requests beside the champion, on the champion's
    endpoint, once it has answered the smoke request there. A repeated call changes nothing.

    Args:
        deployment: tables, bucket and endpoint.
        workload: the smoke request.
        tenant: whose model.
        version: any of the tenant's versions but the champion.
        percent: its share, 1 to 50.
        by: the actor.
        why: the reason, as a sentence.

    Raises:
        TrialRefusedError: there can be no such trial.
        EndpointFailedError: the endpoint is not in service.
        UnknownShapeError: a later release serves the tenant.
        ChampionChangedError: the champion, or its trial, changed meanwhile.
    """
    registry, name = ModelRegistry(deployment), ids.workload_name(workload.name)
    try:
        percent = share(percent)
    except ValueError as error:
        raise TrialRefusedError(str(error)) from error
    champion = registry.champion(tenant, name)
    if champion is None:
        raise TrialRefusedError(f"{tenant} has no {name} model yet, so there is none to compare")
    running = champion.trial
    if running is not None:
        if (running.version, running.percent) == (version, percent):
            _remember(deployment, champion)
            return champion
        raise TrialRefusedError(
            f"{running.version} is on trial with {running.percent} % of the requests of {tenant}; "
            f"promote or end it first"
        )
    model = _model(registry, champion, version)
    _must_serve_any_version(champion)
    route = replace(champion.route, version=version)
    try:
        artifacts.place(deployment, model, machines_of(champion.tier, tenant))
        invoke(deployment, route, dict(workload.serving.smoke_request))
    except (
        artifacts.ArchiveDiffersError,
        objects.ObjectMissingError,
        InvocationRefusedError,
    ) as error:
        raise TrialRefusedError(f"{version} of {tenant} cannot be tried: {error}") from error
    trial = Trial(
        version=version,
        route=route,
        percent=percent,
        since=now(),
        by=by[:_MAX_BY],
        why=why[:1000],
        card=card_beside_the_pointer(model),
        traceparent=model.traceparent,
    )
    champion = registry.note_trial(champion, trial)
    _remember(deployment, champion)
    return champion


def _model(registry: ModelRegistry, champion: Champion, version: ids.Version) -> ModelVersion:
    if version == champion.version:
        raise TrialRefusedError(f"{version} is the champion of {champion.tenant} already")
    versions = {one.version: one for one in registry.versions(champion.tenant, champion.workload)}
    if version not in versions:
        others = ", ".join(sorted(versions.keys() - {champion.version})) or "none"
        raise TrialRefusedError(
            f"{champion.tenant} has no {champion.workload} version {version}; those that can be "
            f"tried: {others}"
        )
    return versions[version]


def _must_serve_any_version(champion: Champion) -> None:
    if shape_named(champion.route.shape).deploys:
        raise TrialRefusedError(
            f"endpoint {champion.endpoint} has the shape {champion.route.shape}, which serves one "
            f"deployed version, so a second one cannot answer beside it. `hosting.updates` tries a "
            f"new version on a part of the traffic while it is deployed, and `hosting.shadow` asks "
            f"another image beside the endpoint (docs/hosting.md); or serve {champion.tenant} from "
            f"a tier whose shape is multi_model, container_managed or pipeline"
        )


def promote(
    deployment: Deployment, workload: Workload, tenant: ids.ModelId, *, by: str, why: str = ""
) -> Ended | Champion:
    """Make the version on trial the champion, and tell the tenant's owner. The former champion is
    what a rollback returns to.

    Returns:
        The ended trial; only the champion where it was promoted by an earlier call.

    Raises:
        TrialRefusedError: no trial runs.
        ChampionChangedError: another version became champion meanwhile, which ended the trial.
    """
    registry, name = ModelRegistry(deployment), ids.workload_name(workload.name)
    champion = registry.champion(tenant, name)
    trial = None if champion is None else champion.trial
    if champion is None or trial is None:
        served = None if champion is None else registry.version(tenant, name, champion.version)
        if champion is not None and served is not None and served.note.startswith(_PROMOTED):
            return champion
        raise TrialRefusedError(f"no version of {tenant} is on trial for {name}")
    model, former = (
        registry.version(tenant, name, version) for version in (trial.version, champion.version)
    )
    if model is None:
        raise TrialRefusedError(f"version {trial.version} of {tenant} is not in the registry")
    said = _told(deployment, champion, trial)
    # It goes on where it was tried: on the former champion's machines.
    crowned = registry.crown(replace(model, tier=champion.tier), trial.route, champion)
    note_crowned(registry, model, former, f"{_PROMOTED} {said}, by {by}{_because(why)}")
    message = f"Your {workload.title.lower()} are made by your model of {model.made:%d %B %Y} now."
    tell_tenant(deployment, Notice("model_ready", name, tenant, message, version=trial.version))
    return Ended(trial, crowned)


def end(
    deployment: Deployment, workload: Workload, tenant: ids.ModelId, *, by: str, why: str = ""
) -> Ended | None:
    """Let the champion answer all requests again. Returns the ended trial; None where none runs.

    Raises:
        ChampionChangedError: another process changed the champion, or its trial, meanwhile.
    """
    registry, name = ModelRegistry(deployment), ids.workload_name(workload.name)
    champion = registry.champion(tenant, name)
    trial = None if champion is None else champion.trial
    if champion is None or trial is None:
        return None
    said = _told(deployment, champion, trial)
    champion = registry.note_trial(champion, None)
    model = registry.version(tenant, name, trial.version)
    if model is not None:
        earlier = f"; before: {model.note}" if model.note else ""
        registry.note(
            model, model.status, f"its trial {said} was ended by {by}{_because(why)}{earlier}"
        )
    return Ended(trial, champion)


def guard(deployment: Deployment, workload: Workload) -> list[Ended]:
    """End the trials of a workload whose version fails too often (``Fails.too_often``), and tell
    the operators. It costs a call where no trial runs."""
    name, registry = ids.workload_name(workload.name), ModelRegistry(deployment)
    item = table_keys.trials_item(name)
    tenants = sorted((deployment.requests.get(item) or {}).get("tenants", ()))
    champions = registry.champions_of(name, [ids.model_id(one) for one in tenants])
    ended = list[Ended]()
    for tenant in tenants:
        champion = champions.get(ids.model_id(tenant))
        trial = None if champion is None else champion.trial
        if champion is None or trial is None:
            deployment.requests.update(item, deleting={"tenants": {tenant}})
            continue
        fails = Fails.of(list(exchanges_of(deployment, name, champion.tenant, trial, now())))
        if not fails.too_often:
            continue
        try:
            done = end(deployment, workload, champion.tenant, by=GUARD, why=str(fails))
        except ChampionChangedError:
            continue  # the next look sees what became of it
        if done is not None:
            ended.append(done)
            metadata = ended_metadata(done, by=GUARD, why=str(fails))
            event = operator_events.OperatorEvent(
                "observation", name, "endpoint_registration", champion.tenant, metadata
            )
            operator_events.leave(deployment, event)
    if ended:
        lines = [f"{one.champion.tenant}: {one.trial.version}" for one in ended]
        tell_operators(
            deployment,
            f"{name}: {len(ended)} trials ended, as their versions failed too often",
            "\n".join([*lines, "The champions answer all requests again."]),
        )
    return ended


def started_metadata(
    champion: Champion, version: ids.Version, percent: int, *, by: str, why: str = ""
) -> Mapping[str, Any]:
    """For ``endpoint_registration``: a trial that began."""
    return {
        "decision": f"{version} on trial beside {champion.version}, {percent} %",
        "trial": version,
        "champion": champion.version,
        "trial_percent": percent,
        "by": by,
        **({"why": why} if why else {}),
    }


def ended_metadata(done: Ended, *, by: str, why: str = "") -> Mapping[str, Any]:
    """For ``endpoint_registration``: a trial that ended, by promotion or without."""
    promoted = done.champion.version == done.trial.version
    outcome = "promoted" if promoted else f"ended; {done.champion.version} stays the champion"
    return {
        "decision": f"trial of {done.trial.version}: {outcome}",
        "trial": done.trial.version,
        "champion": done.champion.version,
        **({"previous": done.champion.previous} if promoted and done.champion.previous else {}),
        "by": by,
        **({"why": why} if why else {}),
    }


def _remember(deployment: Deployment, champion: Champion) -> None:
    """Let the guard look at a tenant's trial."""
    item = table_keys.trials_item(champion.workload)
    deployment.requests.update(item, adding={"tenants": {str(champion.tenant)}})


def _told(deployment: Deployment, champion: Champion, trial: Trial) -> str:
    fails = Fails.of(
        list(exchanges_of(deployment, champion.workload, champion.tenant, trial, now()))
    )
    return (
        f"with {trial.percent} % since {trial.since:%Y-%m-%d %H:%M} UTC "
        f"({fails.requests} requests, {fails.failures} failures of its own)"
    )


def _because(why: str) -> str:
    return f": {why}" if why else ""
