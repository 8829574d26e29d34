"""The rules of access that the template's policies must follow, written independently of the
policies.

A rule names an action and the targets on which it is allowed. Everything else is denied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.isolation.capacity_rules import CAPACITY, capacity_targets
from tests.isolation.job_rules import OPERATOR_JOBS, PIPELINE_ROLE, PROCESSING_ROLE, job_targets
from tests.isolation.judge import Request
from tests.isolation.query_rules import QUERY, RESULT_TABLES, query_targets
from tests.isolation.silo_rules import MAKES_SILO_ROLES, SILO_ROLE, SILO_TAGS, silo_targets
from tests.isolation.template import ACCOUNT, REGION, STACK, Template, as_list

OWN, OTHER = "acme", "globex"
PRINCIPAL: Final = f"arn:aws:sts::{ACCOUNT}:assumed-role/somebody/session"

# Roles of the template, with their identity policies, and policies for attachment to roles outside
# the template.
IDENTITIES: Final = (
    "TrainingRole",
    "ServingRole",
    "AsyncRole",
    "BatchRole",
    "ProcessingRole",
    "PipelineRole",
    "SiloPolicy",
    "TenantClientRole",
    "AppPolicy",
    "AsyncClientPolicy",
    "OrchestratorPolicy",
    "SiloRolesPolicy",
    "ResultTablesPolicy",
    "OperatorPolicy",
    "QueryPolicy",
    "OperatorJobsPolicy",
    "WindDownPolicy",
)

# The content of the data bucket, by the first part of the key. Keys for the control plane alone do
# not start with a tenant.
OF_TENANTS: Final = ("predictions", "archive", "cache", "async")
OF_THE_CONTROL_PLANE: Final = (
    "training-data",
    "jobs",
    "checkpoints",
    "endpoints",
    "batches",
    "async-failures",
    "artifacts",
    "pipes",
    "bases",
    "demand",
    "tables",
    "splits",
)
_ALL_DATA: Final = " ".join(
    (*OF_TENANTS, "question", "record", "data", "query-results", *OF_THE_CONTROL_PLANE)
)
_LIST_ALL: Final = "list-uploads list " + " ".join(
    f"list:{name}" for name in (*OF_TENANTS, *OF_THE_CONTROL_PLANE)
)
_TABLES: Final = "RequestsTable ModelsTable RequestsTable/index ModelsTable/index"
_CONTAINER: Final = {
    "s3:GetObject": "bases",
    "s3:ListBucket": "list:bases",
    "logs:CreateLogGroup logs:CreateLogStream logs:DescribeLogStreams logs:PutLogEvents": (
        "log-group log-stream"
    ),
    "cloudwatch:PutMetricData": "metric:/aws/sagemaker/Endpoints metric:AWS/SageMaker",
    "cloudwatch:DescribeAlarms": "alarm@own",
    "ecr:BatchCheckLayerAvailability ecr:BatchGetImage ecr:GetDownloadUrlForLayer": "repository",
    "ecr:GetAuthorizationToken": "any",
}
MAY: Final[Mapping[str, list[Mapping[str, str]]]] = {
    "TrainingRole": [
        _CONTAINER,
        {
            "s3:GetObject": "training-data jobs checkpoints pipes",
            "s3:PutObject": "jobs checkpoints pipes",
            "s3:ListBucket": "list:training-data list:jobs list:checkpoints list:pipes",
        },
    ],
    "ServingRole": [_CONTAINER, {"s3:GetObject": "endpoints", "s3:ListBucket": "list:endpoints"}],
    "AsyncRole": [
        _CONTAINER,
        {
            "s3:GetObject": "endpoints question",
            "s3:PutObject s3:AbortMultipartUpload": "async question record async-failures",
            "s3:ListBucket": "list:endpoints list:async list:async-failures",
            "sns:Publish": "AsyncSuccessTopic AsyncErrorTopic",
        },
    ],
    "BatchRole": [
        _CONTAINER,
        {"s3:GetObject s3:PutObject": "batches", "s3:ListBucket": "list:batches"},
    ],
    "ProcessingRole": [_CONTAINER, PROCESSING_ROLE],
    "PipelineRole": [PIPELINE_ROLE],
    "SiloPolicy": [_CONTAINER, SILO_ROLE],
    "SiloRolesPolicy": [MAKES_SILO_ROLES],
    "ResultTablesPolicy": [RESULT_TABLES],
    "QueryPolicy": [QUERY],
    "TenantClientRole": [
        {
            "s3:GetObject": "predictions@own archive@own cache@own async@own question@own "
            "record@own",
            "s3:PutObject": "uploads@own archive@own cache@own question@own record@own",
            "dynamodb:GetItem dynamodb:Query": "RequestsTable@own ModelsTable@own",
            "sagemaker:InvokeEndpoint": "endpoint@own endpoint@shared tagged-endpoint@own "
            "tagged-single@own",
            "sagemaker:InvokeEndpointAsync": "tagged-endpoint@own tagged-single@own",
            "cloudwatch:PutMetricData": "metric:Tenantry",
        },
        {"dynamodb:GetItem": "ModelsTable@shared"},
    ],
    "AppPolicy": [
        {
            "sqs:ReceiveMessage sqs:DeleteMessage sqs:ChangeMessageVisibility "
            "sqs:GetQueueAttributes": "NoticesQueue",
            "cloudformation:DescribeStacks": "stack",
        }
    ],
    "AsyncClientPolicy": [
        {
            "sagemaker:InvokeEndpointAsync": "async-endpoint tagged-endpoint",
            "sagemaker:InvokeEndpoint": "managed-endpoint",
        }
    ],
    "OrchestratorPolicy": [
        {
            "s3:GetObject": f"uploads {_ALL_DATA}",
            "s3:PutObject s3:DeleteObject": _ALL_DATA,
            "s3:ListBucket": _LIST_ALL,
            "sqs:ReceiveMessage sqs:DeleteMessage sqs:ChangeMessageVisibility "
            "sqs:GetQueueAttributes": "UploadsQueue AsyncFailuresQueue",
            "dynamodb:GetItem dynamodb:BatchGetItem dynamodb:Query dynamodb:PutItem "
            "dynamodb:UpdateItem dynamodb:DeleteItem": _TABLES,
            "sqs:ReceiveMessage sqs:DeleteMessage ": "UploadsDeadLetterQueue",
            "sqs:SendMessage": "UploadsQueue",
            "sns:Publish": "TenantsTopic OperatorsTopic",
            "sagemaker:AddTags sagemaker:CreateEndpoint sagemaker:CreateEndpointConfig "
            "sagemaker:CreateModel sagemaker:CreateProcessingJob sagemaker:CreateTrainingJob "
            "sagemaker:CreateTransformJob sagemaker:DeleteEndpoint sagemaker:DeleteEndpointConfig "
            "sagemaker:DeleteModel sagemaker:DescribeProcessingJob "
            "sagemaker:DescribeEndpoint sagemaker:DescribeEndpointConfig sagemaker:DescribeModel "
            "sagemaker:DescribeTrainingJob "
            "sagemaker:DescribeTransformJob sagemaker:InvokeEndpoint sagemaker:InvokeEndpointAsync "
            "sagemaker:StopTrainingJob "
            "sagemaker:StopTransformJob sagemaker:UpdateEndpoint "
            "sagemaker:UpdateEndpointWeightsAndCapacities": "endpoint async-endpoint "
            "managed-endpoint tagged-single "
            "tagged-endpoint endpoint-config model "
            "processing-job training-job transform-job",
            **CAPACITY,
            "sagemaker:ListEndpointConfigs sagemaker:ListEndpoints sagemaker:ListModels "
            "sagemaker:ListTrainingJobs": "any",
            "iam:PassRole": "hand:TrainingRole hand:ServingRole hand:AsyncRole hand:BatchRole",
            "logs:GetLogEvents logs:DescribeLogStreams logs:FilterLogEvents": "log-group "
            "log-stream",
            "cloudformation:DescribeStacks": "stack",
        }
    ],
    "OperatorPolicy": [
        {
            "s3:PutObject": "uploads demand endpoints archive cache question record",
            "s3:GetObject": "artifacts checkpoints demand endpoints predictions cache async "
            "question record",
            "s3:ListBucket": _LIST_ALL,
            "sqs:GetQueueAttributes": "UploadsQueue UploadsDeadLetterQueue",
            "sqs:SendMessage": "UploadsQueue",
            "sqs:ReceiveMessage sqs:DeleteMessage": "UploadsDeadLetterQueue",
            "dynamodb:GetItem dynamodb:BatchGetItem dynamodb:Query dynamodb:PutItem "
            "dynamodb:UpdateItem dynamodb:DeleteItem": _TABLES,
            "sns:Publish": "TenantsTopic",
            "cloudwatch:PutMetricData": "metric:Tenantry",
            "sagemaker:DescribeEndpoint sagemaker:DescribeTrainingJob sagemaker:InvokeEndpoint "
            "sagemaker:InvokeEndpointAsync sagemaker:StopTrainingJob "
            "sagemaker:UpdateEndpointWeightsAndCapacities": "endpoint async-endpoint "
            "managed-endpoint tagged-single "
            "tagged-endpoint training-job",
            **CAPACITY,
            "sagemaker:ListEndpoints sagemaker:ListTrainingJobs": "any",
            "cloudformation:DescribeStacks": "stack",
        }
    ],
    "OperatorJobsPolicy": [OPERATOR_JOBS],
    "WindDownPolicy": [
        {
            "s3:DeleteObject": f"uploads {_ALL_DATA}",
            "dynamodb:Scan": "RequestsTable ModelsTable",
            "sagemaker:DeleteEndpoint sagemaker:DeleteEndpointConfig sagemaker:DeleteModel": (
                "endpoint async-endpoint managed-endpoint tagged-single tagged-endpoint "
                "endpoint-config model"
            ),
            "application-autoscaling:DeregisterScalableTarget": "scalable-target",
            "cloudwatch:DeleteAlarms": "alarm@own",
            "sagemaker:ListEndpoints sagemaker:ListEndpointConfigs sagemaker:ListModels": "any",
            "iam:DetachRolePolicy": "silo-role@policy",
            "iam:DeleteRole": "silo-role",
            "iam:ListRoles": "any",
        }
    ],
}

# Actions that no role may take, besides those that the template allows to other roles.
FORBIDDEN: Final = (
    "s3:DeleteObjectVersion",
    "s3:GetObjectVersion",
    "s3:PutObjectAcl",
    "s3:PutBucketPolicy",
    "s3:ListBucketVersions",
    "dynamodb:Scan",
    "dynamodb:DeleteTable",
    "dynamodb:BatchWriteItem",
    "dynamodb:PartiQLSelect",
    "dynamodb:PartiQLUpdate",
    "sqs:PurgeQueue",
    "sqs:SetQueueAttributes",
    "sns:Subscribe",
    "sns:SetTopicAttributes",
    "ecr:PutImage",
    "iam:CreateRole",
    "iam:PutRolePolicy",
    "iam:UpdateAssumeRolePolicy",
    "cloudformation:UpdateStack",
    "cloudformation:DeleteStack",
    "logs:DeleteLogGroup",
    "cloudwatch:SetAlarmState",
    "sagemaker:CreateNotebookInstance",
    "sagemaker:DeleteTags",
    "athena:UpdateWorkGroup",
    "glue:CreateDatabase",
    "glue:DeleteTable",
)


@dataclass(frozen=True)
class Target:
    """The target of an action: a resource, and the call's further properties known to AWS.

    ``whose`` is ``own`` if the target belongs to the tenant of the session's tag, and another word
    otherwise.
    """

    label: str
    whose: str
    resource: str
    context: Mapping[str, str | list[str]]

    def named_by(self, rule: str) -> bool:
        """Whether a rule's list of targets names this one. A name with ``@`` means one tenant's
        target; a name without it means any tenant's."""
        return bool({self.label, f"{self.label}@{self.whose}"} & set(rule.split()))


