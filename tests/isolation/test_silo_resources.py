"""All that is made for a silo tenant bears the tenant's tag and runs under its role. IAM lets that
role read and write what the requests name, and lets another tenant's role do none of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from typing import Any

from tenantry.aws import objects
from tenantry.aws.silo_roles import silo_role_arn
from tenantry.batch.periods import Period
from tenantry.batch.predictions import batches_of
from tenantry.batch.transform import TransformJobFailedError, predict_batch
from tenantry.hosting.endpoints import ensure_endpoint
from tenantry.hosting.shapes.catalogue import SHAPES
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, s3_keys
from tenantry.names.tiers import Own
from tenantry.training.jobs import (
    TrainingTask,
    create_training_job_request,
    rungs,
    write_job_inputs,
)
from tests.isolation import rules
from tests.isolation.calls import Call, recorded
from tests.isolation.judge import Judge, Request
from tests.isolation.template import Template
from tests.isolation.test_silo import principal_tags
from tests.tenantry.onboarding.registration import NAME
from tests.tenantry.serving.conftest import world  # noqa: F401 - a fixture
from tests.tenantry.serving.tiny_family import World

TAG = {"Key": "tenantry:tenant"}
LISTS = {
    "list_models": ("Models", "ModelArn"),
    "list_endpoint_configs": ("EndpointConfigs", "EndpointConfigArn"),
    "list_endpoints": ("Endpoints", "EndpointArn"),
    "list_training_jobs": ("TrainingJobSummaries", "TrainingJobArn"),
    "list_transform_jobs": ("TransformJobSummaries", "TransformJobArn"),
}


def tags_of(there: World, arn: str) -> list[Any]:
    return list(there.deployment.sagemaker.list_tags(ResourceArn=arn)["Tags"])


def everything(there: World) -> dict[str, set[str]]:
    """The ARNs of all models, configurations, endpoints and jobs, by the operation that lists
    them."""
    found = {}
    for operation, (listed, arn) in LISTS.items():
        pages = there.deployment.sagemaker.get_paginator(operation).paginate()  # type: ignore[call-overload]
        found[operation] = {one[arn] for page in pages for one in page[listed]}
    return found


WRITTEN = {"S3OutputPath", "S3FailurePath"}


def named(part: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every place in S3 that a part of a request names, and the member that names it."""
    if isinstance(part, dict):
        for member, value in part.items():
            inside = f"{name}.{member}" if name in {"CheckpointConfig"} else member
            yield from named(value, inside)
    elif isinstance(part, list):
        for one in part:
            yield from named(one, name)
    elif isinstance(part, str) and part.startswith("s3://"):
        yield name, part.split("/", 3)[3]


def needed(calls: list[Call]) -> set[tuple[str, str]]:
    """The actions that SageMaker and the containers take for some requests, each with its key;
    that of ``s3:ListBucket`` is a prefix."""
    found = set()
    for call in calls:
        for member, key in named(call.parameters):
            whole = key.endswith((".tar.gz", ".json", ".manifest"))
            below = key if whole else f"{key.removesuffix('/')}/x"
            if member in WRITTEN or member.startswith("CheckpointConfig"):
                found |= {("s3:PutObject", below), ("s3:AbortMultipartUpload", below)}
            if member not in WRITTEN:
                found |= {("s3:GetObject", below), ("s3:ListBucket", below)}
    return found


def train(there: World, tenant: ids.TenantId) -> str:
    """Start a silo tenant's training job; returns the key of its data, which a manifest names."""
    deployment, workload = there.deployment, there.tiny
    pack = ids.pack_id_of(["one"], tenant)
    version = ids.version_name("20260103t000000-aaaaaaaa")
    file = ids.file_name("readings.npz")
    task = TrainingTask(ids.request_id("0" * 32), tenant, version, version, (file,), 1.0)
    key = s3_keys.training_data_file(NAME, tenant, version, file)
    objects.write_bytes(deployment.s3, deployment.data_bucket, key, b"x")
    write_job_inputs(deployment, workload, "silo", pack, [task], 1)
    rung = rungs(workload)[-1]
    request = create_training_job_request(deployment, workload, "silo", pack, 1, tenant, rung)
    deployment.sagemaker.create_training_job(**request)
    return key


