"""The role of a silo tenant, with the tags that the code gives it: it reaches what its own jobs and
endpoints need, nothing of any other tenant, and nothing more by any policy."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenantry.aws.silo_roles import role_tags, silo_role_arn, trust_policy
from tenantry.names import ids, s3_keys, sagemaker_names, table_keys
from tenantry.names.tiers import Machines, Own, Shared
from tests.isolation import rules
from tests.isolation.judge import Judge, Request
from tests.isolation.template import ACCOUNT, REGION, Template
from tests.isolation.test_tenants import DYNAMODB_ACTIONS, S3_ACTIONS, TENANTS, an_id, built_keys
from tests.tenantry.hosting.test_shapes import SOMEWHERE

_JOB: Final = {"s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"}
_READ: Final = {"s3:GetObject"}
_WRITE: Final = _JOB - _READ
# What the tenant's own role may do to the keys that each function of ``s3_keys`` builds.
MAY: Final[dict[str, set[str]]] = {
    "training_data_file": _READ,
    **dict.fromkeys(("job_file", "job_output_prefix", "messages_prefix"), _JOB),
    **dict.fromkeys(("job_data_prefix", "job_data_archive"), _JOB),
    **dict.fromkeys(("checkpoint_prefix", "checkpoint_archive"), _JOB),
    **dict.fromkeys(("outcome_beside", "files_beside"), _JOB),
    **dict.fromkeys(("endpoint_models_prefix", "endpoint_model", "base_prefix"), _READ),
    **dict.fromkeys(("batch_prefix", "batch_input", "batch_model", "batch_output"), _JOB),
    "async_input": _JOB,
    **dict.fromkeys(
        ("async_tenant_prefix", "async_submitted", "async_output", "async_failure"), _WRITE
    ),
}
OF_EVERYBODY: Final = {"base_prefix"}
EVERYTHING: Final[dict[str, Any]] = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
}
# A role with its policy alone, and one to which somebody attached an administrator's.
HELD: Final = (("SiloPolicy",), ("Everything",))
DEPLOYED: Final = dataclasses.replace(
    SOMEWHERE, prefix="tenantry", silo_roles=f"arn:aws:iam::{ACCOUNT}:role/tenantry/silo/{REGION}"
)


def principal_tags(workload: ids.WorkloadName, tenant: ids.TenantId) -> dict[str, str]:
    """What IAM knows of a session of the tenant's role."""
    tags = role_tags(DEPLOYED.prefix, workload, tenant)
    return {f"aws:PrincipalTag/{tag['Key']}": tag["Value"] for tag in tags}


def own_names(workload: ids.WorkloadName, tenant: ids.TenantId, *, alone: bool) -> dict[str, Any]:
    """The pack, the batch and the endpoint of a tenant: its own, or shared ones."""
    lead, machines = (tenant, Own(tenant)) if alone else (None, Shared("bridge"))
    home: Machines = machines
    return {
        "workload": workload,
        "pack": ids.pack_id_of([f"{tenant}/1"], lead),
        "batch": ids.batch_name_of([f"{tenant} v1"], lead),
        "endpoint": sagemaker_names.endpoint_name(DEPLOYED.prefix, workload, home),
    }


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), tenants=st.lists(TENANTS, min_size=2, max_size=2, unique=True))
def test_a_silo_tenants_role_reaches_its_own_and_never_anothers(
    data: st.DataObject, tenants: list[str], judge: Judge, template: Template
) -> None:
    own, other = map(ids.tenant_id, tenants)
    workload = data.draw(an_id("workload_name", "energy", own, other))
    elsewhere = ids.workload_name("energy2" if workload == "energy" else "energy")
    tags, held = principal_tags(workload, own), data.draw(st.sampled_from(HELD))
    asked: list[tuple[Request, bool]] = []

    def ask(action: str, resource: str, may: bool, **context: str | list[str]) -> None:
        given = {name.replace("__", ":"): value for name, value in context.items()}
        request = Request(
            action, resource, {**given, **tags}, rules.PRINCIPAL, held, boundary="SiloPolicy"
        )
        asked.append((request, may))

    # The tenant itself; what it has in another workload, or had in a shared tier; another tenant.
    for tenant, of, alone in (
        (own, workload, True),
        (own, elsewhere, True),
        (other, workload, True),
        (other, workload, False),
    ):
        fixed = own_names(of, tenant, alone=alone)
        foreign = other if tenant == own else own
        for builder, key in data.draw(built_keys(tenant, foreign, **fixed)).items():
            bucket = template.arn("UploadsBucket" if key.startswith("uploads/") else "DataBucket")
            owned = (tenant, of) == (own, workload) or builder in OF_EVERYBODY
            mine = MAY.get(builder, set()) if owned else set()
            for action in S3_ACTIONS:
                ask(action, f"{bucket}/{key}", action in mine)
            ask("s3:ListBucket", bucket, bool(mine), s3__prefix=f"{key.rpartition('/')[0]}/")
        for table in template.named("AWS::DynamoDB::Table"):
            for action in DYNAMODB_ACTIONS:
                keys = [table_keys.table_partition(tenant, of)]
                ask(action, template.arn(table), False, dynamodb__LeadingKeys=keys)
        endpoint = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/{fixed['endpoint']}"
        for action in ("sagemaker:InvokeEndpoint", "sagemaker:DeleteEndpoint"):
            ask(action, endpoint, False)
        role = silo_role_arn(DEPLOYED, of, tenant)
        for action in ("iam:TagRole", "iam:DeleteRolePermissionsBoundary", "sts:AssumeRole"):
            ask(action, role, False)
    policies = {**template.identity_policies(), "Everything": EVERYTHING}
    decided = judge.decide(policies, [request for request, _ in asked])
    wrong = [
        (request.action, request.resource, request.context, request.identity, said)
        for (request, may), said in zip(asked, decided, strict=True)
        if said is not may
    ]
    assert not wrong


