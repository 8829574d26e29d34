"""Asynchronous questions: asked through S3 and an endpoint's queue, answered under the tenant's own
prefix.

The question's id makes the keys of its input and its answer (``tenantry.names.s3_keys``), so that
asking again finds the earlier question. SageMaker puts an answer where the request says
(``S3OutputPathExtension`` and ``Filename``). It chooses the place of a failure itself, below the
endpoint's ``S3FailurePath``. So ``deliver_failures`` brings a shared endpoint's failures to their
tenants, from SageMaker's messages.
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpointAsync.html
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Self

from botocore.exceptions import BotoCoreError, ClientError

from tenantry.aws import objects
from tenantry.aws.objects import error_code
from tenantry.aws.queues import MESSAGES_A_CALL
from tenantry.errors import TenantryError
from tenantry.hosting.endpoints import EndpointFailedError
from tenantry.hosting.invocation import (
    JSON,
    Answer,
    EndpointBusyError,
    InvocationRefusedError,
    not_taken,
)
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS, settings_of
from tenantry.models.registry import Champion
from tenantry.names import ids, s3_keys, sagemaker_names
from tenantry.names.tiers import machines_of
from tenantry.serving.result_cache import Question
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_LOG = logging.getLogger(__name__)
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_MAX_RECORD_BYTES: Final = 64 * 1024
_MAX_REASON_CHARACTERS: Final = 2000
# Content types that S3 gives to objects written without one.
_DEFAULT_CONTENT_TYPES: Final = frozenset({"", "binary/octet-stream", "application/octet-stream"})
# The container's codes for what a real-time endpoint answers with 429 and 504.
_BUSY: Final = frozenset({"TooManyRequests", "DeadlineExceeded"})
# The time from a request's last moment in its queue or its container to SageMaker's word about it.
_SETTLING: Final = timedelta(seconds=120)


@dataclass(frozen=True)
class Submitted:
    """A question that was asked, and where its answer or its failure will lie in the data bucket.

    ``failure_key`` is where SageMaker puts a failure, if it named the place to the caller. A tenant
    could write the record of a question itself, so a key from there counts only within the tenant's
    own prefix. ``answer`` is set when it was known at once. After ``due`` no answer comes.
    ``attempt`` counts how often it was asked.
    """

    question: Question
    request: Mapping[str, Any]
    at: datetime
    due: datetime
    output_key: str
    failure_key: str
    attempt: int = 1
    answer: Answer | None = field(default=None, repr=False)

    @property
    def id(self) -> ids.QuestionId:
        """The question's id."""
        return self.question.id


class ParkedError(TenantryError, TimeoutError):
    """A request found no instance, was parked, and has no answer yet. ``submitted`` is its ticket,
    for ``TenantClient.result`` and ``TenantClient.wait``."""

    def __init__(self, submitted: Submitted, seconds: float) -> None:
        """``seconds`` is how long the answer was waited for."""
        super().__init__(
            f"no instance takes requests; question {submitted.id} is parked until there is one, "
            f"and has no answer after {seconds:g} s; it may still come"
        )
        self.submitted = submitted


