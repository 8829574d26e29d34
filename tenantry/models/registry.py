"""The models table: each tenant's versions, and which of them is the champion it is served by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from boto3.dynamodb.conditions import Attr, ConditionBase, Key

from tenantry.aws.tables import MISSING, ConditionNotMetError
from tenantry.errors import TenantryError
from tenantry.hosting.route import Route
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.models.trial import Trial
from tenantry.names import ids, table_keys, tiers
from tenantry.requests.rows import now

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

# characters of a card that stands beside the pointer: reading all champions reads them all
_MAX_CARD: Final = 4096

_MAX_WHY: Final = 1000  # characters kept of a reason
ModelStatus = Literal["trained", "champion", "former_champion", "rolled_back", "rejected"]


class ChampionChangedError(TenantryError, RuntimeError):
    """Another version became champion, or its trial changed, since it was looked at."""


@dataclass(frozen=True)
class FreshScore:
    """The score of a served version on data that came after it was made: those prepared as
    ``data``, for another version."""

    data: ids.Version
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class ModelVersion:
    """An artifact: an immutable version of a tenant's model.

    ``archive`` is the key of its ``tar.gz`` in the data bucket, where nothing expires. ``left`` is
    the key under which its training left it, beside its outcome and its other files; all of these
    expire. In versions from before archives were kept, ``archive`` is that key and ``left`` is
    empty. ``size`` is in bytes; ``metrics`` are the container's. ``recipe`` is the workload's when
    it was made: another one would have made another model of the same data. ``fresh`` is its latest
    score on newer data, if there were any. ``traceparent`` is the trace of its upload, as W3C
    writes it; empty for versions of releases without.
    """

    tenant: ids.ModelId
    workload: ids.WorkloadName
    version: ids.Version
    tier: tiers.Tier
    archive: str
    size: int
    sha256: str
    request: ids.RequestId
    job: str
    status: ModelStatus = "trained"
    metrics: Mapping[str, float] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    made: datetime = field(default_factory=now)
    note: str = ""
    recipe: str = ""
    fresh: FreshScore | None = None
    left: str = ""
    traceparent: str = ""

    @property
    def beside(self) -> str:
        """The key of the archive beside which its training left the outcome and other files, for as
        long as they last."""
        return self.left or self.archive


@dataclass(frozen=True)
class Champion:
    """The pointer to the version a tenant is served by; ``route`` is how it is asked.

    ``previous`` is the version that a rollback returns to. ``rolled_back_from`` is the version that
    a rollback replaced by this one. ``made`` is when the version was made, and ``recipe`` how; both
    are unknown for a champion from before they were kept. ``retraining`` names the occasion on
    which a re-training was last asked for. ``card`` is the version's, so that asking needs one
    read; it is empty if it is large. ``told_too_old`` tells whether its owner knows that its data
    are too old to predict from. ``traceparent`` is the version's. ``trial`` is a version that
    answers a share of the requests beside it.
    """

    tenant: ids.ModelId
    workload: ids.WorkloadName
    version: ids.Version
    route: Route
    tier: tiers.Tier
    previous: ids.Version | None
    since: datetime
    turn: int  # counts the flips; each is conditional on the one before
    made: datetime | None = None
    recipe: str = ""
    rolled_back_from: ids.Version | None = None
    retraining: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    told_too_old: bool = False
    traceparent: str = ""
    trial: Trial | None = None

    @property
    def endpoint(self) -> str:
        """The endpoint of its route."""
        return self.route.endpoint

    def as_if(self, trial: Trial) -> Champion:
        """The champion that the tenant would have if the trial's version were it: whom to ask, and
        under which name to keep the answers."""
        return replace(
            self,
            version=trial.version,
            route=trial.route,
            card=trial.card,
            traceparent=trial.traceparent,
            trial=None,
        )


@dataclass(frozen=True)
class ModelRegistry:
    """The versions and champions of all workloads, and each tenant's own settings."""

    deployment: Deployment

    # ---- tenants' settings -----------------------------------------------------------------------

    def tier(
        self, tenant: ids.ModelId, workload: ids.WorkloadName, default: tiers.Tier
    ) -> tiers.Tier:
        """The tenant's own tier, or the workload's."""
        return self.own_tier(tenant, workload) or default

    def own_tier(self, tenant: ids.ModelId, workload: ids.WorkloadName) -> tiers.Tier | None:
        """The tier that was set for the tenant; None where none was, so that the workload's
        holds."""
        row = self.deployment.models.get(table_keys.tenant_item(tenant, workload))
        return row["tier"] if row else None

    def tier_and_champion(
        self, tenant: ids.ModelId, workload: ids.WorkloadName, default: tiers.Tier
    ) -> tuple[tiers.Tier, Champion | None]:
        """``tier`` and ``champion`` in one call."""
        its_tier = table_keys.tenant_item(tenant, workload)
        its_champion = table_keys.champion_item(tenant, workload)
        rows = self.deployment.models.get_many([its_tier, its_champion])
        found = {row["item"]: row for row in rows}
        tenants, champion = found.get(its_tier.sort), found.get(its_champion.sort)
        return tenants["tier"] if tenants else default, _champion(champion) if champion else None

    def named_models(self, tenant: ids.TenantId, workload: ids.WorkloadName) -> list[ids.ModelId]:
        """A tenant's models of a workload beside its default one: those that it has uploaded
        for."""
        row = self.deployment.models.get(table_keys.named_models_item(tenant, workload)) or {}
        return [ids.model_of(tenant, ids.ModelName(name)) for name in sorted(row.get("names", ()))]

    def models_of(self, tenant: ids.TenantId, workload: ids.WorkloadName) -> list[ids.ModelId]:
        """Every model that a tenant may have, the default one first."""
        return [tenant, *self.named_models(tenant, workload)]

    def note_name(self, model: ids.ModelId, workload: ids.WorkloadName, most: int) -> bool:
        """Note that a tenant has a model of that name. Returns False where it has ``most`` models
        already, the default one among them, and this would be another."""
        if ids.name_of(model) == ids.DEFAULT_MODEL:
            return True
        names, name = Attr("names"), str(ids.name_of(model))
        room = names.contains(name) | names.size().lt(most - 1)
        if most > 1:
            room |= names.not_exists()
        try:
            key = table_keys.named_models_item(model, workload)
            self.deployment.models.update(key, adding={"names": {name}}, only_if=room)
        except ConditionNotMetError:
            return False
        return True

    def set_tier(
        self,
        tenant: ids.ModelId,
        workload: ids.WorkloadName,
        tier: tiers.Tier,
        *,
        by: str = "tenantry",
        why: str = "",
    ) -> None:
        """Give a tenant a tier of its own: models of requests that are taken in from now on are
        made and served there."""
        said = {"tier": tier, "by": by[:100], "why": why[:_MAX_WHY], "at": now().isoformat()}
        self.deployment.models.put(table_keys.tenant_item(tenant, workload), said)

    # ---- versions --------------------------------------------------------------------------------

    def add(self, model: ModelVersion) -> None:
        """Record a version; recording the same one again changes nothing."""
        row = {
            "version": model.version,
            "tier": model.tier,
            "archive": model.archive,
            "size": model.size,
            "sha256": model.sha256,
            "request": model.request,
            "job": model.job,
            "status": model.status,
            # JSON text keeps floats as they are; DynamoDB's numbers would need decimals
            "metrics": json.dumps(dict(model.metrics)),
            "card": json.dumps(dict(model.card)),
            "made": model.made.isoformat(),
            "recipe": model.recipe,
            "left": model.left or None,
            "traceparent": model.traceparent or None,
        }
        key = table_keys.version_item(model.tenant, model.workload, model.version)
        with suppress(ConditionNotMetError):
            self.deployment.models.put(key, row, only_if=MISSING)

    def version(
        self, tenant: ids.ModelId, workload: ids.WorkloadName, version: ids.Version
    ) -> ModelVersion | None:
        """One version."""
        row = self.deployment.models.get(table_keys.version_item(tenant, workload, version))
        return _model(row) if row else None

    def versions_of(self, champions: Sequence[Champion]) -> dict[ids.ModelId, ModelVersion]:
        """The versions that champions of one workload point to, by tenant, a hundred to a call.
        Tenants that share a model share its version."""
        keys = {
            one.tenant: table_keys.version_item(one.route.tenant, one.workload, one.version)
            for one in champions
        }
        found = self.deployment.models.get_many(dict.fromkeys(keys.values()))
        made = {
            table_keys.version_item(m.tenant, m.workload, m.version): m for m in map(_model, found)
        }
        return {tenant: made[key] for tenant, key in keys.items() if key in made}

    def versions(self, tenant: ids.ModelId, workload: ids.WorkloadName) -> list[ModelVersion]:
        """All versions of a tenant, in the order in which they were made."""
        rows = self.deployment.models.query(
            table_keys.table_partition(tenant, workload), beginning=table_keys.VERSIONS
        )
        return sorted(map(_model, rows), key=lambda model: model.made)

    def note(self, model: ModelVersion, status: ModelStatus, note: str) -> None:
        """Write a version's status, and the reason."""
        self._note_on_version(model, {"status": status, "note": note[:_MAX_WHY]})

    def note_fresh_score(self, model: ModelVersion, fresh: FreshScore) -> None:
        """Write a version's score on newer data in place of the previous one."""
        said = {"data": fresh.data, "metrics": dict(fresh.metrics)}
        self._note_on_version(model, {"fresh": json.dumps(said)})

    def _note_on_version(self, model: ModelVersion, noted: Mapping[str, str]) -> None:
        key = table_keys.version_item(model.tenant, model.workload, model.version)
        self.deployment.models.update(key, noted)

    # ---- champions -------------------------------------------------------------------------------

    def champion(self, tenant: ids.ModelId, workload: ids.WorkloadName) -> Champion | None:
        """The version a tenant is served by, read consistently."""
        row = self.deployment.models.get(table_keys.champion_item(tenant, workload))
        return _champion(row) if row else None

    def champions_of(
        self, workload: ids.WorkloadName, tenants: Sequence[ids.ModelId]
    ) -> dict[ids.ModelId, Champion]:
        """The champions of some tenants, read consistently, a hundred to a call. A tenant without
        one is missing."""
        keys = (table_keys.champion_item(tenant, workload) for tenant in tenants)
        champions = map(_champion, self.deployment.models.get_many(keys))
        return {champion.tenant: champion for champion in champions}

    def champions(self, workload: ids.WorkloadName) -> list[Champion]:
        """Every tenant's champion of a workload, by tenant."""
        return list(self.each_champion(workload))

    def each_champion(
        self, workload: ids.WorkloadName, *, after: str = "", beginning: str = ""
    ) -> Iterator[Champion]:
        """Every tenant's champion of a workload, by tenant, read page by page as they are taken.

        Args:
            workload: whose models.
            after: only tenants whose ids come after this one.
            beginning: only tenants whose ids begin so; instead of ``after``.
        """
        wanted: ConditionBase = Key("workload").eq(workload)
        if beginning:
            wanted &= Key("champion_of").begins_with(beginning)
        elif after:
            wanted &= Key("champion_of").gt(after)
        return map(_champion, self.deployment.models.query_index("champions", wanted))

    def count_champions(self, workload: ids.WorkloadName) -> int:
        """How many tenants have a model of a workload."""
        return self.deployment.models.count("champions", Key("workload").eq(workload))

    def crown(self, model: ModelVersion, route: Route, instead_of: Champion | None) -> Champion:
        """Make a version its tenant's champion, asked along ``route``, if ``instead_of`` still is
        (None: if there is none).

        Raises:
            ChampionChangedError: another process flipped the pointer first.
        """
        return self._flip(
            model, route, instead_of, instead_of.version if instead_of else None, None
        )

    def return_to(
        self, model: ModelVersion, route: Route, instead_of: Champion, previous: ids.Version | None
    ) -> Champion:
        """Make a version its tenant's champion again, in place of the one that is rolled back.

        Args:
            model: the version to return to.
            route: how it is asked.
            instead_of: the champion that is rolled back.
            previous: the version that a further rollback would return to.

        Raises:
            ChampionChangedError: another process flipped the pointer first.
        """
        return self._flip(model, route, instead_of, previous, instead_of.version)

    def _flip(
        self,
        model: ModelVersion,
        route: Route,
        instead_of: Champion | None,
        previous: ids.Version | None,
        rolled_back_from: ids.Version | None,
    ) -> Champion:
        champion = Champion(
            tenant=model.tenant,
            workload=model.workload,
            version=model.version,
            route=route,
            tier=model.tier,
            previous=previous,
            since=now(),
            turn=instead_of.turn + 1 if instead_of else 1,
            made=model.made,
            recipe=model.recipe,
            rolled_back_from=rolled_back_from,
            traceparent=model.traceparent,
            card=card_beside_the_pointer(model),
        )
        row = {
            "workload": champion.workload,
            "champion_of": champion.tenant,
            "version": champion.version,
            "endpoint": route.endpoint,
            "shape": route.shape,
            "tier": champion.tier,
            "previous": champion.previous,
            "since": champion.since.isoformat(),
            "turn": champion.turn,
            "made": model.made.isoformat(),
            "recipe": champion.recipe,
            "rolled_back_from": champion.rolled_back_from,
            "card": json.dumps(dict(champion.card)) if champion.card else None,
            "traceparent": champion.traceparent or None,
        }
        try:
            self.deployment.models.put(
                table_keys.champion_item(model.tenant, model.workload),
                row,
                only_if=MISSING if instead_of is None else Attr("turn").eq(instead_of.turn),
            )
        except ConditionNotMetError as error:
            raise ChampionChangedError(
                f"the champion of {model.tenant} changed while {model.version} was compared with it"
            ) from error
        return champion

    def move(self, champion: Champion, route: Route, tier: tiers.Tier) -> Champion:
        """Ask the same version along another route, in another tier, from now on. A trial ends,
        because its version is served on the former machines.

        Raises:
            ChampionChangedError: another process flipped the pointer first.
        """
        turn = champion.turn + 1
        try:
            self.deployment.models.update(
                table_keys.champion_item(champion.tenant, champion.workload),
                {
                    "endpoint": route.endpoint,
                    "shape": route.shape,
                    "tier": tier,
                    "turn": turn,
                    "trial": None,
                },
                only_if=Attr("turn").eq(champion.turn),
            )
        except ConditionNotMetError as error:
            raise ChampionChangedError(
                f"the champion of {champion.tenant} changed while {champion.version} was moved"
            ) from error
        return replace(champion, route=route, tier=tier, turn=turn, trial=None)

    def note_trial(self, champion: Champion, trial: Trial | None) -> Champion:
        """Let a version answer a share of the requests beside a champion, or (None) no longer.

        Raises:
            ChampionChangedError: the pointer, or its trial, is another since it was read.
        """
        seen = champion.trial
        before = Attr("trial").not_exists() if seen is None else Attr("trial").eq(seen.text)
        try:
            self.deployment.models.update(
                table_keys.champion_item(champion.tenant, champion.workload),
                {"trial": None if trial is None else trial.text},
                only_if=Attr("turn").eq(champion.turn) & before,
            )
        except ConditionNotMetError as error:
            raise ChampionChangedError(
                f"the champion of {champion.tenant}, or its trial, changed meanwhile"
            ) from error
        return replace(champion, trial=trial)

    def note_retraining(self, champion: Champion, occasion: str) -> None:
        """Note on a champion, if it still is one, the occasion of its latest re-training
        request."""
        self._note_on(champion, "retraining", occasion)

    def note_told_too_old(self, champion: Champion) -> None:
        """Note on a champion, if it still is one, that its owner was told its data are too old to
        predict from."""
        self._note_on(champion, "told_too_old", True)

    def _note_on(self, champion: Champion, attribute: str, value: str | bool) -> None:
        with suppress(ConditionNotMetError):
            self.deployment.models.update(
                table_keys.champion_item(champion.tenant, champion.workload),
                {attribute: value},
                only_if=Attr("turn").eq(champion.turn),
            )


