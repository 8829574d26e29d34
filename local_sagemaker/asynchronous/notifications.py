"""SageMaker's SNS notifications about asynchronous inference.

docs.aws.amazon.com/sagemaker/latest/dg/async-inference-create-endpoint.html shows the test
notification. The members of a result's notification, their order and the words of
`responseBody.message` come from messages that AWS sent. No page of AWS lists them
(…/dg/async-inference-check-predictions.html shows the success message only).
"""

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from local_sagemaker.clock import MACHINE

INCLUDED_BODY_LIMIT_BYTES = 128 * 1024
"""A larger response is not included (…/APIReference/API_AsyncInferenceNotificationConfig.html)."""
TEST_NOTIFICATION = json.dumps(
    {"eventVersion": "1.0", "eventSource": "aws:sagemaker", "eventName": "TestNotification"},
    separators=(",", ":"),
)
_BODY_MESSAGE = "Check S3 path location(if configured) or Cloudwatch for additional details."


@dataclass(frozen=True)
class NotificationConfig:
    """Topic ARNs, and the topics (`SUCCESS_NOTIFICATION_TOPIC`, `ERROR_NOTIFICATION_TOPIC`) that
    get the response too."""

    success_topic: str | None
    error_topic: str | None
    included: frozenset[str]

    @classmethod
    def parse(cls, async_config: dict[str, Any]) -> "NotificationConfig":
        """From an endpoint's AsyncInferenceConfig."""
        config = async_config["OutputConfig"].get("NotificationConfig", {})
        return cls(
            config.get("SuccessTopic"),
            config.get("ErrorTopic"),
            frozenset(config.get("IncludeInferenceResponseIn", [])),
        )

    @property
    def topics(self) -> list[str]:
        """Each topic once."""
        return sorted({topic for topic in (self.success_topic, self.error_topic) if topic})

    def topic(self, *, failed: bool) -> str | None:
        """The topic of a result's notification, if any."""
        return self.error_topic if failed else self.success_topic

    def includes_response(self, *, failed: bool) -> bool:
        """Whether a result's notification carries the response."""
        return (
            "ERROR_NOTIFICATION_TOPIC" if failed else "SUCCESS_NOTIFICATION_TOPIC"
        ) in self.included


def result_notification(
    *,
    region: str,
    received: float,
    inference_id: str,
    request: dict[str, str | None],
    failure: str | None,
    response: dict[str, str | None],
    body: bytes | None,
) -> str:
    """The message about an answered or failed request.

    `received` is in seconds since 1970. `request` are the members of `requestParameters` and
    `response` those of `responseParameters`, without those that are None. `failure` is the reason
    for a failure. `body` is the response to include; a body that is too large is left out.
    """
    message: dict[str, Any] = {
        "awsRegion": region,
        "eventTime": _moment(MACHINE.now()),
        "receivedTime": _moment(received),
        "invocationStatus": "Completed" if failure is None else "Failed",
    }
    if failure is not None:
        message["failureReason"] = failure
    message["requestParameters"] = _present(request)
    if failure is None:
        message["responseParameters"] = _present(response)
    if body is not None and len(body) <= INCLUDED_BODY_LIMIT_BYTES:
        content = base64.b64encode(body).decode()
        message["responseBody"] = {
            "content": content,
            "message": _BODY_MESSAGE,
            "encoding": "BASE64",
        }
    message |= {
        "inferenceId": inference_id,
        "eventVersion": "1.0",
        "eventSource": "aws:sagemaker",
        "eventName": "InferenceResult",
    }
    return json.dumps(message, separators=(",", ":"))


def _present(members: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in members.items() if value is not None}


def _moment(seconds: float) -> str:
    return (
        datetime.fromtimestamp(seconds, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
