"""A policy that allows too much or too little is noticed: each statement is changed in every way
below, and the judge must notice."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pytest

from tests.isolation import rules
from tests.isolation.attached_rules import attached
from tests.isolation.judge import Judge, Request
from tests.isolation.template import ACCOUNT, REGION, Template, as_list

_AT_ONCE: Final = 40  # requests at a time; the first that reveals a change ends the check
TAG: Final = "${aws:PrincipalTag/tenant}"
_CLOUDWATCH: Final = f"arn:aws:cloudwatch:{REGION}:{ACCOUNT}"
# Changes without effect, because the statement's condition needs a key that AWS gives with no other
# action of the service.
SURVIVORS: Final = {
    "TenantClientRole/OwnModelsOnly allows all of sagemaker:InvokeEndpoint",
    "TenantClientRole/CountRequests allows all of cloudwatch:PutMetricData",  # cloudwatch:namespace
    *(
        f"SiloRolesPolicy/GiveThemTheirPolicy allows all of iam:{action}"  # iam:PolicyARN
        for action in ("AttachRolePolicy", "DetachRolePolicy")
    ),
    "SiloRolesPolicy/HandThemToSageMaker allows all of iam:PassRole",  # iam:PassedToService
    "SiloPolicy/Metrics allows all of cloudwatch:PutMetricData",  # the same
    "ContainerPolicy/Metrics allows all of cloudwatch:PutMetricData",  # the same
    "OperatorPolicy/CountWhatIsAsked allows all of cloudwatch:PutMetricData",  # the same
    *(  # iam:PassedToService
        f"{statement} allows all of iam:PassRole"
        for statement in (
            "OrchestratorPolicy/HandRolesToSageMaker",
            "OperatorJobsPolicy/HandRolesToSageMaker",
            "PipelineRole/HandRoleToSageMaker",
        )
    ),
    *(
        f"{policy}/{change}"
        for policy in ("OrchestratorPolicy", "OperatorPolicy")
        for change in (
            # for want of the key iam:AWSServiceName
            "ServiceLinkedRole allows all of iam:CreateServiceLinkedRole",
            # DescribeAlarms knows no other resource
            f"LookAtAlarms takes {_CLOUDWATCH}:* for {_CLOUDWATCH}:alarm:*",
        )
    ),
}


def widened(text: str) -> Iterator[str]:
    """Patterns that match more than a given pattern of a resource or a condition."""
    yield "*"
    if TAG in text:
        yield text.replace(TAG, "*")
        yield text.replace(TAG, f"*/{TAG}")
        yield text.replace(f"{TAG}/", TAG).replace(f"{TAG}#", TAG)
    if text.startswith("arn:"):
        *start, name = text.split(":", 5)
        first, slash, rest = name.partition("/")
        if slash and rest != "*":
            yield ":".join([*start, f"{first}/*"])
            *folders, _ = name.split("/")
            yield ":".join([*start, "/".join([*folders, "*"])])
        if not name.endswith("*"):
            yield f"{text}*"
        if not slash:
            yield ":".join([*start, "*"])
    elif text.endswith("/*"):
        yield f"{text[:-2]}*"


def without(values: Sequence[Any], number: int) -> list[Any]:
    return [value for place, value in enumerate(values) if place != number]


def changes(statement: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Every change of a statement: its description, and the changed statement."""
    yield "is not there", None
    yield (
        "has the other effect",
        {**statement, "Effect": "Deny" if statement["Effect"] == "Allow" else "Allow"},
    )
    actions = as_list(statement["Action"])
    for number, action in enumerate(actions):
        if len(actions) > 1:
            yield f"lacks the action {action}", {**statement, "Action": without(actions, number)}
        if not action.endswith("*"):
            yield (
                f"allows all of {action}",
                {**statement, "Action": [*actions, f"{action.split(':')[0]}:*"]},
            )
    resources = as_list(statement.get("Resource", []))
    for number, resource in enumerate(resources):
        if len(resources) > 1:
            yield f"lacks {resource}", {**statement, "Resource": without(resources, number)}
        # The policy of a bucket or a queue applies only to that one, regardless of the resource
        # that it names.
        for wide in dict.fromkeys(widened(resource)) if "Principal" not in statement else ():
            if wide != resource:
                yield (
                    f"takes {wide} for {resource}",
                    {**statement, "Resource": [*without(resources, number), wide]},
                )
    for operator, keys in statement.get("Condition", {}).items():
        rest = {name: values for name, values in statement["Condition"].items() if name != operator}
        for key, value in keys.items():
            others = {name: values for name, values in keys.items() if name != key}
            left = {**rest, **({operator: others} if others else {})}
            bare = {name: content for name, content in statement.items() if name != "Condition"}
            yield f"lacks {operator} {key}", {**bare, **({"Condition": left} if left else {})}
            values = as_list(value)
            for number, text in enumerate(values):
                if len(values) > 1:
                    changed = {
                        **statement["Condition"],
                        operator: {**keys, key: without(values, number)},
                    }
                    yield f"lacks {operator} {key} {text}", {**statement, "Condition": changed}
                if "Like" in operator and "Not" not in operator:
                    for wide in dict.fromkeys(widened(text)):
                        changed = {
                            **statement["Condition"],
                            operator: {**keys, key: [*without(values, number), wide]},
                        }
                        if wide != text:
                            yield (
                                f"takes {wide} for {operator} {key} {text}",
                                {**statement, "Condition": changed},
                            )
    match statement.get("Principal"):
        case {"Service": str(service)}:
            yield (
                "trusts another service too",
                {**statement, "Principal": {"Service": [service, "ec2.amazonaws.com"]}},
            )
            yield "trusts everybody", {**statement, "Principal": "*"}
        case {"AWS": str(account)}:
            stranger = re.sub(r"\d{12}", rules.STRANGER, account)
            yield (
                "trusts another account too",
                {**statement, "Principal": {"AWS": [account, stranger]}},
            )
            yield "trusts everybody", {**statement, "Principal": "*"}


