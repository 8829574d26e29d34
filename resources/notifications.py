"""Tells people: a tenant's owner through the product's app (SNS topic, and the queue the app reads), and the operators."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from resources import keys

if TYPE_CHECKING:
    from resources.deployment import Deployment

NoticeKind = Literal["model_ready", "upload_refused", "model_not_made", "model_kept", "model_rolled_back"]


@dataclass(frozen=True)
class Notice:
    """What a tenant's owner is told. ``message`` is a sentence for a person."""

    kind: NoticeKind
    workload: keys.WorkloadName
    tenant: keys.TenantId
    message: str
    request: keys.RequestId | None = None
    version: keys.Version | None = None


def tell_tenant(deployment: Deployment, notice: Notice) -> None:
    """Publish a notice; the app's queue holds it until the app has read it."""
    deployment.sns.publish(
        TopicArn=deployment.tenants_topic,
        Message=json.dumps({"format": 1, **asdict(notice)}),
        MessageAttributes={
            "kind": {"DataType": "String", "StringValue": notice.kind},
            "tenant": {"DataType": "String", "StringValue": notice.tenant},
        },
    )


def tell_operators(deployment: Deployment, subject: str, message: str) -> None:
    """Publish to the operators' topic (SNS takes subjects of at most 100 characters)."""
    deployment.sns.publish(TopicArn=deployment.operators_topic, Subject=subject[:100], Message=message)
