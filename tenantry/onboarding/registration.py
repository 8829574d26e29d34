"""``endpoint_registration``: places a tenant's artifact under its endpoint's prefix, asks it once,
compares it with the champion, and crowns it if it is not worse."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tenantry.aws import objects
from tenantry.aws.notices import Notice, tell_tenant
from tenantry.capacity.new_endpoints import Deploy, deploying, ensure_endpoints
from tenantry.errors import TenantryError
from tenantry.hosting import endpoints
from tenantry.hosting.invocation import Answer, InvocationRefusedError, invoke
from tenantry.hosting.route import Route
from tenantry.hosting.shapes.catalogue import route_in, shape_named
from tenantry.models import artifacts
from tenantry.models.quality import comparable, compared, not_sufficient
from tenantry.models.registry import Champion, ChampionChangedError, ModelRegistry, ModelVersion
from tenantry.names import ids
from tenantry.names.tiers import Machines, machines_of
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_TRIES_AT_THE_POINTER: Final = 5


class ArtifactUnusableError(TenantryError, ValueError):
    """The archive does not match its promise, or its container refuses to load it or to answer with
    it.

    ``code`` is ``archive_size_differs``, ``archive_digest_differs``, ``model_refused``,
    ``model_not_answering`` or ``model_not_good_enough``. ``model_refused`` says that the container
    has judged the model or the request, and would do so again.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class NotGoodEnoughError(ArtifactUnusableError):
    """The model answers, and scored worse than its workload requires of any model that serves."""


@dataclass(frozen=True)
class Registration:
    """The result of registering an artifact.

    ``champion`` serves the tenant now; ``crowned`` tells whether it is this artifact. ``reigning``
    is the version it was compared with, if any; ``skill`` and ``champion_skill`` are the compared
    figures (``Quality.skill``, lower being better). ``answer`` is the one to the smoke request,
    after ``smoke_milliseconds``; None for a version that was not deployed, since it lost.
    """

    champion: Champion
    crowned: bool
    decision: str
    skill: float | None
    champion_skill: float | None
    smoke_milliseconds: float | None
    answer: Answer | None
    reigning: ModelVersion | None = None


def register(
    deployment: Deployment,
    workload: Workload,
    model: ModelVersion,
    route: Route,
    *,
    verified: bool = False,
    deploy: Deploy | None = None,
) -> Registration:
    """Register a version with the tenant's endpoint: place it, ask it, repair a dead run's notes,
    compare it, flip the pointer. A repeated call changes nothing, but puts back an archive that the
    endpoint has lost.

    Where a new version is a deployment, it is compared first. It is deployed and asked only if it
    becomes champion. If it does not answer, the champion is deployed again.

    Args:
        deployment: buckets and clients.
        workload: the smoke request and how quality is compared.
        model: the version.
        route: how it is asked; without ``deploy``, on an endpoint in service.
        verified: whether its archive has just been found to match its training's promise.
        deploy: brings a route's version into service, where an endpoint serves one version.

    Raises:
        objects.ObjectMissingError: its archive is not in S3 (yet).
        ArtifactUnusableError: the archive does not match its promise, or its model does not answer.
        NotGoodEnoughError: it scored worse than the workload requires, and the tenant has no
            champion to stay with.
        endpoints.EndpointFailedError: the endpoint is not in service; the version's status stays.
        ChampionChangedError: others kept changing the champion meanwhile.
    """
    registry = ModelRegistry(deployment)
    machines = machines_of(model.tier, model.tenant)
    _place(deployment, registry, model, machines, verified=verified)
    asked: _Asked | None = None
    if deploy is None:
        asked = _ask(deployment, registry, workload, model, route)
    for _ in range(_TRIES_AT_THE_POINTER):
        champion = registry.champion(model.tenant, model.workload)
        reigning = _healed(registry, model, champion) if champion is not None else None
        verdict = _judge(registry, workload, model, champion, reigning)
        serves = verdict.crown or verdict.is_champion
        if deploy is not None and asked is not None and not serves and champion is not None:
            deploy(champion.route)  # another version was crowned since this one was deployed
        if deploy is not None and asked is None and serves:
            _deploy(registry, model, route, deploy)
            try:
                asked = _ask(deployment, registry, workload, model, route)
            except ArtifactUnusableError:
                if champion is not None and champion.endpoint == route.endpoint:
                    deploy(champion.route)
                raise
        try:
            serving = _flip(deployment, registry, model, route, champion, reigning, verdict)
        except ChampionChangedError:
            continue
        return Registration(
            champion=serving,
            crowned=verdict.crown or serving.version == model.version,
            decision=verdict.decision,
            skill=workload.quality.skill(model.metrics),
            champion_skill=(
                workload.quality.skill(comparable(model, reigning)) if reigning else None
            ),
            smoke_milliseconds=asked.milliseconds if asked else None,
            answer=asked.answer if asked else None,
            reigning=None if verdict.is_champion else reigning,
        )
    raise ChampionChangedError(
        f"the champion of {model.tenant} changed {_TRIES_AT_THE_POINTER} times while comparing"
    )