def test_a_role_without_tags_reaches_no_tenant(judge: Judge, template: Template) -> None:
    fixed = own_names(ids.workload_name("energy"), ids.tenant_id("acme"), alone=True)
    bucket = template.arn("DataBucket")
    keys = [
        s3_keys.training_data_file(
            fixed["workload"], ids.tenant_id("acme"), ids.version_name("v1"), ids.file_name("x")
        ),
        s3_keys.job_file(fixed["workload"], fixed["pack"], ids.file_name("x")),
    ]
    asked = [
        Request("s3:GetObject", f"{bucket}/{key}", {}, rules.PRINCIPAL, ("SiloPolicy",))
        for key in keys
    ]
    assert judge.decide(template.identity_policies(), asked) == [False, False]


@pytest.mark.parametrize(
    ("service", "account", "may"),
    [("sagemaker", ACCOUNT, True), ("sagemaker", rules.STRANGER, False), ("ec2", ACCOUNT, False)],
)
def test_sagemaker_alone_takes_the_role_on(
    service: str, account: str, may: bool, judge: Judge
) -> None:
    role = silo_role_arn(DEPLOYED, ids.workload_name("energy"), ids.tenant_id("acme"))
    trust = {"trust": trust_policy(DEPLOYED)}
    context: dict[str, str | list[str]] = {"aws:SourceAccount": account}
    principal = f"{service}.amazonaws.com"
    asked = [
        Request(action, role, context, principal, (), "trust")
        for action in ("sts:AssumeRole", "sts:TagSession")
    ]
    assert judge.decide(trust, asked) == [may, False]


@pytest.mark.parametrize("policies", [("OrchestratorPolicy", "SiloRolesPolicy")])
@pytest.mark.parametrize("boundary", ["SiloPolicy", "ContainerPolicy", None])
def test_dagsters_role_makes_no_role_without_the_boundary(
    policies: tuple[str, ...], boundary: str | None, judge: Judge, template: Template
) -> None:
    role = silo_role_arn(DEPLOYED, ids.workload_name("energy"), ids.tenant_id("acme"))
    context: dict[str, str | list[str]] = (
        {} if boundary is None else {"iam:PermissionsBoundary": template.arn(boundary)}
    )
    never = (
        "iam:DeleteRolePermissionsBoundary",
        "iam:PutRolePermissionsBoundary",
        "iam:PutRolePolicy",
        "iam:UpdateAssumeRolePolicy",
    )
    asked = [
        Request(action, role, context, rules.PRINCIPAL, policies)
        for action in ("iam:CreateRole", *never)
    ]
    made, *others = judge.decide(template.identity_policies(), asked)
    assert made is (boundary == "SiloPolicy")
    assert not any(others)


def test_policies_are_as_short_as_iam_takes_them(template: Template) -> None:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html: at most 6,144
    characters without white space. Other accounts' names are longer than those of the test."""
    managed = template.named("AWS::IAM::ManagedPolicy")
    lengths = {
        name: len("".join(str(document).split()))
        for name, document in template.identity_policies().items()
        if name in managed
    }
    assert {name for name, length in lengths.items() if length > 6144} == set()
