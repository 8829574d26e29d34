"""``endpoint_registration``: a tenant's artifact, put where its endpoint serves from, asked once, compared with the champion,
and made champion itself if it is not worse."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from assets.answers import ShownAnswer, answer_for_people
from resources import hosting, keys, storage
from resources.model_registry import Champion, ChampionChanged, ModelRegistry, ModelVersion
from workloads.schema import Workload

if TYPE_CHECKING:
    from resources.deployment import Deployment

_TRIES_AT_THE_POINTER: Final = 5


class ArtifactUnusable(ValueError):  # noqa: N818 - reads as the sentence it is: "artifact unusable"
    """The archive is not what was promised, or its container refuses to load it or to answer with it."""


class NotGoodEnough(ArtifactUnusable):
    """The model answers, and scored worse than its workload requires of any model that serves."""


@dataclass(frozen=True)
class Registration:
    """What became of an artifact. ``champion`` is who serves the tenant now; ``crowned`` tells whether it is this one."""

    champion: Champion
    crowned: bool
    decision: str
    skill: float | None
    champion_skill: float | None
    smoke_milliseconds: float
    answer: ShownAnswer


def register(deployment: Deployment, workload: Workload, model: ModelVersion, endpoint: str) -> Registration:
    """Register a version with the tenant's endpoint. Doing it again changes nothing.

    Args:
        deployment: buckets and clients.
        workload: the smoke request and how quality is compared.
        model: the version.
        endpoint: name of an endpoint in service.

    Raises:
        storage.ObjectMissing: its archive is not in S3 (yet).
        ArtifactUnusable: the archive is not the one that was promised, or its model does not answer.
        NotGoodEnough: it scored worse than the workload requires, and the tenant has no champion to stay with.
        hosting.EndpointFailed: the endpoint is not in service; the version is none the worse for it.
    """
    registry = ModelRegistry(deployment)
    destination = keys.endpoint_model(endpoint, model.tenant, model.version)
    if model.archive != destination:
        _place(deployment, model, destination)
    began = time.perf_counter()
    try:
        smoke = hosting.invoke(
            deployment, endpoint, keys.target_model(model.tenant, model.version), dict(workload.serving.smoke_request)
        )
    except hosting.InvocationRefused as error:
        serving = registry.champion(model.tenant, model.workload)
        if serving is None or serving.version != model.version:
            registry.note(model, "rejected", f"its endpoint did not answer with it: {error}")
        raise ArtifactUnusable(f"the endpoint refused the model: {error}") from error
    milliseconds = (time.perf_counter() - began) * 1000
    answer = answer_for_people(smoke.content)
    quality = workload.quality
    skill = quality.skill(model.metrics)
    for _ in range(_TRIES_AT_THE_POINTER):
        champion = registry.champion(model.tenant, model.workload)
        if champion is not None and champion.version == model.version:
            return Registration(champion, True, "it is the champion", skill, skill, milliseconds, answer)
        reigning = registry.version(model.tenant, model.workload, champion.version) if champion else None
        champion_skill = quality.skill(reigning.metrics) if reigning else None
        if not quality.suffices(model.metrics):
            decision = f"its {quality.metric} is {model.metrics.get(quality.metric)}; {quality.required:g} is required"
            if champion is None:
                registry.note(model, "rejected", decision)
                raise NotGoodEnough(decision)
            return _kept(registry, model, champion, decision, skill, champion_skill, milliseconds, answer)
        if champion is not None and reigning is not None and reigning.version > model.version:
            decision = f"a newer version, {reigning.version}, is the champion already"
            return _kept(registry, model, champion, decision, skill, champion_skill, milliseconds, answer)
        # Skills are of the same sign within a workload; the tolerance is a share of the champion's.
        if champion is not None and skill is not None and champion_skill is not None:
            allowed = champion_skill + abs(champion_skill) * quality.tolerance
            if skill > allowed:
                better = "lower" if quality.lower_is_better else "higher"
                decision = (
                    f"it scored {quality.shown(skill):.3f} where the champion has {quality.shown(champion_skill):.3f}"
                    f" ({better} is better)"
                )
                return _kept(registry, model, champion, decision, skill, champion_skill, milliseconds, answer)
        try:
            crowned = registry.crown(model, endpoint, champion)
        except ChampionChanged:
            continue
        registry.note(model, "champion", "")
        if reigning is not None:
            registry.note(reigning, "former_champion", f"followed by {model.version}")
        decision = "the tenant's first model" if champion is None else f"not worse than {champion.version}"
        return Registration(crowned, True, decision, skill, champion_skill, milliseconds, answer)
    raise ChampionChanged(f"the champion of {model.tenant} changed {_TRIES_AT_THE_POINTER} times while comparing")


def _place(deployment: Deployment, model: ModelVersion, destination: str) -> None:
    size = storage.size(deployment.s3, deployment.data_bucket, model.archive)
    if size != model.size:
        reason = f"the archive has {size} bytes where its outcome promised {model.size}; it may be truncated"
        ModelRegistry(deployment).note(model, "rejected", reason)
        raise ArtifactUnusable(reason)
    storage.copy(deployment.s3, deployment.data_bucket, model.archive, destination)


def _kept(
    registry: ModelRegistry, model: ModelVersion, champion: Champion, decision: str, skill: float | None,
    champion_skill: float | None, milliseconds: float, answer: ShownAnswer,
) -> Registration:  # fmt: skip
    registry.note(model, "rejected", decision)
    return Registration(champion, False, decision, skill, champion_skill, milliseconds, answer)


def roll_back(deployment: Deployment, workload: Workload, tenant: keys.TenantId) -> Champion:
    """Make the previous champion champion again, on the endpoint of its tier, where its archive still lies.

    Raises:
        LookupError: there is no previous version to return to, or its archive was deleted.
    """
    registry = ModelRegistry(deployment)
    name = keys.workload_name(workload.name)
    champion = registry.champion(tenant, name)
    if champion is None or champion.previous is None:
        raise LookupError(f"{tenant} has no previous {workload.name} model to return to")
    previous = registry.version(tenant, name, champion.previous)
    if previous is None:
        raise LookupError(f"version {champion.previous} of {tenant} is not in the registry")
    endpoint = keys.endpoint_name(deployment.prefix, name, previous.tier, tenant)
    archive = keys.endpoint_model(endpoint, tenant, previous.version)
    storage.size(
        deployment.s3, deployment.data_bucket, archive
    )  # ObjectMissing, a LookupError, says which is not there
    crowned = registry.crown(previous, endpoint, champion)
    registry.note(previous, "champion", f"rolled back to from {champion.version}")
    if (outgoing := registry.version(tenant, name, champion.version)) is not None:
        registry.note(outgoing, "former_champion", f"rolled back to {previous.version}")
    return crowned