@dataclass(frozen=True)
class _Verdict:
    """The decision about a version. ``is_champion`` tells that it is champion already. ``noted``
    tells that its own note says why it is not crowned, and stays."""

    decision: str
    crown: bool = False
    is_champion: bool = False
    noted: bool = False


def _place(
    deployment: Deployment,
    registry: ModelRegistry,
    model: ModelVersion,
    machines: Machines,
    *,
    verified: bool,
) -> None:
    """Put the archive where the endpoint serves from."""
    try:
        artifacts.place(deployment, model, machines, verified=verified)
    except artifacts.ArchiveDiffersError as error:
        _reject(registry, model, str(error))
        raise ArtifactUnusableError(str(error), error.code) from error


def _deploy(registry: ModelRegistry, model: ModelVersion, route: Route, deploy: Deploy) -> None:
    """Bring a version into service. Raises ``ArtifactUnusableError`` when SageMaker took it back,
    or could not start it."""
    try:
        deploy(route)
    except endpoints.EndpointFailedError as error:
        if not error.judges_the_model:
            raise
        _reject(registry, model, f"it could not be deployed: {error}")
        raise ArtifactUnusableError(
            f"the version could not be deployed: {error}", "model_not_answering"
        ) from error


@dataclass(frozen=True)
class _Asked:
    """The answer to the smoke request, and after how many milliseconds."""

    answer: Answer
    milliseconds: float


def _ask(
    deployment: Deployment,
    registry: ModelRegistry,
    workload: Workload,
    model: ModelVersion,
    route: Route,
) -> _Asked:
    """Ask the endpoint once with the version. Raises ``EndpointFailedError`` when another version
    answers, which another run has deployed meanwhile."""
    began = time.perf_counter()
    try:
        answer = invoke(deployment, route, dict(workload.serving.smoke_request))
    except InvocationRefusedError as error:
        _reject(registry, model, f"its endpoint did not answer with it: {error}")
        judged = error.status is not None and 400 <= error.status < 500
        raise ArtifactUnusableError(
            f"the endpoint refused the model: {error}",
            "model_refused" if judged else "model_not_answering",
        ) from error
    if answer.version not in {None, model.version}:
        raise endpoints.EndpointFailedError(
            f"endpoint {route.endpoint} serves version {answer.version}, which was deployed since"
        )
    return _Asked(answer, (time.perf_counter() - began) * 1000)


def _healed(
    registry: ModelRegistry, model: ModelVersion, champion: Champion
) -> ModelVersion | None:
    """The champion's version. Repairs its note if a run died between pointer and note."""
    reigning = registry.version(model.tenant, model.workload, champion.version)
    if reigning is not None and reigning.status != "champion":
        former = (
            registry.version(model.tenant, model.workload, champion.previous)
            if champion.previous
            else None
        )
        why = "crowned by a run that ended before it could say why"
        note_crowned(registry, reigning, former, why)
    return reigning


def _judge(
    registry: ModelRegistry,
    workload: Workload,
    model: ModelVersion,
    champion: Champion | None,
    reigning: ModelVersion | None,
) -> _Verdict:
    """Whether a version becomes champion, and why. Raises ``NotGoodEnoughError`` for a first model
    that is worse than the workload requires."""
    if champion is None:
        if not workload.quality.suffices(model.metrics):
            decision = not_sufficient(workload, model)
            registry.note(model, "rejected", decision)
            raise NotGoodEnoughError(decision, "model_not_good_enough")
        return _Verdict("the tenant's first model", crown=True)
    if champion.version == model.version:
        return _Verdict("it is the champion", is_champion=True)
    if _was_rolled_back(registry, model, champion):
        # Its own note says who rolled it back, and why.
        decision = f"it was rolled back from; {champion.version} is the champion"
        return _Verdict(decision, noted=True)
    follows, decision = compared(workload, model, champion, reigning)
    if follows:
        return _Verdict(decision, crown=True)
    known = registry.version(model.tenant, model.workload, model.version)
    # A former champion, crowned by a run that died, keeps its note.
    return _Verdict(decision, noted=known is not None and known.status == "former_champion")


def _flip(
    deployment: Deployment,
    registry: ModelRegistry,
    model: ModelVersion,
    route: Route,
    champion: Champion | None,
    reigning: ModelVersion | None,
    verdict: _Verdict,
) -> Champion:
    """Carry out the verdict: the pointer, both versions' notes, and the serving champion's archive.
    Returns the champion. Raises ``ChampionChangedError`` when the pointer moved meanwhile."""
    if champion is None or verdict.crown:
        crowned = registry.crown(model, route, champion)
        note_crowned(registry, model, reigning, verdict.decision)
        return crowned
    if not verdict.is_champion:
        _put_back(deployment, champion, reigning)
        if not verdict.noted:
            registry.note(model, "rejected", verdict.decision)
    return champion


def note_crowned(
    registry: ModelRegistry, model: ModelVersion, former: ModelVersion | None, decision: str
) -> None:
    """Write both versions' notes, the new champion's last: where that is missing, the other's may
    be missing too."""
    if former is not None:
        registry.note(former, "former_champion", f"followed by {model.version}: {decision}")
    registry.note(model, "champion", decision)


