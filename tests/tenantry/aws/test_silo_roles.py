"""The execution roles of silo tenants, in the local cloud's IAM."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tenantry.aws import silo_roles
from tenantry.aws.deployment import Deployment
from tenantry.aws.silo_roles import (
    SETTLES,
    SiloRole,
    delete_silo_role,
    ensure_silo_role,
    silo_role_arn,
    usable,
)
from tenantry.names import ids
from tests.pipes_sagemaker.broken_calls import break_calls

ENERGY, PORTRAITS = ids.workload_name("energy"), ids.workload_name("portraits")
ACME, GLOBEX = ids.tenant_id("acme"), ids.tenant_id("globex")
# As CreateModel and CreateTransformJob word it.
UNKNOWN = (
    "Could not assume role arn:aws:iam::123456789012:role/x. Please ensure that the role exists "
    "and allows principal 'sagemaker.amazonaws.com' to assume the role."
)
UNREADABLE = (
    "Could not access model data at s3://x/y.tar.gz. Please ensure that the role exists and that "
    'its trust relationship policy allows the action "sts:AssumeRole" for the service principal '
    '"sagemaker.amazonaws.com".'
)


def attached(deployment: Deployment, role: SiloRole) -> list[str]:
    found = deployment.iam.list_attached_role_policies(RoleName=role.name)["AttachedPolicies"]
    return [one["PolicyArn"] for one in found]


def test_a_tenant_has_one_role_a_workload_which_its_tags_narrow(deployment: Deployment) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: ensure_silo_role(deployment, ENERGY, ACME), range(4)))
    (arn,) = {role.arn for role in made}
    assert arn == silo_role_arn(deployment, ENERGY, ACME)
    described: Any = deployment.iam.get_role(RoleName=made[0].name)["Role"]
    assert described["PermissionsBoundary"]["PermissionsBoundaryArn"] == deployment.silo_policy
    assert attached(deployment, made[0]) == [deployment.silo_policy]
    assert not deployment.iam.list_role_policies(RoleName=made[0].name)["PolicyNames"]
    tags = {tag["Key"]: tag["Value"] for tag in described["Tags"]}
    digest = ids.silo_digest(ACME)
    assert tags == {
        "tenant": "acme",
        "workload": "energy",
        "silo": digest,
        "endpoint": f"tenantry-energy-silo-{digest}",
        "tenantry:tenant": "acme",
    }
    others = {
        ensure_silo_role(deployment, workload, tenant).arn
        for workload, tenant in ((ENERGY, GLOBEX), (PORTRAITS, ACME))
    }
    assert len(others | {arn}) == 3
    assert {role.name for role in silo_roles.silo_roles(deployment, ENERGY)} == {
        one.rpartition("/")[2] for one in (arn, silo_role_arn(deployment, ENERGY, GLOBEX))
    }


def test_a_role_whose_making_was_interrupted_is_finished(deployment: Deployment) -> None:
    role = ensure_silo_role(deployment, ENERGY, ACME)
    deployment.iam.detach_role_policy(RoleName=role.name, PolicyArn=deployment.silo_policy)
    assert ensure_silo_role(deployment, ENERGY, ACME) == role
    assert attached(deployment, role) == [deployment.silo_policy]


def test_a_policy_is_attached_once_iam_knows_the_new_role(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silo_roles, "_PAUSE_SECONDS", 0.01)
    break_calls(deployment.iam, "AttachRolePolicy", 2, "NoSuchEntity", 404)
    assert attached(deployment, ensure_silo_role(deployment, ENERGY, ACME))


def test_a_role_is_deleted_once_and_made_anew(deployment: Deployment) -> None:
    role = ensure_silo_role(deployment, ENERGY, ACME)
    for _ in range(2):
        delete_silo_role(deployment, role.name)
    assert not list(silo_roles.silo_roles(deployment, ENERGY))
    assert ensure_silo_role(deployment, ENERGY, ACME).arn == role.arn


def test_a_refusal_of_iam_is_told(deployment: Deployment) -> None:
    break_calls(deployment.iam, "GetRole", 1, "AccessDenied", 403)
    with pytest.raises(ClientError, match="broken"):
        ensure_silo_role(deployment, ENERGY, ACME)
    assert not list(silo_roles.silo_roles(deployment, ENERGY))


NO_OBJECTS = (
    'No S3 objects found under S3 URL "s3://x/y" given in input data source. Please ensure that '
    'the role "arn:aws:iam::123456789012:role/x" has "s3:ListBucket" permissions on bucket "x".'
)


@pytest.mark.parametrize("words", [UNKNOWN, UNREADABLE, NO_OBJECTS])
def test_sagemaker_is_asked_again_while_it_may_not_know_the_role(
    words: str, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silo_roles, "_PAUSE_SECONDS", 0.01)
    role = ensure_silo_role(deployment, ENERGY, ACME)

    def model(name: str) -> Any:
        container: Any = {"Image": deployment.image("forecast", "0.1.0")}
        return deployment.sagemaker.create_model(
            ModelName=name, ExecutionRoleArn=role.arn, PrimaryContainer=container
        )

    break_calls(deployment.sagemaker, "CreateModel", 3, "ValidationException", 400, words)
    assert usable(role, lambda: model("tenantry-energy-new"))["ModelArn"]
    # SageMaker knows an old role, or one that CloudFormation made: its refusal is final.
    for settled in (replace(role, made=datetime.now(UTC) - SETTLES), None):
        break_calls(deployment.sagemaker, "CreateModel", 1, "ValidationException", 400, words)
        with pytest.raises(ClientError, match="role"):
            usable(settled, lambda: model("tenantry-energy-old"))
    break_calls(deployment.sagemaker, "CreateModel", 1, "ValidationException", 400)
    with pytest.raises(ClientError, match="broken"):
        usable(role, lambda: model("tenantry-energy-other"))
