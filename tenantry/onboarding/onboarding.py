"""From a pack of requests to served models, in three stages: prepare, train in one packed job,
register. Each member is registered as soon as its own part is ready. A model that was trained
elsewhere is checked instead of trained. Data for inference are appended, and make no model. A
tenant's failure is that tenant's alone.

This is plain code: the caller passes the members, the report, ``train``, which runs the job, and
``predict``, which makes a batch for some tenants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tenantry.names import ids
from tenantry.onboarding import importing
from tenantry.onboarding.appending import Predict, append
from tenantry.onboarding.member import Member
from tenantry.onboarding.pack import PackAtWork
from tenantry.onboarding.preparing import prepare
from tenantry.onboarding.registering import RegistrationStage
from tenantry.onboarding.training import TrainingStage
from tenantry.training.packed_job import Train


@dataclass
class Onboarding:
    """One pack on its way. ``run`` does it; afterwards ``failures`` and ``refusals`` hold each
    failed tenant's reason, and ``registered`` how many tenants were registered."""

    at_work: PackAtWork
    train: Train
    predict: Predict
    _members: Sequence[Member] = field(default=(), init=False)

    def __post_init__(self) -> None:
        self._registration = RegistrationStage(self.at_work)

    @property
    def failures(self) -> dict[ids.ModelId, str]:
        """Why tenants failed, except those whose owners alone can cure it."""
        return self._reasons(refused=False)

    @property
    def refusals(self) -> dict[ids.ModelId, str]:
        """Why tenants failed whose owners alone can cure it, and have been told."""
        return self._reasons(refused=True)

    def _reasons(self, *, refused: bool) -> dict[ids.ModelId, str]:
        return {
            member.tenant: member.failure
            for member in self._members
            if member.failure is not None and member.refused == refused
        }

    @property
    def registered(self) -> int:
        """How many tenants were registered."""
        return self._registration.registered

    def run(self, members: Sequence[Member]) -> None:
        """Take the members through the chosen stages.

        Raises:
            JobFailedError: the training job failed as a whole.
            NoCapacityYetError: SageMaker would not take the job now.
        """
        self._members = members
        stages = self.at_work.stages
        if "training_data" in stages:
            data = [member for member in members if member.appends]
            append(self.at_work, data, self.predict, datetime.now(UTC))
        members = [member for member in members if not member.appends]
        try:
            if "fine_tuned_artifact" in stages:
                training = TrainingStage(self.at_work, self.train, self._trained)
                untrained = list(training.take_up(members))
                imported = [member for member in untrained if member.imported]
                importing.take_over(self.at_work, imported, self._trained)
                training.run([member for member in untrained if not member.imported])
                return
            if "training_data" in stages:
                for member in members:
                    if member.imported:
                        said = "its latest upload is a model, and there are no data to prepare"
                        self.at_work.report.info(f"{member.tenant}: {said}")
                prepare(self.at_work, [member for member in members if not member.imported])
            if "endpoint_registration" in stages:
                self._registration.run(members)
        finally:
            self.at_work.endings.tell_registered()

    def _trained(self, member: Member) -> None:
        if "endpoint_registration" in self.at_work.stages and member.model is not None:
            self._registration.register(member, member.model, verified=member.archive_checked)


def failures_in_words(failures: Mapping[ids.ModelId, str], most: int = 20) -> str:
    """The failed tenants and their reasons, for a person."""
    lines = [f"{tenant}: {reason}" for tenant, reason in list(failures.items())[:most]]
    if len(failures) > most:
        lines.append(f"… and {len(failures) - most} more")
    return "\n".join(lines)
