"""What policies of buckets and queues decide, written independently of them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.isolation.judge import Request
from tests.isolation.rules import APP, ATTACHED, STRANGER
from tests.isolation.template import ACCOUNT, REGION, Template


def attached(template: Template) -> Iterator[tuple[Request, bool]]:
    """The requests that policies of buckets and queues decide besides the caller's own, with the
    expected decisions."""
    for bucket in template.named("AWS::S3::Bucket"):
        for secure in ("true", "false"):
            context = {"aws:SecureTransport": secure}
            key = f"{template.arn(bucket)}/any/key"
            yield (
                Request(
                    "s3:GetObject", key, context, APP, ("Administrator",), f"{ATTACHED}{bucket}"
                ),
                secure == "true",
            )
            yield Request("s3:GetObject", key, context, APP, (), f"{ATTACHED}{bucket}"), False
            list_it = Request(
                "s3:ListBucket",
                template.arn(bucket),
                context,
                APP,
                ("OrchestratorPolicy",),
                f"{ATTACHED}{bucket}",
            )
            yield list_it, secure == "true"
    tells = {
        "UploadsQueue": ("s3", template.arn("UploadsBucket")),
        "NoticesQueue": ("sns", template.arn("TenantsTopic")),
        "AsyncFailuresQueue": ("sns", template.arn("AsyncErrorTopic")),
    }
    sources = [
        ("s3", template.arn("UploadsBucket")),
        ("s3", template.arn("DataBucket")),
        ("s3", "arn:aws:s3:::another-bucket"),
        *(("sns", template.arn(topic)) for topic in template.named("AWS::SNS::Topic")),
        ("sns", f"arn:aws:sns:{REGION}:{STRANGER}:tenantry-tenants"),
        ("events", template.arn("TenantsTopic")),
    ]
    for queue, teller in tells.items():
        policy, arn = f"{ATTACHED}{queue}", template.arn(queue)
        for service, source in [*sources, ("ec2", teller[1]), (teller[0], f"{teller[1]}-2")]:
            for account in (ACCOUNT, STRANGER):
                if service == "sns" and account == STRANGER:
                    continue  # a topic's ARN has its account
                context = {"aws:SourceArn": source, "aws:SourceAccount": account}
                may = (service, source) == teller and account == ACCOUNT
                for action in ("sqs:SendMessage", "sqs:ReceiveMessage"):
                    asked = Request(action, arn, context, f"{service}.amazonaws.com", (), policy)
                    yield asked, may and action == "sqs:SendMessage"
        yield (
            Request(
                "sqs:SendMessage",
                arn,
                {},
                f"arn:aws:iam::{STRANGER}:role/app",
                ("Administrator",),
                policy,
            ),
            False,
        )
