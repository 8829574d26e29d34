"""The archive of a tenant's exchanges with its models: what was asked, and what was answered."""

from __future__ import annotations

import base64
import contextlib
import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tenantry.aws import objects
from tenantry.hosting.invocation import JSON, Answer
from tenantry.names import ids, s3_keys
from tenantry.serving.result_cache import Question
from tenantry.trials.exchanges import Exchange

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment


def archive_answer(
    deployment: Deployment,
    model: ids.ModelId,
    question: Question,
    request: Mapping[str, Any],
    at: datetime,
    milliseconds: float,
    answer: Answer | None,
    exchange: Exchange | None = None,
) -> None:
    """Archive an exchange. One without ``answer`` got a kept answer, which an earlier exchange of
    the same question has.

    Args:
        deployment: where.
        model: whose model was asked.
        question: what was asked.
        request: as the model got it.
        at: when.
        milliseconds: how long the answer took.
        answer: the model's.
        exchange: the request's part in a trial.
    """
    record: dict[str, Any] = {
        "format": 1,
        "at": at.isoformat(),
        "version": question.version,
        **({"trace_id": question.trace_id} if question.trace_id else {}),
        "question": question.id,
        "milliseconds": round(milliseconds, 3),
        "cached": answer is None,
        "request": dict(request),
    }
    if answer is not None:
        record["response"] = _archived(answer)
    if exchange is None:
        name = f"{at:%H%M%S}-{uuid.uuid4().hex[:12]}"
        key = s3_keys.archived_request(question.workload, model, at, name)
    else:
        key = exchange.key(question.workload, model, at)
        record["trial"] = exchange.document
    objects.write_json(deployment.s3, deployment.data_bucket, key, record)


def archive_failure(
    deployment: Deployment, model: ids.ModelId, question: Question, at: datetime, exchange: Exchange
) -> None:
    """Archive that no version answered a request during a trial, without the request."""
    record = {
        "format": 1,
        "at": at.isoformat(),
        "version": question.version,
        "question": question.id,
        "trial": exchange.document,
    }
    key = exchange.key(question.workload, model, at)
    objects.write_json(deployment.s3, deployment.data_bucket, key, record)


def _archived(answer: Answer) -> Any:
    """An answer as an archived exchange keeps it: a JSON document unchanged, any other content with
    its type."""
    if answer.content_type.split(";")[0].strip() == JSON:
        with contextlib.suppress(ValueError):  # else it is kept as the bytes it is
            return json.loads(answer.content)
    return {
        "content_type": answer.content_type,
        "base64": base64.b64encode(answer.content).decode(),
    }
