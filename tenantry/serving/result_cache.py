"""The result cache: answers of a version of a tenant's model, kept in S3 and given again to the
same question.

A question's id is the hash of all that decides its answer, such as the tenant and the champion's
version. So a new champion or another tenant never finds an old entry. An entry's metadata says
which question it answers, and is checked when the entry is read. Only a whole answer is kept: no
error, nothing that was cut off.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from contracts.trace_context import trace_id_of
from tenantry.aws import objects
from tenantry.hosting.invocation import JSON, Answer, InvocationRefusedError
from tenantry.models.registry import Champion
from tenantry.names import ids, s3_keys
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_LOG = logging.getLogger(__name__)
_FORMAT: Final = "1"


@dataclass(frozen=True)
class Question:
    """A question to a champion.

    ``repeatable`` tells whether the same question may be answered the same way. A question that is
    not repeatable has an id of its own. ``trace_id`` is the version's, empty for none.
    """

    id: ids.QuestionId
    workload: ids.WorkloadName
    tenant: ids.ModelId
    version: ids.Version
    accept: str
    repeatable: bool
    trace_id: str = ""


def question_of(
    workload: Workload, champion: Champion, request: Mapping[str, Any], accept: str
) -> Question:
    """The question that a request puts to ``champion``.

    Args:
        workload: says which requests are repeatable; another container or other settings of it make
            another question.
        champion: the model and its version.
        request: the request; the order of its fields makes no difference.
        accept: the content type that is asked for.

    Raises:
        InvocationRefusedError: the request cannot be written as JSON.
    """
    # A request about now is another question in an hour.
    of_a_moment = workload.moment is None or workload.moment.field in request
    repeatable = of_a_moment and workload.serving.cache.takes(request)
    try:
        content = json.dumps(
            {
                "request": dict(request),
                "accept": accept,
                "serving": workload.answer_version,
                "once": "" if repeatable else uuid.uuid4().hex,
            },
            sort_keys=True,
            separators=(",", ":"),
            allow_nan=False,
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise InvocationRefusedError(f"the request is no JSON document: {error}") from error
    name = champion.workload
    question = ids.question_id_of(name, champion.tenant, champion.version, content)
    trace_id = trace_id_of(champion.traceparent)
    return Question(question, name, champion.tenant, champion.version, accept, repeatable, trace_id)


@dataclass(frozen=True)
class ResultCache:
    """The kept answers of a workload."""

    deployment: Deployment
    workload: Workload

    def find(self, question: Question, at: datetime | None = None) -> Answer | None:
        """The kept answer; None when there is none to give.

        An entry does not count if it has expired, belongs to another question, or is damaged, or if
        S3 cannot give it now.

        Args:
            question: the question.
            at: the moment it is asked; now when not given.
        """
        if not question.repeatable:
            return None
        try:
            found = objects.find_object(
                self.deployment.s3,
                self.deployment.data_bucket,
                _key(question),
                self.workload.serving.cache.max_bytes,
            )
        except (objects.ObjectTooLargeError, ClientError, BotoCoreError) as error:
            _LOG.warning("a kept answer could not be read: %s", error)
            return None
        if found is None:
            return None
        if _label(question, found.content) != {
            name: found.metadata.get(name) for name in _label(question, b"")
        }:
            _LOG.warning("the kept answer %s is not what it should be", _key(question))
            return None
        try:
            until = datetime.fromisoformat(found.metadata.get("until", ""))
            in_time = (at or datetime.now(UTC)) < until
        except (ValueError, TypeError):  # no date, or one without a time zone
            return None
        answer = Answer(found.content, found.content_type)
        return answer if in_time and is_whole(answer, question.accept) else None

    def keep(self, question: Question, answer: Answer, at: datetime | None = None) -> bool:
        """Keep an answer, unless its question is not repeatable, or it is too large or no whole
        answer. Returns whether it was kept.

        Args:
            question: the question.
            answer: the answer.
            at: the moment it was answered; now when not given.
        """
        settings = self.workload.serving.cache
        if not question.repeatable or len(answer.content) > settings.max_bytes:
            return False
        if not is_whole(answer, question.accept):
            _LOG.warning(
                "an answer of %s to %s is none that can be kept", question.tenant, question.accept
            )
            return False
        until = (at or datetime.now(UTC)) + timedelta(days=settings.days)
        objects.write_bytes(
            self.deployment.s3,
            self.deployment.data_bucket,
            _key(question),
            answer.content,
            answer.content_type,
            {**_label(question, answer.content), "until": until.isoformat(timespec="seconds")},
        )
        return True


_ENDS: Final[Mapping[str, tuple[bytes, bytes]]] = {
    "image/png": (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"),
    "image/jpeg": (b"\xff\xd8\xff", b"\xff\xd9"),
}
"""The first and the last bytes of pictures."""


def is_whole(answer: Answer, accept: str) -> bool:
    """Whether this is an answer of the kind that was asked for: not empty, not cut off, not a
    container's error document."""
    asked, kind = (said.split(";")[0].strip().lower() for said in (accept, answer.content_type))
    if not answer.content or ("*" not in asked and kind != asked):
        return False
    if kind in _ENDS:
        first, last = _ENDS[kind]
        return answer.content.startswith(first) and answer.content.endswith(last)
    if kind == JSON or kind.endswith("+json"):
        try:
            document = json.loads(answer.content)
        except (ValueError, RecursionError):
            return False
        return not (isinstance(document, dict) and "error" in document)
    return True


def _key(question: Question) -> str:
    return s3_keys.cached_answer(question.workload, question.tenant, question.version, question.id)


def _label(question: Question, content: bytes) -> dict[str, str]:
    """An entry's description of itself, as the object's metadata."""
    return {
        "format": _FORMAT,
        "workload": question.workload,
        "tenant": question.tenant,
        "version": question.version,
        "question": question.id,
        "sha256": objects.sha256(content),
    }