def targets(template: Template, own: str = OWN, other: str = OTHER) -> Iterator[Target]:
    """All targets of the stack, for two tenants where targets belong to tenants, and targets
    outside the stack."""
    data, uploads = template.arn("DataBucket"), template.arn("UploadsBucket")
    for whose, tenant in (("own", own), ("other", other)):
        yield Target("uploads", whose, f"{uploads}/uploads/{tenant}/energy/u1/manifest.json", {})
        for name in OF_TENANTS:
            yield Target(name, whose, f"{data}/{name}/{tenant}/energy/0123", {})
        yield Target("question", whose, f"{data}/async/{tenant}/energy/0123.input", {})
        yield Target("record", whose, f"{data}/async/{tenant}/energy/0123.submitted", {})
        yield Target("async", whose, f"{data}/async/{tenant}/energy/0123.input.copy", {})
        yield Target("async", whose, f"{data}/async/{tenant}/energy/0123.submitted.copy", {})
        for name in OF_THE_CONTROL_PLANE:
            yield Target(name, whose, f"{data}/{name}/energy/{tenant}/0123", {})
            yield Target(name, whose, f"{data}/{name}/{tenant}/0123", {})
        # Another tenant's target whose key also contains this tenant's id.
        foreign = {"own": other, "other": own}[whose]
        yield Target(
            "uploads", whose, f"{uploads}/uploads/{tenant}/energy/{foreign}/manifest.json", {}
        )
        yield Target(
            "archive", whose, f"{data}/archive/{tenant}/{foreign}/{foreign}/{foreign}.json", {}
        )
        for name in OF_TENANTS:
            yield Target(name, whose, f"{data}/{name}/{tenant}/{foreign}/{foreign}/0123", {})
        yield Target("question", whose, f"{data}/async/{tenant}/{foreign}/{foreign}/0123.input", {})
        yield Target(
            "record", whose, f"{data}/async/{tenant}/{foreign}/{foreign}/0123.submitted", {}
        )
    # Targets of a tenant whose id begins with this one's, and targets without an owner.
    for name in (*OF_TENANTS, "uploads"):
        bucket = uploads if name == "uploads" else data
        yield Target(name, "neighbour", f"{bucket}/{name}/{own}-2/energy/0123", {})
        yield Target(
            "nothing" if name == "uploads" else "data",
            "nobody",
            f"{bucket}/{name}-of/{own}/energy/0123",
            {},
        )
    yield Target("question", "neighbour", f"{data}/async/{own}-2/energy/0123.input", {})
    yield Target("record", "neighbour", f"{data}/async/{own}-2/energy/0123.submitted", {})
    yield Target("nothing", "nobody", f"{uploads}/elsewhere/{own}/x", {})
    yield Target("foreign", "nobody", f"arn:aws:s3:::another-bucket/uploads/{own}/energy/u1/x", {})
    for name in (*OF_TENANTS, *OF_THE_CONTROL_PLANE):
        yield Target(f"list:{name}", "all", data, {"s3:prefix": f"{name}/energy/"})
        yield Target("list", "all", data, {"s3:prefix": f"{name}-of-others/"})
        yield Target("foreign", "nobody", f"{data}-2", {"s3:prefix": f"{name}/energy/"})
    yield Target("list", "all", data, {})
    yield Target("list-uploads", "all", uploads, {"s3:prefix": f"uploads/{own}/"})
    for foreign_bucket in ("arn:aws:s3:::another-bucket", f"{data}-2", f"{uploads}-2"):
        yield Target("foreign", "nobody", foreign_bucket, {})

    for name in template.named("AWS::SQS::Queue") + template.named("AWS::SNS::Topic"):
        yield Target(name, "all", template.arn(name), {})
        yield Target("foreign", "nobody", f"{template.arn(name)}-2", {})
    yield Target("foreign", "nobody", f"arn:aws:sqs:{REGION}:{ACCOUNT}:another", {})
    yield Target("foreign", "nobody", f"arn:aws:sns:{REGION}:{ACCOUNT}:another", {})

    leading = {
        "own": [f"{own}#energy"],
        "other": [f"{other}#energy"],
        "both": [f"{own}#energy", f"{other}#energy"],
        "neighbour": [f"{own}-2#energy"],
        "shared": ["shared#energy"],
        "shared and other": ["shared#energy", f"{other}#energy"],
        "neighbour of shared": ["shared-2#energy"],
        "workload": ["_workload#energy"],
        "account": ["_account"],
    }
    for name in template.named("AWS::DynamoDB::Table"):
        for whose, partitions in leading.items():
            yield Target(name, whose, template.arn(name), {"dynamodb:LeadingKeys": partitions})
        yield Target(name, "unnamed", template.arn(name), {})
        yield Target(
            f"{name}/index",
            "all",
            f"{template.arn(name)}/index/queue",
            {"dynamodb:LeadingKeys": [f"{own}#energy"]},
        )
        # AWS gives no leading keys for a scan.
        yield Target(f"{name}/index", "unnamed", f"{template.arn(name)}/index/queue", {})
        for context in (
            {"dynamodb:LeadingKeys": [f"{own}#energy"]},
            {"dynamodb:LeadingKeys": ["shared#energy"]},
            {},
        ):
            yield Target("foreign", "nobody", f"{template.arn(name)}-2", context)

    sagemaker = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}"
    for whose, tenant in (
        ("own", own),
        ("other", other),
        ("neighbour", f"{own}-2"),
        ("shared", "shared"),
        ("neighbour of shared", "shared-2"),
    ):
        model = {"sagemaker:TargetModel": f"{tenant}/v1.tar.gz"}
        yield Target("endpoint", whose, f"{sagemaker}:endpoint/tenantry-energy-bridge", model)
        tag = {"aws:ResourceTag/tenantry:tenant": tenant}
        yield Target(
            "tagged-endpoint", whose, f"{sagemaker}:endpoint/tenantry-energy-silo-0123-async", tag
        )
        yield Target(
            "tagged-single", whose, f"{sagemaker}:endpoint/tenantry-energy-silo-0123-single", tag
        )
    yield Target("endpoint", "unnamed", f"{sagemaker}:endpoint/tenantry-energy-bridge", {})
    yield Target("endpoint", "unnamed", f"{sagemaker}:endpoint/tenantry-energy-bridge-async-2", {})
    yield Target("async-endpoint", "all", f"{sagemaker}:endpoint/tenantry-energy-bridge-async", {})
    for end in ("managed", "containers"):
        asked_by_app = f"{sagemaker}:endpoint/tenantry-energy-bridge-{end}"
        yield Target("managed-endpoint", "all", asked_by_app, {})
        yield Target("endpoint", "unnamed", f"{asked_by_app}-2", {})
    for kind in ("endpoint-config", "model", "training-job", "transform-job", "processing-job"):
        yield Target(kind, "all", f"{sagemaker}:{kind}/tenantry-energy-x", {})
    yield from (Target(*found) for found in job_targets())
    foreign_tag = {"aws:ResourceTag/tenantry:tenant": own}
    for kind in ("endpoint", "endpoint-config", "model", "training-job", "transform-job"):
        yield Target("foreign", "nobody", f"{sagemaker}:{kind}/another-energy-async", {})
    yield Target("foreign", "nobody", f"{sagemaker}:endpoint/another-energy-async", foreign_tag)
    yield Target(
        "foreign",
        "nobody",
        f"{sagemaker}:endpoint/another",
        {"sagemaker:TargetModel": f"{own}/v1.tar.gz"},
    )

    for namespace in (
        "Tenantry",
        "/aws/sagemaker/Endpoints",
        "AWS/SageMaker",
        "/aws/sagemakers",
        "AWS/Billing",
    ):
        metrics = f"arn:aws:cloudwatch:{REGION}:{ACCOUNT}:dataset/default"
        yield Target(f"metric:{namespace}", "all", metrics, {"cloudwatch:namespace": namespace})
    yield Target("metrics", "all", metrics, {})
    yield from (Target(*found) for found in capacity_targets())
    yield Target("any", "all", "*", {})
    groups = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group"
    for label, group in (
        ("log", "/aws/sagemaker/TrainingJobs"),
        ("foreign", "/aws/lambda/another"),
    ):
        yield Target("log-group" if label == "log" else label, "all", f"{groups}:{group}", {})
        yield Target(
            "log-stream" if label == "log" else label, "all", f"{groups}:{group}:log-stream:x", {}
        )
    for label, repository in (("repository", "tenantry/forecast"), ("foreign", "another/forecast")):
        yield Target(label, "all", f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{repository}", {})
    yield from (Target(*found) for found in query_targets(data))
    yield Target("stack", "all", STACK, {})
    for ours, foreign_name in (
        ("stack/tenantry/", "stack/another/"),
        ("0a1b2c3d", "ffffffff"),
        ("45555", "45555-2"),
    ):
        yield Target("foreign", "nobody", STACK.replace(ours, foreign_name), {})
    for name in template.named("AWS::IAM::Role"):
        yield Target(
            f"hand:{name}",
            "all",
            template.arn(name),
            {"iam:PassedToService": "sagemaker.amazonaws.com"},
        )
        yield Target(
            "foreign",
            "nobody",
            f"{template.arn(name)}2",
            {"iam:PassedToService": "sagemaker.amazonaws.com"},
        )
        yield Target(
            "foreign", "nobody", template.arn(name), {"iam:PassedToService": "ec2.amazonaws.com"}
        )
    of_silo = silo_targets(data, uploads, template.arn("SiloPolicy"))
    yield from (Target(*found) for found in of_silo)
    another = f"arn:aws:iam::{ACCOUNT}:role/another"
    yield Target("foreign", "nobody", another, {"iam:PassedToService": "sagemaker.amazonaws.com"})


def allowed(role: str, action: str, target: Target) -> bool:
    """Whether a rule lets a role's holder do this."""
    return any(
        action in actions.split() and target.named_by(named)
        for rules in MAY[role]
        for actions, named in rules.items()
    )


def actions_of(document: Mapping[str, Any]) -> set[str]:
    """Every action that a policy names."""
    return {
        str(action)
        for statement in document["Statement"]
        for action in as_list(statement["Action"])
    }


def every_action(template: Template) -> list[str]:
    """Every action of every policy, and the forbidden ones. Another test judges assuming a role,
    together with its trust policy."""
    named = set().union(
        *(actions_of(document) for document in template.identity_policies().values())
    )
    return sorted(action for action in named | set(FORBIDDEN) if not action.startswith("sts:"))


def policies_of(template: Template, identity: str) -> tuple[str, ...]:
    """The names of the policies that a holder of an identity has."""
    return (
        template.policies_of(identity)
        if identity in template.named("AWS::IAM::Role")
        else (identity,)
    )


def asked(
    template: Template, identity: str, actions: list[str], own: str = OWN, other: str = OTHER
) -> list[tuple[Request, bool]]:
    """Every action on every target of its service, with the expected decision."""
    tag = {"aws:PrincipalTag/tenant": own} if identity == "TenantClientRole" else {}
    if identity == "SiloPolicy":
        tag = dict(SILO_TAGS)
    names = policies_of(template, identity)
    made = []
    for target in targets(template, own, other):
        service = target.resource.split(":")[2] if target.resource != "*" else None
        for action in actions:
            if service is None or action.split(":")[0] == service:
                request = Request(
                    action, target.resource, {**target.context, **tag}, PRINCIPAL, names
                )
                made.append((request, allowed(identity, action, target)))
    return made


APP: Final = f"arn:aws:iam::{ACCOUNT}:role/app"
STRANGER: Final = "999999999999"
TRUST, ATTACHED = "trust of ", "policy of "
# Its own policies let it assume any role, so that only the role's trust policy can refuse it.
ADMINISTRATOR: Final[Mapping[str, Any]] = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": [
                "sts:AssumeRole",
                "sts:TagSession",
                "sts:SetSourceIdentity",
                "sqs:SendMessage",
                "s3:GetObject",
            ],
            "Resource": "*",
        }
    ],
}


