"""Calls that left this process, as IAM sees them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest
from botocore.client import BaseClient

from tests.isolation.judge import Request
from tests.isolation.rules import TRUST
from tests.isolation.template import ACCOUNT, REGION, STACK, Template


@dataclass(frozen=True)
class Call:
    """An operation of a service with its parameters, and the access key it was signed with."""

    service: str
    operation: str
    parameters: dict[str, Any]
    access_key: str


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """Every call of botocore in a ``with`` block; the calls are still carried out."""
    calls: list[Call] = []
    # Botocore has a single place for all calls, but not a public one.
    make = BaseClient._make_api_call  # type: ignore[attr-defined]

    def record(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
        access_key = client._request_signer._credentials.access_key
        calls.append(
            Call(client.meta.service_model.service_name, operation, parameters, access_key)
        )
        return make(client, operation, parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", record)
        yield calls


_S3: Final = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
}


def as_requests(
    template: Template, call: Call, principal: str, identity: tuple[str, ...], tag: dict[str, str]
) -> list[Request]:
    """The IAM requests of a call.

    Raises:
        LookupError: there is no rule for the call.
    """
    given = call.parameters
    service = call.service.removesuffix("-runtime").replace("monitoring", "cloudwatch")
    action = f"{service}:{call.operation}"

    def request(
        action: str, resource: str, context: dict[str, str | list[str]], attached: str | None = None
    ) -> Request:
        return Request(action, resource, {**context, **tag}, principal, identity, attached)

    match call.service:
        case "s3":
            return [
                request(_S3[call.operation], f"arn:aws:s3:::{given['Bucket']}/{given['Key']}", {})
            ]
        case "dynamodb":
            arn = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{given['TableName']}"
            if call.operation == "GetItem":
                return [
                    request(action, arn, {"dynamodb:LeadingKeys": [given["Key"]["tenant"]["S"]]})
                ]
            if call.operation == "Query" and (
                equal := re.match(r"\(*(#\w+) = (:\w+)", given["KeyConditionExpression"])
            ):
                name, value = equal.groups()
                assert given["ExpressionAttributeNames"][name] == "tenant"
                partition = given["ExpressionAttributeValues"][value]["S"]
                index = f"/index/{given['IndexName']}" if "IndexName" in given else ""
                return [request(action, arn + index, {"dynamodb:LeadingKeys": [partition]})]
        case "sagemaker-runtime":
            model: dict[str, str | list[str]] = (
                {"sagemaker:TargetModel": given["TargetModel"]} if "TargetModel" in given else {}
            )
            return [
                request(
                    action,
                    f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/{given['EndpointName']}",
                    model,
                )
            ]
        case "cloudwatch":
            metrics = f"arn:aws:cloudwatch:{REGION}:{ACCOUNT}:dataset/default"
            return [request(action, metrics, {"cloudwatch:namespace": given["Namespace"]})]
        case "sqs":
            return [
                request(
                    action,
                    f"arn:aws:sqs:{REGION}:{ACCOUNT}:{given['QueueUrl'].rpartition('/')[2]}",
                    {},
                )
            ]
        case "cloudformation":
            return [request(action, STACK, {})]
        case "sts":
            tags: dict[str, str | list[str]] = {
                f"aws:RequestTag/{tag['Key']}": tag["Value"] for tag in given["Tags"]
            }
            tags["aws:TagKeys"] = [tag["Key"] for tag in given["Tags"]]
            role = template.arn("TenantClientRole")  # AWS chooses its name
            trust = f"{TRUST}TenantClientRole"
            return [
                request(action, role, tags, trust)
                for action in ("sts:AssumeRole", "sts:TagSession")
            ]
    raise LookupError(f"nobody said what IAM is asked for {call}")
