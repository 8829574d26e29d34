"""``endpoint_registration``: a tenant's artifact, put where its endpoint serves from, asked once,
compared with the champion, and made champion itself if it is not worse."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from tenantry.aws import objects
from tenantry.aws.notices import Notice, tell_tenant
from tenantry.errors import TenantryError
from tenantry.hosting import endpoints
from tenantry.models import artifacts
from tenantry.models.registry import Champion, ChampionChangedError, ModelRegistry, ModelVersion
from tenantry.names import keys
from tenantry.requests.newest import Moment, is_older
from tenantry.shown.answers import ShownAnswer, answer_for_people
from tenantry.shown.report import Markdown
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_TRIES_AT_THE_POINTER: Final = 5


class ArtifactUnusableError(TenantryError, ValueError):
    """The archive is not what was promised, or its container refuses to load it or to answer with
    it.

    ``code`` is ``archive_size_differs``, ``archive_digest_differs``, ``model_not_answering`` or
    ``model_not_good_enough``.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class NotGoodEnoughError(ArtifactUnusableError):
    """The model answers, and scored worse than its workload requires of any model that serves."""


@dataclass(frozen=True)
class Registration:
    """What became of an artifact.

    ``champion`` is who serves the tenant now; ``crowned`` tells whether it is this one.
    ``reigning`` is the version it was compared with, if any; ``skill`` and ``champion_skill`` are
    what was compared (``Quality.skill``, lower being better).
    """

    champion: Champion
    crowned: bool
    decision: str
    skill: float | None
    champion_skill: float | None
    smoke_milliseconds: float
    answer: ShownAnswer
    reigning: ModelVersion | None = None


def register(
    deployment: Deployment,
    workload: Workload,
    model: ModelVersion,
    endpoint: str,
    *,
    verified: bool = False,
) -> Registration:
    """Register a version with the tenant's endpoint. Doing it again changes nothing, and puts back
    what the endpoint has lost.

    Args:
        deployment: buckets and clients.
        workload: the smoke request and how quality is compared.
        model: the version.
        endpoint: name of an endpoint in service.
        verified: whether its archive has just been found to be what its training promised.

    Raises:
        storage.ObjectMissingError: its archive is not in S3 (yet).
        ArtifactUnusableError: the archive is not the one that was promised, or its model does not
            answer.
        NotGoodEnoughError: it scored worse than the workload requires, and the tenant has no
            champion to stay with.
        hosting.EndpointFailedError: the endpoint is not in service; the version is none the worse
        for it.
    """
    registry = ModelRegistry(deployment)
    try:
        artifacts.place(deployment, model, endpoint, verified=verified)
    except artifacts.ArchiveDiffersError as error:
        _reject(registry, model, str(error))
        raise ArtifactUnusableError(str(error), error.code) from error
    began = time.perf_counter()
    try:
        smoke = endpoints.invoke(
            deployment,
            endpoint,
            keys.target_model(model.tenant, model.version),
            dict(workload.serving.smoke_request),
        )
    except endpoints.InvocationRefusedError as error:
        _reject(registry, model, f"its endpoint did not answer with it: {error}")
        raise ArtifactUnusableError(
            f"the endpoint refused the model: {error}", "model_not_answering"
        ) from error
    milliseconds = (time.perf_counter() - began) * 1000
    outcome = partial(
        Registration,
        skill=workload.quality.skill(model.metrics),
        smoke_milliseconds=milliseconds,
        answer=answer_for_people(smoke.content),
    )
    for _ in range(_TRIES_AT_THE_POINTER):
        champion = registry.champion(model.tenant, model.workload)
        reigning, champion_skill = None, None
        if champion is None:
            if not workload.quality.suffices(model.metrics):
                decision = _not_sufficient(workload, model)
                registry.note(model, "rejected", decision)
                raise NotGoodEnoughError(decision, "model_not_good_enough")
            decision = "the tenant's first model"
        else:
            reigning = registry.version(model.tenant, model.workload, champion.version)
            champion_skill = (
                workload.quality.skill(_comparable(model, reigning)) if reigning else None
            )
            if reigning is not None and reigning.status != "champion":
                former = (
                    registry.version(model.tenant, model.workload, champion.previous)
                    if champion.previous
                    else None
                )
                _note_crowned(
                    registry,
                    reigning,
                    former,
                    "crowned by a run that ended before it could say why",
                )
            if champion.version == model.version:
                return outcome(champion, True, "it is the champion", champion_skill=champion_skill)
            if _was_rolled_back(registry, model, champion):
                # Its own note stays: it says who turned away from it, and why.
                decision = f"it was rolled back from; {champion.version} is the champion"
                _put_back(deployment, champion, reigning)
                return outcome(
                    champion, False, decision, champion_skill=champion_skill, reigning=reigning
                )
            follows, decision = _compared(workload, model, champion, reigning)
            if not follows:
                _put_back(deployment, champion, reigning)
                known = registry.version(model.tenant, model.workload, model.version)
                # else a run that died had crowned it
                if known is None or known.status != "former_champion":
                    registry.note(model, "rejected", decision)
                return outcome(
                    champion, False, decision, champion_skill=champion_skill, reigning=reigning
                )
        try:
            crowned = registry.crown(model, endpoint, champion)
        except ChampionChangedError:
            continue
        _note_crowned(registry, model, reigning, decision)
        return outcome(crowned, True, decision, champion_skill=champion_skill, reigning=reigning)
    raise ChampionChangedError(
        f"the champion of {model.tenant} changed {_TRIES_AT_THE_POINTER} times while comparing"
    )