def _was_rolled_back(registry: ModelRegistry, model: ModelVersion, champion: Champion) -> bool:
    """Whether the version was rolled back. The registry is read again, because a run may hold an
    older view."""
    if champion.rolled_back_from == model.version:
        return True
    known = registry.version(model.tenant, model.workload, model.version)
    return known is not None and known.status == "rolled_back"


def _reject(registry: ModelRegistry, model: ModelVersion, reason: str) -> None:
    """Note that a version is unusable, unless it is the champion, which has answered before."""
    serving = registry.champion(model.tenant, model.workload)
    if serving is None or serving.version != model.version:
        registry.note(model, "rejected", reason)


def _put_back(deployment: Deployment, champion: Champion, reigning: ModelVersion | None) -> None:
    """Put the champion's archive back at its endpoint if it is lost there. An archive that is kept
    nowhere cannot be put back."""
    machines = machines_of(champion.tier, champion.tenant)
    placed = artifacts.placed_key(
        deployment, champion.workload, champion.tenant, champion.version, machines
    )
    if reigning is None or objects.exists(deployment.s3, deployment.data_bucket, placed):
        return
    with suppress(objects.ObjectMissingError, artifacts.ArchiveDiffersError):
        artifacts.place(deployment, reigning, machines)


def roll_back(
    deployment: Deployment,
    workload: Workload,
    tenant: ids.ModelId,
    *,
    to: ids.Version | None = None,
    why: str = "",
    by: str = "an operator",
) -> Champion:
    """Make an earlier champion champion again, on the endpoint of its tier, once it has answered
    there; tell its owner.

    The version that is rolled back becomes champion again only if a caller names it in ``to``. It
    stays out if it is registered again, at a further rollback, and after re-training on the same
    data in the same way.

    Args:
        deployment: tables, bucket and endpoints.
        workload: the smoke request.
        tenant: whose model.
        to: the version to return to; by default the champion's predecessor.
        why: for the versions' notes, as a sentence.
        by: the actor.

    Returns:
        The champion; the present one if it is the version to return to already.

    Raises:
        LookupError: there is no such version, none to return to, or its archive was deleted
            everywhere.
        ArtifactUnusableError: its archive does not match its promise, or its container refuses to
            answer with it; the champion stays.
        endpoints.EndpointFailedError: its endpoint is not in service; the champion stays.
        ChampionChangedError: another version became champion meanwhile. Look at that one first: no
            operator has judged it yet.
    """
    registry = ModelRegistry(deployment)
    name = ids.workload_name(workload.name)
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
        hint = (
            f"; versions rolled back from, which `to` can name: {', '.join(left)}" if left else ""
        )
        raise LookupError(
            f"{tenant} has no {workload.name} model before {seen.version} to return to{hint}"
        )
    previous = versions.get(returned_to)
    if previous is None:
        raise LookupError(
            f"{tenant} has no {workload.name} version {returned_to}; its versions: "
            f"{', '.join(sorted(versions)) or 'none'}"
        )
    machines = machines_of(previous.tier, tenant)
    route = route_in(deployment.prefix, workload, previous.tier, tenant, previous.version)
    try:
        artifacts.place(deployment, previous, machines)
    except artifacts.ArchiveDiffersError as error:
        said = f"{tenant} stays with {seen.version}: of {previous.version} {error}"
        raise ArtifactUnusableError(said, error.code) from error
    began, deploy = datetime.now(UTC), None
    with ExitStack() as until_crowned:
        if shape_named(route.shape).deploys:
            deploy = until_crowned.enter_context(deploying(deployment, workload, machines, began))
            deploy(route)
        else:
            found = endpoints.describe_endpoint(deployment, route.endpoint)
            if found is None or found["EndpointStatus"] in endpoints.TO_BE_MADE_ANEW:
                # It was removed, as it served nobody for long (``tenantry.tenants.unused``).
                ensure_endpoints(deployment, workload, machines, began)
        try:
            invoke(deployment, route, dict(workload.serving.smoke_request))
        except InvocationRefusedError as error:
            if deploy is not None and seen.endpoint == route.endpoint:
                deploy(seen.route)
            raise ArtifactUnusableError(
                f"{tenant} stays with {seen.version}: {previous.version} does not answer: {error}",
                "model_not_answering",
            ) from error
        try:
            crowned = registry.return_to(
                previous, route, seen, _predecessor(list(versions.values()), previous, seen)
            )
        except ChampionChangedError as error:
            champion = registry.champion(tenant, name)
            if champion is not None and champion.version == previous.version:
                return champion  # another process rolled back at the same time
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
) -> ids.Version | None:
    """The version that a further rollback would return to: the last champion made before that was
    not rolled back.

    A former champion still has the status ``champion`` if a process died before it wrote the note.
    """
    earlier = [
        version.version
        for version in versions
        if version.status in {"former_champion", "champion"}
        and version.made < model.made
        and version.version != seen.version
    ]
    return earlier[-1] if earlier else None
