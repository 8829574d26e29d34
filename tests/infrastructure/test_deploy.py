"""The stack, applied by this repository's own command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from infrastructure import deploy as deploying
from infrastructure.deploy import DeploymentError, deploy
from infrastructure.local_cloud import LocalCloud
from tenantry.aws.deployment import Deployment, DeploymentMissingError

ROOT = Path(__file__).resolve().parents[2]


def test_applying_the_stack_twice_changes_nothing(empty_cloud: LocalCloud) -> None:
    first = deploy()
    client = boto3.client("cloudformation")
    resources = client.describe_stack_resources(StackName="tenantry")["StackResources"]
    assert deploy() == first
    again = client.describe_stack_resources(StackName="tenantry")["StackResources"]
    assert [r["PhysicalResourceId"] for r in again] == [r["PhysicalResourceId"] for r in resources]
    assert client.describe_stacks(StackName="tenantry")["Stacks"][0]["StackStatus"] in {
        "CREATE_COMPLETE",
        "UPDATE_COMPLETE",
    }


def test_two_stacks_with_their_own_prefixes_stand_side_by_side(empty_cloud: LocalCloud) -> None:
    deploy()
    deploy("another", "another")
    one, other = Deployment.from_stack(), Deployment.from_stack("another")
    assert one.prefix == "tenantry"
    assert other.prefix == "another"
    names = [
        (d.uploads_bucket, d.data_bucket, d.requests_table, d.models_table, d.uploads_queue_url)
        for d in (one, other)
    ]
    assert not set(names[0]) & set(names[1])
    other.dynamodb.describe_table(TableName=other.models_table)


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        ({"Type": "AWS::Nothing::Here"}, "Unrecognized resource types"),
        (
            {
                "Type": "AWS::IAM::Policy",
                "Properties": {"PolicyName": "p", "Roles": ["nobody"], "PolicyDocument": {}},
            },
            "Failing: The role with name nobody cannot be found",
        ),
    ],
    ids=["refused at once", "failed and deleted"],
)
def test_a_template_that_cannot_be_applied_is_an_error_with_its_reason(
    empty_cloud: LocalCloud,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    resource: Any,
    reason: str,
) -> None:
    broken = tmp_path / "stack.yaml"
    broken.write_text(yaml.safe_dump({"Resources": {"Failing": resource}}))
    monkeypatch.setattr(deploying, "TEMPLATE", broken)
    with pytest.raises(DeploymentError, match=reason):
        deploy("broken")


def test_the_command_prints_the_outputs_and_fails_in_words(empty_cloud: LocalCloud) -> None:
    command = [sys.executable, "-m", "infrastructure.deploy"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    outputs = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert outputs["RequestsTable"] == "tenantry-requests"
    failed = subprocess.run(
        [*command, "--stack", "other", "--prefix", "No!"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert "other" in failed.stderr


_SAYS_WHERE = (
    "from tenantry.aws.deployment import Deployment as D; d = D.from_stack(); "
    "print(d.session.region_name, d.uploads_bucket)"
)


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_either_variable_names_the_region(
    empty_cloud: LocalCloud, tmp_path: Path, variable: str
) -> None:
    environment = {
        name: value
        for name, value in {**os.environ, "HOME": str(tmp_path)}.items()
        if not name.endswith("_REGION")
    }
    asked = [[sys.executable, "-m", "infrastructure.deploy"], [sys.executable, "-c", _SAYS_WHERE]]
    for command in (*asked, [sys.executable, "-m", "tenantry.command_line.main", "status"]):
        unnamed = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert unnamed.returncode != 0
        named = {**environment, variable: "eu-west-1"}
        done = subprocess.run(
            command, cwd=ROOT, env=named, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        if command in asked:
            assert "uploads-123456789012-eu-west-1" in done.stdout
    unnamed = subprocess.run(
        asked[0], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert "AWS_REGION" in unnamed.stderr
    assert "Traceback" not in unnamed.stderr


def test_a_deployment_is_read_from_its_stack_or_told_how_to_make_one(
    empty_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        DeploymentMissingError, match=r"python -m infrastructure\.deploy --stack tenantry"
    ):
        Deployment.from_stack()
    monkeypatch.setenv("TENANTRY_STACK", "elsewhere")
    with pytest.raises(DeploymentMissingError, match="'elsewhere' cannot be read"):
        Deployment.from_stack()
    deploy("elsewhere", "elsewhere")
    found = Deployment.from_stack()
    assert found.image("forecast", "1.0") == f"{found.image_repositories}/forecast:1.0"
    found.s3.head_bucket(Bucket=found.uploads_bucket)
    assert found.aws_calls["s3:HeadBucket"] == 1


def test_a_stack_of_another_version_is_told_apart(empty_cloud: LocalCloud) -> None:
    template = {
        "Resources": {"Q": {"Type": "AWS::SQS::Queue"}},
        "Outputs": {"Prefix": {"Value": "tenantry"}},
    }
    boto3.client("cloudformation").create_stack(
        StackName="tenantry", TemplateBody=yaml.safe_dump(template)
    )
    with pytest.raises(DeploymentMissingError, match="has no output 'UploadsBucket'; update it"):
        Deployment.from_stack()
