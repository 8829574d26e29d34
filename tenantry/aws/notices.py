"""Tells people: a tenant's owner through the product's app (SNS topic, and the queue the app
reads), and the operators."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Literal

from tenantry.names import ids

if TYPE_CHECKING:
    from mypy_boto3_sns.type_defs import MessageAttributeValueTypeDef

    from tenantry.aws.deployment import Deployment

NoticeKind = Literal[
    "model_ready",
    "upload_refused",
    "model_not_made",
    "model_kept",
    "model_rolled_back",
    "data_too_old",
    "upload_waits",
    "first_results",
]


_NOTICES_AT_ONCE: Final = 10  # SNS takes no more in a call


@dataclass(frozen=True)
class Notice:
    """A message to a tenant's owner. ``message`` is a sentence for a person; ``code`` names the
    kind of refusal for programs."""

    kind: NoticeKind
    workload: ids.WorkloadName
    tenant: ids.ModelId
    message: str
    request: ids.RequestId | None = None
    version: ids.Version | None = None
    code: str | None = None


def tell_tenant(deployment: Deployment, notice: Notice) -> None:
    """Publish a notice; the app's queue holds it until the app has read it."""
    deployment.sns.publish(
        TopicArn=deployment.tenants_topic,
        Message=_document(notice),
        MessageAttributes=_attributes(notice),
    )


def tell_tenants(deployment: Deployment, notices: Sequence[Notice]) -> None:
    """Publish notices, ten to a call; a notice that SNS refuses in a batch is published alone."""
    for start in range(0, len(notices), _NOTICES_AT_ONCE):
        some = notices[start : start + _NOTICES_AT_ONCE]
        answer = deployment.sns.publish_batch(
            TopicArn=deployment.tenants_topic,
            PublishBatchRequestEntries=[
                {
                    "Id": str(number),
                    "Message": _document(notice),
                    "MessageAttributes": _attributes(notice),
                }
                for number, notice in enumerate(some)
            ],
        )
        for failed in answer.get("Failed", []):
            tell_tenant(deployment, some[int(failed["Id"])])


def _document(notice: Notice) -> str:
    whose = {"tenant": ids.tenant_of(notice.tenant), "model": ids.name_of(notice.tenant)}
    return json.dumps({"format": 1, **asdict(notice), **whose})


def _attributes(notice: Notice) -> dict[str, MessageAttributeValueTypeDef]:
    return {
        "kind": {"DataType": "String", "StringValue": notice.kind},
        "tenant": {"DataType": "String", "StringValue": ids.tenant_of(notice.tenant)},
    }


def tell_operators(deployment: Deployment, subject: str, message: str) -> None:
    """Publish to the operators' topic (SNS takes subjects of at most 100 characters)."""
    deployment.sns.publish(
        TopicArn=deployment.operators_topic, Subject=subject[:100], Message=message
    )