def every_policy(template: Template) -> dict[str, Any]:
    """All policies by name, including trust policies and those of buckets and queues."""
    (may_take_on,) = ADMINISTRATOR["Statement"]
    root = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
        "Action": may_take_on["Action"],
    }
    return {
        "Administrator": ADMINISTRATOR,
        f"{TRUST}another": {"Version": "2012-10-17", "Statement": [root]},
        **template.identity_policies(),
        **{f"{TRUST}{name}": document for name, document in template.trust_policies().items()},
        **{
            f"{ATTACHED}{name}": document for name, document in template.resource_policies().items()
        },
    }


def trusted(template: Template) -> Iterator[tuple[Request, bool]]:
    """Requests to assume roles, by identity and tags, with the expected decisions."""
    own: Mapping[str, str | list[str]] = {"aws:RequestTag/tenant": OWN, "aws:TagKeys": ["tenant"]}
    for role in template.named("AWS::IAM::Role"):
        arn, trust = template.arn(role), f"{TRUST}{role}"
        for_app = role == "TenantClientRole"
        yield (
            Request("sts:SetSourceIdentity", arn, own, APP, ("AppPolicy",), f"{TRUST}another"),
            False,
        )
        yield Request("sts:SetSourceIdentity", arn, own, APP, ("Administrator",), trust), False
        for action in ("sts:AssumeRole", "sts:TagSession"):
            # A role that trusts the whole account, in the stack or outside it.
            for foreign in (
                arn if not for_app else f"{arn}2",
                f"arn:aws:iam::{ACCOUNT}:role/another",
            ):
                yield Request(action, foreign, own, APP, ("AppPolicy",), f"{TRUST}another"), False
            tags: list[tuple[Mapping[str, str | list[str]], bool]] = [
                (own, for_app),
                ({}, False),
                ({"aws:TagKeys": ["tenant"], "aws:RequestTag/tenant": ""}, False),
                ({"aws:TagKeys": ["tenant"], "aws:RequestTag/tenant": "_workload"}, False),
                ({"aws:TagKeys": ["tenant"], "aws:RequestTag/tenant": f"{OWN}/energy"}, False),
                ({"aws:TagKeys": ["project"], "aws:RequestTag/project": OWN}, False),
                (
                    {
                        "aws:TagKeys": ["tenant", "project"],
                        "aws:RequestTag/tenant": OWN,
                        "aws:RequestTag/project": "x",
                    },
                    False,
                ),
            ]
            for context, may in tags:
                yield Request(action, arn, context, APP, ("AppPolicy",), trust), may
                yield Request(action, arn, context, APP, ("Administrator",), trust), may
            for identity in set(IDENTITIES) - {"AppPolicy"}:  # a tenant's session among them
                session = f"arn:aws:sts::{ACCOUNT}:assumed-role/tenantry-{identity}/session"
                context = {
                    **own,
                    **({"aws:PrincipalTag/tenant": OWN} if identity == "TenantClientRole" else {}),
                }
                yield (
                    Request(action, arn, context, session, policies_of(template, identity), trust),
                    False,
                )
            stranger = f"arn:aws:iam::{STRANGER}:role/app"
            yield Request(action, arn, own, stranger, ("Administrator",), trust), False
            for service, account in (
                ("sagemaker", ACCOUNT),
                ("sagemaker", STRANGER),
                ("sagemaker", None),
                ("ec2", ACCOUNT),
            ):
                context = {"aws:SourceAccount": account} if account else {}
                may = (
                    not for_app
                    and service == "sagemaker"
                    and account == ACCOUNT
                    and action == "sts:AssumeRole"
                )
                yield Request(action, arn, context, f"{service}.amazonaws.com", (), trust), may
