"""The tenant-facing client: the product's app calls it for one tenant that it has identified.

It uploads, asks the tenant's champion, at once or asynchronously, and reads its predictions. The
tenant comes from the identity that the app verified, once, when the client is made. No call takes
another tenant.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from botocore.exceptions import BotoCoreError, ClientError

from tenantry.aws import objects
from tenantry.errors import TenantryError
from tenantry.hosting.endpoints import EndpointFailedError
from tenantry.hosting.invocation import (
    BUSY_SECONDS,
    JSON,
    Answer,
    EndpointBusyError,
    EndpointUnavailableError,
    InvocationRefusedError,
    invoke,
)
from tenantry.hosting.shapes.asynchronous import settings_of
from tenantry.hosting.shapes.catalogue import shape_named
from tenantry.models.first_results import FirstResult, first_results, read_first_result
from tenantry.models.registry import Champion, ModelRegistry
from tenantry.names import ids, s3_keys
from tenantry.requests.newest import newest_of
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request
from tenantry.serving import asynchronous
from tenantry.serving.archive import archive_answer, archive_failure
from tenantry.serving.asynchronous import ParkedError, Submitted
from tenantry.serving.metrics import InferenceMetrics
from tenantry.serving.moments import at_its_moment
from tenantry.serving.result_cache import Question, ResultCache, question_of
from tenantry.tracing.spans import span
from tenantry.trials.exchanges import Exchange, Failure, Outcome
from tenantry.uploads import manifests
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from types import TracebackType

    from tenantry.aws.deployment import Deployment

_LOG = logging.getLogger(__name__)
MAX_PREDICTION_BYTES: Final = 64 * 1024 * 1024
"""The largest batch prediction of a tenant that is read."""
PARKED_SECONDS: Final = 600.0
"""How long ``predict`` waits for a parked request's answer: a GPU's instance takes minutes to
start."""


class NoModelYetError(TenantryError, LookupError):
    """The tenant has no champion for this workload; the message has the state of its last
    upload."""


class ArchiveDigestError(TenantryError, ValueError):
    """The bytes of a model's archive have another SHA-256 than the caller gave; nothing was
    uploaded."""


class AnswerUnreadableError(TenantryError, ValueError):
    """The model's answer is not the JSON object that was asked for; the message says what it is."""