def _note_crowned(
    registry: ModelRegistry, model: ModelVersion, former: ModelVersion | None, decision: str
) -> None:
    """Write what became of both versions, the new champion's last: where that is missing, the
    other's may be missing too."""
    if former is not None:
        registry.note(former, "former_champion", f"followed by {model.version}: {decision}")
    registry.note(model, "champion", decision)


def _was_rolled_back(registry: ModelRegistry, model: ModelVersion, champion: Champion) -> bool:
    """Whether somebody turned away from the version, as the registry has it now: a run may hold an
    older view of it."""
    if champion.rolled_back_from == model.version:
        return True
    known = registry.version(model.tenant, model.workload, model.version)
    return known is not None and known.status == "rolled_back"


def _reject(registry: ModelRegistry, model: ModelVersion, reason: str) -> None:
    """Note that a version is of no use, unless it is the champion: that one answered before."""
    serving = registry.champion(model.tenant, model.workload)
    if serving is None or serving.version != model.version:
        registry.note(model, "rejected", reason)


def _put_back(deployment: Deployment, champion: Champion, reigning: ModelVersion | None) -> None:
    """Give the champion's endpoint its archive again, should it have lost it. What is kept nowhere
    cannot be put back."""
    placed = keys.endpoint_model(champion.endpoint, champion.tenant, champion.version)
    if reigning is None or objects.exists(deployment.s3, deployment.data_bucket, placed):
        return
    with suppress(objects.ObjectMissingError, artifacts.ArchiveDiffersError):
        artifacts.place(deployment, reigning, champion.endpoint)


def _not_sufficient(workload: Workload, model: ModelVersion) -> str:
    quality = workload.quality
    return (
        f"its {quality.metric} is {model.metrics.get(quality.metric)}; {quality.required:g} is "
        f"required"
    )


def _compared(
    workload: Workload, model: ModelVersion, champion: Champion, reigning: ModelVersion | None
) -> tuple[bool, str]:
    """Whether a challenger follows the champion, and why, as a sentence with the figures."""
    quality = workload.quality
    if not quality.suffices(model.metrics):
        return False, _not_sufficient(workload, model)
    if is_older(model.version, champion.version):
        return False, f"a newer version, {champion.version}, is the champion already"
    skill = quality.skill(model.metrics)
    champion_skill = quality.skill(_comparable(model, reigning)) if reigning else None
    if skill is None or champion_skill is None:
        lacking = model.version if skill is None else champion.version
        return (
            True,
            (
                f"it follows {champion.version} without a comparison: {lacking} has no "
                f"{quality.compared}"
            ),
        )
    better = "lower" if quality.lower_is_better else "higher"
    where = " on the same data" if reigning and _has_fresh_score(model, reigning) else ""
    scores = (
        f"it scored {quality.shown(skill):.3f} where the champion has "
        f"{quality.shown(champion_skill):.3f}{where} ({better} is better)"
    )
    if quality.is_worse(skill, champion_skill, quality.tolerance):
        return False, scores
    return True, f"not worse than {champion.version}: {scores}"


def _has_fresh_score(challenger: ModelVersion, champion: ModelVersion) -> bool:
    """Whether it is known what the champion was worth on the challenger's data."""
    fresh = champion.fresh
    return fresh is not None and Moment.of(fresh.data) == Moment.of(challenger.version)


def _comparable(challenger: ModelVersion, champion: ModelVersion) -> Mapping[str, float]:
    """The champion's metrics on the challenger's data where they are known, and at its own training
    elsewhere.

    What it promised when it was made is no measure once its world has changed: any challenger would
    seem to be worse.
    """
    fresh = champion.fresh
    return (
        fresh.metrics
        if fresh is not None and _has_fresh_score(challenger, champion)
        else champion.metrics
    )


