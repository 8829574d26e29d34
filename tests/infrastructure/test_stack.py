"""The form of the template; ``tests/isolation`` judges its grants."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from cfnlint.decode.cfn_yaml import load

from infrastructure.template_body import MAX_BYTES, TEMPLATE, template_body
from tenantry.names import ids, s3_keys
from tenantry.workloads.sections import Training

# https://docs.aws.amazon.com/service-authorization/latest/reference/ lists no resource type for
# these.
KNOW_NO_RESOURCE = {
    "application-autoscaling:DescribeScalableTargets",
    "application-autoscaling:DescribeScalingActivities",
    "application-autoscaling:DescribeScalingPolicies",
    "application-autoscaling:DescribeScheduledActions",
    "cloudwatch:GetMetricData",
    "cloudwatch:PutMetricData",
    "ecr:GetAuthorizationToken",
    "iam:ListRoles",
    "sagemaker:ListEndpointConfigs",
    "sagemaker:ListEndpoints",
    "sagemaker:ListModels",
    "sagemaker:ListTrainingJobs",
}


def resources() -> dict[str, Any]:
    return cast("dict[str, Any]", load(str(TEMPLATE))["Resources"])


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every identity policy of the template: name and statement."""
    for name, resource in resources().items():
        properties = resource["Properties"]
        found = (
            [properties["PolicyDocument"]] if resource["Type"] == "AWS::IAM::ManagedPolicy" else []
        )
        found += [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
        for document in found:
            for statement in document["Statement"]:
                yield f"{name}/{statement['Sid']}", statement


def as_text(value: Any) -> Iterator[str]:
    """Every text in a part of the template."""
    if isinstance(value, str):
        yield value
    for item in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from as_text(item)


STATEMENTS = dict(documents())


def test_cfn_lint_finds_nothing() -> None:
    command = [str(Path(sys.executable).with_name("cfn-lint")), str(TEMPLATE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_allows_named_actions_on_named_resources(name: str) -> None:
    statement = STATEMENTS[name]
    assert statement["Effect"] == "Allow"
    assert "NotAction" not in statement
    assert "NotResource" not in statement
    actions = as_list(statement["Action"])
    assert not [action for action in actions if "*" in action]
    if "*" in as_list(statement["Resource"]):
        assert set(actions) <= KNOW_NO_RESOURCE


def test_what_is_sent_is_the_template_and_no_more_than_cloudformation_takes() -> None:
    sent = template_body()
    assert json.loads(sent) == json.loads(json.dumps(load(str(TEMPLATE))))
    assert len(sent.encode()) <= MAX_BYTES


def test_no_role_has_a_policy_that_is_not_of_this_template() -> None:
    roles = {name: role for name, role in resources().items() if role["Type"] == "AWS::IAM::Role"}
    assert set(roles) == {
        "TrainingRole",
        "ServingRole",
        "AsyncRole",
        "BatchRole",
        "ProcessingRole",
        "PipelineRole",
        "TenantClientRole",
    }
    for role in roles.values():
        assert role["Properties"].get("ManagedPolicyArns", [{"Ref": "ContainerPolicy"}]) == [
            {"Ref": "ContainerPolicy"}
        ]


def test_nothing_deletes_a_models_archive_by_itself() -> None:
    rules = resources()["DataBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    workload, tenant, version = (
        ids.workload_name("energy"),
        ids.tenant_id("acme"),
        ids.version_name("v1"),
    )
    kept = s3_keys.artifact(workload, tenant, version)
    deleting = [rule for rule in rules if "ExpirationInDays" in rule]
    assert deleting
    assert not [rule["Id"] for rule in deleting if kept.startswith(rule["Prefix"])]


def test_the_copies_of_tenants_data_outlast_the_longest_job_and_no_more() -> None:
    rules = resources()["DataBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    archive = s3_keys.job_data_archive(
        ids.workload_name("energy"),
        ids.pack_id("p-0123456789abcdef"),
        ids.tenant_id("acme"),
        ids.version_name("v1"),
    )
    (rule,) = [one for one in rules if "Prefix" in one and archive.startswith(one["Prefix"])]
    longest = Training.model_json_schema()["properties"]["max_seconds"]["maximum"]
    assert longest / 86_400 < int(rule["ExpirationInDays"]) <= 31
    assert int(rule["NoncurrentVersionExpiration"]["NoncurrentDays"]) == 1


def test_no_wildcard_stands_before_a_tenants_tag() -> None:
    """IAM's ``*`` spans slashes, so that it would take another part of a key for the tenant."""
    tagged = [
        text
        for statement in STATEMENTS.values()
        for text in as_text(statement)
        if "aws:PrincipalTag/tenant}" in text
    ]
    assert len(tagged) >= 10
    assert not [text for text in tagged if "*" in text.partition("aws:PrincipalTag")[0]]


@pytest.mark.parametrize("bucket", ["UploadsBucket", "DataBucket"])
def test_a_bucket_is_private_encrypted_and_kept(bucket: str) -> None:
    resource = resources()[bucket]
    assert resource["DeletionPolicy"] == resource["UpdateReplacePolicy"] == "Retain"
    assert set(resource["Properties"]["PublicAccessBlockConfiguration"].values()) <= {True, "true"}
    assert resource["Properties"]["BucketEncryption"]
    (only,) = resources()[f"{bucket}Policy"]["Properties"]["PolicyDocument"]["Statement"]
    assert only["Effect"] == "Deny"
    assert only["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