def submit(
    deployment: Deployment,
    workload: Workload,
    champion: Champion,
    question: Question,
    request: Mapping[str, Any],
    submitter: Deployment | None = None,
) -> Submitted:
    """Ask a question asynchronously, unless it was asked before and is answered, or still may be.

    Two callers with the same question at the same moment may both ask the endpoint; they find one
    answer.

    Args:
        deployment: buckets and clients.
        workload: how long an answer may take.
        champion: the tenant's champion.
        question: from ``result_cache.question_of``.
        request: the request.
        submitter: the deployment whose session asks the endpoint; ``deployment``'s own when not
            given.

    Raises:
        NotAsynchronousError: the workload has no asynchronous endpoint.
        EndpointFailedError: the tier's endpoint is not in service.
        InvocationRefusedError: SageMaker did not take the request.
    """
    settings = settings_of(workload)
    name, tenant = question.workload, question.tenant
    before = _read_record(deployment, question, request)
    attempt = 1
    if before is not None:
        try:
            return replace(before, answer=result(deployment, before))
        except (InvocationRefusedError, EndpointBusyError, objects.ObjectMissingError):
            attempt = before.attempt + 1
    key = s3_keys.async_input(name, tenant, question.id)
    endpoint = ASYNCHRONOUS.endpoint_name(
        deployment.prefix, name, machines_of(champion.tier, tenant)
    )
    route = ASYNCHRONOUS.route(endpoint, tenant, question.version)
    record = ASYNCHRONOUS.record(route, request)
    objects.write_bytes(deployment.s3, deployment.data_bucket, key, record, JSON)
    at = datetime.now(UTC)
    try:
        taken = (submitter or deployment).runtime.invoke_endpoint_async(
            EndpointName=endpoint,
            InputLocation=f"s3://{deployment.data_bucket}/{key}",
            ContentType=JSON,
            Accept=question.accept,
            InferenceId=sagemaker_names.inference_id(question.id, attempt),
            Filename=question.id,
            RequestTTLSeconds=settings.queue_seconds,
            InvocationTimeoutSeconds=settings.max_seconds,
            **ASYNCHRONOUS.output_arguments(name, tenant, champion.tier),
        )
    except ClientError as error:
        if error_code(error) == "ValidationError":
            raise not_taken(error, endpoint) from error
        raise
    submitted = Submitted(
        question=question,
        request=dict(request),
        at=at,
        due=at + timedelta(seconds=settings.queue_seconds + settings.max_seconds) + _SETTLING,
        output_key=_key_of(deployment, taken.get("OutputLocation", "")),
        failure_key=_key_of(deployment, taken.get("FailureLocation", "")),
        attempt=attempt,
    )
    if submitted.output_key != s3_keys.async_output(name, tenant, question.id):
        raise EndpointFailedError(
            f"endpoint {endpoint} answers to {taken.get('OutputLocation')!r}, which is not the "
            f"tenant's own place; "
            "bring it up to date with the stack and the workload"
        )
    objects.write_json(
        deployment.s3,
        deployment.data_bucket,
        s3_keys.async_submitted(name, tenant, question.id),
        {
            "format": 1,
            "question": question.id,
            "at": at.isoformat(),
            "due": submitted.due.isoformat(),
            "failure": _own(question, submitted.failure_key),
            "attempt": attempt,
        },
    )
    return submitted


def result(deployment: Deployment, submitted: Submitted) -> Answer | None:
    """The answer, or None while there is none.

    Raises:
        InvocationRefusedError: it could not be answered; the message is the container's or
            SageMaker's reason.
        EndpointBusyError: its container had too much to do, or ran out of the request's time.
        objects.ObjectMissingError: the time for an answer has passed, and neither it nor a failure
            is there.
        objects.ObjectTooLargeError: the answer has more than ``MAX_ANSWER_BYTES``.
    """
    if submitted.answer is not None:
        return submitted.answer
    question = submitted.question
    output = s3_keys.async_output(question.workload, question.tenant, question.id)
    found = _find(deployment, output, MAX_ANSWER_BYTES)
    if found is not None:
        said = found.content_type
        return Answer(found.content, question.accept if said in _DEFAULT_CONTENT_TYPES else said)
    copied = s3_keys.async_failure(
        question.workload, question.tenant, question.id, submitted.attempt
    )
    # SageMaker's own key is tried, too: a session that may read it need not wait for the copy.
    for key in (copied, submitted.failure_key):
        failure = _find(deployment, key, MAX_ANSWER_BYTES) if key else None
        if failure is not None:
            code, reason = _code_and_reason(failure.content)
            raise (EndpointBusyError if code in _BUSY else InvocationRefusedError)(reason)
    if datetime.now(UTC) > submitted.due:
        raise objects.ObjectMissingError(
            f"the question of {submitted.at:%Y-%m-%d %H:%M} UTC was neither answered nor refused "
            f"in its time; ask it again"
        )
    return None


def _find(deployment: Deployment, key: str, max_bytes: int) -> objects.StoredObject | None:
    return objects.find_object(deployment.s3, deployment.data_bucket, key, max_bytes)


def _read_record(
    deployment: Deployment, question: Question, request: Mapping[str, Any]
) -> Submitted | None:
    """The record of a question that was asked before; None when it was not, or the record is not
    whole."""
    if not question.repeatable:
        return None
    key = s3_keys.async_submitted(question.workload, question.tenant, question.id)
    try:
        found = _find(deployment, key, _MAX_RECORD_BYTES)
    except objects.ObjectTooLargeError:
        found = objects.StoredObject(b"", "", {})
    if found is None:
        return None
    try:
        record = json.loads(found.content)
        submitted = Submitted(
            question=question,
            request=dict(request),
            at=datetime.fromisoformat(record["at"]).astimezone(UTC),
            due=datetime.fromisoformat(record["due"]).astimezone(UTC),
            output_key=s3_keys.async_output(question.workload, question.tenant, question.id),
            failure_key=_own(question, str(record["failure"])),
            attempt=int(record["attempt"]),
        )
        whole = record["format"] == 1 and record["question"] == question.id
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        _LOG.warning("the record %s of a question cannot be used", key)
        return None
    return submitted


