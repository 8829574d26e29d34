"""The second stage: one packed job makes the members' models. Each member goes on as soon as its
own model is kept; it does not wait for its pack."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from contracts.errors import MalformedDocumentError
from contracts.outcomes import Outcome
from tenantry.aws import objects
from tenantry.aws.notices import Notice, tell_operators, tell_tenant
from tenantry.aws.silo_roles import ensure_silo_role, usable
from tenantry.models import artifacts
from tenantry.models.first_results import hand_over
from tenantry.models.registry import ModelVersion
from tenantry.names import ids, s3_keys
from tenantry.onboarding.importing import report_imported
from tenantry.onboarding.member import Member
from tenantry.onboarding.pack import PackAtWork
from tenantry.onboarding.preparing import prepare, prepared_before, report_data_again
from tenantry.shown.asset_metadata import artifact_metadata, version_and_metrics
from tenantry.training import jobs
from tenantry.training.durations import learn_durations, learned_durations
from tenantry.training.jobs import TrainingTask
from tenantry.training.outcomes import outcome_in_message, stored_outcome
from tenantry.training.packed_job import JobFailedError, NoCapacityYetError, Train

# Checkpoints are synced a moment after the container reports; a message waits so long for its
# archive.
_SYNC_SECONDS: Final = 5.0


@dataclass
class TrainingStage:
    """Takes members to models.

    ``train`` runs a job. ``go_on`` is called with each member whose model is ready. The job may
    still work on the others then, because its messages come one by one.
    """

    at_work: PackAtWork
    train: Train
    go_on: Callable[[Member], None]
    _members: dict[ids.RequestId, Member] = field(default_factory=dict, init=False)
    _awaiting_archive: deque[Outcome] = field(default_factory=deque, init=False)
    _instances: int = field(default=1, init=False)
    _distribution: jobs.Distribution | None = field(default=None, init=False)
    _job: str = field(default="", init=False)
    _began: int = field(default_factory=time.time_ns, init=False)  # of the job
    _durations: list[tuple[float, float]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._rung = jobs.rungs(self.at_work.workload)[0]

    def run(self, members: Sequence[Member]) -> None:
        """Prepare the members' data where needed, run the pack's job, and let each member with a
        model go on.

        Raises:
            JobFailedError: the training job failed as a whole.
            NoCapacityYetError: SageMaker would not take the job now.
        """
        if not members:
            return
        self._members = {member.request.request: member for member in members}
        tasks = self._tasks(members)
        if not tasks:
            return
        try:
            failure = self._run_jobs(tasks)
        except NoCapacityYetError as error:
            for member in self._in_training(tasks):
                self.at_work.postpone(member, "fine_tuned_artifact", str(error))
            raise
        finally:
            self._learn_durations()
        reason = str(failure or "the training job ended without an outcome for this tenant")
        for member in self._in_training(tasks):
            with self.at_work.span("train", member, began=self._began):
                self.at_work.fail(member, "fine_tuned_artifact", reason, code="training_job_failed")
        if failure is not None:
            raise failure

    def take_up(self, members: Sequence[Member]) -> Iterator[Member]:
        """Let members go on whose model an earlier run made but did not register; yield the
        others."""
        for member in members:
            model = (
                self.at_work.registry.version(
                    member.tenant, member.request.workload, member.version
                )
                if member.was_tried
                else None
            )
            if model is None or model.status == "rejected":
                yield member
                continue
            why = f"version {member.version}, made by an earlier try"
            if member.request.status != "trained" and not self.at_work.move(
                member, "trained", why=why
            ):
                continue
            member.left_training, member.model = True, model
            report_data_again(self.at_work, member)
            self._report_artifact_again(member, model)
            self.go_on(member)

    # ---- the job's tasks -------------------------------------------------------------------------

    def _tasks(self, members: Sequence[Member]) -> list[TrainingTask]:
        """The job's tasks: those an earlier run of this pack wrote down, or new ones from freshly
        prepared data."""
        at_work = self.at_work
        written = jobs.written_pack(at_work.deployment, at_work.workload, at_work.pack)
        if written is not None:
            return self._written_tasks(members, written)
        ready = list(
            prepare(at_work, members)
            if "training_data" in at_work.stages
            else prepared_before(at_work, members)
        )
        if not ready:
            return []
        durations = learned_durations(at_work.deployment, ids.workload_name(at_work.workload.name))
        tasks = [
            TrainingTask(
                request=member.request.request,
                tenant=member.tenant,
                version=member.version,
                data_version=member.data.version,
                files=member.data.files,
                of_all=member.of_all,
                expected_seconds=durations.expected_seconds(member.data.rows),
                parameters=member.data.parameters,
                traceparent=member.request.traceparent,
            )
            for member in ready
            if member.data is not None
        ]
        expected = [task.expected_seconds for task in tasks]
        self._instances = jobs.instance_count(at_work.workload, expected, learned=durations.learned)
        jobs.write_job_inputs(
            at_work.deployment, at_work.workload, at_work.tier, at_work.pack, tasks, self._instances
        )
        return tasks

    def _written_tasks(
        self, members: Sequence[Member], written: jobs.WrittenPack
    ) -> list[TrainingTask]:
        pack = self.at_work.pack
        self.at_work.report.info(
            f"pack {pack} was written down before, with {len(written.versions)} tasks; taking it "
            f"up again"
        )
        self._instances, self._distribution = written.instances, written.distribution
        for request, version in written.versions.items():
            if (member := self._members.get(request)) is not None:
                member.version = version
                report_data_again(self.at_work, member)
        for member in members:
            if member.owed and member.request.request not in written.versions:
                # Its claim came late, or an earlier run could not prepare its data and died before
                # it said so.
                reason = f"pack {pack} was written down without it"
                self.at_work.postpone(member, "training_data", reason)
        return [
            TrainingTask(request, member.tenant, version, version, (), 0.0)
            for request, version in written.versions.items()
            if (member := self._members.get(request)) is not None and not member.left_training
        ]

    def _in_training(self, tasks: Sequence[TrainingTask]) -> list[Member]:
        members = [self._members[task.request] for task in tasks]
        return [member for member in members if not member.left_training]

    # ---- the job ---------------------------------------------------------------------------------

    def _run_jobs(self, tasks: Sequence[TrainingTask]) -> JobFailedError | None:
        """Run the pack's jobs, one after the other, until one completes or no other can help;
        returns why the last one failed.

        Raises:
            NoCapacityYetError: SageMaker had no machine, or takes no further job.
        """
        at_work = self.at_work
        name = ids.workload_name(at_work.workload.name)
        messages = s3_keys.messages_prefix(name, at_work.pack)
        tenant = ids.tenant_of(tasks[0].tenant) if at_work.tier == "silo" else None
        role = None if tenant is None else ensure_silo_role(at_work.deployment, name, tenant)
        ladder = jobs.Ladder(jobs.rungs(at_work.workload))
        while True:
            request = jobs.create_training_job_request(
                at_work.deployment,
                at_work.workload,
                at_work.tier,
                at_work.pack,
                self._instances,
                tenant,
                ladder.rung,
                ladder.number,
                distribution=self._distribution,
            )
            self._job, self._rung = request["TrainingJobName"], ladder.rung
            failure: JobFailedError | None = None
            self._began = time.time_ns()
            try:
                job = usable(role, partial(self.train, request, messages, self._message))
                at_work.report.info(
                    f"training job {job.name} is done" + (f": {job.took}" if job.took else "")
                )
            except JobFailedError as error:
                failure = error
            while self._awaiting_archive:
                self._take_over(self._awaiting_archive.popleft(), wait=1.0, last=True)
            if failure is None or not self._in_training(tasks):
                return failure
            if not ladder.climb(failure.kind):
                break
            at_work.report.info(
                f"{failure} Next is job {ladder.number} of the pack, on {ladder.rung}."
            )
        if failure.kind not in jobs.NO_MACHINE:
            return failure
        raise self._no_machines(tasks, failure) from failure

    def _no_machines(
        self, tasks: Sequence[TrainingTask], failure: JobFailedError
    ) -> NoCapacityYetError:
        """Tell the operators that a pack found no machine. Returns the error that says so."""
        workload = self.at_work.workload
        waiting = len(self._in_training(tasks))
        reason = (
            f"no machine was to be had for pack {self.at_work.pack}, at last on {self._rung}: "
            f"{failure}"
        )
        tell_operators(
            self.at_work.deployment,
            f"{workload.name}: no machines for training",
            f"{reason} {waiting} requests wait and are tried again by themselves. If it lasts, add "
            f"types to training.other_instance_types of {workload.name}.yaml.",
        )
        return NoCapacityYetError(f"{reason} {waiting} requests went back to the queue.")

    def _learn_durations(self) -> None:
        name = ids.workload_name(self.at_work.workload.name)
        try:
            learn_durations(self.at_work.deployment, name, self._durations)
        # The next packs are divided a little worse; this one is done.
        except (ClientError, BotoCoreError) as error:
            self.at_work.report.info(f"how long its tasks took could not be noted: {error}")
        self._durations = []

    # ---- one member's outcome --------------------------------------------------------------------

    def _message(self, message: Any) -> None:
        """Handle a progress message of the job: a member that is ready goes on."""
        try:
            outcome = outcome_in_message(message)
        except MalformedDocumentError as error:
            self.at_work.report.info(
                f"the training container reported something malformed: {error}"
            )
            return
        if outcome is None:
            return
        member = self._members.get(ids.RequestId(outcome.task))
        if member is None or member.left_training:
            return
        while self._awaiting_archive and self._take_over(self._awaiting_archive[0], wait=0.0):
            self._awaiting_archive.popleft()
        if not self._take_over(outcome, wait=_SYNC_SECONDS):
            self._awaiting_archive.append(outcome)

    def _take_over(self, outcome: Outcome, *, wait: float, last: bool = False) -> bool:
        """Take over one task's outcome. Returns False when its archive has not reached S3 within
        ``wait`` seconds.

        Until the job has ended, which ``last`` tells, the archive may still be an earlier try's.
        """
        member = self._members[ids.RequestId(outcome.task)]
        if outcome.status == "failed" or outcome.archive is None:
            with self.at_work.span("train", member, began=self._began):
                self.at_work.fail(
                    member,
                    "fine_tuned_artifact",
                    outcome.reason or "the training container gave no reason",
                    retryable=outcome.retryable,
                    tell=None if outcome.retryable else "upload_refused",
                    code="training_failed",
                )
            return True
        try:
            model = self._kept(member, outcome, outcome.archive.bytes, outcome.archive.sha256, wait)
        except artifacts.ArchiveDiffersError as error:
            if last:
                with self.at_work.span("train", member, began=self._began):
                    self.at_work.fail(member, "fine_tuned_artifact", str(error))
            return last
        if model is None:
            return False
        member.model, member.archive_checked = model, True
        self._note_duration(member, outcome)
        if (
            member.owed
            and member.request.status in {"claimed", "training"}
            and not self.at_work.move(member, "trained", why=f"version {member.version}")
        ):
            return True
        member.left_training = True
        with self.at_work.span("train", member, began=self._began):
            self._report_artifact(member, model, outcome)
            self._hand_over_first_results(member, model, outcome)
        self.go_on(member)
        return True

    def _hand_over_first_results(
        self, member: Member, model: ModelVersion, outcome: Outcome
    ) -> None:
        """Give the tenant what the training made with its model, before that is registered."""
        at_work = self.at_work
        try:
            handed = hand_over(at_work.deployment, model, outcome.files)
        except objects.ObjectMissingError as error:
            at_work.report.info(f"{member.tenant}: its first results are not handed over: {error}")
            return
        if handed and member.owed:
            message = f"The first results of your new {at_work.workload.title.lower()} are there."
            tell_tenant(
                at_work.deployment,
                Notice(
                    "first_results",
                    model.workload,
                    model.tenant,
                    message,
                    request=model.request,
                    version=model.version,
                ),
            )

    def _kept(
        self, member: Member, outcome: Outcome, size: int, sha256: str, wait: float
    ) -> ModelVersion | None:
        """The version that an outcome reports, once its archive is kept and the registry has it;
        None when the archive is not there within ``wait`` seconds.

        Raises:
            artifacts.ArchiveDiffersError: the archive does not match its promise.
        """
        at_work, workload = self.at_work, member.request.workload
        left = s3_keys.checkpoint_archive(workload, at_work.pack, member.tenant, member.version)
        archive = artifacts.keep(
            at_work.deployment,
            left,
            workload,
            member.tenant,
            member.version,
            artifacts.Promise(size, sha256),
            wait=wait,
        )
        if archive is None:
            return None
        model = ModelVersion(
            tenant=member.tenant,
            workload=workload,
            version=member.version,
            tier=at_work.tier,
            archive=archive,
            left=left,
            size=size,
            sha256=sha256,
            request=member.request.request,
            job=self._job,
            metrics=dict(outcome.metrics),
            card=dict(outcome.card),
            recipe=at_work.workload.recipe,
            traceparent=member.request.traceparent,
        )
        at_work.registry.add(model)
        return model

    def _note_duration(self, member: Member, outcome: Outcome) -> None:
        # Other machines take another time, which would mislead about the usual ones.
        usual = self._rung.instance_type == self.at_work.workload.training.instance_type
        if member.data is not None and usual:
            self._durations.append((float(member.data.rows), outcome.seconds))

    # ---- reports ---------------------------------------------------------------------------------

    def _report_artifact(self, member: Member, model: ModelVersion, outcome: Outcome) -> None:
        at_work = self.at_work
        metadata = artifact_metadata(
            at_work.deployment,
            at_work.workload,
            model,
            outcome,
            self._rung.usd_per_hour,
            member.request.hyperparameters or at_work.workload.training.hyperparameters,
            at_work.report,
        )
        at_work.report.materialized("fine_tuned_artifact", member.tenant, metadata, model.sha256)
        verdict = at_work.workload.quality.verdict(model.metrics)
        if verdict is not None:
            good, found = verdict
            at_work.report.checked(
                "fine_tuned_artifact", "better_than_baseline", member.tenant, found, passed=good
            )

    def _report_artifact_again(self, member: Member, model: ModelVersion) -> None:
        """Report an earlier try's artifact: this run has announced it, and the earlier one may have
        died before it reported it."""
        at_work = self.at_work
        if member.imported:
            report_imported(at_work, member, model)
            return
        try:
            outcome = stored_outcome(at_work.deployment, model.beside)
            metadata = artifact_metadata(
                at_work.deployment,
                at_work.workload,
                model,
                outcome,
                self._rung.usd_per_hour,
                member.request.hyperparameters,
                at_work.report,
            )
        except (objects.ObjectMissingError, objects.ObjectTooLargeError, ValueError) as error:
            at_work.report.info(
                f"{member.tenant}: what its training told cannot be read again: {error}"
            )
            metadata = version_and_metrics(model)
        at_work.report.materialized("fine_tuned_artifact", member.tenant, metadata, model.sha256)
