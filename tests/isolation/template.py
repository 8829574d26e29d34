"""The template's roles and policies as IAM receives them, with the CloudFormation functions that
the template uses resolved."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, cast

from cfnlint.decode.cfn_yaml import load

from infrastructure.template_body import TEMPLATE

ACCOUNT: Final = "123456789012"
REGION: Final = "eu-west-1"
STACK: Final = (
    f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/tenantry/0a1b2c3d-0000-1111-2222-333344445555"
)
_PSEUDO: Final = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Region": REGION,
    "AWS::Partition": "aws",
    "AWS::StackId": STACK,
    "AWS::StackName": "tenantry",
}
_IN_SUB: Final = re.compile(r"\$\{(!?)([^}]+)\}")


def as_list(value: Any) -> list[Any]:
    """A policy's element that may stand alone, as a list."""
    return value if isinstance(value, list) else [value]


@dataclass
class Template:
    """``stack.yaml`` with the default of each parameter."""

    _document: dict[str, Any] = field(
        default_factory=lambda: cast("dict[str, Any]", load(str(TEMPLATE))), repr=False
    )

    @property
    def resources(self) -> dict[str, Any]:
        """The template's resources, as written."""
        return cast("dict[str, Any]", self._document["Resources"])

    def named(self, kind: str) -> list[str]:
        """Logical names of the resources of a type."""
        return [name for name, resource in self.resources.items() if resource["Type"] == kind]

    def arn(self, name: str) -> str:
        """``Arn`` of a resource; a resource without a name in the template gets one in
        CloudFormation's form."""
        resource = self.resources[name]
        known = resource["Properties"]
        match resource["Type"]:
            case "AWS::S3::Bucket":
                return f"arn:aws:s3:::{self.resolved(known['BucketName'])}"
            case "AWS::SQS::Queue":
                return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{self.resolved(known['QueueName'])}"
            case "AWS::SNS::Topic":
                return f"arn:aws:sns:{REGION}:{ACCOUNT}:{self.resolved(known['TopicName'])}"
            case "AWS::DynamoDB::Table":
                return (
                    f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{self.resolved(known['TableName'])}"
                )
            case "AWS::IAM::Role":
                return f"arn:aws:iam::{ACCOUNT}:role/tenantry-{name}-ABCDEFGHIJKL"
            case "AWS::IAM::ManagedPolicy":
                return f"arn:aws:iam::{ACCOUNT}:policy/tenantry-{name}-ABCDEFGHIJKL"
        raise LookupError(f"no rule for the Arn of a {resource['Type']}")

    def _ref(self, name: str) -> Any:
        if name in _PSEUDO:
            return _PSEUDO[name]
        if name in self._document["Parameters"]:
            return str(self._document["Parameters"][name]["Default"])
        kind = self.resources[name]["Type"]
        if kind in {"AWS::SNS::Topic", "AWS::IAM::ManagedPolicy"}:
            return self.arn(name)
        if kind == "AWS::SQS::Queue":
            return (
                f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{self.arn(name).rpartition(':')[2]}"
            )
        return self.arn(name).rpartition(":")[2].rpartition("/")[2]

    def _attribute(self, name: str, attribute: str) -> str:
        return self.arn(name) if attribute == "Arn" else self.arn(name).rpartition(":")[2]

    def resolved(self, value: Any) -> Any:
        """A value with ``Ref``, ``Fn::GetAtt`` and ``Fn::Sub`` replaced by their values."""
        if isinstance(value, list):
            return [self.resolved(item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((function, argument),) = value.items()
            if function == "Ref":
                return self._ref(argument)
            if function == "Fn::GetAtt":
                name, attribute = argument if isinstance(argument, list) else argument.split(".")
                return self._attribute(name, attribute)
            if function == "Fn::Sub":
                return _IN_SUB.sub(lambda found: self._substituted(found[1], found[2]), argument)
            if function.startswith("Fn::"):
                raise LookupError(f"no rule for {function}")
        return {str(name): self.resolved(item) for name, item in value.items()}

    def _substituted(self, literal: str, name: str) -> str:
        if literal:
            return f"${{{name}}}"
        resource, _, attribute = name.partition(".")
        return self._attribute(resource, attribute) if attribute else str(self._ref(name))

    def identity_policies(self) -> dict[str, Any]:
        """Each managed policy, and each role's own, by its logical name."""
        found = {
            name: self.resources[name]["Properties"]["PolicyDocument"]
            for name in self.named("AWS::IAM::ManagedPolicy")
        }
        for name in self.named("AWS::IAM::Role"):
            (only,) = self.resources[name]["Properties"]["Policies"]
            found[name] = only["PolicyDocument"]
        return {name: self.resolved(document) for name, document in found.items()}

    def trust_policies(self) -> dict[str, Any]:
        """Each role's trust policy, by the role's logical name."""
        return {
            name: self.resolved(self.resources[name]["Properties"]["AssumeRolePolicyDocument"])
            for name in self.named("AWS::IAM::Role")
        }

    def resource_policies(self) -> dict[str, Any]:
        """Each policy of a bucket or a queue, by the logical name of that bucket or queue."""
        found = {}
        for kind, attached in (
            ("AWS::S3::BucketPolicy", "Bucket"),
            ("AWS::SQS::QueuePolicy", "Queues"),
        ):
            for name in self.named(kind):
                known = self.resources[name]["Properties"]
                for target in as_list(known[attached]):
                    found[target["Ref"]] = self.resolved(known["PolicyDocument"])
        return found

    def policies_of(self, role: str) -> tuple[str, ...]:
        """The names of a role's identity policies."""
        managed = self.resources[role]["Properties"].get("ManagedPolicyArns", [])
        return (role, *(item["Ref"] for item in managed))