def _own(question: Question, key: str) -> str:
    """The key, if it lies under the prefix of the question's tenant; empty otherwise."""
    prefix = f"{s3_keys.async_tenant_prefix(question.workload, question.tenant)}/"
    return key if key.startswith(prefix) and "/" not in key.removeprefix(prefix) else ""


def _key_of(deployment: Deployment, location: str) -> str:
    return location.removeprefix(f"s3://{deployment.data_bucket}/") if location else ""


def _code_and_reason(content: bytes) -> tuple[str, str]:
    """A failure's code and reason, from the container's error document (docs/contracts.md). The
    code is empty where it is no such document."""
    text = content.decode(errors="replace")[:_MAX_REASON_CHARACTERS]
    try:
        said = json.loads(content)["error"]
        code, reason = said.get("code"), said["message"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", text
    if not isinstance(reason, str):
        return "", text
    return code if isinstance(code, str) else "", reason[:_MAX_REASON_CHARACTERS]


# ---- failures of shared endpoints ----------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """SageMaker's message that an attempt at a question failed, and why. ``code`` is that of the
    container's error document, if there is one."""

    workload: ids.WorkloadName
    tenant: ids.ModelId
    question: ids.QuestionId
    attempt: int
    reason: str
    code: str = ""

    @classmethod
    def parse(cls, deployment: Deployment, message: str) -> Self | None:
        """Read the message; None for one about no question of this deployment, such as a test
        notification.

        https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-check-predictions.html has
        its form. The container's own words are in ``responseBody``, which an endpoint made by
        ``hosting.shapes.asynchronous`` asks for.
        """
        try:
            document = json.loads(message)
            if document.get("invocationStatus") != "Failed":
                return None
            location = str(document["requestParameters"]["inputLocation"])
            workload, tenant, question = s3_keys.parse_async_input(_key_of(deployment, location))
            asked, attempt = sagemaker_names.parse_inference_id(str(document["inferenceId"]))
            if asked != question:
                return None
            body = document.get("responseBody")
            content = (
                base64.b64decode(body["content"])
                if body
                else str(document.get("failureReason", "")).encode()
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        code, reason = _code_and_reason(content)
        return cls(workload, tenant, question, attempt, reason or "SageMaker gave no reason", code)


def deliver_failures(deployment: Deployment, most: int = 1000) -> list[Failure]:
    """Bring failures of asynchronous questions to their tenants' prefixes; returns those that were
    brought.

    A repeated call changes nothing: a message is deleted when its failure has been written.

    Args:
        deployment: the queue and the bucket.
        most: messages to read at most.
    """
    delivered: list[Failure] = []
    for _ in range(0, most, MESSAGES_A_CALL):
        received = deployment.async_failures.receive()
        if not received:
            break
        for message in received:
            try:
                failure = _deliver(deployment, message.body)
                deployment.async_failures.delete([message.receipt])
            except (
                ClientError,
                BotoCoreError,
            ):  # it is received again; the others are brought meanwhile
                _LOG.exception("a failure could not be brought to its tenant")
                continue
            if failure is not None:
                delivered.append(failure)
    return delivered


def _deliver(deployment: Deployment, message: str) -> Failure | None:
    """Write the failure in a message to its tenant's prefix; None for a message about no question
    of ours."""
    failure = Failure.parse(deployment, message)
    if failure is None:
        _LOG.info("a message about no question of ours was left out: %.200s", message)
        return None
    key = s3_keys.async_failure(failure.workload, failure.tenant, failure.question, failure.attempt)
    s3, bucket = deployment.s3, deployment.data_bucket
    if failure.code:
        said = {"error": {"code": failure.code, "message": failure.reason}}
        objects.write_json(s3, bucket, key, said)
    else:
        objects.write_bytes(s3, bucket, key, failure.reason.encode(), "text/plain; charset=utf-8")
    return failure