def card_beside_the_pointer(model: ModelVersion) -> Mapping[str, Any]:
    """A version's card; empty if it is too large to stand beside the pointer."""
    return model.card if len(json.dumps(dict(model.card))) <= _MAX_CARD else {}


def _model(row: Mapping[str, Any]) -> ModelVersion:
    tenant, workload = table_keys.parse_table_partition(str(row["tenant"]))
    fresh = json.loads(row["fresh"]) if "fresh" in row else None
    return ModelVersion(
        tenant=tenant,
        workload=workload,
        version=ids.Version(row["version"]),
        tier=row["tier"],
        archive=row["archive"],
        size=int(row["size"]),
        sha256=row["sha256"],
        request=ids.RequestId(row["request"]),
        job=row["job"],
        status=row["status"],
        metrics=json.loads(row["metrics"]),
        card=json.loads(row["card"]),
        made=datetime.fromisoformat(row["made"]),
        note=row.get("note", ""),
        recipe=row.get("recipe", ""),
        fresh=FreshScore(ids.Version(fresh["data"]), fresh["metrics"]) if fresh else None,
        left=row.get("left", ""),
        traceparent=row.get("traceparent", ""),
    )


def _champion(row: Mapping[str, Any]) -> Champion:
    tenant, version = ids.ModelId(row["champion_of"]), ids.Version(row["version"])
    return Champion(
        tenant=tenant,
        workload=ids.WorkloadName(row["workload"]),
        version=version,
        route=Route(
            # A row from before other shapes existed names none.
            shape=row.get("shape", MULTI_MODEL.name),
            endpoint=row["endpoint"],
            tenant=tenant,
            version=version,
        ),
        tier=row["tier"],
        previous=ids.Version(row["previous"]) if row.get("previous") else None,
        since=datetime.fromisoformat(row["since"]),
        turn=int(row["turn"]),
        made=datetime.fromisoformat(row["made"]) if "made" in row else None,
        recipe=row.get("recipe", ""),
        rolled_back_from=ids.Version(row["rolled_back_from"])
        if row.get("rolled_back_from")
        else None,
        retraining=row.get("retraining", ""),
        card=json.loads(row["card"]) if "card" in row else {},
        told_too_old=bool(row.get("told_too_old", False)),
        traceparent=row.get("traceparent", ""),
        trial=Trial.parse(row["trial"], tenant) if "trial" in row else None,
    )