def test_all_that_a_silo_tenant_has_runs_under_its_role_and_bears_its_tag(
    world: World,  # noqa: F811 - the fixture
    judge: Judge,
    template: Template,
) -> None:
    deployment, workload = world.deployment, world.tiny
    before = everything(world)
    tenant = world.tenant(tier="silo")
    champion = ModelRegistry(deployment).champion(tenant, NAME)
    assert champion is not None
    with recorded() as calls:
        for shape in SHAPES.values():
            if "silo" in shape.tiers:
                serves = shape.route("any", tenant, champion.version)
                ensure_endpoint(deployment, workload, Own(tenant), shape, serves=[serves])
        trained = train(world, tenant)
        (batch,) = batches_of([champion], 10, "salt")
        with suppress(TransformJobFailedError):  # its container predicts no days
            period = Period(workload.batches[0], date(2026, 1, 2))
            predict_batch(deployment, workload, period, batch.name, [champion], poll=0.1)
    own = {**TAG, "Value": tenant}
    for operation, found in everything(world).items():
        made = found - before[operation]
        assert made, operation
        for arn in made:
            assert own in tags_of(world, arn), arn
    created = [call for call in calls if call.operation.startswith("Create")]
    assert {call.operation for call in created} == {
        "CreateRole",
        "CreateModel",
        "CreateEndpointConfig",
        "CreateEndpoint",
        "CreateTrainingJob",
        "CreateTransformJob",
    }
    # A transform job's model is gone by now.
    assert all(own in call.parameters["Tags"] for call in created)
    roles = {
        call.parameters[name]
        for call in created
        for name in ("ExecutionRoleArn", "RoleArn")
        if name in call.parameters
    }
    assert roles == {silo_role_arn(deployment, NAME, tenant)}
    bucket, wants = template.arn("DataBucket"), sorted(needed(created))
    assert {key.partition("/")[0] for _, key in wants} == {
        "jobs",
        "checkpoints",
        "endpoints",
        "async",
        "batches",
    }
    wants.append(("s3:GetObject", trained))
    for whose, may in ((tenant, True), (world.tenant(tier="silo"), False)):
        asked = [
            Request(
                action,
                bucket if action == "s3:ListBucket" else f"{bucket}/{key}",
                {
                    **principal_tags(NAME, whose),
                    **({"s3:prefix": key} if action == "s3:ListBucket" else {}),
                },
                rules.PRINCIPAL,
                ("SiloPolicy",),
                boundary="SiloPolicy",
            )
            for action, key in wants
        ]
        decided = judge.decide(template.identity_policies(), asked)
        assert not [want for want, said in zip(wants, decided, strict=True) if said is not may]
    shared = deployment.sagemaker.describe_endpoint(EndpointName=world.endpoint)["EndpointArn"]
    assert not [tag for tag in tags_of(world, shared) if tag["Key"] == TAG["Key"]]


def test_an_endpoint_from_before_it_was_tagged_is_tagged_with_its_update(
    world: World,  # noqa: F811 - the fixture
) -> None:
    tenant = world.tenant(tier="silo")
    before = ensure_endpoint(world.deployment, world.tiny, Own(tenant), MULTI_MODEL)
    world.deployment.sagemaker.delete_tags(ResourceArn=before.arn, TagKeys=[TAG["Key"]])
    serving = world.tiny.serving.model_copy(update={"environment": {"TINY": "2"}})
    changed = world.tiny.model_copy(update={"serving": serving})
    after = ensure_endpoint(world.deployment, changed, Own(tenant), MULTI_MODEL)
    assert after.change == "updated"
    assert {**TAG, "Value": tenant} in tags_of(world, after.arn)
