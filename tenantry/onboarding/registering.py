"""The third stage: a member's model is registered with its tier's endpoint, and its tenant is
told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from tenantry.aws import objects
from tenantry.capacity.new_endpoints import deploying, ensure_endpoints
from tenantry.hosting import endpoints
from tenantry.hosting.shapes.catalogue import route_in, shape_named
from tenantry.models.registry import ChampionChangedError, ModelVersion
from tenantry.names.tiers import Machines, machines_of
from tenantry.onboarding.drift import check_drift
from tenantry.onboarding.member import Member
from tenantry.onboarding.pack import PackAtWork
from tenantry.onboarding.registration import (
    ArtifactUnusableError,
    NotGoodEnoughError,
    Registration,
    register,
)
from tenantry.shown.asset_metadata import registration_metadata

_LOOK: Final = 10.0
"""Seconds for a look at a processing job."""


@dataclass
class RegistrationStage:
    """Takes members that have models to champions. ``registered`` counts them."""

    at_work: PackAtWork
    registered: int = 0
    _in_service: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        # An endpoint that was changed after this moment is left alone: a release newer than this
        # run may have changed it.
        self._began = datetime.now(UTC)

    def run(self, members: Sequence[Member]) -> None:
        """Register each member's latest usable version, from any pack."""
        for member in members:
            versions = self.at_work.registry.versions(member.tenant, member.request.workload)
            usable = [v for v in versions if v.status not in {"rejected", "rolled_back"}]
            if usable:
                member.model = usable[-1]
                self.register(member, member.model)
            else:
                self.at_work.fail(
                    member,
                    "endpoint_registration",
                    "it has no usable artifact; materialise fine_tuned_artifact first",
                )

    def register(self, member: Member, model: ModelVersion, *, verified: bool = False) -> None:
        """Register one version. One tenant's failure does not stop its neighbours.

        Args:
            member: the version's member.
            model: the version.
            verified: whether its archive has just been found to match its training's promise.
        """
        with self.at_work.span("register", member):
            self._register(member, model, verified=verified)

    def _register(self, member: Member, model: ModelVersion, *, verified: bool) -> None:
        at_work = self.at_work
        if member.evaluating and member.data is not None:
            # The comparison with the champion counts the score, if the job has ended by now.
            known = [(member.request, member.data)]
            check_drift(
                at_work.deployment, at_work.workload, known, at_work.report, max_seconds=_LOOK
            )
        try:
            machines = machines_of(model.tier, member.tenant)
            route = route_in(
                at_work.deployment.prefix, at_work.workload, model.tier, model.tenant, model.version
            )
            deployment, workload = at_work.deployment, at_work.workload
            if shape_named(route.shape).deploys:
                with deploying(deployment, workload, machines, self._began) as deploy:
                    done = register(
                        deployment, workload, model, route, verified=verified, deploy=deploy
                    )
            else:
                self._ensure(route.endpoint, machines)
                done = register(deployment, workload, model, route, verified=verified)
        except NotGoodEnoughError as error:
            # Training on the same data again would score the same.
            at_work.fail(
                member,
                "endpoint_registration",
                str(error),
                retryable=False,
                tell="model_not_made",
                code="model_not_good_enough",
            )
        except endpoints.EndpointFailedError as error:
            # Nothing is wrong with the model: it is registered when its endpoint is back.
            at_work.postpone(member, "endpoint_registration", str(error))
        except (ChampionChangedError, ClientError, BotoCoreError) as error:
            reason = f"{type(error).__name__}: {error}"
            at_work.postpone(member, "endpoint_registration", reason)
        except (ArtifactUnusableError, objects.ObjectMissingError) as error:
            self._checked(member, {"reason": str(error)}, passed=False)
            if (
                member.imported
                and isinstance(error, ArtifactUnusableError)
                and error.code == "model_refused"
            ):
                # Another try would hand the container the same archive.
                at_work.fail(
                    member,
                    "endpoint_registration",
                    str(error),
                    retryable=False,
                    tell="upload_refused",
                    code="artifact_unusable",
                )
                return
            # An archive that was refused keeps its name at the endpoint; the next try needs
            # another.
            at_work.fail(
                member,
                "endpoint_registration",
                str(error),
                new_version=isinstance(error, ArtifactUnusableError),
                code="artifact_unusable",
            )
        else:
            self._tell(member, model, route.endpoint, done)

    def _ensure(self, endpoint: str, machines: Machines) -> None:
        """Make sure, once in a run, that an endpoint is in service that serves any version."""
        if endpoint not in self._in_service:
            at_work = self.at_work
            ensure_endpoints(at_work.deployment, at_work.workload, machines, self._began)
            self._in_service.add(endpoint)

    def _tell(self, member: Member, model: ModelVersion, endpoint: str, done: Registration) -> None:
        if done.smoke_milliseconds is None:
            self._checked(member, {"not_asked": "it was not deployed"}, passed=True)
        else:
            self._checked(member, {"milliseconds": round(done.smoke_milliseconds, 1)}, passed=True)
        self.registered += 1
        at_work = self.at_work
        metadata = registration_metadata(
            at_work.deployment, at_work.workload, model, endpoint, done
        )
        at_work.report.materialized(
            "endpoint_registration", member.tenant, metadata, done.champion.version
        )
        at_work.endings.registered(member.request, model.version, done, owed=member.owed)

    def _checked(self, member: Member, facts: dict[str, object], *, passed: bool) -> None:
        self.at_work.report.checked(
            "endpoint_registration", "endpoint_answers", member.tenant, facts, passed=passed
        )