def changed_policies(
    name: str, document: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any], set[str]]]:
    """A policy with one change each: the change's description, the policy, and the actions that the
    change may affect."""
    for number, statement in enumerate(document["Statement"]):
        services = {action.split(":")[0] for action in as_list(statement["Action"])}
        for what, changed in changes(statement):
            left = [*document["Statement"]]
            left[number : number + 1] = [changed] if changed else []
            # A policy without statements is invalid; an irrelevant statement takes its place.
            left = left or [
                {
                    "Effect": "Allow",
                    "Action": "health:DescribeEvents",
                    "Resource": "*",
                    **(
                        {"Principal": {"AWS": f"arn:aws:iam::{rules.STRANGER}:root"}}
                        if "Principal" in statement
                        else {}
                    ),
                }
            ]
            named = set(as_list(statement["Action"]))
            if " lacks the action " in f" {what}":
                named = {what.rpartition(" ")[2]}
            elif " all of " in what:
                named = {f"{service}:*" for service in services}
            yield (
                f"{name}/{statement.get('Sid', number)} {what}",
                {**document, "Statement": left},
                named,
            )


def survivors(
    judge: Judge, template: Template, name: str, asked: Sequence[tuple[Request, bool]]
) -> list[str]:
    """The changes of a policy that no answer to ``asked`` reveals."""
    policies = rules.every_policy(template)
    found = []
    for what, changed, named in changed_policies(name, policies[name]):
        matters = [
            (request, may)
            for request, may in asked
            if request.action in named or f"{request.action.split(':')[0]}:*" in named
        ]
        if what not in SURVIVORS and not any(
            said not in {may, None}
            for start in range(0, len(matters), _AT_ONCE)
            for said, (_, may) in zip(
                judge.decide(
                    {**policies, name: changed},
                    [request for request, _ in matters[start : start + _AT_ONCE]],
                ),
                matters[start : start + _AT_ONCE],
                strict=True,
            )
        ):
            found.append(what)
    return found


def test_a_change_of_a_tenants_role_is_noticed(judge: Judge, template: Template) -> None:
    asked = rules.asked(template, "TenantClientRole", rules.every_action(template))
    assert survivors(judge, template, "TenantClientRole", asked) == []


@pytest.mark.parametrize(
    "role",
    ["TrainingRole", "ServingRole", "AsyncRole", "BatchRole", "ProcessingRole", "TenantClientRole"],
)
def test_a_change_of_whom_a_role_trusts_is_noticed(
    role: str, judge: Judge, template: Template
) -> None:
    asked = [
        (request, may)
        for request, may in rules.trusted(template)
        if request.resource == template.arn(role)
    ]
    assert survivors(judge, template, f"{rules.TRUST}{role}", asked) == []


@pytest.mark.parametrize(
    "name", ["UploadsBucket", "DataBucket", "UploadsQueue", "NoticesQueue", "AsyncFailuresQueue"]
)
def test_a_change_of_what_a_bucket_or_queue_allows_is_noticed(
    name: str, judge: Judge, template: Template
) -> None:
    policy = f"{rules.ATTACHED}{name}"
    asked = [(request, may) for request, may in attached(template) if request.attached == policy]
    assert survivors(judge, template, policy, asked) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("ContainerPolicy", "ServingRole"),
        *((name, name) for name in rules.IDENTITIES if name != "TenantClientRole"),
    ],
)
def test_a_change_of_another_roles_policy_is_noticed(
    name: str, identity: str, judge: Judge, template: Template
) -> None:
    asked = rules.asked(template, identity, rules.every_action(template))
    if name == "AppPolicy":
        asked += list(rules.trusted(template))
    assert survivors(judge, template, name, asked) == []
