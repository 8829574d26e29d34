"""The role that runs the code may make the code's calls."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import boto3
import pytest
from botocore import xform_name

from tests.isolation import rules
from tests.isolation.judge import Judge
from tests.isolation.template import Template

ROOT: Final = Path(__file__).resolve().parents[2]
# Attributes of ``Deployment``, and IAM's names of their services.
SERVICES: Final = {
    "s3": "s3",
    "sqs": "sqs",
    "sns": "sns",
    "dynamodb": "dynamodb",
    "logs": "logs",
    "cloudwatch": "cloudwatch",
    "auto_scaling": "application-autoscaling",
    "iam": "iam",
    "glue": "glue",
    "athena": "athena",
    "sagemaker": "sagemaker",
    "runtime": "sagemaker-runtime",
}
IAM_NAMES: Final = {"runtime": "sagemaker", "auto_scaling": "application-autoscaling"}
# IAM's actions where their names differ from the operations'.
ACTIONS: Final = {
    "s3:HeadObject": ["s3:GetObject"],
    "s3:ListObjectsV2": ["s3:ListBucket"],
    "s3:CopyObject": ["s3:GetObject", "s3:PutObject"],
    "s3:DeleteObjects": ["s3:DeleteObject"],
    "sqs:DeleteMessageBatch": ["sqs:DeleteMessage"],
    "sqs:SendMessageBatch": ["sqs:SendMessage"],
    "sns:PublishBatch": ["sns:Publish"],
    "dynamodb:BatchWriteItem": ["dynamodb:PutItem", "dynamodb:DeleteItem"],
    "dynamodb:TransactWriteItems": [
        "dynamodb:PutItem",
        "dynamodb:UpdateItem",
        "dynamodb:DeleteItem",
    ],
}
DAGSTERS: Final = ["orchestration", "assets", "resources", "pipes_sagemaker"] + [
    f"tenantry/{room.name}"
    for room in sorted((ROOT / "tenantry").iterdir())
    if room.is_dir() and room.name != "command_line"
]
"""The packages whose code runs in Dagster's processes."""
# Operators who split large files have this policy besides.
PROCESSING_JOBS: Final = dict.fromkeys(
    ("sagemaker:CreateProcessingJob", "sagemaker:DescribeProcessingJob"), "OperatorJobsPolicy"
)
# Calls of ``tenantry`` that Dagster's code does not make, and the role that makes them.
NOT_DAGSTERS: Final = {
    "cloudwatch:PutMetricData": "TenantClientRole",
    "dynamodb:Scan": "WindDownPolicy",
    **dict.fromkeys(
        (
            "sagemaker:CreatePipeline",
            "sagemaker:DescribePipelineExecution",
            "sagemaker:ListPipelineExecutionSteps",
            "sagemaker:ListPipelineExecutions",
            "sagemaker:StartPipelineExecution",
            "sagemaker:UpdatePipeline",
        ),
        "OperatorJobsPolicy",
    ),
    # Dagster's role has this policy too.
    **dict.fromkeys(
        ("glue:CreateTable", "glue:GetTable", "glue:UpdateTable"), "ResultTablesPolicy"
    ),
    # People who query have this one.
    **dict.fromkeys(
        (
            "athena:GetQueryExecution",
            "athena:GetQueryResults",
            "athena:StartQueryExecution",
            "athena:StopQueryExecution",
        ),
        "QueryPolicy",
    ),
    # Dagster's role has this policy too.
    **dict.fromkeys(
        (
            "iam:AttachRolePolicy",
            "iam:CreateRole",
            "iam:DeleteRole",
            "iam:DetachRolePolicy",
            "iam:GetRole",
            "iam:ListRoles",
        ),
        "SiloRolesPolicy",
    ),
}


def operations(folders: list[str]) -> Iterator[str]:
    """``service:Operation`` of each client method and each paginator that the code names."""
    session = boto3.Session(region_name="eu-west-1")
    models = {
        attribute: session.client(service).meta.service_model  # type: ignore[call-overload]
        for attribute, service in SERVICES.items()
    }
    known = {
        (attribute, xform_name(operation)): operation
        for attribute, model in models.items()
        for operation in model.operation_names
    }
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = node.func if isinstance(node, ast.Call) else node
            if not isinstance(named, ast.Attribute):
                continue
            method, owner = named.attr, named.value
            attribute = (
                owner.attr
                if isinstance(owner, ast.Attribute)
                else owner.id
                if isinstance(owner, ast.Name)
                else ""
            )
            if (
                isinstance(node, ast.Call)
                and method == "get_paginator"
                and isinstance(node.args[0], ast.Constant)
            ):
                method = str(node.args[0].value)
            clients = (
                [attribute]
                if attribute in SERVICES
                else [*SERVICES]
                if "client" in attribute
                else []
            )
            for client in clients:
                if operation := known.get((client, method)):
                    yield f"{IAM_NAMES.get(client, client)}:{operation}"


@pytest.mark.parametrize(
    ("folders", "identity", "others", "least"),
    [
        (DAGSTERS, "OrchestratorPolicy", NOT_DAGSTERS, 30),
        (
            ["tenantry/command_line", "tenantry/aws"],
            "OperatorPolicy",
            NOT_DAGSTERS | PROCESSING_JOBS,
            15,
        ),
    ],
)
def test_every_call_in_the_code_is_allowed_to_whom_it_runs_as(
    folders: list[str],
    identity: str,
    others: dict[str, str],
    least: int,
    judge: Judge,
    template: Template,
) -> None:
    called = set(operations(folders))
    needed = {action for operation in called for action in ACTIONS.get(operation, [operation])}
    assert len(needed) >= least, needed
    asked = {
        who: rules.asked(template, who, sorted(needed)) for who in {identity, *others.values()}
    }
    for who, requests in asked.items():
        decided = judge.decide(rules.every_policy(template), [request for request, _ in requests])
        may = {request.action for (request, _), said in zip(requests, decided, strict=True) if said}
        of_theirs = {action for action in needed if others.get(action, identity) == who}
        assert of_theirs <= may, f"{who} lacks {sorted(of_theirs - may)}"
