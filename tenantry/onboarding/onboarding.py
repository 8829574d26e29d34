"""From a pack of requests to served models: prepares, trains in one packed job, and registers each
tenant as soon as its own part is ready. A tenant's failure is that tenant's alone.

This is plain code: it is told whom to work for and where to report, and calls ``train`` to run the
job.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from tenantry.aws import objects
from tenantry.aws.notices import NoticeKind, tell_operators
from tenantry.hosting import endpoints
from tenantry.models import artifacts
from tenantry.models.registry import ChampionChangedError, ModelRegistry, ModelVersion
from tenantry.names import keys
from tenantry.onboarding.drift import check_drift
from tenantry.onboarding.registration import ArtifactUnusableError, NotGoodEnoughError, register
from tenantry.onboarding.request_endings import RequestEndings
from tenantry.onboarding.work import Work
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import NotTheirTurnError, Status
from tenantry.shown.asset_metadata import (
    artifact_metadata,
    registration_metadata,
    training_data_metadata,
    version_and_metrics,
)
from tenantry.shown.report import AssetName, Report
from tenantry.training import jobs
from tenantry.training.durations import learn_durations, learned_durations
from tenantry.training.jobs import TrainingTask
from tenantry.training.outcomes import (
    MalformedOutcomeError,
    Outcome,
    outcome_in_message,
    stored_outcome,
)
from tenantry.training.packed_job import JobFailedError, NoCapacityYetError, Train
from tenantry.uploads import manifests
from tenantry.uploads.training_data import TrainingData, make_training_data
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_PREPARED_AT_ONCE: Final = 4
# Checkpoints are synced a moment after the container reports; that long a message waits for its
# archive.
_SYNC_SECONDS: Final = 5.0


@dataclass
class Onboarding:
    """One pack on its way. ``run`` does it; ``failures`` holds each failed tenant's reason
    afterwards."""

    deployment: Deployment
    workload: Workload
    pack: keys.PackId
    tier: keys.Tier
    report: Report
    train: Train
    stages: frozenset[AssetName]
    by: str = "tenantry"  # who makes the changes to the rows, for their history
    failures: dict[keys.TenantId, str] = field(default_factory=dict)
    registered: int = 0

    def __post_init__(self) -> None:
        self._queue = RequestQueue(self.deployment, by=self.by)
        self._endings = RequestEndings(self.deployment, self.workload, self._queue, self.report)
        self._registry = ModelRegistry(self.deployment)
        self._work: dict[keys.RequestId, Work] = {}
        self._data: dict[keys.RequestId, TrainingData] = {}
        self._awaiting_archive: deque[Outcome] = deque()
        self._settled: set[keys.RequestId] = set()
        self._endpoint: dict[str, endpoints.Endpoint] = {}
        self._instances = 1
        self._rung = jobs.rungs(self.workload)[0]
        self._job = ""
        self._durations: list[tuple[float, float]] = []
        self._began = datetime.now(UTC)

    # ---- the whole way ---------------------------------------------------------------------------

    def run(self, work: Sequence[Work]) -> None:
        """Take the work through the chosen stages.

        Raises:
            JobFailedError: the training job failed as a whole.
            NoCapacityYetError: SageMaker would not take the job now.
        """
        try:
            self._run(work)
        finally:
            self._endings.tell_registered()

    def _run(self, work: Sequence[Work]) -> None:
        self._work = {item.request.request: item for item in work}
        if "fine_tuned_artifact" not in self.stages:
            if "training_data" in self.stages:
                self._prepare(work)
            if "endpoint_registration" in self.stages:
                for item in work:
                    self._register_latest(item)
            return
        untrained = []
        for item in work:
            # An earlier try may have come as far as a model, and failed after that: at its
            # endpoint, or because its run died.
            tried = (
                item.request.status == "trained"
                or item.request.attempt > 1
                or item.request.postponed > 0
            )
            if item.owed and tried and self._take_up_trained(item):
                continue
            untrained.append(item)
        tasks = self._tasks(untrained)
        if tasks:
            self._train(tasks)

    def _tasks(self, work: Sequence[Work]) -> list[TrainingTask]:
        """The job's tasks: those an earlier run of this pack wrote down, or new ones from freshly
        prepared data."""
        written = jobs.written_pack(self.deployment, self.workload, self.pack)
        if written is not None:
            count = len(written.versions)
            self.report.info(
                f"pack {self.pack} was written down before, with {count} tasks; taking it up again"
            )
            self._instances = written.instances
            for request, version in written.versions.items():
                if (item := self._work.get(request)) is not None:
                    self._work[request] = replace(item, version=version)
                    self._report_data_again(self._work[request])
            for item in work:
                if item.owed and item.request.request not in written.versions:
                    # Its claim came late, or its data could not be prepared by a run that died
                    # before it could say so.
                    self._postpone(
                        item, "training_data", f"pack {self.pack} was written down without it"
                    )
            return [
                TrainingTask(request, item.tenant, version, version, (), 0.0)
                for request, version in written.versions.items()
                if (item := self._work.get(request)) is not None and request not in self._settled
            ]
        ready = (
            self._prepare(work) if "training_data" in self.stages else self._prepared_before(work)
        )
        if not ready:
            return []
        durations = learned_durations(self.deployment, keys.workload_name(self.workload.name))
        tasks = [
            TrainingTask(
                request=item.request.request,
                tenant=item.tenant,
                version=item.version,
                data_version=data.version,
                files=data.files,
                expected_seconds=durations.expected_seconds(data.rows),
                parameters=data.parameters,
            )
            for item, data in ready
        ]
        expected = [task.expected_seconds for task in tasks]
        self._instances = jobs.instance_count(self.workload, expected, learned=durations.learned)
        jobs.write_job_inputs(
            self.deployment, self.workload, self.tier, self.pack, tasks, self._instances
        )
        return tasks

    def _moved(
        self, item: Work, to: Status, *, why: str, changes: Mapping[str, Any] | None = None
    ) -> Work | None:
        """The work with its row moved along. None when the row is no longer this pack's: it was
        cancelled, or another run took it over, and nothing more is done for it here.
        """
        try:
            moved = self._queue.move(item.request, to, why=why, changes=changes)
        except NotTheirTurnError as error:
            self._settled.add(item.request.request)
            self.report.info(str(error))
            return None
        except (
            ClientError,
            BotoCoreError,
        ) as error:  # its neighbours go on; its pack's next run takes it up
            self._settled.add(item.request.request)
            self.failures[item.tenant] = f"its request could not be moved: {error}"
            self.report.info(f"{item.tenant}: {self.failures[item.tenant]}")
            return None
        item = replace(item, request=moved)
        self._work[item.request.request] = item
        return item

    # ---- training data ---------------------------------------------------------------------------

    def _prepare(self, work: Sequence[Work]) -> list[tuple[Work, TrainingData]]:
        ready = []
        # Made once here rather than by each thread.
        self.deployment.s3, self.deployment.dynamodb  # noqa: B018
        with ThreadPoolExecutor(_PREPARED_AT_ONCE) as pool:
            made = [
                (
                    item,
                    pool.submit(make_training_data, self.deployment, self.workload, item.request),
                )
                for item in work
            ]
            for item, future in made:
                try:
                    data = future.result()
                except manifests.RefusedUploadError as error:
                    self.report.checked(
                        "training_data",
                        "data_quality",
                        item.tenant,
                        {"reason": str(error), "code": error.code},
                        passed=False,
                    )
                    self._fail(
                        item,
                        "training_data",
                        str(error),
                        retryable=False,
                        tell="upload_refused",
                        code=error.code,
                    )
                    continue
                # Whatever one tenant's files provoke, its neighbours go on.
                except Exception as error:  # noqa: BLE001
                    self._fail(
                        item,
                        "training_data",
                        f"preparing it failed: {type(error).__name__}: {error}",
                        code="preparation_failed",
                    )
                    continue
                self._data[item.request.request] = data
                self.report.checked(
                    "training_data", "data_quality", item.tenant, dict(data.repairs), passed=True
                )
                self._report_data(item, data)
                ready.append((item, data))
        noted = [(self._note_training_data(item, data), data) for item, data in ready]
        ready = [(item, data) for item, data in noted if item is not None]
        check_drift(
            self.deployment,
            self.workload,
            [(item.request, data) for item, data in ready],
            self.report,
        )
        return ready

    def _note_training_data(self, item: Work, data: TrainingData) -> Work | None:
        """The work with its row moved along; None when the row is no longer this pack's: somebody
        cancelled it."""
        if not (
            item.owed and item.request.status == "claimed" and "fine_tuned_artifact" in self.stages
        ):
            return item
        job = keys.training_job_name(self.deployment.prefix, item.request.workload, self.pack)
        changes = {
            "facts": {"training_data": data.to_json()},
            "job": job,
            "hyperparameters": dict(self.workload.training.hyperparameters),
        }
        return self._moved(item, "training", why=f"its data are good; job {job}", changes=changes)

    def _prepared_before(self, work: Sequence[Work]) -> list[tuple[Work, TrainingData]]:
        ready = []
        for item in work:
            text = item.request.facts.get("training_data")
            if text:
                ready.append((item, TrainingData.from_json(text)))
            else:
                self._fail(
                    item,
                    "fine_tuned_artifact",
                    "its training data were never prepared; materialise training_data with it",
                )
        return ready

    def _report_data_again(self, item: Work) -> None:
        """Report data that an earlier try prepared: this run has announced them, and that one may
        have died before it told."""
        text = item.request.facts.get("training_data")
        if text:
            data = self._data[item.request.request] = TrainingData.from_json(text)
            if "training_data" in self.stages:
                self._report_data(item, data)

    def _report_data(self, item: Work, data: TrainingData) -> None:
        metadata = training_data_metadata(self.deployment, item.request, data)
        self.report.materialized("training_data", item.tenant, metadata, data.fingerprint)

    # ---- fine-tuned artifact ---------------------------------------------------------------------

    def _train(self, tasks: Sequence[TrainingTask]) -> None:
        try:
            failure = self._run_jobs(tasks)
        except NoCapacityYetError as error:
            for item in self._unsettled(tasks):
                if item.owed:
                    self._postpone_row(item, str(error))
            raise
        finally:
            self._learn_durations()
        for item in self._unsettled(tasks):
            reason = (
                str(failure)
                if failure
                else "the training job ended without an outcome for this tenant"
            )
            self._fail(item, "fine_tuned_artifact", reason, tell=None, code="training_job_failed")
        if failure is not None:
            raise failure

    def _run_jobs(self, tasks: Sequence[TrainingTask]) -> JobFailedError | None:
        """Run the pack's jobs, one after the other, until one completes or no other can help;
        returns why the last one failed.

        Raises:
            NoCapacityYetError: no machine was to be had, or no further job.
        """
        tenant = tasks[0].tenant if self.tier == "silo" else None
        ladder = jobs.Ladder(jobs.rungs(self.workload))
        while True:
            request = jobs.create_training_job_request(
                self.deployment,
                self.workload,
                self.tier,
                self.pack,
                self._instances,
                tenant,
                ladder.rung,
                ladder.number,
            )
            self._job, self._rung = request["TrainingJobName"], ladder.rung
            failure: JobFailedError | None = None
            try:
                job = self.train(request, self._message)
                self.report.info(f"training job {job.name} is done: {dict(job.metadata)}")
            except JobFailedError as error:
                failure = error
            while self._awaiting_archive:
                self._trained_one(self._awaiting_archive.popleft(), wait=1.0, last=True)
            if failure is None or not self._unsettled(tasks):
                return failure
            if not ladder.climb(failure.kind):
                break
            self.report.info(
                f"{failure} Next is job {ladder.number} of the pack, on {ladder.rung}."
            )
        if failure.kind not in jobs.NO_MACHINE:
            return failure
        waiting = len(self._unsettled(tasks))
        reason = (
            f"no machine was to be had for pack {self.pack}, at last on {self._rung}: {failure}"
        )
        tell_operators(
            self.deployment,
            f"{self.workload.name}: no machines for training",
            f"{reason} {waiting} requests wait and are tried again by themselves. If it lasts, add "
            f"types to"
            f" training.other_instance_types of {self.workload.name}.yaml.",
        )
        raise NoCapacityYetError(
            f"{reason} {waiting} requests went back to the queue."
        ) from failure

    def _unsettled(self, tasks: Sequence[TrainingTask]) -> list[Work]:
        return [self._work[task.request] for task in tasks if task.request not in self._settled]

    def _learn_durations(self) -> None:
        try:
            learn_durations(
                self.deployment, keys.workload_name(self.workload.name), self._durations
            )
        except (
            ClientError,
            BotoCoreError,
        ) as error:  # the next packs are shared out a little worse; this one is done
            self.report.info(f"how long its tasks took could not be noted: {error}")
        self._durations = []

    def _message(self, message: Any) -> None:
        """A progress message of the job: register whoever is ready."""
        try:
            outcome = outcome_in_message(message)
        except MalformedOutcomeError as error:
            self.report.info(str(error))
            return
        if outcome is None:
            return
        item = self._work.get(outcome.key[1])
        if item is None or item.request.request in self._settled:
            return
        while self._awaiting_archive and self._trained_one(self._awaiting_archive[0], wait=0.0):
            self._awaiting_archive.popleft()
        if not self._trained_one(outcome, wait=_SYNC_SECONDS):
            self._awaiting_archive.append(outcome)

    def _trained_one(self, outcome: Outcome, *, wait: float, last: bool = False) -> bool:
        """Take over one task's outcome. Returns False when its archive has not reached S3 within
        ``wait`` seconds.

        What lies there may still be an earlier try's, until the job has ended, and ``last`` says
        so.
        """
        item = self._work[outcome.key[1]]
        if outcome.status == "failed" or outcome.archive is None:
            reason = outcome.reason or "the training container gave no reason"
            self._fail(
                item,
                "fine_tuned_artifact",
                reason,
                retryable=outcome.retryable,
                tell=None if outcome.retryable else "upload_refused",
                code="training_failed",
            )
            return True
        workload = item.request.workload
        left = keys.checkpoint_archive(workload, self.pack, item.tenant, item.version)
        promise = artifacts.Promise(outcome.archive.bytes, outcome.archive.sha256)
        try:
            archive = artifacts.keep(
                self.deployment, left, workload, item.tenant, item.version, promise, wait=wait
            )
        except artifacts.ArchiveDiffersError as error:
            if last:
                self._fail(item, "fine_tuned_artifact", str(error))
            return last
        if archive is None:
            return False
        model = ModelVersion(
            tenant=item.tenant,
            workload=workload,
            version=item.version,
            tier=self.tier,
            archive=archive,
            left=left,
            size=outcome.archive.bytes,
            sha256=outcome.archive.sha256,
            request=item.request.request,
            job=self._job,
            metrics=dict(outcome.metrics),
            card=dict(outcome.card),
            recipe=self.workload.recipe,
        )
        self._registry.add(model)
        data = self._data.get(item.request.request)
        # Other machines take another time; what they took would mislead about the usual ones.
        if data is not None and self._rung.instance_type == self.workload.training.instance_type:
            self._durations.append((float(data.rows), outcome.seconds))
        if item.owed and item.request.status in {"claimed", "training"}:
            moved = self._moved(item, "trained", why=f"version {item.version}")
            if moved is None:
                return True
            item = moved
        self._settled.add(item.request.request)
        price = self._rung.usd_per_hour
        trained_with = item.request.hyperparameters or self.workload.training.hyperparameters
        metadata = artifact_metadata(
            self.deployment, self.workload, model, outcome, price, trained_with, self.report
        )
        self.report.materialized("fine_tuned_artifact", item.tenant, metadata, model.sha256)
        self._check_quality(item, model)
        if "endpoint_registration" in self.stages:
            self._register(item, model, verified=True)
        return True

    def _check_quality(self, item: Work, model: ModelVersion) -> None:
        verdict = self.workload.quality.verdict(model.metrics)
        if verdict is None:
            return
        good, found = verdict
        self.report.checked(
            "fine_tuned_artifact", "better_than_baseline", item.tenant, found, passed=good
        )

    # ---- endpoint registration -------------------------------------------------------------------

    def _endpoint_of(self, tenant: keys.TenantId, tier: keys.Tier) -> endpoints.Endpoint:
        name = keys.endpoint_name(
            self.deployment.prefix, keys.workload_name(self.workload.name), tier, tenant
        )
        if name not in self._endpoint:
            endpoint = endpoints.ensure_endpoint(
                self.deployment, self.workload, tier, tenant, began=self._began
            )
            # The asset `asynchronous_endpoint` is of the workload's own tier; a tenant of another
            # asks another endpoint.
            if self.workload.serving.asynchronous is not None and tier != self.workload.tier:
                endpoints.ensure_async_endpoint(
                    self.deployment, self.workload, tier, tenant, began=self._began
                )
            self._endpoint[name] = endpoint
        return self._endpoint[name]

    def _take_up_trained(self, item: Work) -> bool:
        """Register a version that an earlier run trained and did not register. Returns False when
        it is not there."""
        model = self._registry.version(item.tenant, item.request.workload, item.version)
        if model is None or model.status == "rejected":
            return False
        if item.request.status != "trained":
            moved = self._moved(
                item, "trained", why=f"version {item.version}, made by an earlier try"
            )
            if moved is None:
                return True
            item = moved
        self._settled.add(item.request.request)
        self._report_data_again(item)
        self._report_artifact_again(item, model)
        if "endpoint_registration" in self.stages:
            self._register(item, model)
        return True

    def _report_artifact_again(self, item: Work, model: ModelVersion) -> None:
        """Report what an earlier try trained: this run has announced it, and that one may have died
        before it told."""
        price = self._rung.usd_per_hour
        try:
            outcome = stored_outcome(self.deployment, model.beside)
            trained_with = item.request.hyperparameters
            metadata = artifact_metadata(
                self.deployment, self.workload, model, outcome, price, trained_with, self.report
            )
        except (objects.ObjectMissingError, objects.ObjectTooLargeError, ValueError) as error:
            self.report.info(f"{item.tenant}: what its training told cannot be read again: {error}")
            metadata = version_and_metrics(model)
        self.report.materialized("fine_tuned_artifact", item.tenant, metadata, model.sha256)

    def _register_latest(self, item: Work) -> None:
        out = {"rejected", "rolled_back"}
        versions = [
            v
            for v in self._registry.versions(item.tenant, item.request.workload)
            if v.status not in out
        ]
        if not versions:
            self._fail(
                item,
                "endpoint_registration",
                "it has no usable artifact; materialise fine_tuned_artifact first",
            )
            return
        self._register(item, versions[-1])

    def _register(self, item: Work, model: ModelVersion, *, verified: bool = False) -> None:
        try:
            endpoint = self._endpoint_of(item.tenant, model.tier)
            done = register(self.deployment, self.workload, model, endpoint.name, verified=verified)
        except NotGoodEnoughError as error:
            # Training on the same data again would score the same.
            self._fail(
                item,
                "endpoint_registration",
                str(error),
                retryable=False,
                tell="model_not_made",
                code="model_not_good_enough",
            )
            return
        except endpoints.EndpointFailedError as error:
            # Nothing is wrong with the model: it is registered when its endpoint is back.
            self._postpone(item, "endpoint_registration", str(error))
            return
        except (ChampionChangedError, ClientError, BotoCoreError) as error:
            # Whatever meets one tenant here, its neighbours go on.
            self._postpone(item, "endpoint_registration", f"{type(error).__name__}: {error}")
            return
        except (ArtifactUnusableError, objects.ObjectMissingError) as error:
            self.report.checked(
                "endpoint_registration",
                "endpoint_answers",
                item.tenant,
                {"reason": str(error)},
                passed=False,
            )
            # An archive that was refused keeps its name at the endpoint; the next try needs
            # another.
            self._fail(
                item,
                "endpoint_registration",
                str(error),
                new_version=isinstance(error, ArtifactUnusableError),
                code="artifact_unusable",
            )
            return
        self.report.checked(
            "endpoint_registration",
            "endpoint_answers",
            item.tenant,
            {"milliseconds": round(done.smoke_milliseconds, 1)},
            passed=True,
        )
        self.registered += 1
        metadata = registration_metadata(self.deployment, self.workload, model, endpoint.name, done)
        self.report.materialized(
            "endpoint_registration", item.tenant, metadata, done.champion.version
        )
        self._endings.registered(item.request, model.version, done, owed=item.owed)

    # ---- failures --------------------------------------------------------------------------------

    def _postpone(self, item: Work, asset: AssetName, reason: str) -> None:
        """Leave it to a later pack, without counting a try."""
        self._settled.add(item.request.request)
        self.failures[item.tenant] = reason
        self.report.failed(asset, item.tenant, reason)
        if item.owed:
            self._postpone_row(item, reason)

    def _postpone_row(self, item: Work, reason: str) -> None:
        try:
            self._queue.postpone(item.request, reason)
        except (
            ClientError,
            BotoCoreError,
        ) as error:  # its pack has it still, and the next run takes it up
            self.report.info(f"{item.tenant}: its request could not be put off: {error}")

    def _fail(
        self,
        item: Work,
        asset: AssetName,
        reason: str,
        *,
        retryable: bool = True,
        tell: NoticeKind | None = None,
        new_version: bool = False,
        code: str | None = None,
    ) -> None:
        self._settled.add(item.request.request)
        self.failures[item.tenant] = reason
        self.report.failed(asset, item.tenant, reason)
        if item.owed:
            self._endings.failed(
                item.request,
                reason,
                retryable=retryable,
                tell=tell,
                new_version=new_version,
                code=code,
            )


def failures_in_words(failures: Mapping[keys.TenantId, str], most: int = 20) -> str:
    """The failed tenants and their reasons, for a person."""
    lines = [f"{tenant}: {reason}" for tenant, reason in list(failures.items())[:most]]
    if len(failures) > most:
        lines.append(f"… and {len(failures) - most} more")
    return "\n".join(lines)