def comparison(workload: Workload, challenger: ModelVersion, champion: ModelVersion) -> Markdown:
    """Challenger and champion side by side: every figure either has, and when and how each was
    made.

    The first row is what is compared, between the first two columns of figures; the others are for
    people.
    """
    quality = workload.quality
    better = "lower" if quality.lower_is_better else "higher"
    columns = {f"challenger {challenger.version}": (challenger, challenger.metrics)}
    if _has_fresh_score(challenger, champion):
        columns[f"champion {champion.version} on the same data"] = (
            champion,
            _comparable(challenger, champion),
        )
        columns["champion at its training"] = (champion, champion.metrics)
    else:
        columns[f"champion {champion.version}"] = (champion, champion.metrics)
    skills = [quality.skill(metrics) for _, metrics in columns.values()]
    rows = [
        [
            f"**{quality.compared}**",
            *(_figure(None if skill is None else quality.shown(skill)) for skill in skills),
        ]
    ]
    names = dict.fromkeys(name for _, metrics in columns.values() for name in metrics)
    rows += [
        [name, *(_figure(metrics.get(name)) for _, metrics in columns.values())] for name in names
    ]
    rows.append(["made", *(f"{model.made:%Y-%m-%d %H:%M} UTC" for model, _ in columns.values())])
    rows.append(["recipe", *(model.recipe or "unknown" for model, _ in columns.values())])
    table = [[f"{better} is better", *columns], ["---"] * (len(columns) + 1), *rows]
    note = (
        f"A challenger up to {quality.tolerance:.0%} worse than the champion follows it: it "
        f"has seen newer data."
    )
    return Markdown("\n".join(f"| {' | '.join(row)} |" for row in table) + f"\n\n{note}")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def roll_back(
    deployment: Deployment,
    workload: Workload,
    tenant: keys.TenantId,
    *,
    to: keys.Version | None = None,
    why: str = "",
    by: str = "an operator",
) -> Champion:
    """Make an earlier champion champion again, on the endpoint of its tier, once it has answered
    there; tell its owner.

    The version that is turned away from will not become champion again unless somebody names it in
    ``to``: neither by registering it again, nor by rolling back further, nor by a re-training of
    the same data in the same way.

    Args:
        deployment: tables, bucket and endpoints.
        workload: the smoke request.
        tenant: whose model.
        to: the version to return to; by default the champion's predecessor.
        why: for the versions' notes, as a sentence.
        by: who does it.

    Returns:
        The champion; the one that is, when it is the version to return to already.

    Raises:
        LookupError: there is no such version, none to return to, or its archive was deleted
            everywhere.
        ArtifactUnusableError: its archive is not what was promised, or its container refuses to
            answer with it; the champion stays.
        hosting.EndpointFailedError: its endpoint is not in service; the champion stays.
        ChampionChangedError: another version became champion meanwhile. Look at that one; nobody
            has judged it yet.
    """
    registry = ModelRegistry(deployment)
    name = keys.workload_name(workload.name)
    seen = registry.champion(tenant, name)
    if seen is None:
        raise LookupError(
            f"{tenant} has no {workload.name} model yet, so there is none to return to"
        )
    returned_to = to or seen.previous
    if returned_to == seen.version:
        return seen
    versions = {model.version: model for model in registry.versions(tenant, name)}
    if returned_to is None:
        left = [model.version for model in versions.values() if model.status == "rolled_back"]
        hint = f"; versions rolled back from, which can be named: {', '.join(left)}" if left else ""
        raise LookupError(
            f"{tenant} has no {workload.name} model before {seen.version} to return to{hint}"
        )
    previous = versions.get(returned_to)
    if previous is None:
        raise LookupError(f"version {returned_to} of {tenant} is not in the registry")
    endpoint = keys.endpoint_name(deployment.prefix, name, previous.tier, tenant)
    try:
        artifacts.place(deployment, previous, endpoint)
    except artifacts.ArchiveDiffersError as error:
        said = f"{tenant} stays with {seen.version}: of {previous.version} {error}"
        raise ArtifactUnusableError(said, error.code) from error
    try:
        endpoints.invoke(
            deployment,
            endpoint,
            keys.target_model(tenant, previous.version),
            dict(workload.serving.smoke_request),
        )
    except endpoints.InvocationRefusedError as error:
        raise ArtifactUnusableError(
            f"{tenant} stays with {seen.version}: {previous.version} does not answer: {error}",
            "model_not_answering",
        ) from error
    try:
        crowned = registry.return_to(
            previous, endpoint, seen, _predecessor(list(versions.values()), previous, seen)
        )
    except ChampionChangedError as error:
        champion = registry.champion(tenant, name)
        if champion is not None and champion.version == previous.version:
            return champion  # somebody else rolled back at the same time
        raise ChampionChangedError(
            f"{tenant} was to be rolled back from {seen.version}, and "
            f"{champion.version if champion else 'none'} became"
            " champion meanwhile; look at that one, and roll back from it if need be"
        ) from error
    said = f" by {by}" + (f": {why}" if why else "")
    registry.note(previous, "champion", f"rolled back to from {seen.version}{said}")
    if (outgoing := versions.get(seen.version)) is not None:
        registry.note(outgoing, "rolled_back", f"rolled back to {previous.version}{said}")
    message = (
        f"Your {workload.title.lower()} are made by your model of {previous.made:%d %B %Y} again."
    )
    tell_tenant(
        deployment, Notice("model_rolled_back", name, tenant, message, version=previous.version)
    )
    return crowned


def _predecessor(
    versions: Sequence[ModelVersion], model: ModelVersion, seen: Champion
) -> keys.Version | None:
    """What a further rollback would return to: the last champion made before, of those nobody
    turned away from.

    One whose note was lost with the process that was to write it is still called a champion.
    """
    earlier = [
        version.version
        for version in versions
        if version.status in {"former_champion", "champion"}
        and version.made < model.made
        and version.version != seen.version
    ]
    return earlier[-1] if earlier else None