@dataclass
class TenantClient:
    """One tenant's way to one workload.

    Use it in a ``with`` block: leaving waits for the archive and the kept answers to be written,
    and sends the counts.

    Many clients may share ``metrics``, and their counts go out together; its maker closes it.
    ``submitter`` is the deployment with the app's own session, for tenants whose session may not
    ask a shared endpoint whose container fetches the models itself.

    ``model`` is the name of the tenant's model that every call is about. A name that is new is made
    with its first upload.

    Raises:
        ids.InvalidIdError: ``tenant`` is no tenant's id, or ``model`` no model's name; the message
            has the rule.
    """

    deployment: Deployment
    workload: Workload
    tenant: ids.TenantId
    metrics: InferenceMetrics | None = None
    submitter: Deployment | None = None
    model: ids.ModelName = ids.DEFAULT_MODEL
    _archivist: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1), init=False, repr=False
    )
    _id: ids.ModelId = field(init=False, repr=False)
    _counts: InferenceMetrics = field(init=False, repr=False)
    _cache: ResultCache = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # A type checker may not have seen the caller.
        self._id = ids.model_of(ids.tenant_id(self.tenant), ids.model_name(self.model))
        self._counts = self.metrics or InferenceMetrics(self.deployment)
        self._cache = ResultCache(self.deployment, self.workload)

    @classmethod
    def of_model(cls, deployment: Deployment, workload: Workload, model: ids.ModelId) -> Self:
        """The client of an operator, who names the tenant and its model in one text."""
        return cls(deployment, workload, ids.tenant_of(model), model=ids.name_of(model))

    @property
    def _name(self) -> ids.WorkloadName:
        return ids.workload_name(self.workload.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._archivist.shutdown(wait=True)
        if self.metrics is None:
            self._counts.close()

    def upload(
        self,
        files: Mapping[str, bytes],
        parameters: Mapping[str, str | int | float | bool] | None = None,
        *,
        purpose: Literal["training", "inference"] = "training",
    ) -> ids.UploadId:
        """Upload files. Returns the upload's id; no further call is needed.

        Args:
            files: their contents, by name.
            parameters: that the workload's file declares.
            purpose: to make a model from them, or with ``inference`` to append them to the data
                that the next batch predictions start from, without a new model.

        Raises:
            ids.InvalidIdError: a file's name cannot be used.
        """
        upload = ids.upload_id(uuid.uuid4().hex)
        manifests.put_upload(
            self.deployment, self._name, self._id, upload, files, parameters, purpose
        )
        return upload

    def import_model(self, archive: bytes, *, sha256: str | None = None) -> ids.UploadId:
        """Hand in a model that was trained elsewhere, in the archive format of the workload.

        It is checked, gets a version, and is compared with the champion as any other. Returns the
        upload's id; no further call is needed.

        Args:
            archive: the bytes of the ``tar.gz``.
            sha256: its hexadecimal SHA-256, if the caller knows it.

        Raises:
            ArchiveDigestError: ``archive`` has another digest than ``sha256``.
        """
        if sha256 is not None and sha256.lower() != objects.sha256(archive):
            raise ArchiveDigestError(
                f"the archive's SHA-256 is {objects.sha256(archive)}, not {sha256[:80]}; fetch it "
                f"again from where it was made"
            )
        upload = ids.upload_id(uuid.uuid4().hex)
        manifests.put_upload(
            self.deployment,
            self._name,
            self._id,
            upload,
            {"model.tar.gz": archive},
            purpose="import",
        )
        return upload

    def _span(self, name: str, champion: Champion) -> AbstractContextManager[str]:
        """A span in the app's own trace, if it has one, else in that of the model's upload."""
        return span(
            name, champion.traceparent, in_callers=True, workload=self._name, tenant=self._id
        )

    def models(self) -> list[ids.ModelName]:
        """The names of the tenant's models of the workload that are or were asked for, in the order
        of the alphabet."""
        registry = ModelRegistry(self.deployment)
        named = registry.named_models(self.tenant, self._name)
        default = RequestQueue(self.deployment).of_tenant(self._name, self.tenant)
        names = [ids.name_of(model) for model in ([self.tenant] if default else []) + named]
        return sorted(names)

    def requests(self, purpose: Literal["training", "inference"] = "training") -> list[Request]:
        """The requests of the uploads for the model, oldest first: those that make a model, or
        those that bring it new data."""
        return RequestQueue(self.deployment).of_tenant(self._name, self._id, purpose)

    def champion(self) -> Champion:
        """The version the tenant is served by.

        Raises:
            NoModelYetError: there is none; the message has the state of the last upload.
        """
        served_by = self.workload.served_by(self._id)
        champion = ModelRegistry(self.deployment).champion(served_by, self._name)
        if champion is None:
            last = newest_of(self.requests())
            stands = (
                f"its last upload is {last.status}"
                if last
                else "none of its uploads has been taken in"
            )
            if last and last.reason:
                stands += f": {last.reason}"
            raise NoModelYetError(f"{self._id} has no {self.workload.name} model yet; {stands}")
        # The shared model answers this tenant: question and answer are the tenant's.
        return replace(champion, tenant=self._id)

    def predict(
        self, request: Mapping[str, Any], *, wait_seconds: float = PARKED_SECONDS
    ) -> dict[str, Any]:
        """Ask the tenant's model for a JSON document. See ``predict_bytes``.

        Raises:
            AnswerUnreadableError: the answer is no JSON object.
        """
        return _document(self.predict_bytes(request, wait_seconds=wait_seconds))

    def predict_bytes(
        self,
        request: Mapping[str, Any],
        accept: str = JSON,
        *,
        wait_seconds: float = PARKED_SECONDS,
    ) -> Answer:
        """Ask the tenant's model, or give the kept answer to the same question where the workload
        allows it.

        Request and response are archived to S3, and the answer is kept, without delaying the
        answer.

        A request that finds no instance is parked, where the workload says
        ``park_when_unavailable``: it is submitted to the asynchronous endpoint, as ``submit`` does,
        and answered from there.

        Args:
            request: the request, as the workload's container takes it.
            accept: content type of the answer, as ``image/png``.
            wait_seconds: seconds to wait at most for the answer to a parked request. With 0, the
                ticket is given at once.

        Raises:
            NoModelYetError: there is no model.
            InvocationRefusedError: the model's container refused the request, with its reason.
            EndpointFailedError: the endpoint is not in service, or is busy; with
                ``park_when_unavailable``, the request could not be parked either.
            ParkedError: the request is parked, and has no answer yet; the error has the ticket.
            objects.ObjectMissingError: a parked request's time has passed without an answer.
            UnknownShapeError: a later release serves the tenant, in a way this one cannot ask.
            botocore.exceptions.ClientError: AWS refused a call, or no instance is healthy and the
                workload does not park requests.
        """
        champion = self.champion()
        with self._span("predict", champion):
            return self._answer(champion, request, accept, wait_seconds)

    def _answer(
        self, champion: Champion, request: Mapping[str, Any], accept: str, wait_seconds: float
    ) -> Answer:
        at = datetime.now(UTC)
        moment = at_its_moment(self.workload, champion.card, request, at)
        trial = champion.trial
        if trial is None:
            return self._champions_answer(champion, moment, accept, wait_seconds, at)
        if not trial.takes(moment):
            drawn = Exchange(trial.version, "champion", "answered", 0)
            return self._champions_answer(champion, moment, accept, wait_seconds, at, drawn)
        tried = self._tried(champion.as_if(trial), request, accept, at)
        if isinstance(tried, Answer):
            return tried
        return self._champions_answer(champion, moment, accept, wait_seconds, at, tried)

    def _tried(
        self, challenger: Champion, request: Mapping[str, Any], accept: str, at: datetime
    ) -> Answer | Exchange | None:
        """The answer of a trial's version, or how it failed; None where there was no instance to
        ask, which is no version's fault. The champion answers then."""
        began = time.perf_counter()
        try:
            moment = at_its_moment(self.workload, challenger.card, request, at)
            question = question_of(self.workload, challenger, moment, accept)
            kept = self._cache.find(question, at)
            answer = kept or invoke(
                self._asker(challenger),
                challenger.route,
                dict(moment),
                accept,
                hasty=True,
                patience_seconds=BUSY_SECONDS,
            )
        except (InvocationRefusedError, EndpointBusyError) as error:
            milliseconds = (time.perf_counter() - began) * 1000
            return Exchange(
                challenger.version, "trial", "failed-alone", milliseconds, Failure.of(error)
            )
        except (EndpointFailedError, ClientError, BotoCoreError):
            return None
        self._counts.count(self._name, hit=kept is not None)
        milliseconds = (time.perf_counter() - began) * 1000
        outcome: Outcome = "answered" if kept is None else "kept"
        exchange = Exchange(challenger.version, "trial", outcome, milliseconds)
        self._write(question, moment, at, milliseconds, answer, kept=kept, exchange=exchange)
        return answer

    def _champions_answer(
        self,
        champion: Champion,
        request: Mapping[str, Any],
        accept: str,
        wait_seconds: float,
        at: datetime,
        drawn: Exchange | None = None,
    ) -> Answer:
        """The champion's answer to a request with its moment. ``drawn`` is the request's part in a
        trial: drawn for the champion, or failed by the trial's version."""
        parks = self.workload.serving.park_when_unavailable
        began = time.perf_counter()
        question = question_of(self.workload, champion, request, accept)
        kept = self._cache.find(question, at)
        parked: Submitted | None = None
        try:
            answer = kept or invoke(
                self._asker(champion), champion.route, dict(request), accept, hasty=parks
            )
            if kept is None and answer.version not in {None, champion.version}:
                # While a version is deployed, its endpoint serves two.
                question = replace(question, version=answer.version, repeatable=False)
        except EndpointUnavailableError as unavailable:
            if not parks:
                raise
            parked = self._park(champion, question, request, unavailable)
        except (InvocationRefusedError, EndpointBusyError) as error:
            if drawn is not None:
                milliseconds = (time.perf_counter() - began) * 1000
                failed = drawn.failed_by_champion(Failure.of(error), milliseconds)
                self._later(
                    lambda: archive_failure(self.deployment, self._id, question, at, failed)
                )
            raise
        finally:
            earlier = parked is not None and parked.at < at  # see _submitted
            self._counts.count(self._name, hit=kept is not None or earlier)
        if parked is not None:
            return self._parked_answer(parked, wait_seconds)
        milliseconds = (time.perf_counter() - began) * 1000
        exchange = None if drawn is None else drawn.answered_by_champion(milliseconds, kept is None)
        self._write(question, request, at, milliseconds, answer, kept=kept, exchange=exchange)
        return answer

    def _write(
        self,
        question: Question,
        request: Mapping[str, Any],
        at: datetime,
        milliseconds: float,
        answer: Answer,
        *,
        kept: Answer | None,
        exchange: Exchange | None,
    ) -> None:
        """Archive an exchange and keep its answer, after it was given."""
        self._later(
            lambda: archive_answer(
                self.deployment,
                self._id,
                question,
                request,
                at,
                milliseconds,
                None if kept else answer,
                exchange,
            )
        )
        if kept is None and question.repeatable:
            self._later(lambda: self._cache.keep(question, answer, at))

    def _asker(self, champion: Champion) -> Deployment:
        """The deployment whose session asks the champion's endpoint."""
        if self.submitter is not None and shape_named(champion.route.shape).asked_by_app:
            return self.submitter
        return self.deployment

    def _park(
        self,
        champion: Champion,
        question: Question,
        request: Mapping[str, Any],
        unavailable: EndpointUnavailableError,
    ) -> Submitted:
        """Submit a request that found no instance."""
        try:
            return asynchronous.submit(
                self.deployment, self.workload, champion, question, request, self.submitter
            )
        except (EndpointFailedError, ClientError) as error:
            raise EndpointUnavailableError(
                f"{unavailable}; nor can the request be parked: {error}"
            ) from error

    def _parked_answer(self, submitted: Submitted, wait_seconds: float) -> Answer:
        """Wait for the answer to a parked request. Raises ``ParkedError``."""
        # Nobody may have fetched the answer to an earlier submission. So it is looked for again,
        # which archives and keeps it.
        ticket = replace(submitted, answer=None)
        try:
            return self.wait(ticket, wait_seconds)
        except TimeoutError as error:
            raise ParkedError(ticket, wait_seconds) from error

    # ---- asynchronously --------------------------------------------------------------------------

    def submit(self, request: Mapping[str, Any], accept: str = JSON) -> Submitted:
        """Ask the tenant's model asynchronously: for answers that take long, or may wait until
        there is an instance.

        The same question asked again, in this process or another, finds the earlier one, unless
        that failed or its time passed.

        Args:
            request: the request, as the workload's container takes it.
            accept: content type of the answer.

        Raises:
            NoModelYetError: there is no model.
            NotAsynchronousError: the workload has no asynchronous endpoint.
            InvocationRefusedError: SageMaker did not take the request.
            EndpointFailedError: the asynchronous endpoint is not in service.
        """
        settings_of(self.workload)
        champion = self.champion()
        with self._span("submit", champion):
            return self._submitted(champion, request, accept)

    def _submitted(self, champion: Champion, request: Mapping[str, Any], accept: str) -> Submitted:
        at = datetime.now(UTC)
        request = at_its_moment(self.workload, champion.card, request, at)
        question = question_of(self.workload, champion, request, accept)
        kept = self._cache.find(question, at)
        if kept is not None:
            submitted = Submitted(question, dict(request), at, at, "", "", answer=kept)
        else:
            submitted = asynchronous.submit(
                self.deployment, self.workload, champion, question, request, self.submitter
            )
        # A question that was submitted before costs no inference either, answered or on its way.
        self._counts.count(self._name, hit=kept is not None or submitted.at < at)
        return submitted

    def result(self, submitted: Submitted) -> Answer | None:
        """The answer to a submitted question, or None while there is none; it is archived and kept
        as ``predict``'s are.

        Raises:
            InvocationRefusedError: it could not be answered, with the reason.
            EndpointBusyError: its container had too much to do, or ran out of the request's time.
            objects.ObjectMissingError: the time for an answer has passed without one.
        """
        if submitted.question.tenant != self._id:
            raise ids.InvalidIdError(
                f"the question is not of tenant {self._id}; ask its own client"
            )
        answer = asynchronous.result(self.deployment, submitted)
        if answer is not None and submitted.answer is None:
            question, milliseconds = (
                submitted.question,
                (datetime.now(UTC) - submitted.at).total_seconds() * 1000,
            )
            self._later(
                lambda: archive_answer(
                    self.deployment,
                    self._id,
                    question,
                    submitted.request,
                    submitted.at,
                    milliseconds,
                    answer,
                )
            )
            self._later(lambda: self._cache.keep(question, answer))
        return answer

    def wait(self, submitted: Submitted, timeout: float) -> Answer:
        """The answer to a submitted question, when it is there.

        Args:
            submitted: from ``submit``.
            timeout: seconds to wait at most.

        Raises:
            TimeoutError: there was none in time; it may still come.
            InvocationRefusedError: it could not be answered, with the reason.
            EndpointBusyError: its container had too much to do, or ran out of the request's time.
            objects.ObjectMissingError: the time for an answer has passed without one.
        """
        deadline, pause = time.monotonic() + timeout, 0.1
        while (answer := self.result(submitted)) is None:
            left = deadline - time.monotonic()
            if not left > 0:
                raise TimeoutError(
                    f"question {submitted.id} has no answer after {timeout:g} s; it may still come"
                )
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, 5.0)
        return answer

    # ---- after the answer ------------------------------------------------------------------------

    def _later(self, work: Callable[[], object]) -> None:
        """Do the work after the answer. A failure is logged, in the trace of the question."""
        self._archivist.submit(copy_context().run, _logging_failure, work)

    def first_results(self, version: ids.Version) -> list[FirstResult]:
        """What the training of a version made with it, as a tenant's first pictures; none where it
        made nothing. They are there before the model serves: the notice ``first_results`` names the
        version."""
        return first_results(self.deployment, self._name, self._id, version)

    def first_result(self, version: ids.Version, name: str) -> bytes:
        """The bytes of one of them.

        Raises:
            objects.ObjectMissingError: there is no such file.
        """
        return read_first_result(self.deployment, self._name, self._id, version, name)

    def predictions(self, day: date, batch: str = "") -> list[dict[str, Any]]:
        """The batch prediction of a day, one document per record. ``batch`` is the name of one of
        the workload's batches; the first, if it is not given.

        Raises:
            objects.ObjectMissingError: there is none for that day.
        """
        cadence = ids.batch_name(self.workload.batch_named(batch).name)
        key = s3_keys.prediction(self._name, self._id, cadence, day)
        found = objects.find_object(
            self.deployment.s3, self.deployment.data_bucket, key, MAX_PREDICTION_BYTES
        )
        if found is None:
            raise objects.ObjectMissingError(
                f"{self._id} has no {self.workload.name} prediction of {day.isoformat()}"
            )
        return [json.loads(line) for line in found.content.splitlines() if line.strip()]


def _document(answer: Answer) -> dict[str, Any]:
    try:
        document = json.loads(answer.content)
    except ValueError as error:
        raise AnswerUnreadableError(
            f"the model answered with {answer.content_type or 'bytes'}, not JSON"
        ) from error
    if not isinstance(document, dict):
        raise AnswerUnreadableError(
            f"the model answered with a JSON {type(document).__name__}, not an object"
        )
    return document


def _logging_failure(work: Callable[[], object]) -> None:
    try:
        work()
    except Exception as error:  # noqa: BLE001 - after any error, the answer was given
        _LOG.error("an exchange could not be archived, or its answer kept: %s", error)
