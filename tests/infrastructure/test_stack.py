"""What the template grants, read as IAM would read it: nothing more than a part needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from cfnlint.decode.cfn_yaml import load

from infrastructure.deploy import TEMPLATE
from resources import keys

# https://docs.aws.amazon.com/service-authorization/latest/reference/ lists no resource type for these.
KNOW_NO_RESOURCE = {
    "cloudwatch:PutMetricData",
    "ecr:GetAuthorizationToken",
    "sagemaker:ListEndpoints",
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
        found = [properties["PolicyDocument"]] if resource["Type"] == "AWS::IAM::ManagedPolicy" else []
        found += [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
        for document in found:
            for statement in document["Statement"]:
                yield f"{name}/{statement['Sid']}", statement


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


def test_no_role_has_a_policy_that_is_not_of_this_template() -> None:
    roles = {name: role for name, role in resources().items() if role["Type"] == "AWS::IAM::Role"}
    assert set(roles) == {"TrainingRole", "ServingRole", "AsyncRole", "BatchRole", "TenantClientRole"}
    for role in roles.values():
        assert role["Properties"].get("ManagedPolicyArns", [{"Ref": "ContainerPolicy"}]) == [{"Ref": "ContainerPolicy"}]


@pytest.mark.parametrize(
    ("role", "prefixes"),
    [("ServingRole", {"endpoints/*"}), ("AsyncRole", {"endpoints/*", "async/*"}), ("BatchRole", {"batches/*"}),
     ("TrainingRole", {"training-data/*", "jobs/*", "checkpoints/*", "pipes/*"})],
)  # fmt: skip
def test_a_containers_role_reaches_its_own_prefixes_alone(role: str, prefixes: set[str]) -> None:
    for name, statement in STATEMENTS.items():
        if not name.startswith(f"{role}/") or statement["Action"] == ["sns:Publish"]:
            continue
        if statement["Action"] == ["s3:ListBucket"]:
            assert set(statement["Condition"]["StringLike"]["s3:prefix"]) <= prefixes
        else:
            reached = {arn["Fn::Sub"].removeprefix("${DataBucket.Arn}/") for arn in as_list(statement["Resource"])}
            assert reached <= prefixes


def test_roles_are_handed_to_sagemaker_only() -> None:
    passed = STATEMENTS["OrchestratorPolicy/HandRolesToSageMaker"]
    assert passed["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
    assert len(passed["Resource"]) == 4


def test_an_asynchronous_endpoint_changes_no_archive_and_tells_its_own_topics_alone() -> None:
    own = {name.partition("/")[2]: s for name, s in STATEMENTS.items() if name.startswith("AsyncRole/")}
    assert [arn["Fn::Sub"] for arn in as_list(own["WriteAnswers"]["Resource"])] == ["${DataBucket.Arn}/async/*"]
    assert own["TellWhatBecameOfIt"]["Resource"] == [{"Ref": "AsyncSuccessTopic"}, {"Ref": "AsyncErrorTopic"}]


def test_nothing_deletes_a_models_archive_by_itself() -> None:
    rules = resources()["DataBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    workload, tenant, version = keys.workload_name("energy"), keys.tenant_id("acme"), keys.version_name("v1")
    kept = keys.artifact(workload, tenant, version)
    deleting = [rule for rule in rules if "ExpirationInDays" in rule]
    assert deleting
    assert not [rule["Id"] for rule in deleting if kept.startswith(rule["Prefix"])]


def test_a_tenants_session_reaches_what_bears_its_tag_and_nothing_else() -> None:
    tag = "${aws:PrincipalTag/tenant}"
    own = {name.partition("/")[2]: s for name, s in STATEMENTS.items() if name.startswith("TenantClientRole/")}
    assert own["OwnRows"]["Condition"] == {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": [f"{tag}#*"]}}
    assert own["OwnModelsOnly"]["Condition"] == {"StringLike": {"sagemaker:TargetModel": [f"{tag}/*"]}}
    tagged = {"StringEquals": {"aws:ResourceTag/tenantry:tenant": tag}}
    assert own["OwnAsyncEndpoint"]["Condition"] == tagged
    assert own["CountRequests"]["Condition"] == {"StringEquals": {"cloudwatch:namespace": "Tenantry"}}
    for statement in own.values():
        reached = [arn.get("Fn::Sub", "") for arn in as_list(statement["Resource"]) if isinstance(arn, dict)]
        in_s3 = [arn for arn in reached if "Bucket.Arn" in arn]
        assert all("/${!aws:PrincipalTag/tenant}/" in arn for arn in in_s3)
        assert in_s3 or "Condition" in statement
    assert {"dynamodb:Scan", "s3:ListBucket"}.isdisjoint(a for s in own.values() for a in as_list(s["Action"]))
    trust = resources()["TenantClientRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"][0]
    assert trust["Condition"] == {"StringLike": {"aws:RequestTag/tenant": "?*"}}


def test_a_tenants_session_may_keep_what_it_asked_and_was_answered() -> None:
    """The client archives each exchange in the tenant's own name."""
    allowed = {
        (action, arn["Fn::Sub"])
        for name, statement in STATEMENTS.items() if name.startswith("TenantClientRole/")
        for action in as_list(statement["Action"]) for arn in as_list(statement["Resource"]) if "Fn::Sub" in arn
    }  # fmt: skip
    assert ("s3:PutObject", "${DataBucket.Arn}/archive/*/${!aws:PrincipalTag/tenant}/*") in allowed


def test_a_tenants_session_keeps_answers_but_writes_no_asynchronous_one() -> None:
    """SageMaker alone writes answers and failures below ``async/``; the client writes what it asks."""
    own = {name.partition("/")[2]: s for name, s in STATEMENTS.items() if name.startswith("TenantClientRole/")}
    mine = "${!aws:PrincipalTag/tenant}"
    assert {arn["Fn::Sub"].removeprefix("${DataBucket.Arn}/") for arn in own["OwnQuestions"]["Resource"]} == {
        f"cache/*/{mine}/*", f"async/*/{mine}/*.input", f"async/*/{mine}/*.submitted",
    }  # fmt: skip
    shared = [s for name, s in STATEMENTS.items() if name.startswith("AsyncClientPolicy/")]
    assert [as_list(statement["Action"]) for statement in shared] == [["sagemaker:InvokeEndpointAsync"]]
    assert shared[0]["Resource"]["Fn::Sub"].endswith(":endpoint/${Prefix}-*-async")


@pytest.mark.parametrize("bucket", ["UploadsBucket", "DataBucket"])
def test_a_bucket_is_private_encrypted_and_kept(bucket: str) -> None:
    resource = resources()[bucket]
    assert resource["DeletionPolicy"] == resource["UpdateReplacePolicy"] == "Retain"
    assert set(resource["Properties"]["PublicAccessBlockConfiguration"].values()) <= {True, "true"}
    assert resource["Properties"]["BucketEncryption"]
    (only,) = resources()[f"{bucket}Policy"]["Properties"]["PolicyDocument"]["Statement"]
    assert only["Effect"] == "Deny"
    assert only["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
